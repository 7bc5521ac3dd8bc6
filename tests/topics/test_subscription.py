"""From history to live publications: each once, as fast as the subscriber takes them."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.access.progress import PERIOD
from pushd.errors import Unavailable
from pushd.schedule.turns import PORTION
from pushd.topics import fanout
from pushd.topics.fanout import Batch
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.subscribers import SubscriberList
from pushd.topics.subscription import LAG_TIMEOUT, Subscription
from tests.support.hub_case import Failing, HubTestCase, RecordingSubscriber


class SubscriptionTests(HubTestCase):
    """A subscription in each of its states."""

    def test_live(self) -> None:
        """A new subscriber receives what is published from now on, of this topic only."""
        self.publish("before")
        subscriber = self.listen()
        self.publish("1")
        self.publish("x", "other")
        self.publish("2")
        self.assertEqual(subscriber.events, ["t from e1:1", "1", "2"])

    def test_resume(self) -> None:
        """A subscriber that resumes receives what it missed, then live publications."""
        self.publish("1")
        self.publish("2")
        subscriber = self.listen("e1:1")
        self.publish("3")
        self.assertEqual(subscriber.events, ["t from e1:1 recovered", "2", "3"])

    def test_ended_by_its_beginning(self) -> None:
        """A subscriber that is told where it begins, and ends the subscription, gets no more."""
        self.patch(self.source, "is_newest", lambda topic, id: True)
        ended: list[bool] = []
        self.patch(Subscription, "_has_ended", lambda _: bool(ended))
        subscriber = RecordingSubscriber()
        subscriber.react = lambda event: ended.append(True)
        self.subscribe(subscriber, "e1:0")
        self.publish("1")
        self.assertEqual(subscriber.events, ["t from e1:0 recovered"])

    def test_not_recovered(self) -> None:
        """A subscriber whose history is not kept learns that, and receives live publications."""
        self.publish("1")
        subscriber = self.listen("e9:1")
        self.publish("2")
        self.assertEqual(subscriber.events, ["t from e1:1", "2"])

    def test_pace(self) -> None:
        """History is delivered as there is room; what is published meanwhile comes after it."""
        for data in "1234":
            self.publish(data)
        subscriber = self.listen("e1:0", room=2)
        self.assertEqual(subscriber.events[1:], ["1", "2"])
        self.publish("5")
        self.assertEqual(subscriber.events[1:], ["1", "2"])
        subscriber.room = 1
        self.last.resume()
        self.assertEqual(subscriber.events[1:], ["1", "2", "3"])
        subscriber.room = 10
        self.last.resume()
        self.publish("6")
        self.assertEqual(subscriber.events[1:], list("123456"))

    def test_turns(self) -> None:
        """Subscribers that resume read the history in turns, if that takes time."""
        clock = self.source.clock
        for data in "123":
            self.publish(data * 300_000)
        order: list[str] = []
        subscribers = [RecordingSubscriber() for _ in range(3)]
        for name, subscriber in zip("abc", subscribers, strict=True):

            def react(event: str, name: str = name) -> None:
                if not event.startswith("t "):
                    order.append(name + event[0])
                    clock.rightNow += 2 * PORTION

            subscriber.react = react
            self.subscribe(subscriber, "e1:0", "t")
            if name == "b":
                self.last.cancel()
        self.assertEqual(order, ["a1"])
        clock.advance(0)
        self.assertEqual(order, ["a1", "a2", "c1", "a3", "c2", "c3"])
        self.assertEqual(subscribers[1].events, [])
        self.publish("4")
        self.assertEqual(order[6:], ["a4", "c4"])
        clock.advance(0)
        self.assertEqual(len(self.hub._shared.turns), 0)

    def test_rendered_once(self) -> None:
        """What several subscribers read of the history is the same batch, until none is left."""
        self.publish("x" * 5000)
        batches: list[Batch] = []
        for _ in range(2):
            subscriber = RecordingSubscriber()
            self.patch(subscriber, "deliver", batches.append)
            self.subscribe(subscriber, "e1:0", "t")
        self.assertIs(batches[0], batches[1])
        for subscription in list(self.hub._topics["t"]):
            subscription.cancel()
        self.assertEqual(self.hub._shared.batches.bytes, 0)

    def test_shared(self) -> None:
        """What many read together is one batch, rendered once for all of them."""
        self.patch(fanout, "_PIECE_SIZE", 1 << 14)
        for _ in range(20):
            self.publish("x" * 50)
        batches: list[Batch] = []
        for _ in range(2):
            subscriber = RecordingSubscriber()
            self.patch(subscriber, "deliver", batches.append)
            self.subscribe(subscriber, "e1:0", "t")
        self.assertEqual([batch.count for batch in batches], [20, 20])
        self.assertIs(batches[0], batches[1])

    def test_no_room_at_all(self) -> None:
        """Without room, a subscriber that resumes gets nothing until it has some."""
        self.publish("1")
        subscriber = self.listen("e1:0", room=0)
        self.publish("2")
        self.assertEqual((subscriber.events, self.source.reads), ([], 0))
        subscriber.room = 5
        self.last.resume()
        self.assertEqual(subscriber.events, ["t from e1:0 recovered", "1", "2"])

    def test_new_without_room(self) -> None:
        """A new subscription begins now even without room; keeping up is what counts then."""
        subscriber = self.listen(room=0)
        self.publish("1")
        self.assertEqual(subscriber.events, ["t from e1:0", "1"])

    def test_falls_behind(self) -> None:
        """A subscriber that does not keep up reads the history, and is live again."""
        subscriber = self.listen(room=2)
        subscriber.fast = False
        for data in "12345":
            self.publish(data)
        self.assertEqual(subscriber.events, ["t from e1:0", "1", "2"])
        subscriber.room = 2
        self.last.resume()
        self.assertEqual(subscriber.events[3:], ["3", "4"])
        subscriber.room = 5
        self.last.resume()
        self.publish("6")
        self.assertEqual(subscriber.events[3:], ["3", "4", "5", "6"])
        self.assertEqual(self.source.reads, 3)
        subscriber.room = 0
        self.source.history.add("t", "7")
        self.publish("8")
        subscriber.room = 5
        self.last.resume()
        self.assertEqual(subscriber.events[7:], ["7", "8"])
        self.assertEqual(list(self.hub._shared.lagging), [])

    def test_too_large(self) -> None:
        """What a subscriber does not take as it comes is read from the history, piece by piece."""
        subscriber = self.listen()
        subscriber.largest = 1
        self.source.history.add("t", "1")
        for data in "12":
            self.hub.deliver(self.source.history.add("t", data))
        self.hub.flush()
        self.assertEqual(subscriber.events[1:], ["1", "1", "2"])
        self.assertEqual(subscriber.deliveries, 3)

    def test_stays_behind(self) -> None:
        """A subscriber that reads nothing is cut off after a while; one that reads some is not."""
        subscriber, other = self.listen(room=0), self.listen(room=0)
        subscriber.fast = other.fast = False
        self.publish("1")
        self.source.clock.advance(LAG_TIMEOUT - 1)
        self.publish("2")
        other.room = 1
        self.assertEqual(self.hub.count("t"), 2)
        self.source.clock.advance(1)
        self.assertEqual(subscriber.events, ["t from e1:0", "lost"])
        self.assertEqual(other.events, ["t from e1:0", "1"])
        self.assertEqual(self.hub.count("t"), 1)
        other.room = 5
        self.last.resume()
        self.assertEqual(other.events, ["t from e1:0", "1", "2"])

    def test_follows_slowly(self) -> None:
        """A subscriber that lags is not cut off while it takes enough."""
        subscriber, idle, drip = (self.listen(room=0) for _ in range(3))
        for one in (subscriber, idle, drip):
            one.fast = False
        self.publish("1")
        for seconds in range(1, 70):
            subscriber.bytes_taken += 20_000
            drip.bytes_taken += 1
            self.source.clock.advance(1)
            self.assertEqual("lost" in idle.events, seconds >= LAG_TIMEOUT, seconds)
            self.assertEqual("lost" in drip.events, seconds >= PERIOD, seconds)
        self.assertEqual(subscriber.events, ["t from e1:0"])
        self.source.clock.advance(LAG_TIMEOUT)
        self.source.clock.advance(LAG_TIMEOUT)
        self.assertEqual(subscriber.events, ["t from e1:0", "lost"])
        self.assertEqual(list(self.hub._shared.lagging), [])
        self.assertEqual(self.hub._shared._progress, {})

    def test_cancelled_while_lagging(self) -> None:
        """A subscription that is cancelled while it lags leaves no timer."""
        subscriber = self.listen(room=0)
        subscriber.fast = False
        self.publish("1")
        self.assertEqual(list(self.hub._shared.lagging), [self.last])
        self.last.cancel()
        self.assertEqual(list(self.hub._shared.lagging), [])

    def test_resume_in_vain(self) -> None:
        """``resume`` does nothing for a live or ended subscription."""
        subscriber = self.listen()
        self.last.resume()
        self.last.cancel()
        self.last.resume()
        self.assertEqual((subscriber.events, self.source.reads), (["t from e1:0"], 1))

    def test_history_lost(self) -> None:
        """If the history is dropped before it was read, the subscription ends."""
        self.publish("1")
        self.publish("2")
        subscriber = self.listen("e1:0", room=1)
        self.source.clock.advance(1000)
        subscriber.room = 1
        self.last.resume()
        self.assertEqual(subscriber.events, ["t from e1:0 recovered", "1", "lost"])
        self.assertEqual(self.hub.count("t"), 0)

    def test_new_epoch(self) -> None:
        """If the epoch changes, the subscription ends."""
        subscriber = self.listen()
        self.publish("1")
        self.hub.deliver(Publication("t", "2", Id("e9", 2)))
        self.hub.deliver(Publication("t", "3", Id("e9", 3)))
        self.hub.flush()
        self.assertEqual(subscriber.events, ["t from e1:0", "1", "lost"])

    def test_gap(self) -> None:
        """A publication that was not passed to the hub is read from the history."""
        subscriber = self.listen()
        self.source.history.add("t", "1")
        self.publish("2")
        self.publish("3")
        self.assertEqual(subscriber.events, ["t from e1:0", "1", "2", "3"])

    def test_repeat(self) -> None:
        """A publication that is passed to the hub twice is delivered once."""
        subscriber = self.listen()
        self.hub.deliver(self.publish("1"))
        self.assertEqual(subscriber.events, ["t from e1:0", "1"])

    def test_failing_read(self) -> None:
        """If reading the history fails, that is logged, and the subscription ends."""
        self.source.failure = Failing()
        subscriber = self.listen("e1:0")
        self.assertEqual(subscriber.events, ["lost"])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(self.hub.count("t"), 0)

    def test_unavailable(self) -> None:
        """If the broker is unavailable, the subscription ends; the broker logs that by itself."""
        self.source.failure = Unavailable()
        self.assertEqual(self.listen("e1:0").events, ["lost"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_end_at_gap(self) -> None:
        """A gap ends the subscriptions that lack something before it, and no others."""
        first, second = self.listen(), self.listen()
        self.publish("1")
        for last in (Id("e1", 1), Id("e1", 0)):
            self.hub.end_at_gap("t", last)
        self.hub.end_at_gap("u", Id("e2", 2))
        self.assertEqual((first.events[1:], second.events[1:]), (["1"], ["1"]))
        self.hub.end_at_gap("t", Id("e1", 3))
        self.assertEqual((first.events[1:], second.events[1:]), (["1", "lost"], ["1", "lost"]))
        third = self.listen()
        self.hub.end_at_gap("t", Id("e2", 0))
        self.assertEqual(third.events[1:], ["lost"])

    def test_gap_while_catching_up(self) -> None:
        """A subscription that catches up does not end: its next read shows the gap, if any."""
        self.publish("1")
        subscriber = self.listen("e1:0", room=0)
        self.hub.end_at_gap("t", Id("e1", 1))
        self.publish("2")
        subscriber.room = 5
        self.last.resume()
        self.assertEqual(subscriber.events, ["t from e1:0 recovered", "1", "2"])

    def test_gap_and_failure(self) -> None:
        """A subscriber that raises when a gap ends it is logged; the others end, too."""

        def fail_at(event: str) -> None:
            if event == "lost":
                raise Failing

        first, second = self.listen(), self.listen()
        first.react = fail_at
        self.publish("1")
        self.hub.end_at_gap("t", Id("e2", 0))
        self.assertEqual(second.events[-1], "lost")
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_new_epoch_during_a_read(self) -> None:
        """A publication of a new epoch during a read of the old one does not count as delivered."""
        asked: list[Deferred[Replay]] = []

        def replay(*_: object) -> Deferred[Replay]:
            asked.append(Deferred())
            return asked[-1]

        self.patch(self.source, "replay", replay)
        subscriber = self.listen("e1:5")
        self.hub.deliver(Publication("t", "new", Id("e9", 1)))
        self.hub.flush()
        old, new = Id("e1", 5), Id("e9", 1)
        asked[0].callback(Replay(old, True, (), old))
        self.assertEqual(subscriber.events, ["t from e1:5 recovered"])
        asked[1].callback(Replay(new, False, (), new))
        self.assertEqual(subscriber.events[1:], ["lost"])

    def test_old_epoch_during_a_read(self) -> None:
        """A late publication of an old epoch during a read of the new one is ignored."""
        asked: list[Deferred[Replay]] = []

        def replay(*_: object) -> Deferred[Replay]:
            asked.append(Deferred())
            return asked[-1]

        self.patch(self.source, "replay", replay)
        subscriber = self.listen()
        self.hub.deliver(Publication("t", "old", Id("e1", 9)))
        self.hub.flush()
        new = Id("e2", 0)
        asked[0].callback(Replay(new, False, (), new))
        asked[1].callback(Replay(new, True, (), new))
        self.hub.deliver(Publication("t", "1", Id("e2", 1)))
        self.hub.flush()
        self.assertEqual(subscriber.events, ["t from e2:0", "1"])

    def test_cancelled_before_a_failure(self) -> None:
        """If a read fails after the subscription was cancelled, that is only logged."""
        asked: Deferred[Replay] = Deferred()
        self.patch(self.source, "replay", lambda *_: asked)
        subscriber = self.listen("e1:0")
        self.last.cancel()
        asked.errback(Failing())
        self.assertEqual(subscriber.events, [])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_cancelled_before_the_first_read(self) -> None:
        """A subscription that is cancelled before its first read ends gets nothing."""
        asked: Deferred[Replay] = Deferred()
        self.patch(self.source, "replay", lambda *_: asked)
        subscriber = self.listen("e1:0")
        self.last.cancel()
        asked.callback(Replay(Id("e1", 0), True, (), Id("e1", 0)))
        self.assertEqual(subscriber.events, [])

    def test_cancelled_during_a_read(self) -> None:
        """A subscription that is cancelled while history is delivered gets no more of it."""
        for data in "123":
            self.publish(data)
        for until in ("t from e1:0 recovered", "2", "3"):
            subscriber = RecordingSubscriber()
            subscription = Subscription(self.hub._shared, "t", subscriber)
            self.hub._topics["t"] = topic = SubscriberList()
            topic.add(subscription)
            self.source.follow("t")
            subscriber.react = lambda event, s=subscription, u=until: event == u and s.cancel()  # type: ignore[misc]
            subscription.start(Id("e1", 0))
            self.publish("4")
            self.assertEqual(subscriber.events[-1], until)
            self.assertEqual(self.hub.topics(), [])

    def test_long_history(self) -> None:
        """A history of any length is read without recursion."""
        for _ in range(60_000):
            self.source.history.add("t", "x")
        self.assertEqual(self.listen("e1:0").deliveries, 60_000)
        self.assertGreater(self.source.reads, 200)
