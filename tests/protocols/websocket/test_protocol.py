"""A WebSocket connection on the wire: its closing, its heartbeat, compression and transports."""

from __future__ import annotations

import random
import tracemalloc
import zlib

from twisted.internet.error import ConnectionAborted, ConnectionDone

from pushd.access.limits import Limits
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket
from tests.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    UnixTransport,
    close_frame,
    frame,
    handshake,
)
from tests.wire_case import WireTestCase, fragments


class ClosingTests(WireTestCase):
    def test_codes(self) -> None:
        """Every code that a view may close with reaches the peer, with its reason."""
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999):
            peer = self.connect("/idle/")
            self.requests.pop().websocket.close(code, "dürfte reichen")
            peer.settle()
            self.assertEqual(
                peer.frames, [Frame(CLOSE, code.to_bytes(2, "big") + "dürfte reichen".encode())]
            )
            self.assertIsNone(peer.lost)
            self.assert_closed(code, peer)

    def test_no_reason(self) -> None:
        """Without a reason the Close frame holds its code alone."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.close(1008)
        peer.settle()
        self.assertEqual(peer.frames, [Frame(CLOSE, b"\x03\xf0")])

    def test_what_was_sent_arrives(self) -> None:
        """All that was sent before a Close arrives before it, however slow the peer reads."""
        peer = self.connect("/idle/")
        peer.stall()
        websocket = self.requests[0].websocket
        for _ in range(9):
            websocket.send("x" * 50_000)
        websocket.close(1000)
        peer.settle()
        peer.resume()
        self.assertEqual([len(text) for text in peer.texts], [50_000] * 9)
        self.assert_closed(1000, peer)

    def test_peer_closes(self) -> None:
        """A peer's Close is answered with one, and TCP ends in order."""
        for code in (1000, 1001, 1003, 1011, 3000, 4999):
            peer = self.connect("/echo/")
            peer.send(close_frame(code, b"bye"))
            self.assertEqual([each.opcode for each in peer.frames], [CLOSE])
            self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(self.ends, ["echo"] * 6)

    def test_peer_closes_without_a_code(self) -> None:
        """A Close need not say why."""
        self.peer.send(frame(CLOSE))
        self.assertEqual([each.opcode for each in self.peer.frames], [CLOSE])
        self.assertIs(self.peer.lost, ConnectionDone)

    def test_no_answer(self) -> None:
        """A peer that does not answer a Close is dropped after five seconds."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.close(1001)
        peer.settle()
        peer.advance(4.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        self.assertFalse(peer.server.connected)
        self.assertIs(peer.server.lost and peer.server.lost.type, ConnectionAborted)

    def test_no_reading(self) -> None:
        """So is one that does not take what was sent before."""
        self.peer.stall()
        self.peer.send(frame(TEXT, b"x" * 1000), close_frame(1000))
        self.assertTrue(self.peer.server.connected)
        self.peer.advance(5.1)
        self.assertFalse(self.peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_clean_close_does_not_abort(self) -> None:
        """A clean close is no reset, whoever began it: a browser would call it unclean."""
        self.peer.send(close_frame(1000))
        first = self.peer.server
        peer = self.connect("/idle/")
        self.requests[0].websocket.close()
        peer.settle()
        peer.send(close_frame(1000))
        for server in (first, peer.server):
            self.assertIs(server.lost and server.lost.type, ConnectionDone)

    def test_both_at_once(self) -> None:
        """When both sides close at the same moment, each has the other's Close for its answer."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.close(4000)
        peer.send(close_frame(4001))
        peer.resume()
        self.assertEqual([each.code for each in peer.frames], [4000])
        self.assertIs(peer.lost, ConnectionDone)

    def test_data_behind_a_close(self) -> None:
        """What a peer says behind its Close is not heard."""
        heard: list[object] = []

        @accept_websocket
        async def listen(request: Request) -> None:
            async for message in request.websocket:
                heard.append(message)

        for cut in (True, False):
            peer = Peer(Daemon({"/": listen}))
            peer.send(handshake())
            segments = [frame(TEXT, b"1"), close_frame(1000), frame(TEXT, b"2"), frame(3)]
            peer.send(*segments if cut else [b"".join(segments)])
            self.assertEqual(heard, ["1"])
            self.assertEqual([each.code for each in peer.frames], [1000])
            heard.clear()

    def test_data_behind_our_close(self) -> None:
        """Nor is what it says before it has seen ours."""
        peer = self.connect("/idle/")
        websocket = self.requests[0].websocket
        websocket.close()
        peer.settle()
        peer.send(frame(TEXT, b"too late"), frame(PING), *fragments(TEXT, [b"a", b"b"]))
        self.assertEqual(websocket.read("nothing"), "nothing")
        self.assertEqual([each.opcode for each in peer.frames], [CLOSE])
        self.assert_closed(1000, peer)

    def test_violation_behind_our_close(self) -> None:
        """A peer that breaks a rule in place of an answer to our Close gets no other one."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.close(4000)
        peer.settle()
        peer.send(frame(3), frame(TEXT, b"\xff"))
        self.assertEqual([each.code for each in peer.frames], [4000])
        self.assertIs(peer.lost, ConnectionDone)

    def test_data_is_not_kept(self) -> None:
        """What comes behind a Close takes no memory, while the peer's own is waited for."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.close()
        peer.settle()
        garbage = frame(BINARY, bytes(1 << 19)) * 2
        peer.send(garbage)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(8):
            peer.send(garbage)
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess(after - before, 1 << 19)
        self.assert_closed(1000, peer)

    def test_leaving_in_mid_frame(self) -> None:
        """A peer that leaves in the middle of a frame leaves nothing behind."""
        data = frame(TEXT, b"x" * 1000)
        for length in (1, 2, 5, 100, len(data) - 1):
            for leave in (Peer.vanish, Peer.finish):
                peer = self.connect("/echo/")
                peer.send(data[:length])
                leave(peer)
                self.assertEqual(self.ends.pop(), "echo")
                self.assertFalse(peer.server.connected)
        self.peer.finish()
        self.assertEqual(self.daemon.pending_calls, [])


class HeartbeatTests(WireTestCase):
    def pings(self, peer: Peer) -> int:
        """How many pings came."""
        return [each.opcode for each in peer.frames].count(PING)

    def last_ping(self, peer: Peer) -> bytes:
        """What the last ping holds."""
        return [each.payload for each in peer.frames if each.opcode == PING][-1]

    def test_interval(self) -> None:
        """A peer is pinged every 25 seconds as long as it answers."""
        self.peer.advance(24.9)
        self.assertEqual(self.pings(self.peer), 0)
        self.peer.advance(0.2)
        for count in range(1, 5):
            self.assertEqual(self.pings(self.peer), count)
            self.peer.send(frame(PONG, self.last_ping(self.peer)))
            self.peer.advance(24.8)
            self.assertEqual(self.pings(self.peer), count)
            self.peer.advance(0.2)
        self.assertIsNone(self.peer.lost)

    def test_no_pong(self) -> None:
        """Who does not answer a ping within ten seconds is gone."""
        self.peer.advance(25, 9.9)
        self.assertTrue(self.peer.server.connected)
        self.peer.advance(0.2)
        self.assertFalse(self.peer.server.connected)
        self.assertEqual(self.ends, ["echo"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_late_pong(self) -> None:
        """An answer in the last moment will do."""
        self.peer.advance(25, 9.9)
        self.peer.send(frame(PONG, self.last_ping(self.peer)))
        self.peer.advance(10)
        self.assertTrue(self.peer.server.connected)

    def test_pong_of_nothing(self) -> None:
        """A pong that answers no ping of ours is none: the peer may not read what we send."""
        self.peer.advance(25)
        self.peer.send(frame(PONG), frame(PONG, b"whatever"))
        self.peer.advance(10.1)
        self.assertFalse(self.peer.server.connected)

    def test_full_inbox(self) -> None:
        """While reading is paused no pong can be seen, so none is missed."""
        peer = self.connect("/idle/")
        peer.send(*(frame(TEXT, str(number).encode()) for number in range(70)))
        self.assertTrue(peer.server.reading_paused)
        peer.advance(25)
        for _ in range(4):
            peer.send(frame(PONG))
            peer.advance(25)
        self.assertTrue(peer.server.connected)
        websocket = self.requests[0].websocket
        heard = []
        while websocket.has_messages():
            heard.append(websocket.read())
            peer.settle()
        self.assertEqual(heard, [str(number) for number in range(70)])
        self.assertFalse(peer.server.reading_paused)
        self.assertTrue(peer.server.connected)

    def test_inbox_that_is_full_at_once(self) -> None:
        """More messages than there is room for may come with the handshake."""
        peer = Peer(self.daemon)
        texts = [str(number) for number in range(200)]
        peer.send(handshake("/idle/") + b"".join(frame(TEXT, text.encode()) for text in texts))
        websocket = self.requests[0].websocket
        heard: list[object] = []
        while websocket.has_messages():
            self.assertTrue(peer.server.reading_paused or len(heard) > 100)
            self.assertLessEqual(websocket.count_messages(), 64)
            heard.append(websocket.read())
            peer.settle()
        self.assertEqual(heard, texts)
        self.assertFalse(peer.server.reading_paused)

    def test_full_inbox_with_a_ping_under_way(self) -> None:
        """Neither is one that was asked for before reading was paused."""
        peer = self.connect("/idle/")
        peer.advance(25)
        peer.send(*(frame(TEXT, b"x") for _ in range(70)), frame(PONG))
        self.assertTrue(peer.server.reading_paused)
        peer.advance(12)
        self.assertTrue(peer.server.connected)

    def test_heartbeat_after_a_full_inbox(self) -> None:
        """Once reading goes on, pongs count again."""
        peer = self.connect("/idle/")
        peer.send(*(frame(TEXT, b"x") for _ in range(70)))
        peer.advance(25)
        websocket = self.requests[0].websocket
        while websocket.has_messages():
            websocket.read()
        peer.advance(25)
        self.assertTrue(peer.server.connected)
        peer.advance(10.1)
        self.assertFalse(peer.server.connected)

    def test_close_behind_a_full_inbox(self) -> None:
        """A view that closes with a full inbox still sees the answer behind it."""
        peer = self.connect("/idle/")
        peer.send(*(frame(TEXT, b"x") for _ in range(70)), close_frame(1000))
        closed = self.requests[0].websocket.close()
        peer.settle()
        self.successResultOf(closed)
        self.assertIs(peer.lost, ConnectionDone)


class CompressionTests(WireTestCase):
    """Permessage-deflate (RFC 7692), with nothing kept between messages."""

    def offer(self, *offers: str) -> Peer:
        """Open a WebSocket with offers of extensions."""
        peer = Peer(self.daemon)
        peer.send(handshake("/echo/", *(f"Sec-WebSocket-Extensions: {offer}" for offer in offers)))
        self.assertIn(" 101 ", peer.head)
        return peer

    def answer(self, peer: Peer) -> str | None:
        """What was agreed on."""
        for line in peer.head.split("\r\n"):
            if line.lower().startswith("sec-websocket-extensions: "):
                return line.partition(": ")[2]
        return None

    def test_agreed(self) -> None:
        """The first offer that can be met is; the client keeps no context."""
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
        """An offer that can't be met is declined, and the conversation goes on without."""
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
        """Messages are compressed both ways, each on its own, within the window agreed on."""
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
        """What is short, or does not get shorter, goes out as it is."""
        peer = self.offer("permessage-deflate")
        noise = random.Random(1).randbytes(1000)
        for payload in (b"", b"x" * 127, noise):
            peer.send(frame(BINARY, payload))
            self.assertEqual(peer.frames[-1], Frame(BINARY, payload))
        peer.send(frame(BINARY, b"x" * 128))
        self.assertEqual(peer.frames[-1].rsv, 4)

    def test_client_may_send_plain(self) -> None:
        """A client need not compress, and may compress in fragments."""
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
        """The limit is for what a message is, not for what it was sent as."""
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

    def test_largest_that_does_not_compress(self) -> None:
        """A message of just the limit passes, also where compression makes it longer."""
        noise = random.Random(1).randbytes(1 << 20)
        data = deflate(noise)
        self.assertGreater(len(data), len(noise))
        peer = self.offer("permessage-deflate")
        peer.send(frame(BINARY, data, rsv=4))
        self.assertEqual(peer.frames, [Frame(BINARY, noise)])

    def test_corrupt(self) -> None:
        """What does not decompress is 1007, and so is text that is none once it has."""
        for data in (b"\xff\xff\xff\xff", deflate(b"caf\xff")):
            peer = self.offer("permessage-deflate")
            peer.send(frame(TEXT, data, rsv=4))
            self.assert_closed(1007, peer)

    def test_control_frames(self) -> None:
        """Control frames are not compressed, nor is the rest of a message marked again."""
        for segments in (
            [frame(PING, deflate(b"x"), rsv=4)],
            [frame(TEXT, b"x", fin=False), frame(CONTINUATION, b"y", rsv=4)],
        ):
            peer = self.offer("permessage-deflate")
            peer.send(*segments)
            self.assert_closed(1002, peer)

    def test_switched_off(self) -> None:
        """It can be switched off."""
        self.daemon = Daemon(self.daemon.settings.routes, limits=Limits(compression=False))
        self.assertIsNone(self.answer(self.offer("permessage-deflate")))


class TransportTests(WireTestCase):
    """Other ways than TCP."""

    def test_tls(self) -> None:
        """Over TLS messages, closes and violations are as over TCP."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/echo/") + frame(TEXT, b"x" * 100_000), frame(TEXT, b"y"))
        self.assertEqual(peer.texts, ["x" * 100_000, "y"])
        peer.send(close_frame(1000))
        self.assertEqual(peer.code, 1000)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(self.ends, ["echo"])
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/echo/"), frame(3))
        self.assertEqual(peer.code, 1002)
        peer.finish()
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.ends, ["echo"] * 2)

    def test_leaving_over_tls(self) -> None:
        """Who vanishes from TLS leaves nothing behind."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/echo/"))
        peer.vanish()
        self.assertEqual(self.ends, ["echo"])
        self.peer.vanish()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_unix(self) -> None:
        """A Unix socket does as well."""
        transport = UnixTransport(self.daemon)
        self.assertIn(b" 101 ", transport.receive(handshake("/echo/")))
        self.assertEqual(transport.receive(frame(TEXT, b"x")), b"\x81\x01x")


def deflate(data: bytes) -> bytes:
    """Compress a message as a client does (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(data: bytes, window_bits: int) -> bytes:
    """Decompress a message with a window of so many bits."""
    return zlib.decompressobj(wbits=-window_bits).decompress(data + b"\x00\x00\xff\xff")
