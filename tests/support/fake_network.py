"""A fake network for the blocking client: connections to a daemon in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPConnection
from selectors import EVENT_READ, BaseSelector, SelectorKey
from ssl import SSLWantReadError
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
        #: The bytes that TLS decrypts at once; None without TLS.
        self.record: int | None = None
        #: The most bytes that arrive at once; None for no limit.
        self.piece: int | None = None
        #: Whether connections are reset.
        self.reset = False
        #: How many reads find that no record of TLS has arrived completely.
        self.incomplete = 0
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


class FakeSelector(BaseSelector):
    """Selects fake sockets; when none has input, time passes."""

    def __init__(self, advance: Callable[[float], object]) -> None:
        self._keys: dict[Any, SelectorKey] = {}
        self._advance = advance
        #: How many sockets are watched for input, those that were registered last.
        self.watched: int | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Watch a socket."""
        self._keys[fileobj] = SelectorKey(fileobj, 0, events, data)
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Watch a socket no more."""
        return self._keys.pop(fileobj)

    def close(self) -> None:
        """Watch no socket any more."""
        self._keys.clear()

    def get_map(self) -> dict[Any, SelectorKey]:
        """Return all sockets."""
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Return the sockets that have input; without any, let the time pass."""
        watched = list(self._keys.values())[-(self.watched or len(self._keys)) :]
        ready = [(key, EVENT_READ) for key in watched if key.fileobj.has_input()]  # type: ignore[union-attr] # a fake socket
        if not ready:
            assert timeout is not None
            self._advance(timeout)
        return ready


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
        self._position = 0
        self._blocking = True

    def sendall(self, data: Any) -> None:
        """Send data to the daemon, and record it."""
        self._network.sent.append(bytes(data))
        self._connection.send(bytes(data))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what the daemon sends as a file."""
        self._users += 1
        return io.BufferedReader(_FakeSocketFile(self.read, self.close))

    def setblocking(self, blocking: bool) -> None:
        """Let ``recv`` wait, or raise BlockingIOError."""
        self._blocking = blocking

    def has_input(self) -> bool:
        """Whether ``recv`` would not have to wait."""
        return self._unread() > 0 or self._connection.closed

    def _unread(self) -> int:
        return len(self._connection.received) - self._position

    def recv(self, size: int) -> bytes:
        """Return what the daemon has sent."""
        if not self._blocking and self._network.incomplete:
            self._network.incomplete -= 1
            raise SSLWantReadError
        if self._network.reset:
            raise ConnectionResetError(104, "Connection reset by peer")
        return self.read(self._network.record or self._network.piece or size)

    def pending(self) -> int:
        """Return how many bytes TLS has decrypted that were not read."""
        return 0 if self._network.record is None else self._unread()

    def read(self, size: int) -> bytes:
        """Return what the daemon has sent; wait for it as the network does."""
        while not self.has_input():
            if not self._network.steps:
                raise TimeoutError("timed out")
            self._network.steps.pop(0)()
        data = self._connection.received[self._position :][:size]
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the connection when the socket and its files are closed."""
        self._users -= 1
        if not self._users:
            self._connection.leave()


class _FakeSocketFile(io.RawIOBase):
    def __init__(self, read: Callable[[int], bytes], closed: Callable[[], None]) -> None:
        super().__init__()
        self._read = read
        self._closed = closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._closed()
        super().close()
