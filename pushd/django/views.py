"""dwebsocket's names for Django views, on a daemon that serves them: ``twistd pushd --wsgi``.

A view that was written for dwebsocket needs its import line changed and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import iscoroutine, iscoroutinefunction
from typing import Any, TypeVar, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string

from pushd.access.closing import NORMAL
from pushd.errors import ConversationOver
from pushd.views.inprocess import publish
from pushd.views.request import name_of
from pushd.views.threads import BlockingWebSocket

__all__ = ["WebSocket", "WebSocketMiddleware", "accept_websocket", "publish", "require_websocket"]

View = TypeVar("View", bound=Callable[..., Any])

_TEXT = "text/plain; charset=utf-8"


class WebSocket:
    """What a view holds as ``request.websocket``: dwebsocket's names, and each call blocks.

    Messages are bytes, whether they came as text or binary. The end of the conversation is told
    once, as None; a view that goes on is ended at its next ``wait`` or ``send``.
    """

    def __init__(self, websocket: BlockingWebSocket) -> None:
        self._websocket = websocket
        self._told = False

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, or None."""
        return self._websocket.subprotocol

    @property
    def closed(self) -> bool:
        """The same as ``is_closed()``."""
        return self.is_closed()

    def accept_connection(self, subprotocol: str | None = None) -> None:
        """Open the connection now, if it is not; see ``pushd.websocket.WebSocket.accept``."""
        self._websocket.accept(subprotocol)

    accept = accept_connection

    def wait(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next message; None when the conversation is over, or time is up."""
        try:
            message = self._websocket.wait(timeout)
        except TimeoutError:
            return None
        self._told = message is None
        return message.encode() if isinstance(message, str) else message

    def read(self, fallback: Any = None) -> Any:
        """Give the next message if one is here, else the fallback; never wait for one."""
        return self.wait() if self.has_messages() else fallback

    def count_messages(self) -> int:
        """How many messages wait to be read; the end counts as one."""
        ended = self.is_closed() and not self._told
        return self._websocket.count_messages() + ended

    def has_messages(self) -> bool:
        """Whether a message, or the end, waits to be read."""
        return self.count_messages() > 0

    def send(self, message: str | bytes | None, *, binary: bool = False) -> None:
        """Send one text frame, of bytes or str, or with ``binary=True`` a binary one.

        None, as iteration gives it at the end, sends nothing. Raises ValueError for text that
        is not UTF-8, and TypeError for what is neither.
        """
        if message is not None:
            self._websocket.send(message, binary=binary)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Close the conversation; return when the connection is gone."""
        self._websocket.close(NORMAL.code if code is None else code, reason or "")

    def is_closed(self) -> bool:
        """Whether either side has closed or vanished."""
        return self._websocket.is_closed()

    def subscribe(self, topic: str, after: str | None = None) -> bool:
        """Let the browser have what is published to a topic, past the view."""
        return self._websocket.subscribe(topic, after)

    def unsubscribe(self, topic: str) -> None:
        """Let the browser have no more of a topic."""
        self._websocket.unsubscribe(topic)

    def __iter__(self) -> Iterator[bytes | None]:
        """Every message, and None at the end."""
        while True:
            message = self.wait()
            yield message
            if message is None:
                return


def accept_websocket(view: View) -> View:
    """Let a view serve WebSockets beside plain HTTP, where ``request.websocket`` is None.

    The WebSocket is open when the view begins; where the browser offers subprotocols, at first
    use, so that the view may ``accept("name")``. What may refuse stands in front of this.
    """
    return _decorate(view, required=False)


def require_websocket(view: View) -> View:
    """Let a view serve WebSockets only: plain HTTP gets 426 (RFC 9110 §15.5.22)."""
    return _decorate(view, required=True)


class WebSocketMiddleware:
    """Gives every request its ``is_websocket()`` and ``websocket``.

    A handshake at a view that has no decorator is answered with 400, unless the setting
    WEBSOCKET_ACCEPT_ALL is true: then every view serves WebSockets.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._accept_all = getattr(settings, "WEBSOCKET_ACCEPT_ALL", False)
        if self._accept_all:
            _check_last()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        _attach(request)
        return self._get_response(request)

    def process_view(
        self, request: Any, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        """Refuse a handshake for a view that takes none, or let it take one all the same."""
        if request.websocket is None or getattr(view, "accept_websocket", False):
            return None
        if not self._accept_all:
            return _refusal(400, "there is no WebSocket at this address")
        return cast(HttpResponse, accept_websocket(view)(request, *args, **kwargs))


def _decorate(view: View, *, required: bool) -> View:
    if iscoroutinefunction(view):
        raise TypeError(
            f"{name_of(view)} is async def: pushd.django takes plain def, and serves async "
            "views as they are with --views (see docs/views.md)"
        )

    @wraps(view)
    def decorated(request: Any, *args: Any, **kwargs: Any) -> Any:
        _attach(request)
        if request.websocket is None:
            return _upgrade_required(request) if required else view(request, *args, **kwargs)
        if "HTTP_SEC_WEBSOCKET_PROTOCOL" not in request.META:
            request.websocket.accept_connection()
        try:
            answer = view(request, *args, **kwargs)
        except ConversationOver:
            # Ended here, so that all that stands around the view ends as usual.
            answer = None
        if iscoroutine(answer):
            answer.close()
            raise TypeError(f"{name_of(view)} is async, which pushd.django does not take")
        return HttpResponse() if answer is None else answer

    decorated.accept_websocket = True  # type: ignore[attr-defined] # the middleware looks for it
    return cast(View, decorated)


def _attach(request: Any) -> None:
    """Give a request what dwebsocket gave it, once."""
    if not hasattr(request, "websocket"):
        websocket = request.META.get("pushd.websocket")
        request.websocket = None if websocket is None else WebSocket(websocket)
        request.is_websocket = lambda: websocket is not None


def _upgrade_required(request: Any) -> HttpResponse:
    if request.META.get("HTTP_UPGRADE", "").lower() == "websocket":
        # It came by another server, which does not hand on what it takes.
        return _refusal(501, "this server speaks no WebSocket: twistd pushd --wsgi does")
    return _refusal(426, "this address speaks WebSocket only")


def _refusal(status: int, line: str) -> HttpResponse:
    return HttpResponse(f"{line}\n", status=status, content_type=_TEXT)


def _check_last() -> None:
    """See to it that nobody who has a say in what view may be called comes after us.

    A view that has no decorator is called by our middleware itself, past those.
    """
    middleware = [(name, import_string(name)) for name in settings.MIDDLEWARE]
    own = [number for number, (_, one) in enumerate(middleware) if one is WebSocketMiddleware]
    for name, one in middleware[own[0] + 1 :] if own else middleware:
        if hasattr(one, "process_view") and one is not WebSocketMiddleware:
            raise ImproperlyConfigured(
                f"pushd.django.WebSocketMiddleware must come after {name} in MIDDLEWARE"
            )
