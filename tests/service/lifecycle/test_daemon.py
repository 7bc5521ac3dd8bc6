"""How a daemon stops: the order, its connections, and the time it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import cycle

from twisted.internet.defer import Deferred, FirstError, fail
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, Closing
from pushd.access.connections import Connections
from pushd.options.settings import Settings
from pushd.service.build import build
from pushd.service.lifecycle.daemon import Drain
from pushd.testing import Browser, Daemon
from pushd.testing.alternating_threads import AlternatingThreads
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request, View
from pushd.views.routes import Routes
from tests.support.echo import echo
from tests.support.peer import TEXT, Peer, close_frame, frame, handshake, request, said
from tests.support.recording_reactor import RecordingReactor, make_runtime


class StopTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/": echo})

    def connect(self) -> Peer:
        """Open a WebSocket."""
        peer = Peer(self.daemon)
        peer.send(handshake())
        self.assertIn(" 101 ", peer.head)
        return peer

    def test_interrupt(self) -> None:
        """A signal while the services start ends what they wait for."""
        service = build(Settings(), make_runtime(RecordingReactor()))
        calls: list[str] = []
        service.interrupting.append(partial(calls.append, "interrupted"))
        service.interrupt()
        self.assertEqual(calls, ["interrupted"])

    def test_order(self) -> None:
        """The public port closes first, then the WebSockets, the control port and the broker."""
        reactor = RecordingReactor()

        @accept_websocket
        async def watch(request: Request) -> None:
            await request.websocket.wait()
            reactor.events.append("goodbye")

        settings = Settings(routes=Routes({"/": watch}))
        service = build(settings, make_runtime(reactor))
        service.startService()
        daemon = Daemon()
        daemon.clock = reactor
        peer = Peer(daemon)
        peer.send(handshake())
        del reactor.events[:]
        self.patch(service._broker, "stop", partial(reactor.events.append, "broker stopped"))
        service.stopping.append(partial(reactor.events.append, "announced"))
        stopped = service.stopService()
        peer.settle()
        peer.send(close_frame(1001))
        self.assertEqual(
            reactor.events,
            ["announced", "closed 8080", "goodbye", "closed 8081", "broker stopped"],
        )
        self.successResultOf(stopped)

    def test_nobody_there(self) -> None:
        """Without connections, a stop takes no time."""
        self.successResultOf(self.daemon.begin_stop())

    def test_goodbye(self) -> None:
        """Every WebSocket is closed with 1001; the stop ends when all peers have answered."""
        peers = [self.connect() for _ in range(3)]
        ended = self.daemon.begin_stop()
        for peer in peers:
            self.assertNoResult(ended)
            peer.settle()
            self.assertEqual(peer.code, GOING_AWAY.code)
            self.assertIn(GOING_AWAY.reason.encode(), peer.frames[0].payload)
            peer.send(close_frame(1001))
        self.successResultOf(ended)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_no_answer(self) -> None:
        """A peer that does not answer its Close frame delays the stop by five seconds at most."""
        peer = self.connect()
        ended = self.daemon.begin_stop()
        peer.advance(4.9)
        self.assertNoResult(ended)
        peer.advance(0.2)
        self.successResultOf(ended)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_no_reader(self) -> None:
        """A peer that does not read delays the stop by five seconds at most."""
        peer = self.connect()
        peer.stall()
        peer.send(frame(TEXT, b"x" * 100_000))
        ended = self.daemon.begin_stop()
        peer.advance(4.9)
        self.assertNoResult(ended)
        peer.advance(0.2)
        self.successResultOf(ended)

    def test_left_before(self) -> None:
        """A connection that was lost before is not waited for."""
        self.connect().vanish()
        self.successResultOf(self.daemon.begin_stop())

    def test_handshake_after(self) -> None:
        """A handshake on an open connection does not delay a stop that has begun."""
        idle = Peer(self.daemon)
        idle.send(request("GET / HTTP/1.1", "Host: localhost:8080"))
        deaf = self.connect()
        ended = self.daemon.begin_stop()
        idle.received.clear()
        idle.send(handshake())
        self.assertTrue(" 101 " not in idle.head or idle.code == GOING_AWAY.code, idle.head)
        deaf.advance(5.1)
        idle.settle()
        self.successResultOf(ended)

    def test_handshake_under_way(self) -> None:
        """A handshake whose view has not yet answered does not delay the stop."""
        go: Deferred[None] = Deferred()

        @accept_websocket
        async def late(request: Request) -> None:
            await go
            await request.websocket.wait()

        self.daemon = Daemon({"/": echo, "/late/": late})
        slow = Peer(self.daemon)
        slow.send(handshake("/late/"))
        deaf = self.connect()
        ended = self.daemon.begin_stop()
        go.callback(None)
        slow.settle()
        self.assertTrue(" 101 " not in slow.head or slow.code == GOING_AWAY.code, slow.head)
        deaf.advance(5.1)
        slow.settle()
        self.successResultOf(ended)

    def test_threads(self) -> None:
        """A stop stops the threads."""
        threads = RecordingThreads()
        service = build(Settings(), make_runtime(RecordingReactor(), threads))
        service.startService()
        self.assertFalse(threads.stopped)
        service.stopService()
        self.assertTrue(threads.stopped)


class RecordingThreads(AlternatingThreads):
    """Threads that record whether they were stopped."""

    def __init__(self) -> None:
        super().__init__(1)
        self.stopped = False

    def stop(self) -> None:
        """Record the call."""
        self.stopped = True


class SlowStopTests(SynchronousTestCase):
    """A stop that takes five seconds."""

    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/": echo}, drain=5)

    def ready(self) -> tuple[int, dict[str, str]]:
        """Request /readyz."""
        answer = self.daemon.request("GET", "/readyz", control=True)
        assert answer is not None
        return answer.status, json.loads(answer.text)

    def connect(self, count: int) -> list[Browser]:
        """Open WebSockets."""
        browsers = [self.daemon.connect("/") for _ in range(count)]
        self.assertTrue(all(browser.opened for browser in browsers))
        return browsers

    def test_spread(self) -> None:
        """Ten WebSockets are closed in five seconds, one in each half second."""
        browsers = self.connect(10)
        stopped = self.daemon.begin_stop()
        for second in range(1, 6):
            self.assertNoResult(stopped)
            self.daemon.advance(1)
            closed = [one for one in browsers if one.closing is not None]
            self.assertEqual(len(closed), 2 * second)
            self.assertEqual({one.closing for one in closed}, {GOING_AWAY})
        self.successResultOf(stopped)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_served_until_then(self) -> None:
        """A connection is served until it is closed."""
        (browser,) = self.connect(1)
        self.daemon.begin_stop()
        browser.send("hello")
        self.assertEqual(browser.messages, ["hello"])

    def test_published_until_then(self) -> None:
        """A publication during the stop is delivered to open connections."""
        browser = self.daemon.connect("/topics/t")
        self.daemon.begin_stop()
        answer = self.daemon.request("POST", "/topics/t", body=b"late", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)
        self.assertEqual(browser.messages, ["late"])
        self.daemon.advance(5)
        self.assertEqual(browser.closing, GOING_AWAY)

    def test_ready(self) -> None:
        """During the stop, /readyz answers 503."""
        self.assertEqual(self.ready(), (200, {"status": "ready"}))
        self.connect(1)
        self.daemon.begin_stop()
        self.assertEqual(self.ready(), (503, {"status": "not ready", "reason": "draining"}))

    def test_topics(self) -> None:
        """Event streams end, and long polls are answered, within the same time."""
        get = b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n"
        stream, poll = self.daemon.open_connection(), self.daemon.open_connection()
        stream.send(get + b"Accept: text/event-stream\r\n\r\n")
        poll.send(get + b"\r\n")
        stopped = self.daemon.begin_stop()
        self.assertEqual((stream.closed, poll.closed), (False, False))
        self.daemon.advance(2.5, 2.5)
        self.assertTrue(stream.received.endswith(b"0\r\n\r\n"))
        self.assertIn(b'"publications":[]', poll.received)
        self.assertEqual((stream.closed, poll.closed), (True, True))
        self.successResultOf(stopped)

    def test_too_late(self) -> None:
        """A request for a topic on an open connection is answered with 503 and Retry-After."""
        get = b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n"
        wires = [self.daemon.open_connection() for _ in range(2)]
        stopped = self.daemon.begin_stop()
        for connection, accept in zip(wires, (b"text/event-stream", b"*/*"), strict=True):
            connection.send(get + b"Accept: " + accept + b"\r\n\r\n")
            answer = connection.answer()
            assert answer is not None
            self.assertEqual(answer.status, 503)
            self.assertEqual(answer.headers["Retry-After"], "1")
            self.assertTrue(connection.closed)
        self.successResultOf(stopped)

    def test_silent(self) -> None:
        """A connection without a request is kept for a second, in which one may arrive."""
        silent, late = self.daemon.open_connection(), self.daemon.open_connection()
        stopped = self.daemon.begin_stop()
        self.daemon.advance(0.9)
        late.send(b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        answer = late.answer()
        assert answer is not None
        self.assertEqual((answer.status, late.closed, silent.closed), (200, True, False))
        self.assertNoResult(stopped)
        self.daemon.advance(0.2)
        self.assertTrue(silent.closed)
        self.successResultOf(stopped)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_answer_under_way(self) -> None:
        """A slow answer has the time of the drain, and no longer."""
        for seconds, answered in ((4.0, True), (6.0, False)):
            daemon = Daemon({"/": _after(seconds)}, drain=5)
            connection = daemon.open_connection()
            connection.send(b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            stopped = daemon.begin_stop()
            daemon.advance(1, 1, 1)
            self.assertNoResult(stopped)
            daemon.advance(1, 1)
            self.assertEqual(connection.answer() is not None, answered)
            self.successResultOf(stopped)

    def test_timed(self) -> None:
        """A scheduled publication due during the stop is made; a later one is logged as lost."""
        browser = self.daemon.connect("/topics/t")
        for delay in (1, 60):
            path = f"/topics/t?delay={delay}"
            answer = self.daemon.request("POST", path, body=b"later", control=True)
            assert answer is not None
            self.assertEqual(answer.status, 202)
        with capturedLogs() as events:
            self.daemon.begin_stop()
            self.daemon.advance(1, 4)
        self.assertEqual(browser.messages, ["later"])
        lost = [line for line in said(events) if "dropped at shutdown" in line]
        self.assertEqual(len(lost), 1)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_cut(self) -> None:
        """``cut`` ends a stop at once, even if peers do not answer."""
        peers = [Peer(self.daemon) for _ in range(4)]
        for peer in peers:
            peer.send(handshake())
        stopped = self.daemon.begin_stop()
        self.daemon.advance(2)
        self.assertNoResult(stopped)
        self.daemon._service.cut()
        self.assertNoResult(stopped)
        self.daemon.advance(0.1)
        self.successResultOf(stopped)
        for peer in peers:
            peer.settle()
            self.assertEqual(peer.code, GOING_AWAY.code)

    def test_cut_too_late(self) -> None:
        """``cut`` before or after a stop does nothing."""
        self.daemon._service.cut()
        self.successResultOf(self.daemon.begin_stop())
        self.daemon._service.cut()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_stopped_twice(self) -> None:
        """A second ``stopService`` returns the same Deferred."""
        self.connect(1)
        first = self.daemon.begin_stop()
        self.assertIs(self.daemon._service.stopService(), first)

    def test_trouble(self) -> None:
        """An exception on closing a port is logged, and the stop goes on."""
        port = self.daemon._service.public[0]
        self.patch(port, "close", lambda: fail(OSError("no such port")))
        self.successResultOf(self.daemon.begin_stop())
        self.assertEqual(len(self.flushLoggedErrors(FirstError)), 1)


def _after(seconds: float) -> View:
    async def view(request: Request) -> str:
        await deferLater(request.clock, seconds)
        return "at last"

    return view


class FakeConnection:
    """A connection that records when it was closed, and is lost at once if it answers."""

    transport = "none"

    def __init__(self, clock: Clock, connections: Connections, *, answers: bool = True) -> None:
        self._clock = clock
        self._connections = connections
        self._answers = answers
        self.closed: list[tuple[float, Closing]] = []
        connections.add(self)

    def close_with(self, closing: Closing) -> None:
        """Record the call."""
        self.closed.append((self._clock.seconds(), closing))
        if self._answers:
            self._connections.remove(self)

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """Do nothing: it has no subscriptions."""
        return 0


class DrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start without connections."""
        self.clock = Clock()
        self.connections = Connections(self.clock, self.clock.seconds)

    def open(self, count: int, *, answers: bool = True) -> list[FakeConnection]:
        """Open connections."""
        return [FakeConnection(self.clock, self.connections, answers=answers) for _ in range(count)]

    def start(self, seconds: float, *random: float) -> Deferred[None]:
        """Start to drain, with the given random numbers."""
        numbers = cycle(random or [0.0])
        self.drain = Drain(self.clock, self.connections, lambda: next(numbers))
        return self.drain.start(GOING_AWAY, seconds)

    def times(self, connections: list[FakeConnection]) -> list[float]:
        """Return when each connection was closed; each must have been closed once."""
        for connection in connections:
            self.assertEqual(len(connection.closed), 1)
        return sorted(connection.closed[0][0] for connection in connections)

    def test_jitter(self) -> None:
        """Each connection is closed at a random moment of its part of the time."""
        connections = self.open(4)
        gone = self.start(8, 0.0, 0.5, 0.75, 0.25)
        self.clock.pump([0.25] * 32)
        self.assertEqual(self.times(connections), [0.0, 3.0, 5.5, 6.5])
        self.assertEqual({one.closed[0][1] for one in connections}, {GOING_AWAY})
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """Ten thousand connections need one timer, and are closed evenly and in time."""
        connections = self.open(10_000)
        gone = self.start(5, 0.1, 0.9, 0.5)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for _ in range(50):
            self.clock.advance(0.1)
        times = self.times(connections)
        self.assertEqual(len(set(times)), 50)
        for begin in range(5):
            within = [time for time in times if begin + 0.05 < time < begin + 1.05]
            self.assertAlmostEqual(len(within), 2000, delta=10)
        self.successResultOf(gone)

    def test_at_once(self) -> None:
        """With 0 seconds, all connections are closed at once."""
        connections = self.open(3)
        gone = self.start(0, 0.5)
        self.assertEqual(self.times(connections), [0.0] * 3)
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody(self) -> None:
        """Without connections, the drain ends at once."""
        self.successResultOf(self.start(5))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gone_before(self) -> None:
        """A connection that is lost is not closed; with the last one, the drain ends."""
        connections = self.open(3)
        gone = self.start(9, 0.5)
        self.connections.remove(connections[0])
        self.clock.advance(3)
        for connection in connections[1:]:
            self.connections.remove(connection)
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(connections[0].closed, [])

    def test_left_meanwhile(self) -> None:
        """A connection that was lost is skipped when its time comes."""
        connections = self.open(3, answers=False)
        gone = self.start(9, 0.5)
        self.connections.remove(connections[1])
        self.clock.pump([0.5] * 18)
        self.assertEqual([len(connection.closed) for connection in connections], [1, 0, 1])
        self.assertNoResult(gone)

    def test_waits(self) -> None:
        """A connection that was closed and is not yet gone is waited for."""
        connections = self.open(2, answers=False)
        gone = self.start(2)
        self.clock.pump([1, 1, 1])
        self.assertEqual(self.times(connections), [0.0, 1.0])
        self.assertNoResult(gone)
        for connection in connections:
            self.connections.remove(connection)
        self.successResultOf(gone)

    def test_close_now(self) -> None:
        """``close_now`` closes the connections that are left, and none twice."""
        connections = self.open(4, answers=False)
        self.start(4)
        self.clock.advance(1)
        self.drain.close_now()
        self.assertEqual(self.times(connections), [0.0, 1.0, 1.0, 1.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_now_before(self) -> None:
        """``close_now`` before the drain does nothing."""
        drain = Drain(self.clock, self.connections, lambda: 0.0)
        drain.close_now()
        self.assertEqual(self.clock.getDelayedCalls(), [])
