"""The Centrifuge client protocol over HTTP: what a client opens a stream with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.api.centrifuge.codec import (
    Codec,
    Frame,
    JsonCodec,
    ProtobufCodec,
    PushCodec,
    parse_json,
)
from pushd.api.centrifuge.connection import Connection
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.schema import read_message
from pushd.api.centrifuge.stream import (
    CentrifugeStream,
    delimited,
    delimited_chunk,
    event,
    event_chunk,
    line,
    line_chunk,
)
from pushd.api.resource import allowed_methods, preflight, refuse, refuses_all, require_method
from pushd.api.response_stream import STREAM_HEADERS, register
from pushd.errors import BadRequest
from pushd.protocols.http.response import Response, write_response
from pushd.views.exchange import ViewDependencies

#: The type of requests and responses in Protobuf.
PROTOBUF_TYPE = "application/octet-stream"

NO_PROTOBUF = "Protobuf is not available: install pushd[centrifuge], or use JSON"

# The query parameter with the first command, or with the request to connect.
_CONNECT = "cf_connect"


class PageResource(Resource, ABC):
    """Base class of resources that pages of other origins may use, if they are allowed.

    :param methods: those of its requests, beside OPTIONS.
    """

    isLeaf = True

    def __init__(self, dependencies: CentrifugeDependencies, *methods: str) -> None:
        super().__init__()
        self._dependencies = dependencies
        self._methods = methods

    def render(self, request: Any) -> int:
        """Answer, or refuse the request."""
        if request.method == b"OPTIONS":
            headers = {"Allow": allowed_methods(*self._methods)}
            if request.header(b"access-control-request-method"):
                headers = preflight(", ".join(self._methods))
            write_response(request, Response(204, headers))
            return NOT_DONE_YET
        try:
            require_method(request, *self._methods)
            self.answer(request)
        except BadRequest as refused:
            request.why_refused = refused.line
            write_response(request, refuse(refused))
        return NOT_DONE_YET

    @abstractmethod
    def answer(self, request: Any) -> None:
        """Answer a request with one of the methods. Raises BadRequest before anything is sent."""


@dataclass(frozen=True)
class HttpTransport:
    """One way to stream to a client.

    :param name: as the metrics and the log have it.
    :param methods: of the request that opens a stream.
    :param frames: for HTTP/1.0, and for chunks.
    """

    name: str
    methods: tuple[str, ...]
    content_type: str
    frames: tuple[Frame, Frame]
    is_unidirectional: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of its responses."""
        return {**STREAM_HEADERS, "content-type": self.content_type}


_EVENTS = ("sse", ("GET", "POST"), STREAM_HEADERS["content-type"], (event, event_chunk))
_LINES = ("http_stream", ("POST",), "application/x-ndjson", (line, line_chunk))

#: The transports of clients that send commands, and of those that only listen.
SSE = HttpTransport(*_EVENTS)
HTTP_STREAM = HttpTransport(*_LINES)
UNI_SSE = HttpTransport(*_EVENTS, is_unidirectional=True)
UNI_HTTP_STREAM = HttpTransport(*_LINES, is_unidirectional=True)

# HTTP streaming for a client that speaks Protobuf.
_PROTOBUF_STREAM = HttpTransport(
    "http_stream", ("POST",), PROTOBUF_TYPE, (delimited, delimited_chunk)
)


class StreamResource(PageResource):
    """The path at which a transport opens streams."""

    def __init__(
        self,
        views: ViewDependencies,
        dependencies: CentrifugeDependencies,
        transport: HttpTransport,
    ) -> None:
        super().__init__(dependencies, *transport.methods)
        self._views = views
        self._transport = transport
        # All streams of a kind have the same codec; one for chunks, and one for HTTP/1.0.
        self._codecs: dict[tuple[HttpTransport, bool], Codec] = {}

    def answer(self, request: Any) -> None:
        """Open a stream, and carry out the first command."""
        if refuses_all(request, self._dependencies.state.connections):
            return
        transport = self._transport
        if transport is HTTP_STREAM and is_protobuf(request):
            transport = _PROTOBUF_STREAM
        if request.method == b"HEAD":
            for name, value in transport.headers.items():
                request.setHeader(name, value)
            request.finish()
            return
        is_get = request.method == b"GET"
        where = _CONNECT if is_get else "body"
        given = read_connect(request) if is_get else request.content.read()
        request.content = BytesIO()  # The stream may last for days.
        if transport.is_unidirectional:
            asked = parse_connect(given, where)
            self._open(request, transport, len(given)).connect(asked)
        elif given:
            self._open(request, transport, len(given)).receive(given, is_counted=False)
        else:
            raise BadRequest("the command connect is required", where)

    def _open(self, request: Any, transport: HttpTransport, size: int) -> Connection:
        """Open a stream to a client.

        :param size: bytes of what it has sent.

        Raises BadRequest if its format is not available.
        """
        dependencies, views = self._dependencies, self._views
        codec = self._codec_of(transport, is_chunked=request.clientproto == b"HTTP/1.1")
        caller, procedures = dependencies.access.identify(request), dependencies.procedures
        asking = None if procedures is None else procedures.make_request(request)
        # It may resume any number of channels.
        request.site.policy.throttle.count(request.peer)
        stream = CentrifugeStream(
            request,
            views.factory.cork,
            dependencies.state.limits.max_buffered,
            transport.name,
            codec,
        )
        stream.traffic.messages_in, stream.traffic.bytes_in = 1, size
        register(
            request,
            stream,
            caller.identity,
            connections=dependencies.state.connections,
            authorizer=dependencies.authorizer,
            totals=views.counters.traffic,
        )
        stream.begin(transport.headers)
        connection = Connection(
            dependencies,
            stream,
            codec,
            caller,
            asking,
            has_session=not transport.is_unidirectional,
            is_unidirectional=transport.is_unidirectional,
        )
        stream.serve(connection)
        connection.start()
        return connection

    def _codec_of(self, transport: HttpTransport, *, is_chunked: bool) -> Codec:
        """Return the codec of a kind of streams. Raises BadRequest if it is not installed."""
        codec = self._codecs.get((transport, is_chunked))
        if codec is None:
            codec = self._codecs[transport, is_chunked] = _make_codec(
                transport, transport.frames[is_chunked]
            )
        return codec


def is_protobuf(request: Any) -> bool:
    """Return whether the body of a request is in Protobuf."""
    kind = (request.header(b"content-type") or "").partition(";")[0]
    return bool(kind.strip().lower() == PROTOBUF_TYPE)


def read_connect(request: Any) -> bytes:
    """Return what a client sends in its query; empty if that is nothing."""
    values = request.args.get(_CONNECT.encode(), [b""])
    return bytes(values[-1])


def parse_connect(given: str | bytes, where: str) -> dict[str, Any]:
    """Return the request to connect of a unidirectional client; empty for none.

    :param where: the part of the request that it is.

    Raises BadRequest.
    """
    try:
        value = parse_json(given or "{}")
        return {} if value is None else read_message("ConnectRequest", value)
    except ValueError as error:
        raise BadRequest(f"not a request to connect in JSON: {error}", where) from None


def _make_codec(transport: HttpTransport, frame: Frame) -> Codec:
    if transport is _PROTOBUF_STREAM:
        try:
            return ProtobufCodec(frame)
        except ImportError:
            raise BadRequest(NO_PROTOBUF, "Content-Type") from None
    return PushCodec(frame) if transport.is_unidirectional else JsonCodec(frame)
