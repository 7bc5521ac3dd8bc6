"""Many time-outs on one timer: who expires, when, and what is left."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.timeouts import TimeoutQueue
from tests.unhurried import UNHURRIED


class DeadlinesTests(SynchronousTestCase):
    """A time-out for each key, all of ten seconds."""

    def setUp(self) -> None:
        """Note who expires, and when."""
        self.clock = Clock()
        self.expired: list[tuple[float, str]] = []
        self.then: Callable[[str], object] = lambda key: None
        self.deadlines: TimeoutQueue[str] = TimeoutQueue(
            self.clock, timeout=10, expired=self.expire
        )

    def expire(self, key: str) -> None:
        """Note it, then do what the test wants of a callback."""
        self.expired.append((self.clock.seconds(), key))
        self.then(key)

    def test_expires(self) -> None:
        """A key expires once, when its time is up and not before."""
        self.deadlines.start("a")
        self.clock.advance(9.999)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.001)
        self.assertEqual(self.expired, [(10, "a")])
        self.clock.advance(100)
        self.assertEqual(len(self.expired), 1)

    def test_each_its_own(self) -> None:
        """Each key has its own ten seconds."""
        for key in "abc":
            self.deadlines.start(key)
            self.clock.advance(1)
        self.clock.pump([1] * 12)
        self.assertEqual(self.expired, [(10, "a"), (11, "b"), (12, "c")])

    def test_stopped(self) -> None:
        """A key that is stopped does not expire, and the others do at their times."""
        for key in "abc":
            self.deadlines.start(key)
            self.clock.advance(1)
        self.deadlines.stop("a")
        self.deadlines.stop("b")
        self.clock.pump([1] * 12)
        self.assertEqual(self.expired, [(12, "c")])

    def test_started_again(self) -> None:
        """Starting a key that waits gives it its full time anew."""
        self.deadlines.start("a")
        self.deadlines.start("b")
        self.clock.advance(6)
        self.deadlines.start("a")
        self.clock.pump([1] * 12)
        self.assertEqual(self.expired, [(10, "b"), (16, "a")])

    def test_stranger(self) -> None:
        """Stopping a key that does not wait does nothing."""
        self.deadlines.stop("a")
        self.deadlines.start("b")
        self.deadlines.stop("a")
        self.clock.advance(10)
        self.assertEqual(self.expired, [(10, "b")])

    def test_contains(self) -> None:
        """A key is in it from its start to its stop or its end."""
        self.assertNotIn("a", self.deadlines)
        self.assertEqual(len(self.deadlines), 0)
        for _ in range(2):
            self.deadlines.start("a")
            self.assertIn("a", self.deadlines)
            self.assertEqual(len(self.deadlines), 1)
        self.deadlines.stop("a")
        self.assertNotIn("a", self.deadlines)
        self.assertEqual(len(self.deadlines), 0)
        self.deadlines.start("a")
        seen: list[bool] = []
        self.then = lambda key: seen.append(key in self.deadlines)
        self.clock.advance(10)
        self.assertEqual(seen, [False])

    def test_one_timer(self) -> None:
        """However many keys wait, there is one delayed call; with none, there is none."""
        keys = [str(number) for number in range(1000)]
        for key in keys:
            self.deadlines.start(key)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for key in keys[:-1]:
            self.deadlines.stop(key)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.deadlines.stop(keys[-1])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.deadlines.start("a")
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_in_callback(self) -> None:
        """A key that its own end starts anew waits its full time, as a ping does."""
        self.then = self.deadlines.start
        self.deadlines.start("a")
        self.clock.advance(3)
        self.deadlines.start("b")
        self.clock.pump([1] * 20)
        self.assertEqual(self.expired, [(10, "a"), (13, "b"), (20, "a"), (23, "b")])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_stop_in_callback(self) -> None:
        """A key that another's end stops does not expire, be it due at the same time."""
        self.then = lambda key: self.deadlines.stop("b")
        for key in "abc":
            self.deadlines.start(key)
        self.clock.advance(10)
        self.assertEqual(self.expired, [(10, "a"), (10, "c")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_last_in_callback(self) -> None:
        """A callback that stops the last key leaves no timer, and the next start arms one."""
        self.then = lambda key: self.deadlines.stop("b")
        self.deadlines.start("a")
        self.clock.advance(1)
        self.deadlines.start("b")
        self.clock.advance(9)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.deadlines.start("c")
        self.clock.advance(10)
        self.assertEqual(self.expired, [(10, "a"), (20, "c")])

    def test_error_in_callback(self) -> None:
        """A callback that raises does not keep the others from their ends."""

        def fail_first(key: str) -> None:
            if key == "a":
                raise ZeroDivisionError

        self.then = fail_first
        for key in "ab":
            self.deadlines.start(key)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 10)
        self.clock.advance(0)
        self.assertEqual(self.expired, [(10, "a"), (10, "b")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """A reactor that comes late ends all that are due by then, in order, and no others."""
        for key in "abc":
            self.deadlines.start(key)
            self.clock.advance(1)
        self.clock.advance(8.5)
        self.assertEqual(self.expired, [(11.5, "a"), (11.5, "b")])
        self.clock.advance(0.5)
        self.assertEqual(self.expired[-1], (12, "c"))

    def test_any_order(self) -> None:
        """Whatever is started and stopped, each key ends ten seconds after its last start."""
        actions = st.tuples(st.sampled_from(["start", "stop"]), st.sampled_from("abcd"))

        @UNHURRIED
        @given(st.lists(actions, max_size=40))
        def play(script: list[tuple[str, str]]) -> None:
            clock = Clock()
            ends: list[tuple[float, str]] = []
            deadlines: TimeoutQueue[str] = TimeoutQueue(
                clock, timeout=10, expired=lambda key: ends.append((clock.seconds(), key))
            )
            expected: list[tuple[float, str]] = []
            due: dict[str, float] = {}
            for action, key in script:
                if action == "start":
                    deadlines.start(key)
                    due[key] = clock.seconds() + 10
                else:
                    deadlines.stop(key)
                    due.pop(key, None)
                clock.advance(1)
                expected += [(due.pop(key), key) for key in [*due] if due[key] <= clock.seconds()]
            for _ in range(10):
                clock.advance(1)
                expected += [(due.pop(key), key) for key in [*due] if due[key] <= clock.seconds()]
            self.assertEqual(ends, expected)
            self.assertEqual(clock.getDelayedCalls(), [])

        play()
