"""Responses that go on for as long as their connections: how they are written, and how they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from pushd.access.authorization import Authorizer
from pushd.access.closing import PEER, TRY_AGAIN_LATER, US, Closing, Ending
from pushd.access.connections import Closable, Connection, Connections, log_closed, log_opened
from pushd.access.counters import Traffic, TrafficTotals
from pushd.access.memory import Usage
from pushd.access.tokens import Identity
from pushd.protocols.cork import Cork
from pushd.protocols.http.request import path_of
from pushd.protocols.twisted_internals import unsent, untaken
from pushd.topics.fanout import Send

# How much of what is more than may wait is given to the connection at a time, in bytes. The rest is
# not copied: all streams that send the same event share it.
_PIECE = 1 << 18

#: Headers of an event stream.
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    # A proxy that compresses what it passes on would hold events back until its buffer is full.
    "cache-control": "no-cache, no-transform",
    # Without this, nginx holds events back until its buffer is full.
    "x-accel-buffering": "no",
}


@implementer(IPushProducer)
class ResponseStream(ABC):
    """One response that is streamed. What it sends is up to its subclass.

    It is written directly to the socket while nothing waits before it. So whatever is written must
    be framed: with HTTP/1.1, it consists of chunks.

    :param cork: through which all connections write.
    :param max_buffered: bytes that may wait for a slow client.
    """

    #: ``sse`` or ``http_stream``.
    transport: str

    def __init__(self, request: Any, cork: Cork, max_buffered: int) -> None:
        self._request = request
        self._transport = request.channel.transport
        self._cork = cork
        self._writer = cork.writer(self._transport, self)
        self._max_buffered = max_buffered
        #: Whether what is written must be chunks: HTTP/1.0 has none.
        self.is_chunked = request.clientproto == b"HTTP/1.1"
        self._paused = False
        # What is left of an event that is larger, as written, than what may wait, and what follows
        # it; only while the connection's buffer is full.
        self._held: deque[memoryview] = deque()
        # True if the response ends once that is written.
        self._finishing = False
        self._open = True
        self.traffic = Traffic()
        #: How the stream ended. If the daemon does not end it, the client did.
        self.ending = Ending(1006, PEER, "the client disconnected")

    def begin(self, headers: Mapping[str, str]) -> None:
        """Set the headers, which are sent with the first bytes."""
        for name, value in headers.items():
            self._request.setHeader(name, value)
        self._request.registerProducer(self, True)

    @property
    def taken(self) -> int:
        """How many bytes the client has taken, counted from any start."""
        return self.traffic.bytes_out - self._untaken

    @property
    def _untaken(self) -> int:
        """How many bytes the client has not taken: those held here, and those of the transport."""
        return sum(map(len, self._held)) + untaken(self._transport)

    @property
    def sender(self) -> Send | None:
        """The ``send`` of the socket if nothing is buffered before it; else None."""
        return self._cork.sender(self._transport) if self._open and not self._held else None

    @property
    def is_paused(self) -> bool:
        """Whether the connection's buffer is full."""
        return self._paused

    # What the connection and the daemon call

    @abstractmethod
    def writing_deferred(self) -> None:
        """Leave fan-out groups: the kernel did not take all, and the rest must go first."""

    def pauseProducing(self) -> None:
        """Note that the connection's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue with what is left of a large event, then with what follows."""
        self._paused = False
        self._write_held()
        if self._paused:
            return
        if self._finishing:
            self._finish()
        else:
            self._resume()

    def stopProducing(self) -> None:
        """Note what the client has not taken: the connection is lost, and its socket still open.

        The kernel may have given up with all that it had in its own buffer. ``forget`` follows.
        """
        code, by, reason, _ = self.ending
        if self._open:
            self.ending = Ending(code, by, reason, self._untaken)

    def close_with(self, closing: Closing) -> Deferred[None]:
        """End the response in order; the client reconnects by itself."""
        self.ending = Ending(closing.code, US, closing.reason)
        self.end_waiting()
        return succeed(None)

    @abstractmethod
    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match; return how many these are."""

    def end_waiting(self) -> None:
        """End the response in order: the client has closed its side, and may be gone."""
        if self._open:
            self._stop()
            self._finishing = True
            if not self._held:
                self._finish()

    def count_held(self, usage: Usage) -> int:
        """Return the bytes that wait to be written; of what many streams hold, only once."""
        return sum(usage.count_once(piece.obj, len(piece)) for piece in self._held)

    def break_off(self, closing: Closing) -> None:
        """End the response at once, with what waits, as its connection is about to be reset.

        If it was to end in another way, that stands behind what the client did not take.
        """
        if not (self._open or self._finishing):
            return  # It has been broken off; the connection will be lost in a moment.
        code, by, reason, _ = self.ending
        if by is US:
            self.ending = Ending(1006, US, f"{reason} ({code})", self._untaken)
        else:
            self.ending = Ending(closing.code, US, closing.reason, self._untaken)
        self.forget()

    def forget(self) -> None:
        """Cancel everything: the client has disconnected, or the response has ended."""
        self._stop()
        self._finishing = False
        self._held.clear()
        # It refers to this stream.
        self._writer = self._request

    # What subclasses add to

    @abstractmethod
    def _resume(self) -> None:
        """Send on: there is room again."""

    def _stop(self) -> None:
        """Send nothing more. It may be called again."""
        self._open = False

    # What subclasses call

    def _write(self, data: bytes) -> None:
        """Write something as it is framed, unless too much waits already."""
        if self._unsent() > self._max_buffered:
            self._cut_off()
        else:
            self.traffic.bytes_out += len(data)
            self._buffer(data)

    def _buffer(self, data: bytes, sent: int = 0) -> None:
        """Write what has been counted, from a place on; it is held if it is too much."""
        size = len(data) - sent
        if self._held or self._unsent() + size > self._max_buffered:
            self._held.append(memoryview(data)[sent:])
            self._write_held()
        else:
            self._pass_on(data[sent:])

    def _cut_off(self, closing: Closing = TRY_AGAIN_LATER) -> None:
        """Abort the connection of a client that is too slow.

        HTTP has no close code, and an end in order would stand behind what the client does not
        read. The client reconnects.
        """
        self.break_off(closing)
        self._request.channel.abort()

    def _unsent(self) -> int:
        return unsent(self._transport) + sum(map(len, self._held))

    # Private

    def _write_held(self) -> None:
        """Write pieces of what is held until the connection's buffer is full."""
        while self._held and not self._paused:
            rest = self._held.popleft()
            if len(rest) > _PIECE:
                self._held.appendleft(rest[_PIECE:])
            self._pass_on(bytes(rest[:_PIECE]))

    def _pass_on(self, data: bytes) -> None:
        """Give something to the connection."""
        self._request.sentLength += len(data)
        if not self._request.startedWriting:
            data = self._make_head() + data
        # Only the channel counts what grows a buffer that is full.
        (self._request.channel if self._paused else self._writer).write(data)

    def _make_head(self) -> bytes:
        """Return the head, and let twisted.web know that it is written."""
        request = self._request
        request.startedWriting, request.chunked = 1, int(self.is_chunked)
        if self.is_chunked:
            request.setHeader("transfer-encoding", "chunked")
        head: bytes = request.channel.make_head(
            request.clientproto, b"200", b"OK", request.responseHeaders
        )
        return head

    def _finish(self) -> None:
        self._cork.flush()  # Before something is written in another way.
        self._request.unregisterProducer()
        self._request.finish()


class Responder(Closable, Protocol):
    """What answers one request for some time: a stream or a long poll."""

    #: What it has sent and received.
    traffic: Traffic

    def end_waiting(self) -> None:
        """End the response in order: the client has closed its side."""

    def forget(self) -> None:
        """Cancel everything: the response is over."""


def register(
    request: Any,
    responder: Responder,
    identity: Identity | None,
    *,
    connections: Connections,
    authorizer: Authorizer,
    totals: TrafficTotals,
    ended: Callable[[], object] = lambda: None,
) -> Connection:
    """Register what answers a request as a connection, until the response is over.

    A stream is logged when it opens and when it closes.

    :param identity: of the client; the response ends when it expires.
    :param ended: called at the end.
    """
    transport, stream = responder.transport, None
    if isinstance(responder, ResponseStream):
        stream = responder

    def response_ended(_: object) -> None:
        responder.forget()
        ended()
        request.stream = None
        # Or the two would keep each other, and what is buffered, until garbage is collected.
        del request.end_waiting
        request.producer = None
        connections.remove(responder)
        totals.remove(transport, responder.traffic)
        if stream is not None:
            log_closed(connections, connection, stream.ending)

    connection = connections.add(
        responder,
        peer=request.peer,
        path=path_of(request),
        subject=None if identity is None else identity.subject,
        traffic=responder.traffic,
    )
    request.end_waiting = responder.end_waiting
    request.notifyFinish().addBoth(response_ended)
    if identity is not None:
        end = authorizer.end_of_connection(identity)
        connections.close_at(responder, end, identity.closing)
    totals.add(transport, responder.traffic)
    request.connection = connection.id
    if stream is not None:
        request.has_access_line = False
        request.stream = stream
        log_opened(connection)
    return connection


def chunk(data: bytes) -> bytes:
    """Return some data as a chunk (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
