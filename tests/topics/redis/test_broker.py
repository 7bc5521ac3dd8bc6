"""A node over a fake Redis: slow, lost, full or empty, as a test decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisUnavailable, Unavailable
from pushd.topics.broker import Draft
from pushd.topics.cursor import Cursor, hash_topic
from pushd.topics.history import Retention
from pushd.topics.publication import Id, Publication
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.rules import Rule, Rules
from tests.support.broker_contract import Node
from tests.support.fake_redis import FakeRedis


class PromptNode(Node):
    """A node that delivers each publication at once."""

    def deliver(self, publication: Publication) -> None:
        """Deliver a publication now."""
        super().deliver(publication)
        self.hub.flush()


class BrokerTestCase(SynchronousTestCase):
    """A fake Redis and a node."""

    def setUp(self) -> None:
        """Make a broker that is not started."""
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.broker = RedisBroker(
            self.clock,
            self.redis.open,
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: "fresh",
            rules=self.redis.rules,
        )
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop, and check that no timer is left."""
        self.broker.stop()
        self.redis.answer()
        self.redis.history.stop()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self) -> Node:
        """Start the node and its reactor."""
        node = PromptNode(self.broker, self.clock)
        self.run_reactor()
        return node

    def run_reactor(self) -> None:
        """Call what waits for the reactor."""
        for call, args, arguments in self.clock.whenRunningHooks:
            call(*args, **arguments)

    def publish(self, topic: str, data: str | bytes = "x", key: str | None = None) -> str:
        """Publish, and return the id."""
        return str(self.successResultOf(self.broker.publish(topic, data, key)))

    def why(self, deferred: Deferred[Any]) -> str:
        """Return the reason of an Unavailable."""
        return str(self.failureResultOf(deferred, Unavailable).value)

    def reconnect(self) -> None:
        """Let the next session be opened."""
        self.clock.advance(10)


class PublishingTests(BrokerTestCase):
    """What publishing returns, or why it fails."""

    def test_published(self) -> None:
        """A publication is delivered, and its idempotency key remembered."""
        subscriber = self.start().listen("t")
        ids = [self.publish("t", "a"), self.publish("t", b"b", "k"), self.publish("t", "c", "k")]
        self.assertEqual(subscriber.events, [("e0-0:0", False), (ids[0], "a"), (ids[1], b"b")])
        self.assertEqual(ids[2], ids[1])

    def test_many(self) -> None:
        """Several publications are one command."""
        self.start()
        drafts = [Draft("t", "a"), Draft("u", b"b", "k"), Draft("t", "c")]
        ids = self.successResultOf(self.broker.publish_all(drafts))
        self.assertEqual([str(id) for id in ids], ["e0-0:1", "e0-1:1", "e0-0:2"])
        self.assertEqual(self.redis.asked, ["publish"])

    def test_at_once(self) -> None:
        """Nothing is published at once: Redis has to be asked."""
        self.start()
        self.assertIsNone(self.broker.publish_at_once(Draft("t", "a")))
        self.assertEqual(self.redis.asked, [])

    def test_unavailable(self) -> None:
        """Without a session, publishing fails with the reason."""
        self.redis.trouble = RedisUnavailable("no route")
        self.start()
        self.assertEqual(self.why(self.broker.publish("t", "x")), "Redis at it: no route")
        self.assertEqual(self.broker.fault(), "Redis at it: no route")

    def test_answer_lost(self) -> None:
        """If the answer is lost, the error says that it may have been published."""
        self.start()
        self.redis.late = True
        publishing = self.broker.publish("t", "x")
        self.assertNoResult(publishing)
        self.redis.lose()
        self.assertIn("may or may not have been accepted", self.why(publishing))

    def test_refused(self) -> None:
        """An error of Redis is passed on."""
        self.start()
        self.redis.refusal = "OOM command not allowed"
        self.assertEqual(
            self.why(self.broker.publish("t", "x")),
            "Redis at it returned an error: OOM command not allowed",
        )
        self.assertIsNone(self.broker.fault())

    def test_read_only(self) -> None:
        """The session with a server that has become a replica is dropped."""
        self.start()
        self.redis.refusal = "READONLY You can't write"
        first, second = self.broker.publish("t", "x"), self.broker.publish("t", "x")
        self.assertIn("READONLY", self.why(first))
        self.assertIn("read-only replica", self.why(second))
        self.assertFalse(self.redis.sessions[0].open)
        self.redis.refusal = None
        self.reconnect()
        self.publish("t")

    def test_read_only_for_subscribers(self) -> None:
        """A node that publishes nothing notices it as well."""
        node = self.start()
        asks: list[Callable[[], Deferred[Any]]] = [
            lambda: self.broker.describe("t"),
            lambda: self.broker.replay("t", Id("e", 1), 100),
        ]
        for ask in asks:
            self.redis.refusal = "READONLY You can't write"
            self.assertIn("READONLY", self.why(ask()))
            self.assertFalse(self.redis.sessions[-1].open)
            self.redis.refusal = None
            self.reconnect()
            self.publish("t")
        self.redis.refusal = "READONLY You can't write"
        node.listen("followed")
        self.assertFalse(self.redis.sessions[-1].open)

    def test_read_only_twice(self) -> None:
        """Two such errors at the same time drop it once."""
        self.start()
        self.redis.refusal = "READONLY"
        self.redis.late = True
        publishing = [self.broker.publish("t", "x") for _ in range(2)]
        self.redis.answer()
        for one in publishing:
            self.assertIn("READONLY", self.why(one))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class SessionTests(BrokerTestCase):
    """Sessions that are opened, lost and opened again."""

    def test_connects_when_the_reactor_runs(self) -> None:
        """The broker connects neither before the reactor runs nor after ``stop``."""
        Node(self.broker, self.clock)
        self.assertEqual(self.redis.sessions, [])
        self.assertIn("not connected yet", str(self.broker.fault()))
        self.broker.stop()
        self.run_reactor()
        self.assertEqual(self.redis.sessions, [])

    def test_stopped_while_opening(self) -> None:
        """``stop`` cancels an attempt to connect."""
        self.redis.late = True
        self.start()
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost_and_found(self) -> None:
        """What was published meanwhile is delivered once to every subscriber."""
        node = self.start()
        subscribers = [node.listen("t"), node.listen("t"), node.listen("u")]
        self.publish("t", "a")
        self.redis.lose()
        self.assertIn("connection was lost", str(self.broker.fault()))
        for data in "bc":
            self.redis.publish("t", data)
        self.reconnect()
        self.redis.publish("t", "d")
        for subscriber in subscribers[:2]:
            self.assertEqual([data for _, data in subscriber.events[1:]], list("abcd"))
        self.assertEqual(len(subscribers[2].events), 1)

    def test_lost_and_empty(self) -> None:
        """If Redis has lost its data, the subscribers are ended."""
        subscriber = self.start().listen("t")
        self.publish("t", "a")
        self.redis.lose()
        self.redis.history.stop()
        self.redis.forget()
        self.reconnect()
        self.assertEqual(subscriber.events[2:], ["lost"])

    def test_lost_during_a_read(self) -> None:
        """A read of the history that was interrupted is repeated in the next session."""
        node = self.start()
        node.listen("t")
        id = self.publish("t")
        self.redis.late = True
        back = node.listen("t", after="e0-0:0")
        self.redis.lose()
        self.assertEqual(back.events, [])
        self.reconnect()
        self.assertEqual(back.events, [("e0-0:0", True), (id, "x")])

    def test_lost_in_each_step(self) -> None:
        """Wherever a session is lost, the next one continues."""
        node = self.start()
        self.redis.late = True
        subscriber = node.listen("t")
        for _ in range(2):
            self.redis.lose()
            self.redis.late = True
            self.reconnect()
            # This answers that the session is open; the next answer is that of SUBSCRIBE.
            waiting, answer = self.redis.waiting.popleft()
            waiting.callback(answer)
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(self.redis.asked, ["replay"])
        self.redis.lose()
        self.reconnect()
        self.assertEqual(subscriber.events, [("e0-0:0", False)])


class ListeningTests(BrokerTestCase):
    """How subscribers get their position and the history."""

    def test_no_command(self) -> None:
        """A subscriber of a live topic that needs no history costs no command."""
        node = self.start()
        node.listen("t")
        id = self.publish("t")
        asked = len(self.redis.asked)
        events = [node.listen("t", after).events for after in (None, id)]
        self.assertEqual(events, [[(id, False)], [(id, True)]])
        self.assertEqual(len(self.redis.asked), asked)
        self.assertEqual(node.listen("t", "e0-0:0").events[1:], [(id, "x")])
        self.assertEqual(self.redis.asked[asked:], ["replay"])

    def test_retained(self) -> None:
        """Only a new subscriber of a topic that retains its newest publication costs a read."""
        self.redis.rules.replace(Rules([Rule(match="r", retain=True)]))
        node = self.start()
        node.listen("r")
        id = self.publish("r")
        asked = len(self.redis.asked)
        self.assertEqual(node.listen("r", id).events, [(id, True)])
        self.assertEqual(len(self.redis.asked), asked)
        self.assertEqual(node.listen("r").events, [(id.replace(":1", ":0"), False), (id, "x")])
        self.assertEqual(self.redis.asked[asked:], ["replay"])

    def test_timeout(self) -> None:
        """While Redis is unavailable a subscriber waits for 30 seconds; its end is not logged."""
        self.redis.trouble = RedisUnavailable("no route")
        node = self.start()
        subscriber = node.listen("t")
        replaying = self.broker.replay("not-followed", None, 1000)
        self.clock.advance(29)
        self.assertEqual(subscriber.events, [])
        self.assertNoResult(replaying)
        self.clock.advance(1)
        self.assertEqual(subscriber.events, ["lost"])
        self.assertEqual(self.why(replaying), "Redis at it: no route")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_one_deadline(self) -> None:
        """A read waits no longer if Redis comes back meanwhile, and is lost again."""
        self.redis.trouble = RedisUnavailable("no route")
        self.start()
        cursor = Cursor("generation", 1)
        reading: list[Deferred[Any]] = [
            self.broker.replay("not-followed", None, 1000),
            self.broker.locate(["t"], cursor),
        ]
        self.clock.advance(10)
        self.redis.late, self.redis.trouble = True, None
        self.reconnect()
        opening, session = self.redis.waiting.popleft()
        opening.callback(session)
        self.assertEqual(self.redis.asked, ["replay", "locate"])
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        left = 30 - self.clock.seconds()
        self.clock.advance(left - 0.1)
        for one in reading:
            self.assertNoResult(one)
        self.clock.advance(0.1)
        for one in reading:
            self.failureResultOf(one, Unavailable)

    def test_waits(self) -> None:
        """A read while Redis is unavailable is answered when it is back."""
        self.redis.trouble = RedisUnavailable("no route")
        self.start()
        replaying = self.broker.replay("not-followed", None, 1000)
        self.redis.trouble = None
        self.reconnect()
        self.assertEqual(self.successResultOf(replaying).id, Id("e0-0", 0))

    def test_stop(self) -> None:
        """``stop`` makes everything fail that waits, and everything that comes later."""
        self.redis.trouble = RedisUnavailable("no route")
        node = self.start()
        subscriber = node.listen("t")
        replaying = self.broker.replay("not-followed", None, 1000)
        self.broker.stop()
        self.assertEqual(subscriber.events, ["lost"])
        self.why(replaying)
        self.assertIn("shutting down", self.why(self.broker.replay("t", None, 1000)))
        self.assertIn("shutting down", self.why(self.broker.publish("t", "x")))


class DescribeTests(BrokerTestCase):
    """Names and descriptions of topics."""

    def names(self) -> list[str]:
        """Return the names of all topics."""
        names: list[str] = self.successResultOf(self.broker.names())
        return sorted(names)

    def test_described(self) -> None:
        """Topics are listed and described."""
        self.start()
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (None, 0))
        for topic in ("t", "u", "t"):
            self.publish(topic)
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (Id("e0-0", 2), 2))
        self.assertEqual(self.names(), ["t", "u"])
        self.assertEqual((self.broker.published, self.broker.history_bytes), (3, 0))

    def test_forgotten(self) -> None:
        """A history can be dropped; its ids go on."""
        self.start()
        self.publish("t")
        self.successResultOf(self.broker.forget("t"))
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (Id("e0-0", 1), 0))

    def test_refused(self) -> None:
        """If Redis returns an error or is lost, the reason is passed on."""
        self.start()
        self.redis.refusal = "NOPERM"
        for asking in (self.broker.names(), self.broker.describe("t")):
            self.assertEqual(self.why(asking), "Redis at it: NOPERM")
        self.redis.lose("gone")
        for asking in (self.broker.names(), self.broker.describe("t")):
            self.assertEqual(self.why(asking), "Redis at it: gone")


class LocateTests(BrokerTestCase):
    """Where cursors are located."""

    def cursor(self, sequence: int) -> Cursor:
        """Make a cursor without exceptions."""
        return Cursor(self.broker.generation, sequence)

    def test_waits(self) -> None:
        """A cursor that comes while Redis is unavailable is located once it is back."""
        self.start()
        id = Id.parse(self.publish("t"))
        self.redis.lose()
        locating = self.broker.locate(["t"], self.cursor(1))
        self.assertNoResult(locating)
        self.redis.late = True
        self.reconnect()
        self.redis.answer()
        self.assertEqual(self.successResultOf(locating), [id])

    def test_lost_meanwhile(self) -> None:
        """If the session is lost before the answer, the next one is asked."""
        self.start()
        id = Id.parse(self.publish("t"))
        self.redis.late = True
        locating = self.broker.locate(["t"], self.cursor(1))
        self.redis.lose()
        self.assertNoResult(locating)
        self.reconnect()
        self.assertEqual(self.successResultOf(locating), [id])

    def test_refused(self) -> None:
        """If Redis returns an error, the cursor is not located, and the client is told to retry."""
        self.start()
        self.redis.refusal = "OOM"
        self.assertIn("OOM", self.why(self.broker.locate(["t"], self.cursor(0))))

    def test_no_command(self) -> None:
        """Positions that are ids are known without a command."""
        self.start()
        cursor = Cursor("g", 1, {hash_topic("g", "t"): Id("e", 7)})
        self.assertEqual(self.successResultOf(self.broker.locate(["t"], cursor)), [Id("e", 7)])
        self.assertEqual(self.redis.asked, [])
