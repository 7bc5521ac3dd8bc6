"""From the past to what comes, each publication once, at the pace of whoever listens."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.errors import Unavailable
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.subscribers import SubscriberList
from pushd.topics.subscription import LAG_TIMEOUT, Subscription
from tests.audience import Failing, HubTestCase, Listener


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
        self.assertEqual(list(self.hub._context.lagging), [])

    def test_stays_behind(self) -> None:
        """Who reads nothing for some time is ended; who reads a little is not."""
        listener, other = self.listen(room=0), self.listen(room=0)
        listener.fast = other.fast = False
        self.publish("1")
        self.past.clock.advance(LAG_TIMEOUT - 1)
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
        self.assertEqual(list(self.hub._context.lagging), [self.last])
        self.last.cancel()
        self.assertEqual(list(self.hub._context.lagging), [])

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
            self.hub.end_at_gap("t", missed)
        self.hub.end_at_gap("u", Id("e2", 2))
        self.assertEqual((first.events[1:], second.events[1:]), (["1"], ["1"]))
        self.hub.end_at_gap("t", Id("e1", 3))
        self.assertEqual((first.events[1:], second.events[1:]), (["1", "lost"], ["1", "lost"]))
        third = self.listen()
        self.hub.end_at_gap("t", Id("e2", 0))
        self.assertEqual(third.events[1:], ["lost"])

    def test_missed_while_catching_up(self) -> None:
        """One that still reads finds out by itself."""
        self.publish("1")
        listener = self.listen("e1:0", room=0)
        self.hub.end_at_gap("t", Id("e1", 1))
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
        self.hub.end_at_gap("t", Id("e2", 0))
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
            subscription = Subscription(self.hub._context, "t", listener)
            self.hub._topics["t"] = audience = SubscriberList()
            audience.add(subscription)
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
