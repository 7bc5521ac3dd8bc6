"""dwebsocket's API for Django views that ``twistd pushd --wsgi`` serves, and publishing."""

from pushd.django.publishing import last_id, publish
from pushd.django.views import (
    WebSocket,
    WebSocketMiddleware,
    accept_websocket,
    require_websocket,
)

__all__ = ["WebSocket", "WebSocketMiddleware", "accept_websocket", "last_id", "publish"]
__all__ += ["require_websocket"]
