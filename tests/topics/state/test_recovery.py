"""Recovery: which topics may have lost something, by how the last run ended."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.state.activity_log import SIZE, Activity
from pushd.topics.state.recovery import LastRun, Losses, find_losses


class LossesTests(SynchronousTestCase):
    def find(self, sync: str, clean: bool, activity: Activity | None = None) -> Losses:
        """Find the losses of a run."""
        last = LastRun("g", 3, 0, "run", sync, clean)
        return find_losses(last, lambda run, sequence: activity)

    def test_none(self) -> None:
        """Nothing is lost after an end in order, or if all was on the disk first."""
        for sync, clean in (("second", True), ("none", True), ("always", True), ("always", False)):
            losses = self.find(sync, clean)
            self.assertFalse(losses.any)
            self.assertFalse(losses.include("t"))

    def test_all(self) -> None:
        """Without an activity log, each topic may have lost something."""
        for sync in ("second", "none"):
            losses = self.find(sync, False)
            self.assertTrue(losses.any)
            self.assertTrue(losses.include("t"))

    def test_some(self) -> None:
        """With one, those that it names."""
        empty = memoryview(bytearray(8 * (SIZE + 1))).cast("Q")
        losses = self.find("second", False, Activity(3, 3, empty))
        self.assertFalse(losses.any)
        self.assertFalse(losses.include("t"))
        losses = self.find("second", False, Activity(4, 3, empty))
        self.assertTrue(losses.any)
        self.assertFalse(losses.include("t"))
