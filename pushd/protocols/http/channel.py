"""HTTP connections: reading requests one after the other, time-outs, and closing on shutdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
    ISSLTransport,
)
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from zope.interface import implementer

from pushd.access.admission import Slot
from pushd.access.closing import MEMORY_EXCEEDED, TRY_AGAIN_LATER, Closing
from pushd.access.limits import Limits
from pushd.access.memory import Memory, Usage
from pushd.protocols.cork import Writable
from pushd.protocols.http.at_once import ANSWERED, RequestAtOnce, keeps_open
from pushd.protocols.http.body import BodyStream
from pushd.protocols.http.headers import WholeRequest, path_in, read_whole
from pushd.protocols.http.request import ChannelRequest, peer_name
from pushd.protocols.http.strict import StrictChannel
from pushd.protocols.twisted_internals import buffered, lose, unsent, untaken, write_at_once
from pushd.schedule.timeouts import TimeoutQueue, TimerHeap

# Bytes of a body that must arrive per second, on average over ``--body-timeout``.
_BODY_PACE = 500

# Seconds in which a client that reads slowly must take some bytes, and how many.
STALL_TIMEOUT = 60
_STALL_BYTES = 1 << 16

# Unsent bytes behind which a refusal is still sent if the daemon's buffers are full.
_SENT_BEFORE_REFUSAL = 4096

# Seconds for a client to read the answer that refuses its request, and to close.
REFUSAL_TIMEOUT = 5


# Seconds without a byte of an answer after which a half-closed connection is dropped: its client
# may be gone, which only a write can tell.
HALF_CLOSED_TIMEOUT = 60


class Expected(Protocol):
    """A request that may come next; see ``Channel.expect_after``."""

    def take(self, data: bytes) -> bool:
        """Answer the request; return False if the data is anything else."""

    def forget(self) -> None:
        """Called instead of ``take``, or after it returned False."""


@implementer(IHalfCloseableProtocol)
class Channel(StrictChannel):
    """One HTTP/1.1 connection.

    Requests are answered one after the other. Bytes that arrive during an answer are buffered, and
    parsed in a later iteration of the reactor, once the client has taken the answer: a client that
    sends thousands of requests and reads nothing must not fill the memory.

    A client may close its side of the connection once it has sent its requests: all that arrived
    whole are answered (RFC 9112 §9.6).
    """

    site: Any
    requestFactory: Any = ChannelRequest
    #: The open connections of the site, this one among them.
    connections: HttpConnections
    #: The slot that the connection takes of ``--max-connections``.
    slot: Slot
    #: Whether a header of the PROXY protocol says that the client speaks TLS with the proxy.
    encrypted_by_proxy = False

    # The delayed call that parses the next request.
    _next: IDelayedCall | None = None
    # True while the transport's buffer is full.
    _writing_paused = False
    # True within dataReceived.
    _receiving = False
    # Whether twisted.web has been given anything to parse.
    _left_to_twisted = False
    # Bytes of the body that had arrived when its time-out began.
    _arrived = 0
    # Bytes that a slow reader had not taken when its time-out began.
    _untaken = 0
    # Bytes of the answer that were written when the time-out of a half-closed connection began.
    _answered = 0
    # Writes what is answered at once, from the first such answer on, and our address.
    _writer: Writable | None = None
    _host: IAddress | None = None
    # Whether it is being closed because the daemon's buffers are full; it holds nothing any more.
    _freed = False
    #: The request that is being read, if it arrived in one piece and is read at once.
    whole = b""
    # Whether the request that is being answered was read at once, and nothing has come since.
    _was_whole = False

    # Knows which request comes next.
    _expected: Expected | None = None
    # Takes the bytes that follow the request, after ``forward``.
    _receive: Callable[[bytes], object] | None = None

    # What the transport and twisted.web call

    def makeConnection(self, transport: Any) -> None:
        """Begin. If that fails, drop the connection: Twisted would go on reading from it."""
        try:
            super().makeConnection(transport)
        except Exception:
            self.site.log_connection_failure(peer_name(transport.getPeer()))
            transport.abortConnection()

    def connectionMade(self) -> None:
        """Wait for the first request."""
        if self.client is None:
            self.client = self.transport.getPeer()
        super().connectionMade()
        self.connections.add(self)
        self.connections.reading.start(self)
        self._delay_reading()

    def dataReceived(self, data: bytes) -> None:
        """Parse a part of a request; after a refusal, drop it."""
        if self._refused:
            self._may_drop -= len(data)
            if self._may_drop < 0:
                self.transport.pauseProducing()
            return
        if self._receiving:
            # The call that is under way goes on with this.
            super().dataReceived(data)
            return
        if self._expected is not None and self._is_expected(data):
            return
        self._receiving, is_whole = True, False
        memory = self.connections.memory
        try:
            is_whole = self.connections.reads_whole and self._read_whole(data)
            if not is_whole:
                if self in self.connections.idle.keys:
                    self.connections.idle.stop(self)
                    self.connections.reading.start(self)
                self._left_to_twisted, self._was_whole = True, False
                memory.add(len(data))
                super().dataReceived(data)
        except Exception:
            self.site.log_failure(peer_name(self.client))
            self.refuse(400, "the request is malformed")
        finally:
            self._receiving = False
        # What is left is an unfinished line; a line feed in it has no carriage return before it.
        if is_whole:
            pass
        elif b"\n" in data and self.line_mode and not self.paused and b"\n" in self._unparsed():
            self.refuse(400, "a line of the request's head is malformed")
        if memory.exceeded:
            memory.enforce()

    def allHeadersReceived(self) -> None:
        """Give the body of a request, if it has one, a time-out of its own."""
        super().allHeadersReceived()
        if self.length != 0 and not self._refused:
            self.connections.reading.stop(self)
            self._arrived = 0
            self.connections.reading_bodies.start(self)
            if self.site.streams_body(path_in(self.target)):
                body = BodyStream(self._pause_body, self._resume_body)
                self.requests[-1].begin(body, self._request_line)

    def allContentReceived(self) -> None:
        """Answer a request that arrived as a whole, and in time."""
        self.connections.reading.stop(self)
        self.connections.reading_bodies.stop(self)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """Go on to the next request, if a part of it has arrived, or wait for it."""
        if request.body is not None and not request.body.complete:
            self.requests.remove(request)
            self.drop_rest()
            return
        if self._was_whole and self.persistent and self._go_on():
            return
        if self.connections.draining:
            self.persistent = 0
        self.connections.half_closed.stop(self)
        # twisted.web would parse the next request at once, inside of the call that ended this one;
        # a long pipeline would be answered in one reactor iteration.
        self.paused = True
        super().requestDone(request)
        if self.transport is None or not self.persistent:
            return
        if self._unparsed():
            self.transport.pauseProducing()
            if not self._delay_reading():
                self._next = self.connections.clock.callLater(0, self._parse_next)
            self.connections.reading.start(self)
        elif self.read_ended:
            self.loseConnection()
        else:
            self.paused = False
            self.connections.idle.start(self)
            self._delay_reading()

    def readConnectionLost(self) -> None:
        """Answer what has arrived, and close: the client has closed its side."""
        self.read_ended = True
        if self._refused:
            self.loseConnection()
        elif self in self.connections.idle:
            self._close_at_once()
        else:
            self._continue_half_closed()

    def writeConnectionLost(self) -> None:
        """Do nothing: we have closed our side after a refusal, and await the client's."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        # Twisted leaves this parameter untyped, and without the default of its base class.
        """Release what the connection takes."""
        self.connections.stop_timeouts(self)
        self._cancel_next()
        self._expect_nothing()
        self.slot.release()
        self.connections.discard(self)
        super().connectionLost(reason)

    def rawDataReceived(self, data: bytes) -> None:
        """Take a part of a body, or of what follows the request."""
        if self._receive is None:
            super().rawDataReceived(data)
        else:
            self._receive(data)

    def isSecure(self) -> bool:
        """Return whether the connection is encrypted."""
        # twisted.web adapts the transport to this, which takes three times as long.
        return self.encrypted_by_proxy or bool(ISSLTransport.providedBy(self.transport))

    def pauseProducing(self) -> None:
        """Give a client that reads slowly a time-out, as the transport's buffer is full."""
        if not self._writing_paused:
            self.connections.memory.add(buffered(self.transport))
        self._writing_paused = True
        super().pauseProducing()
        self._start_stall_timeout()

    def resumeProducing(self) -> None:
        """Go on, as the transport's buffer is empty."""
        self._writing_paused = False
        super().resumeProducing()
        self.connections.stalled.stop(self)
        if self in self.connections.delayed or (self.requests and self.requests[0].is_body_full):
            self.transport.pauseProducing()  # twisted.web has resumed it.
        elif self.paused:
            self._parse_next()

    def getHost(self) -> IAddress:
        """Return our address. Twisted asks the kernel for it each time."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def writing_deferred(self) -> None:
        """Do nothing: if much waits to be written, the transport pauses us."""

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write the head of an answer."""
        self._flush_held()
        super().writeHeaders(version, code, reason, headers)

    def write(self, data: bytes) -> None:
        """Write a part of an answer."""
        if self._writing_paused:
            self.connections.memory.add(len(data))
        super().write(data)

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        """Write a part of an answer, given in pieces."""
        if self._writing_paused:
            self.connections.memory.add(sum(map(len, iovec)))
        super().writeSequence(iovec)

    def loseConnection(self) -> None:
        """Close after all is sent, or after the time-out of a slow reader."""
        self._flush_held()
        super().loseConnection()
        self._start_stall_timeout()

    # What answers a request calls

    def write_whole(self, response: bytes) -> None:
        """Write a whole response, head and body, at once."""
        self._flush_held()
        if self._writing_paused:
            self.connections.memory.add(len(response))
        write_at_once(self.transport, response)

    def expect_after(self, request: Any, expected: Expected) -> None:
        """Go on to the next request, as ``requestDone``; it may be known which one comes."""
        if self._go_on():
            self._expected = expected
        else:
            expected.forget()
            self.requestDone(request)

    # What a protocol calls that takes the connection over

    def detach(self) -> Any:
        """Give up the connection, and return its transport."""
        self._flush_held()
        self.requests.clear()
        # The others are stopped by now, as the request has arrived.
        for timeouts in (self.connections.stalled, self.connections.half_closed):
            if self in timeouts.keys:
                timeouts.stop(self)
        self.connections.discard(self)
        transport, self.transport = self.transport, None
        transport.unregisterProducer()
        if self.read_ended:
            # What takes over needs both directions. Let it begin, and then see the end.
            self.connections.clock.callLater(0, transport.abortConnection)
        return transport

    def forward(self, receive: Callable[[bytes], object]) -> None:
        """Pass on what follows the request: bytes that have arrived, and those of this segment."""
        following = self.take_following()
        if following:
            receive(following)
        self._receive = receive

    # What StrictChannel calls

    def await_close(self) -> None:
        """Give a client that was refused the time to read the answer and to close."""
        self.connections.stop_timeouts(self)
        self.connections.closing.start(self)

    # What Memory calls

    def count_memory(self, usage: Usage) -> int:
        """Add what the connection buffers to the usage; return its bytes."""
        if self._freed:
            return 0
        arrived, waiting = self.unparsed_bytes, buffered(self.transport)
        for request in self.requests:
            arrived += request.body_bytes
            if request.stream is not None:
                waiting += request.stream.count_held(usage)
        usage.request += arrived
        usage.send += waiting
        return arrived + waiting

    def free_memory(self) -> None:
        """Close, and drop all that is buffered: the daemon's buffers are full.

        A request that is arriving is answered with 503. If one is being answered, or much is
        unsent, the connection is reset.
        """
        self._freed = True
        arriving = self._is_arriving() and not self._refused
        if arriving and self._next is None and unsent(self.transport) <= _SENT_BEFORE_REFUSAL:
            for request in self.requests:
                request.content = BytesIO()
            where = "body" if self.requests else None
            self.refuse(503, MEMORY_EXCEEDED.reason, where, {"Retry-After": "1"})
            return
        self._cut_off(MEMORY_EXCEEDED)

    # What time-outs call

    def delay_expired(self) -> None:
        """Begin to read, with the full time for a request, or between two requests."""
        idle = self in self.connections.idle
        (self.connections.idle if idle else self.connections.reading).start(self)
        if self.paused:
            self._parse_next()
        else:
            self.transport.resumeProducing()

    def request_timed_out(self) -> None:
        """Refuse a request whose head is not complete in time; close a silent connection."""
        if self._line or self.requests:
            seconds = self.connections.limits.request_timeout
            self.refuse(408, f"the head of the request took more than {seconds} seconds")
        else:
            self.site.count_refusal(408)
            self.loseConnection()

    def body_timed_out(self) -> None:
        """Refuse a body that arrives too slowly; one that keeps the pace gets the same time again.

        Its size is an option, so there is no limit to its time as a whole.
        """
        before, self._arrived = self._arrived, self.requests[-1].arrived_bytes
        self.connections.reading_bodies.start(self)
        if self._arrived - before < _BODY_PACE * self.connections.limits.body_timeout:
            reason = f"the body came too slowly: it must bring {_BODY_PACE} bytes a second"
            self.refuse(408, reason, "body")

    def reader_timed_out(self) -> None:
        """Drop a client that reads too slowly; one that reads enough gets the same time again."""
        before = self._untaken
        self._start_stall_timeout()
        if self._untaken > before - _STALL_BYTES:
            self._cut_off(TRY_AGAIN_LATER)

    def answer_timed_out(self) -> None:
        """Drop a half-closed connection, unless a part of the answer was written in the time."""
        before = self._answered
        self._start_answer_timeout()
        if self._answered == before:
            self.abort()

    def abort(self) -> None:
        """Drop a client that does not read, or does not close."""
        self.transport.abortConnection()

    # Private

    def _cut_off(self, closing: Closing) -> None:
        """Drop a client, with what it has not taken, and log why."""
        waiting = untaken(self.transport)
        request = self.requests[0] if self.requests else None
        if request is not None and request.stream is not None:
            request.stream.break_off(closing)
        elif request is not None and request.begun:
            self.site.log_cut_off(request.peer, closing.reason, waiting, request)
        elif waiting:
            self.site.log_cut_off(peer_name(self.client), closing.reason, waiting)
        self.abort()

    def _go_on(self) -> bool:
        """Wait for the next request; return False if there is more to do, for ``requestDone``."""
        connections = self.connections
        if self._writing_paused or self.read_ended or connections.draining or not self.handled():
            return False
        connections.idle.start(self)
        self._delay_reading()
        return True

    def _is_expected(self, data: bytes) -> bool:
        """Return whether the request that was expected has come, and has been taken."""
        expected, self._expected = self._expected, None
        assert expected is not None
        self.connections.idle.stop(self)
        taken = expected.take(data)
        if not taken:
            expected.forget()
            self.connections.idle.start(self)
        return taken

    def _expect_nothing(self) -> None:
        expected, self._expected = self._expected, None
        if expected is not None:
            expected.forget()

    def _pause_body(self) -> None:
        """Stop reading a body until its application has read what has arrived."""
        self.transport.pauseProducing()
        self.connections.reading_bodies.stop(self)

    def _resume_body(self) -> None:
        """Go on reading a body, unless the client has to take a part of the answer first."""
        self.connections.reading_bodies.start(self)
        if not self._writing_paused:
            self.transport.resumeProducing()

    def _is_arriving(self) -> bool:
        """Return whether a request is awaited for the first time, or a part of one has arrived."""
        return self in self.connections.reading or self in self.connections.reading_bodies

    def _continue_half_closed(self) -> None:
        """Go on where nothing more can come: with an answer, a request, or the end."""
        if self._is_arriving():
            if self._next is not None:
                return  # The next request has arrived; _parse_next comes back here.
            if self._request_line or self.requests or self._unparsed().strip():
                self.refuse(400, "the connection ended in the middle of the request")
            else:
                self._close_at_once()
        elif self.requests:
            self._start_answer_timeout()
            self.requests[0].end_waiting()

    def _close_at_once(self) -> None:
        """Close a connection on which nothing is under way."""
        if unsent(self.transport):
            self.loseConnection()
        else:
            self.transport.unregisterProducer()
            lose(self.transport)

    def _delay_reading(self) -> bool:
        """Stop reading for a while if the address of the client comes too often."""
        connections = self.connections
        seconds = self.site.policy.throttle.delay(getattr(self.client, "host", "unix"))
        if seconds:
            self.transport.pauseProducing()
            connections.delayed.start(self, connections.clock.seconds() + seconds)
        return bool(seconds)

    def _start_answer_timeout(self) -> None:
        self._answered = self.requests[0].sentLength
        self.connections.half_closed.start(self)

    def _start_stall_timeout(self) -> None:
        self._untaken = untaken(self.transport)
        self.connections.stalled.start(self)

    def _flush_held(self) -> None:
        """Let out what was answered at once and is held: something is written behind it."""
        if self._writer is not None:
            self.site.at_once.cork.flush()
            # It takes the transport's buffer for empty. Another one will look.
            self._writer = None

    def _cancel_next(self) -> None:
        call, self._next = self._next, None
        if call is not None and call.active():
            call.cancel()

    def _parse_next(self) -> None:
        """Parse the next request, unless the client still has to take the last answer."""
        if self._writing_paused:
            return  # resumeProducing calls this again.
        self._cancel_next()
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")
        if self.read_ended and self.transport is not None:
            self._continue_half_closed()

    def _unparsed(self) -> bytes:
        """Return the bytes that were received and not parsed yet."""
        # A LineReceiver shows them only by giving them out; paused, it takes them back as they are.
        unparsed: bytes = self.clearLineBuffer()
        if unparsed:
            paused, self.paused = self.paused, True
            super().dataReceived(unparsed)
            self.paused = paused
        return unparsed

    def _read_whole(self, data: bytes) -> bool:
        """Read a request that arrived in one piece; return False to leave it to twisted.web.

        This is what lineReceived, allHeadersReceived and allContentReceived do for others, in a
        quarter of the time.
        """
        if self._line or self.paused or self.over_limit or not self.line_mode:
            return False
        if self._left_to_twisted and self._unparsed():
            return False
        whole = read_whole(data)
        if whole is None:
            return False
        method, target, headers, body = whole
        if body and len(body) > self.site.policy.body_limit(path_in(target)):
            return False
        begun = None if self.site.at_once is None else self._answer_at_once(whole)
        if begun is ANSWERED:
            return True
        request: Any = self.requestFactory(self, headers=headers)
        request.answered_by = begun
        if body:
            request.content = BytesIO(body)
        # Most heads do not have the word at all; checkPersistence decides if it is an option there.
        for options in headers.values(b"Connection"):
            if b"close" in options.lower():
                self.persistent = self.checkPersistence(request, b"HTTP/1.1")
        if b"Cookie" in headers:
            request.parseCookies()
        self.connections.idle.stop(self)
        self.connections.reading.stop(self)
        self.handle(request)
        self._was_whole = True
        self.whole = data
        request.requestReceived(method, target, b"HTTP/1.1")
        self.whole = b""
        return True

    def _answer_at_once(self, whole: WholeRequest) -> IResource | None:
        """Answer without a request of twisted.web, if that is possible, and return ``ANSWERED``.

        Only a success is answered here. What is refused has not begun, and is left to the long way:
        None is returned. If the answer takes more than this call, what will answer is returned.
        """
        connections, site, at_once = self.connections, self.site, self.site.at_once
        if connections.draining or self.read_ended or self._writing_paused:
            return None
        if not keeps_open(whole.headers):
            return None
        request = RequestAtOnce(whole, self, connections.clock.seconds())
        if site.policy.guard(request) is not None:
            return None
        try:
            answer: str | IResource | None = at_once.answer(request)
        except Exception:  # It may have done something, so it must not be done again.
            site.log_failure(request.peer)
            self.refuse(500, "something went wrong here; it has been logged")
            return ANSWERED
        if not isinstance(answer, str):
            return answer
        body = answer.encode()
        request.sentLength = len(body)
        if self._writer is None:
            self._writer = at_once.cork.writer(self.transport, self)
        self._writer.write(at_once.write_head(len(body)) + body)
        site.log(request)
        connections.reading.stop(self)
        connections.idle.start(self)
        return ANSWERED


class HttpConnections:
    """The open HTTP connections of a site, and the time-outs that they are under.

    :param memory: bounds what all connections buffer.
    :param limits: the lengths of three time-outs are applied, and their changes.
    :param freed_last: whether others are closed first if all buffers are full.
    """

    def __init__(
        self, clock: IReactorTime, memory: Memory, limits: Limits, *, freed_last: bool = False
    ) -> None:
        self.clock = clock
        self.memory = memory
        self.limits = limits
        #: Connections on which a request is awaited for the first time, or its head is arriving.
        self.reading = TimeoutQueue(
            clock, timeout=limits.request_timeout, expired=Channel.request_timed_out
        )
        #: Connections on which the body of a request is arriving.
        self.reading_bodies = TimeoutQueue(
            clock, timeout=limits.body_timeout, expired=Channel.body_timed_out
        )
        #: Connections between two requests.
        self.idle = TimeoutQueue(clock, timeout=limits.keep_alive, expired=Channel.loseConnection)
        #: Connections whose client is slow to read.
        self.stalled = TimeoutQueue(clock, timeout=STALL_TIMEOUT, expired=Channel.reader_timed_out)
        #: Connections whose client was refused, and may read the answer before they are closed.
        self.closing = TimeoutQueue(clock, timeout=REFUSAL_TIMEOUT, expired=Channel.abort)
        #: Connections whose client has closed its side while its request is answered.
        self.half_closed = TimeoutQueue(
            clock, timeout=HALF_CLOSED_TIMEOUT, expired=Channel.answer_timed_out
        )
        #: Connections that are not read yet, as their address comes too often.
        self.delayed = TimerHeap(clock, now=clock.seconds, expired=Channel.delay_expired)
        #: True after ``drain``: a connection is closed after the answer that is under way.
        self.draining = False
        #: True if a request that arrives in one piece is read at once, which is a fast path.
        self.reads_whole = Channel.can_handle()
        self._open: set[Channel] = set()
        memory.watch(self._open, freed_last=freed_last)
        limits.on_change(self._change_timeouts)
        # Waits for the last connection to close.
        self._emptied: list[Deferred[None]] = []

    def add(self, channel: Channel) -> None:
        """Add a connection that was opened."""
        self._open.add(channel)

    def discard(self, channel: Channel) -> None:
        """Remove a connection that is closed, or speaks WebSocket from now on."""
        self._open.discard(channel)
        while self._emptied and not self._open:
            self._emptied.pop().callback(None)

    def stop_timeouts(self, channel: Channel) -> None:
        """Stop all time-outs of a connection."""
        self.reading.stop(channel)
        self.reading_bodies.stop(channel)
        self.idle.stop(channel)
        self.stalled.stop(channel)
        self.closing.stop(channel)
        self.half_closed.stop(channel)
        self.delayed.stop(channel)

    def drain(self) -> Deferred[None]:
        """Close idle connections now, and the others after the answer that is under way.

        One that was opened and has sent nothing is not idle: its request may be on the way. See
        ``close_silent``. The Deferred fires when all are closed.
        """
        self.draining = True
        for channel in list(self.idle):
            channel.loseConnection()
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred(self._emptied.remove)
        self._emptied.append(emptied)
        return emptied

    def close_silent(self) -> None:
        """Close the connections on which no request is in progress."""
        for channel in list(self._open):
            if not channel.requests:
                channel.loseConnection()

    def _change_timeouts(self) -> None:
        self.reading.change(self.limits.request_timeout)
        self.reading_bodies.change(self.limits.body_timeout)
        self.idle.change(self.limits.keep_alive)
