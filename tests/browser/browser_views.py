"""Views for the browser tests."""

from pushd.views import Request, accept_websocket


@accept_websocket
async def echo(request: Request) -> str | None:
    """Send each message back; accept the subprotocol ``demo`` if it is offered."""
    if not request.is_websocket():
        return "<!doctype html><title>echo</title>"
    request.websocket.accept(subprotocol="demo" if "demo" in request.subprotocols else None)
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


@accept_websocket
async def endless(request: Request) -> str | None:
    """Send two messages as the demo does, then wait until the browser closes."""
    if not request.is_websocket():
        return "<!doctype html><title>endless</title>"
    for number in range(2):
        request.websocket.send(f"service message: {number}")
    async for _ in request.websocket:
        pass
    return None


views = {"/echo/": echo, "/test/": endless}
