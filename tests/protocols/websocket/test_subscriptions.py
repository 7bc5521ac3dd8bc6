"""The subscriptions of a WebSocket that chooses its topics."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.subscriptions import TopicSubscriber, WebSocketSubscriptions
from pushd.topics import fanout
from pushd.topics.broker import MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id
from tests.protocols.websocket.test_subscriber import FakeWebSocket


class SubscriptionsTests(SynchronousTestCase):
    """Many topics on one connection that has room for some messages."""

    def setUp(self) -> None:
        """Make the connection, a broker, and a hub that passes on publications one by one."""
        self.patch(fanout, "_PIECE_SIZE", 0)
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock, History(self.clock, Retention(), lambda: "e"))
        self.addCleanup(self.broker.stop)
        self.hub = Hub(self.broker, self.clock)
        self.broker.start(self.hub.deliver)
        self.socket = FakeWebSocket()
        self.subscriptions = WebSocketSubscriptions(self.socket, self.hub)
        self.addCleanup(self.subscriptions.stop)

    def subscribe(self, *topics: str, after: int | None = None) -> None:
        """Subscribe to some topics, and forget what says so."""
        for topic in topics:
            self.subscriptions.subscribe(topic, None if after is None else Id("e", after))
        self.socket.sent.clear()

    def publish(self, topic: str, data: str) -> None:
        """Publish, and deliver what is pending."""
        self.broker.publish(topic, data)
        self.clock.advance(0)

    def sent(self) -> list[Any]:
        """Return what was sent since the last call."""
        sent = [json.loads(payload) for payload, _ in self.socket.sent]
        self.socket.sent.clear()
        return sent

    def test_names_topics(self) -> None:
        """Each start, and each publication, names its topic."""
        self.subscriptions.subscribe("a", None)
        self.subscriptions.subscribe("b", Id("e", 0))
        self.publish("b", "x")
        self.publish("a", "y")
        self.assertEqual(
            self.sent(),
            [
                {"subscribed": "a", "id": "e:0", "recovered": False},
                {"subscribed": "b", "id": "e:0", "recovered": True},
                {"topic": "b", "id": "e:1", "data": "x"},
                {"topic": "a", "id": "e:1", "data": "y"},
            ],
        )

    def test_topics(self) -> None:
        """Topics come and go."""
        self.subscribe("a", "b")
        self.assertEqual((len(self.subscriptions), list(self.subscriptions)), (2, ["a", "b"]))
        self.subscriptions.unsubscribe("a")
        self.subscriptions.unsubscribe("never")
        self.assertNotIn("a", self.subscriptions)
        self.assertIn("b", self.subscriptions)
        self.publish("a", "x")
        self.publish("b", "y")
        self.assertEqual([one["data"] for one in self.sent()], ["y"])
        self.assertEqual((self.hub.count("a"), self.hub.count("b")), (0, 1))

    def test_json(self) -> None:
        """Publications in JSON are values for a topic that asked for that, and text for others."""
        self.subscriptions.subscribe("a", None, format_json=True)
        self.subscriptions.subscribe("b", None)
        self.sent()
        for topic in ("a", "b"):
            publication = self.broker._history.add(topic, "[1]")
            object.__setattr__(publication, "is_json", True)
            self.hub.deliver(publication)
        self.clock.advance(0)
        self.assertEqual([one["data"] for one in self.sent()], [[1], "[1]"])

    def test_fair(self) -> None:
        """Topics that wait for room get it in turn."""
        for topic in ("a", "b", "c"):
            for number in range(4):
                self.publish(topic, f"{topic}{number}")
        self.socket.make_room(0)
        for topic in ("a", "b", "c"):
            self.subscriptions.subscribe(topic, Id("e", 0))
        for _ in range(30):
            self.socket.make_room(1)
        data = [one["data"] for one in self.sent() if "data" in one]
        self.assertEqual(sorted(data), sorted(f"{a}{n}" for a in "abc" for n in range(4)))
        # The first round is for what a start says.
        self.assertEqual([one[0] for one in data], ["a", "b", "c"] * 4)

    def test_unsubscribed_while_waiting(self) -> None:
        """A topic that waits for room is not resumed once it has gone."""
        self.publish("a", "x")
        self.socket.make_room(0)
        self.subscriptions.subscribe("a", Id("e", 0))
        self.assertEqual(len(self.socket.send_queue), 1)
        self.subscriptions.unsubscribe("a")
        self.assertEqual(len(self.socket.send_queue), 0)
        self.socket.make_room(10)
        self.assertEqual(self.sent(), [])

    def test_groups(self) -> None:
        """Before data is buffered, topics in a fan-out group leave it; others are not asked."""
        self.subscribe("a", "b", "c")
        direct: list[bytes] = []

        def send(data: bytes) -> int:
            direct.append(data)
            return len(data)

        self.socket.sender = send
        for topic in ("a", "b"):
            self.publish(topic, "grouped")
            self.publish(topic, "direct")
        self.assertEqual(len(direct), 2)
        asked: list[TopicSubscriber] = []
        leave = TopicSubscriber.leave_group

        def record(subscriber: TopicSubscriber) -> None:
            asked.append(subscriber)
            leave(subscriber)

        self.patch(TopicSubscriber, "leave_group", record)
        self.subscriptions.leave_group()
        self.assertEqual(len(asked), 2)
        self.subscriptions.leave_group()
        self.assertEqual(len(asked), 2)
        self.sent()
        self.publish("a", "asked")
        self.assertEqual(len(direct), 2)
        self.assertEqual([one["data"] for one in self.sent()], ["asked"])

    def test_catch_up(self) -> None:
        """What is pending is sent before the call returns."""
        self.subscribe("a", "b")
        self.broker.publish("b", "x")
        self.broker.publish("gone", "y")
        self.subscriptions.catch_up()
        self.assertEqual([one["data"] for one in self.sent()], ["x"])

    def test_end(self) -> None:
        """At the end of the connection nothing is sent, and nothing is kept."""
        self.subscribe("a", "b")
        self.subscriptions.cancel()
        self.subscriptions.resume()
        self.publish("a", "x")
        self.assertEqual(self.sent(), [])
        self.subscriptions.stop()
        self.assertEqual((len(self.subscriptions), self.hub.topics()), (0, []))

    def test_catch_up_during_a_long_delivery(self) -> None:
        """Only what is pending of its own topics is sent, ahead of what follows."""
        self.subscribe("a", "b")
        self.socket.send_queue.paused = False
        late = [False, True]
        hub = Hub(self.broker, self.clock)
        self.broker.start(hub.deliver)
        subscriptions = WebSocketSubscriptions(self.socket, hub)
        self.addCleanup(subscriptions.stop)
        others = [WebSocketSubscriptions(FakeWebSocket(), hub) for _ in range(3)]
        for one in (*others, subscriptions):
            one.subscribe("a", None)
            one.subscribe("c", None)
            self.addCleanup(one.stop)
        subscriptions.unsubscribe("c")
        self.sent()
        self.patch(hub, "_is_late", lambda: late.pop() if late else True)
        self.broker.publish("c", "z")
        self.broker.publish("a", "x")
        self.assertEqual(self.sent(), [])
        subscriptions.catch_up()
        self.assertEqual([one["data"] for one in self.sent()], ["x"])
        for _ in range(20):
            self.clock.advance(0)
        self.assertEqual(self.sent(), [])
