"""Tests of PushSchedule."""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import ref

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.coalescing import CoalescingClock
from pushd.schedule.coroutine import Task
from pushd.schedule.ticks import PushSchedule, lateness_of
from tests.support.call_counts import results_per_call

T = TypeVar("T")


class PushScheduleTests(SynchronousTestCase):
    """PushSchedule in a coroutine that Deferred.fromCoroutine runs."""

    def setUp(self) -> None:
        """Start a clock at 1000 seconds; note each number and its time since then."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.came: list[tuple[float, int]] = []

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Run a coroutine that awaits a schedule."""
        return Deferred.fromCoroutine(coroutine)

    def run_schedule(
        self,
        count: int | None,
        interval: float = 0.5,
        body: Callable[[int], object] = lambda number: None,
    ) -> Deferred[float]:
        """Loop over a schedule; the Deferred fires with the time at which the loop ends."""

        async def loop() -> float:
            async for number in PushSchedule(self.clock, count=count, interval=interval):
                self.came.append((self.clock.seconds() - 1000, number))
                body(number)
            return self.clock.seconds() - 1000

        return self.run_coroutine(loop())

    def next_number(self, schedule: PushSchedule) -> Deferred[int]:
        """Wait for one number."""

        async def wait() -> int:
            return await schedule.__anext__()

        return self.run_coroutine(wait())

    def test_pace(self) -> None:
        """The first number comes at once, the next ones and the end an interval apart."""
        ended = self.run_schedule(4)
        self.assertEqual(self.came, [(0, 0)])
        self.clock.pump([0.25] * 7)
        self.assertEqual(self.came, [(0, 0), (0.5, 1), (1.0, 2), (1.5, 3)])
        self.assertNoResult(ended)
        self.clock.advance(0.25)
        self.assertEqual(self.successResultOf(ended), 2.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_early(self) -> None:
        """A number does not come a millisecond before its time."""
        self.run_schedule(4)
        self.clock.advance(0.499)
        self.assertEqual(len(self.came), 1)
        self.clock.advance(0.001)
        self.assertEqual(len(self.came), 2)

    def test_late(self) -> None:
        """A late reactor delays one number, and not those after it."""
        self.run_schedule(6)
        self.clock.pump([0.5, 0.75, 0.25, 0.5])
        self.assertEqual(self.came, [(0, 0), (0.5, 1), (1.25, 2), (1.5, 3), (2.0, 4)])

    def test_slow_body(self) -> None:
        """A loop body that takes time does not shift the next numbers."""
        self.run_schedule(5, body=lambda number: self.clock.advance(0.2))
        self.clock.pump([0.1] * 19)
        times = [round(time, 6) for time, _ in self.came]
        self.assertEqual(times, [0, 0.5, 1.0, 1.5, 2.0])

    def test_missed(self) -> None:
        """Overdue numbers all come at once, in order."""
        self.run_schedule(6)
        self.clock.advance(1.75)
        self.assertEqual(self.came[1:], [(1.75, 1), (1.75, 2), (1.75, 3)])
        self.clock.advance(0.25)
        self.assertEqual(self.came[-1], (2.0, 4))

    def test_no_drift(self) -> None:
        """Delays of the reactor do not add up over hours."""
        self.run_schedule(None)
        for number in range(1, 10_000):
            [call] = self.clock.getDelayedCalls()
            self.assertEqual(call.getTime(), 1000 + number * 0.5)
            self.clock.advance(call.getTime() + 0.25 - self.clock.seconds())
            self.assertEqual(self.came[-1], (number * 0.5 + 0.25, number))

    def test_start(self) -> None:
        """A schedule starts when its first number is asked for, not when it is created."""
        schedule = PushSchedule(self.clock, count=2, interval=0.5)
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.next_number(schedule))
        second = self.next_number(schedule)
        self.assertNoResult(second)
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(second), 1)

    def test_one_at_a_time(self) -> None:
        """Two tasks cannot await one schedule at once; after the first is cancelled, one can."""
        schedule = PushSchedule(self.clock, count=2, interval=1, delay=1)
        first = self.next_number(schedule)
        self.failureResultOf(self.next_number(schedule), RuntimeError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        again = self.next_number(schedule)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(again), 0)

    def test_count_of_zero(self) -> None:
        """With a count of 0 the loop ends at once."""
        self.assertEqual(self.successResultOf(self.run_schedule(0)), 0)
        self.assertEqual(self.came, [])

    def test_endless(self) -> None:
        """With a count of None the loop does not end."""
        ended = self.run_schedule(None)
        self.clock.pump([0.5] * 500)
        self.assertEqual(len(self.came), 501)
        self.assertNoResult(ended)

    def test_exhausted(self) -> None:
        """A schedule that has ended raises StopAsyncIteration again."""
        schedule = PushSchedule(self.clock, count=0, interval=0.5)
        for _ in range(2):
            self.failureResultOf(self.next_number(schedule), StopAsyncIteration)

    def test_cancelled(self) -> None:
        """A cancelled loop ends where it waits, and leaves no delayed call."""
        ended = self.run_schedule(4)
        self.clock.advance(0.5)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        ended.cancel()
        self.failureResultOf(ended, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_idle(self) -> None:
        """``cancel`` does nothing while no loop waits."""
        schedule = PushSchedule(self.clock, count=2, interval=1)
        schedule.cancel()
        self.assertEqual(self.successResultOf(self.next_number(schedule)), 0)
        schedule.cancel()
        second = self.next_number(schedule)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(second), 1)

    def test_closed(self) -> None:
        """A coroutine that is closed where it waits leaves no delayed call."""
        schedule = PushSchedule(self.clock, count=2, interval=1, delay=1)
        waiting: Any = schedule.__anext__()
        self.assertIs(waiting.send(None), schedule)
        schedule.start(lambda: None)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        waiting.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        # Nor does one that is closed before it has started to wait.
        waiting = schedule.__anext__()
        waiting.send(None)
        waiting.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_break(self) -> None:
        """A loop that is left with ``break`` leaves no delayed call."""

        async def loop() -> None:
            async for number in PushSchedule(self.clock, count=None, interval=0.5):
                if number == 2:
                    break

        ended = self.run_coroutine(loop())
        self.clock.pump([0.5, 0.5])
        self.successResultOf(ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_call(self) -> None:
        """A schedule has one delayed call at a time, however many numbers are to come."""
        self.run_schedule(1_000_000)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_bad_count(self) -> None:
        """A negative count raises ValueError with its value."""
        error = self.assertRaises(ValueError, PushSchedule, self.clock, count=-1, interval=0.5)
        self.assertIn("-1", str(error))

    def test_bad_interval(self) -> None:
        """An interval must be a finite number above 0; the ValueError has its value."""
        for interval in (0, -0.5, float("inf"), float("nan")):
            error = self.assertRaises(
                ValueError, PushSchedule, self.clock, count=1, interval=interval
            )
            self.assertIn(str(interval), str(error))


class PushScheduleInTaskTests(PushScheduleTests):
    """PushSchedule in a coroutine that a Task runs, as a view's is."""

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Run a coroutine in a Task."""

        def cancel(_: Deferred[T]) -> None:
            assert task.awaited is not None
            task.awaited.cancel()

        ended: Deferred[T] = Deferred(cancel)
        task = Task(coroutine, self.clock, lambda seconds: None, ended.callback)
        task.advance()
        return ended


class PushScheduleOnCoalescingClockTests(SynchronousTestCase):
    """PushSchedule on a CoalescingClock, as in a daemon."""

    def test_pace(self) -> None:
        """Numbers come at the next tick of the clock."""
        clock = Clock()
        coalescing = CoalescingClock(clock, interval=0.002)
        came: list[float] = []

        async def loop() -> None:
            async for _ in PushSchedule(coalescing, count=3, interval=0.0051):
                came.append(clock.seconds())

        ended: Deferred[None] = Deferred()
        Task(loop(), coalescing, lambda seconds: None, ended.callback).advance()
        clock.pump([0.0005] * 40)
        self.successResultOf(ended)
        self.assertEqual([round(time, 6) for time in came], [0, 0.006, 0.012])
        self.assertEqual(coalescing.getDelayedCalls(), [])

    def test_one_call(self) -> None:
        """One delayed call serves all numbers of a schedule, one after the other."""
        clock = Clock()
        coalescing = CoalescingClock(clock)

        async def loop() -> None:
            async for _ in PushSchedule(coalescing, count=3, interval=0.5):
                pass

        Task(loop(), coalescing, lambda seconds: None, lambda result: None).advance()
        [first] = coalescing.getDelayedCalls()
        for _ in range(2):
            clock.advance(0.5)
            [call] = coalescing.getDelayedCalls()
            self.assertIs(call, first)

    def test_releases_view(self) -> None:
        """A schedule does not keep its view alive, however that has ended."""

        class Witness:
            """An object that the view refers to."""

        async def whole(schedule: PushSchedule, witness: Witness) -> None:
            async for _ in schedule:
                pass

        async def half(schedule: PushSchedule, witness: Witness) -> None:
            async for number in schedule:
                if number == 1:
                    break

        async def failing(schedule: PushSchedule, witness: Witness) -> None:
            async for number in schedule:
                if number == 1:
                    raise CancelledError

        for view in (whole, half, failing):
            clock = Clock()
            coalescing = CoalescingClock(clock)
            schedule = PushSchedule(coalescing, count=3, interval=0.5)
            witness = Witness()
            gone = ref(witness)

            def done(result: object, witness: Witness = witness) -> None:
                """Refer to the witness as well."""

            Task(view(schedule, witness), coalescing, lambda seconds: None, done).advance()
            del witness, done
            self.assertIsNotNone(gone())
            clock.pump([0.5] * 4)
            gc.collect()
            self.assertIsNone(gone(), view.__name__)

    def test_overdue(self) -> None:
        """After a long pause other calls are made between the numbers that are overdue."""
        clock = Clock()
        coalescing = CoalescingClock(clock, interval=0.001)
        came: list[int] = []

        async def loop() -> None:
            async for number in PushSchedule(coalescing, count=1000, interval=0.001):
                came.append(number)

        Task(loop(), coalescing, lambda seconds: None, lambda result: None).advance()
        clock.rightNow += 10
        per_call = results_per_call(clock, came)
        self.assertLessEqual(max(per_call), 64)
        self.assertEqual(came, list(range(1000)))
        self.assertLess(len(per_call), 20)


class DelayTests(SynchronousTestCase):
    """A schedule with a delay, and how late its numbers come."""

    def test_delay(self) -> None:
        """A delay postpones all numbers and the end."""
        clock = Clock()
        seen: list[tuple[int, float]] = []

        async def run() -> None:
            async for number in PushSchedule(clock, count=2, interval=0.5, delay=3):
                seen.append((number, clock.seconds()))

        running = Deferred.fromCoroutine(run())
        for _ in range(7):
            clock.advance(0.5)
        self.assertEqual(seen, [(0, 3.0), (1, 3.5)])
        self.assertNoResult(running)
        clock.advance(0.5)
        self.successResultOf(running)

    def test_just_passed(self) -> None:
        """A delay that was computed and has just passed is none: the first number comes at once."""
        for delay in (-2.4e-07, -0.5):
            clock, seen = Clock(), list[int]()

            async def run(schedule: PushSchedule, seen: list[int]) -> None:
                async for number in schedule:
                    seen.append(number)

            schedule = PushSchedule(clock, count=2, interval=1 / 3, delay=delay)
            running = Deferred.fromCoroutine(run(schedule, seen))
            self.assertEqual(seen, [0])
            clock.pump([1 / 3] * 3)
            self.assertEqual(seen, [0, 1])
            self.successResultOf(running)

    def test_lateness(self) -> None:
        """The lateness of each number is observed; that of the end is not."""
        clock = Clock()

        async def run() -> None:
            async for _ in PushSchedule(clock, count=2, interval=1, delay=1):
                pass

        running = Deferred.fromCoroutine(run())
        lateness = lateness_of(clock)
        clock.advance(1.5)
        self.assertEqual((lateness.buckets[-1][1], lateness.sum), (1, 0.5))
        clock.advance(0.5)
        clock.advance(5)
        self.successResultOf(running)
        self.assertEqual((lateness.buckets[-1][1], lateness.sum), (2, 0.5))
        self.assertIsNot(lateness_of(Clock()), lateness)

    def test_overdue(self) -> None:
        """On a plain clock, too, other calls are made between overdue numbers."""
        clock = Clock()
        seen: list[int] = []

        async def run() -> None:
            async for number in PushSchedule(clock, count=1000, interval=1):
                seen.append(number)

        running = Deferred.fromCoroutine(run())
        clock.rightNow += 2000
        self.assertEqual(seen, [0])
        per_call = results_per_call(clock, seen)
        self.assertLessEqual(max(per_call), 64)
        self.assertEqual(seen, list(range(1000)))
        self.assertLess(len(per_call), 20)
        self.successResultOf(running)

    def test_bad(self) -> None:
        """A delay must be a finite number, 0 or more."""
        for delay in (-1.0, float("inf"), float("nan")):
            with self.assertRaisesRegex(ValueError, "delay must be"):
                PushSchedule(Clock(), count=1, interval=1, delay=delay)
