"""What the suite wants to talk with: every message comes back as it was."""

from pushd.views.decorators import require_websocket
from pushd.views.request import Request


@require_websocket
async def echo(request: Request) -> None:
    """Give every message back, at the pace of the one who reads it."""
    async for message in request.websocket:
        await request.websocket.send(message, binary=isinstance(message, bytes))


views = {"/echo/": echo}
