"""Flatness: whether a resource that was sampled over a long time keeps growing.

A series is flat if its growth is within an allowance. The growth is the Theil-Sen slope (the median
of the slopes between all pairs of samples, which single peaks do not move) times the time between
the first and the last sample. Samples of the warm-up do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

# Samples that a judgement needs, at least: the slope of fewer says nothing.
FEWEST = 8

# A slope is computed from this many samples at most, as their pairs are all compared.
_MOST = 400


@dataclass(frozen=True)
class Allowance:
    """How much a resource may grow during the judged part of a run.

    :param absolute: in the unit of the resource.
    :param share: as a part of its median; the larger of both counts.
    """

    absolute: float
    share: float = 0.0

    def of(self, level: float) -> float:
        """Return the growth that is allowed to a resource whose median is ``level``."""
        return max(self.absolute, self.share * level)


@dataclass(frozen=True)
class Trend:
    """What has become of a resource: a row of the report."""

    name: str
    unit: str
    first: float
    last: float
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it has grown no more than it may."""
        return self.growth <= self.allowed


def find_slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the Theil-Sen slope of points in order of time, per second."""
    step = -(-len(points) // _MOST)
    few = points[::step]
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(few, 2))


def judge(
    name: str, unit: str, points: Sequence[tuple[float, float]], allowance: Allowance
) -> Trend:
    """Judge the samples of a resource, (seconds, value) in order of time.

    ``first`` and ``last`` of the result are medians of the first and the last tenth. Raises
    ``ValueError`` if there are too few samples.
    """
    if len(points) < FEWEST:
        raise ValueError(f"{name}: {len(points)} samples are too few, {FEWEST} are needed")
    values = [value for _, value in points]
    tenth = max(1, len(values) // 10)
    return Trend(
        name=name,
        unit=unit,
        first=median(values[:tenth]),
        last=median(values[-tenth:]),
        growth=find_slope(points) * (points[-1][0] - points[0][0]),
        allowed=allowance.of(median(values)),
    )
