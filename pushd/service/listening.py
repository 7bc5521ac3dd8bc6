"""A door, open at an endpoint."""

from __future__ import annotations

import socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.protocols.http.request import peer_name
from pushd.protocols.http.site import PushdSite

# How many connections may wait to be accepted.
_BACKLOG = 2048

# After so many seconds without a word the kernel asks whether the peer is still there, and after so
# many without an answer it is not.
_IDLE = 60
_NO_ANSWER = 60


class PortService(Service):
    """One endpoint at which a door is open.

    :param message: what to log with the URL once it is.
    :param option: the option that asked for it, for those who must be told that it can't be.
    """

    _log = Logger(namespace="pushd.service")

    def __init__(
        self, reactor: Any, endpoint: str, door: PushdSite, *, message: str, option: str
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._door = door
        self._message = message
        self._option = option
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen, while ports below 1024 may still be had. Ends the process if that fails."""
        failures: list[Failure] = []
        try:
            endpoint = serverFromString(self._reactor, _with_backlog(self._endpoint))
        except LookupError:
            line = "systemd passed no such socket: see LISTEN_FDS and LISTEN_FDNAMES"
            raise self._refuse(line) from None
        listening = endpoint.listen(self._door)
        listening.addCallback(self._listening).addErrback(failures.append)
        if failures:
            raise self._refuse(failures[0].getErrorMessage())

    def startService(self) -> None:
        """Listen now, where nobody asked for it while the process still had its privileges."""
        super().startService()
        if self._port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[Any] | None:
        """Stop listening; see ``close`` for those who are inside."""
        super().stopService()
        if self._port is None:
            return None
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening)

    def close(self) -> Deferred[Any]:
        """Stop listening, and let nobody ask for anything any more.

        The Deferred fires when every request has its answer and every connection is gone, but
        for WebSockets, which are not the door's.
        """
        return gatherResults(
            [maybeDeferred(self.stopService), self._door.drain()], consumeErrors=True
        )

    def close_unused(self) -> None:
        """Close the connections on which no request is in progress."""
        self._door.close_silent()

    def _refuse(self, reason: str) -> SystemExit:
        return SystemExit(f"pushd: {self._option} {self._endpoint}: {reason}")

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        prepare(port)
        self._log.info(self._message, event="listening", url=_url(self._endpoint, port))


def prepare(port: Any) -> None:
    """Set what every connection of a port is to have: they inherit it from its socket.

    What is written leaves at once, however short it is. And the kernel gives up on a peer that
    has vanished, where it can be told to: pings find that out for a WebSocket, but not while its
    reading is paused; and nothing does for a plain request whose answer takes its time.
    """
    handle = getattr(port, "socket", None)
    if handle is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
        return
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Linux has both; elsewhere the kernel's own times have to do.
    times = {"TCP_KEEPIDLE": _IDLE, "TCP_USER_TIMEOUT": _NO_ANSWER * 1000}
    for name, value in times.items():
        option = getattr(socket, name, None)
        if option is not None:  # pragma: no branch
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def _with_backlog(endpoint: str) -> str:
    """The endpoint with room for many who come at once: with Twisted's 50 most would wait."""
    queues = endpoint.startswith(("tcp:", "tcp6:", "ssl:", "unix:", "reuseport:"))
    return f"{endpoint}:backlog={_BACKLOG}" if queues and ":backlog=" not in endpoint else endpoint


def _url(endpoint: str, port: IListeningPort) -> str:
    """The URL that a browser on this machine can open."""
    address = port.getHost()
    place = peer_name(address)
    if place == "unix":
        return endpoint
    if place.startswith(("0.0.0.0:", "[::]:")):
        place = place.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    scheme = "https" if endpoint.startswith(("ssl:", "tls:")) else "http"
    return f"{scheme}://{place}/"
