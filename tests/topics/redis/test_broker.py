"""A node over a Redis that is in memory: late, lost, full and empty at will."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisUnavailable, Unavailable
from pushd.topics.broker import Draft
from pushd.topics.history import Retention
from pushd.topics.publication import Id, Publication
from pushd.topics.redis.broker import RedisBroker
from tests.broker_contract import Node
from tests.fake_redis import FakeRedis


class PromptNode(Node):
    """A node whose turns are short."""

    def deliver(self, publication: Publication) -> None:
        """Tell at once."""
        super().deliver(publication)
        self.hub.flush()


class BrokerTestCase(SynchronousTestCase):
    """A Redis and a node."""

    def setUp(self) -> None:
        """Begin."""
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.broker = RedisBroker(
            self.clock,
            self.redis.open,
            name="it",
            db=0,
            retention=Retention(),
            make_name=lambda: "fresh",
        )
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """End; nothing is left."""
        self.broker.stop()
        self.redis.answer()
        self.redis.history.stop()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self) -> Node:
        """Begin."""
        node = PromptNode(self.broker, self.clock)
        self.run_reactor()
        return node

    def run_reactor(self) -> None:
        """Let begin what waits for that."""
        for begin, args, arguments in self.clock.whenRunningHooks:
            begin(*args, **arguments)

    def publish(self, topic: str, data: str | bytes = "x", key: str | None = None) -> str:
        """Publish; gives the id."""
        return str(self.successResultOf(self.broker.publish(topic, data, key)))

    def why(self, deferred: Deferred[Any]) -> str:
        """Why this can't be had."""
        return str(self.failureResultOf(deferred, Unavailable).value)

    def go_on(self) -> None:
        """Let the next session be opened."""
        self.clock.advance(10)


class PublishingTests(BrokerTestCase):
    """What is published, and what is not."""

    def test_published(self) -> None:
        """It is heard where somebody listens, and its key is remembered."""
        listener = self.start().listen("t")
        ids = [self.publish("t", "a"), self.publish("t", b"b", "k"), self.publish("t", "c", "k")]
        self.assertEqual(listener.events, [("e0-0:0", False), (ids[0], "a"), (ids[1], b"b")])
        self.assertEqual(ids[2], ids[1])

    def test_many(self) -> None:
        """Many are one question."""
        self.start()
        drafts = [Draft("t", "a"), Draft("u", b"b", "k"), Draft("t", "c")]
        ids = self.successResultOf(self.broker.publish_all(drafts))
        self.assertEqual([str(id) for id in ids], ["e0-0:1", "e0-1:1", "e0-0:2"])
        self.assertEqual(self.redis.asked, ["publish"])

    def test_away(self) -> None:
        """While there is no session, it says why."""
        self.redis.trouble = RedisUnavailable("no route")
        self.start()
        self.assertEqual(self.why(self.broker.publish("t", "x")), "Redis at it: no route")
        self.assertEqual(self.broker.fault(), "Redis at it: no route")

    def test_answer_lost(self) -> None:
        """When the answer is lost, nobody knows."""
        self.start()
        self.redis.late = True
        publishing = self.broker.publish("t", "x")
        self.assertNoResult(publishing)
        self.redis.lose()
        self.assertIn("nobody knows", self.why(publishing))

    def test_refused(self) -> None:
        """What Redis says against it is said."""
        self.start()
        self.redis.refusal = "OOM command not allowed"
        self.assertEqual(
            self.why(self.broker.publish("t", "x")), "Redis at it refuses: OOM command not allowed"
        )
        self.assertIsNone(self.broker.fault())

    def test_read_only(self) -> None:
        """One that has become a replica is left; the next session may be with another."""
        self.start()
        self.redis.refusal = "READONLY You can't write"
        first, second = self.broker.publish("t", "x"), self.broker.publish("t", "x")
        self.assertIn("READONLY", self.why(first))
        self.assertIn("read-only replica", self.why(second))
        self.assertFalse(self.redis.sessions[0].open)
        self.redis.refusal = None
        self.go_on()
        self.publish("t")

    def test_read_only_twice(self) -> None:
        """Two that are told at once leave it once."""
        self.start()
        self.redis.refusal = "READONLY"
        self.redis.late = True
        publishing = [self.broker.publish("t", "x") for _ in range(2)]
        self.redis.answer()
        for one in publishing:
            self.assertIn("READONLY", self.why(one))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class SessionTests(BrokerTestCase):
    """One session after the other."""

    def test_begins_when_the_reactor_runs(self) -> None:
        """Before that, and after the end, nothing is connected to."""
        Node(self.broker, self.clock)
        self.assertEqual(self.redis.sessions, [])
        self.assertIn("not answered yet", str(self.broker.fault()))
        self.broker.stop()
        self.run_reactor()
        self.assertEqual(self.redis.sessions, [])

    def test_stopped_while_opening(self) -> None:
        """A stop ends what is just being opened."""
        self.redis.late = True
        self.start()
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost_and_found(self) -> None:
        """What was published meanwhile is read, by everybody who listens, once."""
        node = self.start()
        listeners = [node.listen("t"), node.listen("t"), node.listen("u")]
        self.publish("t", "a")
        self.redis.lose()
        self.assertIn("connection was lost", str(self.broker.fault()))
        for data in "bc":
            self.redis.publish("t", data)
        self.go_on()
        self.redis.publish("t", "d")
        for listener in listeners[:2]:
            self.assertEqual([data for _, data in listener.events[1:]], list("abcd"))
        self.assertEqual(len(listeners[2].events), 1)

    def test_lost_and_empty(self) -> None:
        """When all is forgotten, those who listen are ended."""
        listener = self.start().listen("t")
        self.publish("t", "a")
        self.redis.lose()
        self.redis.history.stop()
        self.redis.forget()
        self.go_on()
        self.assertEqual(listener.events[2:], ["lost"])

    def test_lost_while_one_reads(self) -> None:
        """Who reads the past just then reads it in the next session."""
        node = self.start()
        node.listen("t")
        id = self.publish("t")
        self.redis.late = True
        back = node.listen("t", after="e0-0:0")
        self.redis.lose()
        self.assertEqual(back.events, [])
        self.go_on()
        self.assertEqual(back.events, [("e0-0:0", True), (id, "x")])

    def test_lost_in_each_step(self) -> None:
        """Wherever a session is lost, the next one goes on."""
        node = self.start()
        self.redis.late = True
        listener = node.listen("t")
        for _ in range(2):
            self.redis.lose()
            self.redis.late = True
            self.go_on()
            # The session; then the subscription has its turn.
            waiting, answer = self.redis.waiting.popleft()
            waiting.callback(answer)
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(self.redis.asked, ["replay"])
        self.redis.lose()
        self.go_on()
        self.assertEqual(listener.events, [("e0-0:0", False)])


class ListeningTests(BrokerTestCase):
    """Who listens, and to what."""

    def test_no_question(self) -> None:
        """Who is new at a topic that is live, or has all of it, costs no question."""
        node = self.start()
        node.listen("t")
        id = self.publish("t")
        asked = len(self.redis.asked)
        events = [node.listen("t", after).events for after in (None, id)]
        self.assertEqual(events, [[(id, False)], [(id, True)]])
        self.assertEqual(len(self.redis.asked), asked)
        self.assertEqual(node.listen("t", "e0-0:0").events[1:], [(id, "x")])
        self.assertEqual(self.redis.asked[asked:], ["replay"])

    def test_patience(self) -> None:
        """Who comes while Redis is away waits for half a minute, and is not logged one by one."""
        self.redis.trouble = RedisUnavailable("no route")
        node = self.start()
        listener = node.listen("t")
        replaying = self.broker.replay("nobody follows this", None, 1000)
        self.clock.advance(29)
        self.assertEqual(listener.events, [])
        self.assertNoResult(replaying)
        self.clock.advance(1)
        self.assertEqual(listener.events, ["lost"])
        self.assertEqual(self.why(replaying), "Redis at it: no route")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_waits(self) -> None:
        """Who asks while Redis is away is answered when it is back."""
        self.redis.trouble = RedisUnavailable("no route")
        self.start()
        replaying = self.broker.replay("nobody follows this", None, 1000)
        self.redis.trouble = None
        self.go_on()
        self.assertEqual(self.successResultOf(replaying).id, Id("e0-0", 0))

    def test_stop(self) -> None:
        """At the end nobody waits any longer."""
        self.redis.trouble = RedisUnavailable("no route")
        node = self.start()
        listener = node.listen("t")
        replaying = self.broker.replay("nobody follows this", None, 1000)
        self.broker.stop()
        self.assertEqual(listener.events, ["lost"])
        self.why(replaying)
        self.assertIn("stops", self.why(self.broker.replay("t", None, 1000)))
        self.assertIn("stops", self.why(self.broker.publish("t", "x")))


class TellingTests(BrokerTestCase):
    """What is there."""

    def names(self) -> list[str]:
        """The topics that are listed."""
        names: list[str] = self.successResultOf(self.broker.names())
        return sorted(names)

    def test_told(self) -> None:
        """Topics are listed and described."""
        self.start()
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (None, 0))
        for topic in ("t", "u", "t"):
            self.publish(topic)
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (Id("e0-0", 2), 2))
        self.assertEqual(self.names(), ["t", "u"])
        self.assertEqual((self.broker.published, self.broker.history_bytes), (3, 0))

    def test_refused(self) -> None:
        """When Redis does not tell, it is said why."""
        self.start()
        self.redis.refusal = "NOPERM"
        for asking in (self.broker.names(), self.broker.describe("t")):
            self.assertEqual(self.why(asking), "Redis at it: NOPERM")
        self.redis.lose("gone")
        for asking in (self.broker.names(), self.broker.describe("t")):
            self.assertEqual(self.why(asking), "Redis at it: gone")
