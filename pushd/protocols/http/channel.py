"""One HTTP connection: what it is given time for, and whose turn it is."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.python.failure import Failure

from pushd.access.admission import Slot
from pushd.protocols.http.headers import read_head
from pushd.protocols.http.request import ChannelRequest, peer_name
from pushd.protocols.http.strict import Refusing, StrictChannel
from pushd.protocols.transport import unsent
from pushd.schedule.timeouts import TimeoutQueue

# How long a request may take from the connection, or its first byte, to its last, in seconds.
REQUEST_TIMEOUT = 20

# How long a connection may be idle between two requests, in seconds.
KEEP_ALIVE = 60

# How long a reader may take for what fills the transport's buffer, in seconds.
STALL_TIMEOUT = 60

# How many bytes one must have read in that time to have it again.
_STALL_BYTES = 1 << 16

# How long a peer may take to read our last words and go, in seconds.
LINGER = 5


class Premises(Refusing, Protocol):
    """What a connection needs of the door that it came through."""

    #: What it is given time for: a request, the next one, to read an answer.
    requests: TimeoutQueue[Any]
    idle: TimeoutQueue[Any]
    stalled: TimeoutQueue[Any]
    #: Whether a head that arrives in one piece is read at once.
    reads_whole_heads: bool
    #: Whether nobody may stay for another request.
    draining: bool
    #: Where time comes from.
    reactor: IReactorTime

    def enter(self, channel: Channel) -> None:
        """Count a connection in."""

    def leave(self, channel: Channel) -> None:
        """Count a connection out."""

    def count_refusal(self, status: int) -> None:
        """Count a request that was turned away."""

    def log_failure(self, peer: str) -> None:
        """Log an exception that twisted.web raised over what a client sent."""

    def log_connection_failure(self, peer: str) -> None:
        """Log an exception that kept a new connection from being served."""


class Channel(StrictChannel):
    """One HTTP/1.1 connection, held to its time and to the letter."""

    site: Premises
    requestFactory: Any = ChannelRequest
    #: The connection's place, for its owner to give back.
    ticket: Slot

    _turn: IDelayedCall | None = None
    # True while the transport's buffer is full.
    _writing_paused = False
    # True within dataReceived.
    _receiving = False
    # What waited for the reader when its time began.
    _unread = 0

    def makeConnection(self, transport: Any) -> None:
        """Begin. If that fails, drop the connection: Twisted would go on reading from it."""
        try:
            super().makeConnection(transport)
        except Exception:
            self.site.log_connection_failure(peer_name(transport.getPeer()))
            transport.abortConnection()

    def connectionMade(self) -> None:
        """Wait for the first request."""
        super().connectionMade()
        self.site.enter(self)
        self.site.requests.start(self)

    def dataReceived(self, data: bytes) -> None:
        """Parse a piece of a request; of one that was refused, what comes is read and dropped."""
        if self._refused:
            return
        if self._receiving:
            # The call that is under way goes on with this.
            super().dataReceived(data)
            return
        if self in self.site.idle:
            self.site.idle.stop(self)
            self.site.requests.start(self)
        self._receiving = True
        try:
            if not (self.site.reads_whole_heads and self._take_whole_head(data)):
                super().dataReceived(data)
        except Exception:
            self.site.log_failure(peer_name(self.transport.getPeer()))
            self.refuse(400, "the request is malformed")
        finally:
            self._receiving = False
        # The rest is a line without its end; a line feed in it has no carriage return before it.
        if b"\n" in data and self.line_mode and not self.paused and b"\n" in self._unparsed():
            self.refuse(400, "a line of the request's head is malformed")

    def allContentReceived(self) -> None:
        """Answer a request that came whole and in time."""
        self.site.requests.stop(self)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """Wait for the next request.

        What stands behind it already has its turn when the answer has gone out and others have
        had theirs: else who sends a thousand requests and reads nothing fills the memory.
        """
        if self.site.draining:
            self.persistent = 0
        self.paused = True
        super().requestDone(request)
        if self.transport is None or not self.persistent:
            return
        unparsed = self._unparsed()
        if unparsed:
            self.transport.pauseProducing()
            self._turn = self.site.reactor.callLater(0, self._take_turn)
        else:
            self.paused = False
        waiting = self.site.requests if unparsed else self.site.idle
        waiting.start(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        # Twisted leaves this parameter untyped, and without the default of its base class.
        """Give the place back."""
        self.forget()
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self.ticket.release()
        self.site.leave(self)
        super().connectionLost(reason)

    def isSecure(self) -> bool:
        """Whether the connection is encrypted."""
        # twisted.web adapts the transport to this, which takes three times as long.
        return bool(ISSLTransport.providedBy(self.transport))

    def pauseProducing(self) -> None:
        """Note that the reader is slow, and wait only so long."""
        self._writing_paused = True
        super().pauseProducing()
        self._watch_reader()

    def resumeProducing(self) -> None:
        """Note that the reader has caught up."""
        self._writing_paused = False
        super().resumeProducing()
        self.site.stalled.stop(self)
        if self.paused:
            self._take_turn()

    def loseConnection(self) -> None:
        """Close once all is sent, and not wait for ever until it is."""
        super().loseConnection()
        self._watch_reader()

    def write_now(self) -> None:
        """Let go of a connection that speaks WebSocket from now on."""
        self.requests.clear()
        # The other clocks stand by now, as its request is here.
        self.site.stalled.stop(self)
        self.site.leave(self)

    def time_out(self) -> None:
        """Give up on a request that does not come to its end."""
        if self._line or self.requests:
            self.refuse(408, "the request did not come in time")
        else:
            self.site.count_refusal(408)
            self.loseConnection()

    def give_up(self) -> None:
        """Give up on a reader, unless much was read in the time: a large answer may take long."""
        before = self._unread
        self._watch_reader()
        if self._unread > before - _STALL_BYTES:
            self.abort()

    def abort(self) -> None:
        """Give up on a peer that does not read, or does not go."""
        self.transport.abortConnection()

    def _watch_reader(self) -> None:
        self._unread = unsent(self.transport)
        self.site.stalled.start(self)

    def _take_turn(self) -> None:
        """Parse the request that came behind the one before, once that one's answer is gone."""
        if self._writing_paused:
            return  # resumeProducing comes back to it.
        turn, self._turn = self._turn, None
        if turn is not None and turn.active():
            turn.cancel()
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")

    def _unparsed(self) -> bytes:
        """Return the bytes that were received and not parsed yet."""
        # A LineReceiver shows them only by giving them out; paused, it takes them back as they are.
        unparsed: bytes = self.clearLineBuffer()
        if unparsed:
            paused, self.paused = self.paused, True
            super().dataReceived(unparsed)
            self.paused = paused
        return unparsed

    def _take_whole_head(self, data: bytes) -> bool:
        """Read a GET that arrived in one piece; return False to leave it to twisted.web.

        This is what lineReceived, allHeadersReceived and allContentReceived do for others, in a
        quarter of the time.
        """
        if self._line or self.paused or self.unwelcome or not self.line_mode or self._unparsed():
            return False
        head = read_head(data)
        if head is None:
            return False
        target, headers = head
        request: Any = self.requestFactory(self)
        request.requestHeaders = headers
        if b"close" in b"".join(headers.values(b"Connection")).lower():
            self.persistent = self.checkPersistence(request, b"HTTP/1.1")
        if b"Cookie" in headers:
            request.parseCookies()
        self.site.requests.stop(self)
        self.handle(request)
        request.requestReceived(b"GET", target, b"HTTP/1.1")
        return True
