"""What goes out to a peer: how large it may be, and how slow the peer."""

from __future__ import annotations

from typing import Any

from pushd.access.limits import Limits
from tests.peer import Peer, handshake
from tests.wire_case import WireTestCase


class SendTests(WireTestCase):
    def test_too_large_to_send(self) -> None:
        """A view that sends more than the limit gets ValueError, and its socket is as it was."""
        self.connect("/idle/")
        websocket = self.requests[0].websocket
        with self.assertRaises(ValueError):
            websocket.send(b"x" * ((1 << 20) + 1))
        self.assertFalse(websocket.is_closed())

    def test_largest_to_send(self) -> None:
        """A view may send as much as the limit."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.send(b"\x00" * (1 << 20), binary=True)
        peer.settle()
        self.assertEqual(len(peer.frames[0].payload), 1 << 20)

    def test_slow_reader(self) -> None:
        """Awaiting a send holds the view as long as the peer does not read."""
        peer = self.connect("/idle/")
        websocket = self.requests[0].websocket
        self.successResultOf(websocket.send("x"))
        peer.stall()
        held = websocket.send("x" * 100_000)
        peer.settle()
        self.assertNoResult(held)
        peer.resume()
        self.successResultOf(held)
        self.assertEqual([len(text) for text in peer.texts], [1, 100_000])

    def test_slow_reader_over_tls(self) -> None:
        """The limit of what waits for a peer holds over TLS."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/idle/"))
        peer.stall()
        websocket = self.requests[0].websocket
        for _ in range(40):
            websocket.send("x" * 100_000)
            peer.settle()
        self.assertTrue(websocket.is_closed())
        peer.resume()
        self.assertEqual(peer.code, 1013)
        self.assertLess(len(peer.texts), 16)


class SizeTests(WireTestCase):
    def settings(self) -> dict[str, Any]:
        """Let messages have a thousand bytes."""
        return {"limits": Limits(max_message=1000)}

    def test_send(self) -> None:
        """The limit holds for what views send, too."""
        self.connect("/idle/")
        websocket = self.requests[0].websocket
        websocket.send("x" * 1000)
        with self.assertRaisesRegex(ValueError, "1001 bytes: --max-message is 1000"):
            websocket.send("x" * 1001)
        with self.assertRaises(ValueError):
            websocket.send("é" * 501)


class LimitTests(WireTestCase):
    def settings(self) -> dict[str, Any]:
        """Let there be ten messages a second, and little room."""
        return {"limits": Limits(max_rate=10, max_buffered=100_000)}

    def test_slow_reader(self) -> None:
        """Who does not take what it is sent is let go with 1013, and keeps what it was sent."""
        peer = self.connect("/idle/")
        peer.stall()
        websocket = self.requests[0].websocket
        for _ in range(20):
            websocket.send("x" * 10_000)
            peer.settle()
        self.assertTrue(websocket.is_closed())
        self.assertLess(peer.server.unsent, 120_000)
        peer.resume()
        self.assertEqual(peer.texts, ["x" * 10_000] * 10)
        self.assert_closed(1013, peer)
