"""CPU time and memory of a server and its child processes, from ``/proc``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def read_run_time(schedstat: str) -> float:
    """Return a thread's CPU time in microseconds, from its ``schedstat`` (in nanoseconds)."""
    return int(schedstat.split()[0]) / 1000


def read_resident(rollup: str) -> int:
    """Return a process's resident memory in KiB, from its ``smaps_rollup``."""
    for line in rollup.splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise ValueError(f"no Rss in {rollup!r}")


def find_family(pid: int, proc: Path = PROC) -> list[int]:
    """Return the ids of a process and all its descendants."""
    family = [pid]
    for member in family:  # The list grows during the iteration.
        for children in sorted((proc / str(member) / "task").glob("*/children")):
            family += map(int, children.read_text().split())
    return family


def measure_cpu(pids: Iterable[int], proc: Path = PROC) -> float:
    """Return the CPU time of all threads of these processes, in microseconds."""
    return sum(
        read_run_time(path.read_text())
        for pid in pids
        for path in (proc / str(pid) / "task").glob("*/schedstat")
    )


def measure_memory(pids: Iterable[int], proc: Path = PROC) -> int:
    """Return the resident memory of these processes together, in KiB."""
    return sum(read_resident((proc / str(pid) / "smaps_rollup").read_text()) for pid in pids)
