"""picows as its documentation says: a listener per path, frames without copies; it has no HTTP."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

PING_INTERVAL = 25

subscribers: set[WSTransport] = set()


class Listener(WSListener):
    """Base class that answers Close frames."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self.on_text(transport, frame)

    def on_text(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle a text message."""


class Demo(Listener):
    """Ten pushes, half a second apart, then a Close."""

    def on_text(self, transport: WSTransport, frame: WSFrame) -> None:
        self._push(transport, 0)

    def _push(self, transport: WSTransport, number: int) -> None:
        if number == 10:
            transport.send_close(1000)
            transport.disconnect()
            return
        transport.send(WSMsgType.TEXT, f"service message: {number}".encode())
        asyncio.get_running_loop().call_later(0.5, self._push, transport, number + 1)


class Subscribe(Listener):
    """Receives every publication."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        subscribers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        subscribers.discard(transport)


class Publish(Listener):
    """Publishes each message to every subscriber."""

    def on_text(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        for subscriber in subscribers:
            subscriber.send(WSMsgType.TEXT, payload)


class Echo(Listener):
    """Sends each message back."""

    def on_text(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(WSMsgType.TEXT, frame.get_payload_as_bytes())


LISTENERS = {b"/test/": Demo, b"/subscribe/": Subscribe, b"/publish/": Publish, b"/echo/": Echo}


def find_listener(request: Any) -> Listener:
    """Create the listener for a path."""
    return LISTENERS[bytes(request.path)]()


async def main() -> None:
    """Listen, and print the port."""
    server = await ws_create_server(
        find_listener,
        "127.0.0.1",
        0,
        backlog=4096,
        enable_auto_ping=True,
        auto_ping_idle_timeout=PING_INTERVAL,
        auto_ping_reply_timeout=PING_INTERVAL,
    )
    sys.stdout.write(f"listening on {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


asyncio.run(main())
