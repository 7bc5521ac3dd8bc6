"""The view that tests ask when they do not care what a view does."""

from __future__ import annotations

from pushd.views.request import Request, accept_websocket


@accept_websocket
async def echo(request: Request) -> str | None:
    """Answer everything with itself."""
    if not request.is_websocket():
        return "hello"
    async for message in request.websocket:
        request.websocket.send(message)
    return None
