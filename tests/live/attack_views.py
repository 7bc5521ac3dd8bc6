"""Views for ``test_attacks``: targets of attacks, and views that send too much."""

from __future__ import annotations

import json
from time import process_time

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.request import Request

_CHUNK = b"\0" * (1 << 16)

# The number of requests for /behind/.
_behind = 0

# What the views at /asleep/ wait for.
_asleep: list[Deferred[None]] = []


@require_websocket
async def echo(request: Request) -> None:
    """Echo every message without waiting for the client."""
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))


@require_websocket
async def clock(request: Request) -> None:
    """Answer every message with the CPU time of the daemon in seconds."""
    async for _ in request.websocket:
        request.websocket.send(repr(process_time()))


@require_websocket
async def flood(request: Request) -> None:
    """Send 200 MB at once without waiting for the client."""
    for _ in range(3200):
        request.websocket.send(_CHUNK, binary=True)


@require_websocket
async def stream(request: Request) -> None:
    """Send 200 MB within two seconds without waiting for the client."""
    for _ in range(200):
        for _ in range(16):
            request.websocket.send(_CHUNK, binary=True)
        await deferLater(request.clock, 0.01)


@require_websocket
async def patient(request: Request) -> None:
    """Send 200 MB as fast as the client reads."""
    for _ in range(3200):
        await request.websocket.send(_CHUNK, binary=True)


@require_websocket
async def goodbye(request: Request) -> None:
    """Close at once."""
    request.websocket.accept()


@require_websocket
async def asleep(request: Request) -> None:
    """Read no messages until /wake/ is requested."""
    request.websocket.accept()
    _asleep.append(Deferred())
    await _asleep[-1]


async def wake(request: Request) -> str:
    """Let the views at /asleep/ end."""
    while _asleep:
        _asleep.pop().callback(None)
    return "awake"


@accept_websocket
async def headers(request: Request) -> str | None:
    """Return the headers of the request, over HTTP or in a message."""
    headers = json.dumps(dict(request.headers))
    if not request.is_websocket():
        return headers
    request.websocket.send(headers)
    return None


async def upload(request: Request) -> str:
    """Return the length of the body."""
    return str(len(request.body))


async def behind(request: Request) -> str:
    """Count a request that got through."""
    global _behind
    _behind += 1
    return "behind"


async def hits(request: Request) -> str:
    """Return the number of requests for /behind/."""
    return str(_behind)


async def large(request: Request) -> bytes:
    """Return 1 MiB."""
    return b"\0" * (1 << 20)


async def busy(request: Request) -> str:
    """Block the reactor for two seconds."""
    end = process_time() + 2
    while process_time() < end:
        pass
    return "done"


views = {
    "/echo/": echo,
    "/clock/": clock,
    "/flood/": flood,
    "/stream/": stream,
    "/patient/": patient,
    "/goodbye/": goodbye,
    "/asleep/": asleep,
    "/wake/": wake,
    "/headers/": headers,
    "/upload/": upload,
    "/behind/": behind,
    "/hits/": hits,
    "/large/": large,
    "/busy/": busy,
}
