"""A schedule that begins later."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule import PushSchedule


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

    def test_bad(self) -> None:
        """A delay is a number of seconds from 0 on."""
        for delay in (-1.0, float("inf"), float("nan")):
            with self.assertRaisesRegex(ValueError, "delay is"):
                PushSchedule(Clock(), count=1, interval=1, delay=delay)
