"""Views of each kind that save messages, tell others and clean up, and some that do not end.

Their paths are ``/KIND/SHAPE/ROOM/``; ``/report/KIND/ROOM/`` tells what happened in a room.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from time import monotonic
from typing import Any

import django
from django.conf import settings
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from pushd.schedule import PushSchedule
from pushd.views import Request, require_websocket

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING_CONFIG=None,
    ROOT_URLCONF="tests.live.ending_views",
    SECRET_KEY="for tests",
)
django.setup()

# Django must be set up before these imports.
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from pushd.django import require_websocket as require_django_websocket  # noqa: E402

# How long it takes to save a message, in seconds.
_SAVING = 0.01

# More than the kernel's buffers take.
LONG = "x" * 900_000

NOT_UTF8 = "café".encode()[:-1]


@dataclass
class Room:
    """What the views of one kind have in common in one test."""

    saved: list[str] = field(default_factory=list)
    sockets: list[Any] = field(default_factory=list)
    #: The number of views that run.
    running: int = 0


_rooms: dict[tuple[str, str], Room] = defaultdict(Room)


def _text(message: Any) -> str:
    return message.decode() if isinstance(message, bytes) else str(message)


# Views on the reactor


async def _converse(request: Request, room: Room) -> None:
    """Save each message, tell all; at the end tell all, this client included, and leave."""
    websocket = request.websocket
    room.sockets.append(websocket)
    websocket.send("joined")
    async for message in websocket:
        await deferLater(request.clock, _SAVING)
        room.saved.append(message)
        for other in room.sockets:
            await other.send(message)
    for other in room.sockets:
        await other.send("left")
    room.sockets.remove(websocket)


async def _answer(request: Request, room: Room) -> None:
    """Save and answer each message; save the code of the close."""
    websocket = request.websocket
    websocket.send("joined")
    async for message in websocket:
        await deferLater(request.clock, _SAVING)
        room.saved.append(message)
        await websocket.send("ok")
    room.saved.append(str(websocket.close_code))


async def _stay(request: Request, room: Room) -> None:
    """Send each message to all that were ever here."""
    room.sockets.append(request.websocket)
    request.websocket.send("joined")
    async for message in request.websocket:
        for other in room.sockets:
            await other.send(message)


async def _clean_up(request: Request, room: Room) -> None:
    """Wait until that raises, and clean up."""
    request.websocket.send("joined")
    try:
        while True:
            await request.websocket.wait()
    except (Exception, asyncio.CancelledError):  # With --loop asyncio it is no Exception.
        room.saved.append("except")
        raise
    finally:
        room.saved.append("finally")


async def _learn(request: Request, room: Room) -> None:
    """Save how the conversation ended."""
    request.websocket.send("joined")
    await request.websocket.wait()
    room.saved.append(f"{request.websocket.close_code} {request.websocket.close_reason}")


async def _send_data(request: Request, room: Room) -> None:
    """Send bytes of each type, and what is not UTF-8."""
    websocket = request.websocket
    await websocket.send(bytearray(b"abc"))
    await websocket.send(memoryview(b"abc")[1:])
    await websocket.send(bytearray(b"\xff"), binary=True)
    for call in (
        lambda: websocket.send(NOT_UTF8),
        lambda: websocket.send("\udc80"),
        lambda: websocket.close(4001, "\udc80"),
    ):
        try:
            call()
        except ValueError:
            room.saved.append("ValueError")
    await websocket.send("still here")
    await websocket.close(4001, "why")


async def _tick(request: Request, room: Room) -> None:
    """Send at a fixed rate, in bytes of other types."""
    data = (bytearray(b"tick"), memoryview(b"tick"))
    async for number in PushSchedule(request.clock, count=None, interval=0.01):
        await request.websocket.send(data[number % 2])


async def _tick_in_helper(request: Request, room: Room) -> None:
    """Send at a fixed rate, in a helper."""
    await Deferred.fromCoroutine(_tick(request, room))


async def _close_slowly(request: Request, room: Room) -> None:
    """Send much, close, and clean up."""
    request.websocket.send(LONG)
    await request.websocket.close(4001, "bye")
    room.saved.append("closed")


async def _outlive(request: Request, room: Room) -> None:
    """Wait for something else than the WebSocket."""
    request.websocket.send("joined")
    await deferLater(request.clock, 1000)


async def _ignore(request: Request, room: Room) -> None:
    """Ignore every error, in a loop that never waits for anything else."""
    request.websocket.send("joined")
    while True:
        try:
            json.loads(await request.websocket.wait())
        except BaseException:
            continue


async def _ignore_exceptions(request: Request, room: Room) -> None:
    """Ignore every Exception, and send."""
    request.websocket.send("joined")
    while True:
        try:
            await request.websocket.send("tick")
            await deferLater(request.clock, 0.1)
        except Exception:
            continue


_ASYNC: dict[str, Callable[[Request, Room], Any]] = {
    "answer": _answer,
    "converse": _converse,
    "stay": _stay,
    "clean-up": _clean_up,
    "learn": _learn,
    "data": _send_data,
    "tick": _tick,
    "tick-in-helper": _tick_in_helper,
    "outlive": _outlive,
    "close-slowly": _close_slowly,
    "ignore": _ignore,
    "ignore-exceptions": _ignore_exceptions,
}


def _room_of(request: Request, kind: str) -> Room:
    return _rooms[kind, request.parameters["room"]]


@require_websocket
async def modern(request: Request) -> None:
    """Run on the reactor, with async def."""
    room = _room_of(request, "modern")
    room.running += 1
    try:
        await _ASYNC[request.parameters["shape"]](request, room)
    finally:
        room.running -= 1


@require_websocket
@inlineCallbacks
def classic(request: Request) -> Any:
    """Run on the reactor, with a Deferred."""
    room = _room_of(request, "classic")
    room.running += 1
    try:
        yield Deferred.fromCoroutine(_ASYNC[request.parameters["shape"]](request, room))
    finally:
        room.running -= 1


# Views in threads


def _converse_blocking(websocket: Any, room: Room) -> None:
    """Do as ``_converse`` does."""
    room.sockets.append(websocket)
    websocket.send("joined")
    for message in websocket:
        if message is None:  # pushd.django
            break
        Event().wait(_SAVING)
        room.saved.append(_text(message))
        for other in list(room.sockets):
            other.send(message)
    for other in list(room.sockets):
        other.send("left")
    room.sockets.remove(websocket)


def _answer_blocking(websocket: Any, room: Room) -> None:
    """Do as ``_answer`` does."""
    websocket.send("joined")
    for message in websocket:
        if message is None:  # pushd.django
            break
        Event().wait(_SAVING)
        room.saved.append(_text(message))
        websocket.send("ok")
    room.saved.append(str(websocket.close_code))


def _stay_blocking(websocket: Any, room: Room) -> None:
    """Do as ``_stay`` does."""
    room.sockets.append(websocket)
    websocket.send("joined")
    for message in websocket:
        for other in list(room.sockets):
            other.send(message)


def _clean_up_blocking(websocket: Any, room: Room) -> None:
    """Do as ``_clean_up`` does."""
    websocket.send("joined")
    try:
        while True:
            websocket.wait()
    except Exception:
        room.saved.append("except")
    finally:
        room.saved.append("finally")


def _learn_blocking(websocket: Any, room: Room) -> None:
    """Do as ``_learn`` does."""
    websocket.send("joined")
    websocket.wait()
    room.saved.append(f"{websocket.close_code} {websocket.close_reason}")


def _send_data_blocking(websocket: Any, room: Room, reason: Any = "why") -> None:
    """Do as ``_send_data`` does."""
    websocket.send(bytearray(b"abc"))
    websocket.send(memoryview(b"abc")[1:])
    websocket.send(bytearray(b"\xff"), binary=True)
    bad = b"\xff" if isinstance(reason, bytes) else "\udc80"
    for call in (
        lambda: websocket.send(NOT_UTF8),
        lambda: websocket.send("\udc80"),
        lambda: websocket.close(4001, bad),
    ):
        try:
            call()
        except ValueError:
            room.saved.append("ValueError")
    websocket.send("still here")
    websocket.close(4001, reason)


def _close_slowly_blocking(websocket: Any, room: Room) -> None:
    """Do as ``_close_slowly`` does."""
    websocket.send(LONG)
    websocket.close(4001)
    room.saved.append("closed")


def _listen_in_helper(websocket: Any, room: Room) -> None:
    """Read in a thread that ends when ``wait`` raises."""

    def listen() -> None:
        while 1:
            try:
                websocket.wait()
            except Exception:
                break

    websocket.send("joined")
    helper = Thread(target=listen, daemon=True)
    helper.start()
    helper.join()
    room.saved.append("helper ended")


def _sleep(websocket: Any, room: Room) -> None:
    """Never end."""
    websocket.send("joined")
    Event().wait()


def _ignore_blocking(websocket: Any, room: Room) -> None:
    """Send in a loop that ignores every error; save whether ten took half a second."""
    websocket.send("joined")
    refused = 0
    began = monotonic()
    while refused < 10:
        try:
            websocket.send("tick")
            Event().wait(0.05)
            began = monotonic()
        except BaseException:
            refused += 1
    room.saved.append("slow" if monotonic() - began >= 0.45 else "spins")


_BLOCKING: dict[str, Callable[[Any, Room], Any]] = {
    "answer": _answer_blocking,
    "converse": _converse_blocking,
    "stay": _stay_blocking,
    "clean-up": _clean_up_blocking,
    "learn": _learn_blocking,
    "data": _send_data_blocking,
    "close-slowly": _close_slowly_blocking,
    "helper": _listen_in_helper,
    "ignore": _ignore_blocking,
    "sleep": _sleep,
}


def _run(kind: str, shape: str, name: str, websocket: Any) -> None:
    room = _rooms[kind, name]
    room.running += 1
    try:
        if (kind, shape) == ("django", "data"):
            _send_data_blocking(websocket, room, b"why")
        else:
            _BLOCKING[shape](websocket, room)
    finally:
        room.running -= 1


@require_websocket
def blocking(request: Request) -> None:
    """Run in a thread."""
    _run("blocking", **request.parameters, websocket=request.websocket)


@require_django_websocket
def in_django(request: Any, shape: str, name: str) -> None:
    """Run in Django."""
    _run("django", shape, name, request.websocket)


urlpatterns = [path("django/<slug:shape>/<slug:name>/", in_django)]

_django = get_wsgi_application()


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Serve Django's views, and be a WSGI application of its own as well."""
    _, kind, *rest = environ["PATH_INFO"].split("/")
    if kind == "django":
        return _django(environ, start_response)
    websocket = environ.get("pushd.websocket")
    if websocket is not None:
        _run(kind, rest[0], rest[1], websocket)
    start_response("404 Not Found" if websocket is None else "200 OK", [])
    return []


async def report(request: Request) -> str:
    """Tell what was saved in a room, how many sockets are in it, and how many views run."""
    room = _rooms[request.parameters["kind"], request.parameters["room"]]
    return json.dumps([room.saved, len(room.sockets), room.running])


views = {
    "/modern/<shape>/<room>/": modern,
    "/classic/<shape>/<room>/": classic,
    "/blocking/<shape>/<name>/": blocking,
    "/report/<kind>/<room>/": report,
}
