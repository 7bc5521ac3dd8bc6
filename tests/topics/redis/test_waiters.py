"""Coroutines that wait for Redis: woken, failed, timed out or cancelled."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import Unavailable
from pushd.topics.redis.waiters import MAX_WAIT, Waiters, make_timeouts


class WaitersTests(SynchronousTestCase):
    """Several coroutines that wait for the same thing."""

    def setUp(self) -> None:
        """Make Waiters while Redis is unavailable."""
        self.clock = Clock()
        self.fault: str | None = "no route"
        self.waiters = Waiters(make_timeouts(self.clock, lambda: self.fault))

    def wait(self) -> Deferred[None]:
        """Start a coroutine that waits."""
        return Deferred.fromCoroutine(self.waiters.wait(self.clock.seconds() + MAX_WAIT))

    def assert_nothing_left(self) -> None:
        """Check that no coroutine and no timer is left."""
        self.assertEqual((len(self.waiters), self.clock.getDelayedCalls()), (0, []))

    def test_wake(self) -> None:
        """All continue in the order in which they came; one that comes meanwhile waits."""
        woken: list[int] = []
        for number in range(3):
            self.wait().addCallback(lambda _, one: woken.append(one), number)
        again: list[Deferred[None]] = []
        self.wait().addCallback(lambda _: again.append(self.wait()))
        self.waiters.wake()
        self.assertEqual(woken, [0, 1, 2])
        self.assertNoResult(again[0])
        self.waiters.wake()
        self.successResultOf(again[0])
        self.assert_nothing_left()

    def test_fail_while_waking(self) -> None:
        """One that continues may make the others fail, as when it was a topic's last subscriber."""
        for end in (self.waiters.wake, partial(self.waiters.fail, "all")):
            first, second = self.wait(), self.wait()
            first.addBoth(lambda _: self.waiters.fail("by the first"))
            end()
            self.successResultOf(first)
            error = self.failureResultOf(second, Unavailable).value
            self.assertEqual(str(error), "by the first")
            self.assert_nothing_left()

    def test_timeout(self) -> None:
        """Each fails after 30 seconds with the current fault, or says how long it took."""
        first = self.wait()
        self.clock.advance(10)
        second = self.wait()
        self.clock.advance(20)
        self.assertEqual(str(self.failureResultOf(first, Unavailable).value), "no route")
        self.assertNoResult(second)
        self.fault = None
        self.clock.advance(10)
        error = self.failureResultOf(second, Unavailable).value
        self.assertEqual(str(error), "Redis took more than 30 seconds")
        self.assert_nothing_left()

    def test_again(self) -> None:
        """One that waits again has only what is left of its time."""
        Deferred.fromCoroutine(self.waiters.wait(30))
        self.clock.advance(20)
        later = self.wait()
        self.waiters.wake()
        self.successResultOf(later)
        again, other = Deferred.fromCoroutine(self.waiters.wait(30)), self.wait()
        self.clock.advance(9)
        self.assertNoResult(again)
        self.clock.advance(1)
        self.failureResultOf(again, Unavailable)
        self.assertNoResult(other)
        self.waiters.wake()
        self.assert_nothing_left()

    def test_fail(self) -> None:
        """All fail with the given reason."""
        waiting = [self.wait() for _ in range(2)]
        self.waiters.fail("over")
        for one in waiting:
            self.assertEqual(str(self.failureResultOf(one, Unavailable).value), "over")
        self.assert_nothing_left()

    def test_cancel(self) -> None:
        """A coroutine that is cancelled waits no more."""
        waiting = self.wait()
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.assert_nothing_left()
