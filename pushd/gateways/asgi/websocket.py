"""WebSockets of an ASGI application: ``receive`` and ``send`` over a view's WebSocket."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections.abc import Iterable
from enum import Enum
from io import BytesIO
from typing import Any

from twisted.python.failure import Failure

from pushd.access.closing import NORMAL
from pushd.errors import ClientDisconnected
from pushd.gateways.asgi.headers import check_headers, check_status
from pushd.gateways.asgi.scope import Application, Message, Scope
from pushd.protocols.websocket.socket import WebSocket
from pushd.views.exchange import HandshakeResponse

# How many bytes are sent of a body that refuses a handshake: browsers show pages none of it.
_MAX_REFUSAL = 1 << 16


# Headers of a 101 that only the server may set (RFC 6455 §4.2.2).
_OPENING = frozenset(
    {
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)


class _State(Enum):
    """How far the application has come."""

    NEW = "the application has not asked for the first event"
    CONNECTING = "the handshake waits for the application"
    OPEN = "messages go both ways"
    REFUSING = "a response that refuses the handshake has begun"
    REFUSED = "that response is complete"
    CLOSED = "the application has closed"
    TOLD = "the application has been told that the client has left"


class WebSocketConversation:
    """One WebSocket and one call of the application, which serves it.

    The application accepts the handshake with ``websocket.accept``; until then it can refuse it
    with ``websocket.close``, which is a 403, or with a response of its own.

    Messages come in the order in which they arrived, those from before the end included: only then
    comes ``websocket.disconnect``. Until the application has been told of the end, what it sends to
    a client that has left is dropped; after that ``send`` raises ``ClientDisconnected``.
    """

    # There are as many as there are WebSockets: each byte counts.
    __slots__ = ("_arrived", "_loop", "_receiver", "_refusal", "_state", "_waiting", "_websocket")

    def __init__(self, websocket: WebSocket, loop: AbstractEventLoop) -> None:
        self._websocket = websocket
        self._loop = loop
        self._state = _State.NEW
        # A message that arrived while nothing received, or the exception in its place. One at most.
        self._arrived: list[str | bytes | Failure | None] = []
        # Whether the WebSocket has been asked for a message that has not arrived.
        self._waiting = False
        # Wakes the task that receives.
        self._receiver: Future[None] | None = None
        # The response that refuses the handshake, if the application makes one.
        self._refusal: _Refusal | None = None

    async def run(self, application: Application, scope: Scope) -> HandshakeResponse | None:
        """Call the application; return the response that refuses the handshake, if it does.

        Raises what the application raises, and RuntimeError if it left the handshake unanswered.
        """
        try:
            await application(scope, self.receive, self.send)
        except ClientDisconnected:
            return None
        if self._state in (_State.NEW, _State.CONNECTING) and not self._websocket.is_closed():
            raise RuntimeError("the application returned without accepting the WebSocket")
        if self._state is _State.REFUSING:
            raise RuntimeError("the application returned before its response was complete")
        if self._state is _State.REFUSED:
            return (self._refusal or _Refusal()).get()
        return None

    async def receive(self) -> dict[str, Any]:
        """Return the next event: connect, receive or disconnect.

        A task that is cancelled here loses no message. Raises RuntimeError if another task waits.
        """
        if self._state is _State.NEW:
            self._state = _State.CONNECTING
            return {"type": "websocket.connect"}
        if self._state is _State.REFUSED:  # ``wait`` would accept the handshake.
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        if self._receiver is not None:
            raise RuntimeError("another task already waits for the next event of this WebSocket")
        message = await self._next()
        if message is None:
            self._state = _State.TOLD
            code, reason = self._websocket.close_code, self._websocket.close_reason
            return {"type": "websocket.disconnect", "code": code or 1006, "reason": reason}
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Message) -> None:
        """Take an event: accept, send, close, or a part of a response that refuses.

        Returns when the connection can take more. Raises ValueError or TypeError for an event that
        cannot be sent, RuntimeError for one that cannot come now, and ClientDisconnected.
        """
        kind = message["type"]
        if self._state is _State.TOLD:
            raise ClientDisconnected("the client has left")
        if kind == "websocket.send" and self._state is _State.OPEN:
            await self._send(message)
        elif kind == "websocket.close" and self._state is _State.OPEN:
            self._state = _State.CLOSED
            code, reason = message.get("code"), message.get("reason")
            self._websocket.close(NORMAL.code if code is None else code, reason or "")
        elif kind == "websocket.accept" and self._state in (_State.NEW, _State.CONNECTING):
            headers = check_headers(message.get("headers") or (), _OPENING)
            self._websocket.accept(message.get("subprotocol"), headers)
            self._state = _State.OPEN
            # What awaits the end of the offer awaits messages from now on.
            self._waiting = False
            self._wake()
        elif kind == "websocket.close" and self._state in (_State.NEW, _State.CONNECTING):
            self._state = _State.REFUSED
        elif kind == "websocket.http.response.start" and self._state in (
            _State.NEW,
            _State.CONNECTING,
        ):
            self._start_refusal(message)
        elif kind == "websocket.http.response.body" and self._state is _State.REFUSING:
            self._extend_refusal(message)
        else:
            raise RuntimeError(f"the application sent {kind!r} when {self._state.value}")

    async def _send(self, message: Message) -> None:
        text, data = message.get("text"), message.get("bytes")
        if (text is None) == (data is None):
            raise ValueError("websocket.send must have either text or bytes")
        if data is not None:
            sent = self._websocket.send(data, binary=True)
        elif isinstance(text, str):
            sent = self._websocket.send(text)
        else:
            raise TypeError(f"the text of websocket.send must be str, not {type(text).__name__}")
        if not sent.called:
            await sent.asFuture(self._loop)

    def _start_refusal(self, message: Message) -> None:
        status = check_status(message["status"])
        self._refusal = _Refusal(status, check_headers(message.get("headers") or ()))
        self._state = _State.REFUSING

    def _extend_refusal(self, message: Message) -> None:
        assert self._refusal is not None
        self._refusal.extend(message.get("body", b""))
        if not message.get("more_body", False):
            self._state = _State.REFUSED

    async def _next(self) -> str | bytes | None:
        """Return the next message, or None at the end."""
        websocket = self._websocket
        while not self._arrived:
            if not self._waiting:
                # ``wait`` would accept the handshake.
                if self._state in (_State.CONNECTING, _State.REFUSING):
                    websocket.gone().addCallback(self._left)
                elif websocket.has_messages():
                    return websocket.read()
                elif not websocket.call_with_next(self._arrive):
                    websocket.wait().addBoth(self._arrive)
                # It may have been there already.
                self._waiting = not self._arrived
            self._receiver = self._loop.create_future()
            try:
                if not self._arrived:
                    await self._receiver
            finally:
                self._receiver = None
        message = self._arrived.pop()
        if isinstance(message, Failure):
            message.raiseException()
        assert not isinstance(message, Failure)
        return message

    def _left(self, _: None) -> None:
        """Note that the client has left before the handshake was answered."""
        if self._state in (_State.CONNECTING, _State.REFUSING):
            self._arrive(None)

    def _arrive(self, message: str | bytes | Failure | None) -> None:
        """Keep a message until it is received."""
        self._waiting = False
        self._arrived.append(message)
        self._wake()

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)


class _Refusal:
    """A response that refuses a handshake, part by part."""

    def __init__(self, status: int = 403, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._status = status
        self._headers: dict[str, list[str]] = {}
        self._body = BytesIO()
        for name, value in headers:
            if name.lower() != b"content-length":
                values = self._headers.setdefault(name.decode("latin-1"), [])
                values.append(value.decode("latin-1"))

    def extend(self, data: bytes) -> None:
        """Take a part of the body, as far as it is sent."""
        if self._body.tell() < _MAX_REFUSAL:
            self._body.write(data)

    def get(self) -> HandshakeResponse:
        """Return the whole response."""
        return HandshakeResponse(self._status, self._headers, self._body.getvalue()[:_MAX_REFUSAL])
