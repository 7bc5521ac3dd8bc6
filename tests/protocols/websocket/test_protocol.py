"""Closing, heartbeat and transports of a WebSocket connection; the factory and the fast paths."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable
from typing import Any, cast

import txaio
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.access.memory import Memory
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FastPaths
from pushd.protocols.websocket import protocol
from pushd.protocols.websocket.protocol import PushFactory, PushProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.echo import echo
from tests.support.peer import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    UnixTransport,
    close_frame,
    frame,
    handshake,
    said,
)
from tests.support.websocket_case import WebSocketTestCase, fragments


class ClosingTests(WebSocketTestCase):
    def test_codes(self) -> None:
        """Every code that a view can close with reaches the peer, with its reason."""
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4999):
            peer = self.connect("/idle/")
            self.requests.pop().websocket.close(code, "dürfte reichen")
            peer.settle()
            self.assertEqual(
                peer.frames, [Frame(CLOSE, code.to_bytes(2, "big") + "dürfte reichen".encode())]
            )
            self.assertIsNone(peer.lost)
            self.assert_closed(code, peer)

    def test_no_reason(self) -> None:
        """Without a reason the Close frame contains the code only."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.close(1008)
        peer.settle()
        self.assertEqual(peer.frames, [Frame(CLOSE, b"\x03\xf0")])

    def test_what_was_sent_arrives(self) -> None:
        """Messages sent before a Close arrive before it, however slowly the peer reads."""
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
        """The peer's Close is answered with one, and TCP is closed in order."""
        codes = (*range(1000, 1004), *range(1007, 1015), 3000, 4999)
        for code in codes:
            peer = self.connect("/echo/")
            with capturedLogs() as events:
                peer.send(close_frame(code, b"bye"))
            self.assertEqual([(each.opcode, each.code) for each in peer.frames], [(CLOSE, code)])
            self.assertIs(peer.lost, ConnectionDone)
            self.assertEqual(ending_of(events)[:3], (code, "peer", "bye"))
        self.assertEqual(self.ends, ["echo"] * len(codes))

    def test_reserved_codes(self) -> None:
        """A Close with a code that must not be sent is a protocol error."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000):
            peer = self.connect("/echo/")
            peer.send(close_frame(code))
            self.assertEqual(peer.code, 1002, code)

    def test_peer_closes_without_a_code(self) -> None:
        """A Close without a code is answered."""
        self.peer.send(frame(CLOSE))
        self.assertEqual([each.opcode for each in self.peer.frames], [CLOSE])
        self.assertIs(self.peer.lost, ConnectionDone)

    def test_no_answer(self) -> None:
        """If a peer does not answer a Close, TCP is closed after five seconds, and not reset."""
        peer = self.connect("/idle/")
        with capturedLogs() as events:
            self.requests[0].websocket.close(1001)
            peer.settle()
            peer.advance(4.9)
            self.assertTrue(peer.server.connected)
            peer.advance(0.2)
        self.assertFalse(peer.server.connected)
        self.assertIs(peer.server.lost and peer.server.lost.type, ConnectionDone)
        self.assertEqual(ending_of(events), (1001, "us", "the view closed, without an answer", 0))

    def test_no_reading(self) -> None:
        """A peer that does not read what was sent before its Close is dropped as well."""
        with capturedLogs() as events:
            self.peer.stall()
            self.peer.send(frame(TEXT, b"x" * 1000), close_frame(1000))
            self.assertTrue(self.peer.server.connected)
            self.peer.advance(5.1)
        self.assertFalse(self.peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(ending_of(events), (1000, "peer", "the peer closed", 1008))

    def test_nothing_is_taken(self) -> None:
        """A peer that takes nothing of what was sent before our Close is aborted after 5 s."""
        peer = self.connect("/idle/")
        peer.stall()
        with capturedLogs() as events:
            self.requests[0].websocket.send("x" * 100_000)
            self.requests[0].websocket.close(1000)
            peer.settle()
            peer.advance(5.1)
        self.assertIs(peer.server.lost and peer.server.lost.type, ConnectionAborted)
        self.assertEqual(ending_of(events), (1006, "us", "the view closed (1000)", 100_014))
        [line] = [line for line in said(events) if " closed 1006 " in line]
        self.assertIn("the view closed (1000), 100014 bytes were not taken; 0 messages", line)

    def test_slow_reading(self) -> None:
        """As long as a peer takes what was sent before our Close, it is not cut."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * 900_000)
        self.requests[0].websocket.close(1000)
        peer.settle()
        for _ in range(9):
            peer.advance(4.9)
            peer.server.take(100_000)
        peer.advance(4.9)
        self.assertTrue(peer.server.connected)
        peer.resume()
        self.assertEqual([len(text) for text in peer.texts], [900_000])
        # The Close has left only now: the five seconds begin.
        peer.advance(4.9)
        self.assert_closed(1000, peer)

    def test_large_steps(self) -> None:
        """A peer that has taken some has 15 seconds to take more, from when that was seen."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * 100_000)
        self.requests[0].websocket.close(1000)
        peer.settle()
        for _ in range(2):
            peer.server.take(10_000)
            peer.advance(5, 5, 5)
            self.assertTrue(peer.server.connected)
        peer.advance(5)
        self.assertFalse(peer.server.connected)

    def test_answer_to_a_late_close(self) -> None:
        """The five seconds for the peer's Close begin when it has taken what stands before ours."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * 100_000)
        self.requests[0].websocket.close(1000)
        peer.settle()
        peer.advance(4.9)
        peer.resume()
        peer.advance(0.2, 4.8)
        self.assertTrue(peer.server.connected)
        peer.advance(0.3)
        self.assertFalse(peer.server.connected)

    def test_byte_by_byte(self) -> None:
        """A peer that takes a little at a time is aborted after a minute."""
        peer = self.connect("/idle/")
        peer.stall()
        with capturedLogs() as events:
            self.requests[0].websocket.send("x" * 100_000)
            self.requests[0].websocket.close(4000, "enough")
            for _ in range(59):
                peer.advance(1)
                peer.server.take(1)
            self.assertTrue(peer.server.connected)
            peer.advance(1.1)
        self.assertFalse(peer.server.connected)
        self.assertEqual(ending_of(events), (1006, "us", "enough (4000)", 100_020 - 59))

    def test_reset_before_all_is_taken(self) -> None:
        """If the peer resets the connection, the log tells how much it had not taken."""
        peer = self.connect("/idle/")
        peer.stall()
        with capturedLogs() as events:
            self.requests[0].websocket.send("x" * 100_000)
            peer.vanish()
        self.assertEqual(
            ending_of(events), (1006, "peer", "connection lost without a Close frame", 100_010)
        )

    def test_kernel_gives_up(self) -> None:
        """What the kernel still had when it dropped the connection was not taken either."""
        for close, ending in (
            (True, (1006, "us", "the view closed (1000)", 70_000)),
            (False, (1006, "peer", "connection lost without a Close frame", 70_000)),
        ):
            peer = self.connect("/idle/")
            websocket = self.requests.pop().websocket
            connection = peer.server.protocol
            peer.stall()
            with capturedLogs() as events:
                websocket.send("x" * 100_000)
                if close:
                    websocket.close(1000)
                peer.settle()
                self.patch(protocol, "untaken", lambda transport: 70_000)
                # Twisted does that before it closes the socket.
                connection.stopProducing()
                peer.server.clear_unsent()
                peer.vanish()
            self.assertEqual(ending_of(events), ending)

    def test_goodbye_is_not_taken(self) -> None:
        """A peer that leaves right behind its Close has to take no answer to that."""
        for tls in (False, True):
            peer = Peer(self.daemon, tls=tls)
            peer.send(handshake("/idle/"))
            websocket = self.requests.pop().websocket
            peer.stall()
            with capturedLogs() as events:
                if not tls:
                    websocket.send("x" * 100_000)
                peer.send(close_frame(4001, b"bye"))
                if not tls:
                    peer.server.take(100_010)
                peer.vanish()
            self.assertEqual(ending_of(events), (4001, "peer", "bye", 0))

    def test_small_answer_over_tls(self) -> None:
        """Over TLS, what is written together with the answer to a Close is as small as that."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/echo/"))
        with capturedLogs() as events:
            peer.server.protocol.wrappedProtocol.dataReceived(
                frame(TEXT, b"x") + close_frame(4001, b"bye")
            )
            peer.vanish()
        self.assertEqual(ending_of(events), (4001, "peer", "bye", 0))

    def test_end_of_tls_is_not_taken(self) -> None:
        """Over TLS, the bytes of its own end count no more than those of our answer."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/idle/"))
        connection = peer.server.protocol.wrappedProtocol
        peer.stall()
        with capturedLogs() as events:
            peer.send(close_frame(4001, b"bye"))
            connection._writing_paused = True
            self.patch(protocol, "unsent", lambda transport: connection._goodbye + 10)
            peer.vanish()
        self.assertEqual(ending_of(events), (4001, "peer", "bye", 0))

    def test_no_end_of_tls(self) -> None:
        """Over TLS a peer that answers neither our Close nor the end of TLS is aborted."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/idle/"))
        self.requests[0].websocket.close(1000)
        peer.settle()
        peer.stall()
        peer.advance(5.1)
        self.assertTrue(peer.server.connected)
        with capturedLogs() as events:
            peer.advance(5)
        self.assertFalse(peer.server.connected)
        self.assertEqual(ending_of(events)[0], 1000)

    def test_no_ping_after_a_close(self) -> None:
        """While a Close waits for a slow peer, no ping is sent, and none is waited for."""
        peer = self.connect("/idle/")
        peer.stall()
        peer.advance(24.9)
        self.requests[0].websocket.send("x" * 100_000)
        self.requests[0].websocket.close(1000)
        for _ in range(30):
            peer.advance(1)
            peer.server.take(1000)
        peer.resume()
        self.assertEqual([each.opcode for each in peer.frames], [TEXT, CLOSE])
        self.assert_closed(1000, peer)

    def test_close_while_a_ping_is_out(self) -> None:
        """A ping is not waited for any more once we have closed."""
        peer = self.connect("/idle/")
        peer.stall()
        peer.advance(25)
        self.requests[0].websocket.send("x" * 100_000)
        self.requests[0].websocket.close(1000)
        for _ in range(12):
            peer.advance(1)
            peer.server.take(1000)
        peer.resume()
        self.assert_closed(1000, peer)

    def test_clean_close_does_not_abort(self) -> None:
        """A clean close is not a reset, whichever side began it: browsers would call it unclean."""
        self.peer.send(close_frame(1000))
        first = self.peer.server
        peer = self.connect("/idle/")
        self.requests[0].websocket.close()
        peer.settle()
        peer.send(close_frame(1000))
        for server in (first, peer.server):
            self.assertIs(server.lost and server.lost.type, ConnectionDone)

    def test_both_at_once(self) -> None:
        """If both sides close at the same time, each takes the other's Close for the answer."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.close(4000)
        peer.send(close_frame(4001))
        peer.resume()
        self.assertEqual([each.code for each in peer.frames], [4000])
        self.assertIs(peer.lost, ConnectionDone)

    def test_data_behind_a_close(self) -> None:
        """Data behind the peer's Close is dropped."""
        received: list[object] = []

        @accept_websocket
        async def listen(request: Request) -> None:
            async for message in request.websocket:
                received.append(message)

        for cut in (True, False):
            peer = Peer(Daemon({"/": listen}))
            peer.send(handshake())
            segments = [frame(TEXT, b"1"), close_frame(1000), frame(TEXT, b"2"), frame(3)]
            peer.send(*segments if cut else [b"".join(segments)])
            self.assertEqual(received, ["1"])
            self.assertEqual([each.code for each in peer.frames], [1000])
            received.clear()

    def test_data_behind_our_close(self) -> None:
        """Data that the peer sends before it has seen our Close is dropped."""
        peer = self.connect("/idle/")
        websocket = self.requests[0].websocket
        websocket.close()
        peer.settle()
        peer.send(frame(TEXT, b"too late"), frame(PING), *fragments(TEXT, [b"a", b"b"]))
        self.assertEqual(websocket.read("nothing"), "nothing")
        self.assertEqual([each.opcode for each in peer.frames], [CLOSE])
        self.assert_closed(1000, peer)

    def test_violation_behind_our_close(self) -> None:
        """A peer that breaks a rule in place of an answer to our Close gets no second Close."""
        peer = self.connect("/idle/")
        self.requests[0].websocket.close(4000)
        peer.settle()
        peer.send(frame(3), frame(TEXT, b"\xff"))
        self.assertEqual([each.code for each in peer.frames], [4000])
        self.assert_closed(4000, peer)

    def test_data_is_not_kept(self) -> None:
        """Data that arrives after our Close takes no memory."""
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
        """If the peer leaves in the middle of a frame, the view ends and no timer is left."""
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


class HeartbeatTests(WebSocketTestCase):
    def pings(self, peer: Peer) -> int:
        """Return the number of pings that a peer got."""
        return [each.opcode for each in peer.frames].count(PING)

    def last_ping(self, peer: Peer) -> bytes:
        """Return the payload of the last ping."""
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
        """A peer that does not answer a ping within ten seconds is dropped."""
        self.peer.advance(25, 9.9)
        self.assertTrue(self.peer.server.connected)
        self.peer.advance(0.2)
        self.assertFalse(self.peer.server.connected)
        self.assertEqual(self.ends, ["echo"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_data_for_an_answer(self) -> None:
        """Anything that arrives after a ping counts as an answer: a long message is under way."""
        message = frame(TEXT, b"x" * 1000)
        self.peer.advance(24)
        for place in range(0, 1000, 100):
            self.peer.send(message[place : place + 100])
            self.peer.advance(*[1] * 9)
        self.peer.send(message[1000:])
        self.assertEqual([len(text) for text in self.peer.texts], [1000])
        self.peer.advance(11, 9.9)
        self.assertTrue(self.peer.server.connected)
        self.peer.advance(0.2)
        self.assertFalse(self.peer.server.connected)

    def test_ping_behind_data(self) -> None:
        """A ping behind data is waited for while the peer takes that, and ten seconds more."""
        peer = self.connect("/idle/")
        peer.stall()
        peer.advance(24)
        self.requests[0].websocket.send("x" * 900_000)
        peer.advance(1)
        for _ in range(9):
            peer.advance(9)
            peer.server.take(99_000)
            self.assertTrue(peer.server.connected)
        peer.resume()
        self.assertEqual(self.pings(peer), 1)
        peer.advance(9.9)
        self.assertTrue(peer.server.connected)
        peer.send(frame(PONG, self.last_ping(peer)))
        peer.advance(25)
        self.assertEqual(self.pings(peer), 2)
        peer.advance(10.1)
        self.assertFalse(peer.server.connected)

    def test_answer_behind_data(self) -> None:
        """A pong while the peer takes what stands behind the ping is an answer like any other."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * 1000)
        peer.advance(25)
        peer.resume()
        peer.send(frame(PONG, self.last_ping(peer)))
        peer.advance(24.9)
        self.assertEqual(self.pings(peer), 1)
        self.assertTrue(peer.server.connected)

    def test_ping_before_data(self) -> None:
        """Data that is taken behind a ping counts as an answer as well."""
        peer = self.connect("/idle/")
        peer.advance(25)
        peer.stall()
        self.requests[0].websocket.send("x" * 100_000)
        for _ in range(2):
            peer.advance(9.9)
            peer.server.take(10_000)
        self.assertTrue(peer.server.connected)
        with capturedLogs() as events:
            peer.advance(10, 10.1)
        self.assertFalse(peer.server.connected)
        self.assertEqual(
            ending_of(events), (1006, "us", "no answer to a ping in 10 s", 100_010 - 20_000)
        )

    def test_ping_that_never_leaves(self) -> None:
        """A peer that takes nothing of what stands before a ping is dropped as any other."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * 1000)
        peer.advance(25, 9.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        self.assertFalse(peer.server.connected)

    def test_ping_behind_data_that_drips(self) -> None:
        """A peer that takes less than 64 KiB a minute does not live on that."""
        peer = self.connect("/idle/")
        peer.stall()
        self.requests[0].websocket.send("x" * 900_000)
        peer.advance(25)
        for _ in range(59):
            peer.advance(1)
            peer.server.take(1000)
        self.assertTrue(peer.server.connected)
        peer.advance(1.1)
        self.assertFalse(peer.server.connected)

    def test_late_pong(self) -> None:
        """A pong just before the time-out counts."""
        self.peer.advance(25, 9.9)
        self.peer.send(frame(PONG, self.last_ping(self.peer)))
        self.peer.advance(10)
        self.assertTrue(self.peer.server.connected)

    def test_pong_of_nothing(self) -> None:
        """A pong that does not answer our ping does not count: the peer may not read."""
        self.peer.advance(25)
        self.peer.send(frame(PONG), frame(PONG, b"whatever"))
        self.peer.advance(10.1)
        self.assertFalse(self.peer.server.connected)

    def test_full_inbox(self) -> None:
        """While reading is paused pongs are not seen, and the peer is not dropped."""
        peer = self.connect("/idle/")
        peer.send(*(frame(TEXT, str(number).encode()) for number in range(70)))
        self.assertTrue(peer.server.reading_paused)
        peer.advance(25)
        for _ in range(4):
            peer.send(frame(PONG))
            peer.advance(25)
        self.assertTrue(peer.server.connected)
        websocket = self.requests[0].websocket
        received = []
        while websocket.has_messages():
            received.append(websocket.read())
            peer.settle()
        self.assertEqual(received, [str(number) for number in range(70)])
        self.assertFalse(peer.server.reading_paused)
        self.assertTrue(peer.server.connected)

    def test_inbox_that_is_full_at_once(self) -> None:
        """More messages than the inbox holds may arrive with the handshake."""
        peer = Peer(self.daemon)
        texts = [str(number) for number in range(200)]
        peer.send(handshake("/idle/") + b"".join(frame(TEXT, text.encode()) for text in texts))
        websocket = self.requests[0].websocket
        received: list[object] = []
        while websocket.has_messages():
            self.assertTrue(peer.server.reading_paused or len(received) > 100)
            self.assertLessEqual(websocket.count_messages(), 64)
            received.append(websocket.read())
            peer.settle()
        self.assertEqual(received, texts)
        self.assertFalse(peer.server.reading_paused)

    def test_full_inbox_with_a_ping_under_way(self) -> None:
        """A ping that was sent before reading was paused is not waited for either."""
        peer = self.connect("/idle/")
        peer.advance(25)
        peer.send(*(frame(TEXT, b"x") for _ in range(70)), frame(PONG))
        self.assertTrue(peer.server.reading_paused)
        peer.advance(12)
        self.assertTrue(peer.server.connected)

    def test_heartbeat_after_a_full_inbox(self) -> None:
        """Once reading is resumed, pongs count again."""
        peer = self.connect("/idle/")
        peer.send(*(frame(TEXT, b"x") for _ in range(70)))
        peer.advance(25)
        websocket = self.requests[0].websocket
        while websocket.has_messages():
            websocket.read()
        peer.settle()
        peer.advance(25)
        self.assertTrue(peer.server.connected)
        peer.advance(10.1)
        self.assertFalse(peer.server.connected)

    def test_close_behind_a_full_inbox(self) -> None:
        """If a view closes with a full inbox, the peer's Close behind the messages is read."""
        peer = self.connect("/idle/")
        peer.send(*(frame(TEXT, b"x") for _ in range(70)), close_frame(1000))
        closed = self.requests[0].websocket.close()
        peer.settle()
        self.successResultOf(closed)
        self.assertIs(peer.lost, ConnectionDone)


class TransportTests(WebSocketTestCase):
    """TLS and Unix sockets."""

    def test_tls(self) -> None:
        """Over TLS, messages, closes and violations are handled as over TCP."""
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
        self.assertTrue(peer.server.connected)
        peer.finish()
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.ends, ["echo"] * 2)

    def test_leaving_over_tls(self) -> None:
        """If a TLS connection is reset, the view ends and no timer is left."""
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/echo/"))
        peer.vanish()
        self.assertEqual(self.ends, ["echo"])
        self.peer.vanish()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_unix(self) -> None:
        """Over a Unix socket, messages are echoed, and a Close ends the connection."""
        transport = UnixTransport(self.daemon)
        self.assertIn(b" 101 ", transport.receive(handshake("/echo/")))
        self.assertEqual(transport.receive(frame(TEXT, b"x")), b"\x81\x01x")
        self.assertEqual(transport.receive(close_frame(1000)), b"\x88\x02\x03\xe8")
        self.assertTrue(transport.disconnecting)
        self.assertEqual(transport.receive(frame(TEXT, b"y")), b"")


class FactoryTests(SynchronousTestCase):
    def test_no_connection_of_its_own(self) -> None:
        """The factory builds no protocol for a connection that is not an upgrade of HTTP."""
        factory = PushFactory(Clock(), Limits(), Cork(), Memory(Clock(), Limits()))
        with self.assertRaises(RuntimeError):
            factory.buildProtocol(None)


@accept_websocket
async def idle(request: Request) -> None:
    """Accept, and wait until the client leaves."""
    async for _ in request.websocket:
        pass


class FastPathTests(SynchronousTestCase):
    """The fast paths are taken if Autobahn has what they rely on, and are not switched off."""

    def setUp(self) -> None:
        """Switch fast paths on, also if all tests run without them."""
        self.fast_paths = FastPaths()
        self.patch(protocol, "FAST_PATHS", self.fast_paths)

    def make_factory(self) -> PushFactory:
        """Make a factory."""
        return PushFactory(Clock(), Limits(), Cork(), Memory(Clock(), Limits()))

    def test_on(self) -> None:
        """The installed version of Autobahn has everything that they rely on."""
        self.assertEqual(protocol._share_defaults(), ([], []))
        self.assertTrue(self.make_factory().fast)

    def test_no_timer(self) -> None:
        """Looking at what Autobahn has starts none of its timers."""
        clock = Clock()
        self.patch(txaio.config, "loop", clock)  # type: ignore[attr-defined]  # made when used
        protocol._share_defaults.__wrapped__()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_attributes(self) -> None:
        """An open connection has a dozen attributes of its own, and Autobahn's in its class."""
        with Daemon({"/": idle}) as daemon:
            before = list(protocols())  # Kept, or a new one may get the id of one that was freed.
            ids = {*map(id, before)}
            daemon.connect("/")
            [connection] = [one for one in protocols() if id(one) not in ids]
            self.assertLess(len(vars(connection)), 16, vars(connection))
            for name in {*WebSocketServerProtocol.CONFIG_ATTRS} - {"perMessageCompressionAccept"}:
                self.assertNotIn(name, vars(connection))
                self.assertTrue(hasattr(PushProtocol, name), name)

    def test_validator(self) -> None:
        """The UTF-8 validator is made when it is first needed, and kept."""
        connection = PushProtocol(self.make_factory(), WebSocket(cast(Any, None), Clock()), print)
        self.assertNotIn("utf8validator", vars(connection))
        self.assertIs(connection.utf8validator, connection.utf8validator)

    def test_no_log(self) -> None:
        """Autobahn's own log lines are dropped."""
        for write in (PushProtocol.log.debug, PushProtocol.log.warn):
            self.assertIsNone(write("{x}", x=1))

    def test_off(self) -> None:
        """Switched off, they change nothing that a client sees."""
        self.fast_paths.enabled = False
        for path, extension in (("/echo/", ""), ("/echo/", "permessage-deflate")):
            daemon = Daemon({path: echo})
            peer = Peer(daemon)
            peer.send(handshake(path, f"Sec-WebSocket-Extensions: {extension}"))
            peer.send(frame(TEXT, b"short"), frame(TEXT, b"long" * 2000), frame(PING, b"?"))
            peer.send(*fragments(TEXT, [b"caf\xc3", b"\xa9"]))
            self.assertEqual(
                [each.opcode for each in peer.frames], [TEXT, TEXT, PONG, TEXT], extension
            )
            peer.send(close_frame(4000, b"bye"))
            self.assertEqual((peer.code, peer.lost), (4000, ConnectionDone))
            self.assertEqual(daemon.pending_calls, [])

    def test_lacking(self) -> None:
        """If something is missing they are not taken, and the log names it."""
        self.patch(protocol, "_share_defaults", lambda: (["WebSocketServerProtocol.data"], []))
        with capturedLogs() as events:
            factory = self.make_factory()
        self.assertEqual((factory.fast, factory.can_compress), (False, True))
        [event] = events
        self.assertEqual(event["event"], "fast_path_off")
        self.assertEqual(event["lacking"], "WebSocketServerProtocol.data")

    def test_no_compression(self) -> None:
        """Compression is declined if Autobahn lacks a name that it needs."""
        self.patch(protocol, "_share_defaults", lambda: ([], ["WebSocketServerProtocol.state"]))
        with capturedLogs() as events:
            daemon = Daemon({"/": idle})
        self.assertIn("requirement_missing", [event.get("event") for event in events])
        peer = Peer(daemon)
        peer.send(handshake("/", "Sec-WebSocket-Extensions: permessage-deflate"))
        self.assertIn(" 101 ", peer.head)
        self.assertNotIn("Sec-WebSocket-Extensions", peer.head)

    def test_other_versions(self) -> None:
        """A version of Autobahn that lacks names, or adds attributes to objects, is noticed."""

        class Older:
            def consumeData(self) -> None: ...

            onCloseFrame = consumeData

        class Newer(WebSocketServerProtocol):
            def _connectionMade(self) -> None:
                super()._connectionMade()
                self.novelty: list[str] = []

        required = [f"Older.{name}" for name in protocol._REQUIRED]
        for version, lacking in (
            (Older, (["Older._connectionMade", "Older.data"], required)),
            (Newer, (["a default for novelty"], [])),
        ):
            self.patch(protocol, "WebSocketServerProtocol", version)
            self.assertEqual(protocol._share_defaults.__wrapped__(), lacking)


def ending_of(events: Iterable[LogEvent]) -> tuple[int, str, str, int]:
    """Return code, side, reason and untaken bytes of a connection's end from the log."""
    [event] = [event for event in events if event.get("event") == "closed"]
    return event["code"], event["by"], event["reason"], event["bytes_untaken"]


def protocols() -> list[PushProtocol]:
    """Return every protocol that exists."""
    # Not isinstance, which asks an object that stands for another, such as Django's settings.
    return [one for one in gc.get_objects() if issubclass(type(one), PushProtocol)]
