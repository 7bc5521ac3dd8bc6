"""TimedDelivery: how long a publication takes to all who listen."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.delivery import TimedDelivery
from pushd.hub import Hub
from pushd.messages import Id, Publication, Replay


class Past:
    """A topic without any."""

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        return succeed(Replay(Id("e", 0), True, (), Id("e", 0)))

    def follow(self, topic: str) -> None:
        """Do nothing."""

    def unfollow(self, topic: str) -> None:
        """Do nothing."""


class Slow:
    """A subscriber that takes a tenth of a second for each publication."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.heard: list[Publication] = []

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Do nothing."""

    def deliver(self, publication: Publication) -> None:
        self.heard.append(publication)
        self._clock.rightNow += 0.1

    def has_room(self) -> bool:
        return True

    def keeps_up(self) -> bool:
        return True

    def lost_track(self) -> None:
        """Do nothing."""


class DeliveryTests(SynchronousTestCase):
    def test_seconds(self) -> None:
        """A publication takes as long as until its last subscriber has it, if it has any."""
        clock = Clock()
        hub = Hub(Past(), clock)
        delivery = TimedDelivery(clock, hub)
        subscribers = [Slow(clock) for _ in range(3)]
        for subscriber in subscribers:
            hub.subscribe("news", subscriber, None)
        publication = Publication("news", "hello", Id("e", 1))
        delivery.deliver(publication)
        delivery.deliver(Publication("other", "hello", Id("f", 1)))
        self.assertEqual([one.heard for one in subscribers], [[publication]] * 3)
        self.assertEqual(delivery.seconds.buckets[-1][1], 1)
        self.assertAlmostEqual(delivery.seconds.sum, 0.3)
