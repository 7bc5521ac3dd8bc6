"""What may be said to the log."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.verbosity import VERBOSITY, Verbosity


class VerbosityTests(SynchronousTestCase):
    """Whether somebody reads."""

    def test_all(self) -> None:
        """As long as nobody says otherwise, all is read: this process's log says nothing yet."""
        self.assertTrue(Verbosity().debug)
        self.assertTrue(VERBOSITY.debug)
