"""Test case with a daemon to which tests send WebSocket frames."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import CLOSE, CONTINUATION, Peer, close_frame, frame, handshake


class WebSocketTestCase(SynchronousTestCase):
    """A daemon with a view that echoes, and one that does nothing by itself."""

    def setUp(self) -> None:
        """Start the daemon, and connect a peer to the echo view."""
        self.requests: list[Request] = []
        self.ends: list[str] = []

        @accept_websocket
        async def echo(request: Request) -> None:
            try:
                async for message in request.websocket:
                    request.websocket.send(message, binary=isinstance(message, bytes))
            finally:
                self.ends.append("echo")

        @accept_websocket
        async def idle(request: Request) -> None:
            request.websocket.accept()
            self.requests.append(request)
            await Deferred()

        self.daemon = Daemon({"/echo/": echo, "/idle/": idle}, **self.settings())
        self.peer = self.connect("/echo/")

    def settings(self) -> dict[str, Any]:
        """Return the daemon's settings that differ from the defaults."""
        return {}

    def connect(self, path: str) -> Peer:
        """Open a WebSocket."""
        peer = Peer(self.daemon)
        peer.send(handshake(path))
        self.assertTrue(peer.head.startswith("HTTP/1.1 101 "), peer.head)
        return peer

    def assert_closed(self, code: int, peer: Peer | None = None) -> None:
        """Check that the last frame is a Close with this code; answer it, and expect TCP's end."""
        peer = peer or self.peer
        self.assertEqual([each.opcode for each in peer.frames][-1:], [CLOSE])
        self.assertEqual(peer.code, code)
        peer.send(close_frame(code))
        self.assertIs(peer.lost, ConnectionDone)


def fragments(opcode: int, pieces: list[bytes]) -> list[bytes]:
    """Make the frames of one message."""
    last = len(pieces) - 1
    return [
        frame(CONTINUATION if place else opcode, piece, fin=place == last)
        for place, piece in enumerate(pieces)
    ]
