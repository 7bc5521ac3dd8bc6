"""The daemon's life: how it ends, for those who are inside and those who watch."""

from __future__ import annotations

import json
from functools import partial

from twisted.internet.defer import Deferred, FirstError, fail
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY
from pushd.options.settings import Settings
from pushd.service.build import build
from pushd.testing.daemon import Browser, Daemon
from pushd.testing.lockstep import LockstepThreads
from pushd.views.request import Request, View, accept_websocket
from pushd.views.routes import Routes
from tests.echo import echo
from tests.peer import TEXT, Peer, close_frame, frame, handshake, request, said
from tests.ports import Reactor, make_runtime


class EndTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/": echo})

    def connect(self) -> Peer:
        """Open a WebSocket."""
        peer = Peer(self.daemon)
        peer.send(handshake())
        self.assertIn(" 101 ", peer.head)
        return peer

    def test_order(self) -> None:
        """First the public port is closed, then those inside hear of it, last goes the private."""
        reactor = Reactor()

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
        service.stopping.append(partial(reactor.events.append, "announced"))
        stopped = service.stopService()
        peer.settle()
        peer.send(close_frame(1001))
        self.assertEqual(reactor.events, ["announced", "closed 8080", "goodbye", "closed 8081"])
        self.successResultOf(stopped)

    def test_nobody_there(self) -> None:
        """Without WebSockets there is nothing to wait for."""
        self.successResultOf(self.daemon.begin_stop())

    def test_goodbye(self) -> None:
        """Every WebSocket is closed with 1001; the end has come when all have answered."""
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
        """Those who do not answer hold it up for five seconds, and no longer."""
        peer = self.connect()
        ended = self.daemon.begin_stop()
        peer.advance(4.9)
        self.assertNoResult(ended)
        peer.advance(0.2)
        self.successResultOf(ended)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_no_reader(self) -> None:
        """Nor do those who do not read what they were sent."""
        peer = self.connect()
        peer.stall()
        peer.send(frame(TEXT, b"x" * 100_000))
        ended = self.daemon.begin_stop()
        peer.advance(4.9)
        self.assertNoResult(ended)
        peer.advance(0.2)
        self.successResultOf(ended)

    def test_left_before(self) -> None:
        """Those who have left are not waited for."""
        self.connect().vanish()
        self.successResultOf(self.daemon.begin_stop())

    def test_handshake_after(self) -> None:
        """A connection that is open already gets no WebSocket any more that would be waited for."""
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
        """Nor does one whose view still thinks when the end begins."""
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
        """The threads are let go."""
        threads = Quiet()
        service = build(Settings(), make_runtime(Reactor(), threads))
        service.startService()
        self.assertFalse(threads.stopped)
        service.stopService()
        self.assertTrue(threads.stopped)


class Quiet(LockstepThreads):
    """Threads that note when they are let go."""

    def __init__(self) -> None:
        super().__init__(1)
        self.stopped = False

    def stop(self) -> None:
        """Note it."""
        self.stopped = True


class DrainTests(SynchronousTestCase):
    """A stop that takes its time."""

    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/": echo}, drain=5)

    def ready(self) -> tuple[int, dict[str, str]]:
        """Ask whether the daemon is ready."""
        answer = self.daemon.request("GET", "/readyz", control=True)
        assert answer is not None
        return answer.status, json.loads(answer.text)

    def connect(self, count: int) -> list[Browser]:
        """Open WebSockets."""
        browsers = [self.daemon.connect("/") for _ in range(count)]
        self.assertTrue(all(browser.opened for browser in browsers))
        return browsers

    def test_spread(self) -> None:
        """Ten are closed in five seconds, one in each half of a second."""
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
        """Who was not asked to leave yet is served as before."""
        (browser,) = self.connect(1)
        self.daemon.begin_stop()
        browser.send("hello")
        self.assertEqual(browser.messages, ["hello"])

    def test_published_until_then(self) -> None:
        """What is accepted for publishing is delivered to those who are here."""
        browser = self.daemon.connect("/topics/t")
        self.daemon.begin_stop()
        answer = self.daemon.request("POST", "/topics/t", body=b"late", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)
        self.assertEqual(browser.messages, ["late"])
        self.daemon.advance(5)
        self.assertEqual(browser.closing, GOING_AWAY)

    def test_ready(self) -> None:
        """The control port says that there should be no traffic any more, until it closes."""
        self.assertEqual(self.ready(), (200, {"status": "ready"}))
        self.connect(1)
        self.daemon.begin_stop()
        self.assertEqual(self.ready(), (503, {"status": "not ready", "reason": "draining"}))

    def test_topics(self) -> None:
        """Streams end and polls are answered, within the same time."""
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
        """Who asks for a topic on a connection that is open still is sent elsewhere."""
        get = b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n"
        wires = [self.daemon.open_connection() for _ in range(2)]
        stopped = self.daemon.begin_stop()
        for wire, accept in zip(wires, (b"text/event-stream", b"*/*"), strict=True):
            wire.send(get + b"Accept: " + accept + b"\r\n\r\n")
            answer = wire.answer()
            assert answer is not None
            self.assertEqual(answer.status, 503)
            self.assertEqual(answer.headers["Retry-After"], "1")
            self.assertTrue(wire.closed)
        self.successResultOf(stopped)

    def test_silent(self) -> None:
        """One that says nothing is given a second, in which its request may arrive."""
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
        """An answer that takes its time has as long as the rest."""
        for seconds, answered in ((4.0, True), (6.0, False)):
            daemon = Daemon({"/": _after(seconds)}, drain=5)
            wire = daemon.open_connection()
            wire.send(b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            stopped = daemon.begin_stop()
            daemon.advance(1, 1, 1)
            self.assertNoResult(stopped)
            daemon.advance(1, 1)
            self.assertEqual(wire.answer() is not None, answered)
            self.successResultOf(stopped)

    def test_timed(self) -> None:
        """A timed push that is due in time is made; one that is not is lost, and it is said."""
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
        """A second thought ends it at once, for those who do not answer as well."""
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
        """When all is over, or has not begun, there is nothing to cut."""
        self.daemon._service.cut()
        self.successResultOf(self.daemon.begin_stop())
        self.daemon._service.cut()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_stopped_twice(self) -> None:
        """Who asks a second time waits for the same end."""
        self.connect(1)
        first = self.daemon.begin_stop()
        self.assertIs(self.daemon._service.stopService(), first)

    def test_trouble(self) -> None:
        """A door that can't be closed is logged, and keeps nobody from going."""
        door = self.daemon._service.public[0]
        self.patch(door, "close", lambda: fail(OSError("no such door")))
        self.successResultOf(self.daemon.begin_stop())
        self.assertEqual(len(self.flushLoggedErrors(FirstError)), 1)


def _after(seconds: float) -> View:
    async def view(request: Request) -> str:
        await deferLater(request.clock, seconds)
        return "at last"

    return view
