"""Those who listen to a hub, and the history behind it, which note what they are asked."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.fanout import Batch, DirectWrite
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.subscription import Subscription


class Failing(Exception):
    """What goes wrong in these tests."""


class Past:
    """A history that notes what it is asked."""

    def __init__(self) -> None:
        epochs = iter(range(1, 100))
        retention = Retention(size=1 << 20, bytes=1 << 30)
        self.clock = Clock()
        self.history = History(self.clock, retention, lambda: f"e{next(epochs)}")
        self.events: list[str] = []
        self.asked = 0
        self.given = 0
        self.failure: Exception | None = None

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Answer at once."""
        self.asked += 1
        if self.failure is not None:
            return fail(self.failure)
        replay = self.history.replay(topic, after, limit)
        self.given += len(replay.publications)
        return succeed(replay)

    def follow(self, topic: str) -> None:
        """Note it."""
        self.events.append(f"follow {topic}")
        self.history.hold(topic)

    def unfollow(self, topic: str) -> None:
        """Note it."""
        self.events.append(f"unfollow {topic}")
        self.history.release(topic)


class Listener:
    """A subscriber that notes what it is told, and may do something about it."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.events: list[str] = []
        self.calls = 0
        self.room = room
        #: Whether it takes what is published now in any case.
        self.fast = True
        self.react: Callable[[str], object] = lambda event: None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Note it."""
        self._note(f"{topic} from {id}{' recovered' if recovered else ''}")

    def deliver(self, batch: Batch) -> None:
        """Note it."""
        self.calls += 1
        for publication in batch:
            self.room -= 1
            self._note(str(publication.data))

    def has_room(self) -> bool:
        """Whether there is some left."""
        return self.room > 0

    def keeps_up(self) -> bool:
        """Whether it can take what comes now."""
        return self.fast or self.room > 0

    def direct_write(self) -> DirectWrite | None:
        """Always be asked, unless a test says otherwise."""
        return None

    def subscription_lost(self) -> None:
        """Note it."""
        self._note("lost")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.react(event)


class HubTestCase(SynchronousTestCase):
    """A hub, and a history behind it."""

    def setUp(self) -> None:
        """Nobody listens yet."""
        self.past = Past()
        self.hub = Hub(self.past, self.past.clock)

    def publish(self, data: str, topic: str = "t") -> Publication:
        """Publish as a broker does."""
        publication = self.past.history.add(topic, data)
        self.hub.deliver(publication)
        self.hub.flush()
        return publication

    def listen(self, after: str | None = None, topic: str = "t", room: int = 1 << 30) -> Listener:
        """Subscribe somebody new."""
        listener = Listener(room)
        self.subscribe(listener, after, topic)
        return listener

    def subscribe(
        self, listener: Listener, after: str | None = None, topic: str = "t"
    ) -> Subscription:
        """Subscribe."""
        id = None if after is None else Id.parse(after)
        self.last = self.hub.subscribe(topic, listener, id)
        return self.last
