"""Connections of http.client to a daemon in memory, for tests of code that blocks."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from pushd.testing.daemon import Daemon, Wire


class Network:
    """A network with a daemon, nothing, or another server.

    A read that would block runs the next step of ``script`` instead, and times out if there is
    none.
    """

    def __init__(self, daemon: Daemon | None) -> None:
        self.daemon = daemon
        #: Steps, each of which runs when a client would block.
        self.script: list[Callable[[], object]] = []
        #: What a server that is not pushd answers; None if the server is the daemon.
        self.other_server: bytes | None = None
        self.asked: list[str] = []
        #: What clients have sent.
        self.sent: list[bytes] = []
        self.wires: list[Wire] = []
        self.paused: list[float] = []

    def connect(self, scheme: str, host: str, port: int | None, timeout: float) -> HTTPConnection:
        """Make a connection, as ``pushd.client.connect`` does."""
        self.asked.append(f"{scheme}://{host}:{port}")
        return _Connection(self, host, port, timeout)

    def pause(self, seconds: float) -> None:
        """Record the pause; do not wait."""
        self.paused.append(seconds)


class _Connection(HTTPConnection):
    def __init__(self, network: Network, host: str, port: int | None, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._network = network

    def connect(self) -> None:
        socket: Any
        if self._network.other_server is not None:
            socket = _OtherSocket(self._network, self._network.other_server)
        elif self._network.daemon is None:
            raise ConnectionRefusedError(111, "Connection refused")
        else:
            wire = self._network.daemon.open_connection(control=self.port == 8081)
            self._network.wires.append(wire)
            socket = _Socket(self._network, wire)
        self.sock = socket


class _OtherSocket:
    def __init__(self, network: Network, answer: bytes) -> None:
        self._network = network
        self._answer = answer

    def sendall(self, data: Any) -> None:
        """Record what is sent."""
        self._network.sent.append(bytes(data))

    def makefile(self, mode: str) -> io.BytesIO:
        """Return a file with the answer."""
        return io.BytesIO(self._answer)

    def close(self) -> None:
        """Do nothing."""


class _Socket:
    def __init__(self, network: Network, wire: Wire) -> None:
        self._network = network
        self._wire = wire
        self._parts = 1

    def sendall(self, data: Any) -> None:
        """Send data."""
        self._network.sent.append(bytes(data))
        self._wire.send(bytes(data))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file of what is received."""
        self._parts += 1
        return io.BufferedReader(_Reader(self._network, self._wire, self.close))

    def close(self) -> None:
        """Close the connection, once its files are closed."""
        self._parts -= 1
        if not self._parts:
            self._wire.leave()


class _Reader(io.RawIOBase):
    def __init__(self, network: Network, wire: Wire, closed: Callable[[], None]) -> None:
        super().__init__()
        self._network = network
        self._wire = wire
        self._closed = closed
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._wire.received) == self._place and not self._wire.closed:
            if not self._network.script:
                raise TimeoutError("timed out")
            self._network.script.pop(0)()
        data = self._wire.received[self._place :][: len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._closed()
        super().close()
