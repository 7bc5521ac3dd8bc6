"""Garbage collection: when it runs, and that ended connections leave it nothing to do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable
from ctypes import CDLL

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.twisted_internals import unsent
from pushd.schedule.ticks import PushSchedule
from pushd.service.process import garbage
from pushd.service.process.garbage import YOUNG, GarbageService, find_trim
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import TEXT, close_frame, frame, handshake, request
from tests.support.recording_socket import SocketConnection


class FakeCollector:
    """The module ``gc``: notes the calls, and takes time to collect."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.thresholds = (1, 2, 3)
        self.seconds = 0.0

    def get_threshold(self) -> tuple[int, int, int]:
        """Return what was set last."""
        return self.thresholds

    def set_threshold(self, *thresholds: int) -> None:
        """Set the thresholds of the three generations."""
        first, second, third = thresholds
        self.thresholds = first, second, third

    def freeze(self) -> None:
        """Note the call."""
        self.calls.append("freeze")

    def unfreeze(self) -> None:
        """Note the call."""
        self.calls.append("unfreeze")

    def collect(self) -> int:
        """Note the call, let time pass, and say that seven objects were found."""
        self.calls.append("collect")
        self.clock.rightNow += self.seconds
        return 7


class GarbageServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a service."""
        self.clock = Clock()
        self.collector = FakeCollector(self.clock)
        self.service = GarbageService(
            self.clock, self.collector, lambda: self.collector.calls.append("trim")
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def test_start(self) -> None:
        """At the start, garbage is collected, and all other objects are frozen."""
        self.assertEqual(self.collector.calls, ["collect", "freeze"])

    def test_thresholds(self) -> None:
        """Python collects young objects only, as their number grows."""
        young, *older = self.collector.thresholds
        self.assertEqual(young, YOUNG)
        self.assertGreater(min(older), 1_000_000)

    def test_interval(self) -> None:
        """A full collection runs once a minute, and nothing happens in between."""
        self.collector.calls.clear()
        self.clock.advance(59)
        self.assertEqual(self.collector.calls, [])
        self.clock.advance(1)
        self.assertEqual(self.collector.calls, ["collect", "trim"])
        self.clock.advance(59)
        self.assertEqual(self.collector.calls, ["collect", "trim"])
        self.clock.advance(1)
        self.assertEqual(self.collector.calls, ["collect", "trim"] * 2)

    def test_log(self) -> None:
        """A debug line says what a collection found, and how long it stopped the process."""
        self.collector.seconds = 0.25
        with capturedLogs() as events:
            self.clock.advance(60)
        [event] = events
        self.assertEqual((event["event"], event["log_level"]), ("garbage", LogLevel.debug))
        self.assertEqual(
            formatEvent(event), "garbage collection found 7 unreachable objects in 0.250 s"
        )

    def test_stop(self) -> None:
        """A stop restores the thresholds, unfreezes all objects, and leaves no timer."""
        self.collector.calls.clear()
        self.service.stopService()
        self.assertEqual(self.collector.calls, ["unfreeze"])
        self.assertEqual(self.collector.thresholds, (1, 2, 3))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_started(self) -> None:
        """A service that was never started changes nothing when it is stopped."""
        collector = FakeCollector(self.clock)
        GarbageService(self.clock, collector).stopService()
        self.assertEqual(collector.calls, [])

    def test_trim(self) -> None:
        """Memory is given back where the C library can do that."""
        for library in (CDLL(None), object()):
            self.patch(garbage, "CDLL", lambda name, library=library: library)
            find_trim()()

    def test_python(self) -> None:
        """With Python's own collector, a reference cycle is found after a minute."""
        service = GarbageService(self.clock)
        before = gc.get_threshold()
        service.startService()
        self.addCleanup(gc.freeze)  # As tests/conftest.py does.
        self.addCleanup(service.stopService)
        self.assertGreater(gc.get_freeze_count(), 0)
        circle: list[object] = []
        circle.append(circle)
        del circle
        with capturedLogs() as events:
            self.clock.advance(60)
        self.assertGreater(max(event["found"] for event in events), 0)
        service.stopService()
        self.assertEqual((gc.get_threshold(), gc.get_freeze_count()), (before, 0))


class ReferenceCycleTests(SynchronousTestCase):
    """A connection that has ended leaves no reference cycle."""

    loop = "twisted"

    def setUp(self) -> None:
        """Serve a view of each kind."""

        @accept_websocket
        async def echo(request: Request) -> str | None:
            if not request.is_websocket():
                return "plain"
            async for message in request.websocket:
                request.websocket.send(message)
            return None

        @accept_websocket
        async def push(request: Request) -> None:
            async for number in PushSchedule(request.clock, count=None, interval=1):
                request.websocket.send(str(number))

        @accept_websocket
        async def clean_up(request: Request) -> None:
            request.websocket.accept()
            with contextlib.suppress(CancelledError, asyncio.CancelledError):
                await deferLater(request.clock, 10)

        @accept_websocket
        async def fail(request: Request) -> None:
            await request.websocket.wait()
            raise ZeroDivisionError

        @accept_websocket
        def fail_at_once(request: Request) -> Deferred[None]:
            raise ZeroDivisionError

        views = {"/echo/": echo, "/push/": push, "/clean/": clean_up, "/fail/": fail}
        self.daemon = Daemon({**views, "/at-once/": fail_at_once}, loop=self.loop)
        if Failure.cleanFailure.__module__.startswith("pytest_twisted"):
            # pytest-twisted makes failures keep their tracebacks for pytest.
            self.patch(Failure, "cleanFailure", forget_traceback)
        self.addCleanup(self.daemon.stop)

    def count_garbage(self, *pieces: bytes | Callable[[], bytes], data: str = "") -> int:
        """Return how many objects a connection that has ended leaves to the collector.

        :param pieces: are received one after the other; what makes one is called before that.
        :param data: is published before it ends.
        """

        def visit() -> None:
            server = SocketConnection(self.daemon)
            for piece in pieces:
                server.receive(piece if isinstance(piece, bytes) else piece())
                self.daemon.settle()
            if data:
                self.publish(data)
            if server.connected:
                server.connectionLost(Failure(ConnectionDone()))

        gc.disable()
        self.addCleanup(gc.enable)
        found = []
        # Caches and other tests leave garbage once; a leak is found in every round.
        for _ in range(3):
            visit()
            found.append(gc.collect())
        return min(found)

    def test_websocket(self) -> None:
        """A WebSocket closed by its client leaves no garbage."""
        pieces = handshake("/echo/"), frame(TEXT, b"x"), close_frame(1000)
        self.assertEqual(self.count_garbage(*pieces), 0)

    def test_subscriber(self) -> None:
        """A subscriber leaves no garbage, whether it closes or its connection is lost."""
        self.assertEqual(self.count_garbage(handshake("/topics/a"), close_frame(1000)), 0)
        self.assertEqual(self.count_garbage(handshake("/topics/a")), 0)

    def test_views(self) -> None:
        """Views that are cancelled, or fail, leave no garbage."""
        for path in ("/push/", "/clean/"):
            self.assertEqual(self.count_garbage(handshake(path)), 0, path)
        pieces = handshake("/fail/"), frame(TEXT, b"x"), close_frame(1011)
        self.assertEqual(self.count_garbage(*pieces), 0)
        self.assertEqual(self.count_garbage(handshake("/at-once/")), 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 6)

    def test_pipelined(self) -> None:
        """Pipelined requests, and a handshake behind a request, leave no garbage."""
        head = request("GET /echo/ HTTP/1.1", "Host: localhost")
        self.assertEqual(self.count_garbage(head + head), 0)
        pieces = head + handshake("/echo/"), close_frame(1000)
        self.assertEqual(self.count_garbage(*pieces), 0)

    def test_event_stream(self) -> None:
        """An event stream leaves no garbage, with publications that it did not read, either."""
        head = request("GET /topics/a HTTP/1.1", "Host: localhost", "Accept: text/event-stream")
        self.assertEqual(self.count_garbage(head), 0)
        self.assertEqual(self.count_garbage(head, data="x" * 100_000), 0)

    def test_long_poll(self) -> None:
        """A long poll leaves no garbage, whether it is answered or its connection is lost."""
        head = request("GET /topics/a HTTP/1.1", "Host: localhost")
        self.assertEqual(self.count_garbage(head), 0)
        self.assertEqual(self.count_garbage(head, data="x"), 0)
        self.assertEqual(self.count_garbage(head.replace(b"/a ", b"/a?wait=0 ")), 0)

    def test_cut_off(self) -> None:
        """What a subscriber has not read is freed when it is cut off, without the collector."""
        gc.disable()
        self.addCleanup(gc.enable)
        stream = request("GET /topics/a HTTP/1.1", "Host: localhost", "Accept: text/event-stream")
        for head, timeouts in ((handshake("/topics/a"), [10, 5]), (stream, [10])):
            server = SocketConnection(self.daemon)
            server.receive(head)
            self.daemon.settle()
            server.fake_socket.room = 0
            for _ in range(12):
                self.publish("x" * 100_000)
            self.assertGreater(unsent(server), 1_000_000)
            self.daemon.advance(*timeouts, 0)
            self.assertFalse(server.connected)
            freed = weakref.ref(server)
            del server
            self.assertIsNone(freed())

    def publish(self, data: str) -> None:
        """Publish to the topic of these tests."""
        # Not over a connection, whose end in memory would leave garbage itself.
        self.daemon._service._broker.publish("a", data)
        self.daemon.settle()

    def test_repeated_poll(self) -> None:
        """A client that polls again and again leaves no garbage, wherever it ends."""

        def poll() -> bytes:
            line = f"GET /topics/a?after={self.daemon.last_id('a')} HTTP/1.1"
            return request(line, "Host: localhost")

        def poll_again() -> bytes:
            self.publish("x")
            return poll()

        self.assertEqual(self.count_garbage(poll, poll_again, poll_again), 0)
        self.assertEqual(self.count_garbage(poll, poll_again, data="x"), 0)
        self.assertEqual(self.count_garbage(poll, poll_again, b"GET", data="x"), 0)

    def test_page(self) -> None:
        """A plain request leaves no garbage."""
        head = request("GET /echo/ HTTP/1.1", "Host: localhost", "Connection: close")
        self.assertEqual(self.count_garbage(head), 0)


class ReferenceCycleOnAsyncioTests(ReferenceCycleTests):
    """Nor does one on asyncio's event loop."""

    loop = "asyncio"


def forget_traceback(failure: Failure) -> None:
    """Drop a failure's traceback, as Twisted's own ``cleanFailure`` does."""
    failure.tb = None
    assert failure.value is not None
    failure.value.__traceback__ = None
