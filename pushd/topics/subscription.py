"""A subscription: one subscriber of one topic, and its position in the topic.

::

      start()
         │
         ▼
    CATCHING_UP ◄────────┐    The history is read, as fast as the subscriber takes it.
         │ no more to    │
         │ read          │ a publication is missing, or
         ▼               │ the subscriber does not keep up
       LIVE ─────────────┘    Publications are delivered as they come.
       │  ▲
  join │  │ leave             Nothing is buffered before the socket (join_group), or something is
       ▼  │                   about to be (leave_group).
      GROUPED                 Its FanOutGroup writes directly to the socket.

       ENDED                  From every state: cancel(), a gap in the history, a subscriber that
                              is too slow, or an exception.

There is no queue. A publication that comes while the subscription catches up is in the history by
the time that it is read there, and one that the subscriber cannot take makes the subscription
catch up again. The position decides what is next, so nothing is left out or delivered twice.

``LatestSubscription`` differs: when it catches up, it passes on the newest publication only, and
leaves out those before it. It holds that one itself, so it needs the history for its first read
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import Enum
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.access.counters import SubscriberCounters
from pushd.access.progress import Progress
from pushd.errors import Unavailable
from pushd.schedule.coroutine import Task
from pushd.schedule.timeouts import TimeoutQueue
from pushd.schedule.turns import Turns
from pushd.topics.broker import TopicSource
from pushd.topics.cursor import CursorTracker
from pushd.topics.fanout import Batch, BatchCache, DirectWrite, FanOutGroup
from pushd.topics.publication import Id, Publication, Replay

_log = Logger(namespace="pushd.topics")

# How much of the history is read at a time, in bytes.
_READ_SIZE = 1 << 18

# How long a subscriber that does not keep up may take nothing, in seconds, before it is cut off. It
# must also take what ``Progress`` calls enough.
LAG_TIMEOUT = 10.0


class Subscriber(Protocol):
    """Anything that publications can be delivered to."""

    @property
    def transport(self) -> str:
        """The name of the transport, for the metrics."""

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Take note that the subscription has begun: the next publication follows ``id``.

        ``recovered`` is true if nothing is missing since the id that was asked for.
        """

    def deliver(self, batch: Batch) -> None:
        """Send publications to the client."""

    def has_room(self) -> bool:
        """Return whether more history may be delivered now.

        If not, the subscriber calls ``Subscription.resume`` later.
        """

    def keeps_up(self) -> bool:
        """Return whether no more waits for the client than is allowed, with what it did not take.

        If not, the subscriber calls ``Subscription.resume`` later, and ``has_room`` then decides.
        """

    def can_take(self, batch: Batch) -> bool:
        """Return whether no more would wait than is allowed, counted as written, or nothing waits.

        If not, the subscriber calls ``Subscription.resume`` later, and ``has_room`` then decides.
        """

    @property
    def taken(self) -> int:
        """How many bytes the client has taken, counted from any start.

        A subscription that lags asks from time to time, to see whether the client makes progress.
        """

    def direct_write(self) -> DirectWrite | None:
        """Return how to write directly to its socket, if nothing is buffered before it.

        None if something is, and after the end. The subscriber calls ``Subscription.leave_group``
        before anything is buffered again.
        """

    def subscription_lost(self) -> None:
        """End the connection or response, as the next publication would follow a gap."""


class _State(Enum):
    """The states of a subscription; the module's docstring draws the transitions."""

    CATCHING_UP = "reads the history"
    LIVE = "gets publications as they come"
    GROUPED = "is written to directly, with its group"
    ENDED = "gets nothing"


class Subscription:
    """One subscriber of one topic, and the position up to which it has received the topic."""

    __slots__ = (
        "_announced",
        "_direct",
        "_group",
        "_newest",
        "_position",
        "_reading",
        "_shared",
        "_state",
        "_tracker",
        "subscriber",
        "topic",
    )

    def __init__(
        self,
        shared: SubscriptionDependencies,
        topic: str,
        subscriber: Subscriber,
        tracker: CursorTracker | None = None,
    ) -> None:
        self.topic = topic
        # Told how far the subscription is, if its connection has a cursor.
        self._tracker = tracker
        self._shared = shared
        self.subscriber = subscriber
        self._state = _State.CATCHING_UP
        # The id of the last publication delivered, unless the subscription is in a group. None
        # before the first read, if the subscriber gave no id.
        self._position: Id | None = None
        # The newest id that was published while the subscription catches up.
        self._newest: Id | None = None
        # True while the history is being read.
        self._reading = False
        # True once the subscriber knows where the subscription begins.
        self._announced = False
        # Its group, and how it is written to there. Both are set in the state GROUPED only.
        self._group: FanOutGroup[Subscription] | None = None
        self._direct: DirectWrite | None = None

    @property
    def position(self) -> Id:
        """The id of the last publication that was delivered."""
        position = self._position if self._group is None else self._group.position(self.direct)
        assert position is not None
        return position

    @property
    def direct(self) -> DirectWrite:
        """How its group writes to it; only for the members of a group."""
        assert self._direct is not None
        return self._direct

    def start(self, after: Id | None) -> None:
        """Begin: read the history after an id once there is room, or without an id, begin now."""
        self._position = after
        if after is None or self.subscriber.has_room():
            if after is not None and self._tracker is None and self._is_newest(after):
                self._begin_live(after)
            else:
                self.resume()

    def resume(self) -> None:
        """Continue to read the history; the subscriber has room again."""
        if self._state is _State.CATCHING_UP and not self._reading:
            self._shared.stop_lag(self)
            self._reading = True
            Task(self._read(), self._shared.clock, _ignore, self._have_read).advance()

    def cancel(self) -> None:
        """End the subscription. Does nothing if it has ended."""
        if self._state is not _State.ENDED:
            self._end()
            if self._tracker is not None:
                self._tracker.dropped(self.topic)

    def deliver(self, batch: Batch) -> DirectWrite | None:
        """Deliver a batch that was just published.

        Returns how to write what comes next directly, if that is possible from now on.
        """
        position = self._position
        if self._state is not _State.LIVE or position is None:
            self._newest = batch.last
        elif batch.follows(position) and self.subscriber.can_take(batch):
            # Nearly always. In all other cases the history says what is next.
            self._pass_on(batch)
            return self.subscriber.direct_write()
        elif position.epoch != batch.epoch:
            self._lose()
        elif position.offset < batch.last.offset:
            self._fall_behind(batch)
        return None

    def join_group(self, group: FanOutGroup[Subscription], direct: DirectWrite) -> None:
        """Join a group at the same position, to be written to directly from now on."""
        self._state = _State.GROUPED
        self._group, self._direct = group, direct
        group.add(self, direct)

    def leave_group(self) -> None:
        """Leave the group, if any: the next batch is delivered through the subscriber again.

        The subscriber calls this before anything is buffered for its connection.
        """
        if self._group is not None:
            self._position = self._group.position(self.direct)
            self._group.remove(self, self.direct)
            self._group = self._direct = None
            self._state = _State.LIVE

    def end_at_gap(self, last: Id) -> None:
        """End if the publications up to an id were not delivered: they cannot be read any more.

        While it catches up, only the id is noted: the next read finds the gap, if there is one.
        """
        if self._state is _State.CATCHING_UP:
            self._newest = last
        elif self._position is None or _is_before(self._position, last):
            self._lose()

    def lag_expired(self) -> None:
        """Cut off a subscriber that does not keep up and takes nothing, or too little.

        One that goes on reading is waited for, however much it has to read.
        """
        if self.subscriber.keeps_up():
            self.resume()
        elif not self._shared.still_lags(self):
            self._cut_off()

    def failed(self, failure: Failure) -> None:
        """Log an exception, and end."""
        # The broker logs once that it is unavailable, not once for each subscription.
        if failure.check(Unavailable) is None:
            _log.failure(
                "failed to serve a subscriber of {topic}",
                failure=failure,
                event="subscriber_failed",
                topic=self.topic,
            )
        if self._state is not _State.ENDED:
            self._lose()

    def _is_newest(self, after: Id) -> bool:
        """Return whether there is nothing to read after an id, for all that is known at once."""
        return self._shared.source.is_newest(self.topic, after)

    def _begin_live(self, position: Id) -> None:
        """Begin without a look at the history: most long polls do, each time."""
        self._announced = True
        self.subscriber.subscribed(self.topic, position, True)
        if not self._has_ended():
            self._state = _State.LIVE

    def _have_read(self, result: Failure | None) -> None:
        if isinstance(result, Failure):
            self.failed(result)

    async def _read(self) -> None:
        """Read the history until it is up to date or the subscriber has no room."""
        try:
            while not await self._read_some():
                pass
        finally:
            self._reading = False

    async def _read_some(self) -> bool:
        """Read some of the history. Returns whether to stop reading."""
        shared = self._shared
        if self._position is not None and not shared.turns.is_free:
            await shared.turns.take(self.topic)
            if self._has_ended():
                return True
        replay = await shared.source.replay(self.topic, self._position, _READ_SIZE)
        if self._has_ended():
            return True
        began = shared.clock.seconds()
        try:
            return self._pass_on_replay(replay)
        finally:
            if replay.publications:
                shared.turns.charge(began)

    def _pass_on_replay(self, replay: Replay) -> bool:
        """Deliver what was read of the history. Returns whether to stop reading."""
        if not self._announced:
            self._announced = True
            self._position = replay.id
            if self._tracker is not None:
                self._tracker.began(self.topic, replay.id, replay.recovered)
            self.subscriber.subscribed(self.topic, replay.id, replay.recovered)
        elif not replay.recovered:
            # The next publication was dropped from the history before it was read.
            self._cut_off()
            return True
        if replay.publications and not self._pass_on_all(replay.publications):
            return True
        return self._has_ended() or self._has_caught_up(replay.last)

    def _pass_on_all(self, publications: Sequence[Publication]) -> bool:
        """Deliver publications as long as there is room. Returns whether there was for all."""
        batches = self._shared.batches.get(publications)
        for batch in batches:
            if self._has_ended() or not self.subscriber.has_room():
                break
            self._pass_on(batch)
        else:
            self._shared.batches.keep(publications, batches)
            return True
        return False

    def _has_ended(self) -> bool:
        return self._state is _State.ENDED

    def _has_caught_up(self, last: Id) -> bool:
        assert self._position is not None
        newest, self._newest = self._newest, None
        if newest is not None and newest.epoch != last.epoch:
            # One of the two is from before the epoch changed: the next read finds out which.
            return False
        if newest is not None and _is_before(last, newest):
            self._newest = last = newest
        if _is_before(self._position, last):
            return False
        self._state = _State.LIVE
        if self._tracker is not None:
            self._tracker.caught_up(self.topic)
        return True

    def _fall_behind(self, batch: Batch) -> None:
        """Deliver what is new in a batch, or go back to the history.

        That is read at once if a publication is missing, else once the subscriber has room.
        """
        assert self._position is not None
        if batch.first <= self._position.offset + 1:
            rest = batch.since(self._position.offset)
            if self.subscriber.can_take(rest):
                self._pass_on(rest)
                return
        self._state = _State.CATCHING_UP
        self._newest = batch.last
        if self._tracker is not None:
            self._tracker.fell_behind(self.topic)
        if self.subscriber.keeps_up():
            self.resume()
        else:
            self._shared.start_lag(self)

    def _pass_on(self, batch: Batch) -> None:
        self._position = batch.last
        self._shared.counters.delivered += batch.count
        self.subscriber.deliver(batch)

    def _cut_off(self) -> None:
        """End because the subscriber is too slow, and count that."""
        self._shared.counters.cut += 1
        self._lose()

    def _lose(self) -> None:
        """End, and have the subscriber end its connection, so that the client comes back.

        The subscriber chooses the code: a WebSocket closes with 1013, for a gap or for lag.
        """
        self._end()
        if self._tracker is not None:
            # The client does not know yet that something is missing.
            self._tracker.fell_behind(self.topic)
        self.subscriber.subscription_lost()

    def _end(self) -> None:
        self.leave_group()
        self._state = _State.ENDED
        self._shared.stop_lag(self)
        self._shared.forget(self)


class LatestSubscription(Subscription):
    """A subscription to a topic of which only the newest publication matters.

    A subscriber that keeps up gets all. One that has no room, or comes back, gets the newest, which
    says how many it ``conflated``: those that were left out before it. So nothing queues up, and no
    connection is cut off for being slower than what is published. One whose peer seems to be gone
    still is: it takes nothing for ``LAG_TIMEOUT``, or less than ``Progress`` calls enough.
    """

    __slots__ = ("_waiting",)

    def __init__(
        self,
        shared: SubscriptionDependencies,
        topic: str,
        subscriber: Subscriber,
        tracker: CursorTracker | None = None,
    ) -> None:
        super().__init__(shared, topic, subscriber, tracker)
        # The newest publication, while the subscription catches up.
        self._waiting: Publication | None = None

    def resume(self) -> None:
        """Deliver the newest publication; the subscriber has room again."""
        if not self._announced:
            super().resume()
        elif self._state is _State.CATCHING_UP and self.subscriber.has_room():
            self._shared.stop_lag(self)
            self._pass_on_waiting()

    def deliver(self, batch: Batch) -> DirectWrite | None:
        """Deliver a batch that was just published; or its end, if something before is missing."""
        position = self._position
        if self._state is not _State.LIVE or position is None:
            self._keep(batch.publications[-1])
        elif position.epoch != batch.epoch:
            self._lose()
        elif position.offset < batch.last.offset:
            if self.subscriber.has_room():
                self._pass_on_rest(batch.since(position.offset), position)
                return self.subscriber.direct_write()
            self._state = _State.CATCHING_UP
            self._keep(batch.publications[-1])
            if self._tracker is not None:
                self._tracker.fell_behind(self.topic)
            self._shared.start_lag(self)
        return None

    def end_at_gap(self, last: Id) -> None:
        """End if the publications up to an id were not delivered; when it returns it skips them."""
        if self._announced and _is_before(self.position, last):
            self._lose()

    def lag_expired(self) -> None:
        """Cut off a subscriber that takes nothing, or too little; see ``Progress``."""
        if self.subscriber.has_room():
            self.resume()
        elif not self._shared.still_lags(self):
            self._cut_off()

    async def _read_some(self) -> bool:
        """Read the newest publication, once. Returns whether to stop reading."""
        shared = self._shared
        if self._position is not None and not shared.turns.is_free:
            await shared.turns.take(self.topic)
            if self._has_ended():
                return True
        replay = await self._read_newest()
        if self._has_ended():
            return True
        newest = replay.publications[-1] if replay.publications else None
        last = replay.id if newest is None else newest.id
        if self._waiting is not None and self._waiting.id.epoch != last.epoch:
            # One of the two is from before the epoch changed: the next read finds out which.
            self._waiting = None
            return False
        if newest is not None:
            self._keep(newest)
        began = shared.clock.seconds()
        try:
            self._begin(replay)
        finally:
            if replay.publications:
                shared.turns.charge(began)
        return True

    async def _read_newest(self) -> Replay:
        """Read the newest publication if the subscriber lacks it, else what follows its id.

        The result is recovered if nothing that matters is missing. It may hold others before the
        newest. If it is too large for that, this is delivered soon, as the topic is followed.
        """
        source, topic, after = self._shared.source, self.topic, self._position
        replay = await source.replay(topic, None, _READ_SIZE)
        if after is None:
            return replay
        last = replay.last
        if after.epoch == last.epoch and after.offset >= last.offset:
            # It is up to date, or ahead of what this node has seen.
            return await source.replay(topic, after, _READ_SIZE)
        if not last.offset:
            return replay
        replay = await source.replay(topic, Id(last.epoch, last.offset - 1), _READ_SIZE)
        if replay.recovered and after.epoch == replay.id.epoch:
            return replace(replay, id=after)
        return replay

    def _begin(self, replay: Replay) -> None:
        """Announce where the subscription begins, and deliver the newest publication."""
        self._announced = True
        self._position = replay.id
        if self._waiting is not None and not _is_before(replay.id, self._waiting.id):
            self._waiting = None  # It was delivered by another connection.
        if self._tracker is not None:
            self._tracker.began(self.topic, replay.id, replay.recovered)
        self.subscriber.subscribed(self.topic, replay.id, replay.recovered)
        if self._has_ended():
            return
        if self._waiting is None or self.subscriber.has_room():
            self._pass_on_waiting()
        else:
            self._shared.start_lag(self)

    def _pass_on_waiting(self) -> None:
        """Deliver what waits, if anything, and what is published from now on."""
        waiting, self._waiting = self._waiting, None
        self._state = _State.LIVE
        if waiting is not None:
            self._pass_on_newest(waiting, self.position)
        if self._tracker is not None and self._state is _State.LIVE:
            self._tracker.caught_up(self.topic)

    def _pass_on_rest(self, batch: Batch, position: Id) -> None:
        """Deliver a batch, or its end if something is missing between a position and its start."""
        if batch.follows(position):
            self._pass_on(batch)
        else:
            self._pass_on_newest(batch.publications[-1], position)

    def _pass_on_newest(self, newest: Publication, position: Id) -> None:
        """Deliver a publication, with the number of those that are left out before it."""
        conflated = newest.id.offset - position.offset - 1
        self._shared.counters.conflated += conflated
        self._pass_on_all((replace(newest, conflated=conflated),))

    def _keep(self, publication: Publication) -> None:
        """Keep a publication until there is room, unless a newer one is kept."""
        waiting = self._waiting
        if waiting is None or _is_before(waiting.id, publication.id):
            self._waiting = publication


class SubscriptionDependencies:
    """What the subscriptions of a hub share: the source of the history, those that lag, counters.

    :param source: where the history is read.
    :param forget: called with each subscription that has ended.
    :param batch: entered while one of them reads the history, after it had to wait for that.
    """

    def __init__(
        self,
        source: TopicSource,
        clock: IReactorTime,
        counters: SubscriberCounters,
        forget: Callable[[Subscription], None],
        batch: AbstractContextManager[object] | None = None,
    ) -> None:
        self.source = source
        self.clock = clock
        self.counters = counters
        self.forget = forget
        #: Whose turn it is to read the history, once that takes much time.
        self.turns = Turns(clock, batch)
        #: What was read of the history and may be needed again at once.
        self.batches = BatchCache(clock)
        #: Subscriptions whose subscriber does not keep up.
        self.lagging: TimeoutQueue[Subscription] = TimeoutQueue(
            clock, timeout=LAG_TIMEOUT, expired=_lag_expired
        )
        # What each of them takes meanwhile.
        self._progress: dict[Subscription, Progress] = {}

    def start_lag(self, subscription: Subscription) -> None:
        """Note that a subscriber does not keep up from now on."""
        taken = subscription.subscriber.taken
        self._progress[subscription] = Progress(taken, self.clock.seconds())
        self.lagging.start(subscription)

    def still_lags(self, subscription: Subscription) -> bool:
        """Wait on for a subscriber if it has taken enough meanwhile; return whether it has."""
        taken = subscription.subscriber.taken
        if not self._progress[subscription].look(taken, self.clock.seconds()):
            return False
        self.lagging.start(subscription)
        return True

    def stop_lag(self, subscription: Subscription) -> None:
        """Note that a subscriber keeps up, or has ended; does nothing if it did not lag."""
        if self._progress.pop(subscription, None) is not None:
            self.lagging.stop(subscription)


def _lag_expired(subscription: Subscription) -> None:
    subscription.lag_expired()


def _ignore(_: object) -> None:
    """Ignore how long a step took: the history is read in small pieces."""


def _is_before(position: Id, id: Id) -> bool:
    """Return whether there is something to read between a position and an id."""
    return position.epoch != id.epoch or position.offset < id.offset
