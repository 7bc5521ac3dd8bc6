"""Runs the fuzz tests again and again with new examples: ``make fuzz FUZZ='--minutes 10'``.

It ends with the first failure, or after the given time. Hypothesis keeps the examples that failed
in ``.hypothesis``, and tries them first in the next run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import monotonic

from tests.support.hypothesis_settings import FUZZ_VARIABLE

#: The files of tests that ``same_examples`` makes.
FILES = ("tests/test_fuzz_parsers.py", "tests/test_fuzz.py", "tests/test_accounting.py")

#: By how much the examples of ``make test`` are multiplied in a round.
FACTOR = 5


def run_round(tests: Sequence[str]) -> int:
    """Run each test once, in a process of its own; return its exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environ = {**os.environ, FUZZ_VARIABLE: str(FACTOR)}
    return subprocess.run(command, env=environ, check=False).returncode


def main(
    arguments: Sequence[str],
    run: Callable[[Sequence[str]], int] = run_round,
    now: Callable[[], float] = monotonic,
) -> int:
    """Run rounds until one fails or the time is over; return the exit code of the last."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long; 10 by default")
    parser.add_argument("tests", nargs="*", default=list(FILES), help="files or names of tests")
    options = parser.parse_args(arguments)
    end = now() + 60 * options.minutes
    while not (code := run(options.tests)) and now() < end:
        pass
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
