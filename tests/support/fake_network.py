"""A fake network for the blocking client: connections to a daemon in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from pushd.testing import Daemon, RawConnection


class FakeNetwork:
    """Makes connections to a daemon in memory, or to a server with a canned response.

    Reading from a connection blocks as on a real network: when there is nothing to read, the next
    of ``steps`` is called, which may let time pass or publish something.

    :param daemon: the daemon; None to refuse connections.
    """

    def __init__(self, daemon: Daemon | None) -> None:
        self.daemon = daemon
        #: Called one by one while a client waits to read; then reading times out.
        self.steps: list[Callable[[], object]] = []
        #: What is sent to each client instead of the response of the daemon.
        self.canned: bytes | None = None
        #: Schemes, hosts and ports that were connected to.
        self.addresses: list[str] = []
        #: What clients have sent.
        self.sent: list[bytes] = []
        #: The connections to the daemon.
        self.connections: list[RawConnection] = []
        #: Seconds that clients have paused for.
        self.pauses: list[float] = []
        #: The timeout of the last connection, in seconds.
        self.timeout = 0.0

    def connect(self, scheme: str, host: str, port: int | None, timeout: float) -> HTTPConnection:
        """Make a connection, as ``pushd.client.connect`` does."""
        self.addresses.append(f"{scheme}://{host}:{port}")
        self.timeout = timeout
        if scheme == "unix":
            # The control port, as if it was on a Unix socket.
            return _FakeConnection(self, "localhost", 8081, timeout)
        return _FakeConnection(self, host, port, timeout)

    def pause(self, seconds: float) -> None:
        """Record a pause instead of waiting."""
        self.pauses.append(seconds)


class _FakeConnection(HTTPConnection):
    def __init__(self, network: FakeNetwork, host: str, port: int | None, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._network = network

    def connect(self) -> None:
        socket: Any
        if self._network.canned is not None:
            socket = _CannedSocket(self._network, self._network.canned)
        elif self._network.daemon is None:
            raise ConnectionRefusedError(111, "Connection refused")
        else:
            connection = self._network.daemon.open_connection(control=self.port == 8081)
            self._network.connections.append(connection)
            socket = _FakeSocket(self._network, connection)
        self.sock = socket


class _CannedSocket:
    """A socket from which a canned response is read."""

    def __init__(self, network: FakeNetwork, response: bytes) -> None:
        self._network = network
        self._response = response

    def sendall(self, data: Any) -> None:
        """Record what is sent."""
        self._network.sent.append(bytes(data))

    def makefile(self, mode: str) -> io.BytesIO:
        """Return the response as a file."""
        return io.BytesIO(self._response)

    def close(self) -> None:
        """Do nothing."""


class _FakeSocket:
    """A socket that is connected to a daemon in memory."""

    def __init__(self, network: FakeNetwork, connection: RawConnection) -> None:
        self._network = network
        self._connection = connection
        self._users = 1

    def sendall(self, data: Any) -> None:
        """Send data to the daemon, and record it."""
        self._network.sent.append(bytes(data))
        self._connection.send(bytes(data))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what the daemon sends as a file."""
        self._users += 1
        return io.BufferedReader(_FakeSocketFile(self._network, self._connection, self.close))

    def close(self) -> None:
        """Close the connection when the socket and its files are closed."""
        self._users -= 1
        if not self._users:
            self._connection.leave()


class _FakeSocketFile(io.RawIOBase):
    def __init__(
        self, network: FakeNetwork, connection: RawConnection, closed: Callable[[], None]
    ) -> None:
        super().__init__()
        self._network = network
        self._connection = connection
        self._closed = closed
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._connection.received) == self._position and not self._connection.closed:
            if not self._network.steps:
                raise TimeoutError("timed out")
            self._network.steps.pop(0)()
        data = self._connection.received[self._position :][: len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._closed()
        super().close()
