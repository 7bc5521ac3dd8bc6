"""The environ of a WSGI application: what it is told of a request (PEP 3333, RFC 3875)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

from twisted.logger import Logger

from pushd.views.request import Request

_log = Logger(namespace="pushd.gateways")


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


def make_environ(request: Request) -> dict[str, Any]:
    """Return the environ of a request (PEP 3333, RFC 3875 §4.1)."""
    address, port = split_address(request.peer)
    host, host_port = split_address(request.host)
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # Bytes as Latin-1 text, as PEP 3333 wants it.
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": _join(request.raw_headers.getRawHeaders(b"content-type", ())),
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
        key = _key_of(name)
        if key is not None:
            environ[key] = _join(values, "; " if key == "HTTP_COOKIE" else ", ")
    return environ


@lru_cache(maxsize=1024)
def _key_of(name: bytes) -> str | None:
    """Return the key of a header; None for one that has another key, or must have none."""
    key = name.decode("latin-1").upper()
    # X_User would become the same key as X-User, which only a trusted proxy may set.
    if "_" in key or key in ("CONTENT-TYPE", "CONTENT-LENGTH", "TRANSFER-ENCODING"):
        return None
    return "HTTP_" + key.replace("-", "_")


def _join(values: Sequence[bytes], joint: str = ", ") -> str:
    if len(values) == 1:
        return values[0].decode("latin-1")
    return joint.join(value.decode("latin-1") for value in values)


def split_address(address: str) -> tuple[str, str]:
    """Split ``host:port`` or ``[v6]:port``, each of which may lack the port."""
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.removeprefix(":")
    if address.count(":") > 1:  # A bare IPv6 address, from a proxy's header.
        return address, ""
    host, _, port = address.partition(":")
    return host, port
