"""One node's broker: history, the hub, and keys that make publishing safe to repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics import broker as module
from pushd.topics.broker import KEY_TTL, Broker, Draft, MemoryBroker, ignore_gap
from pushd.topics.history import History, Retention
from pushd.topics.publication import Id, Publication
from tests.broker_contract import RULES, Node


class MemoryBrokerTests(SynchronousTestCase):
    """The broker of a node that is alone."""

    def setUp(self) -> None:
        """Note what is delivered."""
        self.clock = Clock()
        epochs = iter(range(1, 100))
        self.history = History(self.clock, Retention(ttl=1000), lambda: f"e{next(epochs)}")
        self.broker: Broker = MemoryBroker(self.clock, self.history)
        self.delivered: list[Publication] = []
        self.broker.start(self.delivered.append)

    def publish(self, topic: str, data: str, key: str | None = None) -> str:
        """Publish; gives the id."""
        return str(self.successResultOf(self.broker.publish(topic, data, key)))

    def test_publish(self) -> None:
        """A publication gets its id, is kept, and is delivered once."""
        self.assertEqual(self.publish("t", "a"), "e1:1")
        (publication,) = self.delivered
        self.assertEqual((publication.topic, publication.data), ("t", "a"))
        replay = self.successResultOf(self.broker.replay("t", Id("e1", 0), 1000))
        self.assertEqual(replay.publications, (publication,))

    def test_key(self) -> None:
        """A key that was seen gives the id of then, and nothing is published."""
        self.assertEqual(self.publish("t", "a", "k"), "e1:1")
        self.assertEqual(self.publish("t", "b", "k"), "e1:1")
        self.assertEqual([one.data for one in self.delivered], ["a"])

    def test_key_of_another_topic(self) -> None:
        """A key counts for its topic, and another key for another publication."""
        ids = [self.publish(*one) for one in [("t", "a", "k"), ("u", "a", "k"), ("t", "a", "l")]]
        self.assertEqual(ids, ["e1:1", "e2:1", "e1:2"])

    def test_key_expires(self) -> None:
        """After five minutes a key is forgotten, counted from when it was first seen."""
        self.publish("t", "a", "k")
        self.clock.advance(KEY_TTL - 1)
        self.assertEqual(self.publish("t", "a", "k"), "e1:1")
        self.clock.advance(1)
        self.assertEqual(self.publish("t", "a", "k"), "e1:2")

    def test_keys_are_bounded(self) -> None:
        """Where there are too many keys, the oldest is forgotten."""
        self.patch(module, "_MAX_KEYS", 2)
        for key in "abc":
            self.publish("t", key, key)
        self.assertEqual(self.publish("t", "again", "c"), "e1:3")
        self.assertEqual(self.publish("t", "again", "b"), "e1:2")
        self.assertEqual(self.publish("t", "again", "a"), "e1:4")
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_follow(self) -> None:
        """A topic that is followed is not forgotten; after that it is, in its time."""
        self.broker.follow("t")
        self.publish("t", "a")
        self.clock.advance(5000)
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (Id("e1", 1), 0))
        self.broker.unfollow("t")
        self.assertEqual(self.successResultOf(self.broker.names()), ["t"])
        self.clock.advance(1000)
        self.assertEqual(self.successResultOf(self.broker.names()), [])

    def test_stop(self) -> None:
        """At the end everything is forgotten, timers included."""
        self.publish("t", "a", "k")
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.successResultOf(self.broker.names()), [])
        self.assertEqual(self.publish("t", "a", "k"), "e2:1")
        self.broker.stop()

    def test_all_at_once(self) -> None:
        """Many are published as one is; there is never a fault."""
        ids = self.successResultOf(self.broker.publish_all([Draft("t", "a"), Draft("u", b"b")]))
        self.assertEqual([str(id) for id in ids], ["e1:1", "e2:1"])
        self.assertEqual([one.data for one in self.delivered], ["a", b"b"])
        self.assertIsNone(self.broker.fault())
        self.assertIsNone(ignore_gap("t", ids[0]))  # type: ignore[func-returns-value]  # is there


class Alone:
    """A cluster of one node, under a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.names = iter(range(1, 1000))

    async def start(self, retention: Retention) -> tuple[Node, Node]:
        """Start it: it is both."""
        history = History(self.clock, retention, lambda: f"e{next(self.names)}")
        node = Node(MemoryBroker(self.clock, history), self.clock)
        return node, node

    async def until(self, condition: Callable[[], object]) -> None:
        """See that it is so: nothing takes time."""
        self.clock.advance(0)
        assert condition()

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)


class ContractTests(SynchronousTestCase):
    """The rules that every broker keeps; ``tests/live/test_redis_broker.py`` has them as well."""

    def test_rules(self) -> None:
        """The broker of one node keeps them all."""
        for rule in RULES:
            running: Deferred[Any] = Deferred.fromCoroutine(rule(Alone()))  # type: ignore[arg-type]
            self.assertIsNone(self.successResultOf(running), rule.__name__)
