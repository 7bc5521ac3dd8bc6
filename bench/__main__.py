"""The command line: ``python -m bench``."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

from bench.build import BUILD, build
from bench.catalogue import CATALOGUE
from bench.runner import Runner, say
from bench.table import tabulate, tabulate_goals, tabulate_ratios
from bench.workloads import WORKLOADS

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
    raise_descriptors()
    present = [rival for rival in rivals if rival.version() is not None]
    for rival in rivals:
        if rival not in present:
            say(f"missing: {rival.name} ({rival.source})")
    runner = Runner(BUILD, scale=given.scale)
    runner.run(present, workloads, given.rounds)
    measures = [measure for workload in workloads for measure in workload.measures]
    for table in (
        tabulate(runner.results, present, measures),
        tabulate_ratios(runner.results, present, measures),
        tabulate_goals(runner.results, measures),
    ):
        say(f"\n{table}")
    return 1 if runner.troubles else 0


def make_parser() -> argparse.ArgumentParser:
    """Give what reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="pushd beside its rivals")
    parser.add_argument("--rivals", help="names, parted by commas (default: all)")
    parser.add_argument("--workloads", help="of w1 to w5, parted by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often (default: 3)")
    parser.add_argument("--scale", type=float, default=1, help="the part of the work (default: 1)")
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
