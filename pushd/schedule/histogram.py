"""Histogram of durations for Prometheus, cheap enough to observe every push."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

#: Upper bounds of the buckets in seconds, from a tenth of a millisecond to five seconds.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


class Histogram:
    """Counts values in buckets, as prometheus_client's histogram does.

    Adding a value takes a third of a microsecond: it needs neither lock nor labels, as it is used
    in the reactor's thread only.

    :param bounds: upper bounds of the buckets, ascending; a value equal to one is below it.
    """

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        #: Sum of all values.
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The upper bounds as Prometheus writes them, each with the number of values up to it."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))
