"""Views of each kind that save messages, tell others and clean up, and some that do not end."""

from __future__ import annotations

import json
from collections import defaultdict
from threading import Event
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater

from pushd.views.decorators import require_websocket
from pushd.views.request import Request

# What each view has saved, and its open WebSockets, by the kind of view.
_saved: dict[str, list[str]] = defaultdict(list)
_rooms: dict[str, list[Any]] = defaultdict(list)


@require_websocket
async def modern(request: Request) -> None:
    """Save after 10 ms, on the reactor."""
    room, saved = _rooms["modern"], _saved["modern"]
    room.append(request.websocket)
    async for message in request.websocket:
        await deferLater(request.clock, 0.01)
        saved.append(message)
        for websocket in room:
            websocket.send(message)
    for websocket in room:
        websocket.send("left")
    room.remove(request.websocket)


@require_websocket
@inlineCallbacks
def classic(request: Request) -> Any:
    """Save after 10 ms, with Deferreds."""
    room, saved = _rooms["classic"], _saved["classic"]
    room.append(request.websocket)
    while (message := (yield request.websocket.wait())) is not None:
        yield deferLater(request.clock, 0.01)
        saved.append(message)
        for websocket in room:
            yield websocket.send(message)
    for websocket in room:
        yield websocket.send("left")
    room.remove(request.websocket)


def _converse(kind: str, websocket: Any) -> None:
    room, saved = _rooms[kind], _saved[kind]
    room.append(websocket)
    for message in websocket:
        Event().wait(0.01)
        saved.append(message)
        for other in list(room):
            other.send(message)
    for other in list(room):
        other.send("left")
    room.remove(websocket)


@require_websocket
def blocking(request: Request) -> None:
    """Save after 10 ms, in a thread."""
    _converse("blocking", request.websocket)


@require_websocket
def asleep(request: Request) -> None:
    """Never end."""
    request.websocket.send("asleep")
    Event().wait()


def report(request: Request) -> bytes:
    """Tell what was saved, and how many are in each room."""
    kinds = ("modern", "classic", "blocking", "wsgi")
    return json.dumps({kind: (_saved[kind], len(_rooms[kind])) for kind in kinds}).encode()


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Save after 10 ms, in any WSGI application."""
    _converse("wsgi", environ["pushd.websocket"])
    start_response("200 OK", [])
    return []


views = {
    "/modern/": modern,
    "/classic/": classic,
    "/blocking/": blocking,
    "/asleep/": asleep,
    "/report/": report,
}
