"""What is accepted from a peer, by RFC 6455 and by the limits; and what is sent to a slow one."""

from __future__ import annotations

import tracemalloc
from typing import Any

from twisted.internet.error import ConnectionDone

from pushd.access.limits import Limits
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.testing import Daemon
from tests.support.echo import echo
from tests.support.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    UnixTransport,
    close_frame,
    frame,
    handshake,
    mask,
    read_frames,
)
from tests.support.websocket_case import WebSocketTestCase, fragments

# Codes that may not stand in a Close frame (RFC 6455 §7.4), and two outside of all ranges.
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)


class ViolationTests(WebSocketTestCase):
    """Each violation of the protocol is answered with a Close frame, which arrives."""

    def assert_violation(self, code: int, *segments: bytes) -> None:
        """Check the code for some frames, sent in one segment and in one segment each."""
        for cut in (segments, (b"".join(segments),)):
            self.peer = self.connect("/echo/")
            self.peer.send(*cut)
            self.assert_closed(code)

    def test_unmasked(self) -> None:
        """An unmasked frame is 1002."""
        self.assert_violation(1002, frame(TEXT, b"x", masked=False))
        self.assert_violation(1002, frame(TEXT, b"", masked=False))
        self.assert_violation(1002, frame(PING, b"", masked=False))
        self.assert_violation(1002, frame(TEXT, b"x"), frame(TEXT, b"y", masked=False))

    def test_reserved_bits(self) -> None:
        """A reserved bit without an extension is 1002."""
        for rsv in range(1, 8):
            self.assert_violation(1002, frame(TEXT, b"x", rsv=rsv))
        self.assert_violation(1002, frame(PING, b"x", rsv=1))

    def test_opcodes(self) -> None:
        """A reserved opcode is 1002."""
        for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF):
            self.assert_violation(1002, frame(opcode, b"x"))

    def test_control_frames(self) -> None:
        """A control frame that is long or fragmented is 1002."""
        self.assert_violation(1002, frame(PING, b"x", fin=False))
        self.assert_violation(1002, frame(PING, b"x" * 126))
        self.assert_violation(1002, frame(CLOSE, b"\x03\xe8" + b"x" * 124))

    def test_continuation(self) -> None:
        """A continuation of nothing, and a new message among fragments, are 1002."""
        self.assert_violation(1002, frame(CONTINUATION, b"x"))
        self.assert_violation(1002, frame(TEXT, b"x"), frame(CONTINUATION, b"x"))
        self.assert_violation(1002, frame(TEXT, b"x", fin=False), frame(TEXT, b"y"))
        self.assert_violation(1002, frame(TEXT, b"x", fin=False), frame(BINARY, b"y"))

    def test_lengths(self) -> None:
        """A length that is not in its shortest form, or over 63 bits, is 1002."""
        for head in (
            b"\x82\xfe\x00\x05",
            b"\x82\xff" + (5).to_bytes(8, "big"),
            b"\x82\xff" + (65535).to_bytes(8, "big"),
            b"\x82\xff" + (1 << 63).to_bytes(8, "big"),
        ):
            self.peer = self.connect("/echo/")
            self.peer.send(head + b"\x37\xfa\x21\x3d" + mask(b"hello"))
            self.assertEqual(self.peer.code, 1002)
            # Where the next frame begins is not known.
            self.peer.advance(5.1)
            self.assertIs(self.peer.lost, ConnectionDone)

    def test_invalid_text(self) -> None:
        """Text that is not UTF-8 is 1007, also if fragments or its end cut a character."""
        for text in (b"\xff", b"a\xc3(", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"):
            self.assert_violation(1007, frame(TEXT, text))
            self.assert_violation(1007, *fragments(TEXT, [b"fine", text]))
            self.assert_violation(1007, frame(TEXT, b"x" * 200 + text))
        self.assert_violation(1007, frame(TEXT, b"caf\xc3"))
        self.assert_violation(1007, *fragments(TEXT, [b"caf\xc3", b"x"]))
        self.assertEqual(self.peer.texts, [])

    def test_close_codes(self) -> None:
        """A Close with an invalid code is answered with 1002, not with a reset."""
        for code in BAD_CODES:
            self.peer = self.connect("/echo/")
            self.peer.send(close_frame(code, b"why"))
            self.assertEqual(self.peer.code, 1002, code)
            self.assertIs(self.peer.lost, ConnectionDone)

    def test_data_behind_an_invalid_close(self) -> None:
        """What stands behind an invalid Close is dropped, also if it is another Close."""
        self.peer.send(close_frame(1005) + close_frame(1000) + frame(TEXT, b"x"))
        self.assertEqual([each.code for each in self.peer.frames], [1002])
        self.assertIs(self.peer.lost, ConnectionDone)

    def test_close_of_one_byte(self) -> None:
        """A Close with a payload of one byte is 1002."""
        self.assert_violation(1002, frame(CLOSE, b"\x03"))

    def test_close_reason(self) -> None:
        """A Close with a reason that is not UTF-8 is 1007."""
        self.peer.send(close_frame(1000, b"\xff"))
        self.assertEqual(self.peer.code, 1007)
        self.assertIs(self.peer.lost, ConnectionDone)

    def test_view_is_ended(self) -> None:
        """A violation ends the view, and nothing behind it is delivered."""
        self.peer.send(frame(TEXT, b"1") + frame(3) + frame(TEXT, b"2"))
        self.assertEqual(self.peer.texts, ["1"])
        self.assertEqual(self.ends, ["echo"])
        self.assert_closed(1002)

    def test_silence_after(self) -> None:
        """After a violation, a peer that does not close is dropped after five seconds."""
        self.peer.send(frame(3))
        self.assertEqual(self.peer.code, 1002)
        self.peer.advance(4.9)
        self.assertTrue(self.peer.server.connected or self.peer.lost is ConnectionDone)
        self.peer.advance(0.2)
        self.assertFalse(self.peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_what_comes_behind_a_violation(self) -> None:
        """Data that arrives after a violation is read and dropped, and takes no memory."""
        transport = UnixTransport(self.daemon)
        transport.receive(handshake("/echo/"))
        (violation,) = read_frames(transport.receive(frame(3)))
        self.assertEqual((violation.opcode, violation.code), (CLOSE, 1002))
        self.assertFalse(transport.write_closed)
        self.assertEqual(transport.receive(frame(TEXT, b"x") + frame(PING)), b"")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(8):
            self.assertEqual(transport.receive(bytes(1 << 20)), b"")
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess(after, 1 << 20)
        self.daemon.advance(4.9)
        self.assertFalse(transport.write_closed)
        self.daemon.advance(0.2)
        self.assertTrue(transport.write_closed)
        self.assertFalse(transport.aborted)
        self.daemon.advance(5)
        self.assertTrue(transport.aborted)


class SizeTests(WebSocketTestCase):
    def settings(self) -> dict[str, Any]:
        """Return a limit of 1000 bytes a message."""
        return {"limits": Limits(max_message=1000)}

    def test_just_right(self) -> None:
        """A message of exactly the limit is accepted, in one frame or several."""
        self.peer.send(frame(TEXT, b"x" * 1000), *fragments(TEXT, [b"y" * 500, b"y" * 500]))
        self.assertEqual(self.peer.texts, ["x" * 1000, "y" * 1000])

    def test_too_large(self) -> None:
        """A longer message is 1009."""
        for opcode in (TEXT, BINARY):
            self.peer = self.connect("/echo/")
            self.peer.send(frame(opcode, b"x" * 1001))
            self.assert_closed(1009)

    def test_fragments(self) -> None:
        """Fragments that are longer together are 1009."""
        self.peer.send(*fragments(TEXT, [b"x" * 400] * 3))
        self.assert_closed(1009)
        self.assertEqual(self.peer.texts, [])

    def test_before_it_comes(self) -> None:
        """A frame that is too long is 1009 as soon as its head has arrived."""
        self.peer.send(frame(BINARY, b"x" * 100_000)[:14])
        self.assertEqual(self.peer.code, 1009)


class LimitTests(WebSocketTestCase):
    """Limits on rate, fragments and unsent data."""

    def settings(self) -> dict[str, Any]:
        """Return a limit of ten messages a second, and of 100 kB unsent."""
        return {"limits": Limits(max_rate=10, max_buffered=100_000)}

    def test_rate(self) -> None:
        """More messages than the rate allows are 1008; a burst within it is delivered."""
        self.peer.send(*(frame(TEXT, b"x") for _ in range(100)))
        self.assertEqual(len(self.peer.texts), 100)
        self.peer.advance(1)
        self.peer.send(*(frame(TEXT, b"y" * 200) for _ in range(10)))
        self.assertEqual(len(self.peer.texts), 110)
        self.assertIsNone(self.peer.code)
        self.peer.send(frame(TEXT, b"z"))
        self.assertEqual(len(self.peer.texts), 110)
        self.assert_closed(1008)

    def test_rate_of_long_messages(self) -> None:
        """A message of one frame counts as one, at any length and with or without fast paths."""
        routes = self.daemon.settings.routes
        for enabled in (True, False):
            self.patch(FAST_PATHS, "enabled", enabled)
            self.daemon = Daemon(routes, limits=Limits(max_rate=10))
            for length in (4095, 4096, 4097):
                peer = self.connect("/echo/")
                peer.send(frame(BINARY, bytes(length)) * 101)
                self.assertEqual([len(each.payload) for each in peer.frames[:-1]], [length] * 100)
                self.assert_closed(1008, peer)

    def test_rate_of_control_frames(self) -> None:
        """Pings and pongs count against the rate, also between fragments."""
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
        """After our Close, some frames are read for the peer's Close; a flood is dropped."""
        for count, clean in ((50, True), (500, True), (40_000, False)):
            peer = self.connect("/idle/")
            self.requests[-1].websocket.close()
            peer.settle()
            peer.send(frame(PING) * count)
            if clean:
                self.assert_closed(1000, peer)
            else:
                peer.send(frame(CLOSE))
                self.assertTrue(peer.server.connected)
                peer.advance(5.1)
                self.assertFalse(peer.server.connected)

    def test_tiny_fragments(self) -> None:
        """A message in tiny fragments is 1008 before it is complete."""
        peer = self.connect("/echo/")
        peer.send(b"".join(fragments(TEXT, [b"x"] * 1000)[:257]))
        self.assert_closed(1008, peer)
        self.assertEqual(peer.texts, [])

    def test_tiny_fragments_behind_our_close(self) -> None:
        """A peer that sends them in place of an answer to our Close may still answer it."""
        peer = self.connect("/idle/")
        self.requests[-1].websocket.close(4000)
        peer.settle()
        peer.send(b"".join(fragments(TEXT, [b"x"] * 1000)[:257]))
        self.assertEqual([each.code for each in peer.frames], [4000])
        self.assert_closed(4000, peer)

    def test_costly_message(self) -> None:
        """A message of very many fragments counts as several, and may exceed the rate alone."""
        peer = self.connect("/echo/")
        peer.send(b"".join(fragments(TEXT, [b"x" * 32] * 5000)))
        self.assert_closed(1008, peer)
        self.assertEqual(peer.texts, [])

    def test_large_message(self) -> None:
        """A message of the largest size never exceeds the rate alone."""
        daemon = Daemon({"/echo/": echo}, limits=Limits(max_rate=1, max_message=2 << 20))
        browser = daemon.connect("/echo/")
        browser.send(bytes(1_900_000))
        self.assertEqual((browser.closing, len(browser.messages)), (None, 1))

    def test_small_fragments(self) -> None:
        """256 tiny fragments are allowed, and any number of larger ones."""
        for pieces in ([b"x"] * 256, [b"x" * 32] * 2000):
            peer = self.connect("/echo/")
            peer.send(b"".join(fragments(TEXT, pieces)))
            self.assertEqual(peer.texts, ["x" * sum(map(len, pieces))])

    def test_pings_of_a_slow_reader(self) -> None:
        """A peer that sends pings and does not read the pongs is closed with 1013."""
        daemon = Daemon(self.daemon.settings.routes, limits=Limits(max_buffered=10_000))
        peer = Peer(daemon)
        peer.send(handshake("/echo/"))
        peer.stall()
        peer.send(b"".join(frame(PING, b"x" * 125) for _ in range(200)))
        self.assertLess(peer.server.unsent, 11_000)
        peer.advance(9.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        peer.resume()
        self.assert_closed(1013, peer)

    def test_last_ping_of_a_slow_reader(self) -> None:
        """If the connection is full, the last ping is answered when there is room again."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * (1 << 20))
        peer.send(frame(PING, b"1"), frame(PING, b"2"))
        for _ in range(10):
            peer.advance(9)
            peer.server.take(100_000)
        self.assertTrue(peer.server.connected)
        peer.resume()
        self.assertEqual([each.payload for each in peer.frames if each.opcode == PONG], [b"2"])
        peer.send(frame(PING, b"3"))
        self.assertEqual(peer.frames[-1].payload, b"3")

    def test_close_while_a_ping_waits(self) -> None:
        """A view's Close while a ping waits for its answer is the only one."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * (1 << 20))
        peer.send(frame(PING))
        peer.advance(6)
        self.requests[0].websocket.close(4000)
        peer.advance(4.1)
        peer.resume()
        self.assertEqual([each.code for each in peer.frames if each.opcode == CLOSE], [4000])
        self.assert_closed(4000, peer)

    def test_ping_while_little_may_wait(self) -> None:
        """A low ``--max-buffered`` is reached before the transport asks for a pause."""
        daemon = Daemon(self.daemon.settings.routes, limits=Limits(max_buffered=200))
        peer = Peer(daemon)
        peer.send(handshake("/echo/"))
        peer.stall()
        peer.send(*(frame(PING, b"%d" % number * 50) for number in range(9)))
        peer.advance(5)
        peer.resume()
        peer.advance(5.1)
        pongs = [each.payload[:1] for each in peer.frames if each.opcode == PONG]
        self.assertEqual(pongs, [b"0", b"1", b"2", b"3", b"8"])
        self.assertTrue(peer.server.connected)

    def test_leaving_before_a_pong(self) -> None:
        """A peer that leaves before its ping is answered leaves no timer."""
        daemon = Daemon(self.daemon.settings.routes, limits=Limits(max_buffered=200))
        peer = Peer(daemon)
        peer.send(handshake("/echo/"))
        peer.stall()
        peer.send(*(frame(PING, b"x" * 100) for _ in range(9)))
        peer.vanish()
        self.assertEqual(daemon.pending_calls, [])


class SendTests(WebSocketTestCase):
    def test_too_large_to_send(self) -> None:
        """Sending a message over the limit raises ValueError; the WebSocket stays open."""
        self.connect("/idle/")
        websocket = self.requests[0].websocket
        with self.assertRaises(ValueError):
            websocket.send(b"x" * ((1 << 20) + 1))
        self.assertFalse(websocket.is_closed())

    def test_largest_to_send(self) -> None:
        """A view can send a message of exactly the limit."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.send(b"\x00" * (1 << 20), binary=True)
        peer.settle()
        self.assertEqual(len(peer.frames[0].payload), 1 << 20)

    def test_slow_reader(self) -> None:
        """A view that awaits send() waits until the peer reads."""
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
        """The limit on unsent data applies over TLS."""
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


class SendSizeTests(WebSocketTestCase):
    def settings(self) -> dict[str, Any]:
        """Return a limit of 1000 bytes a message."""
        return {"limits": Limits(max_message=1000)}

    def test_send(self) -> None:
        """The size limit applies to messages that views send."""
        self.connect("/idle/")
        websocket = self.requests[0].websocket
        websocket.send("x" * 1000)
        with self.assertRaisesRegex(ValueError, "1001 bytes: --max-message allows 1000"):
            websocket.send("x" * 1001)
        with self.assertRaises(ValueError):
            websocket.send("é" * 501)


class SendBufferTests(WebSocketTestCase):
    def settings(self) -> dict[str, Any]:
        """Return a limit of ten messages a second, and of 100 kB unsent."""
        return {"limits": Limits(max_rate=10, max_buffered=100_000)}

    def test_slow_reader(self) -> None:
        """A peer that does not read is closed with 1013, after what was sent before."""
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
