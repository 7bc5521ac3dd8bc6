"""The command line: ``python -m bench``."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench.build import build
from bench.catalogue import CATALOGUE
from bench.chart import draw_chart
from bench.descriptors import raise_descriptors
from bench.growth import measure_growth
from bench.machine import describe_machine
from bench.report import CHART, DOCUMENT, FOLDER, Report, put_into, write_report
from bench.rival import Rival
from bench.runner import Runner, say
from bench.server import Trouble
from bench.workload import Workload
from bench.workloads import WORKLOADS

# Duration of the growth measurement, in seconds.
GROWTH_SECONDS = 75

# A one-minute load average above this disturbs the measurement.
QUIET = 0.5

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the report, and return the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        rivals = choose(given.rivals, {rival.name: rival for rival in CATALOGUE})
        workloads = choose_workloads(given.workloads, WORKLOADS, slow=given.slow)
        build()
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    if given.growth is None:
        given.growth = given.workloads is None and given.rivals is None
    report = measure(rivals, workloads, given)
    markdown = report.as_markdown()
    measures = [one for workload in workloads for one in workload.measures]
    chart = draw_chart(report.results, report.rivals, measures)
    written = write_report(markdown, chart, given.output)
    if given.docs:
        DOCUMENT.write_text(put_into(DOCUMENT.read_text(), markdown))
        (DOCUMENT.parent / CHART).write_text(chart)
        written += [DOCUMENT, DOCUMENT.parent / CHART]
    say(f"\n{markdown}\nwritten: {' '.join(map(str, written))}")
    return 1 if report.troubles else 0


def measure(
    rivals: Sequence[Rival], workloads: Sequence[Workload], given: argparse.Namespace
) -> Report:
    """Measure the rivals that are installed, and print the progress."""
    raise_descriptors()
    given.output.mkdir(parents=True, exist_ok=True)
    present = [rival for rival in rivals if rival.version() is not None]
    missing = [rival for rival in rivals if rival not in present]
    for rival in missing:
        say(f"missing: {rival.name} ({rival.source})")
    load = os.getloadavg()[0]
    if load > QUIET:
        say(f"note: the load average is {load:.1f} before the start; compare ratios only")
    runner = Runner(given.output, scale=given.scale)
    seconds = 60 * given.minutes - (GROWTH_SECONDS if given.growth else 0)
    runner.run(present, workloads, rounds=given.rounds, seconds=seconds)
    growth = None
    if given.growth:
        able = [rival for rival in present if rival.name in ("pushd", "floor")]
        try:
            growth = measure_growth(able, given.output, given.scale, say)
        except (Trouble, OSError) as trouble:
            runner.troubles.append(f"growth: {trouble}")
            say(runner.troubles[-1])
    return Report(
        results=runner.results,
        rivals=present,
        workloads=workloads,
        date=datetime.date.today().isoformat(),
        machine=describe_machine(),
        growth=growth,
        missing=missing,
        troubles=runner.troubles,
        swift=runner.swift,
    )


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure pushd and its rivals."
    )
    names = ", ".join(rival.name for rival in CATALOGUE)
    works = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--rivals", help=f"comma-separated list of {names} (default: all)")
    parser.add_argument(
        "--workloads", help=f"comma-separated list of {works} (default: all that are quick)"
    )
    parser.add_argument("--slow", action="store_true", help="measure what takes long as well")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=14,
        help="skip what would end later than this, except in the first round "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1,
        help="multiply the numbers of connections and messages by this (default: %(default)s)",
    )
    parser.add_argument(
        "--growth",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="measure the cost from 100 to 10,000 connections (default: yes, unless --rivals or "
        "--workloads is given)",
    )
    parser.add_argument(
        "--output",
        type=lambda text: Path(text).resolve(),
        default=FOLDER,
        help="directory for the results and the servers' logs (default: bench/results)",
    )
    parser.add_argument(
        "--docs", action="store_true", help="write the results into docs/performance.md as well"
    )
    return parser


def choose(given: str | None, known: Mapping[str, T]) -> list[T]:
    """Look up comma-separated names; without any, return everything that is known.

    Raises ValueError for an unknown name.
    """
    if given is None:
        return list(known.values())
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not one of {', '.join(known)}")
    return [known[name] for name in names]


def choose_workloads(given: str | None, known: Sequence[Workload], *, slow: bool) -> list[Workload]:
    """Look up comma-separated names; without any, return all, but slow ones only on demand.

    Raises ValueError for an unknown name.
    """
    chosen = choose(given, {one.name: one for one in known})
    return [one for one in chosen if given is not None or slow or not one.slow]


if __name__ == "__main__":
    sys.exit(main())
