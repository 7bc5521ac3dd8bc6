"""Workloads and their measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.server import Server

Run = Callable[[Server, float], Mapping[str, float]]


@dataclass(frozen=True)
class Measure:
    """One measured figure: a row of the table."""

    key: str
    title: str
    unit: str
    #: The goals: an upper limit, and upper limits as multiples of the figures of rivals.
    most: float | None = None
    relations: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Workload:
    """A task for the servers, and its measures."""

    name: str
    title: str
    run: Run
    measures: tuple[Measure, ...]
    #: The names of the rivals that support it.
    rivals: frozenset[str]
    #: The heading of its table in the report, which it shares with others.
    family: str = "WebSockets"
    #: Whether all rivals may be measured at the same time, as for memory.
    together: bool = False
    #: Whether it takes long, and is measured only when it is asked for.
    slow: bool = False
