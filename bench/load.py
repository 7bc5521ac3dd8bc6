"""The load generator at work: it stops at gates, so that we can look at the server there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from threading import Timer
from typing import Any

from bench.build import LOAD
from bench.server import Trouble

# No run takes longer, in seconds.
LIMIT = 180


def run_load(arguments: Sequence[str], at_gate: Callable[[str], None]) -> Mapping[str, Any]:
    """Run the load generator, and give what it saw; ``at_gate`` is called wherever it waits.

    Raises ``Trouble`` when not every payload came as it should, in order.
    """
    process = subprocess.Popen(
        [str(LOAD), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    timer = Timer(LIMIT, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            said = parse_line(line)
            if said["at"] == "done":
                return check_result(said)
            at_gate(said["at"])
            process.stdin.write("\n")
            process.stdin.flush()
        raise Trouble("the load generator ended before it was done")
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def parse_line(line: str) -> Mapping[str, Any]:
    """Give what a line of the load generator says; raise ``Trouble`` for another line."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict) or "at" not in said:
        raise Trouble(f"the load generator said: {line.strip()}")
    return said


def check_result(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give back a result in which nothing went wrong; raise ``Trouble`` for another."""
    if result["faults"]:
        raise Trouble(f"payloads or connections went wrong: {result['faults']}")
    return result
