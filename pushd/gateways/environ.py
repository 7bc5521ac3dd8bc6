"""A WSGI application, and how it is asked (PEP 3333): with an environ, and for a handshake."""

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

# Called with an environ and start_response, it gives its answer piece by piece.
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_log = Logger(namespace="pushd.gateways")

# What the server alone may say of a connection (PEP 3333, RFC 9110 §7.6.1).
_HOP_BY_HOP = frozenset(
    {"connection", "date", "keep-alive", "server", "trailer", "transfer-encoding", "upgrade"}
)

_STATUS = re.compile(r"([2-5]\d\d)(?: ([ -~]*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# How much of an answer in place of a 101 is sent, in bytes: no page ever sees it.
_MAX_REFUSAL = 1 << 16


class Head(NamedTuple):
    """What an application says of its answer, found to be in order."""

    status: int
    phrase: str
    headers: list[tuple[str, str]]
    #: How many bytes of body it announces, if it does.
    length: int | None


class HandshakeView:
    """A view that lets an application decide about a handshake.

    The application finds the WebSocket in its environ as ``pushd.websocket``. Using it, or its
    ``accept()``, answers 101; an answer of the application before that refuses the handshake.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        # What the log calls it.
        self.__module__ = getattr(application, "__module__", type(application).__module__)
        self.__qualname__ = getattr(application, "__qualname__", type(application).__qualname__)

    def __call__(self, request: Request) -> HandshakeResponse:
        """Ask the application, in a thread."""
        environ = make_environ(request)
        environ["pushd.websocket"] = request.websocket
        answer = _Answer()
        with closing(ask(self._application, environ, answer.start)) as pieces:
            for piece in pieces:
                answer.body.write(piece)
                if answer.body.tell() > _MAX_REFUSAL or request.websocket.is_closed():
                    break
        return answer.get()


class _Answer:
    """An answer as it comes."""

    def __init__(self) -> None:
        self.body = BytesIO()
        self._head: Head | None = None

    def start(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], Any]:
        """Take its head: the start_response of PEP 3333."""
        self._head = check_head(status, headers)
        return self.body.write

    def get(self) -> HandshakeResponse:
        """Give the whole of it."""
        if self._head is None:
            raise RuntimeError("the application did not call start_response")
        headers: dict[str, list[str]] = {}
        for name, value in self._head.headers:
            if name.lower() != "content-length":
                # Its bytes may be any, and a view's headers are text.
                text = value.encode("latin-1").decode(errors="replace")
                headers.setdefault(name, []).append(text)
        return HandshakeResponse(self._head.status, headers, self.body.getvalue()[:_MAX_REFUSAL])


class ErrorStream:
    """Where an application writes what is for the log: its ``wsgi.errors``."""

    def write(self, text: str) -> int:
        """Log each line of it."""
        for line in text.splitlines():
            if line.strip():
                _log.error("{line}", line=line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log them all."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Do nothing: nothing is kept back."""


def ask(
    application: Application, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Generator[bytes, None, None]:
    """Call an application, give its answer piece by piece, and close that in the end."""
    pieces = application(environ, start_response)
    try:
        for piece in pieces:
            if not isinstance(piece, bytes):
                raise TypeError(f"an answer is made of bytes, not of {type(piece).__name__}")
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def make_environ(request: Request) -> dict[str, Any]:
    """What an application is asked (PEP 3333, RFC 3875 §4.1)."""
    address, port = _split(request.peer)
    host, host_port = _split(request.host)
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # Text that stands for bytes, each of them one character.
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        # The body is here, even where nobody said beforehand how long it would be.
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
        # In an environ X_User would be the same as X-User, which a proxy may have checked.
        if "_" in key or key in ("CONTENT-TYPE", "CONTENT-LENGTH", "TRANSFER-ENCODING"):
            continue
        joint = "; " if key == "COOKIE" else ", "
        environ["HTTP_" + key.replace("-", "_")] = joint.join(v.decode("latin-1") for v in values)
    return environ


def check_head(status: Any, headers: Any) -> Head:
    """Check what an application hands to start_response.

    Raises ValueError or TypeError for what can't be sent: as it is checked here, nothing goes
    wrong with it where nobody could be told.
    """
    found = _STATUS.fullmatch(status)
    if found is None:
        raise ValueError(f"start_response takes a status such as '200 OK', not {status!r}")
    kept, lengths = [], set()
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"a header can't be named {name!r}")
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the header {name} holds the end of a line")
        value.encode("latin-1")  # PEP 3333: text that stands for bytes.
        if name.lower() == "content-length":
            lengths.add(value.strip())
        elif name.lower() not in _HOP_BY_HOP:
            kept.append((name, value))
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise ValueError(f"Content-Length is one number, not {', '.join(sorted(lengths))}")
    number = int(found[1])
    if number == 426:  # RFC 9110 §15.5.22: this is the server's to say, as of the connection.
        kept += [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    length = None
    if lengths:
        length = int(told := lengths.pop())
        kept.append(("Content-Length", told))
    return Head(number, found[2] or phrase_of(number), kept, length)


def _split(address: str) -> tuple[str, str]:
    """Host and port of ``host:port``, ``[v6]:port``, or either of them alone."""
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.removeprefix(":")
    if address.count(":") > 1:  # An IPv6 address as a proxy tells it.
        return address, ""
    host, _, port = address.partition(":")
    return host, port
