"""What a soak test samples: the resources of each node and of Redis, over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak.flatness import Allowance, Trend, judge


@dataclass(frozen=True)
class Resource:
    """Something that must not grow.

    :param allowance: how much it may grow while it is judged.
    :param rest: how much more of it there may be when all clients have left than before any came;
        None if that says nothing.
    """

    name: str
    unit: str
    allowance: Allowance
    rest: float | None = None


MEMORY = Resource("memory", "MiB", Allowance(6.0, 0.05))
DESCRIPTORS = Resource("descriptors beside connections", "", Allowance(8.0), rest=2)
# Each long poll has one.
TIMERS = Resource("timers beside those of polls", "", Allowance(12.0, 0.1), rest=4)
# The pool of views keeps its threads, so their number is that of the busiest moment until then.
THREADS = Resource("threads", "", Allowance(10.0, 0.1), rest=64)
KEYS = Resource("keys", "", Allowance(8.0, 0.02))
HISTORIES = Resource("histories", "", Allowance(4.0, 0.02), rest=0)
LASTING_KEYS = Resource("keys that do not expire", "", Allowance(0.5), rest=0)
SCHEDULE_KEYS = Resource("keys of schedules", "", Allowance(20.0), rest=4)
REDIS_MEMORY = Resource("memory", "MiB", Allowance(8.0, 0.1))

_MIB = 1 << 20


class Samples:
    """The samples of all resources, by their owner, such as a node."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, Resource], list[tuple[float, float]]] = defaultdict(list)

    def add(self, owner: str, now: float, values: Mapping[Resource, float]) -> None:
        """Add what was seen at a time, in seconds."""
        for resource, value in values.items():
            self._points[owner, resource].append((now, value))

    def judge(self) -> list[Trend]:
        """Judge every resource. Raises ``ValueError`` if there are too few samples."""
        return [
            judge(f"{owner}: {resource.name}", resource.unit, points, resource.allowance)
            for (owner, resource), points in self._points.items()
        ]


def measure_node(pid: int, metrics: Mapping[str, float]) -> dict[Resource, float]:
    """Measure a daemon, whose metrics have just been read."""
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())
    return {
        MEMORY: int(status["VmRSS"].split()[0]) * 1024 / _MIB,
        DESCRIPTORS: len(list((place / "fd").iterdir())) - metrics["pushd_connections"],
        TIMERS: metrics["pushd_timers"] - metrics["pushd_connections longpoll"],
        THREADS: int(status["Threads"]),
    }


@dataclass(frozen=True)
class Keys:
    """The keys of a Redis: of topics and all else, those of histories, those that do not expire.

    Those of schedules are counted by themselves, and not among the others.
    """

    counted: int
    histories: int
    lasting: int
    schedules: int


def measure_redis(keys: Keys, memory: int) -> dict[Resource, float]:
    """Name what was measured of a Redis."""
    return {
        KEYS: keys.counted,
        HISTORIES: keys.histories,
        LASTING_KEYS: keys.lasting,
        SCHEDULE_KEYS: keys.schedules,
        REDIS_MEMORY: memory / _MIB,
    }


def find_remains(
    owner: str, before: Mapping[Resource, float], after: Mapping[Resource, float]
) -> list[str]:
    """Return a line for each resource that was not given back when all clients had left."""
    return [
        f"{owner}: {resource.name}: {after[resource]:g} are left after all clients have gone; "
        f"there were {before[resource]:g} before they came, and {resource.rest:g} more are allowed"
        for resource in before
        if resource.rest is not None and after[resource] - before[resource] > resource.rest
    ]


def format_trends(trends: Sequence[Trend]) -> str:
    """Format a table."""
    rows = [
        (
            trend.name,
            *(f"{value:,.1f}" for value in (trend.first, trend.last, trend.growth, trend.allowed)),
            trend.unit,
            "flat" if trend.flat else "GROWS",
        )
        for trend in trends
    ]
    head = ("resource", "first tenth", "last tenth", "growth", "allowed", "", "")
    return format_table([head, *rows])


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align the columns of a table: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
