"""Django sites that ``twistd pushd --wsgi`` serves: dwebsocket's API for views, and topics."""

from pushd.access.permissions import Permission
from pushd.django.authorizing import revoke
from pushd.django.publishing import last_id, publish
from pushd.django.views import (
    WebSocket,
    WebSocketMiddleware,
    accept_websocket,
    require_websocket,
)
from pushd.errors import NotPermitted

__all__ = ["NotPermitted", "Permission", "WebSocket", "WebSocketMiddleware", "accept_websocket"]
__all__ += ["last_id", "publish", "require_websocket", "revoke"]
