"""Many moments on one timer: who expires, when, and what is left."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.timeouts import TimerHeap
from tests.unhurried import UNHURRIED


class ExpiriesTests(SynchronousTestCase):
    """A moment for each key."""

    def setUp(self) -> None:
        """Note who expires, and when."""
        self.clock = Clock()
        self.expired: list[tuple[float, str]] = []
        self.then: Callable[[str], object] = lambda key: None
        self.expiries: TimerHeap[str] = TimerHeap(
            self.clock, now=self.clock.seconds, expired=self.expire
        )

    def expire(self, key: str) -> None:
        """Note it, then do what the test wants of a callback."""
        self.expired.append((self.clock.seconds(), key))
        self.then(key)

    def test_order(self) -> None:
        """Each expires at its own moment, in whatever order they were started."""
        for key, at in (("b", 20), ("a", 10), ("c", 30)):
            self.expiries.start(key, at)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.pump([1] * 40)
        self.assertEqual(self.expired, [(10, "a"), (20, "b"), (30, "c")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_same_moment(self) -> None:
        """At one moment they expire in the order of their start."""
        for key in "bca":
            self.expiries.start(key, 5)
        self.clock.advance(5)
        self.assertEqual([key for _, key in self.expired], ["b", "c", "a"])

    def test_moved(self) -> None:
        """A moment can be moved, both ways; the old one is forgotten."""
        self.expiries.start("a", 10)
        self.expiries.start("a", 20)
        self.expiries.start("b", 20)
        self.expiries.start("b", 5)
        self.clock.pump([1] * 30)
        self.assertEqual(self.expired, [(5, "b"), (20, "a")])

    def test_stopped(self) -> None:
        """A key that is stopped does not expire; without keys no timer is left."""
        self.expiries.start("a", 10)
        self.expiries.start("b", 20)
        self.assertIn("a", self.expiries)
        self.expiries.stop("a")
        self.expiries.stop("never")
        self.assertNotIn("a", self.expiries)
        self.clock.pump([1] * 15)
        self.assertEqual(self.expired, [])
        self.expiries.stop("b")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_past(self) -> None:
        """A moment that has passed already is now, but in a turn of its own."""
        self.clock.advance(100)
        self.expiries.start("a", 1)
        self.assertEqual(self.expired, [])
        self.clock.advance(0)
        self.assertEqual(self.expired, [(100, "a")])

    def test_far(self) -> None:
        """A moment in a far future does not set a timer that no kernel takes."""
        self.expiries.start("a", 1e12)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 60)
        self.clock.advance(60)
        self.assertEqual(self.expired, [])
        self.expiries.stop("a")

    def test_set(self) -> None:
        """When the time of day is set, moments go by that, from the next look on."""
        hours = 0
        expiries: TimerHeap[str] = TimerHeap(
            self.clock, now=lambda: self.clock.seconds() + hours * 3600, expired=self.expire
        )
        expiries.start("a", 7000)
        self.clock.advance(10)
        hours = 2
        self.assertEqual(self.expired, [])
        self.clock.advance(50)
        self.assertEqual(self.expired, [(60, "a")])
        expiries.start("b", 2 * 3600 + 70)
        hours = 1
        self.clock.advance(20)
        self.assertEqual(len(self.expired), 1)
        expiries.stop("b")

    def test_callback_starts_and_stops(self) -> None:
        """A callback may start and stop keys, itself as well."""

        def then(key: str) -> None:
            if key == "a":
                self.expiries.stop("b")
                self.expiries.start("a", 7)
                self.expiries.start("d", 5)
                self.then = lambda key: None

        self.then = then
        for key in "abc":
            self.expiries.start(key, 5)
        self.clock.pump([1] * 10)
        self.assertEqual(self.expired, [(5, "a"), (5, "c"), (5, "d"), (7, "a")])

    def test_failing_callback(self) -> None:
        """A callback that fails does not keep the others from expiring."""

        def then(key: str) -> None:
            if key == "a":
                raise ZeroDivisionError

        self.then = then
        self.expiries.start("a", 5)
        self.expiries.start("b", 5)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 5)
        self.clock.advance(0)
        self.assertEqual(self.expired, [(5, "a"), (5, "b")])

    def test_memory(self) -> None:
        """A key that is moved a thousand times does not fill the heap."""
        for number in range(1000):
            self.expiries.start("a", 1000 - number / 2)
            self.expiries.start("b", 5000 + number)
        self.assertLess(len(self.expiries), 100)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.expiries.stop("a")
        self.expiries.stop("b")
        self.assertEqual((len(self.expiries), self.clock.getDelayedCalls()), (0, []))

    def test_property(self) -> None:
        """Whatever is started, moved and stopped, each expires at its last moment, or never."""

        @UNHURRIED
        @given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 20) | st.none())))
        def check(steps: list[tuple[str, int | None]]) -> None:
            self.clock, self.expired = Clock(), []
            self.expiries = TimerHeap(self.clock, now=self.clock.seconds, expired=self.expire)
            expected: dict[str, int] = {}
            for key, at in steps:
                if at is None:
                    self.expiries.stop(key)
                    expected.pop(key, None)
                else:
                    self.expiries.start(key, at)
                    expected[key] = at
            self.assertEqual(bool(self.clock.getDelayedCalls()), bool(expected))
            self.clock.pump([0] + [1] * 21)
            self.assertEqual(
                sorted(self.expired), sorted((float(at), key) for key, at in expected.items())
            )
            self.assertEqual(self.clock.getDelayedCalls(), [])

        check()
