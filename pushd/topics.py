"""``/topics/<topic>`` at the public door: one URL, three transports, one cursor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.answers import json_refusal, write_response
from pushd.connections import Connections
from pushd.deadlines import Deadlines
from pushd.guard import is_topic
from pushd.handshake import asks_for_websocket
from pushd.hub import Hub
from pushd.listener import listen
from pushd.longpoll import LongPoll
from pushd.messages import Id, check_topic
from pushd.routes import Match
from pushd.sse import KEEP_ALIVE, EventStream
from pushd.upgrade import ViewDoor, ViewResource
from pushd.views import Handshakes

# How long a long poll waits unless it says so itself, and how long at most, in seconds.
_WAIT = 25.0
_MAX_WAIT = 60.0


class TopicDoor:
    """What it takes to serve subscribers.

    :param max_buffered: bytes that may wait for a reader who does not read.
    """

    def __init__(self, clock: IReactorTime, views: ViewDoor, max_buffered: int) -> None:
        self.clock = clock
        self.views = views
        self.max_buffered = max_buffered
        self.keep_alives: Deadlines[EventStream] = Deadlines(
            clock, length=KEEP_ALIVE, expired=EventStream.keep_alive
        )

    @property
    def hub(self) -> Hub:
        """Who listens to what."""
        return self.views.hub

    @property
    def connections(self) -> Connections:
        """Who is here."""
        return self.views.connections


@dataclass(frozen=True)
class _Question:
    """What a subscriber asks for."""

    topic: str
    after: Id | None
    wait: float


class _Wrong(Exception):
    """A question that can't be answered, and where it is wrong."""

    def __init__(self, where: str, error: object) -> None:
        super().__init__(str(error))
        self.where = where


class TopicResource(Resource):
    """One topic, for those who want to hear of it."""

    isLeaf = True

    def __init__(self, door: TopicDoor, name: str) -> None:
        super().__init__()
        self._door = door
        self._name = name

    def render(self, request: Any) -> int:
        """Subscribe by the transport that the request is made for."""
        origin = request.getHeader(b"origin")
        if origin is not None and is_topic(request.path):
            # The guard, which knows topics by this test as well, has let it in; now the browser
            # may show the page what it gets.
            request.setHeader(b"access-control-allow-origin", origin)
            request.setHeader(b"vary", b"origin")
        try:
            question = self._read(request)
        except _Wrong as wrong:
            write_response(request, json_refusal(400, str(wrong), wrong.where))
            return NOT_DONE_YET
        if asks_for_websocket(request.requestHeaders):
            after = None if question.after is None else str(question.after)
            parameters = {"topic": question.topic, "after": after}
            match = Match(listen, parameters, Handshakes.REQUIRED)
            return ViewResource(self._door.views, match, f"/topics/{self._name}").render(request)
        if request.method != b"GET":
            allow = {"Allow": "GET"}
            error = "a topic is subscribed to with GET here; publish at the control door"
            write_response(request, json_refusal(405, error, "method", allow))
        elif b"text/event-stream" in (request.getHeader(b"accept") or b"").lower():
            stream = EventStream(request, self._door.keep_alives, self._door.max_buffered)
            self._start(request, stream, question)
        else:
            self._start(request, LongPoll(request, self._door.clock, question.wait), question)
        return NOT_DONE_YET

    def _start(self, request: Any, subscriber: EventStream | LongPoll, question: _Question) -> None:
        connections = self._door.connections

        def ended(_: object) -> None:
            subscriber.forget()
            connections.lost(subscriber)

        connections.opened(subscriber)
        request.notifyFinish().addBoth(ended)
        subscriber.start(self._door.hub, question.topic, question.after)

    def _read(self, request: Any) -> _Question:
        # The header first: a browser that comes back by itself asks at the same URL again.
        where, given = (
            "Last-Event-ID",
            (request.getHeader(b"last-event-id") or b"").decode("latin-1"),
        )
        if not given:
            where, given = "after", _argument(request, b"after") or ""
        try:
            topic = check_topic(self._name)
        except ValueError as error:
            raise _Wrong("topic", error) from None
        try:
            id = Id.parse(given) if given else None
        except ValueError as error:
            raise _Wrong(where, error) from None
        return _Question(topic, id, _seconds(_argument(request, b"wait")))


def _argument(request: Any, name: bytes) -> str | None:
    values = request.args.get(name)
    return values[-1].decode("latin-1") if values else None


def _seconds(given: str | None) -> float:
    if given is None:
        return _WAIT
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", given) or float(given) > _MAX_WAIT:
        raise _Wrong("wait", f"wait is a number of seconds from 0 to {_MAX_WAIT:g}")
    return float(given)
