"""twisted.web resource of a view: checks token and handshake, then starts an exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.authorization import challenge, read_token
from pushd.access.tokens import Identity
from pushd.errors import Denied, HandshakeRefused, RequestRefused
from pushd.protocols.http.response import refusal, write_response
from pushd.protocols.websocket.handshake import Handshake, lost_handshake, read_handshake
from pushd.views.decorators import Handshakes
from pushd.views.exchange import HttpExchange, ViewDependencies, WebSocketExchange
from pushd.views.request import fields_of, name_of
from pushd.views.routes import Match

#: Headers of a 426, which are about this connection only (RFC 9110 §15.5.22, §7.8).
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}

# Headers of a response that refuses a handshake (RFC 6455 §4.4, RFC 9110 §15.6.4).
_REFUSED_HEADERS = {426: {"Sec-WebSocket-Version": "13", **UPGRADE}, 503: {"Retry-After": "5"}}


class ViewResource(Resource):
    """A view at a URL.

    :param path: the URL's path, decoded.
    :param identity: whose token the request came with, if it has been checked already.
    """

    isLeaf = True

    def __init__(
        self,
        dependencies: ViewDependencies,
        match: Match,
        path: str,
        identity: Identity | None = None,
    ) -> None:
        super().__init__()
        self._dependencies = dependencies
        self._match = match
        self._path = path
        self._identity = identity

    def render(self, request: Any) -> int:
        """Start the view, or refuse a request that it does not take."""
        view, handshakes = self._match.view, self._match.handshakes
        try:
            self._identity = self._identity or self._identify(request)
            if request.wants_websocket:
                handshake = self._check_handshake(request)
                exchange = WebSocketExchange(self._dependencies, view, request, handshake)
                exchange.start(self._request_fields(request))
            else:
                lost = lost_handshake(request.clientproto, request.requestHeaders)
                if handshakes is Handshakes.REQUIRED:
                    raise lost or HandshakeRefused(426, "this URL serves WebSockets only")
                if lost is not None and handshakes is Handshakes.ACCEPTED:
                    request.why_refused = lost.line  # A page is of no use to its client.
                HttpExchange(self._dependencies, view, request).start(self._request_fields(request))
        except Denied as denied:
            _refuse(request, denied, challenge(denied))
        except HandshakeRefused as refused:
            _refuse(request, refused, _REFUSED_HEADERS.get(refused.status, {}))
        return NOT_DONE_YET

    def _identify(self, request: Any) -> Identity | None:
        """Check the request's token. One that is not valid is ignored if the view needs none."""
        authorizer = self._dependencies.authorizer
        has_keys, token = bool(authorizer.keys), self._match.token
        if token or (token is False and has_keys):
            return authorizer.require(read_token(request))
        if not has_keys:
            return None
        try:
            return authorizer.identify(read_token(request))
        except Denied:
            return None

    def _check_handshake(self, request: Any) -> Handshake:
        """Read the opening handshake. Raises HandshakeRefused if it can't be accepted."""
        handshake = read_handshake(request.method, request.clientproto, request.requestHeaders)
        if self._dependencies.connections.closing is not None:
            raise HandshakeRefused(503, "server is shutting down")
        if self._match.handshakes is Handshakes.REFUSED:
            raise HandshakeRefused(
                400,
                "this URL does not serve WebSockets",
                f"{name_of(self._match.view)} is not decorated with accept_websocket or "
                "require_websocket, see docs/views.md",
            )
        return handshake

    def _request_fields(self, request: Any) -> dict[str, Any]:
        """Fields of the view's request, but for the body or the WebSocket."""
        return {
            **fields_of(request),
            "path": self._path,
            "clock": self._dependencies.clock,
            "publisher": self._dependencies.publisher,
            "parameters": self._match.parameters,
            "identity": self._identity,
        }


def _refuse(request: Any, refused: RequestRefused, headers: Mapping[str, str]) -> None:
    """Count a refusal, and answer with it."""
    request.site.count_refusal(refused.status)
    request.why_refused = refused.line
    write_response(request, refusal(refused.status, refused.reason, headers))
