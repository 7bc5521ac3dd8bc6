"""How everybody leaves: in shares of the time, each somewhere in its own."""

from __future__ import annotations

from itertools import cycle

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, Closing
from pushd.access.connections import Connections
from pushd.service.daemon import Drain


class Visitor:
    """Somebody who notes when they are asked to leave, and does so at once if they are polite."""

    transport = "none"

    def __init__(self, clock: Clock, connections: Connections, *, polite: bool = True) -> None:
        self._clock = clock
        self._connections = connections
        self._polite = polite
        self.asked: list[tuple[float, Closing]] = []
        connections.opened(self)

    def close_with(self, closing: Closing) -> None:
        """Note it."""
        self.asked.append((self._clock.seconds(), closing))
        if self._polite:
            self._connections.lost(self)


class DrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have nobody here."""
        self.clock = Clock()
        self.connections = Connections(self.clock, self.clock.seconds)

    def visitors(self, count: int, *, polite: bool = True) -> list[Visitor]:
        """Let some come in."""
        return [Visitor(self.clock, self.connections, polite=polite) for _ in range(count)]

    def start(self, seconds: float, *random: float) -> Deferred[None]:
        """Begin, with these for random numbers."""
        numbers = cycle(random or [0.0])
        self.drain = Drain(self.clock, self.connections, lambda: next(numbers))
        return self.drain.start(GOING_AWAY, seconds)

    def times(self, visitors: list[Visitor]) -> list[float]:
        """When each was asked, once each."""
        for visitor in visitors:
            self.assertEqual(len(visitor.asked), 1)
        return sorted(visitor.asked[0][0] for visitor in visitors)

    def test_jitter(self) -> None:
        """Each has a share, and is asked somewhere in it."""
        visitors = self.visitors(4)
        gone = self.start(8, 0.0, 0.5, 0.75, 0.25)
        self.clock.pump([0.25] * 32)
        self.assertEqual(self.times(visitors), [0.0, 3.0, 5.5, 6.5])
        self.assertEqual({one.asked[0][1] for one in visitors}, {GOING_AWAY})
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """Ten thousand are asked on one timer, none later than said."""
        visitors = self.visitors(10_000)
        gone = self.start(5, 0.1, 0.9, 0.5)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for _ in range(50):
            self.clock.advance(0.1)
        times = self.times(visitors)
        self.assertEqual(len(set(times)), 50)
        for begin in range(5):
            within = [time for time in times if begin + 0.05 < time < begin + 1.05]
            self.assertAlmostEqual(len(within), 2000, delta=10)
        self.successResultOf(gone)

    def test_at_once(self) -> None:
        """No seconds are none."""
        visitors = self.visitors(3)
        gone = self.start(0, 0.5)
        self.assertEqual(self.times(visitors), [0.0] * 3)
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody(self) -> None:
        """With nobody here it is over."""
        self.successResultOf(self.start(5))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gone_before(self) -> None:
        """Who leaves of their own is not asked, and once all have, nothing is waited for."""
        visitors = self.visitors(3)
        gone = self.start(9, 0.5)
        self.connections.lost(visitors[0])
        self.clock.advance(3)
        for visitor in visitors[1:]:
            self.connections.lost(visitor)
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(visitors[0].asked, [])

    def test_left_meanwhile(self) -> None:
        """Whoever has left is passed over, whatever their turn."""
        visitors = self.visitors(3, polite=False)
        gone = self.start(9, 0.5)
        self.connections.lost(visitors[1])
        self.clock.pump([0.5] * 18)
        self.assertEqual([len(visitor.asked) for visitor in visitors], [1, 0, 1])
        self.assertNoResult(gone)

    def test_waits(self) -> None:
        """Who is asked and stays is waited for."""
        visitors = self.visitors(2, polite=False)
        gone = self.start(2)
        self.clock.pump([1, 1, 1])
        self.assertEqual(self.times(visitors), [0.0, 1.0])
        self.assertNoResult(gone)
        for visitor in visitors:
            self.connections.lost(visitor)
        self.successResultOf(gone)

    def test_close_now(self) -> None:
        """Who is left can be asked at once; nobody is asked twice."""
        visitors = self.visitors(4, polite=False)
        self.start(4)
        self.clock.advance(1)
        self.drain.close_now()
        self.assertEqual(self.times(visitors), [0.0, 1.0, 1.0, 1.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_now_before(self) -> None:
        """Before it begins there is nothing to hurry."""
        drain = Drain(self.clock, self.connections, lambda: 0.0)
        drain.close_now()
        self.assertEqual(self.clock.getDelayedCalls(), [])
