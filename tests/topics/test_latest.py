"""Topics of which only the newest publication matters: what slow and returning subscribers get."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pushd.access.progress import ENOUGH, PERIOD
from pushd.topics.fanout import Batch
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.rules import Rule, Rules
from pushd.topics.subscription import LAG_TIMEOUT, LatestSubscription
from tests.support.hub_case import HubTestCase, RecordingSubscriber
from tests.support.topic_clients import (
    MIB,
    TRANSPORTS,
    RawWebSocketClient,
    SseClient,
    TopicClient,
    TopicTestCase,
    V1WebSocketClient,
)

HALF = "x" * (MIB // 2)

LATEST = (Rule(match="t", latest=True),)


class LatestTestCase(HubTestCase):
    """A hub with a topic ``t`` of which the newest publication matters."""

    rules = LATEST

    def drop(self) -> None:
        """Drop all publications from the history."""
        self.source.history.trim(1 << 40)


class LatestSubscriptionTests(LatestTestCase):
    """What a subscriber of a ``latest`` topic gets."""

    def test_rule(self) -> None:
        """Only topics with the rule are so."""
        self.listen()
        self.assertIsInstance(self.last, LatestSubscription)
        self.listen(topic="u")
        self.assertNotIsInstance(self.last, LatestSubscription)

    def test_fast(self) -> None:
        """A subscriber that keeps up gets everything, also what is published together."""
        subscriber = self.listen()
        for data in "ab":
            self.publish(data)
        for data in "cd":
            self.hub.deliver(self.source.history.add("t", data))
        self.hub.flush()
        self.assertEqual(subscriber.events, ["t from e1:0", "a", "b", "c", "d"])
        self.assertEqual(subscriber.deliveries, 3)

    def test_slow(self) -> None:
        """A subscriber without room gets the newest once it has some, and how many it missed."""
        subscriber = self.listen(room=1)
        for data in "abcd":
            self.publish(data)
        self.assertEqual(subscriber.events, ["t from e1:0", "a"])
        subscriber.room = 1
        self.last.resume()
        self.assertEqual(subscriber.events[2:], ["d after 2"])
        self.last.resume()
        self.publish("e")
        self.assertEqual(subscriber.events[3:], [])
        subscriber.room = 9
        self.last.resume()
        self.publish("f")
        self.assertEqual(subscriber.events[3:], ["e", "f"])

    def test_no_history(self) -> None:
        """The newest arrives although the history does not hold it any more, nor is it read."""
        subscriber = self.listen(room=1)
        for data in "abc":
            self.publish(data)
        self.drop()
        reads = self.source.reads
        subscriber.room = 1
        self.last.resume()
        self.assertEqual((subscriber.events[2:], self.source.reads), (["c after 1"], reads))

    def test_no_room_in_between(self) -> None:
        """If there is still no room when it is resumed, it waits on."""
        subscriber = self.listen(room=1)
        for data in "abc":
            self.publish(data)
        self.last.resume()
        self.assertEqual(subscriber.events, ["t from e1:0", "a"])
        subscriber.room = 1
        self.last.resume()
        self.assertEqual(subscriber.events[2:], ["c after 1"])

    def test_resumes(self) -> None:
        """One that comes back gets the newest, if it does not have it; nothing is missing then."""
        for data in "abcd":
            self.publish(data)
        for after, events in (
            ("e1:0", ["t from e1:0 recovered", "d after 3"]),
            ("e1:3", ["t from e1:3 recovered", "d"]),
            ("e1:4", ["t from e1:4 recovered"]),
            (None, ["t from e1:4"]),
        ):
            subscriber = self.listen(after)
            self.assertEqual(subscriber.events, events)
            self.last.cancel()

    def test_resumes_from_another_epoch(self) -> None:
        """With the newest it has everything that matters, also if its id is unknown."""
        for data in "ab":
            self.publish(data)
        self.assertEqual(self.listen("x:7").events, ["t from e1:1 recovered", "b"])

    def test_resumes_from_nowhere(self) -> None:
        """If the newest is not kept, or the id does not exist, something may be missing."""
        for data in "ab":
            self.publish(data)
        self.assertEqual(self.listen("e1:3").events, ["t from e1:2"])
        self.drop()
        for after in ("e1:1", "x:7"):
            self.assertEqual(self.listen(after).events, ["t from e1:2"])
        self.assertEqual(self.listen("e1:2").events, ["t from e1:2 recovered"])
        self.source.history.release("t")

    def test_resumes_on_an_empty_topic(self) -> None:
        """An id of a topic without publications is not recovered."""
        self.assertEqual(self.listen("x:7").events, ["t from e1:0"])

    def test_resumes_without_room(self) -> None:
        """One that comes back without room gets nothing before it has some, then the newest."""
        for data in "abc":
            self.publish(data)
        subscriber = self.listen("e1:1", room=0)
        self.assertEqual(subscriber.events, [])
        subscriber.react = lambda event: setattr(subscriber, "room", 0)
        subscriber.room = 1
        self.last.resume()
        self.publish("d")
        self.assertEqual(subscriber.events, ["t from e1:1 recovered"])
        subscriber.room = 1
        self.last.resume()
        self.assertEqual(subscriber.events[1:], ["d after 2"])

    def test_ends_as_it_begins(self) -> None:
        """One that is cancelled by its first event gets nothing more."""
        self.publish("a")
        subscriber = RecordingSubscriber(0)
        subscription = self.subscribe(subscriber, "e1:0")
        subscriber.react = lambda event: subscription.cancel()
        subscriber.room = 5
        subscription.resume()
        self.assertEqual(subscriber.events, ["t from e1:0 recovered"])
        self.publish("b")
        self.assertEqual(len(subscriber.events), 1)

    def test_known_already(self) -> None:
        """What is delivered late, after it was read, is not repeated."""
        subscriber = self.listen()
        first = self.publish("a")
        self.hub.deliver(first)
        self.hub.flush()
        self.assertEqual(subscriber.events, ["t from e1:0", "a"])

    def test_skips_what_is_missing(self) -> None:
        """If publications are missing before what is delivered, they are left out, too."""
        subscriber = self.listen()
        self.source.history.add("t", "lost")
        self.publish("a")
        self.assertEqual(subscriber.events[1:], ["a after 1"])

    def test_another_epoch(self) -> None:
        """When the epoch changes the connection ends, and its client comes back."""
        subscriber = self.listen()
        self.hub.deliver(Publication("t", "x", Id("f", 1)))
        self.hub.flush()
        self.assertEqual(subscriber.events[1:], ["lost"])

    def test_gap(self) -> None:
        """When publications are lost the connection ends, unless it was about to read anyway."""
        for data in "ab":
            self.publish(data)
        unread, idle = self.listen("e1:0", room=0), self.listen()
        slow = self.listen("e1:1", room=1)
        self.publish("c")
        self.hub.end_at_gap("t", Id("e1", 3))
        self.assertEqual((idle.events[-1], slow.events[-1]), ("c", "lost"))
        self.hub.end_at_gap("t", Id("e1", 4))
        self.assertEqual((unread.events, idle.events[-1]), ([], "lost"))

    def test_failing_read(self) -> None:
        """A read that fails ends the connection."""
        self.source.failure = ValueError("unreadable")
        self.assertEqual(self.listen("e1:0").events, ["lost"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class LagTests(LatestTestCase):
    """How long a subscriber that has no room is waited for."""

    def setUp(self) -> None:
        """Make a subscriber without room, for which a publication waits."""
        super().setUp()
        self.subscriber = self.listen(room=1)
        for data in "ab":
            self.publish(data)

    def test_takes_nothing(self) -> None:
        """One that takes nothing at all is cut off."""
        self.source.clock.advance(LAG_TIMEOUT)
        self.assertEqual(self.subscriber.events[-1], "lost")
        self.assertEqual(self.hub.counters.cut, 1)

    def test_takes_something(self) -> None:
        """One that goes on reading is not, however much it missed, and gets the newest."""
        for number in range(int(3 * PERIOD / LAG_TIMEOUT)):
            self.publish(str(number))
            self.drop()
            self.subscriber.bytes_taken += ENOUGH // 5
            self.source.clock.advance(LAG_TIMEOUT)
        self.subscriber.room = 1
        self.last.resume()
        self.assertEqual(self.subscriber.events[-1], f"{number} after {number + 1}")
        self.assertEqual(self.hub.counters.cut, 0)

    def test_has_room_in_time(self) -> None:
        """One that has room is resumed at the time-out, if it was not before."""
        self.subscriber.room = 1
        self.source.clock.advance(LAG_TIMEOUT)
        self.assertEqual(self.subscriber.events[-1], "b")

    def test_no_timer(self) -> None:
        """When it has caught up or is cancelled, no time-out is left."""
        self.subscriber.room = 1
        self.last.resume()
        self.publish("c")
        self.last.cancel()
        self.source.clock.advance(LAG_TIMEOUT)
        self.assertEqual(self.subscriber.events[-1], "b")


class SlowSourceTests(LatestTestCase):
    """Reads that take time, as those of Redis do."""

    def setUp(self) -> None:
        """Let reads wait until the test answers them."""
        super().setUp()
        self.waiting: list[tuple[Deferred[Replay], tuple[Any, ...]]] = []
        self.patch(self.source, "replay", self.replay_later)

    def replay_later(self, *args: Any) -> Deferred[Replay]:
        """Answer when the test says so."""
        waiting: Deferred[Replay] = Deferred()
        self.waiting.append((waiting, args))
        return waiting

    def answer(self) -> None:
        """Answer one read with what the history has now."""
        waiting, args = self.waiting.pop(0)
        waiting.callback(self.source.history.replay(*args))

    def test_published_meanwhile(self) -> None:
        """What is published between and after the reads is newer than what they found."""
        for data in "ab":
            self.publish(data)
        subscriber = self.listen("e1:0")
        self.publish("c")
        self.answer()
        self.publish("d")
        self.answer()
        self.assertEqual(subscriber.events, ["t from e1:0 recovered", "d after 3"])
        subscriber = self.listen("e1:0")
        self.answer()
        [(waiting, args)] = self.waiting
        early = self.source.history.replay(*args)
        self.publish("e")
        self.waiting.clear()
        waiting.callback(early)
        self.assertEqual(subscriber.events, ["t from e1:0 recovered", "e after 4"])

    def test_new_subscriber(self) -> None:
        """A new subscriber gets what is published after the read, and not what was read."""
        subscriber = self.listen()
        self.publish("a")
        self.answer()
        self.assertEqual(subscriber.events, ["t from e1:1"])
        self.publish("b")
        self.assertEqual(subscriber.events[1:], ["b"])

    def test_ahead_of_the_node(self) -> None:
        """An id that the node has not seen yet may be right: it is looked up."""
        for data in "ab":
            self.publish(data)
        subscriber = self.listen("e1:2")
        self.waiting.pop()[0].callback(Replay(Id("e1", 1), False, (), Id("e1", 1)))
        self.answer()
        self.assertEqual(subscriber.events, ["t from e1:2 recovered"])

    def test_cancelled_meanwhile(self) -> None:
        """One that is cancelled while the history is read gets nothing."""
        self.publish("a")
        subscriber = self.listen("e1:0")
        self.answer()
        self.last.cancel()
        self.answer()
        self.assertEqual(subscriber.events, [])

    def test_epoch_changes_meanwhile(self) -> None:
        """If it is not known which epoch is the newer, the history is read again."""
        for data in "ab":
            self.publish(data)
        subscriber = self.listen("e1:0")
        self.hub.deliver(Publication("t", "x", Id("e0", 9)))
        self.hub.flush()
        for _ in range(4):
            self.answer()
        self.assertEqual(subscriber.events, ["t from e1:0 recovered", "b after 1"])


class TurnTests(LatestTestCase):
    """Many that come back at the same time take turns."""

    def test_turns(self) -> None:
        """Whoever waits for its turn may be cancelled meanwhile."""
        self.publish("a")
        turns = self.hub._shared.turns
        turns.charge(self.source.clock.seconds() - 10)
        gone = self.listen("e1:0")
        leaving = self.last
        staying = self.listen("e1:0")
        self.assertEqual(staying.events, [])
        leaving.cancel()
        self.source.clock.pump([0.1] * 200)
        self.assertEqual((gone.events, staying.events), ([], ["t from e1:0 recovered", "a"]))


class TransportTests(TopicTestCase):
    """The same over every transport."""

    #: More than may wait for a subscriber, as the number of publications of half a megabyte.
    many = 20

    def setUp(self) -> None:
        """Start a daemon with the rule."""
        super().setUp()
        self.start(rules=Rules(LATEST))

    def publish_many_large(self) -> None:
        """Publish so much that a client that does not read cannot have it all."""
        for number in range(self.many):
            self.publish("t", f"{number} {HALF}")

    def numbers(self, client: TopicClient) -> list[int]:
        """Return the numbers of what a client has received."""
        return [int(str(data).partition(" ")[0]) for data in client.data]

    def test_slow(self) -> None:
        """A client that reads again in time gets the newest, however much it missed."""
        for transport in (RawWebSocketClient, V1WebSocketClient, SseClient):
            client = transport(self.daemon, "t")
            client.stall()
            self.publish_many_large()
            self.assertLess(client.server_side.unsent, 2 * MIB)
            self.daemon.advance(LAG_TIMEOUT - 1)
            client.resume()
            numbers = self.numbers(client)
            self.assertEqual(numbers[-1], self.many - 1)
            self.assertLess(len(numbers), 5)
            self.publish("t", "20 live")
            self.assertEqual(self.numbers(client), [*numbers, 20])
            self.assertFalse(client.gone)
            client.leave()

    def test_conflated(self) -> None:
        """With pushd.v1 it is told how many were left out."""
        client = V1WebSocketClient(self.daemon, "t")
        client.stall()
        self.publish_many_large()
        client.resume()
        _, *said = map(json.loads, client.browser.messages)
        self.assertEqual(len(said) + sum(one.get("conflated", 0) for one in said), self.many)
        self.assertEqual(said[-1]["conflated"], self.many - len(said))

    def test_very_slow(self) -> None:
        """One that goes on reading is never cut off, one that reads nothing is."""
        for transport in (RawWebSocketClient, V1WebSocketClient, SseClient):
            client, dead = transport(self.daemon, "t"), transport(self.daemon, "t")
            client.stall()
            dead.stall()
            self.publish_many_large()
            for _ in range(30):
                client.server_side.take(12_000)
                self.daemon.advance(LAG_TIMEOUT)
                self.publish("t", "20")
            self.assertEqual((client.gone, dead.server_side.connected), (False, False))
            client.resume()
            self.assertEqual(self.numbers(client)[-1], 20)
            client.leave()

    def test_resumes(self) -> None:
        """One that comes back gets the newest only, and has missed nothing that matters."""
        ids = [self.publish("t", str(number)) for number in range(5)]
        for transport in TRANSPORTS:
            client = transport(self.daemon, "t", ids[1])
            self.assertEqual(client.data, ["4"])
            self.assertEqual(client.recovered, True if client.has_ids else None)
            client.leave()
        answer = self.daemon.get(f"/topics/t?after={ids[1]}")
        assert answer is not None
        publication = {"id": ids[4], "conflated": 2, "data": "4"}
        self.assertEqual(
            json.loads(answer.body),
            {"id": ids[4], "recovered": True, "publications": [publication]},
        )


class Keeper(RecordingSubscriber):
    """A subscriber that keeps the ids it got, and checks what it was told of them."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.id: Id | None = None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Take note of the start."""
        self.id = id

    def deliver(self, batch: Batch) -> None:
        """Check that the number of those left out is right."""
        for publication in batch:
            assert self.id is not None
            assert publication.id.offset == self.id.offset + publication.conflated + 1
            self.id = publication.id
        super().deliver(batch)


class NewestTests(LatestTestCase):
    """Whatever happens, the newest publication arrives."""

    @given(st.lists(st.sampled_from(["publish", "together", "room", "stall", "drop", "return"])))
    @settings(max_examples=200)
    def test_newest_arrives(self, steps: list[str]) -> None:
        """After any course of events a subscriber with room has the newest, in order, once."""
        self.setUp()
        subscriber = Keeper(1)
        subscription = self.subscribe(subscriber)
        count, last = 0, Id("e1", 0)
        for step in steps:
            match step:
                case "publish":
                    last = self.publish(str(count := count + 1)).id
                case "together":
                    for _ in range(3):
                        publication = self.source.history.add("t", str(count := count + 1))
                        self.hub.deliver(publication)
                        last = publication.id
                    self.hub.flush()
                case "room":
                    subscriber.room = 2
                    subscription.resume()
                case "stall":
                    subscriber.room = 0
                case "drop":
                    subscription.cancel()
                    got, subscriber = subscriber, Keeper(0)
                    subscriber.events, subscriber.id = got.events, got.id
                    subscription = self.subscribe(
                        subscriber, None if got.id is None else str(got.id)
                    )
                case "return":
                    subscription.resume()
        subscriber.room = 1 << 30
        subscription.resume()
        self.assertEqual(subscriber.id, last)
        numbers = [int(event.partition(" ")[0]) for event in subscriber.events]
        self.assertEqual(numbers, sorted(set(numbers)))
        if count:
            self.assertEqual(numbers[-1], count)
