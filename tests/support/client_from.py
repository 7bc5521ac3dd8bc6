"""A client that connects to a daemon in memory from any address."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pushd.testing import Daemon
from pushd.testing.memory_network import MemoryNetwork


class ClientFrom(Protocol):
    """A client that connects from a given address."""

    def __init__(self, daemon: Daemon, address: IAddress) -> None:
        self.daemon = daemon
        self.received = b""
        self.gone = False
        self.network = MemoryNetwork()
        site: Any = daemon.clock.tcpServers[0][1]
        self.end = self.network.connect(site, self, address)
        self.settle()

    def ask(self, path: str = "/page/") -> str:
        """Request a page, and return the status line of the first answer."""
        self.send(b"GET %b HTTP/1.1\r\nHost: localhost:8080\r\n\r\n" % path.encode())
        return self.received.partition(b"\r\n")[0].decode()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.end.write(data)
        self.settle()

    def leave(self) -> None:
        """Close the connection."""
        self.end.abortConnection()
        self.settle()

    def settle(self) -> None:
        """Deliver everything in both directions."""
        self.network.run()
        self.daemon.settle()
        self.network.run()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
