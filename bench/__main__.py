"""The command line: ``python -m bench``."""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench.build import build
from bench.catalogue import CATALOGUE
from bench.chart import draw_chart
from bench.growth import measure_growth
from bench.machine import describe_machine
from bench.report import CHART, DOCUMENT, FOLDER, Report, put_into, write_report
from bench.rival import Rival
from bench.runner import Runner, say
from bench.server import Trouble
from bench.workload import Workload
from bench.workloads import WORKLOADS

# What the growth takes of a run's time, in seconds.
GROWTH_SECONDS = 75

# A load above this, one minute's average, disturbs what is measured.
QUIET = 0.5

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write what was found; give the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        rivals = choose(given.rivals, {rival.name: rival for rival in CATALOGUE})
        workloads = choose(given.workloads, {one.name: one for one in WORKLOADS})
        build()
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    if given.growth is None:
        given.growth = given.workloads is None and given.rivals is None
    report = measure(rivals, workloads, given)
    markdown = report.as_markdown()
    chart = draw_chart(report.results, report.rivals, report.measures)
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
    """Measure those rivals that are here, and say how it goes."""
    raise_descriptors()
    given.output.mkdir(parents=True, exist_ok=True)
    present = [rival for rival in rivals if rival.version() is not None]
    missing = [rival for rival in rivals if rival not in present]
    for rival in missing:
        say(f"missing: {rival.name} ({rival.source})")
    load = os.getloadavg()[0]
    if load > QUIET:
        say(f"note: this machine has a load of {load:.1f} before we begin; read ratios only")
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
        measures=[one for workload in workloads for one in workload.measures],
        date=datetime.date.today().isoformat(),
        machine=describe_machine(),
        growth=growth,
        missing=missing,
        troubles=runner.troubles,
        swift=runner.swift,
    )


def make_parser() -> argparse.ArgumentParser:
    """Give what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure pushd beside its rivals."
    )
    names = ", ".join(rival.name for rival in CATALOGUE)
    parser.add_argument("--rivals", help=f"of {names} (default: all)")
    parser.add_argument("--workloads", help="of w1, w2, w3, w4, w5 (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often (default: 3)")
    parser.add_argument(
        "--minutes", type=float, default=9, help="no later round goes past them (default: 9)"
    )
    parser.add_argument("--scale", type=float, default=1, help="the part of the work (default: 1)")
    parser.add_argument(
        "--growth",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="from 100 to 10,000 connections (default: where all is measured)",
    )
    parser.add_argument(
        "--output",
        type=lambda text: Path(text).resolve(),
        default=FOLDER,
        help="where results and the servers' logs go (default: bench/results)",
    )
    parser.add_argument(
        "--docs", action="store_true", help="put the results into docs/performance.md, too"
    )
    return parser


def choose(given: str | None, known: Mapping[str, T]) -> list[T]:
    """Give what the names, parted by commas, stand for, all where none are given.

    Raises ValueError for a name that nobody has.
    """
    if given is None:
        return list(known.values())
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return [known[name] for name in names]


def raise_descriptors() -> None:
    """Let those who we start have as many connections as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
