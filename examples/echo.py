"""Echo: sends every message back. The smallest view that receives and sends.

Run it in this folder:

    twistd -n pushd --views echo:views --web web

and open http://127.0.0.1:8080/echo/
"""

from __future__ import annotations

from pushd.views import Page, Request, accept_websocket, page


@accept_websocket
async def echo(request: Request) -> Page | None:
    """Return the page, or send every message back unchanged."""
    if not request.is_websocket():
        return page("echo.html")
    async for message in request.websocket:
        # Awaiting makes a client that sends fast and reads slowly wait for itself.
        await request.websocket.send(message, binary=isinstance(message, bytes))
    return None


views = {"/echo/": echo}
