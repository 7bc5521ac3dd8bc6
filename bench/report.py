"""All that a run found, as one piece of Markdown, and where it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.build import HERE, ROOT
from bench.growth import Growth
from bench.results import Results
from bench.rival import Rival
from bench.table import tabulate, tabulate_goals, tabulate_ratios
from bench.workload import Measure

FOLDER = HERE / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
CHART = "performance.svg"

# What stands between these in the document is the last run.
BEGIN, END = "<!-- the last run -->", "<!-- the end of the last run -->"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is to be told of a run."""

    results: Results
    rivals: Sequence[Rival]
    measures: Sequence[Measure]
    #: When and on what.
    date: str
    machine: str
    growth: Growth | None = None
    #: Those who could not be measured, and where they are to be had.
    missing: Sequence[Rival] = ()
    troubles: Sequence[str] = field(default_factory=tuple)
    #: Who kept the load generator busy all the time, by workload.
    swift: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def as_markdown(self) -> str:
        """Give it as Markdown."""
        lines = [f"{self.date}. {self.machine}. Medians; rounds: {self.results.rounds}.", ""]
        lines += [tabulate(self.results, self.rivals, self.measures), ""]
        if self.results.has("pushd"):
            lines += ["pushd : rival; below 1, pushd is cheaper.", ""]
            lines += [tabulate_ratios(self.results, self.rivals, self.measures), ""]
            lines += [
                "What pushd is to reach, and how far its rounds lie apart.",
                "",
                tabulate_goals(self.results, self.measures),
                "",
            ]
        if self.growth is not None:
            lines += ["From a few connections to many.", ""]
            lines += [self.growth.tabulate(self.rivals), ""]
        if self.swift:
            names = "; ".join(
                f"{name.upper()} {', '.join(rivals)}" for name, rivals in sorted(self.swift.items())
            )
            lines += [f"The load generator had nothing to wait for with: {names}.", ""]
        versions = "; ".join(rival.version() or "" for rival in self.rivals)
        lines += [f"Versions: {versions}."]
        if self.missing:
            names = "; ".join(f"{rival.title} ({rival.source})" for rival in self.missing)
            lines += ["", f"Missing on this machine: {names}."]
        if self.troubles:
            lines += ["", "What went wrong:", ""]
            lines += [f"- {trouble.splitlines()[0]}" for trouble in self.troubles]
        return "\n".join(lines) + "\n"


def write_report(markdown: str, chart: str, folder: Path) -> list[Path]:
    """Keep a report and its chart in a folder, and give the files."""
    folder.mkdir(parents=True, exist_ok=True)
    text, picture = folder / "performance.md", folder / CHART
    text.write_text(f"![less is better]({CHART})\n\n{markdown}")
    picture.write_text(chart)
    return [text, picture]


def put_into(document: str, markdown: str) -> str:
    """Give a document with this in the place of the run in it. Raises ValueError without one."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} with {END} behind it")
    return f"{before}{BEGIN}\n\n{markdown}\n{END}{after}"
