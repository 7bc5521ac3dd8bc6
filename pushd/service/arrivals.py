"""How connections are taken from the kernel, without what Twisted's old log would know of each."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv6Address
from twisted.internet.tcp import Connection, Port, Server
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.protocols.http.request import peer_name
from pushd.protocols.transport import DONE

_log = Logger(namespace="pushd.service")

# So many more are taken at once where all that were looked for had come.
_MORE = 20


class Arrival(Server):
    """A connection as Twisted has it, whose names are made when somebody asks for them."""

    def __init__(
        self, handle: socket.socket, protocol: Any, client: Any, port: Any, number: int
    ) -> None:
        # Not the one of Server, which makes two strings for each.
        Connection.__init__(self, handle, protocol, port.reactor)
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server, self.client, self.sessionno = port, client, number
        self.hostname = client[0]
        self.startReading()
        self.connected = 1

    def connectionLost(self, reason: Failure) -> None:
        """Take note that it is over, and close the socket."""
        if reason is not DONE or not hasattr(self, "socket"):
            super().connectionLost(reason)
            return
        # What Twisted does as well, but for a long look at why.
        protocol = self.protocol
        FileDescriptor.connectionLost(self, reason)
        self._closeSocket(True)
        del self.protocol, self.socket, self.fileno
        protocol.connectionLost(reason)

    @property
    def logstr(self) -> str:  # type: ignore[override]  # Twisted assigns it.
        """What lines of the old log begin with."""
        protocol = getattr(self, "protocol", None)  # It is gone with the connection.
        return f"{self._getLogPrefix(protocol)},{self.sessionno},{self.hostname}"

    @property
    def repstr(self) -> str:  # type: ignore[override]  # likewise.
        """What it calls itself."""
        protocol = getattr(self, "protocol", None)  # Likewise.
        port = self.server._realPortNumber
        return f"<{type(protocol).__name__} #{self.sessionno} on {port}>"


def hasten(port: Any) -> None:
    """Let a port take connections with less ado.

    As it comes, it makes a log, a generator and two strings for each. Only Twisted's own TCP ports
    are told so, and what goes wrong with the kernel is left to Twisted.
    """
    kind: type = type(port)
    if kind is not Port:
        return
    accept, as_it_comes = port.socket.accept, port.doRead

    def take() -> None:
        for taken in range(port.numberAccepts):
            try:
                handle, client = accept()
            except BlockingIOError:
                port.numberAccepts = max(1, taken)
                return
            except OSError:  # Twisted will meet it as well, and knows what can be done about it.
                as_it_comes()
                return
            _welcome(port, handle, client)
        port.numberAccepts += _MORE

    port.doRead = take


def _welcome(port: Any, handle: socket.socket, client: Any) -> None:
    """Give a connection its protocol, or let it go where that fails."""
    transport: Arrival | None = None
    try:
        if len(client) == 4:
            # With an interface where there may be several: fe80::1%eth0 (RFC 4007 §11).
            numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            client = (socket.getnameinfo(client, numeric)[0], *client[1:])
        protocol = port.factory.buildProtocol(port._buildAddr(client))
        if protocol is None:
            handle.close()
            return
        number, port.sessionno = port.sessionno, port.sessionno + 1
        transport = Arrival(handle, protocol, client, port, number)
        protocol.makeConnection(transport)
    except Exception:
        _log.failure(
            "failed to take the connection of {peer}",
            event="connection_failed",
            peer=peer_name(port._buildAddr(client)),
        )
        if transport is None:
            handle.close()
        else:  # The reactor watches it by now, and whoever made its protocol may have counted it.
            transport.abortConnection()
