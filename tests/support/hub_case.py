"""A hub with a history, and a source and subscribers that record what is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics import fanout
from pushd.topics.cursor import UNKNOWN, Cursor
from pushd.topics.fanout import Batch, DirectWrite
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.rules import Rule, Rules
from pushd.topics.subscription import Subscription


class Failing(Exception):
    """Raised where a test wants something to fail."""


class RecordingSource:
    """A source that answers from a history at once, and records what is read and followed."""

    generation = UNKNOWN

    def __init__(self) -> None:
        epochs = iter(range(1, 100))
        retention = Retention(size=1 << 20, bytes=1 << 30)
        self.clock = Clock()
        self.history = History(self.clock, retention, lambda: f"e{next(epochs)}")
        self.events: list[str] = []
        #: The number of reads, and of the publications that they returned.
        self.reads = 0
        self.publications = 0
        #: The exception with which reads fail, if they are to fail.
        self.failure: Exception | None = None

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Read the history."""
        self.reads += 1
        if self.failure is not None:
            return fail(self.failure)
        replay = self.history.replay(topic, after, limit)
        self.publications += len(replay.publications)
        return succeed(replay)

    @property
    def settled(self) -> int:
        """Return the sequence of the last publication."""
        return self.history.sequence

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic."""
        return self.history.newest(topic)

    def is_newest(self, topic: str, id: Id) -> bool:
        """Return False: the history must be read."""
        return False

    def locate(self, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Refuse: no test asks for it."""
        raise NotImplementedError

    def follow(self, topic: str) -> None:
        """Record the call, and keep the topic."""
        self.events.append(f"follow {topic}")
        self.history.hold(topic)

    def unfollow(self, topic: str) -> None:
        """Record the call, and let the topic expire."""
        self.events.append(f"unfollow {topic}")
        self.history.release(topic)


class RecordingSubscriber:
    """A subscriber that records what it gets, and may react to it.

    :param room: how many publications it takes.
    """

    transport = "fake"

    def __init__(self, room: int = 1 << 30) -> None:
        self.events: list[str] = []
        #: How often something was delivered.
        self.deliveries = 0
        self.room = room
        #: If true, it keeps up no matter how much room it has.
        self.fast = True
        #: How many publications it takes at once.
        self.largest = 1 << 30
        #: Called with every event.
        self.bytes_taken = 0
        self.react: Callable[[str], object] = lambda event: None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Record where the subscription begins."""
        self._record(f"{topic} from {id}{' recovered' if recovered else ''}")

    def deliver(self, batch: Batch) -> None:
        """Record the data of each publication, and how many were left out before it."""
        self.deliveries += 1
        for publication in batch:
            self.room -= 1
            skipped = f" after {publication.conflated}" if publication.conflated else ""
            self._record(f"{publication.data!s}{skipped}")

    def has_room(self) -> bool:
        """Return whether there is room left."""
        return self.room > 0

    def keeps_up(self) -> bool:
        """Return whether it keeps up."""
        return self.fast or self.room > 0

    def can_take(self, batch: Batch) -> bool:
        """Return whether it keeps up, and the batch is not too large."""
        return self.keeps_up() and batch.count <= self.largest

    @property
    def taken(self) -> int:
        """Return how many bytes it has taken."""
        return self.bytes_taken

    def direct_write(self) -> DirectWrite | None:
        """Return None: it has no socket."""
        return None

    def subscription_lost(self) -> None:
        """Record the end."""
        self._record("lost")

    def _record(self, event: str) -> None:
        self.events.append(event)
        self.react(event)


def iterate(clock: Clock) -> None:
    """Make the calls that are due, but none that they schedule, as an iteration of a reactor."""
    for call in tuple(clock.calls):
        if call.active() and call.getTime() <= clock.seconds():
            func, args = call.func, call.args
            call.cancel()
            func(*args)


class HubTestCase(SynchronousTestCase):
    """A hub and its source.

    The rules for topics are those of the class.
    """

    rules: tuple[Rule, ...] = ()

    def setUp(self) -> None:
        """Make a hub without subscribers, which passes on publications one by one."""
        self.patch(fanout, "_PIECE_SIZE", 0)
        self.source = RecordingSource()
        self.hub = Hub(self.source, self.source.clock, rules=Rules(self.rules))

    def publish(self, data: str, topic: str = "t") -> Publication:
        """Publish as a broker does, and deliver at once."""
        publication = self.source.history.add(topic, data)
        self.hub.deliver(publication)
        self.hub.flush()
        return publication

    def listen(
        self, after: str | None = None, topic: str = "t", room: int = 1 << 30
    ) -> RecordingSubscriber:
        """Subscribe a new subscriber, and return it."""
        subscriber = RecordingSubscriber(room)
        self.subscribe(subscriber, after, topic)
        return subscriber

    def subscribe(
        self, subscriber: RecordingSubscriber, after: str | None = None, topic: str = "t"
    ) -> Subscription:
        """Subscribe a subscriber, and return its subscription."""
        id = None if after is None else Id.parse(after)
        #: The last subscription made.
        self.last = self.hub.subscribe(topic, subscriber, id)
        return self.last
