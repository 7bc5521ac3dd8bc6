"""Tests of TimeoutQueue and TimerHeap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.timeouts import TimeoutQueue, TimerHeap
from tests.support.hypothesis_settings import NO_DEADLINE


def count_in_iterations(clock: Clock, expired: list[Any], at: float) -> list[int]:
    """Advance a clock to a time; return how many had expired at the end of each iteration."""
    numbers: list[int] = []

    def note() -> None:
        if numbers[-1:] != [len(expired)]:
            numbers.append(len(expired))
            clock.callLater(0, note)

    clock.callLater(at, note)
    clock.advance(at)
    return numbers


class TimeoutQueueTests(SynchronousTestCase):
    """TimeoutQueue with timeouts of ten seconds."""

    def setUp(self) -> None:
        """Note each key that expires, and when."""
        self.clock = Clock()
        self.expired: list[tuple[float, str]] = []
        self.then: Callable[[str], object] = lambda key: None
        self.queue: TimeoutQueue[str] = TimeoutQueue(self.clock, timeout=10, expired=self.expire)

    def expire(self, key: str) -> None:
        """Note the key, then do what the test wants done in the callback."""
        self.expired.append((self.clock.seconds(), key))
        self.then(key)

    def test_expires(self) -> None:
        """A key expires once, after its timeout and not before."""
        self.queue.start("a")
        self.clock.advance(9.999)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.001)
        self.assertEqual(self.expired, [(10, "a")])
        self.clock.advance(100)
        self.assertEqual(len(self.expired), 1)

    def test_changed(self) -> None:
        """A changed length applies to timeouts that have begun, in their order."""
        self.queue.change(20)
        self.queue.start("a")
        self.clock.advance(4)
        self.queue.start("b")
        self.queue.change(8)
        self.queue.change(8)
        self.clock.advance(4)
        self.assertEqual(self.expired, [(8, "a")])
        self.queue.change(3)
        self.clock.advance(0)
        self.assertEqual(self.expired, [(8, "a"), (8, "b")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_several(self) -> None:
        """Each key expires ten seconds after its own start."""
        for key in "abc":
            self.queue.start(key)
            self.clock.advance(1)
        self.clock.pump([1] * 12)
        self.assertEqual(self.expired, [(10, "a"), (11, "b"), (12, "c")])

    def test_begun(self) -> None:
        """A key whose timeout has run already expires when the rest of it is over."""
        for key, ago in (("a", 30), ("b", 8), ("c", 0)):
            self.queue.start(key, ago)
        self.clock.pump([0, 1, 1, 8])
        self.assertEqual(self.expired, [(0, "a"), (2, "b"), (10, "c")])

    def test_stopped(self) -> None:
        """A stopped key does not expire; the others do at their times."""
        for key in "abc":
            self.queue.start(key)
            self.clock.advance(1)
        self.queue.stop("a")
        self.queue.stop("b")
        self.clock.pump([1] * 12)
        self.assertEqual(self.expired, [(12, "c")])

    def test_restarted(self) -> None:
        """Starting a key again restarts its timeout."""
        self.queue.start("a")
        self.queue.start("b")
        self.clock.advance(6)
        self.queue.start("a")
        self.clock.pump([1] * 12)
        self.assertEqual(self.expired, [(10, "b"), (16, "a")])

    def test_portions(self) -> None:
        """Of many keys that are due at once, a portion expires in each iteration, in order."""
        keys = [str(number) for number in range(200)]
        for key in keys:
            self.queue.start(key)
        numbers = count_in_iterations(self.clock, self.expired, at=10)
        self.assertEqual([key for _, key in self.expired], keys)
        self.assertEqual(numbers, [64, 128, 192, 200])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_unknown(self) -> None:
        """Stopping a key without a timeout does nothing."""
        self.queue.stop("a")
        self.queue.start("b")
        self.queue.stop("a")
        self.clock.advance(10)
        self.assertEqual(self.expired, [(10, "b")])

    def test_contains(self) -> None:
        """A queue contains a key from its start until it is stopped or expires."""
        self.assertNotIn("a", self.queue)
        self.assertEqual(len(self.queue), 0)
        for _ in range(2):
            self.queue.start("a")
            self.assertIn("a", self.queue)
            self.assertEqual(len(self.queue), 1)
        self.queue.stop("a")
        self.assertNotIn("a", self.queue)
        self.assertEqual(len(self.queue), 0)
        self.queue.start("a")
        seen: list[bool] = []
        self.then = lambda key: seen.append(key in self.queue)
        self.clock.advance(10)
        self.assertEqual(seen, [False])

    def test_one_timer(self) -> None:
        """A thousand keys need one delayed call; without keys there is none."""
        keys = [str(number) for number in range(1000)]
        for key in keys:
            self.queue.start(key)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for key in keys[:-1]:
            self.queue.stop(key)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.queue.stop(keys[-1])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.queue.start("a")
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_in_callback(self) -> None:
        """A key that its own callback restarts has its full timeout, as pings need."""
        self.then = self.queue.start
        self.queue.start("a")
        self.clock.advance(3)
        self.queue.start("b")
        self.clock.pump([1] * 20)
        self.assertEqual(self.expired, [(10, "a"), (13, "b"), (20, "a"), (23, "b")])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_stop_in_callback(self) -> None:
        """A key that another key's callback stops does not expire, even if due at the same time."""
        self.then = lambda key: self.queue.stop("b")
        for key in "abc":
            self.queue.start(key)
        self.clock.advance(10)
        self.assertEqual(self.expired, [(10, "a"), (10, "c")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_last_in_callback(self) -> None:
        """A callback that stops the last key leaves no timer; the next start sets one."""
        self.then = lambda key: self.queue.stop("b")
        self.queue.start("a")
        self.clock.advance(1)
        self.queue.start("b")
        self.clock.advance(9)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.queue.start("c")
        self.clock.advance(10)
        self.assertEqual(self.expired, [(10, "a"), (20, "c")])

    def test_error_in_callback(self) -> None:
        """A callback that raises does not keep other keys from expiring."""

        def fail_first(key: str) -> None:
            if key == "a":
                raise ZeroDivisionError

        self.then = fail_first
        for key in "ab":
            self.queue.start(key)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 10)
        self.clock.advance(0)
        self.assertEqual(self.expired, [(10, "a"), (10, "b")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """A late reactor expires all keys that are due by then, in order, and no others."""
        for key in "abc":
            self.queue.start(key)
            self.clock.advance(1)
        self.clock.advance(8.5)
        self.assertEqual(self.expired, [(11.5, "a"), (11.5, "b")])
        self.clock.advance(0.5)
        self.assertEqual(self.expired[-1], (12, "c"))

    def test_property(self) -> None:
        """After any starts and stops, each key expires ten seconds after its last start."""
        actions = st.tuples(st.sampled_from(["start", "stop"]), st.sampled_from("abcd"))

        @NO_DEADLINE
        @given(st.lists(actions, max_size=40))
        def play(script: list[tuple[str, str]]) -> None:
            clock = Clock()
            ends: list[tuple[float, str]] = []
            queue: TimeoutQueue[str] = TimeoutQueue(
                clock, timeout=10, expired=lambda key: ends.append((clock.seconds(), key))
            )
            expected: list[tuple[float, str]] = []
            due: dict[str, float] = {}
            for action, key in script:
                if action == "start":
                    queue.start(key)
                    due[key] = clock.seconds() + 10
                else:
                    queue.stop(key)
                    due.pop(key, None)
                clock.advance(1)
                expected += [(due.pop(key), key) for key in [*due] if due[key] <= clock.seconds()]
            for _ in range(10):
                clock.advance(1)
                expected += [(due.pop(key), key) for key in [*due] if due[key] <= clock.seconds()]
            self.assertEqual(ends, expected)
            self.assertEqual(clock.getDelayedCalls(), [])

        play()


class TimerHeapTests(SynchronousTestCase):
    """TimerHeap: a timeout at a time of its own for each key."""

    def setUp(self) -> None:
        """Note each key that expires, and when."""
        self.clock = Clock()
        self.expired: list[tuple[float, str]] = []
        self.then: Callable[[str], object] = lambda key: None
        self.heap: TimerHeap[str] = TimerHeap(
            self.clock, now=self.clock.seconds, expired=self.expire
        )

    def expire(self, key: str) -> None:
        """Note the key, then do what the test wants done in the callback."""
        self.expired.append((self.clock.seconds(), key))
        self.then(key)

    def test_order(self) -> None:
        """Keys expire at their times, in whatever order they were started."""
        for key, at in (("b", 20), ("a", 10), ("c", 30)):
            self.heap.start(key, at)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.pump([1] * 40)
        self.assertEqual(self.expired, [(10, "a"), (20, "b"), (30, "c")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_portions(self) -> None:
        """Of many keys that are due at once, a portion expires in each iteration, in order."""
        keys = [str(number) for number in range(200)]
        for key in keys:
            self.heap.start(key, 10)
        numbers = count_in_iterations(self.clock, self.expired, at=10)
        self.assertEqual([key for _, key in self.expired], keys)
        self.assertEqual(numbers, [64, 128, 192, 200])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_same_time(self) -> None:
        """Keys with the same time expire in the order of their starts."""
        for key in "bca":
            self.heap.start(key, 5)
        self.clock.advance(5)
        self.assertEqual([key for _, key in self.expired], ["b", "c", "a"])

    def test_restarted(self) -> None:
        """A key can be given an earlier or a later time, which replaces the old one."""
        self.heap.start("a", 10)
        self.heap.start("a", 20)
        self.heap.start("b", 20)
        self.heap.start("b", 5)
        self.clock.pump([1] * 30)
        self.assertEqual(self.expired, [(5, "b"), (20, "a")])

    def test_stopped(self) -> None:
        """A stopped key does not expire; without keys no timer is left."""
        self.heap.start("a", 10)
        self.heap.start("b", 20)
        self.assertIn("a", self.heap)
        self.heap.stop("a")
        self.heap.stop("never")
        self.assertNotIn("a", self.heap)
        self.clock.pump([1] * 15)
        self.assertEqual(self.expired, [])
        self.heap.stop("b")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_past(self) -> None:
        """A key whose time has passed expires at the next iteration, not inside ``start``."""
        self.clock.advance(100)
        self.heap.start("a", 1)
        self.assertEqual(self.expired, [])
        self.clock.advance(0)
        self.assertEqual(self.expired, [(100, "a")])

    def test_far_future(self) -> None:
        """The timer is set for a minute at most, however late the time is."""
        self.heap.start("a", 1e12)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 60)
        self.clock.advance(60)
        self.assertEqual(self.expired, [])
        self.heap.stop("a")

    def test_time_of_day_changes(self) -> None:
        """After a change of the time of day, keys expire by the new time within a minute."""
        hours = 0
        heap: TimerHeap[str] = TimerHeap(
            self.clock, now=lambda: self.clock.seconds() + hours * 3600, expired=self.expire
        )
        heap.start("a", 7000)
        self.clock.advance(10)
        hours = 2
        self.assertEqual(self.expired, [])
        self.clock.advance(50)
        self.assertEqual(self.expired, [(60, "a")])
        heap.start("b", 2 * 3600 + 70)
        hours = 1
        self.clock.advance(20)
        self.assertEqual(len(self.expired), 1)
        heap.stop("b")

    def test_callback_starts_and_stops(self) -> None:
        """A callback may start and stop keys, its own included."""

        def then(key: str) -> None:
            if key == "a":
                self.heap.stop("b")
                self.heap.start("a", 7)
                self.heap.start("d", 5)
                self.then = lambda key: None

        self.then = then
        for key in "abc":
            self.heap.start(key, 5)
        self.clock.pump([1] * 10)
        self.assertEqual(self.expired, [(5, "a"), (5, "c"), (5, "d"), (7, "a")])

    def test_error_in_callback(self) -> None:
        """A callback that raises does not keep other keys from expiring."""

        def then(key: str) -> None:
            if key == "a":
                raise ZeroDivisionError

        self.then = then
        self.heap.start("a", 5)
        self.heap.start("b", 5)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 5)
        self.clock.advance(0)
        self.assertEqual(self.expired, [(5, "a"), (5, "b")])

    def test_memory(self) -> None:
        """A key that is restarted a thousand times does not fill the heap."""
        for number in range(1000):
            self.heap.start("a", 1000 - number / 2)
            self.heap.start("b", 5000 + number)
        self.assertLess(len(self.heap), 100)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.heap.stop("a")
        self.heap.stop("b")
        self.assertEqual((len(self.heap), self.clock.getDelayedCalls()), (0, []))

    def test_property(self) -> None:
        """After any starts and stops, each key expires at its last time, or never."""

        @NO_DEADLINE
        @given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 20) | st.none())))
        def check(steps: list[tuple[str, int | None]]) -> None:
            self.clock, self.expired = Clock(), []
            self.heap = TimerHeap(self.clock, now=self.clock.seconds, expired=self.expire)
            expected: dict[str, int] = {}
            for key, at in steps:
                if at is None:
                    self.heap.stop(key)
                    expected.pop(key, None)
                else:
                    self.heap.start(key, at)
                    expected[key] = at
            self.assertEqual(bool(self.clock.getDelayedCalls()), bool(expected))
            self.clock.pump([0] + [1] * 21)
            self.assertEqual(
                sorted(self.expired), sorted((float(at), key) for key, at in expected.items())
            )
            self.assertEqual(self.clock.getDelayedCalls(), [])

        check()
