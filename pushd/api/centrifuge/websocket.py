"""The Centrifuge client protocol over WebSocket: what a handshake at its path runs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.api.centrifuge.codec import (
    JSON,
    PROTOBUF,
    Codec,
    JsonCodec,
    ProtobufCodec,
    PushCodec,
)
from pushd.api.centrifuge.codes import bad_request
from pushd.api.centrifuge.connection import Connection
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.http_transports import NO_PROTOBUF, parse_connect, read_connect
from pushd.api.resource import refuse
from pushd.errors import BadRequest
from pushd.protocols.http.headers import decode_path
from pushd.protocols.http.response import Response, json_refusal
from pushd.protocols.websocket.socket import WebSocket
from pushd.views.decorators import Handshakes
from pushd.views.exchange import ViewDependencies
from pushd.views.request import Request, View
from pushd.views.resource import ViewResource
from pushd.views.routes import Match


class CentrifugeResource(Resource):
    """The path at which handshakes open connections of Centrifuge clients.

    :param is_unidirectional: whether these clients only listen.
    """

    isLeaf = True

    def __init__(
        self,
        views: ViewDependencies,
        dependencies: CentrifugeDependencies,
        *,
        is_unidirectional: bool = False,
    ) -> None:
        super().__init__()
        self._views = views
        self._dependencies = dependencies
        self._view: View = CentrifugeView(dependencies)
        if is_unidirectional:
            self._view = UnidirectionalView(dependencies)

    def render(self, request: Any) -> int:
        """Start a connection, or refuse the handshake."""
        caller = self._dependencies.access.identify(request)
        procedures = self._dependencies.procedures
        asking = None if procedures is None else procedures.make_request(request)
        parameters = {"caller": caller, "asking": asking, "connect": read_connect(request)}
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
                return json_refusal(400, NO_PROTOBUF, "Sec-WebSocket-Protocol")
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


class UnidirectionalView:
    """Serves clients that only listen.

    A client says how it connects in its query, or else in its first message.
    """

    def __init__(self, dependencies: CentrifugeDependencies) -> None:
        self._dependencies = dependencies
        self._codec = PushCodec()

    async def __call__(self, request: Request) -> Response | None:
        """Serve one client."""
        websocket: WebSocket = request.websocket
        given: str | bytes = request.parameters["connect"]
        try:
            asked = parse_connect(given, "cf_connect") if given else None
        except BadRequest as refused:
            return refuse(refused)
        websocket.accept()
        connection = Connection(
            self._dependencies,
            websocket,
            self._codec,
            request.parameters["caller"],
            request.parameters["asking"],
            is_unidirectional=True,
        )
        # As above.
        del request
        connection.start()
        try:
            if asked is not None:
                connection.connect(asked)
            async for frame in websocket:
                if asked is None:
                    asked = parse_connect(frame, "message")
                    connection.connect(asked)
        except BadRequest as refused:
            websocket.close_with(bad_request(refused.reason))
        finally:
            connection.stop()
        return None
