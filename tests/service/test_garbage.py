"""When Python looks for garbage."""

from __future__ import annotations

import contextlib
import gc

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.ticks import PushSchedule
from pushd.service.garbage import YOUNG, GarbageService, peak_memory
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket
from tests.kernel import Server
from tests.peer import TEXT, close_frame, frame, handshake, request


class Collector:
    """A garbage collector that notes what it is asked for, and takes its time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[str] = []
        self.thresholds = (1, 2, 3)
        self.takes = 0.0

    def get_threshold(self) -> tuple[int, int, int]:
        """What was set."""
        return self.thresholds

    def set_threshold(self, *thresholds: int) -> None:
        """Set when to look at which."""
        first, second, third = thresholds
        self.thresholds = first, second, third

    def freeze(self) -> None:
        """Set all aside."""
        self.asked.append("freeze")

    def unfreeze(self) -> None:
        """Have them back."""
        self.asked.append("unfreeze")

    def collect(self) -> int:
        """Look at all."""
        self.asked.append("collect")
        self.clock.rightNow += self.takes
        return 7


LOOK = ["unfreeze", "collect", "freeze"]


class GarbageTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a service that has begun."""
        self.clock = Clock()
        self.collector = Collector(self.clock)
        self.size = 100_000
        self.service = self.make_service()
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def make_service(self) -> GarbageService:
        """Make one, in a process of which we say how large it is."""
        return GarbageService(self.clock, self.collector, lambda: self.size)

    def count_looks(self, seconds: int) -> int:
        """How often all are looked at in some seconds."""
        self.collector.asked.clear()
        for _ in range(seconds):
            self.clock.advance(1)
        return self.collector.asked.count("collect")

    def test_start(self) -> None:
        """What is there at the start is looked at once, and set aside."""
        self.assertEqual(self.collector.asked, LOOK)
        self.assertEqual(self.collector.thresholds[0], YOUNG)
        self.assertGreater(min(self.collector.thresholds[1:]), 1_000_000)

    def test_pause(self) -> None:
        """In between nobody is kept waiting: the young are Python's to look at, by their number."""
        self.assertEqual(self.count_looks(5), 0)
        self.assertEqual(self.collector.asked, [])

    def test_interval(self) -> None:
        """All are looked at once in a minute."""
        self.assertEqual(self.count_looks(59), 0)
        self.assertEqual(self.count_looks(1), 1)
        self.assertEqual(self.collector.asked, LOOK)
        self.assertEqual(self.count_looks(60), 1)

    def test_share(self) -> None:
        """Where that takes long it is done more seldom: a thousandth of the time is enough."""
        self.collector.takes = 0.5
        self.assertEqual(self.count_looks(60), 1)
        self.assertEqual(self.count_looks(499), 0)
        self.collector.takes = 0.9
        self.assertEqual(self.count_looks(1), 1)
        self.assertEqual(self.count_looks(599), 0)
        self.assertEqual(self.count_looks(1), 1)

    def test_growth(self) -> None:
        """Where the process grows much it is done at once, as that may be with garbage."""
        self.size = 164_000
        self.assertEqual(self.count_looks(2), 0)
        self.size = 166_000
        self.assertEqual(self.count_looks(2), 1)
        self.size = 1_000_000
        self.assertEqual(self.count_looks(2), 1)
        self.size = 1_240_000
        self.assertEqual(self.count_looks(2), 0)
        self.size = 1_260_000
        self.assertEqual(self.count_looks(2), 1)

    def test_log(self) -> None:
        """It is said at debug level what there was, and how long all had to wait for it."""
        with capturedLogs() as events:
            self.count_looks(60)
        [event] = events
        self.assertEqual((event["event"], event["log_level"]), ("garbage", LogLevel.debug))
        self.assertEqual(formatEvent(event), "found 7 objects of garbage in 0.000 s")

    def test_stop(self) -> None:
        """At the end the collector is as it was."""
        self.collector.asked.clear()
        self.service.stopService()
        self.assertEqual(self.collector.asked, ["unfreeze"])
        self.assertEqual(self.collector.thresholds, (1, 2, 3))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_two(self) -> None:
        """The last of two leaves it as the first has found it, in whatever order they end."""
        second = self.make_service()
        second.startService()
        self.service.stopService()
        self.assertEqual(self.collector.thresholds[0], YOUNG)
        second.stopService()
        self.assertEqual(self.collector.thresholds, (1, 2, 3))

    def test_never_started(self) -> None:
        """What has not begun has nothing to end."""
        collector = Collector(self.clock)
        GarbageService(self.clock, collector).stopService()
        self.assertEqual(collector.asked, [])

    def test_python(self) -> None:
        """Python's own collector does all that, and finds a circle."""
        service = GarbageService(self.clock)
        before = gc.get_threshold()
        service.startService()
        self.addCleanup(service.stopService)
        self.assertGreater(gc.get_freeze_count(), 0)
        circle: list[object] = []
        circle.append(circle)
        del circle
        with capturedLogs() as events:
            self.count_looks(60)
        self.assertGreater(max(event["found"] for event in events), 0)
        service.stopService()
        self.assertEqual((gc.get_threshold(), gc.get_freeze_count()), (before, 0))

    def test_peak(self) -> None:
        """A process knows how large it has been."""
        self.assertGreater(peak_memory(), 10_000)


class CirclesTests(SynchronousTestCase):
    """Connections that have ended leave nothing to the garbage collector."""

    def setUp(self) -> None:
        """Have a view of each kind, and no garbage."""

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
            with contextlib.suppress(CancelledError):
                await deferLater(request.clock, 10)

        @accept_websocket
        async def fail(request: Request) -> None:
            await request.websocket.wait()
            raise ZeroDivisionError

        @accept_websocket
        def fail_at_once(request: Request) -> Deferred[None]:
            raise ZeroDivisionError

        views = {"/echo/": echo, "/push/": push, "/clean/": clean_up, "/fail/": fail}
        self.daemon = Daemon({**views, "/at-once/": fail_at_once})
        if Failure.cleanFailure.__module__.startswith("pytest_twisted"):
            # It has failures keep all that pytest may want to show.
            self.patch(Failure, "cleanFailure", forget_traceback)
        self.addCleanup(self.daemon.stop)

    def count_garbage(self, *pieces: bytes) -> int:
        """How many objects are left to be found when a connection has come and gone."""

        def visit() -> None:
            server = Server(self.daemon)
            for piece in pieces:
                server.receive(piece)
                self.daemon.settle()
            if server.connected:
                server.connectionLost(Failure(ConnectionDone()))

        gc.disable()
        self.addCleanup(gc.enable)
        found = []
        # What is made once, or left by others, is found once; what a connection leaves, each time.
        for _ in range(3):
            visit()
            found.append(gc.collect())
        return min(found)

    def test_websocket(self) -> None:
        """A WebSocket that was closed by its client is gone with it."""
        pieces = handshake("/echo/"), frame(TEXT, b"x"), close_frame(1000)
        self.assertEqual(self.count_garbage(*pieces), 0)

    def test_subscriber(self) -> None:
        """A subscriber is, too, and so is one whose connection breaks off."""
        self.assertEqual(self.count_garbage(handshake("/topics/a"), close_frame(1000)), 0)
        self.assertEqual(self.count_garbage(handshake("/topics/a")), 0)

    def test_views(self) -> None:
        """Views that are cancelled where they wait, or fail, leave nothing behind, too."""
        for path in ("/push/", "/clean/"):
            self.assertEqual(self.count_garbage(handshake(path)), 0, path)
        pieces = handshake("/fail/"), frame(TEXT, b"x"), close_frame(1011)
        self.assertEqual(self.count_garbage(*pieces), 0)
        self.assertEqual(self.count_garbage(handshake("/at-once/")), 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 6)

    def test_pipelined(self) -> None:
        """Requests in one piece, and a handshake behind one, leave nothing either."""
        head = request("GET /echo/ HTTP/1.1", "Host: localhost")
        self.assertEqual(self.count_garbage(head + head), 0)
        pieces = head + handshake("/echo/"), close_frame(1000)
        self.assertEqual(self.count_garbage(*pieces), 0)

    def test_page(self) -> None:
        """A plain request is, too."""
        head = request("GET /echo/ HTTP/1.1", "Host: localhost", "Connection: close")
        self.assertEqual(self.count_garbage(head), 0)


def forget_traceback(failure: Failure) -> None:
    """Let go of what a failure's traceback holds, as Twisted's own ``cleanFailure`` does."""
    failure.tb = None
    assert failure.value is not None
    failure.value.__traceback__ = None
