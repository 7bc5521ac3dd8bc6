"""How much is enough: token buckets, and places that are taken and given back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits, Quota, TokenBucket
from tests.unhurried import UNHURRIED


class LimitsTests(SynchronousTestCase):
    """The limits that every part of a daemon reads."""

    def test_change(self) -> None:
        """A change takes over every value, and is told to what asked for it after that."""
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
        """What listens to one object is not called for a change of another, or of a copy."""
        limits, calls = Limits(), list[int]()
        limits.on_change(lambda: calls.append(1))
        Limits().change_to(limits)
        replace(limits).change_to(Limits())
        self.assertEqual(calls, [])


class TokenBucketTests(SynchronousTestCase):
    """A bucket for two a second, and ten at once."""

    def setUp(self) -> None:
        """Fill the bucket."""
        self.clock = Clock()
        self.bucket = TokenBucket(rate=2, burst=10, now=self.clock.seconds)

    def take_all(self) -> int:
        """Take until there is none left."""
        taken = 0
        while self.bucket.take():
            taken += 1
        return taken

    def test_burst(self) -> None:
        """Ten go at once, and then none."""
        self.assertEqual(self.take_all(), 10)
        self.assertFalse(self.bucket.take())

    def test_rate(self) -> None:
        """An empty bucket gives two a second, one by one."""
        self.take_all()
        for _ in range(20):
            self.clock.advance(0.25)
            self.assertFalse(self.bucket.take())
            self.clock.advance(0.25)
            self.assertEqual(self.take_all(), 1)

    def test_refusals_cost_nothing(self) -> None:
        """Who asks too often gets no less for it."""
        self.take_all()
        for _ in range(8):
            self.clock.advance(0.0625)
            self.bucket.take()
        self.clock.advance(0.5)
        self.assertEqual(self.take_all(), 1)

    def test_pause(self) -> None:
        """A pause fills the bucket, and no pause more than fills it."""
        self.take_all()
        self.clock.advance(3)
        self.assertEqual(self.take_all(), 6)
        self.clock.advance(1_000_000)
        self.assertEqual(self.take_all(), 10)

    def test_pause_before_the_first(self) -> None:
        """Time that passes while the bucket is full is not saved up."""
        self.clock.advance(100)
        self.assertEqual(self.take_all(), 10)

    def test_change(self) -> None:
        """Other numbers count from now on; what is in the bucket stays, if there is room."""
        self.bucket.change(rate=4, burst=20)
        self.assertEqual(self.take_all(), 10)
        self.clock.advance(1)
        self.bucket.change(rate=100, burst=3)
        self.assertEqual(self.take_all(), 3)
        self.clock.advance(1)
        self.assertEqual(self.take_all(), 3)

    def test_clock_set_back(self) -> None:
        """A clock that is set back takes nothing away, and goes on from there."""
        self.take_all()
        self.clock.rightNow = -3600
        self.assertFalse(self.bucket.take())
        self.clock.advance(1)
        self.assertEqual(self.take_all(), 2)

    def test_never_more(self) -> None:
        """However it is asked, in no stretch of time it gives more than the burst and the rate."""

        @UNHURRIED
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


class PlacesTests(SynchronousTestCase):
    """Two places for each key."""

    def setUp(self) -> None:
        """Start with all places free."""
        self.places = Quota()

    def test_limit(self) -> None:
        """Each key has two places, whatever the others take."""
        self.assertEqual([self.places.take("a", 2) for _ in range(4)], [True, True, False, False])
        self.assertEqual([self.places.take("b", 2) for _ in range(3)], [True, True, False])

    def test_leave(self) -> None:
        """A place that is given back can be taken again."""
        self.places.take("a", 2)
        self.places.take("a", 2)
        self.places.release("a")
        self.assertEqual([self.places.take("a", 2) for _ in range(2)], [True, False])

    def test_no_memory(self) -> None:
        """A key is forgotten once it has no place left, and one that was refused is not kept."""
        for _ in range(3):
            self.places.take("a", 2)
        self.assertEqual(len(self.places), 1)
        self.places.release("a")
        self.assertEqual(len(self.places), 1)
        self.places.release("a")
        self.assertEqual(len(self.places), 0)
        self.assertFalse(Quota().take("a", 0))
        self.assertEqual(len(self.places), 0)

    def test_stranger(self) -> None:
        """Who leaves without having been here makes no room for others."""
        self.places.release("a")
        self.assertEqual(len(self.places), 0)
        self.assertEqual([self.places.take("a", 2) for _ in range(3)], [True, True, False])
