"""What a workload is, and what of it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.server import Server

Run = Callable[[Server, float], Mapping[str, float]]


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    key: str
    title: str
    unit: str
    #: Of what the issue asks: the most it may be, and the most in relation to a rival.
    most: float | None = None
    relation: tuple[float, str] | None = None


@dataclass(frozen=True)
class Workload:
    """One thing that servers do, and what of it is measured."""

    name: str
    title: str
    run: Run
    measures: tuple[Measure, ...]
    #: Whether all rivals may be measured at the same time: memory does not depend on time.
    together: bool = False
