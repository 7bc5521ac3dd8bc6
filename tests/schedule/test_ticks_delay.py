"""A schedule that begins later."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.ticks import PushSchedule, lateness_of
from tests.work import turns_of


class DelayTests(SynchronousTestCase):
    """``delay``."""

    def test_delay(self) -> None:
        """All numbers come so much later, and the end as well."""
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

    def test_lateness(self) -> None:
        """A number that comes late is measured by its own time; the end is no push."""
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
        """What was missed in a long pause comes at once, but others have turns in between."""
        clock = Clock()
        seen: list[int] = []

        async def run() -> None:
            async for number in PushSchedule(clock, count=1000, interval=1):
                seen.append(number)

        running = Deferred.fromCoroutine(run())
        clock.rightNow += 2000
        self.assertEqual(seen, [0])
        turns = turns_of(clock, seen)
        self.assertLessEqual(max(turns), 64)
        self.assertEqual(seen, list(range(1000)))
        self.assertLess(len(turns), 20)
        self.successResultOf(running)

    def test_bad(self) -> None:
        """A delay is a number of seconds from 0 on."""
        for delay in (-1.0, float("inf"), float("nan")):
            with self.assertRaisesRegex(ValueError, "delay must be"):
                PushSchedule(Clock(), count=1, interval=1, delay=delay)
