"""The hub delivers each publication once to each subscriber of its topic, and to no others."""

from __future__ import annotations

from collections.abc import Callable, Generator

from twisted.internet.defer import CancelledError, Deferred

from pushd.topics.fanout import Batch
from pushd.topics.hub import _MAX_BATCH, _MAX_PENDING, _MUCH_PENDING
from pushd.topics.publication import Id
from pushd.topics.subscribers import SubscriberList
from tests.support.hub_case import Failing, HubTestCase, RecordingSubscriber, iterate


def fail_for(subscribers: set[SubscriberList]) -> Callable[..., Generator[None, None, int]]:
    """Return a ``SubscriberList.deliver`` that raises ZeroDivisionError for some."""
    deliver = SubscriberList.deliver

    def fail_or_deliver(
        self: SubscriberList, batch: Batch, is_late: Callable[[], bool]
    ) -> Generator[None, None, int]:
        if self in subscribers:
            raise ZeroDivisionError
        return (yield from deliver(self, batch, is_late))

    return fail_or_deliver


class HubTests(HubTestCase):
    """Subscribers of several topics."""

    def test_counts(self) -> None:
        """The hub counts and lists the subscribers of a topic, and the topics."""
        first, second = self.listen(), self.listen()
        self.listen(topic="u")
        self.assertEqual((self.hub.count("t"), self.hub.count("u"), self.hub.count("v")), (2, 1, 0))
        self.assertEqual(self.hub.topics(), ["t", "u"])
        self.assertEqual(self.hub.subscribers("t"), [first, second])
        self.assertEqual(self.hub.subscribers("v"), [])

    def test_delays(self) -> None:
        """A delay lasts until the last subscriber has the publication; none without subscribers."""
        for subscriber in (self.listen(), self.listen()):
            self.patch(subscriber, "deliver", lambda _: self.pass_time(0.1))
        self.publish("a")
        self.publish("x", "other")
        self.assertEqual(self.hub.delays.buckets[-1][1], 1)
        self.assertAlmostEqual(self.hub.delays.sum, 0.2)

    def test_delay_during_a_delivery(self) -> None:
        """A publication made during a delivery waits for it, which its delay includes."""
        first = self.listen()
        received: list[str] = []

        def deliver(batch: Batch) -> None:
            received.extend(str(publication.data) for publication in batch)
            if received == ["a"]:
                self.publish("b")
            self.pass_time(1)

        self.patch(first, "deliver", deliver)
        self.publish("a")
        self.source.clock.advance(0)
        self.assertEqual((received, self.hub.delays.sum), (["a", "b"], 3))

    def test_delays_together(self) -> None:
        """Publications that are delivered together count once, from the first of them."""
        self.listen()
        for text in ("a", "b"):
            self.hub.deliver(self.source.history.add("t", text))
            self.pass_time(0.5)
        self.hub.flush()
        self.assertEqual((self.hub.delays.buckets[-1][1], self.hub.delays.sum), (1, 1))

    def test_uncork(self) -> None:
        """Everything that is corked is written before a delivery, and again after it."""
        subscriber, notes = self.listen(), list[str]()
        self.patch(self.hub, "_uncork", lambda: notes.append("uncork"))
        self.patch(subscriber, "deliver", lambda _: notes.append("deliver"))
        self.publish("a")
        self.assertEqual(notes, ["uncork", "deliver", "uncork"])

    def start_long_delivery(self) -> list[RecordingSubscriber]:
        """Publish to five subscribers that take 20 ms each; return them after the first step."""
        subscribers = [self.listen() for _ in range(5)]
        for subscriber in subscribers:
            subscriber.react = lambda _: self.pass_time(0.02)
        self.hub.deliver(self.source.history.add("t", "a"))
        iterate(self.source.clock)
        self.assertEqual([len(one.events) for one in subscribers], [2, 2, 2, 1, 1])
        return subscribers

    def test_long_delivery(self) -> None:
        """A delivery that takes more than 50 ms goes on in the next iteration, in one order."""
        subscribers = self.start_long_delivery()
        late = self.listen("e1:0")
        self.hub.deliver(self.source.history.add("t", "b"))
        subscribers[4].react = lambda event: event == "b" and self.publish("c")
        for _ in range(6):
            iterate(self.source.clock)
        for subscriber in (*subscribers, late):
            self.assertEqual(subscriber.events[1:], ["a", "b", "c"])
        self.assertEqual(self.hub.counters.delivered, 18)
        self.assertIsNone(self.hub._flush_call)

    def test_catch_up_during_a_long_delivery(self) -> None:
        """A subscription is caught up alone: the others still wait for the next step."""
        subscribers = self.start_long_delivery()
        self.hub.deliver(self.source.history.add("t", "b"))
        for _ in range(2):
            self.hub.catch_up(self.last)
            self.assertEqual([one.events[1:] for one in subscribers[3:]], [[], ["a", "b"]])
        # What comes then is no part of the batch that it got.
        self.hub.deliver(self.source.history.add("t", "c"))
        for _ in range(6):
            iterate(self.source.clock)
        self.assertEqual([one.events[1:] for one in subscribers], [["a", "b", "c"]] * 5)
        self.assertEqual((self.hub.counters.delivered, len(self.hub._begun)), (15, 0))

    def test_catch_up_of_another_topic(self) -> None:
        """Nothing is delivered to a subscription of whose topic nothing is pending."""
        subscribers = self.start_long_delivery()
        other = self.listen(topic="u")
        self.hub.catch_up(self.last)
        self.assertEqual([len(one.events) for one in (*subscribers, other)], [2, 2, 2, 1, 1, 1])

    def test_catch_up_fails(self) -> None:
        """A subscription that cannot be caught up ends, and nothing else."""
        subscribers = self.start_long_delivery()
        self.patch(subscribers[4], "deliver", lambda _: self.fail_as_told())
        self.hub.catch_up(self.last)
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(subscribers[4].events[1:], ["lost"])
        iterate(self.source.clock)
        self.assertEqual([one.events[1:] for one in subscribers[:4]], [["a"]] * 4)

    def test_catch_up(self) -> None:
        """What is pending is delivered to all, if that takes no time; not during a delivery."""
        first, second = self.listen(), self.listen()
        self.hub.catch_up(self.last)
        self.hub.deliver(self.source.history.add("t", "a"))
        subscription = self.last
        first.react = lambda _: self.hub.catch_up(subscription)
        second.react = lambda event: self.assertEqual(first.events[-1], event)
        self.hub.catch_up(subscription)
        self.assertEqual([one.events[1:] for one in (first, second)], [["a"]] * 2)

    def test_catch_up_long(self) -> None:
        """What is pending begins to be delivered, and is completed for the subscription only."""
        subscribers = [self.listen() for _ in range(5)]
        for subscriber in subscribers:
            subscriber.react = lambda _: self.pass_time(0.02)
        self.hub.deliver(self.source.history.add("t", "a"))
        self.hub.catch_up(self.last)
        self.assertEqual([len(one.events) for one in subscribers], [2, 2, 2, 1, 2])
        iterate(self.source.clock)
        self.assertEqual([len(one.events) for one in subscribers], [2] * 5)

    def fail_as_told(self) -> None:
        """Raise the exception of this test."""
        raise Failing

    def test_leave_during_a_long_delivery(self) -> None:
        """Whoever leaves between two steps gets nothing more, and the topic may end."""
        subscribers = self.start_long_delivery()
        for subscription in tuple(self.hub._topics["t"]):
            subscription.cancel()
        self.source.clock.advance(0)
        self.assertEqual([len(one.events) for one in subscribers], [2, 2, 2, 1, 1])
        iterate(self.source.clock)
        self.assertEqual((self.hub.topics(), self.hub._flush_call), ([], None))

    def test_gap_during_a_long_delivery(self) -> None:
        """A gap ends those that lack something, after they got what was published before it."""
        subscribers = self.start_long_delivery()
        self.hub.deliver(self.source.history.add("t", "b"))
        self.hub.end_at_gap("t", Id("e1", 2))
        self.assertEqual([one.events[1:] for one in subscribers], [["a", "b"]] * 5)
        self.hub.end_at_gap("t", Id("e1", 3))
        self.assertEqual([one.events[1:] for one in subscribers], [["a", "b", "lost"]] * 5)

    def test_pending_during_a_long_delivery(self) -> None:
        """What is published meanwhile does not pile up: much of it completes the delivery."""
        subscribers = self.start_long_delivery()
        number = _MAX_PENDING // _MAX_BATCH
        large = ["b" * _MAX_BATCH] * number
        for data in large[1:]:
            self.hub.deliver(self.source.history.add("t", data))
        self.assertEqual(len(subscribers[4].events), 1)
        self.hub.deliver(self.source.history.add("t", large[0]))
        self.assertEqual(subscribers[4].events[1:], ["a", *large])
        # Each is a batch of its own, so that slow subscribers are not asked to take all at once.
        self.assertEqual(subscribers[4].deliveries, 1 + number)

    def test_large_batch(self) -> None:
        """Many bytes are not held back until the end of the iteration, but delivered in steps."""
        subscribers = [self.listen() for _ in range(5)]
        for subscriber in subscribers:
            subscriber.react = lambda _: self.pass_time(0.02)
        self.hub.deliver(self.source.history.add("t", "b" * _MAX_BATCH))
        self.assertEqual([len(one.events) for one in subscribers], [2, 2, 2, 1, 1])
        self.source.clock.advance(0)
        self.assertEqual([len(one.events) for one in subscribers], [2] * 5)

    def test_room(self) -> None:
        """Publishers that can wait do so while much waits for a delivery, and go on in order."""
        self.assertEqual(self.successResultOf(self.hub.room()), None)
        self.start_long_delivery()
        self.successResultOf(self.hub.room())
        published = list[int]()
        for _ in range(_MUCH_PENDING // _MAX_BATCH):
            self.hub.deliver(self.source.history.add("t", "b" * _MAX_BATCH))

        def publish(number: int) -> None:
            published.append(number)
            if number != 2:
                self.hub.deliver(self.source.history.add("t", "c" * (_MUCH_PENDING // 2)))

        def wait_and_publish(number: int) -> Deferred[None]:
            return self.hub.room().addCallback(lambda _: publish(number))

        waiting = [wait_and_publish(number) for number in range(4)]
        waiting[1].addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        self.assertEqual(published, [])
        self.hub.flush()
        self.assertEqual(published, [0, 2, 3])
        self.assertEqual(len(self.hub._publishers), 0)

    def test_overloaded(self) -> None:
        """If subscribers must not be given more, a delivery goes on in the next iteration."""
        subscribers = [self.listen() for _ in range(3)]
        overloaded = [False, True, False, False]
        self.patch(self.hub, "_is_overloaded", lambda: bool(overloaded) and overloaded.pop(0))
        self.hub.deliver(self.source.history.add("t", "a"))
        iterate(self.source.clock)
        self.assertEqual([len(one.events) for one in subscribers], [2, 2, 1])
        overloaded[:] = [True] * 100
        self.hub.flush()
        self.assertEqual([len(one.events) for one in subscribers], [2, 2, 2])

    def test_failing_delivery(self) -> None:
        """If a delivery fails as a whole, those behind it are made nevertheless."""
        first, second = self.listen(), self.listen(topic="u")
        for topic in ("t", "u"):
            self.hub.deliver(self.source.history.add(topic, "a"))
        self.patch(SubscriberList, "deliver", fail_for({self.hub._topics["t"]}))
        self.assertRaises(ZeroDivisionError, self.source.clock.advance, 0)
        self.source.clock.advance(0)
        self.source.clock.advance(0)
        self.assertEqual((first.events[1:], second.events[1:]), ([], ["a"]))

    def pass_time(self, seconds: float) -> None:
        """Let time pass without running any calls."""
        self.source.clock.rightNow += seconds

    def test_follow(self) -> None:
        """A topic is followed from its first subscriber to its last, then forgotten."""
        first = self.subscribe(RecordingSubscriber())
        second = self.subscribe(RecordingSubscriber())
        first.cancel()
        first.cancel()
        self.assertEqual(self.source.events, ["follow t"])
        second.cancel()
        self.assertEqual(self.source.events, ["follow t", "unfollow t"])
        self.assertEqual(self.hub._topics, {})

    def test_publish_during_a_delivery(self) -> None:
        """What a subscriber publishes during a delivery comes after it, in one order for all."""
        first, second = self.listen(), self.listen()
        first.react = lambda event: event == "1" and self.publish("2")
        self.publish("1")
        self.assertEqual(first.events[1:], ["1"])
        self.source.clock.advance(0)
        self.assertEqual(first.events[1:], ["1", "2"])
        self.assertEqual(second.events[1:], ["1", "2"])

    def test_publish_when_subscribed(self) -> None:
        """What a subscriber publishes while it is being subscribed, it receives once."""
        subscriber = RecordingSubscriber()
        subscriber.react = lambda event: event.startswith("t from") and self.publish("1")
        self.subscribe(subscriber)
        self.publish("2")
        self.assertEqual(subscriber.events, ["t from e1:0", "1", "2"])

    def test_cancel_during_a_delivery(self) -> None:
        """A subscription that is cancelled during a delivery does not receive it any more."""
        first, second = self.listen(), RecordingSubscriber()
        leaving = self.subscribe(second)
        first.react = lambda event: leaving.cancel()
        self.publish("1")
        self.assertEqual(first.events[1:], ["1"])
        self.assertEqual(second.events[1:], [])

    def test_subscribe_during_a_delivery(self) -> None:
        """A subscription made during a delivery begins after it."""
        late = RecordingSubscriber()
        first = self.listen()
        first.react = lambda event: event == "1" and self.subscribe(late)
        self.publish("1")
        self.publish("2")
        self.assertEqual(late.events, ["t from e1:1", "2"])

    def test_failing_subscriber(self) -> None:
        """A subscriber that raises is logged and ended; the others and the publisher go on."""

        def raise_it(event: str) -> None:
            if event == "1":
                raise Failing

        first, second = self.listen(), self.listen()
        first.react = raise_it
        self.publish("1")
        self.publish("2")
        self.assertEqual(first.events[1:], ["1", "lost"])
        self.assertEqual(second.events[1:], ["1", "2"])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_fails_to_start(self) -> None:
        """A subscriber that raises before it has started does not count, and follows nothing."""
        self.patch(RecordingSubscriber, "has_room", lambda subscriber: 1 / 0)
        self.assertRaises(ZeroDivisionError, self.listen, "e1:0")
        self.assertEqual((self.hub.count("t"), self.hub.topics()), (0, []))
        self.assertEqual(self.hub.counters.transports["fake"], 0)
        self.assertEqual(self.source.events, ["follow t", "unfollow t"])

    def test_cost_of_delivery(self) -> None:
        """Delivering to N subscribers costs N calls and no read, no matter what else there is."""
        others = [self.listen(topic=f"u{number}") for number in range(50)]
        subscribers = [self.listen() for _ in range(50)]
        asked = self.source.reads
        for number in range(1, 4):
            self.publish("x")
            self.assertEqual([one.deliveries for one in subscribers], [number] * 50)
        self.assertEqual({one.deliveries for one in others}, {0})
        self.assertEqual(self.source.reads, asked)

    def test_cost_of_resuming(self) -> None:
        """Resuming reads only what was missed, and does not concern other subscribers."""
        for _ in range(1000):
            self.publish("x")
        other = self.listen()
        self.source.publications = 0
        self.assertEqual(self.listen("e1:997").deliveries, 3)
        self.assertEqual((self.source.publications, other.deliveries), (3, 0))

    def test_idle(self) -> None:
        """A topic that has subscribers but no publications costs no timer."""
        self.listen()
        self.assertEqual(self.source.clock.getDelayedCalls(), [])


class SettledTests(HubTestCase):
    """Up to which number everything was delivered."""

    def settled_during(self, *topics: str) -> dict[str, list[tuple[int, int]]]:
        """Publish to topics in one iteration; return what is settled as each is delivered.

        That is given without the topic's own run, and with it.
        """
        settled: dict[str, list[tuple[int, int]]] = {}
        for topic in dict.fromkeys(topics):
            subscriber = self.listen(topic=topic)

            def note(event: str, topic: str = topic) -> None:
                seen = settled.setdefault(topic, [])
                seen.append((self.hub.settled(topic), self.hub.settled()))

            subscriber.react = note
        for topic in topics:
            self.hub.deliver(self.source.history.add(topic, "x"))
        self.assertEqual(self.hub.settled(), 0)
        self.hub.flush()
        return settled

    def test_runs(self) -> None:
        """During a delivery it is what precedes all runs that are not delivered yet."""
        settled = self.settled_during("a", "b", "a", "c", "b")
        self.assertEqual(settled, {"a": [(1, 0)] * 2, "b": [(3, 1)] * 2, "c": [(5, 3)]})
        self.assertEqual(self.hub.settled(), 5)

    def test_published_meanwhile(self) -> None:
        """What is published during a delivery is not settled before the next one."""
        settled: list[int] = []

        def react(event: str) -> None:
            if event == "a":
                self.hub.deliver(self.source.history.add("t", "b"))
            settled.append(self.hub.settled("t"))

        self.listen().react = react
        self.publish("a")
        self.assertEqual((settled, self.hub.settled()), ([1], 1))
        self.hub.flush()
        self.assertEqual((settled, self.hub.settled()), ([1, 2], 2))

    def test_out_of_order(self) -> None:
        """A topic that has caught up late holds back what is settled, wherever it waits."""
        settled: list[int] = []
        for topic in ("a", "b", "late"):

            def note(event: str, topic: str = topic) -> None:
                settled.append(self.hub.settled(topic))

            self.listen(topic=topic).react = note
        late, *others = [self.source.history.add(topic, "x") for topic in ("late", "a", "b")]
        for publication in (*others, late):
            self.hub.deliver(publication)
        self.hub.flush()
        self.assertEqual((settled, self.hub.settled()), ([0, 0, 3], 3))

    def test_no_subscribers(self) -> None:
        """A topic without subscribers on this node does not matter."""
        self.publish("x", "other")
        self.assertEqual((self.hub.settled(), self.hub.newest("other")), (1, 1))
        self.assertEqual(self.hub.generation, self.source.generation)
