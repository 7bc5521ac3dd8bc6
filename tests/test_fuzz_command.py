"""The command behind ``make fuzz``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import FILES, main
from tests.support.hypothesis_settings import FUZZ_VARIABLE, same_examples

ROOT = Path(__file__).parent.parent


class FuzzCommandTests(SynchronousTestCase):
    """Rounds that take half a minute each."""

    def setUp(self) -> None:
        """Record rounds."""
        self.rounds: list[list[str]] = []
        self.codes = [0] * 100

    def main(self, *arguments: str) -> int:
        """Run the command, and let time pass."""

        def run(tests: Sequence[str]) -> int:
            self.rounds.append(list(tests))
            return self.codes[len(self.rounds) - 1]

        return main(arguments, run, lambda: 30.0 * len(self.rounds))

    def test_time(self) -> None:
        """Rounds are run until the time is over, 10 minutes by default."""
        self.assertEqual(self.main(), 0)
        self.assertEqual(self.rounds, [list(FILES)] * 20)
        self.rounds.clear()
        self.assertEqual(self.main("--minutes", "2", "tests/one.py"), 0)
        self.assertEqual(self.rounds, [["tests/one.py"]] * 4)

    def test_failure(self) -> None:
        """The first failure ends it."""
        self.codes[2] = 1
        self.assertEqual(self.main(), 1)
        self.assertEqual(len(self.rounds), 3)

    def test_files(self) -> None:
        """The files are there, and their tests get more and other examples."""
        for file in FILES:
            self.assertIn("@same_examples(", (ROOT / file).read_text())
        self.patch(os, "environ", {**os.environ, FUZZ_VARIABLE: "3"})
        settings = same_examples(max_examples=7)
        self.assertEqual((settings.max_examples, settings.derandomize), (21, False))
