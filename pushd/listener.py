"""The view behind ``/topics/<topic>`` for those who ask with a WebSocket."""

from __future__ import annotations

from pushd.feeds import V1
from pushd.views import Request, accept_websocket
from pushd.websocket import WebSocket


@accept_websocket
async def listen(request: Request) -> None:
    """Let the browser have a topic until it leaves; what it says itself is of no interest."""
    websocket: WebSocket = request.websocket
    websocket.accept(V1 if V1 in request.subprotocols else None)
    await websocket.subscribe(request.parameters["topic"], request.parameters["after"])
    async for _ in websocket:
        pass
