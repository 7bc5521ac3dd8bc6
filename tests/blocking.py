"""Connections of Python's own library to a daemon in memory: for what blocks."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from pushd.testing.daemon import Daemon, Wire


class Network:
    """What a client connects to: a daemon, or nothing, or something else.

    It blocks as the real one does: who reads when there is nothing lets the time of the daemon
    pass, or does what a test wants to happen just then.
    """

    def __init__(self, daemon: Daemon | None) -> None:
        self.daemon = daemon
        #: What happens when a client waits, one by one; then it waits in vain.
        self.script: list[Callable[[], object]] = []
        #: What a stranger answers, in place of the daemon.
        self.stranger: bytes | None = None
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
        """Wait no time, but note it."""
        self.paused.append(seconds)


class _Connection(HTTPConnection):
    def __init__(self, network: Network, host: str, port: int | None, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._network = network

    def connect(self) -> None:
        socket: Any
        if self._network.stranger is not None:
            socket = _Stranger(self._network, self._network.stranger)
        elif self._network.daemon is None:
            raise ConnectionRefusedError(111, "Connection refused")
        else:
            wire = self._network.daemon.open_connection(control=self.port == 8081)
            self._network.wires.append(wire)
            socket = _Socket(self._network, wire)
        self.sock = socket


class _Stranger:
    def __init__(self, network: Network, said: bytes) -> None:
        self._network = network
        self._said = said

    def sendall(self, data: Any) -> None:
        """Note it."""
        self._network.sent.append(bytes(data))

    def makefile(self, mode: str) -> io.BytesIO:
        """Say what is to be said."""
        return io.BytesIO(self._said)

    def close(self) -> None:
        """Do nothing."""


class _Socket:
    def __init__(self, network: Network, wire: Wire) -> None:
        self._network = network
        self._wire = wire
        self._parts = 1

    def sendall(self, data: Any) -> None:
        """Send."""
        self._network.sent.append(bytes(data))
        self._wire.send(bytes(data))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Read what comes."""
        self._parts += 1
        return io.BufferedReader(_Reader(self._network, self._wire, self.close))

    def close(self) -> None:
        """Let go, once those who read have."""
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
