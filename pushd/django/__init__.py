"""Django sites that pushd serves: decorators for views with WebSockets, and topics."""

from pushd.access.permissions import Permission
from pushd.django.asgi import get_asgi_application
from pushd.django.async_websocket import AsyncWebSocket
from pushd.django.authorizing import revoke
from pushd.django.publishing import last_id, publish
from pushd.django.views import (
    WebSocket,
    WebSocketMiddleware,
    accept_websocket,
    require_websocket,
)
from pushd.errors import NotPermitted

__all__ = ["AsyncWebSocket", "NotPermitted", "Permission", "WebSocket", "WebSocketMiddleware"]
__all__ += ["accept_websocket", "get_asgi_application", "last_id", "publish", "require_websocket"]
__all__ += ["revoke"]
