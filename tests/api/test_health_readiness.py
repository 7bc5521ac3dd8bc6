"""Whether there may be traffic, and why not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.health import Readiness


class ReadinessTests(SynchronousTestCase):
    def test_ready(self) -> None:
        """A daemon that listens and does not stop is ready."""
        readiness = Readiness()
        self.assertEqual(readiness.reason(), "not listening")
        readiness.listening = True
        self.assertIsNone(readiness.reason())
        readiness.draining = True
        self.assertEqual(readiness.reason(), "draining")

    def test_checks(self) -> None:
        """Others are asked as well, each time; the first that has a reason gives it."""
        reasons: list[str | None] = [None, "the broker can't be reached", "nor that"]
        readiness = Readiness(*(lambda n=n: reasons[n] for n in range(3)))
        readiness.listening = True
        self.assertEqual(readiness.reason(), "the broker can't be reached")
        reasons[1:] = [None, None]
        self.assertIsNone(readiness.reason())
