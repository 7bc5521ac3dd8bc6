"""The hub: passes what is published to the subscribers of this node, topic by topic."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from pushd.access.counters import SubscriberCounters
from pushd.schedule.histogram import Histogram
from pushd.topics.broker import TopicSource
from pushd.topics.cursor import CursorTracker
from pushd.topics.fanout import Batch
from pushd.topics.publication import Id, Publication, size_of
from pushd.topics.rules import Rules
from pushd.topics.subscribers import SubscriberList
from pushd.topics.subscription import (
    LatestSubscription,
    Subscriber,
    Subscription,
    SubscriptionDependencies,
)

# How many bytes of publications are delivered together, at once if they are not under way yet; and
# how many may wait for a delivery that has begun, which is then completed without a pause.
_MAX_BATCH = 1 << 18
_MAX_PENDING = 1 << 22

# How many bytes may wait for a delivery that has begun before publishers that can wait do so.
_MUCH_PENDING = 1 << 20

# How long a delivery may take in one iteration of the reactor, in seconds, before it goes on in the
# next one: to a thousand subscribers, a megabyte takes about a second.
_STEP = 0.05


class _Run:
    """Consecutive publications of a topic that are delivered together.

    :param since: when the first was received, in seconds of the clock.
    :param first: its sequence.
    """

    __slots__ = ("bytes", "complete", "first", "later", "publications", "since")

    def __init__(self, since: float, first: int) -> None:
        self.since = since
        #: The sequence of the first publication, and the lowest one of the runs delivered after it.
        self.first = first
        self.later: float = math.inf
        self.publications: list[Publication] = []
        self.bytes = 0
        #: The publications as they are delivered, once no more are added.
        self.complete: Batch | None = None

    @property
    def topic(self) -> str:
        """Their topic."""
        return self.publications[0].topic

    def batch(self) -> Batch:
        """Return the publications as they are delivered. No more must be added from then on."""
        if self.complete is None:
            self.complete = Batch(self.publications)
        return self.complete


class Hub:
    """The subscriptions of this node, by topic.

    What is published in one iteration of the reactor is delivered at its end, with one write per
    subscriber, no matter how many publications there are. All subscribers of a topic see the same
    order, even if one of them publishes during a delivery. A delivery that takes long is done in
    steps, between which others are served.

    :param source: where the history is read.
    :param uncork: writes to the sockets what has been corked so far.
    :param is_overloaded: whether subscribers must not be given more in this iteration.
    :param rules: which topics are ``latest``.
    :param batch: entered while subscriptions read the history in turn.
    """

    def __init__(
        self,
        source: TopicSource,
        clock: IReactorTime,
        uncork: Callable[[], object] = lambda: None,
        is_overloaded: Callable[[], bool] = lambda: False,
        rules: Rules | None = None,
        batch: AbstractContextManager[object] | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._uncork = uncork
        self._is_overloaded = is_overloaded
        self._rules = Rules() if rules is None else rules
        #: Numbers for the metrics.
        self.counters = SubscriberCounters()
        #: Times from the receipt of a publication until it is written to the last subscriber's
        #: socket, in seconds. Publications that are delivered together count from the first.
        self.delays = Histogram()
        self._shared = SubscriptionDependencies(source, clock, self.counters, self._forget, batch)
        self._topics: dict[str, SubscriberList] = {}
        # Publications to be delivered; the last run of each topic; and the bytes of them all.
        self._pending: list[_Run] = []
        self._runs: dict[str, _Run] = {}
        self._pending_bytes = 0
        # The lowest sequence of what is pending.
        self._pending_from: float = math.inf
        self._flush_call: IDelayedCall | None = None
        # The delivery that has begun, and its runs that are not delivered to all; until when its
        # current step may take; True during a step.
        self._delivery: Iterator[None] | None = None
        self._begun: deque[_Run] = deque()
        self._step_end = 0.0
        self._delivering = False
        # Publishers that wait until less is pending.
        self._publishers: deque[Deferred[None]] = deque()

    @property
    def generation(self) -> str:
        """The generation in which the broker numbers publications."""
        return self._source.generation

    def settled(self, beside: str = "") -> int:
        """Return the sequence up to which everything was delivered to live subscriptions.

        :param beside: a topic whose run does not count if it is being delivered.
        """
        low = min(self._source.settled + 1, self._pending_from)
        if self._begun:
            run = self._begun[0]
            low = min(low, run.later if run.topic == beside else min(run.later, run.first))
        return int(low) - 1

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic that may have been read."""
        return self._source.newest(topic)

    def subscribe(
        self,
        topic: str,
        subscriber: Subscriber,
        after: Id | None,
        tracker: CursorTracker | None = None,
    ) -> Subscription:
        """Subscribe to a topic, from an id on or from now on.

        :param tracker: keeps the cursor of a connection with several topics.
        """
        kind = LatestSubscription if self._rules.find(topic).latest else Subscription
        subscription = kind(self._shared, topic, subscriber, tracker)
        subscribers = self._topics.get(topic)
        if subscribers is None:
            subscribers = self._topics[topic] = SubscriberList()
            self._source.follow(topic)
        subscribers.add(subscription)
        self.counters.transports[subscriber.transport] += 1
        try:
            subscription.start(after)
        except BaseException:
            subscription.cancel()
            raise
        return subscription

    def deliver(self, publication: Publication) -> None:
        """Deliver a publication at the end of this iteration of the reactor."""
        topic = publication.topic
        if topic not in self._topics:
            return
        id = publication.id
        run = self._runs.get(topic)
        if (
            run is None
            or run.complete is not None
            or run.bytes >= _MAX_BATCH
            or not _follows(id, run.publications[-1].id)
        ):
            run = self._runs[topic] = _Run(self._clock.seconds(), publication.sequence)
            self._pending.append(run)
            if run.first < self._pending_from:
                self._pending_from = run.first
        size = size_of(publication.data)
        run.publications.append(publication)
        run.bytes += size
        self._pending_bytes += size
        self._schedule()
        if self._pending_bytes >= _MAX_PENDING:
            self.flush()
        elif self._pending_bytes >= _MAX_BATCH and self._delivery is None:
            self._deliver_until(self._clock.seconds() + _STEP)

    @property
    def has_room(self) -> bool:
        """Whether publishers may go on, and need not wait as ``room`` says."""
        return self._delivery is None or self._pending_bytes < _MUCH_PENDING

    def room(self) -> Deferred[None]:
        """Return what fires as soon as more may be published by those that can wait.

        If much waits for a delivery that has begun, more would only make it wait longer.
        """
        if self.has_room:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._publishers.remove)
        self._publishers.append(waiting)
        return waiting

    def flush(self) -> None:
        """Deliver all pending publications now. Does nothing during a delivery."""
        if self._delivery is not None:
            self._deliver_until(math.inf)  # Complete what has begun.
        self._deliver_until(math.inf)

    def catch_up(self, subscription: Subscription) -> None:
        """Deliver to one subscription what is pending, before something else is written to it.

        Unlike ``flush`` it does not complete a delivery that takes long: others must not wait while
        thousands are written to because one of them is. Does nothing during a delivery.
        """
        if self._begin_pending():
            self._catch_up({subscription.topic: subscription}.get)

    def catch_up_all(self, find: Callable[[str], Subscription | None]) -> None:
        """Do the same for all subscriptions of one connection.

        :param find: returns the one of a topic; called for topics with pending publications only.
        """
        if self._begin_pending():
            self._catch_up(find)

    def _begin_pending(self) -> bool:
        """Begin to deliver what is pending; return whether some of it has yet to be delivered."""
        if self._delivering:
            return False
        if self._delivery is None and self._pending:
            self._deliver_until(self._clock.seconds() + _STEP)
        return self._delivery is not None

    def _catch_up(self, find: Callable[[str], Subscription | None]) -> None:
        runs = [(find(run.topic), run) for run in chain(self._begun, self._pending)]
        for subscription, run in runs:
            if subscription is None:
                continue
            # What its group is written to afterwards would come too late.
            subscription.leave_group()
            try:
                subscription.deliver(run.batch())
            except Exception:
                subscription.failed(Failure())

    def _deliver_until(self, step_end: float) -> None:
        """Begin to deliver what is pending, or go on, until a time."""
        if self._delivering:
            return
        if self._delivery is None:
            self._delivery = self._deliver_pending()
        self._step_end, self._delivering = step_end, True
        try:
            # Groups are written to directly, which must not overtake what is corked.
            self._uncork()
            next(self._delivery)
        except StopIteration:
            self._delivery = None
        finally:
            self._delivering = False
            if self._delivery is not None or self._begun or self._pending:
                self._schedule()
        while self._publishers and self._pending_bytes < _MUCH_PENDING:
            self._publishers.popleft().callback(None)

    def _deliver_pending(self) -> Iterator[None]:
        """Deliver, run by run; yields when the current step has taken too long."""
        self._begun.extend(self._pending)
        self._pending = []
        self._runs, self._pending_bytes, self._pending_from = {}, 0, math.inf
        low = math.inf
        for run in reversed(self._begun):
            run.later, low = low, min(low, run.first)
        while self._begun:
            run = self._begun[0]
            batch = run.batch()
            subscribers = self._topics.get(batch.topic)
            try:
                if subscribers is not None:
                    grouped = yield from subscribers.deliver(batch, self._is_late)
                    self.counters.delivered += batch.count * grouped
            finally:  # If it fails, those behind it are delivered nevertheless.
                self._begun.popleft()
            self._uncork()
            self.delays.observe(self._clock.seconds() - run.since)

    def _is_late(self) -> bool:
        end = self._step_end
        return self._clock.seconds() >= end or (end < math.inf and self._is_overloaded())

    def end_at_gap(self, topic: str, last: Id) -> None:
        """End every subscription that lacks something up to an id: it cannot be read any more."""
        self.flush()
        subscribers = self._topics.get(topic)
        if subscribers is not None:
            subscribers.end_at_gap(last)

    def count(self, topic: str) -> int:
        """Return the number of a topic's subscribers on this node."""
        return len(self._topics.get(topic, ()))

    def topics(self) -> list[str]:
        """Return the names of the topics that have subscribers on this node."""
        return list(self._topics)

    def subscribers(self, topic: str) -> list[Subscriber]:
        """Return a topic's subscribers on this node."""
        return [subscription.subscriber for subscription in self._topics.get(topic, ())]

    def flush_counters(self) -> None:
        """Count on each connection what has been written directly to it so far."""
        for subscribers in self._topics.values():
            subscribers.flush_counters()

    def _forget(self, subscription: Subscription) -> None:
        subscribers = self._topics[subscription.topic]
        subscribers.discard(subscription)
        self.counters.transports[subscription.subscriber.transport] -= 1
        if not subscribers:
            del self._topics[subscription.topic]
            self._source.unfollow(subscription.topic)
            if not self._topics:
                self._shared.batches.clear()

    def _schedule(self) -> None:
        if self._flush_call is None:
            self._flush_call = self._clock.callLater(0, self._flush_later)

    def _flush_later(self) -> None:
        self._flush_call = None
        self._deliver_until(self._clock.seconds() + _STEP)


def _follows(id: Id, last: Id) -> bool:
    """Return whether an id is the next one after another."""
    return id.offset == last.offset + 1 and id.epoch == last.epoch
