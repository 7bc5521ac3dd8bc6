"""A connection in memory as a string of bytes each way, and the HTTP answer that is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse, IncompleteRead
from io import BytesIO
from typing import Any, cast

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pushd.testing.loopback import LoopbackTransport


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class Wire:
    """A connection as a string of bytes each way.

    :param settle: delivers everything that is under way.
    """

    def __init__(
        self, settle: Callable[[], None], client: Bytes, transport: LoopbackTransport
    ) -> None:
        self._settle = settle
        self._client = client
        self._transport = transport

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)
        self._settle()

    def leave(self) -> None:
        """Go away without a word."""
        self._transport.loseConnection()
        self._settle()

    def stall(self) -> None:
        """Stop reading."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._transport.resumeProducing()
        self._settle()

    @property
    def received(self) -> bytes:
        """All that has come so far."""
        return bytes(self._client.received)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._client.closed

    def answer(self, method: str = "GET") -> Answer | None:
        """The first HTTP answer that has come, or None."""
        return read_answer(self.received, method)


class Bytes(Protocol):
    """A client that keeps what comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True


class _Received:
    """Bytes that http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._data)


def read_answer(data: bytes, method: str) -> Answer | None:
    """The first HTTP answer in what has come, or None while it is not whole."""
    if b"\r\n\r\n" not in data:
        return None
    response = HTTPResponse(cast("Any", _Received(data)), method=method)
    response.begin()
    try:
        return Answer(response.status, response.headers, response.read())
    except IncompleteRead:
        return None
