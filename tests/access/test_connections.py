"""Tests of the registry of open connections, and of their log lines."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import (
    GOING_AWAY,
    NORMAL,
    PERMISSION_EXPIRED,
    TOKEN_EXPIRED,
    TRY_AGAIN_LATER,
    Closing,
)
from pushd.access.connections import Connections
from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.protocols.websocket.socket import WebSocket
from pushd.service.lifecycle.daemon import Drain
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import Peer, request, said

STREAM = request("GET /topics/news?token=secret HTTP/1.1", "Host: a", "Accept: text/event-stream")
POLL = request("GET /topics/news?wait=3 HTTP/1.1", "Host: a", "Connection: close")


class FakeProtocol:
    """Stands in for a WebSocket's handshake and protocol; records how it was closed."""

    subprotocols = ()

    def __init__(self) -> None:
        self.closings: list[Closing] = []

    def accept(
        self, websocket: WebSocket, subprotocol: str | None, headers: Any = ()
    ) -> FakeProtocol:
        """Accept the handshake."""
        return self

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Discard a message."""

    push = send
    window_bits = 0
    sender = None
    after_read: Any = None
    traffic = Traffic()

    def push_frames(self, frames: bytes) -> None:
        """Discard frames."""

    @property
    def taken(self) -> int:
        """Return that the peer takes nothing."""
        return 0

    def is_full(self, more: int = 0) -> bool:
        """Claim to have room."""
        return False

    def close(self, closing: Closing) -> None:
        """Record how it was closed."""
        self.closings.append(closing)

    def message_kept(self, size: int) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


class ConnectionsTests(SynchronousTestCase):
    """Connections are added, listed, closed and removed."""

    def setUp(self) -> None:
        """Start without connections."""
        self.clock = Clock()
        self.connections = Connections(self.clock, self.clock.seconds)

    def open(self) -> tuple[WebSocket, FakeProtocol]:
        """Open a WebSocket and add it."""
        protocol = FakeProtocol()
        websocket = WebSocket(protocol, Clock())
        websocket.accept()
        self.connections.add(websocket)
        return websocket, protocol

    def lose(self, websocket: WebSocket) -> None:
        """Lose its connection, and remove it."""
        websocket.connection_lost()
        self.connections.remove(websocket)

    def test_count(self) -> None:
        """A connection counts once, from ``add`` to ``remove``, however often either is called."""
        self.assertEqual(len(self.connections), 0)
        first, _ = self.open()
        second, _ = self.open()
        self.connections.add(first)
        self.assertEqual(len(self.connections), 2)
        self.lose(first)
        self.connections.remove(first)
        self.assertEqual(len(self.connections), 1)
        self.lose(second)
        self.assertEqual(len(self.connections), 0)

    def test_ids(self) -> None:
        """Ids count up, are not reused, and stay with their connections."""
        websockets = [WebSocket(FakeProtocol(), Clock()) for _ in range(3)]
        opened = [self.connections.add(websocket) for websocket in websockets]
        self.assertEqual([one.id for one in opened], [1, 2, 3])
        self.assertIs(self.connections.add(websockets[1]), opened[1])
        self.connections.remove(websockets[1])
        self.assertEqual([one.id for one in self.connections], [1, 3])
        self.assertEqual(self.connections.add(websockets[1]).id, 4)
        self.assertIs(self.connections.get(3), opened[2])
        self.assertIsNone(self.connections.get(2))

    def test_entry(self) -> None:
        """A connection has the peer, path and subject that were given, and its time."""
        self.clock.advance(7)
        websocket = WebSocket(FakeProtocol(), Clock())
        opened = self.connections.add(websocket, peer="a:1", path="/x", subject="u")
        self.clock.advance(1)
        self.assertIs(opened.closable, websocket)
        self.assertEqual((opened.peer, opened.path, opened.subject), ("a:1", "/x", "u"))
        self.assertEqual((opened.since, opened.closable.transport), (7, "websocket"))

    def test_time_of_day(self) -> None:
        """Opening and expiry are times of day; the age of a connection does not depend on those."""
        hours = 100
        connections = Connections(self.clock, lambda: self.clock.seconds() + hours * 3600)
        protocol = FakeProtocol()
        websocket = WebSocket(protocol, self.clock)
        opened = connections.add(websocket)
        connections.close_at(websocket, hours * 3600 + 30)
        self.clock.advance(20)
        hours = 99
        self.assertEqual((opened.since, connections.age(opened)), (360_000, 20))
        self.clock.advance(60)
        self.assertEqual(protocol.closings, [])
        hours = 100
        self.clock.advance(60)
        self.assertEqual(protocol.closings, [TOKEN_EXPIRED])

    def test_close_at(self) -> None:
        """A connection is closed when its token expires; a fresh token postpones that."""
        (first, protocol), (second, other) = self.open(), self.open()
        self.connections.close_at(first, 10)
        self.connections.close_at(second, 10)
        self.connections.close_at(second, 20)
        self.clock.advance(10)
        self.assertEqual((protocol.closings, other.closings), ([TOKEN_EXPIRED], []))
        self.lose(first)
        self.clock.advance(10)
        self.assertEqual((protocol.closings, other.closings), ([TOKEN_EXPIRED], [TOKEN_EXPIRED]))

    def test_close_at_infinity(self) -> None:
        """A connection whose identity has no end stays open; a later end has its own closing."""
        websocket, protocol = self.open()
        self.connections.close_at(websocket, 10)
        self.connections.close_at(websocket, inf)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.connections.close_at(websocket, 10, PERMISSION_EXPIRED)
        self.clock.advance(10)
        self.assertEqual(protocol.closings, [PERMISSION_EXPIRED])

    def test_close_at_after_removal(self) -> None:
        """A connection that was removed is not closed later, and leaves no timer."""
        websocket, protocol = self.open()
        self.connections.close_at(websocket, 10)
        self.lose(websocket)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.connections.close_at(websocket, 10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(protocol.closings, [])

    def close_all(self, closing: Closing) -> Deferred[None]:
        """Close all connections at once."""
        return Drain(Clock(), self.connections, lambda: 0.0).start(closing, 0)

    def test_close_none(self) -> None:
        """Without connections the end comes at once."""
        self.successResultOf(self.close_all(GOING_AWAY))

    def test_close_all(self) -> None:
        """All connections get the same closing; the end comes when the last one is gone."""
        opened = [self.open() for _ in range(3)]
        gone = self.close_all(GOING_AWAY)
        for websocket, protocol in opened:
            self.assertEqual(protocol.closings, [GOING_AWAY])
            self.assertTrue(websocket.is_closed())
        for websocket, _ in opened:
            self.assertNoResult(gone)
            self.lose(websocket)
        self.successResultOf(gone)

    def test_close_twice(self) -> None:
        """A second stop waits for the same end, and closes nothing a second time."""
        websocket, protocol = self.open()
        gone = [self.close_all(closing) for closing in (GOING_AWAY, NORMAL)]
        self.assertEqual(protocol.closings, [GOING_AWAY])
        self.lose(websocket)
        for each in gone:
            self.successResultOf(each)

    def test_already_closing(self) -> None:
        """A WebSocket that is closing already is waited for, and not closed again."""
        websocket, protocol = self.open()
        websocket.close(4000, "enough")
        gone = self.close_all(GOING_AWAY)
        self.assertEqual(protocol.closings, [Closing(4000, "enough")])
        self.assertNoResult(gone)
        self.lose(websocket)
        self.successResultOf(gone)

    def test_reopened(self) -> None:
        """Connections that come and go after the end do not fire its Deferred again."""
        websocket, _ = self.open()
        self.lose(websocket)
        other, _ = self.open()
        gone = self.close_all(GOING_AWAY)
        self.lose(other)
        self.successResultOf(gone)
        third, _ = self.open()
        self.lose(third)
        self.assertEqual(len(self.connections), 0)


class StopTests(SynchronousTestCase):
    """The open connections of a daemon that stops."""

    def test_stop(self) -> None:
        """A daemon that stops closes all WebSockets with 1001, and waits for all of them."""

        @accept_websocket
        async def listen(request: Request) -> None:
            await request.websocket.wait()

        daemon = Daemon({"/": listen})
        browsers = [daemon.connect("/") for _ in range(3)]
        browsers[1].stall()
        stopped: Deferred[object] = daemon.begin_stop()
        self.assertEqual([browsers[0].closing, browsers[2].closing], [GOING_AWAY, GOING_AWAY])
        self.assertTrue(browsers[0].gone)
        self.assertNoResult(stopped)
        browsers[1].resume()
        self.assertEqual(browsers[1].closing, GOING_AWAY)
        self.successResultOf(stopped)
        self.assertEqual(daemon.pending_calls, [])


class LogTests(SynchronousTestCase):
    """The log lines of an event stream; those of a WebSocket are in tests/views."""

    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon(max_connections=5)

    def publish(self, text: str) -> None:
        """Publish to the topic."""
        self.daemon.request("POST", "/topics/news", body=text.encode(), control=True)

    def lines(self, end: Callable[[Peer], object]) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the log lines and events of a stream that gets a publication, and then ends."""
        with capturedLogs() as events:
            peer = Peer(self.daemon)
            peer.send(STREAM)
            self.publish("hello")
            peer.advance(2)
            end(peer)
        lines = [line for line in said(events) if "GET" in line or "#" in line]
        return lines, [event for event in events if "connection" in event]

    def test_client_disconnects(self) -> None:
        """A stream is logged when it opens and when it closes, and has no access line."""
        (opened, closed), fields = self.lines(Peer.vanish)
        self.assertEqual(opened, "#1 127.0.0.1:50001 /topics/news opened")
        name, how = "#1 127.0.0.1:50001 /topics/news", "closed 1006 after 2.000 s by peer"
        begin = f"{name} {how}: the client disconnected; "
        self.assertTrue(closed.startswith(begin), closed)
        self.assertRegex(closed, r"; 0 messages, 0 bytes in; 2, [1-9]\d+ out$")
        self.assertEqual([one["transport"] for one in fields if "transport" in one], ["sse"] * 2)

    def test_stop(self) -> None:
        """The closing line of a stream that ended because the daemon stopped says so."""
        (_, closed), _ = self.lines(lambda _: self.daemon.stop())
        self.assertIn("closed 1001 after 2.000 s by us: server is shutting down;", closed)

    def test_too_slow(self) -> None:
        """The closing line of a client that does not read says that it read too slowly."""

        def stall(peer: Peer) -> None:
            peer.stall()
            for _ in range(4):
                self.publish("x" * 1_000_000)
            peer.advance(61, 61)

        (_, closed), _ = self.lines(stall)
        self.assertRegex(
            closed,
            r"closed 1013 after \S+ s by us: client reads too slowly, 1\d{6} bytes were not taken;",
        )

    def test_stalled(self) -> None:
        """So does that of one that stops reading with less than the limit before it."""

        def stall(peer: Peer) -> None:
            peer.stall()
            self.publish("x" * 100_000)
            peer.advance(59.9)
            self.assertTrue(peer.server.connected)
            peer.advance(0.2)

        (_, closed), events = self.lines(stall)
        how = r"closed 1013 after 62\.100 s by us: client reads too slowly, 1\d{5} bytes were not"
        self.assertRegex(closed, how)
        self.assertGreater(events[-1]["bytes_untaken"], 100_000)

    def test_lost(self) -> None:
        """The line of a client that is lost says what it had not taken."""

        def lose(peer: Peer) -> None:
            sites: list[Any] = self.daemon._sites
            [channel] = (one for one in sites[0].connections._open if one.requests)
            stream = channel.requests[0].stream
            peer.stall()
            self.publish("x" * 100_000)
            # Twisted does that before it closes the socket.
            channel.stopProducing()
            peer.vanish()
            stream.stopProducing()
            self.assertGreater(stream.ending.untaken, 100_000)

        (_, closed), _ = self.lines(lose)
        how = r"closed 1006 after 2\.000 s by peer: the client disconnected, 1\d{5} bytes were not"
        self.assertRegex(closed, how)

    def test_stalled_at_the_end(self) -> None:
        """If pushd has ended it before, the line has that code, and what stands before the end."""
        self.daemon = Daemon(limits=Limits(max_buffered=100_000))

        def stall(peer: Peer) -> None:
            peer.stall()
            self.publish("x" * 900_000)
            closing = "?code=4001&reason=enough"
            self.daemon.request("DELETE", f"/connections/1{closing}", control=True)
            peer.advance(61)

        (_, closed), _ = self.lines(stall)
        self.assertRegex(
            closed,
            r"closed 1006 after 63\.\d+ s by us: enough \(4001\), 9\d{5} bytes were not taken;",
        )

    def test_cut_off_twice(self) -> None:
        """The line of a connection that is cut off twice has the first reason."""

        def stall(peer: Peer) -> None:
            peer.stall()
            self.publish("x" * 100_000)
            sites: list[Any] = self.daemon._sites
            [channel] = (one for one in sites[0].connections._open if one.requests)
            stream = channel.requests[0].stream
            stream.break_off(TRY_AGAIN_LATER)
            channel.free_memory()
            peer.settle()

        (_, closed), _ = self.lines(stall)
        self.assertIn("closed 1013 after 2.000 s by us: client reads too slowly, ", closed)

    def test_long_poll(self) -> None:
        """A long poll is logged as a request, with its duration."""
        with capturedLogs() as events:
            peer = Peer(self.daemon)
            peer.send(POLL)
            peer.advance(3)
        self.assertRegex(
            said(events)[0], r"^127\.0\.0\.1:50001 GET /topics/news 200 \d+ after 3\.000 s$"
        )
        self.assertEqual(events[-1]["connection"], 1)
