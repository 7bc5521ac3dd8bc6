"""When Python looks for garbage."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.garbage import INTERVAL, THRESHOLDS, GarbageService
from pushd.testing import Daemon
from pushd.views import Request, accept_websocket
from tests.peer import TEXT, close_frame, frame, handshake, request
from tests.test_work import Server


class GarbageTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a service that has begun, and end it."""
        self.before = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *self.before)
        self.addCleanup(gc.unfreeze)
        self.clock = Clock()
        self.service = GarbageService(self.clock)
        self.service.startService()

    def test_set_aside(self) -> None:
        """What is there at the start is not looked at again."""
        self.assertGreater(gc.get_freeze_count(), 0)
        self.assertEqual(gc.get_threshold(), THRESHOLDS)

    def test_interval(self) -> None:
        """All is looked at once in a while, and it is said at debug level what that took."""
        events: list[LogEvent] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        circle: list[object] = []
        circle.append(circle)
        del circle
        times = gc.get_stats()[2]["collections"]
        self.clock.advance(INTERVAL - 1)
        self.assertEqual(gc.get_stats()[2]["collections"], times)
        self.clock.advance(1)
        self.assertEqual(gc.get_stats()[2]["collections"], times + 1)
        [event] = [event for event in events if event.get("event") == "garbage"]
        self.assertEqual(event["log_level"], LogLevel.debug)
        self.assertGreater(event["found"], 0)
        self.clock.advance(INTERVAL)
        self.assertEqual(gc.get_stats()[2]["collections"], times + 2)

    def test_stop(self) -> None:
        """At the end the collector is as it was."""
        self.service.stopService()
        self.assertEqual(gc.get_freeze_count(), 0)
        self.assertEqual(gc.get_threshold(), self.before)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_started(self) -> None:
        """What has not begun has nothing to end."""
        self.service.stopService()
        service = GarbageService(self.clock)
        service.stopService()
        self.assertEqual(gc.get_threshold(), self.before)


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

        self.daemon = Daemon({"/echo/": echo})
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

        visit()  # What is made once is not of interest.
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        visit()
        return gc.collect()

    def test_websocket(self) -> None:
        """A WebSocket that was closed by its client is gone with it."""
        pieces = handshake("/echo/"), frame(TEXT, b"x"), close_frame(1000)
        self.assertEqual(self.count_garbage(*pieces), 0)

    def test_subscriber(self) -> None:
        """A subscriber is, too, and so is one whose connection breaks off."""
        self.assertEqual(self.count_garbage(handshake("/topics/a"), close_frame(1000)), 0)
        self.assertEqual(self.count_garbage(handshake("/topics/a")), 0)

    def test_page(self) -> None:
        """A plain request is, too."""
        head = request("GET /echo/ HTTP/1.1", "Host: localhost", "Connection: close")
        self.assertEqual(self.count_garbage(head), 0)
