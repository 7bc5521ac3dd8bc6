"""One HTTP request: its client, its target, the limits of its body (413), and its failures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from io import SEEK_END, BytesIO
from typing import Any, Protocol

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request

from pushd.access.admission import Slot
from pushd.access.closing import Closing
from pushd.access.memory import Usage
from pushd.protocols.http.body import BodyStream
from pushd.protocols.http.headers import (
    RequestHeaders,
    asks_for_websocket,
    decode_path,
    path_in,
    split_target,
)
from pushd.protocols.http.response import BUSY, write_failure, write_response

_log = Logger(namespace="pushd.protocols")

# Beyond this many chunks, a body must have this many bytes a chunk on average.
_FREE_CHUNKS = 4096
_MEAN_CHUNK = 16


class Stream(Protocol):
    """An answer that goes on for as long as its connection."""

    def count_held(self, usage: Usage) -> int:
        """Return the bytes that wait to be written; of what many hold, only once for a usage."""

    def break_off(self, closing: Closing) -> None:
        """End the answer at once, with what waits."""


class ChannelRequest(Request):
    """A request to a ``PushdSite``.

    It knows its client behind trusted proxies, holds its body to the limits, and discloses nothing
    of a failure.
    """

    channel: Any
    content: Any
    requestHeaders: RequestHeaders
    #: The client as ``address:port``, or its address alone if a trusted proxy forwards it.
    peer = "unknown"
    #: ``http`` or ``https``, as the client used it.
    scheme = "http"
    #: True for a WebSocket handshake, valid or not.
    wants_websocket = False
    #: True if the answer gets no headers from us, as an application sets its own.
    sets_own_headers = False
    #: The slot that a client behind a proxy takes of ``--max-per-address``.
    slot: Slot | None = None
    #: The id under which the control port lists this connection, if it does.
    connection: int | None = None
    #: False for a stream, whose end has a log line of its own.
    has_access_line = True
    #: Why it is refused, and which option or document helps: for the log only, and empty if it is
    #: not refused.
    why_refused = ""
    #: What answers it, if that has begun before it was routed; see ``AtOnce``.
    answered_by: IResource | None = None
    #: What answers it, if that is a stream.
    stream: Stream | None = None
    #: The body, if the request is answered while it arrives.
    body: BodyStream | None = None
    #: Called if the request is refused while it is answered, because of its body, and if its client
    #: leaves; ``notifyFinish`` would make a Deferred for each request.
    broken_off: Callable[[], object] = staticmethod(lambda: None)
    #: Ends a wait for news: called once the client has closed its side of the connection.
    end_waiting: Callable[[], object] = staticmethod(lambda: None)

    queued = 0
    _chunks = 0
    # When its last byte arrived, in seconds of the daemon's clock.
    _since: float | None = None

    def __init__(
        self, channel: Any, queued: object = 0, headers: RequestHeaders | None = None
    ) -> None:
        # Not that of twisted.web's request, which asks the kernel for our address each time.
        self.channel = channel
        self.transport = channel.transport
        self.client = channel.client
        self.requestHeaders = RequestHeaders() if headers is None else headers
        self.responseHeaders = Headers()
        self.cookies = []
        self.received_cookies = {}
        self.notifications = []
        Componentized.__init__(self)

    @cached_property
    def host(self) -> IAddress:
        """The local address of the connection."""
        address: IAddress = self.channel.getHost()
        return address

    def begin(self, body: BodyStream, line: bytes) -> None:
        """Answer a request whose body still arrives; ``line`` is its request line."""
        self.body = body
        self._read(*line.split(b" "))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Answer a request that has been received as a whole; ``path`` is its target."""
        if self.body is None:
            self._read(command, path, version)
        else:
            self.body.end()

    def _read(self, command: bytes, path: bytes, version: bytes) -> None:
        """Read the target of a request, and answer."""
        authority, target = (None, path) if path[:1] == b"/" else split_target(path)
        if authority is not None and self.requestHeaders.has_host(version):
            # It counts in place of Host (RFC 9112 §3.2.2); an empty one is made an invalid Host.
            self.requestHeaders.setRawHeaders(b"Host", [authority or b"/"])
        self.method, self.uri, self.clientproto = command, target, version
        self.path, _, query = target.partition(b"?")
        # For views that return twisted.web resources.
        segments = self.path[1:].split(b"/")
        if b"%" in self.path:
            segments = [decode_path(one) for one in segments]
        self.prepath, self.postpath = [], segments
        self.args = parse_qs(query, 1) if query else {}
        if self.content is None:
            self.content = BytesIO()
        elif self.content.tell():
            # The buffer has grown in steps. This makes it as long as the body; read() shares it.
            self.content.getvalue()
            self.content.seek(0)
        self.process()

    def begin_again(self) -> None:
        """Begin anew, as if the same head had been read again; see ``Channel.expect_after``."""
        self._since = self.channel.site.reactor.seconds()
        self.sentLength = 0
        self.channel.handle(self)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Write a whole response at once, in place of ``write``; ``finish`` must be called later.

        :param head: all of it, with the line of the status, that of the date, and an empty line.
        """
        self.startedWriting = 1
        self.sentLength = len(body)
        self.channel.write_whole(head + body)

    def make_head(self) -> bytes:
        """Return the head of the response, in HTTP/1.1: its status, and the headers set so far."""
        code, headers = b"%d" % self.code, self.responseHeaders
        head: bytes = self.channel.make_head(b"HTTP/1.1", code, self.code_message, headers)
        return head

    def process(self) -> None:
        """Identify the client, take its slot, and answer."""
        site = self.site = self.channel.site
        self._since = site.reactor.seconds()
        # In HTTP/1.0 there is no Upgrade, and the header must be ignored (RFC 9110 §7.8).
        self.wants_websocket = self.clientproto != b"HTTP/1.0" and asks_for_websocket(
            self.requestHeaders
        )
        if site.policy.proxies.none_trusted:
            self.scheme = "https" if self.channel.isSecure() else "http"
            self.peer = peer_name(self.client)
            self._answer()
            return
        address = getattr(self.client, "host", None)
        client = site.policy.proxies.client(address, self.requestHeaders)
        self.scheme = client.scheme or ("https" if self.channel.isSecure() else "http")
        if client.address == (address or "unix"):
            self.peer = peer_name(self.client)
        else:
            self.peer = client.address
            self.slot = slot = site.policy.admission.admit_client(client.address)
            if slot is None:
                site.count_refusal(503)
                self.why_refused = site.policy.admission.reached(connection=False)
                site.policy.share(self)
                write_response(self, BUSY)
                return
            self.notifyFinish().addBoth(lambda _: slot.release())
            if self._is_delayed():
                return
        self._answer()

    def _is_delayed(self) -> bool:
        """Delay the answer for a client behind a proxy if its address comes too often."""
        site, accepted = self.channel.site, self.getHeader(b"accept") or b""
        if self.wants_websocket or b"text/event-stream" in accepted.lower():
            site.policy.throttle.count(self.peer)
        seconds = site.policy.throttle.delay(self.peer)
        if not seconds:
            return False
        call = site.reactor.callLater(seconds, self._answer)
        self.notifyFinish().addBoth(lambda _: call.cancel() if call.active() else None)
        return True

    def _answer(self) -> None:
        site = self.channel.site
        if self.path == b"*":
            self._answer_star()
            return
        try:
            self.render(self.answered_by or site.getResourceFor(self))
        except BaseException:
            self.processingFailed(Failure())

    def _answer_star(self) -> None:
        """Answer a request for the server itself, which may be OPTIONS only (RFC 9110 §9.3.7)."""
        if self.method != b"OPTIONS":
            self.setResponseCode(405)
            self.setHeader(b"Allow", b"OPTIONS")
        self.setHeader(b"Content-Length", b"0")
        self.finish()

    def __repr__(self) -> str:
        """Show the path without its query, which may hold a token."""
        asked = path_of(self) if self.path else "not read yet"
        return f"<{type(self).__name__} {asked}>"

    def header(self, name: bytes) -> str | None:
        """Return the last value of a header, decoded as Latin-1, as its bytes may be any."""
        value = self.getHeader(name)
        return None if value is None else value.decode("latin-1")

    def gotLength(self, length: int | None) -> None:
        """Refuse a body whose length is too large before it arrives."""
        super().gotLength(length)
        if length is not None and not self._allow_size(length):
            # Else twisted.web would ask for the body, with 100 Continue.
            self.requestHeaders.removeHeader(b"Expect")

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body, whose length may not have been given before."""
        body = self.body
        size = len(data) + (self.content.tell() if body is None else body.arrived)
        self._chunks += 1
        if not self._allow_size(size):
            return
        if self._chunks > _FREE_CHUNKS and size < self._chunks * _MEAN_CHUNK:
            self.channel.refuse(400, "the body has too many tiny chunks", "body")
        elif body is not None:
            body.put(data)
        else:
            super().handleContentChunk(data)

    @property
    def body_bytes(self) -> int:
        """How many bytes of the body are kept."""
        if self.body is not None:
            return self.body.kept
        content = self.content
        if content is None or content.closed:
            return 0
        # Not getbuffer(), which would copy a body that read() has shared with a view.
        position = content.tell()
        size: int = content.seek(0, SEEK_END)
        content.seek(position)
        return size

    @property
    def is_body_full(self) -> bool:
        """Whether reading pauses until what answers has read more of the body."""
        return self.body is not None and self.body.full

    @property
    def arrived_bytes(self) -> int:
        """How many bytes of the body have arrived."""
        return self.body_bytes if self.body is None else self.body.arrived

    @property
    def begun(self) -> bool:
        """Whether its answer has begun, or is waited for."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds since its last byte arrived."""
        now: float = self.channel.site.reactor.seconds()
        return now - (now if self._since is None else self._since)

    def break_off(self) -> None:
        """Tell what answers that the request is refused: nothing that it writes is sent."""
        assert self.body is not None
        self.body.clear()
        self.broken_off()

    def connectionLost(self, reason: Failure) -> None:
        """Log that the client left before it was answered."""
        if self.begun:
            self.channel.site.log_left(self)
        self.broken_off()
        super().connectionLost(reason)

    def _allow_size(self, size: int) -> bool:
        """Return whether a body may have this size; refuse the request if not."""
        policy, path = self.channel.site.policy, path_in(self.channel.target)
        limit = policy.body_limit(path)
        if size > limit:
            reason = f"body must be at most {limit} bytes ({policy.body_option(path)}); got {size}"
            self.channel.refuse(413, reason, "body")
        return bool(size <= limit)

    def processingFailed(self, reason: Failure) -> None:
        """Log an exception that was raised by what answers, and answer 500 if still possible."""
        _log.failure(
            "failed to answer {method} {path} for {peer}",
            failure=reason,
            event="request_failed",
            method=self.method.decode("latin-1"),
            path=path_of(self),
            peer=self.peer,
        )
        write_failure(self)


def peer_name(address: Any) -> str:
    """Return an address for the log: ``127.0.0.1:80``, ``[::1]:80``, or ``unix``."""
    try:
        host, port = address.host, address.port
    except AttributeError:
        return "unix"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def path_of(request: Any) -> str:
    """Return the path of a request for the log: without its query, in printable ASCII."""
    return ascii(request.path.decode("latin-1"))[1:-1]
