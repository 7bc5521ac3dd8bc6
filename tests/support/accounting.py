"""An account of all that a daemon holds: read from its objects, so that nothing is forgotten.

A buffer, a counter or a registration that is added to pushd later is accounted for as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from pushd.testing import Daemon

# Attributes that count what has happened since the start, by class and name; and those that hold a
# time. (What Memory measures is among the metrics.) And the way from the threads to the test.
_TOTALS = {
    "AlternatingThreads._call_for_test",
    "History.floor",
    "History.sequence",
    "Histogram._counts",
    "Histogram.sum",
    "Hub._step_end",
    "Memory._left",
    "Memory.closed",
    "MemoryBroker.published",
    "Counters._closed_by_code",
    "RedisBroker.published",
    "SubscriberCounters.cut",
    "SubscriberCounters.delivered",
    "TopicSync._log_after",
    "TrafficTotals._closed",
    "ViewRunner._busy_again",
}

# Dictionaries by transport, whose keys stay.
_BY_TRANSPORT = {"SubscriberCounters.transports", "TrafficTotals._open"}


def account(daemon: Daemon) -> dict[str, object]:
    """Return each number and the length of each collection that a daemon holds, unless it is 0.

    The keys are the paths to them, such as ``connections._open``. What starts again from zero and
    what has never been used is the same.
    """
    found: dict[str, object] = {}
    seen: dict[int, object] = {}
    waiting: deque[tuple[str, object]] = deque([("", daemon._service)])
    while waiting:
        path, value = waiting.popleft()
        if isinstance(value, int | float):
            found[path] = value
        elif id(value) not in seen:
            seen[id(value)] = value  # Kept, so that no other object gets its id.
            if isinstance(value, dict | list | set | frozenset | deque | bytearray):
                found[path] = len(value)
            waiting.extend((path + step, part) for step, part in _parts(value))
    return {path: value for path, value in found.items() if value}


def gauges(daemon: Daemon) -> dict[str, float]:
    """Return the metrics of a daemon that can fall, unless they are 0."""
    answer = daemon.request("GET", "/metrics", control=True)
    assert answer is not None
    kind, found = "", {}
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            kind = line.rpartition(" ")[2]
        elif not line.startswith("#") and kind == "gauge":
            name, _, value = line.rpartition(" ")
            if not name.partition("{")[0].endswith("_created"):
                found[name] = float(value)
    return {name: value for name, value in found.items() if value}


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what an object refers to, with the step to it."""
    if isinstance(value, dict):
        yield from ((f"[{_name(key)}]", part) for key, part in tuple(value.items()))
        # An object that is a key may hold something that its value does not.
        yield from ((f"[{_name(key)} key]", key) for key in value if not isinstance(key, int))
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"[{place}]", part) for place, part in enumerate(value))
    elif isinstance(value, partial):
        yield from ((" function", value.func), (" args", value.args), (" kw", value.keywords))
    elif isinstance(value, MethodType):
        yield "", value.__self__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield f"<{name}>", cell.cell_contents
    elif type(value).__module__.startswith("pushd."):
        kind = type(value).__name__
        for name, part in _attributes(value):
            if f"{kind}.{name}" in _BY_TRANSPORT:
                yield from ((f".{name}[{key}]", one) for key, one in part.items())
            elif f"{kind}.{name}" not in _TOTALS:
                yield f".{name}", part


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        for name in kind.__dict__.get("__slots__", ()):
            if hasattr(value, name):
                yield name, getattr(value, name)


def _name(key: object) -> str:
    return str(key) if isinstance(key, str | int | tuple) else type(key).__name__
