"""LagMeter: how late the reactor is."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.metrics import LagMeter


class LagTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start to look."""
        self.clock = Clock()
        self.meter = LagMeter(self.clock)
        self.meter.startService()

    def read(self) -> tuple[float, float]:
        """Give how often it looked, and how late the calls were together."""
        return self.meter.lag.buckets[-1][1], round(self.meter.lag.sum, 6)

    def test_in_time(self) -> None:
        """A reactor that has nothing to do is not late."""
        self.clock.pump([0.25] * 4)
        self.assertEqual(self.read(), (4, 0))

    def test_late(self) -> None:
        """What blocks the reactor shows, once; the next call is measured by its own time."""
        self.clock.advance(2.25)
        self.assertEqual(self.read(), (1, 2))
        self.clock.advance(0.3)
        self.assertEqual(self.read(), (2, 2.05))

    def test_back_in_time(self) -> None:
        """A clock that was set back makes nobody early."""
        self.clock.rightNow -= 100
        self.clock.advance(100.25)
        self.assertEqual(self.read(), (1, 0))

    def test_stop(self) -> None:
        """Stopped, it leaves no call behind; it may be stopped without having begun."""
        self.meter.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.meter.stopService()
