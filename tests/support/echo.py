"""A view that echoes."""

from __future__ import annotations

from pushd.views.decorators import accept_websocket
from pushd.views.request import Request


@accept_websocket
async def echo(request: Request) -> str | None:
    """Echo every message; answer HTTP with "hello"."""
    if not request.is_websocket():
        return "hello"
    async for message in request.websocket:
        request.websocket.send(message)
    return None
