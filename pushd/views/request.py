"""What a view is, what it is asked and what it may answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.sansio.http import parse_cookie

from pushd.access.tokens import Identity

# A view is called with a Request. What it may return is told in Answer; an async view returns
# a coroutine of that. Its exact type would refuse the blocking views that are annotated with
# nothing at all, as the ones that people port are.
View = Callable[[Any], Any]
# A decorated function may be a method, or be given more arguments by a partial.
AnyView = TypeVar("AnyView", bound=Callable[..., Any])


class Handshakes(Enum):
    """What a view does with a WebSocket handshake."""

    REFUSED = "the view speaks plain HTTP"
    ACCEPTED = "the view speaks both"
    REQUIRED = "the view speaks nothing else"


class HeaderMap(Mapping[str, str]):
    """Headers of a request by name, upper or lower case; repeated ones joined by a comma."""

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
    """What a browser asks of a view. It does not change."""

    #: GET, HEAD, POST, …
    method: str
    #: The path of the URL, decoded: ``/chat/café/``.
    path: str
    #: ``http`` or ``https``; a WebSocket at ``wss:`` has ``https``.
    scheme: str
    #: The Host header: the name, and the port where it is not the usual one.
    host: str
    #: Who asks, as ``address:port``.
    peer: str
    #: Where time comes from: for PushSchedule, ``task.deferLater`` and the like.
    clock: IReactorTime
    #: What stands behind the ``?``, as it came.
    #: (A token may be in it, so it is not shown with the rest.)
    query_string: str = field(default="", repr=False)
    #: The named parts of the path: ``{"room": "café"}`` for ``/chat/<room>/``.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: The body of a POST; empty with a WebSocket.
    body: bytes = b""
    #: The subprotocols that a WebSocket client offers, the one it likes best first.
    subprotocols: tuple[str, ...] = ()
    #: The conversation, or None when this is plain HTTP. (Of a type that suits the view: plain
    #: functions get a ``pushd.threads.BlockingWebSocket``.)
    websocket: Any = None
    #: What ``publish`` goes to. (Of a type that suits the view, as with ``websocket``.)
    publisher: Any = field(default=None, repr=False)
    #: Who asks, as a token says that is good; None without one.
    identity: Identity | None = None
    raw_headers: Headers = field(default_factory=Headers, repr=False)

    def is_websocket(self) -> bool:
        """Whether the browser asks for a WebSocket."""
        return self.websocket is not None

    def publish(
        self,
        topic: str,
        data: str | bytes,
        *,
        delay: float | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Any:
        """Publish to a topic: everybody who listens to it hears.

        Without a time it is published now, and a Deferred fires with its id (in a view that
        blocks, the id is returned). With ``delay``, or ``every`` and ``count``, it is published
        later or that often, in seconds, and a handle is returned that has ``cancel()``.

        Raises ValueError for what is no topic or no time, and TypeError for what is no data.
        """
        return self.publisher.publish(topic, data, delay=delay, every=every, count=count)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in upper or lower case."""
        return HeaderMap(self.raw_headers)

    @cached_property
    def query(self) -> ImmutableMultiDict[str, str]:
        """The query, decoded: ``query["room"]`` is the first, ``query.getlist("room")`` all."""
        return ImmutableMultiDict(parse_qsl(self.query_string, keep_blank_values=True))

    @cached_property
    def cookies(self) -> ImmutableMultiDict[str, str]:
        """The cookies, by name."""
        values = self.raw_headers.getRawHeaders(b"cookie", ())
        text = "; ".join(value.decode(errors="replace") for value in values)
        return ImmutableMultiDict(parse_cookie(text))


def accept_websocket(view: AnyView) -> AnyView:
    """Let a view serve WebSockets beside plain HTTP, where ``request.websocket`` is None."""
    return _decorate(view, "pushd_handshakes", Handshakes.ACCEPTED)


def require_websocket(view: AnyView) -> AnyView:
    """Let a view serve WebSockets only: plain HTTP gets 426 (RFC 9110 §15.5.22)."""
    return _decorate(view, "pushd_handshakes", Handshakes.REQUIRED)


def require_token(view: AnyView) -> AnyView:
    """Let only those have a view who come with a good token: others get 401 (RFC 6750 §3).

    The view finds out who it is in ``request.identity``. Where no ``--token-key`` is given, nobody
    has a good one.
    """
    return _decorate(view, "pushd_token", True)


def heed_tokens(view: AnyView) -> AnyView:
    """Let everybody have a view, but where ``--token-key`` is given those with a good token only.

    There ``request.identity`` says who it is; elsewhere it is None.
    """
    return _decorate(view, "pushd_token", False)


def _decorate(view: AnyView, name: str, value: object) -> AnyView:
    if isinstance(view, type) or not hasattr(view, "__dict__"):
        raise TypeError(f"a view is a function or an object that can be called, not {view!r}")
    view.__dict__[name] = value
    return view


def handshakes_of(view: View) -> Handshakes:
    """What a view has been decorated to do with a handshake."""
    handshakes = _decoration(view, "pushd_handshakes")
    return handshakes if isinstance(handshakes, Handshakes) else Handshakes.REFUSED


def needs_token(view: View, *, has_keys: bool) -> bool:
    """Whether a view has been decorated to be for those only who have a token.

    :param has_keys: whether there are keys, so that anybody may have one.
    """
    always = _decoration(view, "pushd_token")
    return always is True or (always is False and has_keys)


def _decoration(view: View, name: str) -> object:
    while isinstance(view, partial) and name not in view.__dict__:
        view = view.func
    found = getattr(view, name, None)
    return found if found is not None else getattr(type(view).__call__, name, None)


def name_of(view: View) -> str:
    """What a view is called in the log: its module and name."""
    while isinstance(view, partial):
        view = view.func
    module = getattr(view, "__module__", None) or type(view).__module__
    name = getattr(view, "__qualname__", None) or type(view).__qualname__
    return f"{module}.{name}"
