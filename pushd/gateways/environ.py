"""Calling a WSGI application: its environ, its response, and WebSocket handshakes (PEP 3333)."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from io import BytesIO
from typing import Any, NamedTuple

from twisted.logger import Logger

from pushd.protocols.http.response import phrase_of
from pushd.views.exchange import HandshakeResponse
from pushd.views.request import Request

# Called with an environ and start_response, it returns the body of its response in pieces.
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_log = Logger(namespace="pushd.gateways")

# Headers that only the server may set (PEP 3333, RFC 9110 §7.6.1).
_HOP_BY_HOP = frozenset(
    {"connection", "date", "keep-alive", "server", "trailer", "transfer-encoding", "upgrade"}
)

_STATUS = re.compile(r"([2-5]\d\d)(?: ([ -~]*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# How many bytes are sent of a body that refuses a handshake: browsers show pages none of it.
_MAX_REFUSAL = 1 << 16


class Head(NamedTuple):
    """Status and headers of a response, checked."""

    status: int
    phrase: str
    headers: list[tuple[str, str]]
    #: The Content-Length in bytes; None if there is none.
    length: int | None


class HandshakeView:
    """A view that calls an application for a WebSocket handshake.

    The application finds the WebSocket in its environ as ``pushd.websocket``. The first use of it
    accepts the handshake; a response before that refuses it.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        # The log names the application, not this view.
        self.__module__ = getattr(application, "__module__", type(application).__module__)
        self.__qualname__ = getattr(application, "__qualname__", type(application).__qualname__)

    def __call__(self, request: Request) -> HandshakeResponse:
        """Call the application; in a thread."""
        environ = make_environ(request)
        environ["pushd.websocket"] = request.websocket
        response = _BufferedResponse()
        pieces = call_application(self._application, environ, response.start_response)
        with closing(pieces):
            for piece in pieces:
                response.body.write(piece)
                if response.body.tell() > _MAX_REFUSAL or request.websocket.is_closed():
                    break
        return response.get()


class _BufferedResponse:
    """Collects a response."""

    def __init__(self) -> None:
        self.body = BytesIO()
        self._head: Head | None = None

    def start_response(
        self, status: str, headers: Any, exc_info: Any = None
    ) -> Callable[[bytes], Any]:
        """Take status and headers (PEP 3333)."""
        self._head = check_head(status, headers)
        return self.body.write

    def get(self) -> HandshakeResponse:
        """Return the whole response. Raises RuntimeError if start_response was not called."""
        if self._head is None:
            raise RuntimeError("the application did not call start_response")
        headers: dict[str, list[str]] = {}
        for name, value in self._head.headers:
            if name.lower() != "content-length":
                # PEP 3333 passes bytes as Latin-1; a Response takes text.
                text = value.encode("latin-1").decode(errors="replace")
                headers.setdefault(name, []).append(text)
        return HandshakeResponse(self._head.status, headers, self.body.getvalue()[:_MAX_REFUSAL])


class ErrorStream:
    """An application's ``wsgi.errors``, which writes to the log."""

    def write(self, text: str) -> int:
        """Log each line."""
        for line in text.splitlines():
            if line.strip():
                _log.error("{line}", line=line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log each line of each text."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def call_application(
    application: Application, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Generator[bytes, None, None]:
    """Call an application and yield the pieces of its body; close that at the end (PEP 3333)."""
    pieces = application(environ, start_response)
    try:
        for piece in pieces:
            if not isinstance(piece, bytes):
                raise TypeError(f"a body consists of bytes, not {type(piece).__name__}")
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def make_environ(request: Request) -> dict[str, Any]:
    """Return the environ of a request (PEP 3333, RFC 3875 §4.1)."""
    address, port = _split(request.peer)
    host, host_port = _split(request.host)
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # Bytes as Latin-1 text, as PEP 3333 wants it.
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        # Known even if the client sent the body in chunks.
        "CONTENT_LENGTH": str(len(request.body)) if request.body else "",
        "REMOTE_ADDR": "" if address == "unix" else address,
        "REMOTE_PORT": port,
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": host_port or ("443" if request.scheme == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": ErrorStream(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "pushd.publisher": request.publisher,
    }
    for name, values in request.raw_headers.getAllRawHeaders():
        key = name.decode("latin-1").upper()
        # X_User would become the same key as X-User, which only a trusted proxy may set.
        if "_" in key or key in ("CONTENT-TYPE", "CONTENT-LENGTH", "TRANSFER-ENCODING"):
            continue
        joint = "; " if key == "COOKIE" else ", "
        environ["HTTP_" + key.replace("-", "_")] = joint.join(v.decode("latin-1") for v in values)
    return environ


def check_head(status: Any, headers: Any) -> Head:
    """Check the status and headers that an application passes to start_response.

    Raises ValueError or TypeError, for the application, if they cannot be sent.
    """
    found = _STATUS.fullmatch(status)
    if found is None:
        raise ValueError(f"a status looks like '200 OK', not like {status!r}")
    kept, lengths = [], set()
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the header {name} contains a line break or a null character")
        value.encode("latin-1")  # PEP 3333: bytes as Latin-1 text.
        if name.lower() == "content-length":
            lengths.add(value.strip())
        elif name.lower() not in _HOP_BY_HOP:
            kept.append((name, value))
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise ValueError(f"Content-Length must be a number, not {', '.join(sorted(lengths))}")
    number = int(found[1])
    if number == 426:  # RFC 9110 §15.5.22 requires these, and only the server may set them.
        kept += [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    length = None
    if lengths:
        length = int(given := lengths.pop())
        kept.append(("Content-Length", given))
    return Head(number, found[2] or phrase_of(number), kept, length)


def _split(address: str) -> tuple[str, str]:
    """Split ``host:port`` or ``[v6]:port``, each of which may lack the port."""
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.removeprefix(":")
    if address.count(":") > 1:  # A bare IPv6 address, from a proxy's header.
        return address, ""
    host, _, port = address.partition(":")
    return host, port
