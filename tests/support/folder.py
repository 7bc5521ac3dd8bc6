"""A folder for one test, outside of the checkout."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase


def make_folder(case: SynchronousTestCase) -> Path:
    """Make an empty folder, which is deleted with all that is in it at the end of the test."""
    folder = TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    return Path(folder.name)
