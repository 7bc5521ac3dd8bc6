"""Progress of a slow peer."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.progress import ENOUGH, PERIOD, Progress


class ProgressTests(SynchronousTestCase):
    def test_steady(self) -> None:
        """A peer that takes something at each look, and enough in each minute, goes on."""
        progress = Progress(7, 1000)
        rate = ENOUGH / PERIOD
        for second in range(10, 600, 10):
            self.assertTrue(progress.look(7 + int(rate * second), 1000 + second), second)

    def test_nothing(self) -> None:
        """One that has taken nothing since the last look does not."""
        progress = Progress(0, 0)
        self.assertTrue(progress.look(1, 10))
        self.assertFalse(progress.look(1, 20))
        self.assertTrue(progress.look(2, 30))

    def test_drip(self) -> None:
        """Nor does one that takes less than enough in a minute, even a later one."""
        progress = Progress(0, 0)
        self.assertTrue(progress.look(ENOUGH, PERIOD))
        self.assertTrue(progress.look(ENOUGH + 1, 2 * PERIOD - 1))
        self.assertFalse(progress.look(2 * ENOUGH - 1, 2 * PERIOD))
