"""A view's request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.sansio.http import parse_cookie

from pushd.access.tokens import Identity

# A view is called with a Request. It returns a str, bytes, Response, page(…), twisted.web resource
# or None, or a coroutine or Deferred of one. The exact type would reject blocking views without
# annotations, which most views that people port are.
View = Callable[[Any], Any]


class HeaderMap(Mapping[str, str]):
    """A request's headers by name, in any case; repeated headers are joined with a comma."""

    def __init__(self, headers: Headers) -> None:
        self._values = {
            name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in values)
            for name, values in headers.getAllRawHeaders()
        }

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A request to a view, over plain HTTP or for a WebSocket. It is immutable."""

    #: GET, HEAD, POST, …
    method: str
    #: The path of the URL, decoded: ``/chat/café/``.
    path: str
    #: ``http`` or ``https``; a WebSocket at ``wss:`` has ``https``.
    scheme: str
    #: The Host header: a name, and the port unless it is the default one.
    host: str
    #: The client, as ``address:port``.
    peer: str
    #: Where time comes from: for PushSchedule, ``task.deferLater`` and the like.
    clock: IReactorTime
    #: The part of the URL after the ``?``, not decoded.
    #: (It may hold a token, so it is not part of the repr.)
    query_string: str = field(default="", repr=False)
    #: The named parts of the path: ``{"room": "café"}`` for ``/chat/<room>/``.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: The body of a POST; empty for a WebSocket.
    body: bytes = b""
    #: The subprotocols that a WebSocket client offers, in its order of preference.
    subprotocols: tuple[str, ...] = ()
    #: The WebSocket, or None for plain HTTP. (A view that is a plain function gets a
    #: ``pushd.views.threads.BlockingWebSocket``.)
    websocket: Any = None
    #: What ``publish``, ``last_id`` and ``presence`` call. (In a view that is a plain function, it
    #: blocks.)
    publisher: Any = field(default=None, repr=False)
    #: The client's identity according to its token; None without a valid token.
    identity: Identity | None = None
    raw_headers: Headers = field(default_factory=Headers, repr=False)

    def is_websocket(self) -> bool:
        """Whether this is a request for a WebSocket."""
        return self.websocket is not None

    def publish(
        self,
        topic: str,
        data: str | bytes | dict[str, Any] | list[Any],
        *,
        event: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Any:
        """Publish to a topic, for all of its subscribers.

        A dict or list is published as JSON. ``event`` is the name under which event streams send
        it, for ``addEventListener`` in a browser.

        Without a time it is published at once, and the result is a Deferred of its id (in a
        blocking view, the id itself). With ``delay`` it is published that many seconds later, with
        ``at`` at that time, a ``datetime`` with a time zone, and with ``every`` repeatedly at that
        interval, ``count`` times; the result is a handle with ``cancel()``. If schedules are kept
        outside of this process, ``kept()`` of the handle is a Deferred that fires when it is, which
        a blocking view waits for.

        Raises ValueError for an invalid topic, event or time, and TypeError for data of another
        type.
        """
        return self.publisher.publish(
            topic, data, event=event, delay=delay, at=at, every=every, count=count
        )

    def last_id(self, topic: str) -> Any:
        """Return a Deferred of the id with which a page that is made now subscribes to a topic.

        In a blocking view, return the id itself. It is that of the topic's newest publication, or
        the one before the first; a subscription after it misses nothing, for as long as
        publications are kept. Raises ValueError for an invalid topic.
        """
        return self.publisher.last_id(topic)

    def presence(self, topic: str) -> Any:
        """Return a Deferred of who is present at a topic: its subjects, and their connections.

        In a blocking view, return the ``PresenceList`` itself. Raises ValueError for an invalid
        topic, and for one whose rule has no presence.
        """
        return self.publisher.presence(topic)

    def revoke(self, *, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject, on this node; return how many.

        The topic may be a pattern, as in tokens. With both, only the subscriptions of the subject
        to the topic end. Raises ValueError without either, or for a pattern that is not valid.
        """
        ended: int = self.publisher.revoke(topic, subject)
        return ended

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in any case."""
        return HeaderMap(self.raw_headers)

    @cached_property
    def query(self) -> ImmutableMultiDict[str, str]:
        """The query, decoded: ``query["room"]``, or ``query.getlist("room")`` for all values."""
        return ImmutableMultiDict(parse_qsl(self.query_string, keep_blank_values=True))

    @cached_property
    def cookies(self) -> ImmutableMultiDict[str, str]:
        """The cookies, by name."""
        values = self.raw_headers.getRawHeaders(b"cookie", ())
        text = "; ".join(value.decode(errors="replace") for value in values)
        return ImmutableMultiDict(parse_cookie(text))


def make_request(fields: dict[str, Any], **more: Any) -> Request:
    """Make a request from those of its fields that have no default, and some others.

    The constructor of an immutable object sets each field by a call, which takes five times as
    long.
    """
    request = object.__new__(Request)
    vars(request).update(fields, **more)
    return request


def fields_of(http: Any) -> dict[str, Any]:
    """Return the fields of a view's request that an HTTP request has by itself."""
    return {
        "method": http.method.decode("latin-1"),
        "scheme": http.scheme,
        "host": http.requestHeaders.last(b"Host") or "",
        "peer": http.peer,
        "query_string": http.uri.partition(b"?")[2].decode("latin-1") if b"?" in http.uri else "",
        "raw_headers": http.requestHeaders,
    }


def name_of(view: View) -> str:
    """Return a view's name for the log: its module and qualified name."""
    while isinstance(view, partial):
        view = view.func
    module = getattr(view, "__module__", None) or type(view).__module__
    name = getattr(view, "__qualname__", None) or type(view).__qualname__
    return f"{module}.{name}"
