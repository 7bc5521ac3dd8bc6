"""pushd's views for the benchmark: an echo, and a publisher. The demo and the topics it has."""

from __future__ import annotations

from pushd.views import Request, accept_websocket


@accept_websocket
async def echo(request: Request) -> None:
    """Say what one is told."""
    async for message in request.websocket:
        request.websocket.send(message)


@accept_websocket
async def publish(request: Request) -> None:
    """Give what one is told to every subscriber."""
    async for message in request.websocket:
        request.publish("bench", message)


views = {"/echo/": echo, "/publish/": publish}
