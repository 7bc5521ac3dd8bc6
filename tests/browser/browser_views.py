"""The views that the browser's tests talk with."""

from pushd.views.request import Request, accept_websocket


@accept_websocket
async def echo(request: Request) -> str | None:
    """Give every message back as it came, and choose the subprotocol ``demo`` where offered."""
    if not request.is_websocket():
        return "<!doctype html><title>echo</title>"
    request.websocket.accept(subprotocol="demo" if "demo" in request.subprotocols else None)
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


@accept_websocket
async def endless(request: Request) -> str | None:
    """Begin as the demo does, and then wait for the browser to leave."""
    if not request.is_websocket():
        return "<!doctype html><title>endless</title>"
    for number in range(2):
        request.websocket.send(f"service message: {number}")
    async for _ in request.websocket:
        pass
    return None


views = {"/echo/": echo, "/test/": endless}
