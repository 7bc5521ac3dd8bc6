"""Echo: what a browser says comes back. The smallest view that talks.

Run it in this folder:

    twistd -n pushd --views echo:views --web web

and open http://127.0.0.1:8080/echo/
"""

from __future__ import annotations

from pushd.views import Page, Request, accept_websocket, page


@accept_websocket
async def echo(request: Request) -> Page | None:
    """Give the page, or every message back as it came."""
    if not request.is_websocket():
        return page("echo.html")
    async for message in request.websocket:
        # Awaited, so that who sends fast and reads slowly waits for himself.
        await request.websocket.send(message, binary=isinstance(message, bytes))
    return None


views = {"/echo/": echo}
