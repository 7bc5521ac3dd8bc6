"""A WebSocket connection on the wire: RFC 6455 from the first frame to the last."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.limits import Limits
from pushd.protocol import PushFactory
from pushd.testing import Daemon
from pushd.views import Request, accept_websocket
from pushd.websocket import WebSocket
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
    mask,
    read_frames,
    said,
)

# Codes that may not stand in a Close frame (RFC 6455 §7.4), and two outside of all ranges.
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)


class WireTestCase(SynchronousTestCase):
    """A daemon with a view that echoes, and one that does nothing until it is told."""

    def setUp(self) -> None:
        """Start the daemon, and connect a peer to the echo."""
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
        """The daemon's settings, where they are not the usual ones."""
        return {}

    def connect(self, path: str) -> Peer:
        """Open a WebSocket."""
        peer = Peer(self.daemon)
        peer.send(handshake(path))
        self.assertTrue(peer.head.startswith("HTTP/1.1 101 "), peer.head)
        return peer

    def assert_closed(self, code: int, peer: Peer | None = None) -> None:
        """Check that the peer saw a Close frame with this code, and it last; then TCP's end."""
        peer = peer or self.peer
        self.assertEqual([each.opcode for each in peer.frames][-1:], [CLOSE])
        self.assertEqual(peer.code, code)
        peer.send(close_frame(code))
        self.assertIs(peer.lost, ConnectionDone)


class MessageTests(WireTestCase):
    def test_kinds(self) -> None:
        """Text comes as text and binary as binary, of each length that has its own form."""
        for length in (0, 1, 124, 125, 126, 127, 128, 65535, 65536, 200_000):
            for opcode in (TEXT, BINARY):
                peer = self.connect("/echo/")
                peer.send(frame(opcode, b"x" * length))
                self.assertEqual(peer.frames, [Frame(opcode, b"x" * length)], length)

    def test_unicode(self) -> None:
        """Text is UTF-8 from end to end."""
        text = "café ☕ 🎉 \u0000 \U0010ffff"
        self.peer.send(frame(TEXT, text.encode()))
        self.assertEqual(self.peer.texts, [text])

    def test_order(self) -> None:
        """Messages keep their order, however many come at once."""
        texts = [f"{number}" for number in range(200)]
        self.peer.send(b"".join(frame(TEXT, text.encode()) for text in texts))
        self.assertEqual(self.peer.texts, texts)

    def test_byte_by_byte(self) -> None:
        """It does not matter how TCP cuts frames."""
        data = frame(TEXT, b"one") + frame(BINARY, b"t" * 200) + frame(TEXT, b"three")
        self.peer.send(*(data[place : place + 1] for place in range(len(data))))
        self.assertEqual(
            [each.payload for each in self.peer.frames], [b"one", b"t" * 200, b"three"]
        )

    def test_fragments(self) -> None:
        """A message in fragments arrives whole, whatever they are."""
        for pieces in ([b"a", b"b"], [b"", b"ab"], [b"ab", b""], [b"", b"", b""], [b"x"] * 50):
            for opcode in (TEXT, BINARY):
                peer = self.connect("/echo/")
                peer.send(*fragments(opcode, pieces))
                self.assertEqual(peer.frames, [Frame(opcode, b"".join(pieces))])
                peer.send(frame(TEXT, b"after"))
                self.assertEqual(peer.frames[-1].payload, b"after")

    def test_fragments_of_many_messages(self) -> None:
        """The fragments of a message count for that message alone."""
        for count in range(1, 5):
            self.peer.send(b"".join(fragments(TEXT, [b"x"] * 250)))
            self.assertEqual(self.peer.texts, ["x" * 250] * count)

    def test_fragments_cut_a_letter(self) -> None:
        """A letter may be cut by the end of a fragment."""
        self.peer.send(*fragments(TEXT, [b"caf\xc3", b"\xa9"]))
        self.assertEqual(self.peer.texts, ["café"])

    def test_control_between_fragments(self) -> None:
        """A ping between fragments is answered at once, and the message still arrives whole."""
        first, second = fragments(TEXT, [b"a", b"b"])
        self.peer.send(first, frame(PING, b"now"))
        self.assertEqual(self.peer.frames, [Frame(PONG, b"now")])
        self.peer.send(frame(PONG, b"?"), second)
        self.assertEqual(self.peer.frames[1:], [Frame(TEXT, b"ab")])

    def test_ping(self) -> None:
        """A ping is answered with a pong that holds the same, up to 125 bytes."""
        for payload in (b"", b"x", b"\x00" * 125):
            self.peer.send(frame(PING, payload))
            self.assertEqual(self.peer.frames[-1], Frame(PONG, payload))

    def test_unsolicited_pong(self) -> None:
        """A pong that nobody asked for does no harm."""
        self.peer.send(frame(PONG), frame(PONG, b"hello"), frame(TEXT, b"x"))
        self.assertEqual(self.peer.frames, [Frame(TEXT, b"x")])

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


class ViolationTests(WireTestCase):
    """Each violation of the protocol is answered with a Close frame that arrives."""

    def assert_violation(self, code: int, *segments: bytes) -> None:
        """Check what a new peer gets for some bytes, in one segment and cut between frames."""
        for cut in (segments, (b"".join(segments),)):
            self.peer = self.connect("/echo/")
            self.peer.send(*cut)
            self.assert_closed(code)

    def test_unmasked(self) -> None:
        """A client masks its frames."""
        self.assert_violation(1002, frame(TEXT, b"x", masked=False))
        self.assert_violation(1002, frame(TEXT, b"", masked=False))
        self.assert_violation(1002, frame(PING, b"", masked=False))
        self.assert_violation(1002, frame(TEXT, b"x"), frame(TEXT, b"y", masked=False))

    def test_reserved_bits(self) -> None:
        """Bits that no extension has given a meaning are not set."""
        for rsv in range(1, 8):
            self.assert_violation(1002, frame(TEXT, b"x", rsv=rsv))
        self.assert_violation(1002, frame(PING, b"x", rsv=1))

    def test_opcodes(self) -> None:
        """Opcodes without a meaning are not used."""
        for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF):
            self.assert_violation(1002, frame(opcode, b"x"))

    def test_control_frames(self) -> None:
        """Control frames are short and whole."""
        self.assert_violation(1002, frame(PING, b"x", fin=False))
        self.assert_violation(1002, frame(PING, b"x" * 126))
        self.assert_violation(1002, frame(CLOSE, b"\x03\xe8" + b"x" * 124))

    def test_continuation(self) -> None:
        """A continuation continues something, and nothing else comes in between."""
        self.assert_violation(1002, frame(CONTINUATION, b"x"))
        self.assert_violation(1002, frame(TEXT, b"x"), frame(CONTINUATION, b"x"))
        self.assert_violation(1002, frame(TEXT, b"x", fin=False), frame(TEXT, b"y"))
        self.assert_violation(1002, frame(TEXT, b"x", fin=False), frame(BINARY, b"y"))

    def test_lengths(self) -> None:
        """A length has its shortest form, and is no more than 63 bits."""
        for head in (
            b"\x82\xfe\x00\x05",
            b"\x82\xff" + (5).to_bytes(8, "big"),
            b"\x82\xff" + (65535).to_bytes(8, "big"),
            b"\x82\xff" + (1 << 63).to_bytes(8, "big"),
        ):
            self.assert_violation(1002, head + b"\x37\xfa\x21\x3d" + mask(b"hello"))

    def test_invalid_text(self) -> None:
        """Text that is not UTF-8 is 1007, also where fragments or the end cut it."""
        for text in (b"\xff", b"a\xc3(", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"):
            self.assert_violation(1007, frame(TEXT, text))
            self.assert_violation(1007, *fragments(TEXT, [b"fine", text]))
            self.assert_violation(1007, frame(TEXT, b"x" * 200 + text))
        self.assert_violation(1007, frame(TEXT, b"caf\xc3"))
        self.assert_violation(1007, *fragments(TEXT, [b"caf\xc3", b"x"]))
        self.assertEqual(self.peer.texts, [])

    def test_close_codes(self) -> None:
        """A Close with a code that may not be is answered with 1002, not with a reset."""
        for code in BAD_CODES:
            self.peer = self.connect("/echo/")
            self.peer.send(close_frame(code, b"why"))
            self.assertEqual(self.peer.code, 1002, code)
            self.peer.finish()
            self.assertIs(self.peer.lost, ConnectionDone)

    def test_close_of_one_byte(self) -> None:
        """A Close of one byte has no code."""
        self.assert_violation(1002, frame(CLOSE, b"\x03"))

    def test_close_reason(self) -> None:
        """The reason of a Close is UTF-8."""
        self.peer.send(close_frame(1000, b"\xff"))
        self.assertEqual(self.peer.code, 1007)
        self.peer.finish()
        self.assertIs(self.peer.lost, ConnectionDone)

    def test_view_is_ended(self) -> None:
        """A violation ends the view, and nothing behind it is heard."""
        self.peer.send(frame(TEXT, b"1") + frame(3) + frame(TEXT, b"2"))
        self.assertEqual(self.peer.texts, ["1"])
        self.assertEqual(self.ends, ["echo"])
        self.assert_closed(1002)

    def test_silence_after(self) -> None:
        """Who broke a rule and does not say goodbye is dropped after five seconds."""
        self.peer.send(frame(3))
        self.assertEqual(self.peer.code, 1002)
        self.peer.advance(4.9)
        self.assertTrue(self.peer.server.connected or self.peer.lost is ConnectionDone)
        self.peer.advance(0.2)
        self.assertFalse(self.peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])


class SizeTests(WireTestCase):
    def settings(self) -> dict[str, Any]:
        """Let messages have a thousand bytes."""
        return {"limits": Limits(max_message=1000)}

    def test_just_right(self) -> None:
        """A message of the limit passes, in one frame or in more."""
        self.peer.send(frame(TEXT, b"x" * 1000), *fragments(TEXT, [b"y" * 500, b"y" * 500]))
        self.assertEqual(self.peer.texts, ["x" * 1000, "y" * 1000])

    def test_too_large(self) -> None:
        """A message beyond the limit is 1009."""
        for opcode in (TEXT, BINARY):
            self.peer = self.connect("/echo/")
            self.peer.send(frame(opcode, b"x" * 1001))
            self.assert_closed(1009)

    def test_fragments(self) -> None:
        """So are fragments that are beyond it together."""
        self.peer.send(*fragments(TEXT, [b"x" * 400] * 3))
        self.assert_closed(1009)
        self.assertEqual(self.peer.texts, [])

    def test_before_it_comes(self) -> None:
        """A size that is much too large is refused when it is announced, not when it is here."""
        self.peer.send(frame(BINARY, b"x" * 100_000)[:14])
        self.assertEqual(self.peer.code, 1009)

    def test_send(self) -> None:
        """The limit holds for what views send, too."""
        self.connect("/idle/")
        websocket = self.requests[0].websocket
        websocket.send("x" * 1000)
        with self.assertRaisesRegex(ValueError, "1001 bytes: --max-message is 1000"):
            websocket.send("x" * 1001)
        with self.assertRaises(ValueError):
            websocket.send("é" * 501)


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

    def test_exception_inside(self) -> None:
        """Should anything go wrong inside, the peer hears 1011, the log once, and it ends well."""
        for segments in (
            [frame(TEXT, b"x")],
            [frame(TEXT, b"x") + frame(TEXT, b"y")],
            [frame(TEXT, b"x" * 200)],
            fragments(TEXT, [b"x", b"y"]),
        ):
            peer = self.connect("/idle/")
            with capturedLogs() as events:
                with failing(self):
                    peer.send(*segments)
                self.assertEqual(peer.code, 1011)
                self.assertNotIn(b"secret", peer.received)
                peer.send(frame(TEXT, b"y" * 200), frame(TEXT, b"z"))
                self.assert_closed(1011, peer)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            failures = [line for line in said(events) if "failed" in line]
            self.assertEqual(len(failures), 1)
            self.assertIn("127.0.0.1", failures[0])


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


class LimitTests(WireTestCase):
    """What a peer may do, and what it may not do too much of."""

    def settings(self) -> dict[str, Any]:
        """Let there be ten messages a second, and little room."""
        return {"limits": Limits(max_rate=10, max_buffered=100_000)}

    def test_rate(self) -> None:
        """Messages beyond the rate are 1008; those within it come through, a burst as well."""
        self.peer.send(*(frame(TEXT, b"x") for _ in range(100)))
        self.assertEqual(len(self.peer.texts), 100)
        self.peer.advance(1)
        self.peer.send(*(frame(TEXT, b"y" * 200) for _ in range(10)))
        self.assertEqual(len(self.peer.texts), 110)
        self.assertIsNone(self.peer.code)
        self.peer.send(frame(TEXT, b"z"))
        self.assertEqual(len(self.peer.texts), 110)
        self.assert_closed(1008)

    def test_rate_of_control_frames(self) -> None:
        """Pings and pongs count as well, fast ones and slow ones."""
        for flood in (
            [frame(PING)] * 101,
            [frame(PONG)] * 101,
            [frame(TEXT, b"x", fin=False), *[frame(PING)] * 101],
        ):
            self.peer = self.connect("/echo/")
            self.peer.send(*flood)
            self.assert_closed(1008)
            self.assertLess(len(self.peer.frames), 103)

    def test_close_at_the_end_of_the_rate(self) -> None:
        """What was under way when the server closed does no harm, but a flood is not heard out."""
        for count, clean in ((50, True), (500, False)):
            peer = self.connect("/idle/")
            self.requests[-1].websocket.close()
            peer.settle()
            peer.send(*(frame(PING) for _ in range(count)))
            if clean:
                self.assert_closed(1000, peer)
            else:
                peer.send(frame(CLOSE))
                self.assertTrue(peer.server.connected)
                peer.advance(5.1)
                self.assertFalse(peer.server.connected)

    def test_tiny_fragments(self) -> None:
        """A message in fragments that are mostly heads is 1008, before it is whole."""
        peer = self.connect("/echo/")
        peer.send(b"".join(fragments(TEXT, [b"x"] * 1000)[:257]))
        self.assert_closed(1008, peer)
        self.assertEqual(peer.texts, [])

    def test_costly_message(self) -> None:
        """A message of very many pieces counts for several, and may be too many by itself."""
        peer = self.connect("/echo/")
        peer.send(b"".join(fragments(TEXT, [b"x" * 32] * 5000)))
        self.assert_closed(1008, peer)
        self.assertEqual(peer.texts, [])

    def test_many_in_one_segment(self) -> None:
        """What comes at once is done in turns, so that others have theirs; all of it in order."""
        peer = self.connect("/echo/")
        peer.send(b"".join(frame(TEXT, str(number).encode()) for number in range(90)))
        self.assertEqual(peer.texts, [str(number) for number in range(90)])

    def test_leaves_between_turns(self) -> None:
        """Who leaves between two turns leaves nothing behind."""
        peer = self.connect("/echo/")
        peer.server.protocol.dataReceived(frame(TEXT, b"x") * 90)
        peer.vanish()
        self.daemon.settle()

    def test_small_fragments(self) -> None:
        """Some hundred of them are free, and so are any number of decent ones."""
        for pieces in ([b"x"] * 256, [b"x" * 32] * 2000):
            peer = self.connect("/echo/")
            peer.send(b"".join(fragments(TEXT, pieces)))
            self.assertEqual(peer.texts, ["x" * sum(map(len, pieces))])

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

    def test_pings_of_a_slow_reader(self) -> None:
        """So is one who asks for pongs and does not take them."""
        daemon = Daemon(self.daemon.settings.routes, limits=Limits(max_buffered=10_000))
        peer = Peer(daemon)
        peer.send(handshake("/echo/"))
        peer.stall()
        peer.send(b"".join(frame(PING, b"x" * 125) for _ in range(200)))
        self.assertLess(peer.server.unsent, 11_000)
        peer.resume()
        self.assert_closed(1013, peer)


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

    def test_unix(self) -> None:
        """A Unix socket does as well."""
        transport = UnixTransport(self.daemon)
        self.assertIn(b" 101 ", transport.receive(handshake("/echo/")))
        self.assertEqual(transport.receive(frame(TEXT, b"x")), b"\x81\x01x")

    def test_what_comes_behind_a_violation(self) -> None:
        """What still comes of a peer that broke a rule is read and dropped."""
        transport = UnixTransport(self.daemon)
        transport.receive(handshake("/echo/"))
        (violation,) = read_frames(transport.receive(frame(3)))
        self.assertEqual((violation.opcode, violation.code), (CLOSE, 1002))
        self.assertTrue(transport.write_closed)
        self.assertEqual(transport.receive(frame(TEXT, b"x") + frame(PING)), b"")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(8):
            self.assertEqual(transport.receive(bytes(1 << 20)), b"")
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess(after, 1 << 20)
        self.assertFalse(transport.aborted)
        self.daemon.advance(5.1)
        self.assertTrue(transport.aborted)


class ReentryTests(WireTestCase):
    def test_room_is_made_while_messages_come(self) -> None:
        """A reader that makes room while messages are handed on does not upset their order."""
        peer = self.connect("/idle/")
        websocket = self.requests[0].websocket
        take = WebSocket.message_received
        heard: list[object] = []

        def read_when_full(_: WebSocket, message: str | bytes) -> None:
            take(websocket, message)
            if websocket.count_messages() == 64:
                heard.extend(websocket.read() for _ in range(64))

        self.patch(WebSocket, "message_received", read_when_full)
        peer.send(b"".join(frame(TEXT, str(number).encode()) for number in range(200)))
        while websocket.has_messages():
            heard.append(websocket.read())
        self.assertEqual(heard, [str(number) for number in range(200)])
        self.assertFalse(peer.server.reading_paused)


class FactoryTests(SynchronousTestCase):
    def test_no_connection_of_its_own(self) -> None:
        """The factory builds nothing for a connection that did not come through HTTP."""
        factory = PushFactory(Clock(), Limits())
        with self.assertRaises(RuntimeError):
            factory.buildProtocol(None)


@contextmanager
def failing(case: SynchronousTestCase) -> Iterator[None]:
    """Let something go wrong at each message that a WebSocket takes."""

    def fail(websocket: WebSocket, message: object) -> None:
        raise ZeroDivisionError("our secret")

    patch = case.patch(WebSocket, "message_received", fail)
    yield
    patch.restore()


def deflate(data: bytes) -> bytes:
    """Compress a message as a client does (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(data: bytes, window_bits: int) -> bytes:
    """Decompress a message with a window of so many bits."""
    return zlib.decompressobj(wbits=-window_bits).decompress(data + b"\x00\x00\xff\xff")


def fragments(opcode: int, pieces: list[bytes]) -> list[bytes]:
    """Make the frames of one message."""
    last = len(pieces) - 1
    return [
        frame(CONTINUATION if place else opcode, piece, fin=place == last)
        for place, piece in enumerate(pieces)
    ]
