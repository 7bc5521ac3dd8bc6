"""Measure how the cost grows with the number of connections."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rival import Rival
from bench.server import Server
from bench.table import format_number, make_table
from bench.workloads import run_publications

SIZES = (100, 300, 1000, 3000, 10000)

# The same number of messages before and during each measurement: new connections cost more.
WARM, TIMES = 20, 40


@dataclass(frozen=True)
class Growth:
    """The costs, by the name of the rival and the number of connections."""

    found: Mapping[str, Mapping[int, Mapping[str, float]]]

    def tabulate(self, rivals: Sequence[Rival]) -> str:
        """Format a table with a row for each number of connections."""
        shown = [rival for rival in rivals if rival.name in self.found]
        head = ["connections"]
        for rival in shown:
            head += [
                f"{rival.title}: µs per delivery",
                "µs per handshake",
                "KiB per connection",
            ]
        rows = [head]
        sizes = sorted({size for one in self.found.values() for size in one})
        for size in sizes:
            row = [f"{size:,}"]
            for rival in shown:
                costs = self.found[rival.name].get(size, {})
                row += [format_number(costs.get(key)) for key in ("delivery", "arrival", "memory")]
            rows.append(row)
        return make_table(rows)


def measure_growth(
    rivals: Sequence[Rival], folder: Path, scale: float, say: Callable[[str], None]
) -> Growth:
    """Measure each rival at every size. Raises ``Trouble`` and ``OSError``."""
    found: dict[str, dict[int, Mapping[str, float]]] = {rival.name: {} for rival in rivals}
    for size in SIZES:
        subscribers = max(1, round(size * scale))
        for rival in rivals:
            # Small runs are quick, and noisy.
            runs = [
                _measure(rival, folder, subscribers) for _ in range(3 if subscribers <= 1000 else 1)
            ]
            costs = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            found[rival.name][subscribers] = costs
            say(
                f"growth {rival.name:8} {subscribers:6,} connections: "
                f"{format_number(costs['delivery'])} µs per delivery, "
                f"{format_number(costs['arrival'])} µs per handshake, "
                f"{format_number(costs['memory'])} KiB per connection"
            )
    return Growth(found)


def _measure(rival: Rival, folder: Path, subscribers: int) -> Mapping[str, float]:
    with Server(rival, folder) as server:
        return run_publications(server, subscribers, burst=1, times=TIMES, warm=WARM, crowd=True)
