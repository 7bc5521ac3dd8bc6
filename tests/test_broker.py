"""One node's broker: history, the hub, and keys that make publishing safe to repeat."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd import broker as module
from pushd.broker import KEY_TTL, Broker, MemoryBroker
from pushd.history import History, Retention
from pushd.messages import Id, Publication


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
