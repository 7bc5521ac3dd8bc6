"""The scope of an ASGI application: what it is told of a connection (ASGI 3.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any

from pushd.gateways.environ import split_address
from pushd.views.request import Request, fields_of

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Message], Awaitable[None]]

# Called once for each connection, and once for the life of the server.
Application = Callable[[Scope, Receive, Send], Awaitable[object]]

#: The versions that an application is told: 2.4 says that ``send`` raises OSError after the client
#: has left.
VERSIONS = {"version": "3.0", "spec_version": "2.4"}

# The same few names for all connections: of those that stay open, each has a scope.
_lower = lru_cache(maxsize=1024)(bytes.lower)

_DEFAULT_PORTS = {"http": 80, "https": 443}


def http_scope(http: Any, path: str, root: str) -> Scope:
    """Return the scope of an HTTP request.

    :param http: the request as twisted.web has it.
    :param path: the decoded path.
    :param root: the path at which a proxy mounts the application, which it removes from requests.
    """
    fields = fields_of(http)
    scope = _scope(fields, path, http.path, root)
    scope["type"] = "http"
    scope["method"] = fields["method"].upper()
    scope["http_version"] = "1.0" if http.clientproto == b"HTTP/1.0" else "1.1"
    scope["scheme"] = http.scheme
    return scope


def websocket_scope(request: Request, raw_path: bytes, root: str) -> Scope:
    """Return the scope of a WebSocket handshake; see ``http_scope``.

    :param raw_path: the path as the client sent it.
    """
    scope = _scope(vars(request), request.path, raw_path, root)
    scope["type"] = "websocket"
    scope["http_version"] = "1.1"
    scope["scheme"] = "wss" if request.scheme == "https" else "ws"
    scope["subprotocols"] = list(request.subprotocols)
    return scope


def lifespan_scope(state: dict[str, Any]) -> Scope:
    """Return the scope of the application's life, which may keep in ``state`` what it likes."""
    return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}


def _scope(fields: Mapping[str, Any], path: str, raw_path: bytes, root: str) -> Scope:
    """Return what HTTP and WebSockets have in common.

    :param fields: of a view's request.
    """
    return {
        "asgi": dict(VERSIONS),
        "server": _server(fields["host"], fields["scheme"]),
        "client": _client(fields["peer"]),
        "root_path": root,
        "path": root + path,
        "raw_path": root.encode() + raw_path,
        "query_string": fields["query_string"].encode("latin-1"),
        "headers": [
            (_lower(name), value)
            for name, values in fields["raw_headers"].getAllRawHeaders()
            for value in values
        ],
    }


# Those of the last requests are remembered: most come over connections that stay open.


@lru_cache(maxsize=1024)
def _server(given: str, scheme: str) -> tuple[str, int | None]:
    """Return the name and the port by which the client asked, in its header Host."""
    host, port = split_address(given)
    return host or "localhost", int(port) if port.isdigit() else _DEFAULT_PORTS[scheme]


@lru_cache(maxsize=1024)
def _client(peer: str) -> tuple[str, int] | None:
    """Return the client's address and port; None over a Unix socket, port 0 behind a proxy."""
    address, port = split_address(peer)
    return None if address == "unix" else (address, int(port or 0))
