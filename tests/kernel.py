"""Twisted's own transport on a kernel that notes each system call."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from pushd.testing.daemon import Daemon
from tests.peer import handshake


class Kernel:
    """A socket that notes what each system call is given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        #: How many bytes it has room for.
        self.room = 1 << 30

    def send(self, data: bytes, flags: int = 0) -> int:
        """Take what there is room for."""
        taken = bytes(data[: self.room])
        if data and not taken:
            raise BlockingIOError
        self.given.append(taken)
        self.room -= len(taken)
        return len(taken)

    def setblocking(self, flag: bool) -> None:
        """Never block."""

    def setsockopt(self, *args: object) -> None:
        """Take any option."""

    def getsockopt(self, *args: object) -> int:
        """Have none."""
        return 0

    def shutdown(self, how: int) -> None:
        """Close a way."""

    def close(self) -> None:
        """Close both."""

    family = 0

    def fileno(self) -> int:
        """A number that nobody uses."""
        return 1000


class Server(Connection):
    """Twisted's own transport, on a kernel that counts."""

    def __init__(self, daemon: Daemon) -> None:
        kernel: Any = Kernel()
        protocol: Any = daemon._doors[0].buildProtocol(self.getPeer())
        super().__init__(kernel, protocol, daemon.clock)
        self.kernel = kernel
        self.connected = True
        protocol.makeConnection(self)
        daemon.settle()

    def getPeer(self) -> IPv4Address:
        """Somebody."""
        return IPv4Address("TCP", "127.0.0.1", 50_000)

    getHost = getPeer

    def write_out(self) -> None:
        """Do as the reactor does if it finds the socket writable."""
        reactor: Any = self.reactor
        while self in reactor.getWriters() and self.kernel.room:
            why: Any = self.doWrite()
            if why is not None:
                self.connectionLost(Failure(why))

    @property
    def sent(self) -> bytes:
        """All that the kernel takes, with fast paths or without."""
        self.write_out()
        return b"".join(self.kernel.given)

    def forget(self) -> None:
        """Forget what was sent until now."""
        self.write_out()
        self.kernel.given.clear()

    def receive(self, data: bytes) -> None:
        """Let data come."""
        self.protocol.dataReceived(data)


def open_websocket(daemon: Daemon, path: str, *lines: str) -> Server:
    """Open a WebSocket to a daemon, with lines beside those that a handshake needs."""
    server = Server(daemon)
    server.receive(handshake(path, *lines))
    daemon.settle()
    return server
