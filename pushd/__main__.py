"""The programs ``pushdctl`` and ``pushd``, which are also ``python -m pushd``."""

from __future__ import annotations

import os
import sys
import time
from selectors import DefaultSelector
from threading import Event

from pushd.client.cli import run
from pushd.client.commands import CommandRuntime
from pushd.client.http import connect


def main() -> int:
    """Run the command line of the process, and return the exit code."""
    runtime = CommandRuntime(
        now=time.time,
        environ=os.environ,
        stdin=sys.stdin.buffer,
        stdout=sys.stdout,
        stderr=sys.stderr,
        connect=connect,
        pause=Event().wait,
        monotonic=time.perf_counter,
        processor=time.process_time,
        make_selector=DefaultSelector,
    )
    try:
        try:
            return run(sys.argv[1:], runtime)
        finally:
            # Not when Python exits, where a failure could not be handled: --help prints, too.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has exited, as head does. Python flushes the rest of the output
        # when it exits, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
