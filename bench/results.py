"""The samples of a run, and what is computed from them: medians, ratios, goals."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bench.workload import Measure


class Results:
    """All samples of a run, by the key of the measure and the name of the rival."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, rival: str, found: Mapping[str, float]) -> None:
        """Add the samples of one round."""
        for key, value in found.items():
            self._samples[key][rival].append(value)

    def median(self, key: str, rival: str) -> float | None:
        """Return the median of all rounds, or None without any."""
        samples = self._samples[key].get(rival)
        return statistics.median(samples) if samples else None

    def has(self, rival: str) -> bool:
        """Whether a rival has any samples."""
        return any(samples[rival] for samples in self._samples.values() if rival in samples)

    @property
    def rounds(self) -> int:
        """The largest number of samples that any rival has of any measure."""
        return max(
            (len(samples) for rivals in self._samples.values() for samples in rivals.values()),
            default=0,
        )

    def count(self, key: str, rival: str) -> int:
        """Return how many samples a rival has."""
        return len(self._samples[key].get(rival, ()))

    def spread(self, key: str, rival: str) -> tuple[float, float] | None:
        """Return the minimum and the maximum of all rounds, or None without any."""
        samples = self._samples[key].get(rival)
        return (min(samples), max(samples)) if samples else None

    def samples(self, key: str, rival: str) -> Sequence[float]:
        """Return the samples of a rival, in the order of the rounds."""
        return self._samples[key].get(rival, ())

    def ratios(self, key: str, ours: str, theirs: str) -> list[float]:
        """Return the ratio ours/theirs of each round; both must have a sample in every round.

        Rounds in which theirs is zero are left out.
        """
        pairs = zip(self.samples(key, ours), self.samples(key, theirs), strict=True)
        return [our / their for our, their in pairs if their]

    def ratio(self, key: str, ours: str, theirs: str) -> float | None:
        """Return the ratio ours/theirs of the medians, or None if one of them is missing."""
        our, their = self.median(key, ours), self.median(key, theirs)
        return our / their if our is not None and their else None

    def judge(self, measure: Measure, ours: str = "pushd") -> str:
        """Format each goal of a measure, and whether it is met."""
        words = []
        value = self.median(measure.key, ours)
        if measure.most is not None and value is not None:
            words.append(f"≤ {measure.most:g}: {'yes' if value <= measure.most else 'no'}")
        for factor, rival in measure.relations:
            ratio = self.ratio(measure.key, ours, rival)
            if ratio is not None:
                words.append(f"≤ {factor:g} x {rival}: {'yes' if ratio <= factor else 'no'}")
        return ", ".join(words)
