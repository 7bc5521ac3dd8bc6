"""Distribution: values counted by their bounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.histogram import BOUNDS, Histogram


class DistributionTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        """Before the first value all buckets are there, and empty."""
        distribution = Histogram((1.0, 2.5))
        self.assertEqual(distribution.buckets, [("1.0", 0), ("2.5", 0), ("+Inf", 0)])
        self.assertEqual(distribution.sum, 0)

    def test_buckets(self) -> None:
        """A bucket has all values up to its bound, the bound itself included."""
        distribution = Histogram((1.0, 2.5))
        for value in (0, 1, 1.1, 2.5, 2.6, 100):
            distribution.observe(value)
        self.assertEqual(distribution.buckets, [("1.0", 2), ("2.5", 4), ("+Inf", 6)])
        self.assertAlmostEqual(distribution.sum, 107.2)

    def test_bounds(self) -> None:
        """The usual bounds rise, as Prometheus asks for."""
        self.assertEqual(list(BOUNDS), sorted(set(BOUNDS)))
        self.assertEqual(len(Histogram().buckets), len(BOUNDS) + 1)
