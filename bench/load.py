"""Run the load generator, which stops at gates so that the server can be measured there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from threading import Timer
from typing import Any

from bench.build import LOAD
from bench.server import Trouble

# The load generator is killed after this time, in seconds.
LIMIT = 180


def run_load(
    arguments: Sequence[str], at_gate: Callable[[str], None], limit: float = LIMIT
) -> Mapping[str, Any]:
    """Run the load generator and return its result; ``at_gate`` is called at each gate.

    It is killed after ``limit`` seconds. Raises ``Trouble`` if a payload is missing, wrong or out
    of order.
    """
    process = subprocess.Popen(
        [str(LOAD), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    timer = Timer(limit, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            said = parse_line(line)
            if said["at"] == "done":
                return check_result(said)
            at_gate(said["at"])
            process.stdin.write("\n")
            process.stdin.flush()
        raise Trouble("the load generator ended without a result")
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def parse_line(line: str) -> Mapping[str, Any]:
    """Parse a line of JSON from the load generator; raises ``Trouble`` for anything else."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict) or "at" not in said:
        raise Trouble(f"unexpected output of the load generator: {line.strip()}")
    return said


def check_result(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the result unless it contains faults; raises ``Trouble`` if it does."""
    if result["faults"]:
        raise Trouble(f"wrong payloads or lost connections: {result['faults']}")
    return result
