"""The command line of the soak test."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from signal import SIG_IGN, SIGHUP, SIGTERM, default_int_handler, getsignal, signal

from tests.soak.soak import Plan, Say, Soak

# Fewer seconds give too few samples, and too little time for anything to fail.
_SHORTEST = 0.3


def say(text: str) -> None:
    """Print a text at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str], say: Say = say) -> int:
    """Run the soak test and return the exit code: 1 if it fails or cannot be run."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    default = Plan()
    parser.add_argument(
        "--minutes", type=float, default=default.seconds / 60, help="(default: %(default)g)"
    )
    parser.add_argument("--clients", type=int, default=default.clients, help="(%(default)s)")
    parser.add_argument(
        "--rate", type=float, default=default.rate, help="publications a second (%(default)g)"
    )
    parser.add_argument(
        "--churn",
        type=float,
        default=default.churn,
        help="connections that end or stall, a second (%(default)g)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="(%(default)s)")
    parser.add_argument("--views", default=default.views, help="views of the daemons (%(default)s)")
    given = parser.parse_args(arguments)
    if given.minutes < _SHORTEST:
        parser.error(f"argument --minutes: {given.minutes:g} is less than {_SHORTEST}")
    for name in ("clients", "rate", "churn"):
        if getattr(given, name) <= 0:
            parser.error(f"argument --{name}: {getattr(given, name):g} is not above 0")
    if shutil.which("redis-server") is None:
        say("soak: redis-server is not installed: apt-get install redis-server")
        return 1
    # The daemons would inherit from nohup that it is ignored, and would not reload.
    if getsignal(SIGHUP) is SIG_IGN:
        signal(SIGHUP, lambda number, frame: None)
    # What it has started must not outlive it.
    signal(SIGTERM, default_int_handler)
    plan = Plan(
        seconds=60 * given.minutes,
        clients=given.clients,
        rate=given.rate,
        churn=given.churn,
        seed=given.seed,
        views=given.views,
    )
    say(f"soak: {plan.clients:,} clients for {given.minutes:g} min on two nodes, seed {plan.seed}")
    try:
        return 0 if asyncio.run(Soak(plan, say).run()) else 1
    except OSError as error:
        say(f"soak: FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("soak: interrupted")
        return 130
