"""The ticks: their times, their number, and what remains of them."""

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
from pushd.schedule.ticks import PushSchedule
from tests.work import turns_of

T = TypeVar("T")


class PushScheduleTests(SynchronousTestCase):
    """Numbers at a steady pace, for a coroutine that Twisted runs."""

    def setUp(self) -> None:
        """Keep a clock that does not stand at zero, and what came when."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.came: list[tuple[float, int]] = []

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Run something that goes through a schedule."""
        return Deferred.fromCoroutine(coroutine)

    def run_schedule(
        self,
        count: int | None,
        interval: float = 0.5,
        body: Callable[[int], object] = lambda number: None,
    ) -> Deferred[float]:
        """Go through a schedule; the Deferred fires with the time at which the loop ends."""

        async def loop() -> float:
            async for number in PushSchedule(self.clock, count=count, interval=interval):
                self.came.append((self.clock.seconds() - 1000, number))
                body(number)
            return self.clock.seconds() - 1000

        return self.run_coroutine(loop())

    def ask(self, schedule: PushSchedule) -> Deferred[int]:
        """Wait for one number."""

        async def wait() -> int:
            return await schedule.__anext__()

        return self.run_coroutine(wait())

    def test_pace(self) -> None:
        """The first number comes at once, each next one an interval later, and then the end."""
        ended = self.run_schedule(4)
        self.assertEqual(self.came, [(0, 0)])
        self.clock.pump([0.25] * 7)
        self.assertEqual(self.came, [(0, 0), (0.5, 1), (1.0, 2), (1.5, 3)])
        self.assertNoResult(ended)
        self.clock.advance(0.25)
        self.assertEqual(self.successResultOf(ended), 2.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_early(self) -> None:
        """A number does not come before its time, not by a thousandth."""
        self.run_schedule(4)
        self.clock.advance(0.499)
        self.assertEqual(len(self.came), 1)
        self.clock.advance(0.001)
        self.assertEqual(len(self.came), 2)

    def test_late(self) -> None:
        """A reactor that comes late delays the number that it held, and none behind that."""
        self.run_schedule(6)
        self.clock.pump([0.5, 0.75, 0.25, 0.5])
        self.assertEqual(self.came, [(0, 0), (0.5, 1), (1.25, 2), (1.5, 3), (2.0, 4)])

    def test_slow_body(self) -> None:
        """A body that takes its time does not shift the numbers behind it."""
        self.run_schedule(5, body=lambda number: self.clock.advance(0.2))
        self.clock.pump([0.1] * 19)
        times = [round(time, 6) for time, _ in self.came]
        self.assertEqual(times, [0, 0.5, 1.0, 1.5, 2.0])

    def test_missed(self) -> None:
        """Numbers whose time has passed come at once, all of them and in order."""
        self.run_schedule(6)
        self.clock.advance(1.75)
        self.assertEqual(self.came[1:], [(1.75, 1), (1.75, 2), (1.75, 3)])
        self.clock.advance(0.25)
        self.assertEqual(self.came[-1], (2.0, 4))

    def test_no_drift(self) -> None:
        """A reactor that is late each time does not add it up, be it for hours."""
        self.run_schedule(None)
        for number in range(1, 10_000):
            [call] = self.clock.getDelayedCalls()
            self.assertEqual(call.getTime(), 1000 + number * 0.5)
            self.clock.advance(call.getTime() + 0.25 - self.clock.seconds())
            self.assertEqual(self.came[-1], (number * 0.5 + 0.25, number))

    def test_first_asked(self) -> None:
        """Time counts from when the first number is asked for, not from when it was made."""
        schedule = PushSchedule(self.clock, count=2, interval=0.5)
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.ask(schedule))
        second = self.ask(schedule)
        self.assertNoResult(second)
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(second), 1)

    def test_one_at_a_time(self) -> None:
        """Two tasks can't wait for one schedule; when the first has given up the other may."""
        schedule = PushSchedule(self.clock, count=2, interval=1, delay=1)
        first = self.ask(schedule)
        self.failureResultOf(self.ask(schedule), RuntimeError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        again = self.ask(schedule)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(again), 0)

    def test_none(self) -> None:
        """No numbers means that the loop ends at once."""
        self.assertEqual(self.successResultOf(self.run_schedule(0)), 0)
        self.assertEqual(self.came, [])

    def test_no_end(self) -> None:
        """Without a count it goes on."""
        ended = self.run_schedule(None)
        self.clock.pump([0.5] * 500)
        self.assertEqual(len(self.came), 501)
        self.assertNoResult(ended)

    def test_over(self) -> None:
        """After its end it stays at its end."""
        schedule = PushSchedule(self.clock, count=0, interval=0.5)
        for _ in range(2):
            self.failureResultOf(self.ask(schedule), StopAsyncIteration)

    def test_cancelled(self) -> None:
        """A loop that is cancelled ends where it waits and leaves no delayed call."""
        ended = self.run_schedule(4)
        self.clock.advance(0.5)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        ended.cancel()
        self.failureResultOf(ended, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_idle(self) -> None:
        """To cancel one that nobody waits for changes nothing."""
        schedule = PushSchedule(self.clock, count=2, interval=1)
        schedule.cancel()
        self.assertEqual(self.successResultOf(self.ask(schedule)), 0)
        schedule.cancel()
        second = self.ask(schedule)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(second), 1)

    def test_ended_by_others(self) -> None:
        """Whoever ends the wait in another way leaves no delayed call."""
        schedule = PushSchedule(self.clock, count=2, interval=1, delay=1)
        waiting: Any = schedule.__anext__()
        self.assertIs(waiting.send(None), schedule)
        schedule.start(lambda: None)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        waiting.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        # Nor does one that has not begun yet.
        waiting = schedule.__anext__()
        waiting.send(None)
        waiting.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_left(self) -> None:
        """A loop that breaks off leaves no delayed call."""

        async def loop() -> None:
            async for number in PushSchedule(self.clock, count=None, interval=0.5):
                if number == 2:
                    break

        ended = self.run_coroutine(loop())
        self.clock.pump([0.5, 0.5])
        self.successResultOf(ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_call(self) -> None:
        """It holds one delayed call at a time, however many numbers are to come."""
        self.run_schedule(1_000_000)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_bad_count(self) -> None:
        """Fewer than no numbers is a mistake."""
        error = self.assertRaises(ValueError, PushSchedule, self.clock, count=-1, interval=0.5)
        self.assertIn("-1", str(error))

    def test_bad_interval(self) -> None:
        """An interval is a number of seconds above 0: else it would never end, or never come."""
        for interval in (0, -0.5, float("inf"), float("nan")):
            error = self.assertRaises(
                ValueError, PushSchedule, self.clock, count=1, interval=interval
            )
            self.assertIn(str(interval), str(error))


class SteppedTests(PushScheduleTests):
    """The same for a view's coroutine, which waits without a Deferred."""

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Run it step by step."""

        def cancel(_: Deferred[T]) -> None:
            assert steps.awaited is not None
            steps.awaited.cancel()

        ended: Deferred[T] = Deferred(cancel)
        steps = Task(coroutine, self.clock, lambda seconds: None, ended.callback)
        steps.advance()
        return ended


class BeatTests(SynchronousTestCase):
    """On a clock with a beat, as the daemon's."""

    def test_pace(self) -> None:
        """Numbers come on the beat, and no later than one beat."""
        clock = Clock()
        beat = CoalescingClock(clock, interval=0.002)
        came: list[float] = []

        async def loop() -> None:
            async for _ in PushSchedule(beat, count=3, interval=0.0051):
                came.append(clock.seconds())

        ended: Deferred[None] = Deferred()
        Task(loop(), beat, lambda seconds: None, ended.callback).advance()
        clock.pump([0.0005] * 40)
        self.successResultOf(ended)
        self.assertEqual([round(time, 6) for time in came], [0, 0.006, 0.012])
        self.assertEqual(beat.getDelayedCalls(), [])

    def test_one_call(self) -> None:
        """All numbers of one schedule come by one call, which is put in for each."""
        clock = Clock()
        beat = CoalescingClock(clock)

        async def loop() -> None:
            async for _ in PushSchedule(beat, count=3, interval=0.5):
                pass

        Task(loop(), beat, lambda seconds: None, lambda result: None).advance()
        [first] = beat.getDelayedCalls()
        for _ in range(2):
            clock.advance(0.5)
            [call] = beat.getDelayedCalls()
            self.assertIs(call, first)

    def test_kept(self) -> None:
        """Who keeps a schedule does not keep the view that it was for, however that has ended."""

        class Witness:
            """Something that a view holds."""

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
            beat = CoalescingClock(clock)
            schedule = PushSchedule(beat, count=3, interval=0.5)
            witness = Witness()
            gone = ref(witness)

            def done(result: object, witness: Witness = witness) -> None:
                """Hold it as well."""

            Task(view(schedule, witness), beat, lambda seconds: None, done).advance()
            del witness, done
            self.assertIsNotNone(gone())
            clock.pump([0.5] * 4)
            gc.collect()
            self.assertIsNone(gone(), view.__name__)

    def test_overdue(self) -> None:
        """After a long pause others have their turns between the numbers that were missed."""
        clock = Clock()
        beat = CoalescingClock(clock, interval=0.001)
        came: list[int] = []

        async def loop() -> None:
            async for number in PushSchedule(beat, count=1000, interval=0.001):
                came.append(number)

        Task(loop(), beat, lambda seconds: None, lambda result: None).advance()
        clock.rightNow += 10
        turns = turns_of(clock, came)
        self.assertLessEqual(max(turns), 64)
        self.assertEqual(came, list(range(1000)))
        self.assertLess(len(turns), 20)
