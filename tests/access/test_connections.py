"""The open WebSockets: who is counted, and what happens to them at the end."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, NORMAL, TOKEN_EXPIRED, Closing
from pushd.access.connections import Connections
from pushd.access.counters import Traffic
from pushd.protocols.websocket.socket import WebSocket
from pushd.service.daemon import Drain
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket


class Line:
    """An offer and its wire: it notes how it was closed."""

    subprotocols = ()

    def __init__(self) -> None:
        self.closings: list[Closing] = []

    def accept(self, websocket: WebSocket, subprotocol: str | None) -> Line:
        """Open it."""
        return self

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Let it go: nobody listens."""

    push = send
    window_bits = 0
    sender = None
    traffic = Traffic()

    def push_frames(self, frames: bytes) -> None:
        """Let them go: nobody subscribes here."""

    def is_full(self) -> bool:
        """Never."""
        return False

    def close(self, closing: Closing) -> None:
        """Note how it ends."""
        self.closings.append(closing)

    def pause_reading(self) -> None:
        """Do nothing: there is nothing to read."""

    def resume_reading(self) -> None:
        """Do nothing, likewise."""


class ConnectionsTests(SynchronousTestCase):
    """Counted in, counted out, and closed."""

    def setUp(self) -> None:
        """Keep no connections at first."""
        self.clock = Clock()
        self.connections = Connections(self.clock, self.clock.seconds)

    def open(self) -> tuple[WebSocket, Line]:
        """Open one more."""
        line = Line()
        websocket = WebSocket(line, Clock())
        websocket.accept()
        self.connections.opened(websocket)
        return websocket, line

    def lose(self, websocket: WebSocket) -> None:
        """Lose its connection."""
        websocket.connection_lost()
        self.connections.lost(websocket)

    def test_count(self) -> None:
        """Each is counted once, from its opening to the end of its connection."""
        self.assertEqual(len(self.connections), 0)
        first, _ = self.open()
        second, _ = self.open()
        self.connections.opened(first)
        self.assertEqual(len(self.connections), 2)
        self.lose(first)
        self.connections.lost(first)
        self.assertEqual(len(self.connections), 1)
        self.lose(second)
        self.assertEqual(len(self.connections), 0)

    def test_ids(self) -> None:
        """Ids count up, are never given twice, and stay with whom they were given."""
        websockets = [WebSocket(Line(), Clock()) for _ in range(3)]
        opened = [self.connections.opened(websocket) for websocket in websockets]
        self.assertEqual([one.id for one in opened], [1, 2, 3])
        self.assertIs(self.connections.opened(websockets[1]), opened[1])
        self.connections.lost(websockets[1])
        self.assertEqual([one.id for one in self.connections], [1, 3])
        self.assertEqual(self.connections.opened(websockets[1]).id, 4)
        self.assertIs(self.connections.get(3), opened[2])
        self.assertIsNone(self.connections.get(2))

    def test_record(self) -> None:
        """What is known of a connection is kept with it."""
        self.clock.advance(7)
        websocket = WebSocket(Line(), Clock())
        opened = self.connections.opened(websocket, peer="a:1", path="/x", subject="u")
        self.clock.advance(1)
        self.assertIs(opened.visitor, websocket)
        self.assertEqual((opened.peer, opened.path, opened.subject), ("a:1", "/x", "u"))
        self.assertEqual((opened.since, opened.visitor.transport), (7, "websocket"))

    def test_time_of_day(self) -> None:
        """When one came, and when its token ends, are times of day; how long it is here is not."""
        hours = 100
        connections = Connections(self.clock, lambda: self.clock.seconds() + hours * 3600)
        line = Line()
        websocket = WebSocket(line, self.clock)
        opened = connections.opened(websocket)
        connections.end_at(websocket, hours * 3600 + 30)
        self.clock.advance(20)
        hours = 99
        self.assertEqual((opened.since, connections.age(opened)), (360_000, 20))
        self.clock.advance(60)
        self.assertEqual(line.closings, [])
        hours = 100
        self.clock.advance(60)
        self.assertEqual(line.closings, [TOKEN_EXPIRED])

    def test_end(self) -> None:
        """Who came with a token is closed when it runs out; a fresh one moves that."""
        (first, line), (second, other) = self.open(), self.open()
        self.connections.end_at(first, 10)
        self.connections.end_at(second, 10)
        self.connections.end_at(second, 20)
        self.clock.advance(10)
        self.assertEqual((line.closings, other.closings), ([TOKEN_EXPIRED], []))
        self.lose(first)
        self.clock.advance(10)
        self.assertEqual((line.closings, other.closings), ([TOKEN_EXPIRED], [TOKEN_EXPIRED]))

    def test_end_of_who_left(self) -> None:
        """Who has left is not closed later, and leaves no timer."""
        websocket, line = self.open()
        self.connections.end_at(websocket, 10)
        self.lose(websocket)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.connections.end_at(websocket, 10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(line.closings, [])

    def close_all(self, closing: Closing) -> Deferred[None]:
        """Close everybody at once."""
        return Drain(Clock(), self.connections, lambda: 0.0).start(closing, 0)

    def test_close_none(self) -> None:
        """With nobody there, all are gone at once."""
        self.successResultOf(self.close_all(GOING_AWAY))

    def test_close_all(self) -> None:
        """Each is told the same goodbye; it is over when the last connection is gone."""
        opened = [self.open() for _ in range(3)]
        gone = self.close_all(GOING_AWAY)
        for websocket, line in opened:
            self.assertEqual(line.closings, [GOING_AWAY])
            self.assertTrue(websocket.is_closed())
        for websocket, _ in opened:
            self.assertNoResult(gone)
            self.lose(websocket)
        self.successResultOf(gone)

    def test_close_twice(self) -> None:
        """Who asks a second time is told as well, and nobody hears goodbye twice."""
        websocket, line = self.open()
        gone = [self.close_all(closing) for closing in (GOING_AWAY, NORMAL)]
        self.assertEqual(line.closings, [GOING_AWAY])
        self.lose(websocket)
        for each in gone:
            self.successResultOf(each)

    def test_on_the_way_out(self) -> None:
        """One that is closing already is waited for, and not closed again."""
        websocket, line = self.open()
        websocket.close(4000, "enough")
        gone = self.close_all(GOING_AWAY)
        self.assertEqual(line.closings, [Closing(4000, "enough")])
        self.assertNoResult(gone)
        self.lose(websocket)
        self.successResultOf(gone)

    def test_again(self) -> None:
        """Those that come and go afterwards are no matter of an earlier end."""
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
    """The same in a daemon."""

    def test_stop(self) -> None:
        """A daemon that stops says 1001 to all, and waits until all of them have left."""

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
