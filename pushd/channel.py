"""HTTP as pushd speaks it: twisted.web, with the loose ends tied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http_headers import Headers

from pushd.admission import Ticket
from pushd.answers import BUSY, json_refusal, refusal
from pushd.deadlines import Deadlines
from pushd.fields import read_head
from pushd.outbox import unsent
from pushd.request import peer_name
from pushd.views import Response

# What every answer says, unless a view says otherwise.
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}
_PAGE_HEADERS = {
    b"content-security-policy": b"default-src 'self'",
    b"x-frame-options": b"SAMEORIGIN",
}

_PAGES = (b"text/html", b"application/xhtml")

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

# The longest number that a length may be: more than anything can hold.
_MAX_LENGTH_DIGITS = 18

# Where programs publish and listen: all that is said there is JSON, refusals as well.
_SPEAKS_JSON = re.compile(rb"/(topics|publish|schedules)(/|$)")

# Bytes that no line of a request's head may hold (RFC 9110 §5.5): all controls but the tab.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Premises(Protocol):
    """What a connection needs of the door that it came through."""

    #: What a connection is given time for: a request, the next one, to read, to go.
    requests: Deadlines[Channel]
    idle: Deadlines[Channel]
    stalled: Deadlines[Channel]
    lingering: Deadlines[Channel]
    #: All of these.
    deadlines: Iterable[Deadlines[Channel]]
    #: Whether nobody may stay for another request.
    draining: bool

    def enter(self, channel: Channel) -> None:
        """Count a connection in."""

    def leave(self, channel: Channel) -> None:
        """Count a connection out."""

    def count_refusal(self, status: int) -> None:
        """Count a request that was turned away."""

    def log_failure(self, peer: str) -> None:
        """Log an exception that twisted.web raised over what a client sent."""

    def log_refusal(self, peer: str, status: int, line: str) -> None:
        """Count a request that was turned away, and write its line."""


class Channel(HTTPChannel):
    """One HTTP/1.1 connection, held to its time and to the letter."""

    site: Premises
    transport: Any
    #: The connection's place, for its owner to give back.
    ticket: Ticket

    def __init__(self) -> None:
        super().__init__()
        #: Whether there was no place to be had, but for hearing so.
        self.unwelcome = False
        self._refused = False
        self._line = 0
        self._turn: IDelayedCall | None = None
        # What waited for the reader when its time began.
        self._unread = 0

    def connectionMade(self) -> None:
        """Wait for the first request."""
        # Not the one of twisted.web: what it sets on the socket, DoorService has, for all at once.
        self._networkProducer = self.transport
        self.transport.registerProducer(self, True)
        self.site.enter(self)
        self.site.requests.start(self)

    def dataReceived(self, data: bytes) -> None:
        """Parse a piece of a request; of one that was refused, what comes is read and dropped."""
        if self._refused:
            return
        if self in self.site.idle:
            self.site.idle.stop(self)
            self.site.requests.start(self)
        try:
            if not self._take_whole_head(data):
                super().dataReceived(data)
        except Exception:
            self.site.log_failure(peer_name(self.transport.getPeer()))
            self.refuse(400, "the request is malformed")
        # What is left is a line without its end; a line feed in it has no carriage return.
        # (Within another call of this, it is only what that call still has to look at.)
        waiting = self._busyReceiving or self.paused or not self.line_mode
        if not waiting and b"\n" in data and b"\n" in self._buffer:
            self.refuse(400, "a line of the request's head is malformed")

    def lineReceived(self, line: bytes) -> None:
        """Refuse what a laxer server could read in two ways (RFC 9112 §2.2, §5.2)."""
        self._line += 1
        if self._refused:
            return
        if line[:1] in (b" ", b"\t") or _CONTROL.search(line):
            self.refuse(400, "a line of the request's head is malformed")
        elif not line and self._line > 1 and self.unwelcome:
            self.site.log_refusal(peer_name(self.transport.getPeer()), 503, "all places are taken")
            self._write_last(BUSY)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is too long."""
        if self._line == 0:
            self.refuse(414, "the address is too long")
        else:
            self.refuse(431, "a header is too long")

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of a body, or of what comes after."""
        if not self._refused:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        """Answer a request that came whole and in time."""
        # twisted.web reads a trailer and forgets it; a laxer server may find more lines in it.
        trailer = getattr(self._transferDecoder, "_trailerHeaders", ())
        if any(_CONTROL.search(line) for line in trailer):
            self.refuse(400, "a line of the request's trailer is malformed")
        self._line = 0
        self.site.requests.stop(self)
        if not self._refused:
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
        if self._buffer:
            self._networkProducer.pauseProducing()
            self._turn = self.callLater(0, self._take_turn)
        else:
            self.paused = False
        waiting = self.site.requests if self._buffer else self.site.idle
        waiting.start(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        # Twisted leaves this parameter untyped, and without the default of its base class.
        """Give the place back."""
        self.forget()
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self.ticket.leave()
        self.site.leave(self)
        super().connectionLost(reason)

    def pauseProducing(self) -> None:
        """Note that the reader is slow, and wait only so long."""
        super().pauseProducing()
        self._watch_reader()

    def resumeProducing(self) -> None:
        """Note that the reader has caught up."""
        super().resumeProducing()
        self.site.stalled.stop(self)
        if self.paused:
            self._take_turn()

    def loseConnection(self) -> None:
        """Close once all is sent, and not wait for ever until it is."""
        super().loseConnection()
        self._watch_reader()

    def forget(self) -> None:
        """Stop all clocks: the connection is gone, or somebody else's."""
        for deadlines in self.site.deadlines:
            deadlines.stop(self)

    def hand_over(self) -> None:
        """Let go of a connection that speaks WebSocket from now on."""
        self.requests.clear()
        # The other clocks stand by now, as its request is here.
        self.site.stalled.stop(self)
        self.site.leave(self)

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write a response's head with the headers that all share, and without our version."""
        headers.removeHeader(b"server")
        if code in (b"204", b"304"):
            # It would have to be that of the page itself (RFC 9110 §8.6).
            headers.removeHeader(b"content-length")
        kind = headers.getRawHeaders(b"content-type", [b""])[0]
        if not headers.hasHeader(b"date"):
            headers.setRawHeaders(b"date", [datetimeToString()])
        shared = _HEADERS | _PAGE_HEADERS if kind.lower().startswith(_PAGES) else _HEADERS
        if self.requests and self.requests[0].foreign:
            shared = {}
        for name, value in shared.items():
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])
        super().writeHeaders(version, code, reason, headers)

    def refuse(self, status: int, line: str, where: str | None = None) -> None:
        """Answer what is no request of ours to handle, and close.

        :param where: what of it is wrong, for the programs that all our JSON is for.
        """
        if self._refused:
            return
        self.site.log_refusal(peer_name(self.transport.getPeer()), status, line)
        answer = refusal(status, line)
        if where is not None and _SPEAKS_JSON.match(unquote_to_bytes(self._path)):
            answer = json_refusal(status, line, where)
        self._write_last(answer)

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
        if self._waitingForTransport:
            return  # resumeProducing comes back to it.
        self.paused = False
        self._networkProducer.resumeProducing()
        self.dataReceived(b"")

    def _take_whole_head(self, data: bytes) -> bool:
        """Take a GET that comes in one piece; False leaves it to twisted.web.

        This is what lineReceived, allHeadersReceived and allContentReceived do for others.
        """
        if self._line or self._buffer or self.paused or self.unwelcome or not self.line_mode:
            return False
        head = read_head(data)
        if head is None:
            return False
        target, fields = head
        request: Any = self.requestFactory(self)
        request.requestHeaders = fields
        self.requests.append(request)
        if b"Connection" in fields:
            self.persistent = self.checkPersistence(request, b"HTTP/1.1")
        if b"Cookie" in fields:
            request.parseCookies()
        self.site.requests.stop(self)
        # What comes now is for the next request.
        self._handlingRequest = True
        self.setRawMode()
        request.begin(b"GET", target, b"HTTP/1.1")
        return True

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        """Take one length or one ``chunked``, and refuse what a laxer server could understand."""
        if header == b"Content-Length":
            well = len(data) <= _MAX_LENGTH_DIGITS
        elif header == b"Transfer-Encoding":
            well = self._version == b"HTTP/1.1" and data.lower() == b"chunked"
        else:
            return True
        return bool(
            super()._maybeChooseTransferDecoder(header, data)
            if well
            else self._failChooseTransferDecoder()
        )

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse what twisted.web finds malformed, or too much."""
        if (
            self._receivedHeaderCount > self.maxHeaders
            or self._receivedHeaderSize > self.totalHeadersSize
        ):
            self.refuse(431, "the request has too many headers")
        else:
            self.refuse(400, "the request is malformed")

    def _send100Continue(self) -> None:
        """Invite a body, unless it was refused."""
        if not self._refused:
            super()._send100Continue()

    def _write_last(self, answer: Response) -> None:
        """Write an answer and close, but read on: else the answer may be lost to a reset."""
        self._refused = True
        body = str(answer.body).encode()
        headers = Headers({"Connection": ["close"], "Content-Length": [str(len(body))]})
        for name, value in answer.headers.items():
            headers.setRawHeaders(name, [str(value)])
        phrase = HTTPStatus(answer.status).phrase.encode()
        self.writeHeaders(b"HTTP/1.1", str(answer.status).encode(), phrase, headers)
        self.transport.write(body)
        self.forget()
        self.site.lingering.start(self)
        if isinstance(self.transport, ProtocolWrapper):  # TLS can't be closed by half
            super().loseConnection()
        else:
            self.transport.loseWriteConnection()
