"""Strict reading of requests: what two servers could understand differently is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from pushd.protocols.http.access_log import AccessLog
from pushd.protocols.http.early import EarlyRequest, read_early
from pushd.protocols.http.headers import RequestHeaders, has_token, path_in
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.response import BUSY, Response, json_refusal, refusal
from pushd.protocols.twisted_internals import HTTPChannelAdapter, closes_halfway

#: Headers of every response, unless a view sets others.
SHARED_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}

_PAGES = (b"text/html", b"application/xhtml")

# The most digits of a Content-Length: no body is as long.
_MAX_LENGTH_DIGITS = 18

# Bytes that are read and dropped after a refusal: unread, they would cause a reset, which could
# destroy the answer. Many clients read the answer to a body that is too large after they have sent
# all of it; what follows a head that is refused is of no use to an honest client.
_DROPPED_HEAD = 1 << 18
_DROPPED_BODY = 1 << 24

# Paths at which all answers are JSON, refusals included.
_JSON_PATHS = re.compile(rb"/(topics|publish|schedules)(/|$)")

# The version at the end of a request line that has a minor version above ours. It is served as
# HTTP/1.1, the highest version of its major that we speak (RFC 9110 §2.5).
_LATER_VERSION = re.compile(rb" HTTP/1\.[2-9]\Z")

# Bytes that no line of a request's head may hold (RFC 9110 §5.5): all controls but the tab.
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@lru_cache(maxsize=2)
def date_of(second: int) -> bytes:
    """Return the value of the header Date at a time, in seconds since 1970."""
    date: bytes = datetimeToString(second)
    return date


class StrictChannel(HTTPChannelAdapter):
    """An HTTP/1.1 connection on which a request has only one meaning.

    A request that a lenient server could read differently, or that is too large, is answered with
    a status and a reason; whatever follows on its connection is dropped. All responses but a 101
    are written here, with the headers that they share.
    """

    site: AccessLog
    transport: Any

    #: If a connection limit was reached, so that its request gets a 503: which one, for the log.
    over_limit = ""
    #: The client's address. Twisted makes an object of it whenever it is asked.
    client: Any = None
    #: True once the client has closed its side of the connection: nothing more can come.
    read_ended = False
    # True after a refusal: nothing more is read.
    _refused = False
    # Bytes that are read and dropped after it.
    _may_drop = 0
    # Of the head that is arriving: the number of its lines, its size in bytes, its first line that
    # is not blank, and the number of its headers.
    _line = 0
    _head_size = 0
    _request_line = b""
    _headers = 0
    # Its lines behind that one, until they are all there.
    _head_lines: Sequence[bytes] = ()
    # True once that one is too long.
    _too_long = False

    # What twisted.web calls

    def lineReceived(self, line: bytes) -> None:
        """Refuse a line that a lenient server could read differently (RFC 9112 §2.2, §5.2)."""
        self._line += 1
        if self._refused:
            return
        self._head_size += len(line)
        if self._request_line:
            self._head_lines = [*self._head_lines, line]
        else:
            line = self._request_line = _LATER_VERSION.sub(b" HTTP/1.1", line)
        if self._too_long:
            if not line or self._head_size > self.totalHeadersSize:
                self._refuse_target()
        elif line[:1] in (b" ", b"\t") or _CONTROLS.search(line):
            self.refuse(400, "a line of the request's head is malformed")
        elif self._head_size > self.totalHeadersSize:
            self.refuse(431, "the request has too many headers")
        elif not line and self._line > 1 and self.over_limit:
            self.site.log_refusal(peer_name(self.client), 503, self.over_limit)
            self._answer_and_close(BUSY)
        else:
            if not line:
                self._head_lines = ()
            super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        """Take one Content-Length or one ``chunked``, each in its plainest form (RFC 9112 §6)."""
        self._headers += 1
        if self._headers > self.maxHeaders:
            self.refuse(431, "the request has too many headers")
            return False
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            plain = len(value) <= _MAX_LENGTH_DIGITS
        elif name == b"transfer-encoding":
            plain = self._request_line.endswith(b" HTTP/1.1") and value.lower() == b"chunked"
        else:
            plain = True
        if not plain:
            self.malformed()
            return False
        return bool(super().headerReceived(line))

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Return whether the connection stays open after the answer (RFC 9112 §9.3)."""
        persistent = bool(super().checkPersistence(request, version))
        # twisted.web finds the option only if blanks are all that is around it.
        if persistent and has_token(request.requestHeaders.values(b"Connection"), b"close"):
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return False
        return persistent

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is too long; behind it is all that has arrived."""
        if self._request_line:
            self._head_lines = [*self._head_lines, *line.split(b"\r\n")]
            if self._too_long:
                self._refuse_target()
            else:
                self.refuse(431, "a header is too long")
            return
        self._request_line, *self._head_lines = line.split(b"\r\n")
        self._too_long = True
        # If more follows, it is read first: it names the page that may read the refusal.
        if b"\r\n\r\n" in line:
            self._refuse_target()

    def rawDataReceived(self, data: bytes) -> None:
        """Take a part of a body, or of what follows it."""
        if not self._refused:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        """Take a request that has arrived as a whole."""
        # twisted.web ignores the trailer; a lenient server may find more lines in it.
        if any(_CONTROLS.search(line) for line in self.trailer):
            self.refuse(400, "a line of the request's trailer is malformed")
        self._line = self._head_size = self._headers = 0
        self._request_line = b""
        if not self._refused:
            super().allContentReceived()

    def malformed(self) -> None:
        """Refuse a request that twisted.web finds malformed."""
        self.refuse(400, "the request is malformed")

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write the head of a response."""
        self.transport.write(self.make_head(version, code, reason, headers))

    def make_head(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> bytes:
        """Return the head of a response with the headers that all share; without our version."""
        sets_own = bool(self.requests) and self.requests[0].sets_own_headers
        if not sets_own:
            headers.removeHeader(b"server")
        if code in (b"204", b"304"):
            # It would have to be the length of the page itself (RFC 9110 §8.6).
            headers.removeHeader(b"content-length")
        kind = headers.getRawHeaders(b"content-type", [b""])[0]
        if not headers.hasHeader(b"date"):
            headers.setRawHeaders(b"date", [date_of(int(self.site.policy.wall()))])
        shared: Mapping[bytes, bytes] = SHARED_HEADERS
        if sets_own:
            shared = {}
        elif kind.lower().startswith(_PAGES):
            shared = {**SHARED_HEADERS, **self.site.policy.page_headers}
        for name, value in shared.items():
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])
        lines = [
            b"%b: %b\r\n" % (name, value)
            for name, values in headers.getAllRawHeaders()
            for value in values
        ]
        return b"%b %b %b\r\n%b\r\n" % (version, code, reason, b"".join(lines))

    # What requests call

    @property
    def target(self) -> bytes:
        """The target of the request that is arriving (RFC 9112 §3.2)."""
        return self._request_line.split(b" ")[1]

    def refuse(
        self,
        status: int,
        reason: str,
        where: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer a request that cannot be handled, and close.

        :param where: the wrong part of the request, named in a JSON answer.
        :param headers: of the answer.
        """
        if self._refused:
            return
        self.site.log_refusal(peer_name(self.client), status, reason)
        answer = refusal(status, reason, headers)
        if where is not None and _JSON_PATHS.match(path_in(self.target)):
            answer = json_refusal(status, reason, where, headers)
        if self.requests and self.requests[0].body is not None:
            self.requests[0].break_off()
            if self.requests[0].startedWriting:
                self.transport.abortConnection()  # There is an answer, which cannot be completed.
                return
        self._answer_and_close(answer)

    def drop_rest(self) -> None:
        """Close after an answer, and drop the rest of the request's body, which nobody reads."""
        self._refused = True
        self._may_drop = _DROPPED_BODY
        self._close_side()

    def await_close(self) -> None:
        """Called after a refusal: gives the client the time to read it and to close."""

    def _refuse_target(self) -> None:
        self.refuse(414, "the address is too long")

    def _answer_and_close(self, answer: Response) -> None:
        """Write an answer and close, but read on: a reset could destroy the answer."""
        self._refused = True
        self._may_drop = _DROPPED_BODY if answer.status == 413 else _DROPPED_HEAD
        body = str(answer.body).encode()
        headers = Headers({"Connection": ["close"], "Content-Length": [str(len(body))]})
        for name, value in answer.headers.items():
            headers.setRawHeaders(name, [str(value)])
        for header, content in self._share().items():
            headers.setRawHeaders(header, [content])
        phrase = HTTPStatus(answer.status).phrase.encode()
        self.writeHeaders(b"HTTP/1.1", str(answer.status).encode(), phrase, headers)
        self.transport.write(body)
        self._close_side()

    def _close_side(self) -> None:
        """Close our side of the connection, and await that the client closes its own."""
        self.await_close()
        if self.read_ended or not closes_halfway(self.transport):
            super().loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _share(self) -> Mapping[bytes, bytes]:
        """Return the headers that let a page of an allowed origin read a refusal."""
        if self._head_lines:
            # What has arrived behind them is dropped otherwise.
            following = self.clearLineBuffer().split(b"\r\n") if self.line_mode else ()
            headers = read_early((*self._head_lines, *following))
        else:
            headers = self.requests[-1].requestHeaders if self.requests else RequestHeaders()
        request = EarlyRequest(self._request_line, headers)
        policy, address = self.site.policy, getattr(self.client, "host", None)
        scheme = policy.proxies.client(address, headers).scheme
        request.scheme = scheme or ("https" if self.isSecure() else "http")
        policy.share(request)
        return request.answer_headers
