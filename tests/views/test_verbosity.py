"""What may be said to the log."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.views.verbosity import VERBOSITY, Verbosity


class VerbosityTests(SynchronousTestCase):
    """Whether somebody reads."""

    def test_all(self) -> None:
        """As long as nobody says otherwise, all is read: this process's log says nothing yet."""
        self.assertTrue(Verbosity().debug)
        self.assertTrue(VERBOSITY.debug)

    def test_several(self) -> None:
        """What any of several reads is read; each may change its mind."""
        verbosity = Verbosity()
        verbosity.tell("a", debug=False)
        self.assertFalse(verbosity.debug)
        verbosity.tell("b", debug=True)
        verbosity.tell("a", debug=False)
        self.assertTrue(verbosity.debug)
        verbosity.tell("b", debug=False)
        self.assertFalse(verbosity.debug)
