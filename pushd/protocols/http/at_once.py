"""Requests that are answered at once: a fast path past the machinery of twisted.web.

A publisher's POST arrives in one piece, and its answer is known within the same call. twisted.web
makes a request of fifty attributes for it, reads it line by line, and writes its answer in two
pieces, each of which waits until the reactor finds the socket writable. Here it is one function
call and one system call: a POST at the control port takes a fifth of the CPU.

Only successes are answered here. A site's ``AtOnce`` returns None for whatever is unusual or wrong,
before anything has happened; that is left to the long way, which has the last word on every error.
It returns a resource for what it has begun and takes time, such as a publication through Redis: the
request goes the long way then, but is not routed and checked again.
``channel`` takes this path if whole requests may be read at once (``pushd.protocols.fast_paths``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any, cast

from twisted.internet.interfaces import IAddress
from twisted.web.resource import IResource, Resource

from pushd.protocols.cork import Cork
from pushd.protocols.http.headers import RequestHeaders, WholeRequest
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.response import JSON_HEADERS
from pushd.protocols.http.strict import SHARED_HEADERS, date_of

# The head of every answer, but for its Date and its length.
_HEAD = b"".join(
    [
        b"HTTP/1.1 200 OK\r\n",
        *(f"{name}: {value}\r\n".encode() for name, value in JSON_HEADERS.items()),
        *(b"%b: %b\r\n" % (name.title(), value) for name, value in SHARED_HEADERS.items()),
    ]
)

#: Returned in place of what will answer a request, if it has been answered.
ANSWERED: IResource = cast(Any, Resource())

# Headers that change what an answer means for its connection.
_UNUSUAL = frozenset({b"Upgrade"})


class RequestAtOnce:
    """A request that arrived whole, as guards, resources and the access log see requests."""

    __slots__ = (
        *("_channel", "_since", "clientproto", "content", "method", "path"),
        *("peer", "requestHeaders", "sentLength", "why_refused"),
    )

    args: Mapping[bytes, list[bytes]] = MappingProxyType({})
    code = 200
    connection = None
    has_access_line = True
    wants_websocket = False

    def __init__(self, whole: WholeRequest, channel: Any, since: float) -> None:
        # A target with a query is not a path: such a request is not answered at once.
        self.method, self.path, self.requestHeaders, body = whole
        self.content = BytesIO(body)
        self.clientproto = b"HTTP/1.1"
        self.peer = peer_name(channel.client)
        self.sentLength = 0
        self.why_refused = ""
        self._channel = channel
        self._since = since

    @property
    def seconds(self) -> float:
        """Seconds since it arrived."""
        now: float = self._channel.site.reactor.seconds()
        return now - self._since

    def getHost(self) -> IAddress:
        """Return the local address of the connection."""
        host: IAddress = self._channel.getHost()
        return host


class AtOnce:
    """Answers what a site can answer at once, with JSON and status 200.

    :param answer: returns the text of the answer; a resource that will answer, if that has begun;
        None to leave a request to the long way. What has begun must not be refused on the long way:
        there, only clients behind trusted proxies can be, and a site with ``AtOnce`` has none.
    :param cork: holds answers back, to hand those of many connections to the kernel together.
    :param wall: the time of day, in seconds since 1970.
    """

    def __init__(
        self,
        answer: Callable[[RequestAtOnce], str | IResource | None],
        cork: Cork,
        wall: Callable[[], float],
    ) -> None:
        self.answer = answer
        self.cork = cork
        self._wall = wall
        # The second of the Date, and the head with it.
        self._second = -1
        self._head = b""

    def write_head(self, length: int) -> bytes:
        """Return the head of an answer."""
        second = int(self._wall())
        if second != self._second:
            self._second = second
            self._head = b"%bDate: %b\r\nContent-Length: " % (_HEAD, date_of(second))
        return b"%b%d\r\n\r\n" % (self._head, length)


def keeps_open(headers: RequestHeaders) -> bool:
    """Return whether a request says nothing about its connection but that it stays open."""
    if not _UNUSUAL.isdisjoint(headers.raw):
        return False
    options = headers.values(b"Connection")
    return not options or [one.lower() for one in options] == [b"keep-alive"]
