"""A whole daemon in memory, under one clock: for tests of pushd, and of views.

    daemon = Daemon({"/echo/": echo})
    browser = daemon.connect("/echo/")
    browser.send("hello")
    assert browser.messages == ["hello"]

Half a second takes no time: ``daemon.advance(0.5)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse, IncompleteRead
from io import BytesIO
from types import TracebackType
from typing import Any, cast

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from pushd.assembly import build
from pushd.beat import Beat
from pushd.lockstep import LockstepThreads
from pushd.loopback import Loopback, LoopbackTransport
from pushd.messages import Closing
from pushd.routes import Routes
from pushd.settings import Settings
from pushd.views import View

_HOST = "localhost:8080"


class Daemon:
    """A pushd that listens nowhere, with the real Site and the real Autobahn inside.

    Whatever is done to it or to its browsers has had its effects when the call returns. Views
    that block run in turns with the test.

    :param views: the map of views; None for the demo.
    :param settings: other settings, by the names of ``pushd.settings.Settings``.
    """

    def __init__(self, views: Mapping[str, View] | None = None, **settings: Any) -> None:
        if views is not None:
            settings["routes"] = views if isinstance(views, Routes) else Routes(views)
        # A stop says goodbye to all at once, unless a test wants to see how it is spread.
        self.settings = Settings(**{"drain": 0, **settings})
        #: The clock, and a reactor for what else needs one.
        self.clock = MemoryReactorClock()
        self._loopback = Loopback()
        self._service = build(
            self.settings, self.clock, LockstepThreads(self.settings.threads), random=lambda: 0.5
        )
        self._service.privilegedStartService()
        self._service.startService()
        self._doors = [server[1] for server in self.clock.tcpServers]
        self._stopped: Deferred[Any] | None = None

    def connect(
        self,
        path: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        origin: str | None = f"http://{_HOST}",
    ) -> Browser:
        """Ask for a WebSocket, as a browser does; see ``Browser`` for what came of it."""
        factory = WebSocketClientFactory(
            f"ws://{_HOST}{path}",
            origin=origin,
            protocols=list(subprotocols) or None,
            headers=dict(headers or {}),
            reactor=self.clock,
        )
        # Autobahn's own timers run on the global reactor, which a test in memory does without.
        factory.setProtocolOptions(
            openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
        )
        client = _Client()
        client.factory = factory
        transport = self._loopback.connect(self._doors[0], client)
        self.settle()
        return Browser(self, client, transport)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer | None:
        """Ask for a page; see ``request``."""
        return self.request("GET", path, headers)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        control: bool = False,
    ) -> Answer | None:
        """Send a plain HTTP request; None while there is no answer yet.

        :param control: ask at the private door.
        """
        fields = {"Host": _HOST, "Connection": "close", **(headers or {})}
        if body:
            fields.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        wire = self.open_connection(control=control)
        wire.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return wire.answer(method)

    def open_connection(self, *, control: bool = False) -> Wire:
        """Open a connection to send bytes of one's own choice."""
        client = _Bytes()
        door = self._doors[len(self.settings.listen) if control else 0]
        transport = self._loopback.connect(door, client)
        self.settle()
        return Wire(self, client, transport)

    def advance(self, *seconds: float) -> None:
        """Let time pass, step by step; each step's effects are there before the next."""
        for step in seconds:
            self.clock.advance(step)
            self.settle()

    def settle(self) -> None:
        """Deliver what is under way, and run what is due now."""
        self._loopback.run()
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            self._loopback.run()

    @property
    def pending_calls(self) -> list[IDelayedCall]:
        """Every delayed call that is left; an idle daemon has none."""
        calls: list[IDelayedCall] = []
        for call in self.clock.getDelayedCalls():
            owner = getattr(getattr(call, "func", None), "__self__", None)
            calls += owner.getDelayedCalls() if isinstance(owner, Beat) else [call]
        return calls

    def begin_stop(self) -> Deferred[Any]:
        """Stop, as SIGTERM does; the Deferred fires when the process would end."""
        if self._stopped is None:
            self._stopped = maybeDeferred(self._service.stopService)
            self.settle()
        return self._stopped

    def stop(self) -> None:
        """Stop, and let the time pass that this takes."""
        self.begin_stop()
        self.advance(5, 5)
        # The end of the process would cut what waits for an answer still.
        self._loopback.cut()
        self.settle()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


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
    """A connection as a string of bytes each way."""

    def __init__(self, daemon: Daemon, client: _Bytes, transport: LoopbackTransport) -> None:
        self._daemon = daemon
        self._client = client
        self._transport = transport

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)
        self._daemon.settle()

    def leave(self) -> None:
        """Go away without a word."""
        self._transport.loseConnection()
        self._daemon.settle()

    def stall(self) -> None:
        """Stop reading."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._transport.resumeProducing()
        self._daemon.settle()

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
        return _parse(self.received, method)


class Browser:
    """A client with a WebSocket: what it heard, and how it ended."""

    def __init__(self, daemon: Daemon, client: _Client, transport: LoopbackTransport) -> None:
        self._daemon = daemon
        self._client = client
        self._transport = transport

    @property
    def opened(self) -> bool:
        """Whether the handshake was answered with 101."""
        return self._client.opened

    @property
    def refused(self) -> Answer | None:
        """The HTTP answer that the handshake got in place of a 101."""
        return None if self.opened else _parse(bytes(self._client.head), "GET")

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self._client.websocket_protocol_in_use if self.opened else None

    @property
    def messages(self) -> list[str | bytes]:
        """Every message so far."""
        return self._client.messages

    @property
    def closing(self) -> Closing | None:
        """The server's Close frame; None as long as there was none."""
        return self._client.closing

    @property
    def gone(self) -> bool:
        """Whether the connection is gone."""
        return self._client.gone

    def send(self, message: str | bytes) -> None:
        """Send a message: text or binary."""
        payload = message if isinstance(message, bytes) else message.encode()
        self._client.sendMessage(payload, isBinary=payload is message)
        self._daemon.settle()

    def send_bytes(self, data: bytes) -> None:
        """Put bytes on the wire that may be no WebSocket frames."""
        self._transport.write(data)
        self._daemon.settle()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close as a browser does."""
        self._client.sendCloseFrame(code, reason.encode())
        self._daemon.settle()

    def leave(self) -> None:
        """Vanish without a word, as a laptop that is shut."""
        self._transport.abortConnection()
        self._daemon.settle()

    def stall(self) -> None:
        """Stop reading."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._transport.resumeProducing()
        self._daemon.settle()


class _Bytes(Protocol):
    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True


class _Client(WebSocketClientProtocol):
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


class _Received:
    """Bytes that http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._data)


def _parse(data: bytes, method: str) -> Answer | None:
    if b"\r\n\r\n" not in data:
        return None
    response = HTTPResponse(cast("Any", _Received(data)), method=method)
    response.begin()
    try:
        return Answer(response.status, response.headers, response.read())
    except IncompleteRead:
        return None
