"""One URL, two languages: a view behind HTTP and WebSocket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.admission import Slot
from pushd.access.authorization import Access, challenge, read_token
from pushd.access.closing import BROKER_UNAVAILABLE, INTERNAL_ERROR, NORMAL, Closing
from pushd.access.connections import Connection, Connections, log_ended, log_opened
from pushd.access.counters import Metrics
from pushd.access.tokens import Identity
from pushd.errors import Denied, HandshakeRefused, ThreadsBusy, Unavailable
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import (
    Response,
    phrase_of,
    refusal,
    write_answer,
    write_failure,
    write_response,
)
from pushd.protocols.http.static import StaticFiles
from pushd.protocols.websocket.factory import PushFactory
from pushd.protocols.websocket.handshake import Handshake, read_handshake
from pushd.protocols.websocket.protocol import PushProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.hub import Hub
from pushd.topics.publisher import Publisher
from pushd.views.request import Handshakes, Request, View, name_of, needs_token
from pushd.views.routes import Match
from pushd.views.runner import ViewRun, ViewRunner, is_cancellation


@dataclass(frozen=True, slots=True)
class LateAnswer(Response):
    """What an application answers to a handshake: HTTP in place of a 101, nothing after one.

    WSGI has it answer in any case. If the handshake was accepted, its status alone counts.
    """

    @property
    def closing(self) -> Closing:
        """How the WebSocket closes: 1000, 1008 where the status is 4xx, or 1011 for 5xx."""
        if self.status < 400:
            return NORMAL
        return Closing(1008, phrase_of(self.status)) if self.status < 500 else INTERNAL_ERROR


_log = Logger(namespace="pushd.views")

#: What goes with a 426, on this connection only (RFC 9110 §15.5.22, §7.8).
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}

# What a client whose handshake was refused should know (RFC 6455 §4.4, RFC 9110 §15.6.4).
_REFUSED_HEADERS = {426: {"Sec-WebSocket-Version": "13", **UPGRADE}, 503: {"Retry-After": "5"}}


@dataclass(frozen=True, kw_only=True)
class ViewContext:
    """What it takes to serve views."""

    clock: IReactorTime
    runner: ViewRunner
    access: Access
    factory: PushFactory
    connections: Connections
    files: StaticFiles
    metrics: Metrics
    hub: Hub
    publisher: Publisher


class ViewResource(Resource):
    """A view at a URL: runs it for a request, and writes what it answers.

    :param identity: who asks, where that is known already.
    """

    isLeaf = True

    def __init__(
        self, door: ViewContext, match: Match, path: str, identity: Identity | None = None
    ) -> None:
        super().__init__()
        self._door = door
        self._match = match
        self._path = path
        self._identity = identity

    def render(self, request: Any) -> int:
        """Start the view, or refuse what it does not take."""
        view, _, handshakes = self._match
        try:
            self._identity = self._identity or self._identify(request)
        except Denied as denied:
            request.site.count_refusal(denied.status)
            write_response(request, refusal(denied.status, str(denied), challenge(denied)))
            return NOT_DONE_YET
        if request.wants_websocket:
            try:
                handshake = read_handshake(
                    request.method, request.clientproto, request.requestHeaders
                )
                if self._door.connections.closing is not None:
                    raise HandshakeRefused(503, "the server is going away")
                if handshakes is Handshakes.REFUSED:
                    raise HandshakeRefused(400, "there is no WebSocket at this address")
            except HandshakeRefused as refused:
                request.site.count_refusal(refused.status)
                headers = _REFUSED_HEADERS.get(refused.status, {})
                write_response(request, refusal(refused.status, refused.reason, headers))
            else:
                _Meeting(self._door, view, request).upgrade(self._ask(request), handshake)
        elif handshakes is Handshakes.REQUIRED:
            request.site.count_refusal(426)
            line = "this address speaks WebSocket only"
            write_response(request, refusal(426, line, UPGRADE))
        else:
            _Meeting(self._door, view, request).answer(self._ask(request))
        return NOT_DONE_YET

    def _identify(self, request: Any) -> Identity | None:
        """Who asks. A token is of no interest that is not good, unless the view needs one."""
        access = self._door.access
        asked_for = bool(access.keys)
        if needs_token(self._match.view, asked_for=asked_for):
            return access.require(read_token(request))
        if not asked_for:
            return None
        try:
            return access.identify(read_token(request))
        except Denied:
            return None

    def _ask(self, request: Any) -> dict[str, Any]:
        """What a view may want to know of a request."""
        return {
            "method": request.method.decode("latin-1"),
            "path": self._path,
            "scheme": request.scheme,
            "host": request.requestHeaders.last(b"Host") or "",
            "peer": request.peer,
            "clock": self._door.clock,
            "publisher": self._door.publisher,
            "query_string": request.uri.partition(b"?")[2].decode("latin-1"),
            "parameters": self._match.parameters,
            "raw_headers": request.requestHeaders,
            "identity": self._identity,
        }


class _Meeting:
    """A browser's request and the view that answers it, until one of them leaves."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_conversation",
        "_door",
        "_handshake",
        "_http",
        "_identity",
        "_path",
        "_peer",
        "_tickets",
        "_view",
        "_websocket",
        "subprotocols",
    )

    def __init__(self, door: ViewContext, view: View, request: Any) -> None:
        self._door = door
        self._view = view
        # The HTTP request, for as long as it can be answered over HTTP.
        self._http: Any = request
        self._peer = request.peer
        self._path = path_of(request)
        self._websocket: WebSocket | None = None
        self._conversation: ViewRun | None = None
        self._identity: Identity | None = None
        self._connection: Connection | None = None
        self._tickets: list[Slot] = []
        self.subprotocols: tuple[str, ...] = ()

    def answer(self, asked: dict[str, Any]) -> None:
        """Serve plain HTTP."""
        self._start(Request(body=self._http.content.read(), **asked))

    def upgrade(self, asked: dict[str, Any], handshake: Handshake) -> None:
        """Serve a WebSocket, once the view wants it open."""
        self._identity = asked["identity"]
        self._handshake = handshake
        self.subprotocols = handshake.subprotocols
        self._websocket = WebSocket(self, self._door.clock, hub=self._door.hub)
        self._start(
            Request(websocket=self._websocket, subprotocols=handshake.subprotocols, **asked)
        )

    def accept(self, websocket: WebSocket, subprotocol: str | None) -> PushProtocol:
        """Answer 101 and hand the connection over to Autobahn."""
        request, self._http = self._http, None
        channel = request.channel
        # The connection's place, and the client's behind a proxy, go over to the WebSocket.
        self._tickets = [ticket for ticket in (channel.ticket, request.ticket) if ticket]
        # What was asked is answered by now. What nobody needs any more goes while it is at hand.
        handshake = self._handshake
        del self._handshake
        request.requestHeaders.fold()
        protocol = self._door.factory.build(websocket, self._lost)
        protocol.take_over(channel, handshake, subprotocol)
        connections = self._door.connections
        identity = self._identity
        subject = None if identity is None else identity.subject
        self._connection = connections.opened(
            websocket,
            peer=self._peer,
            path=self._path,
            subject=subject,
            traffic=protocol.traffic,
        )
        if identity is not None:
            connections.end_at(websocket, self._door.access.ends(identity))
        self._door.metrics.traffic.opened("websocket", protocol.traffic)
        if connections.closing is not None:
            # The view took its time, and the daemon stops by now: goodbye is all there is to say.
            self._door.clock.callLater(0, websocket.close_with, connections.closing)
        log_opened(self._connection)
        return protocol

    def _start(self, request: Request) -> None:
        try:
            self._conversation = self._door.runner.start(self._view, request, self._finished)
        except ThreadsBusy:
            self._http.site.count_refusal(503)
            line = "all threads for this are taken, try again later"
            write_response(self._http, refusal(503, line, {"Retry-After": "1"}))
            return
        # Most handshakes are answered by now.
        if self._http is not None and not self._http.finished:
            self._http.notifyFinish().addErrback(self._left)

    def _finished(self, result: object) -> None:
        """Make what the view returned or raised the end of the meeting."""
        try:
            if isinstance(result, Failure):
                self._raised(result)
            else:
                self._returned(result)
        except Exception:  # What a view returns may fail when it is to be written.
            self._raised(Failure())

    def _returned(self, answer: object) -> None:
        """Make the view's answer the end of the meeting."""
        if isinstance(answer, LateAnswer) and answer.status == 500:
            self._door.metrics.view_errors.inc()
            _log.error(
                "{view} answered 500 at {path} for {peer}: its own log has the reason",
                event="application_failed",
                **self._who(),
            )
        if self._http is not None and (self._websocket is None or answer is not None):
            write_answer(self._http, answer, self._door.files)
            self._forget_websocket()
        elif self._websocket is not None:
            if isinstance(answer, LateAnswer):
                self._websocket.close_with(answer.closing)
                return
            if answer is not None:
                _log.warn(
                    "{view} returned an answer after it had opened its WebSocket: nobody gets it",
                    event="answer_lost",
                    view=name_of(self._view),
                )
            self._websocket.close_with(NORMAL)

    def _raised(self, failure: Failure) -> None:
        """Make an error the end of the meeting."""
        if failure.check(Unavailable):
            self._fall_short(failure)
            return
        gone = self._http is None and (self._websocket is None or self._websocket.is_closed())
        if not (gone and is_cancellation(failure)):
            self._door.metrics.view_errors.inc()
            _log.failure(
                "{view} failed at {path} for {peer}",
                failure=failure,
                event="view_failed",
                **self._who(),
            )
        if self._http is not None:
            write_failure(self._http)
            self._forget_websocket()
        elif self._websocket is not None:
            self._websocket.close_with(INTERNAL_ERROR)

    def _fall_short(self, failure: Failure) -> None:
        """End the meeting as the view could not publish: that is no fault of the view."""
        _log.warn(
            "{view} could not publish at {path} for {peer}: {error}",
            event="not_published",
            error=failure.getErrorMessage(),
            **self._who(),
        )
        if self._http is not None:
            headers = {"Retry-After": f"{Unavailable.retry_after}"}
            write_failure(self._http, refusal(503, "try again in some seconds", headers))
            self._forget_websocket()
        elif self._websocket is not None:
            self._websocket.close_with(BROKER_UNAVAILABLE)

    def _who(self) -> dict[str, Any]:
        """Of whom the log speaks."""
        return {
            "connection": self._connection and self._connection.id,
            "view": name_of(self._view),
            "path": self._path,
            "peer": self._peer,
        }

    def _left(self, _: Failure) -> None:
        """Take note that the client left before it was answered over HTTP."""
        self._http = None
        if self._websocket is not None:
            self._forget_websocket()
        else:
            assert self._conversation is not None  # It began in the call that began to listen.
            self._conversation.end()
            self._conversation.view_notified()

    def _forget_websocket(self) -> None:
        """End a WebSocket that was never opened."""
        if self._websocket is not None:
            self._websocket.connection_lost()

    def _lost(self, protocol: PushProtocol) -> None:
        """Take note that the WebSocket's connection is gone."""
        assert self._websocket is not None and self._connection is not None  # It was opened.
        self._door.connections.lost(self._websocket)
        for ticket in self._tickets:
            ticket.leave()
        ending = protocol.ending
        self._door.metrics.closed.count(ending.code)
        self._door.metrics.traffic.ended("websocket", protocol.traffic)
        log_ended(self._door.connections, self._connection, ending)
