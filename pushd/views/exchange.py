"""HTTP and WebSocket exchanges: a view runs for a request, and its result becomes the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.access.admission import Slot
from pushd.access.authorization import Authorizer
from pushd.access.closing import BROKER_UNAVAILABLE, INTERNAL_ERROR, NORMAL, Closing
from pushd.access.connections import Connection, Connections, log_closed, log_opened
from pushd.access.counters import Counters
from pushd.errors import ThreadsBusy, Unavailable
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import (
    FAILURE,
    Response,
    phrase_of,
    refusal,
    write_answer,
    write_failure,
    write_response,
)
from pushd.protocols.http.static import StaticFiles
from pushd.protocols.websocket.handshake import Handshake
from pushd.protocols.websocket.protocol import PushFactory, PushProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.coroutine import NEEDS_ASYNCIO
from pushd.topics.attendance import Attendances, Participant
from pushd.topics.hub import Hub
from pushd.topics.publisher import Publisher
from pushd.views.request import Request, View, make_request, name_of
from pushd.views.runner import ViewRun, ViewRunner, asks_for_asyncio, is_cancellation

_log = Logger(namespace="pushd.views")

_BUSY = refusal(
    503, "the threads for blocking views are in use: try again later", {"Retry-After": "1"}
)
_UNAVAILABLE = refusal(
    503, "temporarily unavailable: try again later", {"Retry-After": f"{Unavailable.retry_after}"}
)


@dataclass(frozen=True, kw_only=True)
class ViewDependencies:
    """The parts of the daemon that exchanges use."""

    clock: IReactorTime
    runner: ViewRunner
    authorizer: Authorizer
    factory: PushFactory
    connections: Connections
    files: StaticFiles
    counters: Counters
    hub: Hub
    attendances: Attendances
    publisher: Publisher


@dataclass(frozen=True, slots=True)
class HandshakeResponse(Response):
    """A WSGI application's response to a WebSocket handshake.

    Before the 101 it refuses the handshake. PEP 3333 requires a response after the 101 as well: of
    that one only the status counts.
    """

    @property
    def closing(self) -> Closing:
        """How a WebSocket that is open closes: with 1000, 1008 for a 4xx or 1011 for a 5xx."""
        if self.status < 400:
            return NORMAL
        return Closing(1008, phrase_of(self.status)) if self.status < 500 else INTERNAL_ERROR


class _Exchange(ABC):
    """One request and the view that serves it, until the view ends or the client leaves."""

    __slots__ = ("__weakref__", "_dependencies", "_http", "_path", "_peer", "_run", "_view")

    def __init__(self, dependencies: ViewDependencies, view: View, http: Any) -> None:
        self._dependencies = dependencies
        self._view = view
        # The HTTP request, as long as it can be answered over HTTP.
        self._http: Any = http
        self._peer = http.peer
        self._path = path_of(http)
        self._run: ViewRun | None = None

    def _start(self, request: Request) -> None:
        """Run the view; answer 503 if it needs a thread and none is free."""
        self._run = ViewRun(self._dependencies.runner, self._view, request, self._finish)
        try:
            self._run.start()
        except ThreadsBusy as busy:
            self._dependencies.runner.warn_busy(self._view, self._peer, str(busy))
            self._http.site.count_refusal(503)
            self._http.why_refused = f"{busy}, see --threads"
            write_response(self._http, _BUSY)
            return
        # Most views have answered, or accepted their WebSocket, by now.
        if self._http is not None and not self._http.finished:
            self._http.notifyFinish().addErrback(self._client_left)

    def _finish(self, result: object) -> None:
        """End the exchange with what the view returned, or the Failure that it raised."""
        try:
            if isinstance(result, Failure):
                self._fail(result)
            else:
                self._complete(result)
        except Exception:  # What a view returns may turn out to be impossible to write.
            self._fail(Failure())

    def _fail(self, failure: Failure) -> None:
        """Log why the view failed, and end the exchange accordingly."""
        if failure.check(Unavailable):
            # The broker is at fault, not the view.
            _log.warn(
                "{view} could not publish at {path} for {peer}: {error}",
                event="not_published",
                error=failure.getErrorMessage(),
                **self._log_fields(),
            )
            self._abandon(_UNAVAILABLE, BROKER_UNAVAILABLE)
            return
        if not (self._is_gone and is_cancellation(failure)):
            self._dependencies.counters.view_errors.inc()
            line = "{view} failed at {path} for {peer}"
            if self._dependencies.runner.loop is None and asks_for_asyncio(failure):
                line = f"{line}: {NEEDS_ASYNCIO}"
            _log.failure(
                line,
                failure=failure,
                event="view_failed",
                **self._log_fields(),
            )
        self._abandon(FAILURE, INTERNAL_ERROR)

    def _log_fields(self) -> dict[str, Any]:
        """Fields of every log line about this exchange."""
        return {
            "connection": None,
            "view": name_of(self._view),
            "path": self._path,
            "peer": self._peer,
        }

    @property
    @abstractmethod
    def _is_gone(self) -> bool:
        """Whether the client has left, so that a view that was cancelled for it has not failed."""

    @abstractmethod
    def _complete(self, answer: object) -> None:
        """Send what the view returned; raise if that is impossible."""

    @abstractmethod
    def _abandon(self, response: Response, closing: Closing) -> None:
        """Send an error: a response before the 101, a closing after it."""

    @abstractmethod
    def _client_left(self, failure: Failure) -> None:
        """End the view: its client left before it was answered over HTTP."""


class HttpExchange(_Exchange):
    """A plain HTTP request and the view that answers it."""

    __slots__ = ()

    def start(self, fields: dict[str, Any]) -> None:
        """Run the view.

        :param fields: of the view's request.
        """
        self._start(make_request(fields, body=self._http.content.read()))

    @property
    def _is_gone(self) -> bool:
        return self._http is None

    def _complete(self, answer: object) -> None:
        if self._http is not None:
            write_answer(self._http, answer, self._dependencies.files)

    def _abandon(self, response: Response, closing: Closing) -> None:
        if self._http is not None:
            write_failure(self._http, response)

    def _client_left(self, failure: Failure) -> None:
        self._http = None
        assert self._run is not None  # It was made before anything asked for this.
        self._run.end()
        self._run.view_notified()


class WebSocketExchange(_Exchange):
    """A WebSocket handshake, the connection that it opens, and the view that serves both.

    The view's WebSocket calls ``accept`` when it first needs the connection. Until then anything
    that the view returns or raises is the HTTP response that refuses the handshake.
    """

    __slots__ = ("_connection", "_handshake", "_identity", "_slots", "_websocket", "subprotocols")

    def __init__(
        self, dependencies: ViewDependencies, view: View, http: Any, handshake: Handshake
    ) -> None:
        super().__init__(dependencies, view, http)
        self._handshake = handshake
        self._websocket = WebSocket(self, dependencies.clock, hub=dependencies.hub)
        self._connection: Connection | None = None
        # What the connection takes of the limits on connections and clients.
        self._slots: list[Slot] = []
        self.subprotocols = handshake.subprotocols

    def start(self, fields: dict[str, Any]) -> None:
        """Run the view.

        :param fields: of the view's request.
        """
        self._identity = fields["identity"]
        websocket, subprotocols = self._websocket, self.subprotocols
        self._start(make_request(fields, websocket=websocket, subprotocols=subprotocols))

    def accept(
        self,
        websocket: WebSocket,
        subprotocol: str | None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> PushProtocol:
        """Answer 101, and let the connection speak WebSocket from now on."""
        dependencies = self._dependencies
        http, self._http = self._http, None
        channel = http.channel
        # The slot of the connection, and that of the client if a proxy forwarded the request.
        self._slots = [channel.slot] if http.slot is None else [channel.slot, http.slot]
        # Free what is of no use any more, as the connection may stay for days.
        handshake = self._handshake
        del self._handshake
        if headers:
            handshake = Handshake(*handshake[:3], headers)
        http.requestHeaders.fold()
        transport = channel.transport
        try:
            protocol = dependencies.factory.build(websocket, self._connection_lost)
            if http.slot is not None:
                protocol.forwarded_for = self._peer
            protocol.take_over(channel, handshake, subprotocol)
        except BaseException:
            # The channel may have given up the connection, and releases nothing any more.
            self._release_slots()
            transport.abortConnection()
            raise
        identity = self._identity
        self._connection = dependencies.connections.add(
            websocket,
            peer=self._peer,
            path=self._path,
            subject=None if identity is None else identity.subject,
            traffic=protocol.traffic,
        )
        if identity is not None:
            end = dependencies.authorizer.end_of_connection(identity)
            dependencies.connections.close_at(websocket, end, identity.closing)
        websocket.participant = Participant(dependencies.attendances, websocket, identity)
        dependencies.counters.traffic.add("websocket", protocol.traffic)
        if dependencies.connections.closing is not None:
            # The daemon began to stop before the view accepted.
            dependencies.clock.callLater(0, websocket.close_with, dependencies.connections.closing)
        log_opened(self._connection)
        return protocol

    @property
    def _is_gone(self) -> bool:
        return self._http is None and self._websocket.is_closed()

    def _complete(self, answer: object) -> None:
        if isinstance(answer, HandshakeResponse) and answer.status == 500:
            self._dependencies.counters.view_errors.inc()
            _log.error(
                "{view} answered 500 at {path} for {peer}: its own log has the reason",
                event="application_failed",
                **self._log_fields(),
            )
        if self._http is not None and answer is not None:
            self._http.why_refused = f"{name_of(self._view)} answered, and opened no WebSocket"
            write_answer(self._http, answer, self._dependencies.files)
            self._websocket.connection_lost()
        elif isinstance(answer, HandshakeResponse):
            self._websocket.close_with(answer.closing)
        else:
            if answer is not None and self._connection is not None:
                _log.warn(
                    "{view} returned a response after accepting the WebSocket; it was discarded",
                    event="answer_lost",
                    view=name_of(self._view),
                )
            self._websocket.close_with(NORMAL)

    def _abandon(self, response: Response, closing: Closing) -> None:
        if self._http is not None:
            write_failure(self._http, response)
            self._websocket.connection_lost()
        else:
            self._websocket.close_with(closing)

    def _client_left(self, failure: Failure) -> None:
        self._http = None
        self._websocket.connection_lost()

    def _connection_lost(self, protocol: PushProtocol) -> None:
        """Give back what the connection took, and write its closing log line."""
        dependencies = self._dependencies
        dependencies.connections.remove(self._websocket)
        # Not before, or a client that comes back would fill one inbox after the other.
        if self._websocket.is_unread:
            dependencies.factory.unread.add(self._websocket)
            self._websocket.when_read(self._all_read)
        else:
            self._release_slots()
        if self._connection is None:
            return  # It could not be taken over.
        ending = protocol.ending
        dependencies.counters.count_closed(ending.code)
        dependencies.counters.traffic.remove("websocket", protocol.traffic)
        log_closed(dependencies.connections, self._connection, ending)

    def _all_read(self) -> None:
        """Give back the slots, once no message is kept for the view."""
        self._dependencies.factory.unread.discard(self._websocket)
        self._release_slots()

    def _release_slots(self) -> None:
        for slot in self._slots:
            slot.release()

    def _log_fields(self) -> dict[str, Any]:
        connection = self._connection and self._connection.id
        return {**super()._log_fields(), "connection": connection}
