"""Who listens to what on this node."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.broker import Unavailable
from pushd.messages import Id, Publication, Replay

# How much of the past is asked for at a time, in bytes.
_BATCH = 1 << 18


class Subscriber(Protocol):
    """Anything that a publication can be delivered to."""

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Take note that the next publication follows this id.

        ``recovered`` says that nothing is missing since the id that was asked for.
        """

    def deliver(self, publication: Publication) -> None:
        """Take a publication."""

    def has_room(self) -> bool:
        """Whether more of the past may come now; if not, ``Subscription.resume`` is called."""

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


class _State(Enum):
    """How a subscription gets its publications."""

    CATCHING_UP = "from the past"
    LIVE = "as they come"
    ENDED = "not at all"


class Subscription:
    """One subscriber of one topic, and how far it has heard.

    It first gets what it has missed, at its own pace, then what comes. The two meet without a gap
    and without a repeat: what comes while it catches up is in the past by the time it gets there.
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
            self._reading = True
            Deferred.fromCoroutine(self._read()).addErrback(self.failed)

    def cancel(self) -> None:
        """End it."""
        if self._state is not _State.ENDED:
            self._state = _State.ENDED
            self._hub.forget(self)

    def take(self, publication: Publication) -> None:
        """Take what has just been published."""
        if self._state is _State.LIVE:
            if self._position is None or publication.id.epoch != self._position.epoch:
                self._lose_track()
            elif publication.id.offset == self._position.offset + 1:
                self._deliver(publication)
            elif publication.id.offset > self._position.offset:
                self._state = _State.CATCHING_UP
                self._newest = publication.id
                self.resume()
        else:
            self._newest = publication.id

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
            self._lose_track()
            return True
        for publication in replay.publications:
            if self._has_ended() or not self._subscriber.has_room():
                return True
            self._deliver(publication)
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

    def _deliver(self, publication: Publication) -> None:
        self._position = publication.id
        self._subscriber.deliver(publication)

    def _lose_track(self) -> None:
        self.cancel()
        self._subscriber.lost_track()


class Hub:
    """The subscriptions of this node, by topic.

    All subscribers of a topic see the same order, also when one of them publishes while it is
    being told: what is published then is delivered after.
    """

    _log = Logger()

    def __init__(self, past: Past) -> None:
        self.past = past
        self._topics: dict[str, dict[Subscription, None]] = {}
        self._queue: deque[Publication] = deque()
        self._delivering = False

    def subscribe(self, topic: str, subscriber: Subscriber, after: Id | None) -> Subscription:
        """Let a subscriber have a topic's publications, since an id or from now on."""
        subscription = Subscription(self, topic, subscriber)
        listeners = self._topics.get(topic)
        if listeners is None:
            listeners = self._topics[topic] = {}
            self.past.follow(topic)
        listeners[subscription] = None
        subscription.start(after)
        return subscription

    def deliver(self, publication: Publication) -> None:
        """Tell all who listen."""
        self._queue.append(publication)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._queue:
                self._tell(self._queue.popleft())
        finally:
            self._delivering = False

    def missed(self, topic: str, last: Id) -> None:
        """End those who have not heard all up to an id, which is not kept any more."""
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
        if not listeners:
            del self._topics[subscription.topic]
            self.past.unfollow(subscription.topic)

    def complain(self, failure: Failure, topic: str) -> None:
        """Log that something failed for one subscriber; the others do not notice."""
        self._log.failure("failed to serve a subscriber of {topic}", failure=failure, topic=topic)

    def _tell(self, publication: Publication) -> None:
        for subscription in tuple(self._topics.get(publication.topic, ())):
            try:
                subscription.take(publication)
            except Exception:
                subscription.failed(Failure())


def _is_before(position: Id, id: Id) -> bool:
    """Whether there is something to read on the way from one id to another."""
    return position.epoch != id.epoch or position.offset < id.offset
