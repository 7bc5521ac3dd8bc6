"""The order of things: rounds, in each of them every workload, in each of those every rival."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.results import Results
from bench.rival import Rival
from bench.server import Server, Trouble
from bench.table import format_number
from bench.workloads import Workload

Say = Callable[[str], None]

# Above this share of a processor of its own, the load generator may be what is slow.
BUSY = 0.95


def say(text: str) -> None:
    """Tell the one who waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Runner:
    """Measure rivals, each time with a new server, in rounds."""

    def __init__(self, folder: Path, *, scale: float = 1, say: Say = say) -> None:
        self.results = Results()
        self.troubles: list[str] = []
        self._folder = folder
        self._scale = scale
        self._say = say

    def run(self, rivals: Sequence[Rival], workloads: Sequence[Workload], rounds: int) -> None:
        """Measure these; what goes wrong with one is kept in ``troubles`` and stops no other."""
        for number in range(rounds):
            for workload in workloads:
                able = [rival for rival in rivals if workload.name in rival.workloads]
                if workload.together:
                    if number == 0:
                        self._run_together(able, workload)
                    continue
                for rival in rotate(able, number):
                    # The slow ones have one round: they are far off in any case.
                    if number == 0 or rival.share == 1:
                        self._measure(rival, workload, number + 1)

    def _run_together(self, rivals: Sequence[Rival], workload: Workload) -> None:
        with ThreadPoolExecutor(max(1, len(rivals))) as threads:
            list(threads.map(lambda rival: self._measure(rival, workload, 1), rivals))

    def _measure(self, rival: Rival, workload: Workload, number: int) -> None:
        begun = time.monotonic()
        head = f"{number} {workload.name} {rival.name:12}"
        try:
            with Server(rival, self._folder) as server:
                found = workload.run(server, self._scale)
        except (Trouble, OSError) as trouble:
            self.troubles.append(f"{workload.name} {rival.name}: {trouble}")
            self._say(f"{head} FAILED: {trouble}")
            return
        self.results.add(rival.name, found)
        figures = "  ".join(
            f"{measure.key} {format_number(found[measure.key])} {measure.unit}"
            for measure in workload.measures
        )
        seconds = time.monotonic() - begun
        busy = found.get("busy", 0)
        note = f"  (load generator {busy:.0%} busy)" if busy > BUSY else ""
        self._say(f"{head} {figures}  in {seconds:.1f} s{note}")


def rotate(rivals: Sequence[Rival], number: int) -> list[Rival]:
    """Give the rivals in an order that begins with another one each round."""
    if not rivals:
        return []
    start = number % len(rivals)
    return [*rivals[start:], *rivals[:start]]
