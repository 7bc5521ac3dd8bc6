"""HTTP as pushd speaks it: twisted.web, with the loose ends tied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from pushd.answers import FAILURE, write_response

# What every answer says, unless a view says otherwise.
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}
_PAGE_HEADERS = {
    b"content-security-policy": b"default-src 'self'",
    b"x-frame-options": b"SAMEORIGIN",
}

# How long a connection may be idle between two requests, in seconds.
KEEP_ALIVE = 60


class ChannelRequest(Request):
    """A request whose failures do not tell strangers about our insides."""

    def processingFailed(self, reason: Failure) -> None:
        """Log an exception of ours, and answer 500 if that is still possible."""
        self._log.failure(
            "failed to answer {method} {path} for {peer}",
            failure=reason,
            method=self.method.decode("latin-1"),
            path=path_of(self),
            peer=peer_of(self),
        )
        if self.startedWriting:
            self.loseConnection()
        else:
            write_response(self, FAILURE)


class Channel(HTTPChannel):
    """One HTTP/1.1 connection."""

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write a response's head with the headers that all share, and without our version."""
        headers.removeHeader(b"server")
        kind = headers.getRawHeaders(b"content-type", [b""])[0]
        shared = _HEADERS | _PAGE_HEADERS if kind.startswith(b"text/html") else _HEADERS
        for name, value in shared.items():
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])
        super().writeHeaders(version, code, reason, headers)


class Door(Site):
    """A Site that asks one function what answers a request.

    :param find: gives the resource for a request, or raises.
    :param reactor: where time comes from.
    """

    _log = Logger()
    noisy = False
    # Twisted's own, which may turn out to speak HTTP/2, is left out on purpose.
    protocol: Any = Channel
    requestFactory = ChannelRequest

    def __init__(self, find: Callable[[Any], IResource], reactor: IReactorTime) -> None:
        super().__init__(
            Resource(), timeout=KEEP_ALIVE, reactor=reactor, parsePOSTFormSubmission=False
        )
        self._find = find

    def getResourceFor(self, request: Any) -> IResource:
        """Ask for the resource."""
        return self._find(request)

    def acceptableProtocols(self) -> list[bytes]:
        """Speak HTTP/1.1 only over TLS: a WebSocket can't take over an HTTP/2 connection."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Do nothing: there is no log file to open, and no date to keep for it each second."""

    def stopFactory(self) -> None:
        """Do nothing, likewise."""

    def log(self, request: Any) -> None:
        """Write the access line."""
        self._log.info(
            "{peer} {method} {path} {status} {length}",
            peer=peer_of(request),
            method=request.method.decode("latin-1"),
            path=path_of(request),
            status=request.code,
            length=request.sentLength,
        )


def peer_of(request: Any) -> str:
    """Who asks, as ``address:port``."""
    return peer_name(request.getClientAddress())


def peer_name(address: IAddress) -> str:
    """An address as people write it: ``127.0.0.1:80``, ``[::1]:80``, or ``unix``."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return "unix"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def path_of(request: Any) -> str:
    """The path that is asked for, without its query, fit for a log."""
    return ascii(request.path.decode("latin-1"))[1:-1]
