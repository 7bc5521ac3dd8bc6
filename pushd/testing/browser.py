"""WebSocket client in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from pushd.access.closing import Closing
from pushd.protocols.http.response import phrase_of
from pushd.testing.connection import Answer, read_answer
from pushd.testing.memory_network import MemoryTransport

# Characters of a refusal that are shown, and what of a page is not.
_SHOWN = 200
_MARKUP = re.compile(r"<head>.*?</head>|<[a-zA-Z/!][^>]*>", re.DOTALL)


class Browser:
    """A WebSocket client: what it has received, and how its connection ended.

    :param settle: delivers everything that is under way.
    :param path: where it has asked for a WebSocket.
    """

    def __init__(
        self,
        settle: Callable[[], None],
        client: BrowserProtocol,
        transport: MemoryTransport,
        path: str,
    ) -> None:
        self._settle = settle
        self._client = client
        self._transport = transport
        self._path = path

    def __repr__(self) -> str:
        """Say how it stands, for the message of an assertion that fails."""
        answer = self.refused
        if answer is not None:
            state = f"refused: {answer.status} {phrase_of(answer.status)}, {_shorten(answer.text)}"
        elif not self.opened:
            state = "gone without an answer" if self.gone else "not answered yet"
        elif self.closing is not None:
            state = f"closed: {self.closing.code} {self.closing.reason}".rstrip()
        else:
            state = "gone" if self.gone else "open"
        return f"<Browser {self._path} {state}>"

    @property
    def opened(self) -> bool:
        """True if the handshake was answered with 101."""
        return self._client.opened

    @property
    def refused(self) -> Answer | None:
        """The HTTP response that the handshake got in place of a 101; None if it got none."""
        return None if self.opened else read_answer(bytes(self._client.head), "GET")

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self._client.websocket_protocol_in_use if self.opened else None

    @property
    def messages(self) -> list[str | bytes]:
        """All messages received, oldest first. Raises AssertionError if it was refused."""
        self._check_not_refused()
        return self._client.messages

    @property
    def closing(self) -> Closing | None:
        """The server's Close frame; None if it sent none."""
        return self._client.closing

    @property
    def gone(self) -> bool:
        """True once the connection is lost."""
        return self._client.gone

    def send(self, message: str | bytes) -> None:
        """Send a text or binary message. Raises AssertionError if it was refused."""
        self._check_not_refused()
        payload = message if isinstance(message, bytes) else message.encode()
        self._client.sendMessage(payload, isBinary=payload is message)
        self._settle()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes that need not be WebSocket frames."""
        self._transport.write(data)
        self._settle()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close frame, as a browser does. Raises AssertionError if it was refused."""
        self._check_not_refused()
        self._client.sendCloseFrame(code, reason.encode())
        self._settle()

    def leave(self) -> None:
        """Drop the connection without a Close frame, as a laptop does whose lid is closed."""
        self._transport.abortConnection()
        self._settle()

    def stall(self) -> None:
        """Stop reading."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Start reading again."""
        self._transport.resumeProducing()
        self._settle()

    def _check_not_refused(self) -> None:
        if self.refused is not None:
            raise AssertionError(f"the WebSocket was not opened: {self!r}")


def _shorten(text: str) -> str:
    line = " ".join(_MARKUP.sub(" ", text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


class BrowserProtocol(WebSocketClientProtocol):
    """The client's side of a connection: records what it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.head = bytearray()
        self.messages: list[str | bytes] = []
        self.opened = False
        self.closing: Closing | None = None
        self.gone = False

    def dataReceived(self, data: bytes) -> None:
        if not self.opened:
            self.head += data
        super().dataReceived(data)

    def onOpen(self) -> None:
        self.opened = True

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.messages.append(payload if isBinary else payload.decode())

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        if code is not None:
            self.closing = Closing(code, (reasonRaw or b"").decode())
        return super().onCloseFrame(code, reasonRaw)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        super().connectionLost(reason)


def make_protocol(
    url: str,
    reactor: Any,
    *,
    subprotocols: Sequence[str],
    headers: Mapping[str, str] | None,
    origin: str | None,
) -> BrowserProtocol:
    """Return a protocol that asks for a WebSocket when its connection is made."""
    factory = WebSocketClientFactory(
        url,
        origin=origin,
        protocols=list(subprotocols) or None,
        headers=dict(headers or {}),
        reactor=reactor,
    )
    # Autobahn's own timers run on the global reactor, which tests in memory do not run.
    factory.setProtocolOptions(
        openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
    )
    protocol = BrowserProtocol()
    protocol.factory = factory
    return protocol
