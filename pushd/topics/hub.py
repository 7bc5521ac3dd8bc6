"""The hub: passes what is published to the subscribers of this node, topic by topic."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.counters import SubscriberCounters
from pushd.schedule.histogram import Histogram
from pushd.topics.broker import TopicSource
from pushd.topics.fanout import Batch
from pushd.topics.publication import Id, Publication, size_of
from pushd.topics.subscribers import SubscriberList
from pushd.topics.subscription import Subscriber, Subscription, SubscriptionDependencies

# How many bytes of publications may be pending before they are delivered at once.
_MAX_PENDING = 1 << 18


class Hub:
    """The subscriptions of this node, by topic.

    What is published in one iteration of the reactor is delivered at its end, with one write per
    subscriber, no matter how many publications there are. All subscribers of a topic see the same
    order, even if one of them publishes during a delivery.

    :param source: where the history is read.
    :param uncork: writes to the sockets what has been corked so far.
    """

    def __init__(
        self, source: TopicSource, clock: IReactorTime, uncork: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._clock = clock
        self._uncork = uncork
        #: Numbers for the metrics.
        self.counters = SubscriberCounters()
        #: Times from the receipt of a publication until it is written to the last subscriber's
        #: socket, in seconds. Publications that are delivered together count from the first.
        self.delays = Histogram()
        self._shared = SubscriptionDependencies(source, clock, self.counters, self._forget)
        self._topics: dict[str, SubscriberList] = {}
        # Publications to be delivered, in runs without a gap, each with the time of its first one;
        # the last run of each topic; and the bytes of them all.
        self._pending: list[tuple[list[Publication], float]] = []
        self._runs: dict[str, list[Publication]] = {}
        self._pending_bytes = 0
        self._flush_call: IDelayedCall | None = None
        # True during a delivery.
        self._delivering = False

    def subscribe(self, topic: str, subscriber: Subscriber, after: Id | None) -> Subscription:
        """Subscribe to a topic, from an id on or from now on."""
        subscription = Subscription(self._shared, topic, subscriber)
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
        topic, id = publication.topic, publication.id
        if topic not in self._topics:
            return
        run = self._runs.get(topic)
        if run is None or not _follows(id, run[-1].id):
            run = self._runs[topic] = []
            self._pending.append((run, self._clock.seconds()))
        run.append(publication)
        self._pending_bytes += size_of(publication.data)
        if self._flush_call is None:
            self._flush_call = self._clock.callLater(0, self._flush_later)
        if self._pending_bytes >= _MAX_PENDING:
            self.flush()

    def flush(self) -> None:
        """Deliver all pending publications now. Does nothing during a delivery."""
        if self._delivering:
            return
        pending, self._pending = self._pending, []
        self._runs, self._pending_bytes = {}, 0
        self._delivering = True
        try:
            for run, since in pending:
                # Groups are written to directly, which must not overtake what is corked.
                self._uncork()
                batch = Batch(run)
                subscribers = self._topics.get(batch.topic)
                if subscribers is not None:
                    grouped = subscribers.deliver(batch)
                    self.counters.delivered += batch.count * grouped
                self._uncork()
                self.delays.observe(self._clock.seconds() - since)
        finally:
            self._delivering = False

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

    def _flush_later(self) -> None:
        self._flush_call = None
        self.flush()


def _follows(id: Id, last: Id) -> bool:
    """Return whether an id is the next one after another."""
    return id.offset == last.offset + 1 and id.epoch == last.epoch
