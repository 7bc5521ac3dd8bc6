"""The memory broker: history, delivery, and idempotency keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics import broker as module
from pushd.topics.broker import KEY_TTL, Broker, Draft, MemoryBroker, ignore_gap
from pushd.topics.history import History, Retention
from pushd.topics.publication import Id, Publication
from pushd.topics.rules import Rules
from tests.support.broker_contract import RULES, Node


class MemoryBrokerTests(SynchronousTestCase):
    """The broker of a single process."""

    def setUp(self) -> None:
        """Make a broker, and record what it delivers."""
        self.clock = Clock()
        epochs = iter(range(1, 100))
        self.history = History(self.clock, Retention(ttl=1000), lambda: f"e{next(epochs)}")
        self.broker: Broker = MemoryBroker(self.clock, self.history)
        self.delivered: list[Publication] = []
        self.broker.start(self.delivered.append)

    def publish(self, topic: str, data: str, key: str | None = None) -> str:
        """Publish, and return the id."""
        return str(self.successResultOf(self.broker.publish(topic, data, key)))

    def test_publish(self) -> None:
        """A publication gets an id, is kept, and is delivered once."""
        self.assertEqual(self.publish("t", "a"), "e1:1")
        (publication,) = self.delivered
        self.assertEqual((publication.topic, publication.data), ("t", "a"))
        replay = self.successResultOf(self.broker.replay("t", Id("e1", 0), 1000))
        self.assertEqual(replay.publications, (publication,))

    def test_key(self) -> None:
        """A known key gives the first id, and nothing is published."""
        self.assertEqual(self.publish("t", "a", "k"), "e1:1")
        self.assertEqual(self.publish("t", "b", "k"), "e1:1")
        self.assertEqual([one.data for one in self.delivered], ["a"])

    def test_key_of_another_topic(self) -> None:
        """A key is known for its own topic only."""
        ids = [self.publish(*one) for one in [("t", "a", "k"), ("u", "a", "k"), ("t", "a", "l")]]
        self.assertEqual(ids, ["e1:1", "e2:1", "e1:2"])

    def test_key_expires(self) -> None:
        """A key is forgotten five minutes after its first use."""
        self.publish("t", "a", "k")
        self.clock.advance(KEY_TTL - 1)
        self.assertEqual(self.publish("t", "a", "k"), "e1:1")
        self.clock.advance(1)
        self.assertEqual(self.publish("t", "a", "k"), "e1:2")

    def test_many_keys(self) -> None:
        """At the limit of keys, the oldest is forgotten."""
        self.patch(module, "_MAX_KEYS", 2)
        with capturedLogs() as events:
            for key in "abc":
                self.publish("t", key, key)
            self.assertEqual(self.publish("t", "again", "c"), "e1:3")
            self.assertEqual(self.publish("t", "again", "b"), "e1:2")
            self.assertEqual(self.publish("t", "again", "a"), "e1:4")
            # It is logged once in five minutes.
            self.assertEqual([event["event"] for event in events], ["keys_forgotten"])
            self.clock.advance(KEY_TTL)
            for key in "abc":
                self.publish("t", key, key)
        self.assertEqual([event["limit"] for event in events], [2, 2])
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_follow(self) -> None:
        """A followed topic does not expire; once it is unfollowed, it does."""
        self.broker.follow("t")
        self.publish("t", "a")
        self.clock.advance(5000)
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (Id("e1", 1), 0))
        self.broker.unfollow("t")
        self.assertEqual(self.successResultOf(self.broker.names()), ["t"])
        self.clock.advance(1000)
        self.assertEqual(self.successResultOf(self.broker.names()), [])

    def test_stop(self) -> None:
        """``stop`` forgets everything, and leaves no timer."""
        self.publish("t", "a", "k")
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.successResultOf(self.broker.names()), [])
        self.assertEqual(self.publish("t", "a", "k"), "e2:1")
        self.broker.stop()

    def test_all_at_once(self) -> None:
        """Several drafts are published in order; there is never a fault."""
        ids = self.successResultOf(self.broker.publish_all([Draft("t", "a"), Draft("u", b"b")]))
        self.assertEqual([str(id) for id in ids], ["e1:1", "e2:1"])
        self.assertEqual([one.data for one in self.delivered], ["a", b"b"])
        self.assertIsNone(self.broker.fault())
        self.assertIsNone(ignore_gap("t", ids[0]))  # type: ignore[func-returns-value]  # the default callback

    def test_in_parts(self) -> None:
        """Many bytes take more than one iteration, and wait for room between the parts."""
        drafts = [Draft("t", "x" * (module.SLICE + 1), None) for _ in range(3)]
        done = self.broker.publish_all(drafts)
        self.assertEqual(len(self.delivered), 1)
        self.clock.advance(0)
        self.successResultOf(done)
        room: Deferred[None] = Deferred()
        self.broker.start(self.delivered.append, room=lambda: room)
        done = self.broker.publish_all(drafts)
        self.clock.advance(0)
        self.assertEqual(len(self.delivered), 4)
        room.callback(None)
        self.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(len(self.delivered), 6)

    def test_unheard(self) -> None:
        """Of many for a topic without subscribers, only those are made that are kept."""
        drafts = [Draft("t", f"{number}") for number in range(150)]
        keyed = [Draft("u", "x", f"k{number}") for number in range(150)]
        ids = self.successResultOf(self.broker.publish_all([*drafts, *keyed]))
        expected = [*(f"e1:{n}" for n in range(1, 151)), *(f"e2:{n}" for n in range(1, 151))]
        self.assertEqual([str(id) for id in ids], expected)
        self.assertEqual(self.broker.published, 300)
        made = [one.data for one in self.delivered if one.topic == "t"]
        self.assertEqual(made, [f"{number}" for number in range(50, 150)])
        self.assertEqual(len(self.delivered), 250)
        self.broker.follow("t")
        self.successResultOf(self.broker.publish_all(drafts))
        self.assertEqual(len(self.delivered), 400)


class SingleNodeCluster:
    """A cluster of one node, with a fake clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.names = iter(range(1, 1000))

    async def start(self, retention: Retention, rules: Rules | None = None) -> tuple[Node, Node]:
        """Start the node, and return it twice."""
        history = History(self.clock, retention, lambda: f"e{next(self.names)}", rules=rules)
        node = Node(MemoryBroker(self.clock, history), self.clock, rules)
        return node, node

    async def until(self, condition: Callable[[], object]) -> None:
        """Check the condition: nothing takes time."""
        self.clock.advance(0)
        assert condition()

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)


class ContractTests(SynchronousTestCase):
    """The broker contract; ``tests/live/test_redis_broker.py`` checks it for Redis."""

    def test_rules(self) -> None:
        """The memory broker keeps every rule of the contract."""
        for rule in RULES:
            running: Deferred[Any] = Deferred.fromCoroutine(rule(SingleNodeCluster()))  # type: ignore[arg-type]
            self.assertIsNone(self.successResultOf(running), rule.__name__)
