"""pushd's views for the benchmark: echo and publish. The demo and topics are built in."""

from __future__ import annotations

from pushd.views import Request, accept_websocket


@accept_websocket
async def echo(request: Request) -> None:
    """Send each message back."""
    async for message in request.websocket:
        request.websocket.send(message)


@accept_websocket
async def publish(request: Request) -> None:
    """Publish each message to every subscriber."""
    async for message in request.websocket:
        request.publish("bench", message)


views = {"/echo/": echo, "/publish/": publish}
