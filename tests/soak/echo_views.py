"""A view in a thread, so that threads come and go during a soak test."""

from __future__ import annotations

from pushd.views.decorators import require_websocket
from pushd.views.request import Request


@require_websocket
def echo(request: Request) -> None:
    """Give every message back."""
    for message in request.websocket:
        request.websocket.send(message)


views = {"/echo/": echo}
