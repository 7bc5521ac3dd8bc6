"""The benchmark's computations and reports; nothing is measured here."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench import applications, capacity, nodes, publishing
from bench.__main__ import choose, choose_workloads, main, make_parser
from bench.build import is_older
from bench.catalogue import CATALOGUE, PUSHD, version_of
from bench.chart import LONGEST, draw_chart
from bench.compare import (
    BASE,
    MOST_FAILURES,
    NEW,
    SCALES,
    Comparison,
    Summary,
    find_cores,
    make_side,
    summarize,
    tabulate_comparison,
)
from bench.compare import main as compare
from bench.descriptors import raise_descriptors
from bench.growth import SIZES, Growth
from bench.load import check_result, parse_line
from bench.machine import describe_machine, find_memory, find_processor
from bench.processes import (
    find_family,
    measure_cpu,
    measure_memory,
    read_resident,
    read_run_time,
)
from bench.publishing import PUBLISHING
from bench.readings import scaled
from bench.report import BEGIN, DOCUMENT, END, Report, put_into, write_report
from bench.results import Results
from bench.rival import PATHS, Rival, Start
from bench.runner import Runner, rotate
from bench.server import Server, Trouble
from bench.table import format_number, tabulate, tabulate_goals, tabulate_ratios
from bench.waiting import await_events
from bench.workload import Measure, Workload
from bench.workloads import WEBSOCKETS, WORKLOADS

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"

SUPPORTED = frozenset({"pushd", "floor", "other"})

CPU = Measure("w9.cpu", "W9 sums: CPU each", "µs", most=10, relations=((1.5, "floor"),))
LATE = Measure("w9.late", "W9 lateness", "ms")


def make_rival(name: str, **changes: Any) -> Rival:
    """Make a rival that cannot be started."""
    rival = Rival(
        name=name,
        title=name.title(),
        start=lambda folder: Start([], folder),
        version=lambda: f"{name} 1.0",
        source="nowhere",
    )
    return replace(rival, **changes)


def make_workload(*measures: Measure, **changes: Any) -> Workload:
    """Make a workload that cannot be run."""
    workload = Workload("w9", "sums", lambda server, scale: {}, measures, SUPPORTED)
    return replace(workload, **changes)


def set_age(path: Path, age: int) -> None:
    """Set the modification time of a file: its age in seconds before a fixed moment."""
    os.utime(path, (10_000 - age, 10_000 - age))


def make_results(samples: Mapping[str, Mapping[str, list[float]]]) -> Results:
    """Make results from samples by rival and key."""
    results = Results()
    for rival, found in samples.items():
        for key, values in found.items():
            for value in values:
                results.add(rival, {key: value})
    return results


OURS, FLOOR, OTHER = make_rival("pushd"), make_rival("floor"), make_rival("other")
RIVALS = (OURS, FLOOR, OTHER)
RESULTS = make_results(
    {
        "pushd": {"w9.cpu": [9.0, 30.0, 6.0], "w9.late": [0.5]},
        "floor": {"w9.cpu": [5.0]},
        "other": {"w9.cpu": [1200.0]},
    }
)


class ProcessesTests(SynchronousTestCase):
    """CPU time and memory are read from ``/proc``."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.proc = Path(folder.name)
        self._add(1, {1: "2 3 ", 10: ""}, nanoseconds=5000, resident=100)
        self._add(2, {2: "4 "}, nanoseconds=7000, resident=20)
        self._add(3, {3: ""}, nanoseconds=0, resident=3)
        self._add(4, {4: ""}, nanoseconds=250, resident=1000)
        self._add(5, {5: ""}, nanoseconds=9999999, resident=9999)

    def _add(
        self, pid: int, threads: Mapping[int, str], *, nanoseconds: int, resident: int
    ) -> None:
        for thread, children in threads.items():
            task = self.proc / str(pid) / "task" / str(thread)
            task.mkdir(parents=True)
            (task / "children").write_text(children)
            (task / "schedstat").write_text(f"{nanoseconds} 123 4\n")
        text = f"00400000-7ff rollup\nRss:   {resident} kB\nPss:   7 kB\n"
        (self.proc / str(pid) / "smaps_rollup").write_text(text)

    def test_run_time(self) -> None:
        """The first number of schedstat is the CPU time in nanoseconds."""
        self.assertEqual(read_run_time("39695870 151113490 95\n"), 39695.87)

    def test_resident(self) -> None:
        """The resident size is read from smaps_rollup; without one, reading fails."""
        self.assertEqual(read_resident("55-7f [rollup]\nRss:     8212 kB\nPss: 1 kB\n"), 8212)
        self.assertRaises(ValueError, read_resident, "Pss: 1 kB\n")

    def test_family(self) -> None:
        """A family is a process with all its descendants, and no other process."""
        self.assertEqual(find_family(1, self.proc), [1, 2, 3, 4])

    def test_sums(self) -> None:
        """CPU time and memory are summed over all threads and processes of a family."""
        family = find_family(1, self.proc)
        self.assertEqual(measure_cpu(family, self.proc), 5 + 5 + 7 + 0.25)
        self.assertEqual(measure_memory(family, self.proc), 1123)

    def test_own(self) -> None:
        """This kernel's ``/proc`` has the files that are read."""
        family = find_family(os.getpid())[:1]
        self.assertGreater(measure_cpu(family), 0)
        self.assertGreater(measure_memory(family), 1000)


class LoadTests(SynchronousTestCase):
    """The output of the load generator is parsed and checked."""

    def test_gate(self) -> None:
        """A line of JSON names the gate."""
        self.assertEqual(parse_line('{"at": "start"}\n'), {"at": "start"})

    def test_other(self) -> None:
        """Any other line fails the run, and is quoted in the error."""
        for line in ("terminate called\n", "[1]\n", '{"units": 1}\n'):
            trouble = self.assertRaises(Trouble, parse_line, line)
            self.assertIn(line.strip(), str(trouble))

    def test_faults(self) -> None:
        """A result with faults fails the run, and the error names them."""
        self.assertEqual(check_result({"faults": "", "units": 1})["units"], 1)
        trouble = self.assertRaises(Trouble, check_result, {"faults": "3 x payload"})
        self.assertIn("3 x payload", str(trouble))


class WaitingTests(SynchronousTestCase):
    """Clients poll while they wait, but sleep if there is one core only."""

    def setUp(self) -> None:
        self.allowed: list[float] = []

    def _await(self, cores: set[int], timeout: float, after: int) -> list[str]:
        """Wait for an event that comes with a poll."""

        def poll(allowed: float) -> list[str]:
            self.allowed.append(allowed)
            return ["event"] if len(self.allowed) == after else []

        self.patch(os, "sched_getaffinity", lambda _: cores)
        return await_events(poll, timeout)

    def test_polls(self) -> None:
        """It polls until there is an event."""
        self.assertEqual(self._await({0, 1}, 60, after=3), ["event"])
        self.assertEqual(self.allowed, [0, 0, 0])

    def test_ends(self) -> None:
        """Without an event, it ends when the time-out is over."""
        self.assertEqual(self._await({0, 1}, 0, after=9), [])

    def test_sleeps(self) -> None:
        """On one core, it sleeps."""
        self.assertEqual(self._await({1}, 60, after=1), ["event"])
        self.assertEqual(self.allowed, [60])

    def test_may_sleep(self) -> None:
        """It sleeps if it is to leave its core to the server."""
        self.assertEqual(await_events(lambda allowed: [allowed], 60, sleeps=True), [60])


class ResultsTests(SynchronousTestCase):
    """Medians, ratios and goals are computed from samples."""

    def test_median(self) -> None:
        """The median ignores an outlier; the spread shows it."""
        self.assertEqual(RESULTS.median("w9.cpu", "pushd"), 9)
        self.assertEqual(RESULTS.spread("w9.cpu", "pushd"), (6, 30))

    def test_nothing(self) -> None:
        """Without samples every figure is None, and looking it up does not add any."""
        for _ in range(2):
            self.assertIsNone(RESULTS.median("w9.late", "other"))
            self.assertIsNone(RESULTS.spread("w9.late", "other"))
            self.assertIsNone(RESULTS.ratio("w9.late", "pushd", "other"))
            self.assertIsNone(RESULTS.ratio("w9.cpu", "unknown", "other"))
            self.assertFalse(RESULTS.has("unknown"))
            self.assertEqual(Results().rounds, 0)
        self.assertTrue(RESULTS.has("other"))

    def test_ratio(self) -> None:
        """A ratio is our median divided by theirs."""
        self.assertEqual(RESULTS.ratio("w9.cpu", "pushd", "floor"), 1.8)

    def test_judge(self) -> None:
        """Each goal is judged, unless the figures for it are missing."""
        self.assertEqual(RESULTS.judge(CPU), "≤ 10: yes, ≤ 1.5 x floor: no")
        self.assertEqual(RESULTS.judge(replace(CPU, most=8, relations=())), "≤ 8: no")
        self.assertEqual(RESULTS.judge(replace(CPU, relations=((2, "floor"),))).count("yes"), 2)
        self.assertEqual(RESULTS.judge(replace(CPU, relations=((2, "unknown"),))), "≤ 10: yes")
        self.assertEqual(RESULTS.judge(LATE), "")


class TableTests(SynchronousTestCase):
    """Results are formatted as Markdown tables."""

    def test_numbers(self) -> None:
        """Numbers are shown with their significant digits only."""
        shown = {
            None: "-",
            0.0: "0.00",
            0.104: "0.10",
            0.96: "1.0",
            4.649: "4.6",
            9.96: "10",
            74.6: "75",
            1311.4: "1,311",
            -0.31: "-0.31",
            -12.0: "-12",
        }
        for number, text in shown.items():
            self.assertEqual(format_number(number), text)

    def test_medians(self) -> None:
        """The medians have a row per measure and a column per rival; a dash means not measured."""
        self.assertEqual(
            tabulate(RESULTS, RIVALS, (CPU, LATE)).splitlines(),
            [
                "|  | Pushd | Floor | Other |",
                "| --- | ---: | ---: | ---: |",
                "| W9 sums: CPU each, µs | 9.0 | 5.0 | 1,200 |",
                "| W9 lateness, ms | 0.50 | - | - |",
            ],
        )

    def test_ratios(self) -> None:
        """The ratios have a column for each rival, none for pushd, and no row without a ratio."""
        self.assertEqual(
            tabulate_ratios(RESULTS, RIVALS, (CPU, LATE)).splitlines()[::2],
            ["|  | Floor | Other |", "| W9 sums: CPU each | 1.8 | 0.01 |"],
        )
        self.assertEqual(tabulate_ratios(RESULTS, RIVALS, (LATE,)), "")

    def test_goals(self) -> None:
        """A measure without samples is left out; one without a goal has a dash."""
        table = tabulate_goals(RESULTS, (CPU, LATE, Measure("w9.no", "W9 nothing", "s", 1)))
        self.assertEqual(
            table.splitlines()[2:],
            [
                "| W9 sums: CPU each, µs | 9.0 | 6.0 to 30 | 3 | ≤ 10: yes, ≤ 1.5 x floor: no |",
                "| W9 lateness, ms | 0.50 | 0.50 to 0.50 | 1 | - |",
            ],
        )

    def test_growth(self) -> None:
        """Growth has a row per number of connections, and three columns per measured rival."""
        costs = {"delivery": 4.0, "arrival": 30.0, "memory": 0.1}
        growth = Growth({"pushd": {1000: costs, 100: costs}, "other": {100: costs}})
        lines = growth.tabulate(RIVALS).splitlines()
        self.assertEqual(lines[0].count("delivery"), 2)
        self.assertEqual(lines[2], "| 100 | 4.0 | 30 | 0.10 | 4.0 | 30 | 0.10 |")
        self.assertEqual(lines[3], "| 1,000 | 4.0 | 30 | 0.10 | - | - | - |")
        self.assertEqual((SIZES[0], SIZES[-1]), (100, 10_000))


class ChartTests(SynchronousTestCase):
    """Results are drawn as SVG."""

    def draw(self, *measures: Measure) -> ElementTree.Element:
        return ElementTree.fromstring(draw_chart(RESULTS, RIVALS, measures))

    def test_bars(self) -> None:
        """Each figure has a bar, the lowest first; pushd and the floor have their own colours."""
        chart = self.draw(CPU, LATE, Measure("w9.no", "W9 nothing", "s"))
        bars = chart.findall(f".//{SVG}rect")
        self.assertEqual([bar.get("class") for bar in bars], ["floor", "ours", "bar", "ours"])
        self.assertEqual(len(chart.findall(f"{SVG}g")), 2)

    def test_lengths(self) -> None:
        """Bars are proportional to their figures; the bar of an outlier is visibly cut off."""
        chart = self.draw(CPU)
        floor, ours, other = (float(bar.get("width", 0)) for bar in chart.iter(f"{SVG}rect"))
        self.assertAlmostEqual(ours / floor, 9 / 5, places=1)
        self.assertAlmostEqual(other / ours, LONGEST, places=1)
        self.assertEqual(len(chart.findall(f".//{SVG}path")), 1)
        self.assertIn("1,200", [text.text for text in chart.iter(f"{SVG}text")])

    def test_dark(self) -> None:
        """The chart has colours for dark pages."""
        style = self.draw(CPU).findtext(f"{SVG}style")
        assert style is not None
        self.assertIn("prefers-color-scheme: dark", style)

    def test_zero(self) -> None:
        """Figures of zero or below have a bar of one pixel."""
        results = make_results({"pushd": {"w9.cpu": [0.0]}, "floor": {"w9.cpu": [-0.1]}})
        chart = ElementTree.fromstring(draw_chart(results, RIVALS, (CPU,)))
        self.assertEqual([bar.get("width") for bar in chart.iter(f"{SVG}rect")], ["1.0", "1.0"])


class ReportTests(SynchronousTestCase):
    """A run is reported as one document."""

    def setUp(self) -> None:
        self.report = Report(
            results=RESULTS,
            rivals=RIVALS,
            workloads=(make_workload(CPU, LATE),),
            date="2026-11-22",
            machine="A machine",
        )

    def test_whole(self) -> None:
        """The report names the machine, the versions, missing rivals and failures."""
        costs = {"delivery": 4.0, "arrival": 30.0, "memory": 0.1}
        text = replace(
            self.report,
            missing=(make_rival("absent"),),
            troubles=("w9 other: it ended\n    its log",),
            growth=Growth({"pushd": {100: costs}}),
            swift={"w9": ["Floor", "Other"], "w8": ["Other"]},
        ).as_markdown()
        self.assertTrue(
            text.startswith("2026-11-22. A machine. Medians; rounds: 3.\n\n### WebSockets\n\n|  |")
        )
        for words in (
            "Versions: pushd 1.0; floor 1.0; other 1.0.\n",
            "Not installed on this machine: Absent (nowhere).\n",
            "- w9 other: it ended\n",
            "may be the bottleneck, with: W8 Other; W9 Floor, Other.\n",
            "| connections |",
            "≤ 10: yes",
        ):
            self.assertIn(words, text)
        self.assertNotIn("its log", text)

    def test_application(self) -> None:
        """Where pushd runs as another rival, with an application, the figures are that one's."""
        ours = make_rival("pushd-wsgi")
        results = make_results({"pushd-wsgi": {"w9.cpu": [3.0]}, "other": {"w9.cpu": [6.0]}})
        workload = make_workload(CPU, rivals=frozenset({"pushd-wsgi", "other"}))
        text = replace(
            self.report, results=results, rivals=(OURS, ours, OTHER), workloads=(workload,)
        ).as_markdown()
        self.assertIn("| W9 sums: CPU each | 0.50 |", text)
        self.assertIn("| W9 sums: CPU each, µs | 3.0 | 3.0 to 3.0 | 1 |", text)

    def test_without_us(self) -> None:
        """Without pushd there are no ratios or goals; empty sections are left out."""
        results = make_results({"floor": {"w9.cpu": [5.0]}})
        text = replace(self.report, results=results, rivals=(FLOOR,)).as_markdown()
        for words in ("Ratio", "rival;", "goals", "Not installed", "Failures", "connections"):
            self.assertNotIn(words, text)

    def test_files(self) -> None:
        """The report links to the chart beside it."""
        with TemporaryDirectory() as folder:
            text, chart = write_report("| a |\n", "<svg/>\n", Path(folder) / "new")
            self.assertEqual(chart.read_text(), "<svg/>\n")
            self.assertIn(f"]({chart.name})", text.read_text())
            self.assertIn("| a |", text.read_text())

    def test_document(self) -> None:
        """A new report replaces the old one in a document; the rest stays as it is."""
        old = f"# Head\n\n{BEGIN}\n\nold\n{END}\n\n## Tail\n"
        new = put_into(old, "new\n")
        self.assertEqual(new, f"# Head\n\n{BEGIN}\n\nnew\n\n{END}\n\n## Tail\n")
        self.assertEqual(put_into(new, "new\n"), new)

    def test_no_place(self) -> None:
        """A document without markers is refused; docs/performance.md has them."""
        for text in ("# Head\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"):
            self.assertRaises(ValueError, put_into, text, "new")
        put_into(DOCUMENT.read_text(), "new")


class RunnerTests(SynchronousTestCase):
    """Rounds, workloads and rivals run in order."""

    def setUp(self) -> None:
        self.time = 0.0
        self.said: list[str] = []
        self.done: list[tuple[str, str]] = []
        self.up: set[str] = set()
        self.runner = Runner(Path(), say=self.said.append, now=lambda: self.time, serve=self._serve)

    @contextmanager
    def _serve(self, rival: Rival, folder: Path) -> Iterator[Server]:
        self.assertEqual(self.up, set())
        self.up.add(rival.name)
        try:
            yield cast(Server, rival)
        finally:
            self.up.remove(rival.name)

    def _make_workload(
        self, name: str, takes: float = 1.0, fails: Callable[[str], None] = lambda name: None
    ) -> Workload:
        def run(server: Server, scale: float) -> Mapping[str, float]:
            rival = cast(Rival, server)
            self.done.append((name, rival.name))
            self.time += takes
            fails(rival.name)
            return {f"{name}.cpu": self.time, "busy": 0.99}

        return make_workload(Measure(f"{name}.cpu", name, "µs"), name=name, run=run)

    def test_rounds(self) -> None:
        """Each workload runs all rivals in turn, and another one begins each round."""
        rivals = RIVALS[:2]
        self.runner.run(
            rivals, [self._make_workload("a"), self._make_workload("b")], rounds=2, seconds=99
        )
        self.assertEqual(
            ["".join(one) for one in self.done],
            [
                *("apushd", "afloor", "bpushd", "bfloor"),
                *("afloor", "apushd", "bfloor", "bpushd"),
            ],
        )
        self.assertEqual(self.runner.results.spread("a.cpu", "pushd"), (1, 6))
        self.assertEqual(self.runner.results.rounds, 2)
        self.assertEqual(self.runner.troubles, [])
        self.assertIn("99% busy", self.said[0])
        titles = [rival.title for rival in rivals]
        self.assertEqual(self.runner.swift, {"a": titles, "b": titles})

    def test_able(self) -> None:
        """A rival runs only the workloads that it supports; a slow one has a single round."""
        rivals = [make_rival("able"), make_rival("other"), make_rival("slow", share=0.1)]
        workload = replace(self._make_workload("w9"), rivals=frozenset({"able", "slow"}))
        self.runner.run(rivals, [workload], rounds=3, seconds=99)
        self.assertEqual([name for _, name in self.done], ["able", "slow", "able", "able"])

    def test_no_time(self) -> None:
        """In later rounds a workload that would take too long is left out; a shorter one is not."""
        rival = make_rival("pushd")
        workloads = [self._make_workload("long", 10), self._make_workload("short", 1)]
        self.runner.run([rival], workloads, rounds=2, seconds=12)
        self.assertEqual([name for name, _ in self.done], ["long", "short", "short"])
        self.assertIn("2 long: no time left", self.said)

    def test_trouble(self) -> None:
        """A rival that fails is reported, and does not stop the others."""

        def fail(name: str) -> None:
            if name == "floor":
                raise Trouble("it ended")
            if name == "other":
                raise OSError("no such process")

        workload = self._make_workload("w9", fails=fail)
        self.runner.run([FLOOR, OTHER, OURS], [workload], rounds=1, seconds=9)
        self.assertEqual(self.runner.troubles, ["w9 floor: it ended", "w9 other: no such process"])
        self.assertEqual(self.runner.results.median("w9.cpu", "pushd"), 3)
        self.assertIsNone(self.runner.results.median("w9.cpu", "floor"))

    def test_together(self) -> None:
        """A workload for all rivals at once runs once, for the rivals that support it."""
        workload = replace(self._make_workload("w9"), together=True, rivals=frozenset({"pushd"}))
        self.runner.run([OURS, OTHER], [workload], rounds=3, seconds=99)
        self.assertEqual(self.done, [("w9", "pushd")])

    def test_rotate(self) -> None:
        """Rotation moves the first rivals to the end."""
        self.assertEqual(rotate(RIVALS, 0), list(RIVALS))
        self.assertEqual(rotate(RIVALS, 4), [FLOOR, OTHER, OURS])
        self.assertEqual(rotate([], 1), [])


class ComparisonTests(SynchronousTestCase):
    """Two checkouts in paired rounds."""

    def setUp(self) -> None:
        self.said: list[str] = []
        # The order in which the sides are passed on to be started.
        self.started: list[str] = []
        self.up: set[str] = set()
        self.scales: list[float] = []
        self.affinities: list[set[int]] = []
        # What each side measures, one figure a round.
        self.figures: dict[str, list[float]] = {BASE: [10.0, 20.0], NEW: [11.0, 18.0]}
        self.comparison = self.make_comparison()

    def make_comparison(self, cores: tuple[int, int] | None = None) -> Comparison:
        return Comparison(
            make_rival(BASE),
            make_rival(NEW),
            Path(),
            cores=cores,
            scale=0.5,
            say=self.said.append,
            serve=self._serve,
        )

    def _serve(self, rival: Rival, folder: Path) -> AbstractContextManager[Server]:
        self.started.append(rival.name)
        return self._run_server(rival)

    @contextmanager
    def _run_server(self, rival: Rival) -> Iterator[Server]:
        self.affinities.append(os.sched_getaffinity(0))
        self.up.add(rival.name)
        try:
            yield cast(Server, rival)
        finally:
            self.up.remove(rival.name)

    def _run_workload(self, server: Server, scale: float) -> Mapping[str, float]:
        self.assertEqual(self.up, {BASE, NEW})
        self.scales.append(scale)
        self.affinities.append(os.sched_getaffinity(0))
        figures = self.figures[cast(Rival, server).name]
        if not figures:
            raise Trouble("it ended")
        return {"w9.cpu": figures.pop(0), "busy": 0.5}

    def run_workload(self, name: str = "w9", rounds: int = 2) -> None:
        self.comparison.run([make_workload(CPU, name=name, run=self._run_workload)], rounds)

    def test_rounds(self) -> None:
        """Both sides run at the same time; the side that starts first alternates."""
        self.run_workload()
        self.assertEqual(self.started, [BASE, NEW, NEW, BASE])
        self.assertEqual(self.comparison.results.ratios("w9.cpu", NEW, BASE), [1.1, 0.9])
        self.assertEqual(self.comparison.troubles, [])
        self.assertEqual(self.said[0], "1 w9 w9.cpu: base 10, new 11 µs, ratio 1.100")

    def test_scale(self) -> None:
        """W1 and W4 are smaller than in the benchmark; --scale applies to every workload."""
        self.run_workload("w4", 1)
        self.run_workload("w5", 1)
        self.assertEqual(self.scales, [SCALES["w4"] / 2] * 2 + [0.5] * 2)

    def test_cores(self) -> None:
        """Daemons run on one core and load generators on another; this process is not pinned."""
        allowed = os.sched_getaffinity(0)
        self.run_workload(rounds=1)
        self.assertEqual(self.affinities, [allowed] * 4)
        self.affinities.clear()
        self.comparison = self.make_comparison((min(allowed), max(allowed)))
        self.run_workload(rounds=1)
        self.assertEqual(self.affinities, [{min(allowed)}] * 2 + [{max(allowed)}] * 2)
        self.assertEqual(os.sched_getaffinity(0), allowed)

    def test_find_cores(self) -> None:
        """Two of the allowed cores are used; with a single one nothing is pinned."""
        for allowed, cores in (({5, 3, 8}, (3, 5)), ({4}, None)):
            self.patch(os, "sched_getaffinity", lambda pid, allowed=allowed: allowed)
            self.assertEqual(find_cores(), cores)

    def test_pairs(self) -> None:
        """If one side fails, the round does not count for the other side either."""
        self.figures[NEW].pop()
        self.run_workload()
        self.assertEqual(self.comparison.results.samples("w9.cpu", BASE), [10])
        self.assertEqual(self.comparison.troubles, ["2 w9: it ended"])
        self.assertEqual(self.up, set())

    def test_give_up(self) -> None:
        """The comparison ends after a few failures."""
        self.figures = {BASE: [], NEW: []}
        self.run_workload(rounds=9)
        self.assertEqual(len(self.comparison.troubles), MOST_FAILURES)
        self.assertEqual(len(self.started), 2 * MOST_FAILURES)
        self.assertIn("giving up", self.said[-1])

    def test_zero(self) -> None:
        """A round in which BASE costs nothing has no ratio."""
        self.figures = {BASE: [0.0, 10.0], NEW: [1.0, 11.0]}
        self.run_workload()
        self.assertTrue(self.said[0].endswith("ratio -"))
        self.assertEqual(self.comparison.results.ratios("w9.cpu", NEW, BASE), [1.1])

    def test_summary(self) -> None:
        """The standard error is the sample's standard deviation over the root of its size."""
        summary = summarize([0.9, 1.0, 1.1, 1.4])
        self.assertAlmostEqual(summary.mean, 1.1)
        self.assertAlmostEqual(summary.error or 0, (0.14 / 3) ** 0.5 / 2)
        self.assertAlmostEqual(summary.median, 1.05)
        self.assertEqual(summarize([2.0]), Summary(2.0, None, 2.0))

    def test_table(self) -> None:
        """A row for each measure that has ratios."""
        results = make_results(
            {BASE: {"w9.cpu": [10.0, 20.0, 15.0]}, NEW: {"w9.cpu": [11.0, 18.0, 15.0]}}
        )
        self.assertEqual(
            tabulate_comparison(results, (CPU, LATE)).splitlines(),
            [
                "|  | base | new | mean ratio | median ratio | rounds |",
                "| --- | ---: | ---: | ---: | ---: | ---: |",
                "| w9.cpu, µs | 15 | 15 | 1.000 ± 0.058 | 1.000 | 3 |",
            ],
        )
        single = make_results({BASE: {"w9.late": [2.0]}, NEW: {"w9.late": [1.0]}})
        self.assertIn("| 0.500 | 0.500 | 1 |", tabulate_comparison(single, (LATE,)))

    def test_side(self) -> None:
        """A side runs the pushd and the views of its own checkout."""
        start = make_side(NEW, ROOT).start(Path())
        self.assertEqual(start.directory, ROOT / "bench" / "rivals")
        self.assertEqual(start.environment, {"PYTHONPATH": str(ROOT)})
        self.assertEqual(start.command, PUSHD.start(Path()).command)

    def test_no_checkout(self) -> None:
        """A directory that is not a checkout is one line on stderr and exit code 1."""
        written: list[str] = []
        self.patch(sys.stderr, "write", written.append)
        with TemporaryDirectory() as folder:
            self.assertEqual(compare([str(ROOT), folder]), 1)
        self.assertEqual("".join(written).count("\n"), 1)
        self.assertIn("is not a checkout of pushd", "".join(written))


class CatalogueTests(SynchronousTestCase):
    """The list of rivals, and its documentation, are complete."""

    def test_paths(self) -> None:
        """Every rival has every path, and workloads name only rivals that exist."""
        for rival in CATALOGUE:
            self.assertEqual(set(rival.paths), set(PATHS), rival.name)

        names = {rival.name for rival in CATALOGUE}
        for workload in WORKLOADS:
            self.assertTrue(workload.rivals <= names, workload.name)
            self.assertTrue(workload.rivals & {"pushd", "pushd-asgi", "pushd-wsgi"})

    def test_families(self) -> None:
        """Workloads of a family follow each other, as they share a table."""
        families = [family for family, _ in groupby(WORKLOADS, lambda one: one.family)]
        self.assertEqual(len(families), len(set(families)))

    def test_readme(self) -> None:
        """The README lists every rival, every workload with its rivals, and every option."""
        text = (ROOT / "bench/README.md").read_text()
        rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", text, re.MULTILINE))
        for rival in CATALOGUE:
            marks = [cell.strip() == "x" for cell in rows.pop(rival.name).split("|")[1:]]
            self.assertEqual(marks, [rival.name in one.rivals for one in WEBSOCKETS], rival.name)
        for workload in WORKLOADS:
            row = rows.pop(workload.name)
            if workload not in WEBSOCKETS:
                named = re.findall(r"`([\w-]+)`", row.split("|")[-1])
                self.assertEqual(set(named), workload.rivals, workload.name)
        options = {
            option
            for action in make_parser()._actions
            for option in action.option_strings
            if option not in ("-h", "--help")
        }
        self.assertEqual({f"--{name}" for name in re.findall(r"`--([\w-]+)`", text)}, options)

    def test_missing(self) -> None:
        """A rival that is not installed has no version; pushd has one."""
        self.assertRegex(PUSHD.version() or "", r"^pushd \d")
        self.assertIsNone(version_of("pushd", "a-rival-that-does-not-exist"))

    def test_measures(self) -> None:
        """Keys of measures are unique, and begin with the name of the workload."""
        keys = [(one.name, measure.key) for one in WORKLOADS for measure in one.measures]
        self.assertEqual(len({key for _, key in keys}), len(keys))
        for name, key in keys:
            self.assertTrue(key.startswith(f"{name}."))


class PublishingTests(SynchronousTestCase):
    """Publishers post at the port and the paths that a server has for them."""

    def setUp(self) -> None:
        self.commands: list[Sequence[str]] = []

    def _run_load(self, command: Sequence[str], look: Callable[[str], None]) -> Mapping[str, Any]:
        self.commands.append(command)
        look("start")
        look("end")
        return {"units": 4, "busy": 0.1 * len(self.commands)}

    def _measure(self, name: str, rival: Rival) -> Mapping[str, float]:
        self.patch(publishing, "run_load", self._run_load)
        spent = iter([100.0, 120.0, 200.0, 210.0])
        server = Server(rival, Path())
        server.port, server.control_port = 1, 2
        server.cpu = lambda: next(spent)  # type: ignore[method-assign]
        [workload] = [one for one in PUBLISHING if one.name == name]
        return workload.run(server, 1)

    def _option(self, name: str) -> list[str]:
        return [command[command.index(f"--{name}") + 1] for command in self.commands]

    def test_posts(self) -> None:
        """A publication costs the CPU time between the gates, divided by their number."""
        self.assertEqual(self._measure("p1", PUSHD), {"p1.cpu": 5, "busy": 0.1})
        self.assertEqual(self.commands[0][0], "post")
        self.assertEqual(self._option("port"), ["2"])
        self.assertEqual(self._option("path"), ["/topics/bench/%"])

    def test_batches(self) -> None:
        """A batch counts as its publications."""
        self.assertEqual(self._measure("p2", PUSHD)["p2.cpu"], 5)
        self.assertEqual(self._option("path"), ["/publish"])
        self.assertEqual(self._option("batch"), ["1000"])

    def test_streams(self) -> None:
        """A stream is measured with one line in flight, and with many; the busier run counts."""
        found = self._measure("p3", replace(PUSHD, gives_ids=False))
        self.assertEqual(found, {"p3.one": 5, "p3.many": 2.5, "busy": 0.2})
        self.assertEqual([command[0] for command in self.commands], ["stream", "stream"])
        self.assertEqual(self._option("window"), ["1", "32"])
        self.assertEqual(self._option("ids"), ["0", "0"])

    def test_scaled(self) -> None:
        """A part of a number is at least one."""
        self.assertEqual([scaled(100, 0.25), scaled(10, 0.001)], [25, 1])


class ApplicationsTests(SynchronousTestCase):
    """ASGI applications: the same paths on every server, and a topic beside a group."""

    def setUp(self) -> None:
        self.commands: list[Sequence[str]] = []
        # What a server has spent at each look, in microseconds.
        self.spent = iter(range(0, 10_000, 100))
        self.patch(applications, "run_load", self._run_load)
        self.server = Server(PUSHD, Path())
        self.server.cpu = lambda: float(next(self.spent))  # type: ignore[method-assign]

    def _run_load(self, command: Sequence[str], look: Callable[[str], None]) -> Mapping[str, Any]:
        self.commands.append(command)
        look("start")
        look("end")
        return {"units": 2 if "/subscribe/" in command else 20, "busy": 0.5}

    def test_echo(self) -> None:
        """An echo costs the CPU time between the gates, divided by the number of messages."""
        self.assertEqual(applications.run_echo(self.server, 1), {"a2.cpu": 5, "busy": 0.5})
        self.assertEqual(applications.run_consumer(self.server, 1)["a3.cpu"], 5)
        paths = [command[command.index("--path") + 1] for command in self.commands]
        self.assertEqual(paths, ["/echo/", "/consumer/"])

    def test_topic(self) -> None:
        """A topic is compared with the group on the same server."""
        found = applications.run_topic(self.server, 1)
        self.assertEqual(found, {"a6.cpu": 5, "a6.share": 0.1, "busy": 0.5})
        self.assertEqual(applications.run_group(self.server, 1)["a5.cpu"], 50)


class NodesTests(SynchronousTestCase):
    """Two nodes over Redis are measured in turns with one in memory."""

    def test_missing(self) -> None:
        """Without Redis, the workload says what to install."""
        self.patch(shutil, "which", lambda name: None)
        error = self.assertRaises(Trouble, nodes.run_nodes, Server(PUSHD, Path()), 1)
        self.assertIn("apt-get install redis-server", str(error))


class CapacityTests(SynchronousTestCase):
    """Very many connections: the limit of open files, and how the server is started."""

    def test_limit(self) -> None:
        """The limit is raised as far as the kernel allows."""
        limits = [(100, 200)]

        def setrlimit(_: int, limit: tuple[int, int]) -> None:
            if limit[1] > 200:
                raise ValueError("not allowed to raise maximum limit")
            limits.append(limit)

        self.patch(resource, "getrlimit", lambda _: limits[-1])
        self.patch(resource, "setrlimit", setrlimit)
        self.assertEqual(raise_descriptors(150), 200)
        self.assertEqual(limits[-1], (200, 200))
        self.assertEqual(raise_descriptors(300), 200)
        self.patch(resource, "setrlimit", lambda _, limit: limits.append(limit))
        self.assertEqual(raise_descriptors(300), 300)
        self.assertEqual(limits[-1], (300, 300))

    def test_locked(self) -> None:
        """A limit that may not be changed at all is returned as it is."""

        def setrlimit(_: int, limit: tuple[int, int]) -> None:
            raise OSError("not permitted")

        self.patch(resource, "getrlimit", lambda _: (100, 200))
        self.patch(resource, "setrlimit", setrlimit)
        self.assertEqual(raise_descriptors(300), 100)

    def test_too_low(self) -> None:
        """If the limit is too low, the line says which one, and what can be measured."""
        self.patch(capacity, "raise_descriptors", lambda needed: 20_000)
        capacity.allow_connections(19_700)
        error = self.assertRaises(Trouble, capacity.allow_connections, 50_000)
        self.assertIn("need 50,300 open files, and the limit is 20,000", str(error))
        self.assertIn("--scale 0.39", str(error))

    def test_too_low_to_start(self) -> None:
        """Then nothing is started."""
        self.patch(capacity, "raise_descriptors", lambda needed: 1000)
        self.assertRaises(Trouble, capacity.run_capacity, Server(PUSHD, Path()), 1)


class CommandTests(SynchronousTestCase):
    """The command line, the description of the machine, and the compiler."""

    def test_choose(self) -> None:
        """Names are chosen in the order given; the error for an unknown name lists all names."""
        known = {"a": 1, "b": 2}
        self.assertEqual(choose(None, known), [1, 2])
        self.assertEqual(choose("b, a", known), [2, 1])
        error = self.assertRaises(ValueError, choose, "a,c", known)
        self.assertEqual(str(error), "'c' is not one of a, b")

    def test_slow(self) -> None:
        """A slow workload runs only if it is named, or if all are wanted."""
        known = (make_workload(name="quick"), make_workload(name="long", slow=True))
        for given, slow, names in (
            (None, False, ["quick"]),
            (None, True, ["quick", "long"]),
            ("long", False, ["long"]),
        ):
            chosen = choose_workloads(given, known, slow=slow)
            self.assertEqual([one.name for one in chosen], names)

    def test_mistake(self) -> None:
        """A wrong option is one line on stderr and exit code 1, before anything is started."""
        written: list[str] = []
        self.patch(sys.stderr, "write", written.append)
        self.assertEqual(main(["--rivals", "unknown"]), 1)
        self.assertEqual("".join(written).count("\n"), 1)
        self.assertIn("'unknown' is not one of pushd, floor", "".join(written))

    def test_machine(self) -> None:
        """The machine is described by its processor, memory and kernel."""
        text = "processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: AMD EPYC\n"
        self.assertEqual(find_processor(text), "AMD EPYC")
        self.assertNotEqual(find_processor(""), "")
        self.assertEqual(find_memory("MemTotal:       25165824 kB\n"), "24 GiB")
        self.assertIn("unknown", find_memory(""))
        self.assertIn("Linux", describe_machine())

    def test_older(self) -> None:
        """A target is built if it is missing or older than a source."""
        with TemporaryDirectory() as folder:
            source, target = Path(folder) / "a.c", Path(folder) / "a"
            source.write_text("")
            self.assertTrue(is_older(target, [source]))
            target.write_text("")
            set_age(source, 100)
            set_age(target, 50)
            self.assertFalse(is_older(target, [source]))
            set_age(source, 10)
            self.assertTrue(is_older(target, [source]))
