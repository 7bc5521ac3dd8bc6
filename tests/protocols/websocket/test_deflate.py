"""Compression of messages: what is negotiated, and what it does on the wire."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.protocols.websocket.deflate import WholeMessageDeflate, decompressor, negotiate
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

    def test_only_what_is_offered(self) -> None:
        """The client is asked for what it offers, as ``ws`` and ``websockets`` do it."""
        for offered, answered in (
            ({}, ""),
            ({"client_no_context_takeover": [True]}, "; client_no_context_takeover"),
            ({"client_max_window_bits": [True]}, "; client_max_window_bits=12"),
            ({"client_max_window_bits": ["15"]}, "; client_max_window_bits=12"),
            ({"client_max_window_bits": ["9"]}, "; client_max_window_bits=9"),
            ({"server_no_context_takeover": [True]}, "; server_no_context_takeover"),
            (
                {"client_no_context_takeover": [True], "client_max_window_bits": ["10"]},
                "; client_no_context_takeover; client_max_window_bits=10",
            ),
        ):
            answer = self.answer([("permessage-deflate", offered)])
            self.assertEqual(answer, f"permessage-deflate{answered}", offered)

    def test_window(self) -> None:
        """The window is small if the client asks for that."""
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


class ContextTests(SynchronousTestCase):
    """What is kept of a client's messages, as the next one may refer to them."""

    def check(
        self, offered: dict[str, Any], messages: list[bytes], bits: int = 15, **settings: Any
    ) -> WholeMessageDeflate:
        """Decompress messages of a client that keeps its context; return the decompressor."""
        accepted = negotiate([("permessage-deflate", offered)])
        assert accepted is not None
        deflate: WholeMessageDeflate = decompressor(accepted)
        client = Deflater(bits, **settings)
        for message in messages:
            self.assertEqual(deflate.inflate(client.deflate(message), 1 << 20), message)
        return deflate

    def test_window_of_32_kib(self) -> None:
        """Without a limit of its window a message may refer to the last 32 KiB."""
        noise = random.Random(1).randbytes(1 << 15)
        messages = [noise[:20_000], noise[20_000:], b"", noise[:100], b"x" * 32_668, noise[-200:]]
        deflate = self.check({}, messages)
        self.assertEqual(deflate.context, b"".join(messages)[-(1 << 15) :])
        # Longer than the window.
        self.check({}, [noise * 3, noise[-1000:], noise * 2])

    def test_smaller_window(self) -> None:
        """Of a client that limits its window, no more is kept."""
        noise = random.Random(1).randbytes(3000)
        for given, bits in ((True, 12), ("9", 9)):
            offered = {"client_max_window_bits": [given]}
            deflate = self.check(offered, [noise, noise, b"abc" * 2000, noise], bits)
            self.assertLessEqual(len(deflate.context), 1 << bits)

    def test_nothing(self) -> None:
        """Nothing is kept of a client that keeps no context."""
        accepted = negotiate([("permessage-deflate", {"client_no_context_takeover": [True]})])
        assert accepted is not None
        inflater: WholeMessageDeflate = decompressor(accepted)
        for _ in range(2):
            self.assertEqual(inflater.inflate(deflate(b"hello"), 10), b"hello")
        self.assertEqual(inflater.context, b"")

    def test_other_ends(self) -> None:
        """A message may end with its last block (RFC 7692 §7.2.3.4), or be one without any."""
        inflater = self.check({}, [b"hello"])
        last = zlib.compressobj(wbits=-15, zdict=b"hello")
        data = last.compress(b"hello hello") + last.flush() + b"\0"
        self.assertEqual(inflater.inflate(data, 100), b"hello hello")
        stored = b"\0\x05\0\xfa\xffworld\0"
        self.assertEqual(inflater.inflate(stored, 100), b"world")
        self.assertEqual(inflater.context, b"hellohello helloworld")

    def test_any_messages(self) -> None:
        """Messages of any lengths are decompressed, whatever the level and the window."""
        chance = random.Random(20)
        words = [chance.randbytes(chance.randrange(40)) for _ in range(300)]
        for bits in (9, 10, 12, 15):
            for level in (1, 6, 9):
                messages = [
                    b"".join(chance.choices(words, k=chance.randrange(600))) for _ in range(30)
                ]
                offered = {} if bits == 15 else {"client_max_window_bits": [str(bits)]}
                self.check(offered, messages, bits, level=level)


class CompressionTests(WebSocketTestCase):
    """permessage-deflate (RFC 7692) on the wire; nothing is kept of what we send."""

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
        """The first offer that can be met is accepted; each parameter is answered if offered."""
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
            for word in (
                "server_max_window_bits=9",
                "server_no_context_takeover",
                "client_no_context_takeover",
                "client_max_window_bits",
            ):
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
        """Messages are compressed both ways; ours, each on its own in the negotiated window."""
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

    def test_context_of_the_client(self) -> None:
        """A client that keeps its context is understood, its uncompressed messages between."""
        client, peer = Deflater(15), self.offer("permessage-deflate")
        noise = random.Random(1).randbytes(500)
        for _ in range(3):
            peer.send(frame(BINARY, client.deflate(noise), rsv=4), frame(BINARY, b"plain"))
        data = client.deflate(noise)
        self.assertLess(len(data), 50)
        peer.send(
            frame(BINARY, data[:5], fin=False, rsv=4), frame(PING), frame(CONTINUATION, data[5:])
        )
        messages = [one.payload for one in peer.frames if one.opcode == BINARY]
        self.assertEqual(messages, [noise, b"plain"] * 3 + [noise])

    def test_context_is_not_shared(self) -> None:
        """A message that refers to another client's is 1007."""
        client, peer, other = Deflater(15), *(self.offer("permessage-deflate") for _ in "12")
        noise = random.Random(1).randbytes(500)
        peer.send(frame(BINARY, client.deflate(noise), rsv=4))
        other.send(frame(BINARY, client.deflate(noise), rsv=4))
        self.assertEqual(peer.frames, [Frame(BINARY, noise)])
        self.assert_closed(1007, other)

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


class Deflater:
    """Compresses messages as a client does that keeps its context (RFC 7692 §7.2.1)."""

    def __init__(self, bits: int, level: int = -1) -> None:
        self._deflater = zlib.compressobj(level, wbits=-bits)

    def deflate(self, data: bytes) -> bytes:
        """Compress a message."""
        return (self._deflater.compress(data) + self._deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def deflate(data: bytes) -> bytes:
    """Compress a message as a client does that keeps no context."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(data: bytes, window_bits: int) -> bytes:
    """Decompress a message with a window of a number of bits."""
    return zlib.decompressobj(wbits=-window_bits).decompress(data + b"\x00\x00\xff\xff")
