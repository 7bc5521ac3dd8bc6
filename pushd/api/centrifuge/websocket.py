"""The Centrifuge client protocol over WebSocket: what a handshake at its path runs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.api.centrifuge.codec import JSON, PROTOBUF, Codec, JsonCodec, ProtobufCodec
from pushd.api.centrifuge.connection import Connection
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.protocols.http.headers import decode_path
from pushd.protocols.http.response import Response, json_refusal
from pushd.protocols.websocket.socket import WebSocket
from pushd.views.decorators import Handshakes
from pushd.views.exchange import ViewDependencies
from pushd.views.request import Request
from pushd.views.resource import ViewResource
from pushd.views.routes import Match

_NO_PROTOBUF = "Protobuf is not available: install pushd[centrifuge], or use JSON"


class CentrifugeResource(Resource):
    """The path at which handshakes open connections of Centrifuge clients."""

    isLeaf = True

    def __init__(self, views: ViewDependencies, dependencies: CentrifugeDependencies) -> None:
        super().__init__()
        self._views = views
        self._dependencies = dependencies
        self._view = CentrifugeView(dependencies)

    def render(self, request: Any) -> int:
        """Start a connection, or refuse the handshake."""
        caller = self._dependencies.access.identify(request)
        procedures = self._dependencies.procedures
        asking = None if procedures is None else procedures.make_request(request)
        parameters = {"caller": caller, "asking": asking}
        match = Match(self._view, parameters, Handshakes.REQUIRED)
        path = decode_path(request.path).decode()
        ViewResource(self._views, match, path, caller.identity).render(request)
        return NOT_DONE_YET


class CentrifugeView:
    """Serves Centrifuge clients: in JSON, or in Protobuf with its subprotocol."""

    def __init__(self, dependencies: CentrifugeDependencies) -> None:
        self._dependencies = dependencies
        self._json = JsonCodec()

    @cached_property
    def protobuf(self) -> Codec | None:
        """The codec of Protobuf; None if its package is not installed."""
        try:
            return ProtobufCodec()
        except ImportError:
            return None

    async def __call__(self, request: Request) -> Response | None:
        """Serve one client."""
        websocket: WebSocket = request.websocket
        offered = request.subprotocols
        codec: Codec = self._json
        if PROTOBUF in offered:
            if self.protobuf is None:
                return json_refusal(400, _NO_PROTOBUF, "Sec-WebSocket-Protocol")
            codec = self.protobuf
            websocket.accept(PROTOBUF)
        else:
            websocket.accept(JSON if JSON in offered else None)
        connection = Connection(
            self._dependencies,
            websocket,
            codec,
            request.parameters["caller"],
            request.parameters["asking"],
        )
        # The connection may last for days; the request holds more memory than everything else.
        del request
        connection.start()
        try:
            async for frame in websocket:
                connection.receive(frame)
        finally:
            connection.stop()
        return None
