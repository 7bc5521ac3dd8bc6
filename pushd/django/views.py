"""dwebsocket's API for Django views that pushd serves, and its decorators for ``async def`` views.

A view that was written for dwebsocket only needs another import, and ``--wsgi``. An ``async def``
view has an ``AsyncWebSocket`` in its place, and needs ``--asgi``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string
from django.views import View

from pushd.access.closing import NORMAL
from pushd.django.asgi import Handshake
from pushd.django.async_websocket import AsyncWebSocket
from pushd.errors import ConversationOver, NoMoreMessages
from pushd.topics.presence import PresenceList
from pushd.views.threads import BlockingWebSocket

__all__ = ["WebSocket", "WebSocketMiddleware", "accept_websocket", "require_websocket"]

ViewFunction = TypeVar("ViewFunction", bound=Callable[..., Any])

_TEXT = "text/plain; charset=utf-8"


class WebSocket:
    """A view's ``request.websocket``: dwebsocket's methods, each of which blocks.

    Messages are bytes, whether they were sent as text or binary. At the end of the conversation
    ``wait`` returns what arrived before, then None once, and after that raises EOFError; ``send``,
    ``close`` and ``subscribe`` do nothing.
    """

    def __init__(self, websocket: BlockingWebSocket) -> None:
        self._websocket = websocket
        self._end_seen = False

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was negotiated, or None."""
        return self._websocket.subprotocol

    @property
    def close_code(self) -> int | None:
        """How the conversation ended; see ``pushd.views.WebSocket.close_code``."""
        return self._websocket.close_code

    @property
    def close_reason(self) -> str:
        """The reason that the side gave that closed first, or an empty text."""
        return self._websocket.close_reason

    @property
    def closed(self) -> bool:
        """The same as ``is_closed()``."""
        return self.is_closed()

    def accept_connection(self, subprotocol: str | None = None) -> None:
        """Accept the handshake now, if it is not yet; see ``pushd.views.WebSocket.accept``."""
        self._websocket.accept(subprotocol)

    accept = accept_connection

    def wait(self, timeout: float | None = None) -> bytes | None:
        """Wait for the next message; return None at the end, or after ``timeout`` seconds.

        Raises EOFError after the end.
        """
        try:
            message = self._websocket.wait(timeout)
        except TimeoutError:
            return None
        if message is None:
            if self._end_seen:
                raise NoMoreMessages("the conversation is over")
            self._end_seen = True
        return message.encode() if isinstance(message, str) else message

    def read(self, fallback: Any = None) -> Any:
        """Return the next message if one has arrived, else the fallback; never wait."""
        return self.wait() if self.has_messages() else fallback

    def count_messages(self) -> int:
        """Return the number of unread messages; the end counts as one."""
        ended = self.is_closed() and not self._end_seen
        return self._websocket.count_messages() + ended

    def has_messages(self) -> bool:
        """Whether there are unread messages; the end counts as one."""
        return self.count_messages() > 0

    def send(
        self, message: str | bytes | bytearray | memoryview | None, *, binary: bool = False
    ) -> None:
        """Send a message as text, or with ``binary=True`` as binary.

        None, which iteration yields at the end, is not sent. Raises ValueError for text that is not
        UTF-8, and TypeError for data that is neither ``str`` nor bytes.
        """
        if message is not None:
            self._websocket.send(message, binary=binary)

    def close(self, code: int | None = None, reason: str | bytes | None = None) -> None:
        """Close the WebSocket; return when the connection is closed."""
        text = reason.decode() if isinstance(reason, bytes) else reason
        self._websocket.close(NORMAL.code if code is None else code, text or "")

    def is_closed(self) -> bool:
        """Whether either side has closed, or the connection is lost."""
        return self._websocket.is_closed()

    def subscribe(self, topic: str, after: str | None = None) -> bool:
        """Subscribe the browser to a topic; see ``pushd.views.WebSocket.subscribe``."""
        return self._websocket.subscribe(topic, after)

    def presence(self, topic: str) -> PresenceList:
        """Return who is present at a topic; see ``pushd.views.WebSocket.presence``."""
        return self._websocket.presence(topic)

    def unsubscribe(self, topic: str) -> None:
        """End the browser's subscription to a topic."""
        self._websocket.unsubscribe(topic)

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError, for dwebsocket's ``protocol`` with the way to do without it."""
        if name == "protocol":
            raise AttributeError(
                "pushd.django gives no access to the socket: to wait for messages and for "
                "something else, see 'Waiting for two things' in docs/django.md"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[bytes | None]:
        """Yield every message, and None at the end."""
        while True:
            message = self.wait()
            yield message
            if message is None:
                return


def accept_websocket(view: ViewFunction) -> ViewFunction:
    """Let a view serve WebSockets as well as plain HTTP, where ``request.websocket`` is None.

    The handshake is accepted before the view is called; if the browser offers subprotocols, only
    at the first use of the WebSocket, so that the view can ``accept("name")``. Decorators that may
    refuse a request, such as ``login_required``, belong above this one.
    """
    return _decorate(view, required=False)


def require_websocket(view: ViewFunction) -> ViewFunction:
    """Let a view serve WebSockets only; plain HTTP is answered with 426 (RFC 9110 §15.5.22)."""
    return _decorate(view, required=True)


class WebSocketMiddleware:
    """Gives every request ``is_websocket()`` and ``websocket``.

    A handshake for a view without decorator is answered with 400, unless the setting
    WEBSOCKET_ACCEPT_ALL is true: then every view serves WebSockets.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._accept_all = getattr(settings, "WEBSOCKET_ACCEPT_ALL", False)
        if self._accept_all:
            _check_last()
        self.process_view: Callable[..., Any] = self._process_view
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            self.process_view = self._process_async_view

    def __call__(self, request: HttpRequest) -> Any:
        """Handle a request; under ASGI, return a coroutine that does."""
        _attach(request)
        return self._get_response(request)

    def _process_view(
        self, request: Any, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        """Refuse a handshake for a view without decorator, or decorate the view."""
        if request.websocket is None or getattr(view, "accept_websocket", False):
            return None
        if not self._accept_all:
            return _refusal(400, "this URL does not serve WebSockets")
        if iscoroutinefunction(view):
            return _needs_asgi()
        return cast(HttpResponse, accept_websocket(view)(request, *args, **kwargs))

    async def _process_async_view(
        self, request: Any, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        """Do the same under ASGI."""
        if request.websocket is None or getattr(view, "accept_websocket", False):
            return None
        if not self._accept_all:
            return _refusal(400, "this URL does not serve WebSockets")
        if not iscoroutinefunction(view):
            return _needs_async()
        return cast(HttpResponse, await accept_websocket(view)(request, *args, **kwargs))


def _decorate(view: ViewFunction, *, required: bool) -> ViewFunction:
    @wraps(view)
    async def decorated_async(request: Any, *args: Any, **kwargs: Any) -> Any:
        _attach(request)
        if request.websocket is None:
            return _upgrade_required(request) if required else await view(request, *args, **kwargs)
        if not isinstance(request.websocket, AsyncWebSocket):
            return _needs_asgi()
        # It is called when the middleware is done.
        return Handshake(partial(view, request, *args, **kwargs))

    @wraps(view)
    def decorated(request: Any, *args: Any, **kwargs: Any) -> Any:
        _attach(request)
        if request.websocket is None:
            return _upgrade_required(request) if required else view(request, *args, **kwargs)
        if isinstance(request.websocket, AsyncWebSocket):
            return _needs_async()
        if "HTTP_SEC_WEBSOCKET_PROTOCOL" not in request.META:
            request.websocket.accept_connection()
        try:
            answer = view(request, *args, **kwargs)
        except (ConversationOver, NoMoreMessages):
            # Not passed on, so that decorators and middleware end as usual.
            answer = None
        return HttpResponse() if answer is None else answer

    wrapper: Any = decorated_async if _is_async(view) else decorated
    wrapper.accept_websocket = True  # The middleware looks for it.
    return cast(ViewFunction, wrapper)


def _is_async(view: Callable[..., Any]) -> bool:
    """Whether a view is ``async def``, or the ``dispatch`` of a class whose methods are."""
    if iscoroutinefunction(view):
        return True
    one: Any = view
    while one is not None:
        # What ``method_decorator`` decorates is a partial of a bound method.
        owner = getattr(one.func if isinstance(one, partial) else one, "__self__", None)
        if isinstance(owner, View):
            return bool(owner.view_is_async)
        one = getattr(one, "__wrapped__", None)
    return False


def _attach(request: Any) -> None:
    """Give a request ``is_websocket()`` and ``websocket``, unless it has them."""
    if not hasattr(request, "websocket"):
        websocket = request.META.get("pushd.websocket")
        request.is_websocket = lambda: websocket is not None
        if isinstance(websocket, BlockingWebSocket):
            websocket = WebSocket(websocket)
        request.websocket = websocket


def _upgrade_required(request: Any) -> HttpResponse:
    if request.META.get("HTTP_UPGRADE", "").lower() == "websocket":
        # Another server runs this application.
        return _refusal(501, "this server does not support WebSockets: use twistd pushd --wsgi")
    return _refusal(426, "this URL serves WebSockets only")


def _needs_asgi() -> HttpResponse:
    return _refusal(501, "this view is async def: serve the site with twistd pushd --asgi")


def _needs_async() -> HttpResponse:
    return _refusal(
        501, "this view is a plain def: under --asgi, a view that serves WebSockets is async def"
    )


def _refusal(status: int, line: str) -> HttpResponse:
    return HttpResponse(f"{line}\n", status=status, content_type=_TEXT)


def _check_last() -> None:
    """Raise ImproperlyConfigured if a later middleware could refuse a view.

    WebSocketMiddleware itself calls views without decorator, before later ``process_view`` hooks.
    """
    middleware = [(name, import_string(name)) for name in settings.MIDDLEWARE]
    own = [number for number, (_, one) in enumerate(middleware) if one is WebSocketMiddleware]
    for name, one in middleware[own[0] + 1 :] if own else middleware:
        if hasattr(one, "process_view") and one is not WebSocketMiddleware:
            raise ImproperlyConfigured(
                f"pushd.django.WebSocketMiddleware must come after {name} in MIDDLEWARE"
            )
