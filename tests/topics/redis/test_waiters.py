"""Waiting for Redis: who is woken, who is sent away, and what they are told."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import Unavailable
from pushd.topics.redis.followed_topic import Patience, Waiters, wake


class PatienceTests(SynchronousTestCase):
    """Some who wait for the same."""

    def setUp(self) -> None:
        """Let there be a fault."""
        self.clock = Clock()
        self.fault: str | None = "no route"
        self.patience = Patience(self.clock, lambda: self.fault)
        self.waiters: Waiters = {}

    def wait(self) -> Deferred[None]:
        """Be one of them."""
        return Deferred.fromCoroutine(self.patience.wait(self.waiters))

    def assert_nothing_left(self) -> None:
        """Check that nobody waits, and no timer."""
        self.assertEqual((self.waiters, self.clock.getDelayedCalls()), ({}, []))

    def test_woken(self) -> None:
        """All are woken, in the order in which they came; who comes then, waits again."""
        woken: list[int] = []
        for number in range(3):
            self.wait().addCallback(lambda _, one: woken.append(one), number)
        again: list[Deferred[None]] = []
        self.wait().addCallback(lambda _: again.append(self.wait()))
        wake(self.waiters)
        self.assertEqual(woken, [0, 1, 2])
        self.assertNoResult(again[0])
        wake(self.waiters)
        self.successResultOf(again[0])
        self.assert_nothing_left()

    def test_late(self) -> None:
        """Each waits for half a minute, and is told what is wrong then."""
        first = self.wait()
        self.clock.advance(10)
        second = self.wait()
        self.clock.advance(20)
        self.assertEqual(str(self.failureResultOf(first, Unavailable).value), "no route")
        self.assertNoResult(second)
        self.fault = None
        self.clock.advance(10)
        error = self.failureResultOf(second, Unavailable).value
        self.assertEqual(str(error), "nobody waits for it any more")
        self.assert_nothing_left()

    def test_sent_away(self) -> None:
        """So are all who are sent away."""
        waiting = [self.wait() for _ in range(2)]
        self.patience.send_away(self.waiters)
        for one in waiting:
            self.assertEqual(str(self.failureResultOf(one, Unavailable).value), "no route")
        self.assert_nothing_left()

    def test_leaves(self) -> None:
        """Who does not want to wait any more leaves nothing behind."""
        waiting = self.wait()
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.assert_nothing_left()
