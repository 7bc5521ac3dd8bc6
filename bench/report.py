"""The report of a run, in Markdown, and the files that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from bench.build import HERE, ROOT
from bench.growth import Growth
from bench.results import Results
from bench.rival import Rival
from bench.table import tabulate, tabulate_goals, tabulate_ratios
from bench.workload import Workload

FOLDER = HERE / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
CHART = "performance.svg"

# The report of the last run is between these lines of the document.
BEGIN, END = "<!-- the last run -->", "<!-- the end of the last run -->"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the report of a run contains."""

    results: Results
    rivals: Sequence[Rival]
    #: Those of a family one after the other.
    workloads: Sequence[Workload]
    #: When, and on which machine.
    date: str
    machine: str
    growth: Growth | None = None
    #: Rivals that are not installed.
    missing: Sequence[Rival] = ()
    troubles: Sequence[str] = field(default_factory=tuple)
    #: Titles of the rivals that kept the load generator busy, by workload.
    swift: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def as_markdown(self) -> str:
        """Format the report as Markdown."""
        lines = [f"{self.date}. {self.machine}. Medians; rounds: {self.results.rounds}.", ""]
        for family, workloads in groupby(self.workloads, lambda one: one.family):
            lines += self._describe_family(family, list(workloads))
        if self.growth is not None:
            lines += ["Cost by number of connections.", ""]
            lines += [self.growth.tabulate(self.rivals), ""]
        if self.swift:
            names = "; ".join(
                f"{name.upper()} {', '.join(rivals)}" for name, rivals in sorted(self.swift.items())
            )
            lines += [
                f"The load generator was fully busy, and may be the bottleneck, with: {names}.",
                "",
            ]
        versions = "; ".join(rival.version() or "" for rival in self.rivals)
        lines += [f"Versions: {versions}."]
        if self.missing:
            names = "; ".join(f"{rival.title} ({rival.source})" for rival in self.missing)
            lines += ["", f"Not installed on this machine: {names}."]
        if self.troubles:
            lines += ["", "Failures:", ""]
            lines += [f"- {trouble.splitlines()[0]}" for trouble in self.troubles]
        return "\n".join(lines) + "\n"

    def _describe_family(self, family: str, workloads: Sequence[Workload]) -> list[str]:
        """Return the tables of a family, with columns for the rivals that support it."""
        measures = [one for workload in workloads for one in workload.measures]
        able = frozenset[str]().union(*(one.rivals for one in workloads))
        rivals = [rival for rival in self.rivals if rival.name in able]
        lines = [f"### {family}", "", tabulate(self.results, rivals, measures), ""]
        # pushd runs as another rival where it serves an application.
        ours = next((one.name for one in rivals if one.name.partition("-")[0] == "pushd"), "")
        if self.results.has(ours):
            if ratios := tabulate_ratios(self.results, rivals, measures, ours):
                lines += ["Ratio pushd / rival; below 1, pushd is cheaper.", "", ratios, ""]
            lines += ["The goals, and the spread of pushd's rounds.", ""]
            lines += [tabulate_goals(self.results, measures, ours), ""]
        return lines


def write_report(markdown: str, chart: str, folder: Path) -> list[Path]:
    """Write a report and its chart into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, picture = folder / "performance.md", folder / CHART
    text.write_text(f"![lower is better]({CHART})\n\n{markdown}")
    picture.write_text(chart)
    return [text, picture]


def put_into(document: str, markdown: str) -> str:
    """Replace the report in a document; raises ValueError if its markers are missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document must contain {BEGIN}, followed by {END}")
    return f"{before}{BEGIN}\n\n{markdown}\n{END}{after}"
