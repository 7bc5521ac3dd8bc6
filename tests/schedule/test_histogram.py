"""Tests of Histogram."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.histogram import BOUNDS, Histogram


class HistogramTests(SynchronousTestCase):
    def test_empty(self) -> None:
        """Before the first value all buckets exist, and are empty."""
        histogram = Histogram((1.0, 2.5))
        self.assertEqual(histogram.buckets, [("1.0", 0), ("2.5", 0), ("+Inf", 0)])
        self.assertEqual(histogram.sum, 0)

    def test_buckets(self) -> None:
        """A bucket counts the values up to and including its bound."""
        histogram = Histogram((1.0, 2.5))
        for value in (0, 1, 1.1, 2.5, 2.6, 100):
            histogram.observe(value)
        self.assertEqual(histogram.buckets, [("1.0", 2), ("2.5", 4), ("+Inf", 6)])
        self.assertAlmostEqual(histogram.sum, 107.2)

    def test_bounds(self) -> None:
        """The default bounds ascend, as Prometheus requires."""
        self.assertEqual(list(BOUNDS), sorted(set(BOUNDS)))
        self.assertEqual(len(Histogram().buckets), len(BOUNDS) + 1)
