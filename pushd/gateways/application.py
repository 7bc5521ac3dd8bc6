"""Calls a WSGI application for a page or a handshake, and checks its response (PEP 3333)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from importlib import import_module
from io import BytesIO
from typing import Any, NamedTuple, cast

from pushd.gateways.environ import make_environ
from pushd.protocols.http.response import phrase_of
from pushd.views.authorizer import AuthorizeFunction
from pushd.views.exchange import HandshakeResponse
from pushd.views.request import Request

# Called with an environ and start_response, it returns the body of its response in pieces.
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# Headers that only the server may set (PEP 3333, RFC 9110 §7.6.1).
_HOP_BY_HOP = frozenset(
    {"connection", "date", "keep-alive", "server", "trailer", "transfer-encoding", "upgrade"}
)

_STATUS = re.compile(r"([2-5]\d\d)(?: ([ -~]*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# The module of Django's settings.
_SETTINGS = "django.conf"

# The annex that asks a Django site, which only a daemon that serves one loads.
_DJANGO = "pushd.django.authorizing"

# How many bytes are sent of a body that refuses a handshake: browsers show pages none of it.
_MAX_REFUSAL = 1 << 16


class Head(NamedTuple):
    """Status and headers of a response, checked."""

    status: int
    phrase: str
    headers: list[tuple[str, str]]
    #: The Content-Length in bytes; None without one.
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


def find_authorizer() -> AuthorizeFunction | None:
    """Return the authorizer of a Django site that has the setting ``PUSHD_AUTHORIZE``, or None.

    Django is not imported, unless the application has done that. Raises what Django raises if the
    setting is wrong.
    """
    conf = sys.modules.get(_SETTINGS)
    if conf is None or not conf.settings.configured:
        return None
    if getattr(conf.settings, "PUSHD_AUTHORIZE", None) is None:
        return None
    module = import_module(_DJANGO)
    module.find_function()
    return cast(AuthorizeFunction, module.authorize)


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
