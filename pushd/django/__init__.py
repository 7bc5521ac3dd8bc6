"""dwebsocket's API for Django views that ``twistd pushd --wsgi`` serves."""

from pushd.django.publishing import publish
from pushd.django.views import (
    WebSocket,
    WebSocketMiddleware,
    accept_websocket,
    require_websocket,
)

__all__ = ["WebSocket", "WebSocketMiddleware", "accept_websocket", "publish", "require_websocket"]
