"""Compare two checkouts of pushd in paired rounds: ``python -m bench.compare BASE NEW``.

In each round a daemon of each checkout runs at the same time, each with a load generator of its
own. What disturbs one side disturbs the other, so the mean of the ratios NEW/BASE of all rounds is
far more precise than two runs one after the other.

Both daemons are pinned to one core, and both load generators to another. Where the scheduler
places them, its choice differs from side to side and from round to round, and so does the cost of
waking the other process: that made the standard error of W4 and W5 ten times as large.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.__main__ import choose
from bench.build import build
from bench.catalogue import PUSHD
from bench.descriptors import raise_descriptors
from bench.results import Results
from bench.rival import Rival, Start
from bench.runner import Say, rotate, say
from bench.server import Server, Trouble
from bench.table import format_number, make_table
from bench.workload import Measure, Workload
from bench.workloads import WORKLOADS

BASE, NEW = "base", "new"

# Smaller than in ``python -m bench``: 1,500 browsers and 700 handshakes on each side, so that a
# round of W1, W4 and W5 takes about 15 seconds.
SCALES = {"w1": 1500 / 4000, "w4": 700 / 3000}

# Give up after this many failed measurements.
MOST_FAILURES = 3


@dataclass(frozen=True)
class Summary:
    """Per-round ratios in three figures; ``error`` is the standard error of the mean."""

    mean: float
    #: None for a single round.
    error: float | None
    median: float


def summarize(ratios: Sequence[float]) -> Summary:
    """Summarize the ratios of one or more rounds."""
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
    return Summary(statistics.mean(ratios), error, statistics.median(ratios))


def make_side(name: str, checkout: Path) -> Rival:
    """Describe the daemon of a checkout, run by this Python with the checkout's own views.

    Raises ValueError if the directory is not a checkout of pushd.
    """
    checkout = checkout.resolve()
    views = checkout / "bench" / "rivals" / "pushd_views.py"
    for path in (checkout / "pushd" / "__init__.py", views):
        if not path.exists():
            raise ValueError(f"{checkout} is not a checkout of pushd: {path} is missing")

    def start(folder: Path) -> Start:
        return replace(
            PUSHD.start(folder),
            directory=views.parent,
            environment={"PYTHONPATH": str(checkout)},
        )

    return replace(PUSHD, name=name, title=name, start=start)


def find_cores() -> tuple[int, int] | None:
    """Return two cores that this process may use, or None if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else None


class Comparison:
    """Measure two sides in paired rounds."""

    def __init__(
        self,
        base: Rival,
        new: Rival,
        folder: Path,
        *,
        cores: tuple[int, int] | None = None,
        scale: float = 1,
        say: Say = say,
        serve: Callable[[Rival, Path], AbstractContextManager[Server]] = Server,
    ) -> None:
        """Prepare to measure.

        :param cores: the core for the daemons and that for the load generators, or None to leave
            the choice to the scheduler.
        """
        self.results = Results()
        self.troubles: list[str] = []
        self._sides = (base, new)
        self._folder = folder
        self._cores = cores
        self._scale = scale
        self._say = say
        self._serve = serve

    def run(self, workloads: Sequence[Workload], rounds: int) -> None:
        """Measure each workload in each round; the side that starts first alternates.

        If one side fails, the round of that workload does not count for the other either. The
        comparison ends early after ``MOST_FAILURES`` failures.
        """
        for number in range(rounds):
            for workload in workloads:
                head = f"{number + 1} {workload.name}"
                try:
                    found = self._measure(workload, rotate(self._sides, number))
                except (Trouble, OSError) as trouble:
                    self.troubles.append(f"{head}: {trouble}")
                    self._say(f"{head} FAILED: {trouble}")
                    if len(self.troubles) >= MOST_FAILURES:
                        self._say(f"giving up after {MOST_FAILURES} failures")
                        return
                    continue
                for side in self._sides:
                    self.results.add(side.name, found[side.name])
                for measure in workload.measures:
                    self._say(f"{head} {self._describe(measure)}")

    def _measure(
        self, workload: Workload, sides: Sequence[Rival]
    ) -> Mapping[str, Mapping[str, float]]:
        scale = self._scale * SCALES.get(workload.name, 1)

        def start(server: AbstractContextManager[Server]) -> Server:
            self._pin(0)
            return stack.enter_context(server)

        def run(server: Server) -> Mapping[str, float]:
            self._pin(1)
            return workload.run(server, scale)

        with ExitStack() as stack, ThreadPoolExecutor(len(sides)) as threads:
            servers = [self._serve(side, self._folder) for side in sides]
            found = threads.map(run, list(threads.map(start, servers)))
            return {side.name: result for side, result in zip(sides, found, strict=True)}

    def _pin(self, index: int) -> None:
        # For this thread only, and for the processes that it starts.
        if self._cores is not None:
            os.sched_setaffinity(0, {self._cores[index]})

    def _describe(self, measure: Measure) -> str:
        base, new = (self.results.samples(measure.key, side.name)[-1] for side in self._sides)
        ratio = f"{new / base:.3f}" if base else "-"
        return (
            f"{measure.key}: base {format_number(base)}, new {format_number(new)} {measure.unit}, "
            f"ratio {ratio}"
        )


def tabulate_comparison(results: Results, measures: Sequence[Measure]) -> str:
    """Tabulate the medians of both sides and the ratios NEW/BASE of the rounds."""
    rows = [["", "base", "new", "mean ratio", "median ratio", "rounds"]]
    for measure in measures:
        ratios = results.ratios(measure.key, NEW, BASE)
        if not ratios:
            continue
        summary = summarize(ratios)
        error = "" if summary.error is None else f" ± {summary.error:.3f}"
        rows.append(
            [
                f"{measure.key}, {measure.unit}",
                format_number(results.median(measure.key, BASE)),
                format_number(results.median(measure.key, NEW)),
                f"{summary.mean:.3f}{error}",
                f"{summary.median:.3f}",
                str(len(ratios)),
            ]
        )
    return make_table(rows)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description="Compare two checkouts of pushd in paired rounds.",
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="directory of the old checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="directory of the new checkout")
    parser.add_argument(
        "--workloads",
        default="w1,w4,w5",
        help="comma-separated list of workloads (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=30, help="number of paired rounds (default: %(default)s)"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1,
        help="multiply the numbers of connections and messages by this (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a table, and return the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        workloads = choose(given.workloads, {one.name: one for one in WORKLOADS})
        base, new = make_side(BASE, given.base), make_side(NEW, given.new)
        build()
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"bench.compare: {error}\n")
        return 1
    raise_descriptors()
    with TemporaryDirectory(prefix="pushd-compare-") as folder:
        comparison = Comparison(base, new, Path(folder), cores=find_cores(), scale=given.scale)
        comparison.run(workloads, given.rounds)
    measures = [measure for workload in workloads for measure in workload.measures]
    say(f"\n{tabulate_comparison(comparison.results, measures)}")
    return 1 if comparison.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
