"""HTTP to the letter: twisted.web, with the loose ends tied."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Protocol

from twisted.protocols.policies import ProtocolWrapper
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from pushd.protocols.http.headers import path_in
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.response import BUSY, Response, json_refusal, refusal
from pushd.protocols.transport import HTTPChannelAdapter
from pushd.schedule.timeouts import TimeoutQueue

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

# The longest number that a length may be: more than anything can hold.
_MAX_LENGTH_DIGITS = 18

# Where programs publish and listen: all that is said there is JSON, refusals as well.
_SPEAKS_JSON = re.compile(rb"/(topics|publish|schedules)(/|$)")

# Bytes that no line of a request's head may hold (RFC 9110 §5.5): all controls but the tab.
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Refusing(Protocol):
    """What it takes of a door to refuse a request."""

    #: Who was given time to read our last words and go.
    lingering: TimeoutQueue[Any]
    #: These, and whatever else a connection is given time for.
    deadlines: tuple[TimeoutQueue[Any], ...]

    def log_refusal(self, peer: str, status: int, line: str) -> None:
        """Count a request that was turned away, and write its line."""


class StrictChannel(HTTPChannelAdapter):
    """An HTTP/1.1 connection that reads what can be read in one way only.

    What could mean something else to a laxer server, or is too much, is answered, and nothing is
    heard after it. Every answer but a 101 leaves by it as well, with the headers that all share.
    """

    site: Refusing
    transport: Any

    #: Whether there was no place to be had, but for hearing so.
    unwelcome = False
    _refused = False
    # Of the head that is being received: its number of lines, its size in bytes, its first line
    # that is not blank, and its number of headers.
    _line = 0
    _head_size = 0
    _request_line = b""
    _headers = 0

    def lineReceived(self, line: bytes) -> None:
        """Refuse a line that a lenient server could read differently (RFC 9112 §2.2, §5.2)."""
        self._line += 1
        if self._refused:
            return
        self._head_size += len(line)
        self._request_line = self._request_line or line
        if line[:1] in (b" ", b"\t") or CONTROL.search(line):
            self.refuse(400, "a line of the request's head is malformed")
        elif self._head_size > self.totalHeadersSize:
            self.refuse(431, "the request has too many headers")
        elif not line and self._line > 1 and self.unwelcome:
            self.site.log_refusal(peer_name(self.transport.getPeer()), 503, "all places are taken")
            self._write_last(BUSY)
        else:
            super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        """Take one length or one ``chunked``; refuse what a lenient server could read otherwise."""
        self._headers += 1
        if self._headers > self.maxHeaders:
            self.refuse(431, "the request has too many headers")
            return False
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            unambiguous = len(value) <= _MAX_LENGTH_DIGITS
        elif name == b"transfer-encoding":
            unambiguous = self._request_line.endswith(b"HTTP/1.1") and value.lower() == b"chunked"
        else:
            unambiguous = True
        if not unambiguous:
            self.malformed()
            return False
        return bool(super().headerReceived(line))

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is too long."""
        if not self._request_line:
            self.refuse(414, "the address is too long")
        else:
            self.refuse(431, "a header is too long")

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of a body, or of what comes after."""
        if not self._refused:
            super().rawDataReceived(data)

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
        if where is not None and _SPEAKS_JSON.match(path_in(self.target)):
            answer = json_refusal(status, line, where)
        self._write_last(answer)

    def allContentReceived(self) -> None:
        """Pass on a request that is here as a whole, unless it was refused."""
        # twisted.web ignores the trailer; a lenient server may find more lines in it.
        if any(CONTROL.search(line) for line in self.trailer):
            self.refuse(400, "a line of the request's trailer is malformed")
        self._line = self._head_size = self._headers = 0
        self._request_line = b""
        if not self._refused:
            super().allContentReceived()

    def malformed(self) -> None:
        """Refuse what twisted.web finds malformed."""
        self.refuse(400, "the request is malformed")

    @property
    def target(self) -> bytes:
        """The target of the request that is being received (RFC 9112 §3.2)."""
        return self._request_line.split(b" ")[1]

    def forget(self) -> None:
        """Stop all clocks: the connection is gone, or somebody else's."""
        for deadlines in self.site.deadlines:
            deadlines.stop(self)

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
