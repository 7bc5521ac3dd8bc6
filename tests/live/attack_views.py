"""The views that are attacked, and those that attack their readers."""

from __future__ import annotations

import json
from time import process_time

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from pushd.views.request import Request, accept_websocket, require_websocket

_CHUNK = b"\0" * (1 << 16)

# How often /behind/ was asked for.
_behind = 0

# The views at /asleep/.
_asleep: list[Deferred[None]] = []


@require_websocket
async def echo(request: Request) -> None:
    """Give every message back as it came, and wait for nobody."""
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))


@require_websocket
async def clock(request: Request) -> None:
    """Answer every message with the seconds that the daemon has computed by then."""
    async for _ in request.websocket:
        request.websocket.send(repr(process_time()))


@require_websocket
async def flood(request: Request) -> None:
    """Push 200 MB at once, whether anybody reads or not."""
    for _ in range(3200):
        request.websocket.send(_CHUNK, binary=True)


@require_websocket
async def stream(request: Request) -> None:
    """Push 200 MB within two seconds, whether anybody reads or not."""
    for _ in range(200):
        for _ in range(16):
            request.websocket.send(_CHUNK, binary=True)
        await deferLater(request.clock, 0.01)


@require_websocket
async def patient(request: Request) -> None:
    """Push 200 MB at the reader's pace."""
    for _ in range(3200):
        await request.websocket.send(_CHUNK, binary=True)


@require_websocket
async def goodbye(request: Request) -> None:
    """Close at once."""
    request.websocket.accept()


@require_websocket
async def asleep(request: Request) -> None:
    """Read nothing until somebody asks for /wake/."""
    request.websocket.accept()
    _asleep.append(Deferred())
    await _asleep[-1]


async def wake(request: Request) -> str:
    """Let the views that are asleep end."""
    while _asleep:
        _asleep.pop().callback(None)
    return "awake"


@accept_websocket
async def headers(request: Request) -> str | None:
    """Tell which headers there are, over HTTP or in a message."""
    told = json.dumps(dict(request.headers))
    if not request.is_websocket():
        return told
    request.websocket.send(told)
    return None


async def upload(request: Request) -> str:
    """Tell how long the body is."""
    return str(len(request.body))


async def behind(request: Request) -> str:
    """Count that somebody got through to here."""
    global _behind
    _behind += 1
    return "behind"


async def hits(request: Request) -> str:
    """Tell how often somebody got through to there."""
    return str(_behind)


async def large(request: Request) -> bytes:
    """Answer with a mebibyte."""
    return b"\0" * (1 << 20)


async def busy(request: Request) -> str:
    """Compute for two seconds, and let nobody have the reactor meanwhile."""
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
