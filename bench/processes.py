"""What a server costs, read from ``/proc``: processor time and memory of it and its children."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def read_run_time(schedstat: str) -> float:
    """Give the microseconds that a thread has run, from its ``schedstat`` (in nanoseconds)."""
    return int(schedstat.split()[0]) / 1000


def read_resident(rollup: str) -> int:
    """Give the KiB of memory that are resident, from a process's ``smaps_rollup``."""
    for line in rollup.splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise ValueError(f"no Rss in {rollup!r}")


def find_family(pid: int, proc: Path = PROC) -> list[int]:
    """Give a process and all that descend from it."""
    family = [pid]
    for member in family:  # It grows while we go through it.
        for children in sorted((proc / str(member) / "task").glob("*/children")):
            family += map(int, children.read_text().split())
    return family


def measure_cpu(pids: Iterable[int], proc: Path = PROC) -> float:
    """Give the microseconds that all threads of these processes have run."""
    return sum(
        read_run_time(path.read_text())
        for pid in pids
        for path in (proc / str(pid) / "task").glob("*/schedstat")
    )


def measure_memory(pids: Iterable[int], proc: Path = PROC) -> int:
    """Give the KiB of memory that are resident in these processes together."""
    return sum(read_resident((proc / str(pid) / "smaps_rollup").read_text()) for pid in pids)
