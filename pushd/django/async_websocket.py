"""AsyncWebSocket: the ``request.websocket`` of an ``async def`` view, over events of ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from pushd.access.closing import NORMAL, Closing
from pushd.errors import NoMoreMessages
from pushd.gateways.asgi import extension
from pushd.gateways.asgi.scope import Message, Receive, Scope, Send
from pushd.topics.presence import PresenceList

__all__ = ["AsyncWebSocket"]


class AsyncWebSocket:
    """A WebSocket in the hands of an ``async def`` view, whose methods are coroutines.

    Messages are ``str`` if they were sent as text, else bytes. At the end of the conversation
    ``wait`` returns what arrived before, then None once, and after that raises EOFError; ``send``,
    ``close`` and ``subscribe`` do nothing.

    The 101 that opens the connection is sent when the view first needs it open.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._topics = scope.get("extensions", {}).get(extension.NAME, {})
        self._receive = receive
        self._send = send
        #: Headers of the 101, such as the cookies that the middleware sets.
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        #: Whether the handshake has been accepted.
        self.opened = False
        #: The subprotocol that was negotiated, or None.
        self.subprotocol: str | None = None
        #: How the conversation ended; see ``pushd.views.WebSocket.close_code``.
        self.close_code: int | None = None
        #: The reason that the side gave that closed first, or an empty text.
        self.close_reason = ""
        # Whether ``wait`` has returned None.
        self._end_seen = False

    @property
    def closed(self) -> bool:
        """The same as ``is_closed()``."""
        return self.is_closed()

    def is_closed(self) -> bool:
        """Whether the view has closed, or has been told of the end."""
        return self.close_code is not None

    async def accept(self, subprotocol: str | None = None) -> None:
        """Accept the handshake now, if it is not yet; see ``pushd.views.WebSocket.accept``."""
        if self.opened:
            if subprotocol not in (None, self.subprotocol):
                raise RuntimeError(
                    "the handshake has been answered: call accept() before anything else"
                )
            return
        await self._tell(
            {"type": "websocket.accept", "subprotocol": subprotocol, "headers": self.headers}
        )
        self.opened, self.subprotocol = True, subprotocol

    accept_connection = accept

    async def wait(self, timeout: float | None = None) -> str | bytes | None:
        """Return the next message; None at the end, or after ``timeout`` seconds.

        No message is lost by a time-out or a cancellation. Raises EOFError after the end, and
        RuntimeError if another task waits.
        """
        await self.accept()
        if self._end_seen:
            raise NoMoreMessages("the conversation is over")
        try:
            async with asyncio.timeout(timeout):
                event = await self._receive()
        except TimeoutError:
            return None
        if event["type"] == "websocket.disconnect":
            self._end_seen = True
            if self.close_code is None:
                self.close_code = event.get("code") or 1005
                self.close_reason = event.get("reason") or ""
            return None
        text: str | None = event.get("text")
        data: bytes | None = event.get("bytes")
        return data if text is None else text

    async def send(
        self, message: str | bytes | bytearray | memoryview, *, binary: bool = False
    ) -> None:
        """Send a message as text, or with ``binary=True`` as binary.

        Returns when the connection can take more. Raises ValueError for text that is not UTF-8, and
        TypeError for data that is neither ``str`` nor bytes, and for ``str`` as binary.
        """
        if not isinstance(message, str | bytes | bytearray | memoryview):
            raise TypeError(f"a message must be str or bytes; got {type(message).__name__}")
        event: dict[str, Any] = {"type": "websocket.send"}
        if not binary:
            event["text"] = message if isinstance(message, str) else bytes(message).decode()
        elif isinstance(message, str):
            raise TypeError("a binary message must be bytes; got str")
        else:
            event["bytes"] = bytes(message)
        await self.accept()
        if not self.is_closed():
            await self._tell(event)

    async def close(self, code: int = NORMAL.code, reason: str = "") -> None:
        """Close the WebSocket; messages that arrived before can still be read.

        Raises ValueError for a code that must not be sent, and for a reason longer than 123 bytes.
        """
        Closing(code, reason)
        await self.accept()
        if not self.is_closed():
            self.close_code, self.close_reason = code, reason
            await self._tell({"type": "websocket.close", "code": code, "reason": reason})

    async def subscribe(self, topic: str, after: str | None = None) -> bool:
        """Subscribe the browser to a topic; see ``pushd.views.WebSocket.subscribe``."""
        subscribe = self._topic_function("subscribe")
        await self.accept()
        recovered: bool = await subscribe(topic, after)
        return recovered

    async def unsubscribe(self, topic: str) -> None:
        """End the browser's subscription to a topic."""
        await self._topic_function("unsubscribe")(topic)

    async def presence(self, topic: str) -> PresenceList:
        """Return who is present at a topic; see ``pushd.views.WebSocket.presence``."""
        present: PresenceList = await self._topic_function("presence")(topic)
        return present

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield every message, until the end."""
        while (message := await self.wait()) is not None:
            yield message

    async def _tell(self, event: Message) -> None:
        """Send an event, unless the server has told the end before."""
        try:
            await self._send(event)
        except OSError:
            # The client has left, as ``wait`` will say.
            return

    def _topic_function(self, name: str) -> Callable[..., Awaitable[Any]]:
        function: Callable[..., Awaitable[Any]] | None = self._topics.get(name)
        if function is None:
            raise RuntimeError("this server has no topics: use twistd pushd --asgi")
        return function
