"""One session after the other: begun, lost, tried again, left, ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisMisconfigured, RedisUnavailable
from pushd.topics.redis.reconnect import Reconnector


class Session:
    """A session that can be ended."""

    ended = False

    def end(self) -> None:
        """Note it."""
        self.ended = True


class LinkTests(SynchronousTestCase):
    """A link, and whatever it is told when it wants a session."""

    def setUp(self) -> None:
        """Note what it tells."""
        self.clock = MemoryReactorClock()
        self.answer: Callable[[], Deferred[Any]] = lambda: succeed(Session())
        self.events: list[Any] = []
        self.times: list[float] = []
        self.lose: Callable[[str], object] = lambda reason: None
        self.link = Reconnector(
            self.clock,
            self.open,
            name="it",
            opened=self.events.append,
            closed=lambda: self.events.append("closed"),
        )

    def open(self, lost: Callable[[str], object]) -> Deferred[Any]:
        """Open a session, or not."""
        self.lose = lost
        self.times.append(self.clock.seconds())
        return self.answer()

    def start(self) -> None:
        """Begin: the reactor runs."""
        self.link.start()
        self.assertEqual(self.events, [])
        for begin, args, arguments in self.clock.whenRunningHooks:
            begin(*args, **arguments)

    def test_open(self) -> None:
        """Once there is a session, there is no fault."""
        self.assertEqual(self.link.fault(), "Redis at it: it has not answered yet")
        self.start()
        self.assertEqual(self.events, [self.link.session])
        self.assertIsNone(self.link.fault())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """A session that is lost is followed by another."""
        self.start()
        first = self.link.session
        self.lose("cut")
        self.assertEqual(self.events, [first, "closed"])
        self.assertEqual((self.link.session, self.link.fault()), (None, "Redis at it: cut"))
        # A tenth of a second, and up to one that chance adds.
        self.clock.advance(1.2)
        self.assertEqual(self.events[2:], [self.link.session])
        self.assertIsNot(self.link.session, first)

    def test_backoff(self) -> None:
        """It tries again soon, then less and less often, at least every some seconds."""
        self.answer = lambda: fail(RedisUnavailable("no route"))
        self.start()
        for _ in range(6000):
            self.clock.advance(0.01)
        waits = [later - sooner for sooner, later in zip(self.times, self.times[1:], strict=False)]
        self.assertLess(waits[0], 1.2)
        self.assertLess(max(waits), 7)
        self.assertGreater(waits[-1], 3)
        self.link.stop()

    def test_says_what_is_new(self) -> None:
        """The log has each reason once, not once for each attempt."""
        self.answer = lambda: fail(RedisUnavailable("no route"))
        with capturedLogs() as events:
            self.start()
            self.clock.pump([10] * 5)
            self.answer = lambda: fail(RedisMisconfigured("wrong password"))
            self.clock.pump([10] * 5)
            self.answer = lambda: succeed(Session())
            self.clock.advance(10)
        said = [event.get("reason", "answers") for event in events]
        self.assertEqual(said, ["no route", "wrong password", "answers"])

    def test_leave(self) -> None:
        """A session that is of no use is ended and followed by another; one that is over is not."""
        self.start()
        session: Any = self.link.session
        for _ in range(2):
            self.link.leave(session, "a replica")
        self.assertTrue(session.ended)
        self.assertEqual(self.events, [session, "closed"])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.link.stop()

    def test_trouble_of_our_own(self) -> None:
        """What nobody has thought of is logged, and tried again."""
        self.answer = lambda: fail(KeyError("oh"))
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.link.stop()

    def test_stop(self) -> None:
        """At any time it can be stopped, and leaves nothing."""
        self.link.stop()
        self.events.clear()
        self.start()
        self.assertEqual((self.times, self.events), ([], []))
        for answer in (lambda: succeed(Session()), lambda: fail(RedisUnavailable("no")), Deferred):
            self.setUp()
            self.answer = answer
            self.start()
            session: Any = self.link.session
            self.link.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertEqual(self.events[-1], "closed")
            self.assertEqual(self.link.fault(), "Redis at it: the daemon stops")
            if session is not None:
                self.assertTrue(session.ended)
