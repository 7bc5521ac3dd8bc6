"""A view that leaks, so that the soak test can be seen to find it."""

from __future__ import annotations

import os
from threading import Event, Thread

from pushd.views.decorators import require_websocket
from pushd.views.request import Request

# What is kept of each message, in bytes; and how many of everything else.
_SIZE, _TIMES = 2 << 20, 3

_kept: list[bytearray] = []


@require_websocket
async def echo(request: Request) -> None:
    """Give every message back, and leave memory, descriptors, threads and timers behind."""
    async for message in request.websocket:
        _kept.append(bytearray(b"x") * _SIZE)
        for _ in range(_TIMES):
            os.dup(2)
            Thread(target=Event().wait, daemon=True).start()
            request.clock.callLater(86400, int)
        request.websocket.send(message)


views = {"/echo/": echo}
