"""Twisted's TCP transport on a socket that records each system call."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from pushd.testing import Daemon
from tests.support.peer import handshake


class RecordingSocket:
    """A socket that records the data of each ``send``."""

    family = 0

    def __init__(self) -> None:
        #: What was sent, one item for each system call.
        self.given: list[bytes] = []
        #: How many bytes it has room for.
        self.room = 1 << 30

    def send(self, data: bytes, flags: int = 0) -> int:
        """Take as many bytes as there is room for."""
        taken = bytes(data[: self.room])
        if data and not taken:
            raise BlockingIOError
        self.given.append(taken)
        self.room -= len(taken)
        return len(taken)

    def setblocking(self, flag: bool) -> None:
        """Do nothing: this socket never blocks."""

    def setsockopt(self, *args: object) -> None:
        """Accept any option."""

    def getsockopt(self, *args: object) -> int:
        """Return 0 for any option."""
        return 0

    def shutdown(self, how: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        """Return a descriptor that is not in use."""
        return 1000


class SocketConnection(Connection):
    """The daemon's end of a connection, on a ``Kernel``.

    :param control: whether it is one to the control port.
    """

    def __init__(self, daemon: Daemon, *, control: bool = False) -> None:
        fake_socket: Any = RecordingSocket()
        site: Any = daemon.clock.tcpServers[1 if control else 0][1]
        protocol = site.buildProtocol(self.getPeer())
        super().__init__(fake_socket, protocol, daemon.clock)
        self.fake_socket = fake_socket
        self.connected = True
        protocol.makeConnection(self)
        daemon.settle()

    def getPeer(self) -> IPv4Address:
        """Return the client's address."""
        return IPv4Address("TCP", "127.0.0.1", 50_000)

    getHost = getPeer

    def write_out(self) -> None:
        """Do what the reactor does when the socket is writable."""
        reactor: Any = self.reactor
        while self in reactor.getWriters() and self.fake_socket.room:
            why: Any = self.doWrite()
            if why is not None:
                self.connectionLost(Failure(why))

    @property
    def sent(self) -> bytes:
        """All that was sent, with fast paths or without."""
        self.write_out()
        return b"".join(self.fake_socket.given)

    def forget(self) -> None:
        """Forget what was sent until now."""
        self.write_out()
        self.fake_socket.given.clear()

    def receive(self, data: bytes) -> None:
        """Receive data from the client."""
        self.protocol.dataReceived(data)


def open_websocket(daemon: Daemon, path: str, *lines: str) -> SocketConnection:
    """Open a WebSocket to a daemon, with more lines in its handshake."""
    server = SocketConnection(daemon)
    server.receive(handshake(path, *lines))
    daemon.settle()
    return server


def open_stream(daemon: Daemon, path: str, version: str = "1.1") -> SocketConnection:
    """Open an event stream; its head and first event are forgotten."""
    server = SocketConnection(daemon)
    head = f"GET {path} HTTP/{version}\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    server.receive(head.encode())
    daemon.settle()
    server.forget()
    return server
