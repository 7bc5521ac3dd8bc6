"""Tests of Limits, TokenBucket and Quota."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits, Quota, TokenBucket
from tests.support.hypothesis_settings import NO_DEADLINE


class LimitsTests(SynchronousTestCase):
    """Limits can be changed in place."""

    def test_change(self) -> None:
        """``change_to`` copies every value, then calls the listeners."""
        limits, seen = Limits(max_message=1), list[Limits]()
        limits.on_change(lambda: seen.append(replace(limits)))
        new = Limits(
            max_message=2,
            max_buffered=3,
            max_rate=4,
            compression=False,
            max_connections=5,
            max_per_address=6,
            drain=7,
        )
        limits.change_to(new)
        self.assertEqual(limits, new)
        self.assertEqual(seen, [new])

    def test_no_listener(self) -> None:
        """A listener is not called if another object, or a copy, changes."""
        limits, calls = Limits(), list[int]()
        limits.on_change(lambda: calls.append(1))
        Limits().change_to(limits)
        replace(limits).change_to(Limits())
        self.assertEqual(calls, [])


class TokenBucketTests(SynchronousTestCase):
    """A bucket with a rate of two per second and a burst of ten."""

    def setUp(self) -> None:
        """Fill the bucket."""
        self.clock = Clock()
        self.bucket = TokenBucket(rate=2, burst=10, now=self.clock.seconds)

    def take_all(self) -> int:
        """Take tokens until none is left; return how many there were."""
        taken = 0
        while self.bucket.take():
            taken += 1
        return taken

    def test_burst(self) -> None:
        """A full bucket gives ten tokens, and then none."""
        self.assertEqual(self.take_all(), 10)
        self.assertFalse(self.bucket.take())

    def test_rate(self) -> None:
        """An empty bucket gives two tokens per second, one by one."""
        self.take_all()
        for _ in range(20):
            self.clock.advance(0.25)
            self.assertFalse(self.bucket.take())
            self.clock.advance(0.25)
            self.assertEqual(self.take_all(), 1)

    def test_refusals_cost_nothing(self) -> None:
        """Attempts in vain do not delay the next token."""
        self.take_all()
        for _ in range(8):
            self.clock.advance(0.0625)
            self.bucket.take()
        self.clock.advance(0.5)
        self.assertEqual(self.take_all(), 1)

    def test_pause(self) -> None:
        """A pause fills the bucket, up to the burst."""
        self.take_all()
        self.clock.advance(3)
        self.assertEqual(self.take_all(), 6)
        self.clock.advance(1_000_000)
        self.assertEqual(self.take_all(), 10)

    def test_pause_while_full(self) -> None:
        """A bucket that is full gets no more tokens."""
        self.clock.advance(100)
        self.assertEqual(self.take_all(), 10)

    def test_change(self) -> None:
        """After a change the new rate and burst apply; tokens are kept up to the new burst."""
        self.bucket.change(rate=4, burst=20)
        self.assertEqual(self.take_all(), 10)
        self.clock.advance(1)
        self.bucket.change(rate=100, burst=3)
        self.assertEqual(self.take_all(), 3)
        self.clock.advance(1)
        self.assertEqual(self.take_all(), 3)

    def test_clock_set_back(self) -> None:
        """If the clock is set back no tokens are lost, and the bucket fills from then on."""
        self.take_all()
        self.clock.rightNow = -3600
        self.assertFalse(self.bucket.take())
        self.clock.advance(1)
        self.assertEqual(self.take_all(), 2)

    def test_property(self) -> None:
        """In no period does a bucket give more than the burst and what the rate allows."""

        @NO_DEADLINE
        @given(st.lists(st.tuples(st.sampled_from([0, 0.25, 0.5, 1, 8]), st.integers(0, 12))))
        def ask(script: list[tuple[float, int]]) -> None:
            clock = Clock()
            bucket = TokenBucket(rate=2, burst=10, now=clock.seconds)
            given_at: list[float] = []
            for pause, times in script:
                clock.advance(pause)
                given_at += [clock.seconds() for _ in range(times) if bucket.take()]
            for first, start in enumerate(given_at):
                for last, end in enumerate(given_at[first:], first):
                    self.assertLessEqual(last - first + 1, 10 + 2 * (end - start))

        ask()


class QuotaTests(SynchronousTestCase):
    """A quota of two for each key."""

    def setUp(self) -> None:
        """Start with nothing taken."""
        self.quota = Quota()

    def test_limit(self) -> None:
        """Each key can take two, whatever other keys have taken."""
        self.assertEqual([self.quota.take("a", 2) for _ in range(4)], [True, True, False, False])
        self.assertEqual([self.quota.take("b", 2) for _ in range(3)], [True, True, False])

    def test_release(self) -> None:
        """What is released can be taken again."""
        self.quota.take("a", 2)
        self.quota.take("a", 2)
        self.quota.release("a")
        self.assertEqual([self.quota.take("a", 2) for _ in range(2)], [True, False])

    def test_no_memory(self) -> None:
        """A key is kept only while it has taken something, and not if it was refused."""
        for _ in range(3):
            self.quota.take("a", 2)
        self.assertEqual(len(self.quota), 1)
        self.quota.release("a")
        self.assertEqual(len(self.quota), 1)
        self.quota.release("a")
        self.assertEqual(len(self.quota), 0)
        self.assertFalse(Quota().take("a", 0))
        self.assertEqual(len(self.quota), 0)

    def test_release_unknown(self) -> None:
        """Releasing for a key that has taken nothing does not raise its limit."""
        self.quota.release("a")
        self.assertEqual(len(self.quota), 0)
        self.assertEqual([self.quota.take("a", 2) for _ in range(3)], [True, True, False])
