"""Reconnecting to Redis: sessions are opened, lost, retried, dropped and closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisMisconfigured, RedisUnavailable
from pushd.topics.redis.reconnect import Reconnector


class FakeSession:
    """A session that records that it was closed."""

    closed = False

    def close(self) -> None:
        """Record the call."""
        self.closed = True


class ReconnectorTests(SynchronousTestCase):
    """A Reconnector whose attempts end as a test decides."""

    def setUp(self) -> None:
        """Make a Reconnector, and record what it calls."""
        self.clock = MemoryReactorClock()
        self.answer: Callable[[], Deferred[Any]] = lambda: succeed(FakeSession())
        self.events: list[Any] = []
        self.times: list[float] = []
        self.lose: Callable[[str], object] = lambda reason: None
        self.reconnector = Reconnector(
            self.clock,
            self.open,
            name="it",
            on_open=self.events.append,
            on_close=lambda: self.events.append("closed"),
        )

    def open(self, on_lost: Callable[[str], object]) -> Deferred[Any]:
        """Record an attempt to open a session."""
        self.lose = on_lost
        self.times.append(self.clock.seconds())
        return self.answer()

    def start(self) -> None:
        """Start it, then the reactor."""
        self.reconnector.start()
        self.assertEqual(self.events, [])
        for call, args, arguments in self.clock.whenRunningHooks:
            call(*args, **arguments)

    def test_open(self) -> None:
        """There is a fault until the first session is open."""
        self.assertEqual(self.reconnector.fault(), "Redis at it: not connected yet")
        self.start()
        self.assertEqual(self.events, [self.reconnector.session])
        self.assertIsNone(self.reconnector.fault())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """When a session is lost, another is opened."""
        self.start()
        first = self.reconnector.session
        self.lose("cut")
        self.assertEqual(self.events, [first, "closed"])
        self.assertIsNone(self.reconnector.session)
        self.assertEqual(self.reconnector.fault(), "Redis at it: cut")
        # The delay is 0.1 s and a random part of up to 1 s.
        self.clock.advance(1.2)
        self.assertEqual(self.events[2:], [self.reconnector.session])
        self.assertIsNot(self.reconnector.session, first)

    def test_backoff(self) -> None:
        """The delays between attempts grow from less than 1.2 to at most 7 seconds."""
        self.answer = lambda: fail(RedisUnavailable("no route"))
        self.start()
        for _ in range(6000):
            self.clock.advance(0.01)
        delays = [later - sooner for sooner, later in zip(self.times, self.times[1:], strict=False)]
        self.assertLess(delays[0], 1.2)
        self.assertLess(max(delays), 7)
        self.assertGreater(delays[-1], 3)
        self.reconnector.stop()

    def test_log(self) -> None:
        """Each reason is logged once, not once per attempt."""
        self.answer = lambda: fail(RedisUnavailable("no route"))
        with capturedLogs() as events:
            self.start()
            self.clock.pump([10] * 5)
            self.answer = lambda: fail(RedisMisconfigured("wrong password"))
            self.clock.pump([10] * 5)
            self.answer = lambda: succeed(FakeSession())
            self.clock.advance(10)
        reasons = [event.get("reason", event["event"]) for event in events]
        self.assertEqual(reasons, ["no route", "wrong password", "broker_back"])

    def test_drop(self) -> None:
        """A dropped session is closed and replaced; dropping it again does nothing."""
        self.start()
        session: Any = self.reconnector.session
        for _ in range(2):
            self.reconnector.drop(session, "a replica")
        self.assertTrue(session.closed)
        self.assertEqual(self.events, [session, "closed"])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.reconnector.stop()

    def test_unexpected_exception(self) -> None:
        """An unexpected exception is logged, and the attempt repeated."""
        self.answer = lambda: fail(KeyError("oh"))
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.reconnector.stop()

    def test_stop(self) -> None:
        """It can be stopped in every state, and leaves no timer or session."""
        self.reconnector.stop()
        self.events.clear()
        self.start()
        self.assertEqual((self.times, self.events), ([], []))
        answers: list[Callable[[], Deferred[Any]]] = [
            lambda: succeed(FakeSession()),
            lambda: fail(RedisUnavailable("no")),
            Deferred,
        ]
        for answer in answers:
            self.setUp()
            self.answer = answer
            self.start()
            session: Any = self.reconnector.session
            self.reconnector.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertEqual(self.events[-1], "closed")
            self.assertEqual(self.reconnector.fault(), "Redis at it: the daemon is shutting down")
            if session is not None:
                self.assertTrue(session.closed)
