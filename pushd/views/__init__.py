"""Views: what users of pushd write, and how it is run."""

from pushd.access.permissions import Permission
from pushd.errors import NotPermitted, RpcError, Unavailable
from pushd.protocols.http.response import Page, Response, page
from pushd.protocols.websocket.socket import WebSocket
from pushd.views.decorators import accept_websocket, heed_tokens, require_token, require_websocket
from pushd.views.inprocess import last_id, publish, revoke
from pushd.views.request import Request
from pushd.views.responses import json_response
from pushd.views.routes import Routes

__all__ = ["NotPermitted", "Page", "Permission", "Request", "Response", "Routes", "RpcError"]
__all__ += ["Unavailable"]
__all__ += ["WebSocket", "accept_websocket", "heed_tokens", "json_response", "last_id"]
__all__ += ["page", "publish", "require_token", "require_websocket", "revoke"]
