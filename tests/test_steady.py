"""A reactor whose time goes forward while the clock on the wall is set."""

from __future__ import annotations

from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from pushd.steady import make_steady

HOUR = 3600.0


class Clocks(SelectReactor):
    """Twisted's own reactor, that looks at a wall of ours as long as nothing else is said."""

    wall = 1_000_000.0

    def seconds(self) -> float:
        """What the wall says."""
        return self.wall

    def installWaker(self) -> None:
        """Need no descriptors: it never runs."""


class SteadyTests(SynchronousTestCase):
    """Both clocks go, and one of them is set."""

    def setUp(self) -> None:
        """Begin at the same time."""
        self.reactor = Clocks()
        self.monotonic = 7.0
        self.calls: list[str] = []
        make_steady(self.reactor, lambda: self.monotonic)

    def let_pass(self, seconds: float) -> None:
        """Let time pass, and the reactor make the calls that are due."""
        self.monotonic += seconds
        self.reactor.wall += seconds
        self.reactor.runUntilCurrent()

    def test_begin(self) -> None:
        """It goes on from what the wall has said."""
        self.assertEqual(self.reactor.seconds(), 1_000_000)
        self.let_pass(5)
        self.assertEqual(self.reactor.seconds(), 1_000_005)

    def test_set(self) -> None:
        """A call is made after as many seconds as it was told to, wherever the wall is then."""
        for step in (-HOUR, HOUR):
            self.calls.clear()
            self.reactor.callLater(10, self.calls.append, "ten")
            self.let_pass(5)
            self.reactor.wall += step
            self.reactor.callLater(6, self.calls.append, "eleven")
            self.let_pass(4.5)
            self.assertEqual(self.calls, [])
            self.assertAlmostEqual(self.reactor.timeout() or 0, 0.5)
            self.let_pass(1)
            self.assertEqual(self.calls, ["ten"])
            self.let_pass(1)
            self.assertEqual(self.calls, ["ten", "eleven"])

    def test_twice(self) -> None:
        """Whoever does it again changes nothing."""
        self.reactor.wall -= HOUR
        make_steady(self.reactor, lambda: self.monotonic)
        self.assertEqual(self.reactor.seconds(), 1_000_000)
