"""Reading messages, however they are cut, and in how many reactor iterations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.protocols.fast_paths import FAST_PATHS, FastPaths
from pushd.protocols.websocket import inbox, protocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.turns import PORTION
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close_frame,
    frame,
    handshake,
    said,
)
from tests.support.websocket_case import WebSocketTestCase, fragments


class MessageTests(WebSocketTestCase):
    def test_kinds(self) -> None:
        """Text arrives as text and binary as binary, for each form of a length."""
        for length in (0, 1, 124, 125, 126, 127, 128, 65535, 65536, 200_000):
            for opcode in (TEXT, BINARY):
                peer = self.connect("/echo/")
                peer.send(frame(opcode, b"x" * length))
                self.assertEqual(peer.frames, [Frame(opcode, b"x" * length)], length)

    def test_unicode(self) -> None:
        """Text is UTF-8, received and sent."""
        text = "café ☕ 🎉 \u0000 \U0010ffff"
        self.peer.send(frame(TEXT, text.encode()))
        self.assertEqual(self.peer.texts, [text])

    def test_order(self) -> None:
        """Messages keep their order, however many arrive at once."""
        texts = [f"{number}" for number in range(200)]
        self.peer.send(b"".join(frame(TEXT, text.encode()) for text in texts))
        self.assertEqual(self.peer.texts, texts)

    def test_byte_by_byte(self) -> None:
        """Frames may be cut anywhere."""
        data = frame(TEXT, b"one") + frame(BINARY, b"t" * 200) + frame(TEXT, b"three")
        self.peer.send(*(data[place : place + 1] for place in range(len(data))))
        self.assertEqual(
            [each.payload for each in self.peer.frames], [b"one", b"t" * 200, b"three"]
        )

    def test_fragments(self) -> None:
        """A message in fragments is delivered whole, whatever their sizes."""
        for pieces in ([b"a", b"b"], [b"", b"ab"], [b"ab", b""], [b"", b"", b""], [b"x"] * 50):
            for opcode in (TEXT, BINARY):
                peer = self.connect("/echo/")
                peer.send(*fragments(opcode, pieces))
                self.assertEqual(peer.frames, [Frame(opcode, b"".join(pieces))])
                peer.send(frame(TEXT, b"after"))
                self.assertEqual(peer.frames[-1].payload, b"after")

    def test_fragments_of_many_messages(self) -> None:
        """Fragments are counted for each message."""
        for count in range(1, 5):
            self.peer.send(b"".join(fragments(TEXT, [b"x"] * 250)))
            self.assertEqual(self.peer.texts, ["x" * 250] * count)

    def test_fragments_cut_a_letter(self) -> None:
        """A character may be cut by the end of a fragment."""
        self.peer.send(*fragments(TEXT, [b"caf\xc3", b"\xa9"]))
        self.assertEqual(self.peer.texts, ["café"])

    def test_control_between_fragments(self) -> None:
        """A ping between fragments is answered at once, and the message is delivered whole."""
        first, second = fragments(TEXT, [b"a", b"b"])
        self.peer.send(first, frame(PING, b"now"))
        self.assertEqual(self.peer.frames, [Frame(PONG, b"now")])
        self.peer.send(frame(PONG, b"?"), second)
        self.assertEqual(self.peer.frames[1:], [Frame(TEXT, b"ab")])

    def test_ping(self) -> None:
        """A ping is answered with a pong of the same payload, up to 125 bytes."""
        for payload in (b"", b"x", b"\x00" * 125):
            self.peer.send(frame(PING, payload))
            self.assertEqual(self.peer.frames[-1], Frame(PONG, payload))

    def test_unsolicited_pong(self) -> None:
        """An unsolicited pong is ignored."""
        self.peer.send(frame(PONG), frame(PONG, b"hello"), frame(TEXT, b"x"))
        self.assertEqual(self.peer.frames, [Frame(TEXT, b"x")])

    def test_exception_inside(self) -> None:
        """After an unexpected error the code is 1011, and the log has one failure."""
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


class IterationTests(WebSocketTestCase):
    """Frames that arrive in one segment."""

    def settings(self) -> dict[str, Any]:
        """Return a limit of ten messages a second, and of 100 kB unsent."""
        return {"limits": Limits(max_rate=10, max_buffered=100_000)}

    def test_many_in_one_segment(self) -> None:
        """Many frames are read in several reactor iterations, in order."""
        peer = self.connect("/echo/")
        peer.send(b"".join(frame(TEXT, str(number).encode()) for number in range(90)))
        self.assertEqual(peer.texts, [str(number) for number in range(90)])

    def test_leaves_between_turns(self) -> None:
        """If the peer leaves between two iterations, no timer is left."""
        peer = self.connect("/echo/")
        peer.server.protocol.dataReceived(frame(TEXT, b"x") * 90)
        peer.vanish()
        self.daemon.settle()


class TurnTests(WebSocketTestCase):
    """Long and compressed messages that take much of the reactor's time."""

    def setUp(self) -> None:
        """Let each message take as much time as one iteration has for them.

        Short frames wait for no turn by the fast path only.
        """
        self.patch(FAST_PATHS, "enabled", True)
        super().setUp()
        self.received: list[str | bytes] = []

        def receive(_: WebSocket, message: str | bytes) -> None:
            self.received.append(message[:1])
            self.daemon.clock.rightNow += 2 * PORTION

        self.patch(WebSocket, "message_received", receive)

    def settings(self) -> dict[str, Any]:
        """Trust a proxy."""
        return {"proxies": Proxies(["127.0.0.1"])}

    def test_turns(self) -> None:
        """One connection after the other has its long messages read; short ones do not wait."""
        peers = [self.connect("/echo/") for _ in range(4)]
        for peer, letter in zip(peers, (b"a", b"b", b"c"), strict=False):
            peer.server.protocol.dataReceived(frame(TEXT, letter * 5000) + frame(TEXT, letter))
        peers[3].server.protocol.dataReceived(frame(TEXT, b"short"))
        self.assertEqual(self.received, ["a", "a", "s"])
        self.assertTrue(peers[1].server.reading_paused)
        self.daemon.clock.advance(0)
        self.daemon.settle()
        self.assertEqual(self.received, ["a", "a", "s", "b", "b", "c", "c"])
        self.assertFalse(peers[1].server.reading_paused)

    def test_addresses(self) -> None:
        """A client behind a trusted proxy has turns of its own."""
        peers = []
        for address in ("203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2"):
            peer = Peer(self.daemon)
            peer.send(handshake("/echo/", f"X-Forwarded-For: {address}"))
            peers.append(peer)
        for peer, letter in zip(peers, (b"a", b"b", b"c", b"d"), strict=True):
            peer.server.protocol.dataReceived(frame(TEXT, letter * 5000))
        self.daemon.settle()
        self.assertEqual(self.received, ["a", "b", "d", "c"])

    def test_leaves_before_its_turn(self) -> None:
        """If the peer leaves while its message waits, what had arrived is delivered, once."""
        first, second = self.connect("/echo/"), self.connect("/echo/")
        first.server.protocol.dataReceived(frame(TEXT, b"a" * 5000))
        second.server.protocol.dataReceived(frame(TEXT, b"b" * 5000))
        self.assertEqual(self.received, ["a"])
        second.vanish()
        self.daemon.settle()
        self.assertEqual(self.received, ["a", "b"])


class RestTests(SynchronousTestCase):
    """What had arrived when a connection was lost, and was not read."""

    def setUp(self) -> None:
        """Make a view that reads only after the end."""
        self.saved: list[str | bytes | int | None] = []
        self.gate: Deferred[None] = Deferred()

    def reset(self, *messages: bytes, close: bool = True, **wrapped: Any) -> list[LogEvent]:
        """Send messages that fill the inbox, more of them, and a Close; reset the connection."""

        @accept_websocket
        async def late(request: Request) -> None:
            request.websocket.accept()
            await self.gate
            async for message in request.websocket:
                self.saved.append(message)
            self.saved.append(request.websocket.close_code)

        with Daemon({"/late/": late}) as daemon, capturedLogs() as events:
            peer = Peer(daemon, **wrapped)
            peer.send(handshake("/late/"))
            peer.send(b"".join(frame(TEXT, b"first") for _ in range(64)))
            self.assertTrue(peer.server.reading_paused)
            data = b"".join(frame(TEXT, message) for message in messages)
            peer.send(data + close_frame(4001, b"done") * close)
            self.assertEqual(len(self.saved), 0)
            peer.reset()
            self.gate.callback(None)
            daemon.settle()
            peer.advance(1)
            self.assertFalse(daemon.pending_calls)
        return [event for event in events if event.get("event") == "closed"]

    def test_all_is_read(self) -> None:
        """All messages are read, and the Close, over TCP and TLS and with the PROXY protocol."""
        messages = [b"%d" % number * 200 for number in range(500)]
        header = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"
        cases = [(tls, fast, None) for tls in (False, True) for fast in (False, True)]
        for tls, fast, first in [*cases, (False, True, header), (True, True, header)]:
            self.setUp()
            fast_paths = FastPaths()
            fast_paths.enabled = fast
            self.patch(protocol, "FAST_PATHS", fast_paths)
            [event] = self.reset(*messages, tls=tls, proxy_header=first)
            self.assertEqual(self.saved[:64], ["first"] * 64)
            self.assertEqual(self.saved[64:-1], [each.decode() for each in messages])
            self.assertEqual(self.saved[-1], 4001)
            self.assertEqual((event["code"], event["by"]), (4001, "peer"))
            self.assertEqual(event["reason"], "done")

    def test_without_a_close(self) -> None:
        """Without a Close the code is 1006."""
        [event] = self.reset(b"x", close=False)
        self.assertEqual(self.saved[64:], ["x", 1006])
        self.assertEqual((event["code"], event["by"]), (1006, "peer"))

    def test_size(self) -> None:
        """No more is read than the inbox takes: 2 MiB, and the message that exceeds it."""
        self.reset(*[b"x" * 300_000] * 10)
        self.assertEqual(self.saved[64:], ["x" * 300_000] * 7 + [1006])

    def test_small_messages(self) -> None:
        """What an empty message takes in memory counts as well; up to 64 more are read."""
        self.reset(*[b""] * 9000)
        self.assertEqual(len(self.saved), 64 + 9000 + 1)
        self.setUp()
        self.patch(inbox, "_OVERHEAD", 1000)
        self.reset(*[b""] * 9000)
        self.assertTrue(0 <= len(self.saved) - (1 << 21) // 1000 <= 64, len(self.saved))

    def test_exception_inside(self) -> None:
        """After an unexpected error the rest is dropped, and the log has one failure."""
        take = WebSocket.message_received

        def fail(websocket: WebSocket, message: str | bytes) -> None:
            if message != "first":
                raise ZeroDivisionError
            take(websocket, message)

        self.patch(WebSocket, "message_received", fail)
        self.reset(b"x", b"y")
        self.assertEqual(self.saved, ["first"] * 64 + [1011])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ReentryTests(WebSocketTestCase):
    def test_room_is_made_while_messages_come(self) -> None:
        """Reading messages while others are delivered keeps their order."""
        peer = self.connect("/idle/")
        websocket = self.requests[0].websocket
        take = WebSocket.message_received
        received: list[object] = []

        def read_when_full(_: WebSocket, message: str | bytes) -> None:
            take(websocket, message)
            if websocket.count_messages() == 64:
                received.extend(websocket.read() for _ in range(64))

        self.patch(WebSocket, "message_received", read_when_full)
        peer.send(b"".join(frame(TEXT, str(number).encode()) for number in range(200)))
        while websocket.has_messages():
            received.append(websocket.read())
        self.assertEqual(received, [str(number) for number in range(200)])
        self.assertFalse(peer.server.reading_paused)


@contextmanager
def failing(case: SynchronousTestCase) -> Iterator[None]:
    """Raise an error for each message that a WebSocket receives."""

    def fail(websocket: WebSocket, message: object) -> None:
        raise ZeroDivisionError("our secret")

    patch = case.patch(WebSocket, "message_received", fail)
    yield
    patch.restore()
