"""Compression of messages: what is negotiated, and what it does on the wire."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.protocols.websocket.deflate import decompressor, negotiate
from pushd.testing import Daemon
from tests.support.peer import BINARY, CONTINUATION, PING, TEXT, Frame, Peer, frame, handshake
from tests.support.websocket_case import WebSocketTestCase

Offers = list[tuple[str, dict[str, Any]]]


class NegotiationTests(SynchronousTestCase):
    """Which offer is accepted."""

    def answer(self, offers: Offers) -> str | None:
        """Return the extensions of the 101, or None."""
        accepted = negotiate(offers)
        return None if accepted is None else accepted.get_extension_string()

    def test_nothing_kept(self) -> None:
        """Neither side keeps a context, and the window is small if the client allows it."""
        answer = self.answer([("permessage-deflate", {"client_max_window_bits": [True]})])
        assert answer is not None
        self.assertIn("client_no_context_takeover", answer)
        accepted = negotiate([("permessage-deflate", {"server_max_window_bits": ["9"]})])
        assert accepted is not None
        self.assertEqual(decompressor(accepted).server_max_window_bits, 9)

    def test_first_that_can_be(self) -> None:
        """Offers of unknown extensions and parameters are skipped."""
        bad: Offers = [
            ("x-webkit-deflate-frame", {}),
            ("permessage-deflate", {"unheard-of": ["1"]}),
        ]
        self.assertIsNone(self.answer(bad))
        self.assertIsNone(self.answer([]))
        self.assertIsNotNone(self.answer([*bad, ("permessage-deflate", {})]))


class CompressionTests(WebSocketTestCase):
    """permessage-deflate (RFC 7692) on the wire, without a context between messages."""

    def offer(self, *offers: str) -> Peer:
        """Open a WebSocket, offering extensions."""
        peer = Peer(self.daemon)
        peer.send(handshake("/echo/", *(f"Sec-WebSocket-Extensions: {offer}" for offer in offers)))
        self.assertIn(" 101 ", peer.head)
        return peer

    def answer(self, peer: Peer) -> str | None:
        """Return the extensions of the 101, or None."""
        for line in peer.head.split("\r\n"):
            if line.lower().startswith("sec-websocket-extensions: "):
                return line.partition(": ")[2]
        return None

    def test_agreed(self) -> None:
        """The first offer that can be met is accepted; the client must keep no context."""
        for offers in (
            ["permessage-deflate"],
            ["permessage-deflate; client_max_window_bits"],
            ["permessage-deflate; server_max_window_bits=9"],
            ["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            ["x-unknown; a=b, permessage-deflate"],
            ["permessage-deflate; unknown, permessage-deflate"],
            ["x-unknown", "permessage-deflate"],
        ):
            answer = self.answer(self.offer(*offers))
            assert answer is not None, offers
            self.assertTrue(answer.startswith("permessage-deflate"))
            self.assertIn("client_no_context_takeover", answer)
            for word in ("server_max_window_bits=9", "server_no_context_takeover"):
                self.assertEqual(word in answer, any(word in offer for offer in offers))

    def test_declined(self) -> None:
        """An offer that cannot be met is declined, and messages are not compressed."""
        for offer in (
            "",
            "x-webkit-deflate-frame",
            "permessage-bzip2",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=99",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            ';,="',
            "permessage-déflate",
        ):
            peer = self.offer(offer)
            self.assertIsNone(self.answer(peer), offer)
            peer.send(frame(TEXT, b"x" * 1000))
            self.assertEqual(peer.frames, [Frame(TEXT, b"x" * 1000)])

    def test_both_ways(self) -> None:
        """Messages are compressed both ways, each on its own, within the negotiated window."""
        for offer, bits in (
            ("", 12),
            ("; server_max_window_bits=9", 9),
            ("; server_max_window_bits=15", 12),
        ):
            peer = self.offer(f"permessage-deflate{offer}")
            for text in (b"hello " * 1000, b"hello " * 1000, "caf\u00e9 ".encode() * 500):
                peer.send(frame(TEXT, deflate(text), rsv=4))
                answer = peer.frames[-1]
                self.assertEqual((answer.opcode, answer.rsv), (TEXT, 4))
                self.assertLess(len(answer.payload), len(text) // 10)
                self.assertEqual(inflate(answer.payload, bits), text)

    def test_not_worth_it(self) -> None:
        """Messages that are short, or do not get shorter, are sent uncompressed."""
        peer = self.offer("permessage-deflate")
        noise = random.Random(1).randbytes(1000)
        for payload in (b"", b"x" * 127, noise):
            peer.send(frame(BINARY, payload))
            self.assertEqual(peer.frames[-1], Frame(BINARY, payload))
        peer.send(frame(BINARY, b"x" * 128))
        self.assertEqual(peer.frames[-1].rsv, 4)

    def test_client_may_send_plain(self) -> None:
        """A client may send uncompressed messages, and compressed ones in fragments."""
        peer = self.offer("permessage-deflate")
        data = deflate(b"in fragments")
        peer.send(
            frame(TEXT, b"plain"),
            frame(TEXT, data[:4], fin=False, rsv=4),
            frame(PING),
            frame(CONTINUATION, data[4:]),
        )
        self.assertEqual(peer.texts, ["plain", "in fragments"])

    def test_bombs(self) -> None:
        """The size limit is for the decompressed message."""
        for size, fits in ((1 << 20, True), ((1 << 20) + 1, False), (1 << 26, False)):
            peer = self.offer("permessage-deflate")
            peer.send(frame(BINARY, deflate(bytes(size)), rsv=4))
            if fits:
                self.assertEqual(inflate(peer.frames[0].payload, 12), bytes(size))
            else:
                self.assert_closed(1009, peer)
        peer = self.offer("permessage-deflate")
        data = deflate(bytes((1 << 20) + 1))
        peer.send(frame(BINARY, data[:500], fin=False, rsv=4), frame(CONTINUATION, data[500:]))
        self.assert_closed(1009, peer)

    def test_unfinished(self) -> None:
        """A compressed message takes no more memory than what has arrived of it."""
        data = deflate(bytes(1 << 20))
        self.offer("permessage-deflate").send(frame(BINARY, b"", rsv=4))  # What is made once.
        peer = self.offer("permessage-deflate")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        peer.send(frame(BINARY, data[:-1], fin=False, rsv=4))
        self.assertLess(tracemalloc.get_traced_memory()[0], 1 << 16)
        tracemalloc.stop()
        peer.send(frame(CONTINUATION, data[-1:]))
        self.assertEqual(inflate(peer.frames[0].payload, 12), bytes(1 << 20))

    def test_largest_that_does_not_compress(self) -> None:
        """A message of exactly the limit is accepted, even if compression makes it longer."""
        noise = random.Random(1).randbytes(1 << 20)
        data = deflate(noise)
        self.assertGreater(len(data), len(noise))
        peer = self.offer("permessage-deflate")
        peer.send(frame(BINARY, data, rsv=4))
        self.assertEqual(peer.frames, [Frame(BINARY, noise)])

    def test_corrupt(self) -> None:
        """Data that cannot be decompressed is 1007, and so is text that is not UTF-8 then."""
        for data in (b"\xff\xff\xff\xff", deflate(b"caf\xff")):
            peer = self.offer("permessage-deflate")
            peer.send(frame(TEXT, data, rsv=4))
            self.assert_closed(1007, peer)

    def test_control_frames(self) -> None:
        """A compressed control frame is 1002, and so is RSV1 in a continuation."""
        for segments in (
            [frame(PING, deflate(b"x"), rsv=4)],
            [frame(TEXT, b"x", fin=False), frame(CONTINUATION, b"y", rsv=4)],
        ):
            peer = self.offer("permessage-deflate")
            peer.send(*segments)
            self.assert_closed(1002, peer)

    def test_switched_off(self) -> None:
        """Compression can be switched off."""
        self.daemon = Daemon(self.daemon.settings.routes, limits=Limits(compression=False))
        self.assertIsNone(self.answer(self.offer("permessage-deflate")))


def deflate(data: bytes) -> bytes:
    """Compress a message as a client does (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(data: bytes, window_bits: int) -> bytes:
    """Decompress a message with a window of a number of bits."""
    return zlib.decompressobj(wbits=-window_bits).decompress(data + b"\x00\x00\xff\xff")
