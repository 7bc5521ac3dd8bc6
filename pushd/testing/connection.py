"""Plain connection in memory, and the HTTP response read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse, IncompleteRead
from io import BytesIO
from typing import Any, cast

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pushd.testing.memory_network import MemoryTransport


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class RawConnection:
    """A connection that sends and receives any bytes.

    :param settle: delivers everything that is under way.
    """

    def __init__(
        self, settle: Callable[[], None], client: RecordingProtocol, transport: MemoryTransport
    ) -> None:
        self._settle = settle
        self._client = client
        self._transport = transport

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)
        self._settle()

    def leave(self) -> None:
        """Close the connection."""
        self._transport.loseConnection()
        self._settle()

    def stall(self) -> None:
        """Stop reading."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Start reading again."""
        self._transport.resumeProducing()
        self._settle()

    @property
    def received(self) -> bytes:
        """All bytes received."""
        return bytes(self._client.received)

    @property
    def closed(self) -> bool:
        """True once the connection is lost."""
        return self._client.closed

    def answer(self, method: str = "GET") -> Answer | None:
        """The first HTTP response received; None if it is not complete."""
        return read_answer(self.received, method)


class RecordingProtocol(Protocol):
    """Records what it receives."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True


class _FakeSocket:
    """Received bytes, for http.client, which reads from a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._data)


def read_answer(data: bytes, method: str) -> Answer | None:
    """Return the first HTTP response in the data; None if it is not complete."""
    if b"\r\n\r\n" not in data:
        return None
    response = HTTPResponse(cast("Any", _FakeSocket(data)), method=method)
    response.begin()
    try:
        return Answer(response.status, response.headers, response.read())
    except IncompleteRead:
        return None
