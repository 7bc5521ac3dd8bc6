"""The command ``pushd``, also as ``python -m pushd``."""

from __future__ import annotations

import os
import sys
import time
from threading import Event

from pushd.client.cli import run
from pushd.client.client import connect
from pushd.client.commands import World


def main() -> int:
    """Run the command line, and return the exit code."""
    world = World(
        now=time.time,
        environ=os.environ,
        stdin=sys.stdin.buffer,
        stdout=sys.stdout,
        stderr=sys.stderr,
        connect=connect,
        pause=Event().wait,
    )
    try:
        return run(sys.argv[1:], world)
    except BrokenPipeError:
        # The reader of our output has closed it, as head does. Python's own flush at the exit would
        # fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
