"""Who listens to what on this node."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.counters import SubscriberCounters
from pushd.schedule.histogram import Histogram
from pushd.topics.broker import TopicSource
from pushd.topics.fanout import Batch
from pushd.topics.publication import Id, Publication
from pushd.topics.subscribers import SubscriberList
from pushd.topics.subscription import Subscriber, Subscription, SubscriptionContext, transport_of

# How much may wait for the end of the turn: after so many bytes it goes out at once.
_TURN = 1 << 18


class Hub:
    """The subscriptions of this node, by topic.

    What is published in one turn of the reactor is delivered together at its end: that is one
    write for each subscriber, however many publications there are. All subscribers of a topic
    see the same order, also when one of them publishes while it is being told.

    :param source: where the history is read, and what is to be followed.
    :param clock: where time comes from.
    :param uncork: writes to the sockets what is corked until now.
    """

    def __init__(
        self, source: TopicSource, clock: IReactorTime, uncork: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._clock = clock
        self._uncork = uncork
        self.counters = SubscriberCounters()
        self._context = SubscriptionContext(source, clock, self.counters, self._forget)
        self._topics: dict[str, SubscriberList] = {}
        #: How long publications took from here to the last subscriber's socket, in seconds: for
        #: those of one turn, how long the first of them took.
        self.delays = Histogram()
        # What was published in this turn, in runs without a gap, each with the time of its
        # beginning, the last run of each topic, and how many bytes there are.
        self._news: list[tuple[list[Publication], float]] = []
        self._runs: dict[str, list[Publication]] = {}
        self._bytes = 0
        self._turn_ends: IDelayedCall | None = None
        self._delivering = False

    def subscribe(self, topic: str, subscriber: Subscriber, after: Id | None) -> Subscription:
        """Let a subscriber have a topic's publications, since an id or from now on."""
        subscription = Subscription(self._context, topic, subscriber)
        subscribers = self._topics.get(topic)
        if subscribers is None:
            subscribers = self._topics[topic] = SubscriberList()
            self._source.follow(topic)
        subscribers.add(subscription)
        self.counters.transports[transport_of(subscriber)] += 1
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
            self._news.append((run, self._clock.seconds()))
        run.append(publication)
        self._bytes += len(publication.data)
        if self._turn_ends is None:
            self._turn_ends = self._clock.callLater(0, self._end_turn)
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
                # Groups are written to directly, past the cork.
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
        """How many listen to a topic on this node."""
        return len(self._topics.get(topic, ()))

    def topics(self) -> list[str]:
        """The topics that somebody listens to on this node."""
        return list(self._topics)

    def subscribers(self, topic: str) -> list[Subscriber]:
        """Those who listen to a topic on this node."""
        return [subscription.subscriber for subscription in self._topics.get(topic, ())]

    def flush_counters(self) -> None:
        """Count on each connection what was written directly to it until now."""
        for subscribers in self._topics.values():
            subscribers.flush_counters()

    def _forget(self, subscription: Subscription) -> None:
        subscribers = self._topics[subscription.topic]
        subscribers.discard(subscription)
        self.counters.transports[transport_of(subscription.subscriber)] -= 1
        if not subscribers:
            del self._topics[subscription.topic]
            self._source.unfollow(subscription.topic)

    def _end_turn(self) -> None:
        self._turn_ends = None
        self.flush()


def _follows(id: Id, last: Id) -> bool:
    """Whether an id is the next one behind another."""
    return id.offset == last.offset + 1 and id.epoch == last.epoch
