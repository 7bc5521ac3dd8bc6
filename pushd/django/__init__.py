"""dwebsocket's API for Django views, served by ``twistd pushd --wsgi``."""

from pushd.django.views import (
    WebSocket,
    WebSocketMiddleware,
    accept_websocket,
    publish,
    require_websocket,
)

__all__ = ["WebSocket", "WebSocketMiddleware", "accept_websocket", "publish", "require_websocket"]
