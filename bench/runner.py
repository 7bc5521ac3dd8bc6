"""Run the benchmark: in each round every workload, in each workload every rival."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from bench.results import Results
from bench.rival import Rival
from bench.server import Server, Trouble
from bench.table import format_number
from bench.workload import Workload

Say = Callable[[str], None]

# Above this share of a core, the load generator may be the bottleneck.
BUSY = 0.95


def say(text: str) -> None:
    """Print a line of progress at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Runner:
    """Measure rivals in rounds, with a new server for each measurement."""

    def __init__(
        self,
        folder: Path,
        *,
        scale: float = 1,
        say: Say = say,
        now: Callable[[], float] = time.monotonic,
        serve: Callable[[Rival, Path], AbstractContextManager[Server]] = Server,
    ) -> None:
        self.results = Results()
        self.troubles: list[str] = []
        #: Titles of the rivals that kept the load generator so busy that it may have been the
        #: bottleneck, by workload.
        self.swift: dict[str, list[str]] = {}
        self._folder = folder
        self._scale = scale
        self._say = say
        self._now = now
        self._serve = serve

    def run(
        self, rivals: Sequence[Rival], workloads: Sequence[Workload], *, rounds: int, seconds: float
    ) -> None:
        """Measure these rivals; a failure is added to ``troubles`` and does not stop the others.

        The first round is always complete. In later rounds, a workload that would end after
        ``seconds`` is left out.
        """
        end = self._now() + seconds
        took: dict[str, float] = {}
        for number in range(rounds):
            for workload in workloads:
                begun = self._now()
                if number == 0:
                    self._run_first(rivals, workload)
                elif workload.together:
                    continue
                elif begun + took[workload.name] > end:
                    self._say(f"{number + 1} {workload.name}: no time left")
                    continue
                else:
                    # One round is enough for slow rivals: their figures are far off in any case.
                    quick = [rival for rival in rivals if rival.share == 1]
                    self._run_in_turn(rotate(quick, number), workload, number + 1)
                took[workload.name] = self._now() - begun

    def _run_first(self, rivals: Sequence[Rival], workload: Workload) -> None:
        if workload.together:
            self._run_together(rivals, workload)
        else:
            self._run_in_turn(rivals, workload, 1)

    def _run_in_turn(self, rivals: Sequence[Rival], workload: Workload, number: int) -> None:
        for rival in rivals:
            if rival.name in workload.rivals:
                self._measure(rival, workload, number)

    def _run_together(self, rivals: Sequence[Rival], workload: Workload) -> None:
        rivals = [rival for rival in rivals if rival.name in workload.rivals]
        with ThreadPoolExecutor(max(1, len(rivals))) as threads:
            list(threads.map(lambda rival: self._measure(rival, workload, 1), rivals))

    def _measure(self, rival: Rival, workload: Workload, number: int) -> None:
        begun = self._now()
        head = f"{number} {workload.name} {rival.name:12}"
        try:
            with self._serve(rival, self._folder) as server:
                found = dict(workload.run(server, self._scale))
        except (Trouble, OSError) as trouble:
            self.troubles.append(f"{workload.name} {rival.name}: {trouble}")
            self._say(f"{head} FAILED: {trouble}")
            return
        busy = found.pop("busy", 0)
        self.results.add(rival.name, found)
        figures = "  ".join(
            f"{measure.key} {format_number(found[measure.key])} {measure.unit}"
            for measure in workload.measures
        )
        seconds = self._now() - begun
        note = ""
        if busy > BUSY:
            note = f"  (load generator {busy:.0%} busy)"
            swift = self.swift.setdefault(workload.name, [])
            if rival.title not in swift:
                swift.append(rival.title)
        self._say(f"{head} {figures}  in {seconds:.1f} s{note}")


def rotate(rivals: Sequence[Rival], number: int) -> list[Rival]:
    """Rotate the order, so that another rival begins each round."""
    if not rivals:
        return []
    start = number % len(rivals)
    return [*rivals[start:], *rivals[:start]]
