"""Who listens to what: each publication to each of them once, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.batch import Batch
from pushd.broker import Unavailable
from pushd.history import History, Retention
from pushd.hub import PATIENCE, Hub, Subscription
from pushd.messages import Id, Publication, Replay


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

    def lost_track(self) -> None:
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


class SubscriptionTests(HubTestCase):
    """From the past to what comes."""

    def test_live(self) -> None:
        """One who is new hears what comes, of this topic only."""
        self.publish("before")
        listener = self.listen()
        self.publish("1")
        self.publish("x", "other")
        self.publish("2")
        self.assertEqual(listener.events, ["t from e1:1", "1", "2"])

    def test_resume(self) -> None:
        """One who was here hears what was missed, then what comes."""
        self.publish("1")
        self.publish("2")
        listener = self.listen("e1:1")
        self.publish("3")
        self.assertEqual(listener.events, ["t from e1:1 recovered", "2", "3"])

    def test_not_recovered(self) -> None:
        """One whose past is not kept is told, and hears what comes."""
        self.publish("1")
        listener = self.listen("e9:1")
        self.publish("2")
        self.assertEqual(listener.events, ["t from e1:1", "2"])

    def test_pace(self) -> None:
        """What was missed comes as there is room for it, and what comes meanwhile behind it."""
        for data in "1234":
            self.publish(data)
        listener = self.listen("e1:0", room=2)
        self.assertEqual(listener.events[1:], ["1", "2"])
        self.publish("5")
        self.assertEqual(listener.events[1:], ["1", "2"])
        listener.room = 1
        self.last.resume()
        self.assertEqual(listener.events[1:], ["1", "2", "3"])
        listener.room = 10
        self.last.resume()
        self.publish("6")
        self.assertEqual(listener.events[1:], list("123456"))

    def test_no_room_at_all(self) -> None:
        """One who wants the past but has no room is told nothing until there is some."""
        self.publish("1")
        listener = self.listen("e1:0", room=0)
        self.publish("2")
        self.assertEqual((listener.events, self.past.asked), ([], 0))
        listener.room = 5
        self.last.resume()
        self.assertEqual(listener.events, ["t from e1:0 recovered", "1", "2"])

    def test_no_room_for_what_comes(self) -> None:
        """One who is new begins now, room or not, and what comes is for it to judge."""
        listener = self.listen(room=0)
        self.publish("1")
        self.assertEqual(listener.events, ["t from e1:0", "1"])

    def test_falls_behind(self) -> None:
        """Who can't take what comes reads it from the past, and is up to date again."""
        listener = self.listen(room=2)
        listener.fast = False
        for data in "12345":
            self.publish(data)
        self.assertEqual(listener.events, ["t from e1:0", "1", "2"])
        listener.room = 2
        self.last.resume()
        self.assertEqual(listener.events[3:], ["3", "4"])
        listener.room = 5
        self.last.resume()
        self.publish("6")
        self.assertEqual(listener.events[3:], ["3", "4", "5", "6"])
        self.assertEqual(self.past.asked, 3)
        listener.room = 0
        self.past.history.add("t", "7")
        self.publish("8")
        listener.room = 5
        self.last.resume()
        self.assertEqual(listener.events[7:], ["7", "8"])
        self.assertEqual(list(self.hub.behind), [])

    def test_stays_behind(self) -> None:
        """Who reads nothing for some time is ended; who reads a little is not."""
        listener, other = self.listen(room=0), self.listen(room=0)
        listener.fast = other.fast = False
        self.publish("1")
        self.past.clock.advance(PATIENCE - 1)
        self.publish("2")
        other.room = 1
        self.assertEqual(self.hub.count("t"), 2)
        self.past.clock.advance(1)
        self.assertEqual(listener.events, ["t from e1:0", "lost"])
        self.assertEqual(other.events, ["t from e1:0", "1"])
        self.assertEqual(self.hub.count("t"), 1)
        other.room = 5
        self.last.resume()
        self.assertEqual(other.events, ["t from e1:0", "1", "2"])

    def test_leaves_behind(self) -> None:
        """Who leaves while it is behind leaves no timer."""
        listener = self.listen(room=0)
        listener.fast = False
        self.publish("1")
        self.assertEqual(list(self.hub.behind), [self.last])
        self.last.cancel()
        self.assertEqual(list(self.hub.behind), [])

    def test_resume_in_vain(self) -> None:
        """Room that nobody waits for changes nothing."""
        listener = self.listen()
        self.last.resume()
        self.last.cancel()
        self.last.resume()
        self.assertEqual((listener.events, self.past.asked), (["t from e1:0"], 1))

    def test_lost_track(self) -> None:
        """When what is missing is dropped before it was read, the subscriber is ended."""
        self.publish("1")
        self.publish("2")
        listener = self.listen("e1:0", room=1)
        self.past.clock.advance(1000)
        listener.room = 1
        self.last.resume()
        self.assertEqual(listener.events, ["t from e1:0 recovered", "1", "lost"])
        self.assertEqual(self.hub.count("t"), 0)

    def test_new_epoch(self) -> None:
        """When the topic's history is another, the subscriber is ended."""
        listener = self.listen()
        self.publish("1")
        self.hub.deliver(Publication("t", "2", Id("e9", 2)))
        self.hub.deliver(Publication("t", "3", Id("e9", 3)))
        self.hub.flush()
        self.assertEqual(listener.events, ["t from e1:0", "1", "lost"])

    def test_gap(self) -> None:
        """A publication that was not delivered is read from the past."""
        listener = self.listen()
        self.past.history.add("t", "1")
        self.publish("2")
        self.publish("3")
        self.assertEqual(listener.events, ["t from e1:0", "1", "2", "3"])

    def test_repeat(self) -> None:
        """One that is delivered twice is heard once."""
        listener = self.listen()
        self.hub.deliver(self.publish("1"))
        self.assertEqual(listener.events, ["t from e1:0", "1"])

    def test_failing_past(self) -> None:
        """When the past can't be read, the log says why, and the subscriber is ended."""
        self.past.failure = Failing()
        listener = self.listen("e1:0")
        self.assertEqual(listener.events, ["lost"])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(self.hub.count("t"), 0)

    def test_past_away(self) -> None:
        """When the past is away, the subscriber is ended; the log has that from the broker."""
        self.past.failure = Unavailable()
        self.assertEqual(self.listen("e1:0").events, ["lost"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_missed(self) -> None:
        """Those who have not heard what can't be had are ended, the others not."""
        first, second = self.listen(), self.listen()
        self.publish("1")
        for missed in (Id("e1", 1), Id("e1", 0)):
            self.hub.missed("t", missed)
        self.hub.missed("u", Id("e2", 2))
        self.assertEqual((first.events[1:], second.events[1:]), (["1"], ["1"]))
        self.hub.missed("t", Id("e1", 3))
        self.assertEqual((first.events[1:], second.events[1:]), (["1", "lost"], ["1", "lost"]))
        third = self.listen()
        self.hub.missed("t", Id("e2", 0))
        self.assertEqual(third.events[1:], ["lost"])

    def test_missed_while_catching_up(self) -> None:
        """One that still reads finds out by itself."""
        self.publish("1")
        listener = self.listen("e1:0", room=0)
        self.hub.missed("t", Id("e1", 1))
        self.publish("2")
        listener.room = 5
        self.last.resume()
        self.assertEqual(listener.events, ["t from e1:0 recovered", "1", "2"])

    def test_missed_and_failing(self) -> None:
        """One that fails when it is told of it is logged; the others are told."""

        def fail_at(event: str) -> None:
            if event == "lost":
                raise Failing

        first, second = self.listen(), self.listen()
        first.react = fail_at
        self.publish("1")
        self.hub.missed("t", Id("e2", 0))
        self.assertEqual(second.events[-1], "lost")
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_epoch_changes_while_it_reads(self) -> None:
        """What is published in a new epoch while the old one is read is not taken for heard."""
        asked: list[Deferred[Replay]] = []

        def replay(*_: object) -> Deferred[Replay]:
            asked.append(Deferred())
            return asked[-1]

        self.patch(self.past, "replay", replay)
        listener = self.listen("e1:5")
        self.hub.deliver(Publication("t", "new", Id("e9", 1)))
        self.hub.flush()
        old, new = Id("e1", 5), Id("e9", 1)
        asked[0].callback(Replay(old, True, (), old))
        self.assertEqual(listener.events, ["t from e1:5 recovered"])
        asked[1].callback(Replay(new, False, (), new))
        self.assertEqual(listener.events[1:], ["lost"])

    def test_old_news_while_it_reads(self) -> None:
        """And the other way round: late news of an epoch that is over does no harm."""
        asked: list[Deferred[Replay]] = []

        def replay(*_: object) -> Deferred[Replay]:
            asked.append(Deferred())
            return asked[-1]

        self.patch(self.past, "replay", replay)
        listener = self.listen()
        self.hub.deliver(Publication("t", "old", Id("e1", 9)))
        self.hub.flush()
        new = Id("e2", 0)
        asked[0].callback(Replay(new, False, (), new))
        asked[1].callback(Replay(new, True, (), new))
        self.hub.deliver(Publication("t", "1", Id("e2", 1)))
        self.hub.flush()
        self.assertEqual(listener.events, ["t from e2:0", "1"])

    def test_left_before_it_failed(self) -> None:
        """One who has left by then is told nothing, but the log is."""
        asked: Deferred[Replay] = Deferred()
        self.patch(self.past, "replay", lambda *_: asked)
        listener = self.listen("e1:0")
        self.last.cancel()
        asked.errback(Failing())
        self.assertEqual(listener.events, [])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_left_before_it_began(self) -> None:
        """One who has left before the past was there is told nothing."""
        asked: Deferred[Replay] = Deferred()
        self.patch(self.past, "replay", lambda *_: asked)
        listener = self.listen("e1:0")
        self.last.cancel()
        asked.callback(Replay(Id("e1", 0), True, (), Id("e1", 0)))
        self.assertEqual(listener.events, [])

    def test_leaves_in_between(self) -> None:
        """One who leaves while the past is handed over gets no more of it."""
        for data in "123":
            self.publish(data)
        for until in ("t from e1:0 recovered", "2", "3"):
            listener = Listener()
            subscription = Subscription(self.hub, "t", listener)
            self.hub._topics["t"] = {subscription: None}
            self.past.follow("t")
            listener.react = lambda event, s=subscription, u=until: event == u and s.cancel()  # type: ignore[misc]
            subscription.start(Id("e1", 0))
            self.publish("4")
            self.assertEqual(listener.events[-1], until)
            self.assertEqual(self.hub.topics(), [])

    def test_long_past(self) -> None:
        """A past of any length is read without a stack of any depth."""
        for _ in range(60_000):
            self.past.history.add("t", "x")
        self.assertEqual(self.listen("e1:0").calls, 60_000)
        self.assertGreater(self.past.asked, 200)


class HubTests(HubTestCase):
    """Many who listen."""

    def test_counts(self) -> None:
        """Who listens can be asked, by topic."""
        first, second = self.listen(), self.listen()
        self.listen(topic="u")
        self.assertEqual((self.hub.count("t"), self.hub.count("u"), self.hub.count("v")), (2, 1, 0))
        self.assertEqual(self.hub.topics(), ["t", "u"])
        self.assertEqual(self.hub.subscribers("t"), [first, second])
        self.assertEqual(self.hub.subscribers("v"), [])

    def test_delays(self) -> None:
        """A publication is on its way until its last subscriber has it; one without is not."""
        for listener in (self.listen(), self.listen()):
            self.patch(listener, "deliver", lambda _: self.pass_time(0.1))
        self.publish("a")
        self.publish("x", "other")
        self.assertEqual(self.hub.delays.buckets[-1][1], 1)
        self.assertAlmostEqual(self.hub.delays.sum, 0.2)

    def test_delay_in_turn(self) -> None:
        """What is published while another is delivered waits for that, and it shows."""
        first = self.listen()
        heard: list[str] = []

        def deliver(batch: Batch) -> None:
            heard.extend(str(publication.data) for publication in batch)
            if heard == ["a"]:
                self.publish("b")
            self.pass_time(1)

        self.patch(first, "deliver", deliver)
        self.publish("a")
        self.past.clock.advance(0)
        self.assertEqual((heard, self.hub.delays.sum), (["a", "b"], 3))

    def test_delays_together(self) -> None:
        """What is published in one turn is delivered once, and counts from its beginning."""
        self.listen()
        for text in ("a", "b"):
            self.hub.deliver(self.past.history.add("t", text))
            self.pass_time(0.5)
        self.hub.flush()
        self.assertEqual((self.hub.delays.buckets[-1][1], self.hub.delays.sum), (1, 1))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with nothing else done."""
        self.past.clock.rightNow += seconds

    def test_follow(self) -> None:
        """A topic is followed from its first subscriber to its last, and forgotten then."""
        first = self.subscribe(Listener())
        second = self.subscribe(Listener())
        first.cancel()
        first.cancel()
        self.assertEqual(self.past.events, ["follow t"])
        second.cancel()
        self.assertEqual(self.past.events, ["follow t", "unfollow t"])
        self.assertEqual(self.hub._topics, {})

    def test_publish_while_told(self) -> None:
        """What one publishes while it is told, all hear after that: the order is one."""
        first, second = self.listen(), self.listen()
        first.react = lambda event: event == "1" and self.publish("2")
        self.publish("1")
        self.assertEqual(first.events[1:], ["1"])
        self.past.clock.advance(0)
        self.assertEqual(first.events[1:], ["1", "2"])
        self.assertEqual(second.events[1:], ["1", "2"])

    def test_publish_at_the_beginning(self) -> None:
        """What one publishes while it begins, it hears once."""
        listener = Listener()
        listener.react = lambda event: event.startswith("t from") and self.publish("1")
        self.subscribe(listener)
        self.publish("2")
        self.assertEqual(listener.events, ["t from e1:0", "1", "2"])

    def test_leave_while_told(self) -> None:
        """One who makes another leave spares it what both would have heard."""
        first, second = self.listen(), Listener()
        leaving = self.subscribe(second)
        first.react = lambda event: leaving.cancel()
        self.publish("1")
        self.assertEqual(first.events[1:], ["1"])
        self.assertEqual(second.events[1:], [])

    def test_come_while_told(self) -> None:
        """One who comes while others are told begins behind that publication."""
        late = Listener()
        first = self.listen()
        first.react = lambda event: event == "1" and self.subscribe(late)
        self.publish("1")
        self.publish("2")
        self.assertEqual(late.events, ["t from e1:1", "2"])

    def test_failing_listener(self) -> None:
        """One that fails is logged and ended; the others and the publisher do not notice."""

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

    def test_cost_of_delivery(self) -> None:
        """Delivering to N costs N calls, whatever else is listened to; the past is not asked."""
        others = [self.listen(topic=f"u{number}") for number in range(50)]
        listeners = [self.listen() for _ in range(50)]
        asked = self.past.asked
        for number in range(1, 4):
            self.publish("x")
            self.assertEqual([one.calls for one in listeners], [number] * 50)
        self.assertEqual({one.calls for one in others}, {0})
        self.assertEqual(self.past.asked, asked)

    def test_cost_of_resuming(self) -> None:
        """Resuming reads what was missed and no more, and nobody else hears of it."""
        for _ in range(1000):
            self.publish("x")
        other = self.listen()
        self.past.given = 0
        self.assertEqual(self.listen("e1:997").calls, 3)
        self.assertEqual((self.past.given, other.calls), (3, 0))

    def test_idle(self) -> None:
        """A topic that is listened to and silent costs no timer."""
        self.listen()
        self.assertEqual(self.past.clock.getDelayedCalls(), [])
