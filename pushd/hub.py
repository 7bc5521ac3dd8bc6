"""Who listens to what on this node."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.batch import Batch
from pushd.broker import Unavailable
from pushd.deadlines import Deadlines
from pushd.distributions import Distribution
from pushd.messages import Id, Publication, Replay
from pushd.steps import Steps

# How much of the past is asked for at a time, in bytes.
_BATCH = 1 << 18

# How much may wait for the end of the turn: after so many bytes it goes out at once.
_TURN = 1 << 18

# How long one that does not keep up has to read some of what it was sent, in seconds.
PATIENCE = 10.0


class Subscriber(Protocol):
    """Anything that a publication can be delivered to."""

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Take note that the next publication follows this id.

        ``recovered`` says that nothing is missing since the id that was asked for.
        """

    def deliver(self, batch: Batch) -> None:
        """Take what was published."""

    def has_room(self) -> bool:
        """Whether more of the past may come now; if not, ``Subscription.resume`` is called."""

    def keeps_up(self) -> bool:
        """Whether what is published now may come at once; if not, ``resume`` is called.

        If not, it comes from the past, and has_room() decides when.
        """

    def lost_track(self) -> None:
        """End: what comes next is not kept any more, so there would be a gap."""


class Past(Protocol):
    """Where a hub gets what was published before."""

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """What was published after an id; see ``History.replay``."""

    def follow(self, topic: str) -> None:
        """Somebody listens to this topic here: let the hub have what is published."""

    def unfollow(self, topic: str) -> None:
        """Nobody listens to this topic here any more."""


def transport_of(subscriber: Subscriber) -> str:
    """How a subscriber is connected, for those who count."""
    return getattr(subscriber, "transport", "other")


class _State(Enum):
    """How a subscription gets its publications."""

    CATCHING_UP = "from the past"
    LIVE = "as they come"
    ENDED = "not at all"


class Subscription:
    """One subscriber of one topic, and how far it has heard.

    It first gets what it has missed, at its own pace, then what comes. The two meet without a gap
    and without a repeat: what comes while it catches up is in the past by the time it gets there.
    When more comes at once than it can take, it falls back on the past for the rest of it.
    """

    __slots__ = (
        "_begun",
        "_hub",
        "_newest",
        "_position",
        "_reading",
        "_state",
        "_subscriber",
        "topic",
    )

    def __init__(self, hub: Hub, topic: str, subscriber: Subscriber) -> None:
        self.topic = topic
        self._hub = hub
        self._subscriber = subscriber
        self._state = _State.CATCHING_UP
        self._position: Id | None = None
        self._newest: Id | None = None
        self._reading = False
        self._begun = False

    @property
    def subscriber(self) -> Subscriber:
        """Who listens."""
        return self._subscriber

    def start(self, after: Id | None) -> None:
        """Ask for the past since an id; None: from now on, whether there is room or not."""
        self._position = after
        if after is None or self._subscriber.has_room():
            self.resume()

    def resume(self) -> None:
        """Go on: the subscriber has room again."""
        if self._state is _State.CATCHING_UP and not self._reading:
            self._hub.behind.stop(self)
            self._reading = True
            Steps(self._read(), self._hub.clock, _ignore, self._have_read).advance()

    def cancel(self) -> None:
        """End it."""
        if self._state is not _State.ENDED:
            self._state = _State.ENDED
            self._hub.behind.stop(self)
            self._hub.forget(self)

    def take(self, batch: Batch) -> None:
        """Take what has just been published."""
        position = self._position
        if self._state is not _State.LIVE or position is None:
            self._newest = batch.last
        elif (
            position.offset + 1 == batch.first
            and position.epoch == batch.epoch
            and self._subscriber.keeps_up()
        ):
            # Nearly always. Whatever is different is for the past to sort out.
            self._position = batch.last
            self._hub.delivered += batch.count
            self._subscriber.deliver(batch)
        elif position.epoch != batch.epoch:
            self._lose_track()
        elif position.offset < batch.last.offset:
            self._follow(batch)

    def overdue(self) -> None:
        """End one that has read nothing to speak of since it fell behind."""
        if self._subscriber.keeps_up():
            self.resume()
        else:
            self._cut_off()

    def miss(self, last: Id) -> None:
        """Take note of a gap up to an id that can't be filled."""
        if self._state is _State.CATCHING_UP:
            self._newest = last
        elif self._position is None or _is_before(self._position, last):
            self._lose_track()

    def failed(self, failure: Failure) -> None:
        """Log what went wrong with this one, and end it."""
        # The broker logs once that it is away, not once for everybody who waits for it.
        if failure.check(Unavailable) is None:
            self._hub.complain(failure, self.topic)
        if self._state is not _State.ENDED:
            self._lose_track()

    def _have_read(self, result: Failure | None) -> None:
        if isinstance(result, Failure):
            self.failed(result)

    async def _read(self) -> None:
        """Read the past until it meets the present, or the subscriber has no room."""
        try:
            while not await self._read_some():
                pass
        finally:
            self._reading = False

    async def _read_some(self) -> bool:
        """Read a batch. Returns whether that is all for now."""
        replay = await self._hub.past.replay(self.topic, self._position, _BATCH)
        if self._has_ended():
            return True
        if not self._begun:
            self._begun = True
            self._position = replay.id
            self._subscriber.subscribed(self.topic, replay.id, replay.recovered)
        elif not replay.recovered:
            self._cut_off()
            return True
        for publication in replay.publications:
            if self._has_ended() or not self._subscriber.has_room():
                return True
            self._deliver(Batch((publication,)))
        return self._has_ended() or self._has_caught_up(replay.last)

    def _has_ended(self) -> bool:
        return self._state is _State.ENDED

    def _has_caught_up(self, last: Id) -> bool:
        assert self._position is not None
        newest, self._newest = self._newest, None
        if newest is not None and newest.epoch != last.epoch:
            # One of the two is from before the epoch changed: the next read tells which.
            return False
        if newest is not None and _is_before(last, newest):
            self._newest = last = newest
        if _is_before(self._position, last):
            return False
        self._state = _State.LIVE
        return True

    def _follow(self, batch: Batch) -> None:
        """Take of what comes now what is new, or go on from the past.

        From there at once where something is missing, else when there is room.
        """
        assert self._position is not None
        keeps_up = self._subscriber.keeps_up()
        if keeps_up and batch.first <= self._position.offset + 1:
            self._deliver(batch.since(self._position.offset))
            return
        self._state = _State.CATCHING_UP
        self._newest = batch.last
        if keeps_up:
            self.resume()
        else:
            self._hub.behind.start(self)

    def _deliver(self, batch: Batch) -> None:
        self._position = batch.last
        self._hub.delivered += batch.count
        self._subscriber.deliver(batch)

    def _cut_off(self) -> None:
        """End one that is too slow."""
        self._hub.cut += 1
        self._lose_track()

    def _lose_track(self) -> None:
        self.cancel()
        self._subscriber.lost_track()


class Hub:
    """The subscriptions of this node, by topic.

    What is published in one turn of the reactor is delivered together at its end: that is one
    write for each subscriber, however many publications there are. All subscribers of a topic
    see the same order, also when one of them publishes while it is being told.

    :param past: where to get what was published before.
    :param clock: where time comes from.
    """

    _log = Logger()

    def __init__(self, past: Past, clock: IReactorTime) -> None:
        self.past = past
        self.clock = clock
        #: Those that did not keep up, and have read nothing to speak of since.
        self.behind: Deadlines[Subscription] = Deadlines(
            clock, length=PATIENCE, expired=Subscription.overdue
        )
        #: How often a publication has been given to a subscriber.
        self.delivered = 0
        #: How many subscribers were ended because they were too slow.
        self.cut = 0
        #: How many subscriptions there are, by transport.
        self.transports: Counter[str] = Counter()
        self._topics: dict[str, dict[Subscription, None]] = {}
        #: How long publications took from here to the last subscriber's socket, in seconds: for
        #: those of one turn, how long the first of them took.
        self.delays = Distribution()
        # What was published in this turn, in runs without a gap, each with the time of its
        # beginning, the last run of each topic, and how many bytes there are.
        self._news: list[tuple[list[Publication], float]] = []
        self._runs: dict[str, list[Publication]] = {}
        self._bytes = 0
        self._turn_ends: IDelayedCall | None = None
        self._delivering = False

    def subscribe(self, topic: str, subscriber: Subscriber, after: Id | None) -> Subscription:
        """Let a subscriber have a topic's publications, since an id or from now on."""
        subscription = Subscription(self, topic, subscriber)
        listeners = self._topics.get(topic)
        if listeners is None:
            listeners = self._topics[topic] = {}
            self.past.follow(topic)
        listeners[subscription] = None
        self.transports[transport_of(subscriber)] += 1
        subscription.start(after)
        return subscription

    def deliver(self, publication: Publication) -> None:
        """Tell all who listen, at the end of this turn."""
        topic, id = publication.topic, publication.id
        if topic not in self._topics:
            return
        run = self._runs.get(topic)
        if run is None or not _follows(id, run[-1].id):
            run = self._runs[topic] = []
            self._news.append((run, self.clock.seconds()))
        run.append(publication)
        self._bytes += len(publication.data)
        if self._turn_ends is None:
            self._turn_ends = self.clock.callLater(0, self._end_turn)
        if self._bytes >= _TURN:
            self.flush()

    def flush(self) -> None:
        """Deliver what was published in this turn now; what is published by that comes later."""
        if self._delivering:
            return
        news, self._news, self._runs, self._bytes = self._news, [], {}, 0
        self._delivering = True
        try:
            for run, since in news:
                self._tell(Batch(run))
                self.delays.observe(self.clock.seconds() - since)
        finally:
            self._delivering = False

    def missed(self, topic: str, last: Id) -> None:
        """End those who have not heard all up to an id, which is not kept any more."""
        self.flush()
        for subscription in tuple(self._topics.get(topic, ())):
            try:
                subscription.miss(last)
            except Exception:
                subscription.failed(Failure())

    def count(self, topic: str) -> int:
        """How many listen to a topic on this node."""
        return len(self._topics.get(topic, ()))

    def topics(self) -> list[str]:
        """The topics that somebody listens to on this node."""
        return list(self._topics)

    def subscribers(self, topic: str) -> list[Subscriber]:
        """Those who listen to a topic on this node."""
        return [subscription.subscriber for subscription in self._topics.get(topic, ())]

    def forget(self, subscription: Subscription) -> None:
        """Take a subscription out; ``Subscription.cancel`` calls this."""
        listeners = self._topics[subscription.topic]
        del listeners[subscription]
        self.transports[transport_of(subscription.subscriber)] -= 1
        if not listeners:
            del self._topics[subscription.topic]
            self.past.unfollow(subscription.topic)

    def complain(self, failure: Failure, topic: str) -> None:
        """Log that something failed for one subscriber; the others do not notice."""
        self._log.failure(
            "failed to serve a subscriber of {topic}",
            failure=failure,
            event="subscriber_failed",
            topic=topic,
        )

    def _end_turn(self) -> None:
        self._turn_ends = None
        self.flush()

    def _tell(self, batch: Batch) -> None:
        for subscription in tuple(self._topics.get(batch.topic, ())):
            try:
                subscription.take(batch)
            except Exception:
                subscription.failed(Failure())


def _ignore(_: object) -> None:
    """Whoever reads the past in small pieces blocks nobody."""


def _follows(id: Id, last: Id) -> bool:
    """Whether an id is the next one behind another."""
    return id.offset == last.offset + 1 and id.epoch == last.epoch


def _is_before(position: Id, id: Id) -> bool:
    """Whether there is something to read on the way from one id to another."""
    return position.epoch != id.epoch or position.offset < id.offset
