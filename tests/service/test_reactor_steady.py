"""A reactor whose time goes forward while the clock on the wall is set."""

from __future__ import annotations

from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.reactor import make_steady

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
        """It goes by the other clock from now on."""
        self.assertEqual(self.reactor.seconds(), 7)
        self.let_pass(5)
        self.assertEqual(self.reactor.seconds(), 12)

    def test_waiting(self) -> None:
        """What waits already is called when it was to be, and nothing but that."""
        reactor = Clocks()
        for delay, name in ((2, "two"), (1, "one")):
            reactor.callLater(delay, self.calls.append, name)
            reactor.runUntilCurrent()
        reactor.callLater(3, self.calls.append, "three")
        put_off = reactor.callLater(1, self.calls.append, "four")
        put_off.delay(3)
        make_steady(reactor, lambda: self.monotonic)
        for number, calls in enumerate(("one", "two", "three", "four")):
            self.monotonic = 7.5 + number
            reactor.runUntilCurrent()
            self.assertNotIn(calls, self.calls)
            self.monotonic = 8.0 + number
            reactor.runUntilCurrent()
            self.assertEqual(self.calls[-1], calls)

    def test_put_off(self) -> None:
        """What waits already may be put off, from now on or by so much."""
        reactor = Clocks()
        calls = [reactor.callLater(delay, self.calls.append, "late") for delay in (2, 3)]
        make_steady(reactor, lambda: self.monotonic)
        calls[0].reset(10)
        calls[1].delay(7)
        for moment, made in ((16.5, 0), (17.0, 2)):
            self.monotonic = moment
            reactor.runUntilCurrent()
            self.assertEqual(len(self.calls), made)

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
        self.assertEqual(self.reactor.seconds(), 7)
