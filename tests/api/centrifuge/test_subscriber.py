"""Subscriptions of Centrifuge clients that cannot go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail

from pushd.access.closing import NORMAL, TRY_AGAIN_LATER
from pushd.errors import Unavailable
from pushd.protocols.websocket.subscriptions import TopicSubscriber
from pushd.topics.broker import MemoryBroker
from pushd.topics.publication import Id, Replay
from tests.support.centrifuge_client import CentrifugeTestCase


class LossTests(CentrifugeTestCase):
    """Subscriptions that cannot go on."""

    def test_gap(self) -> None:
        """A client that lacks a publication is to subscribe again; the connection goes on."""
        gaps: list[Callable[[str, Id], None]] = []
        start = MemoryBroker.start

        def note(
            broker: MemoryBroker, deliver: Any, on_gap: Callable[[str, Id], None], room: Any
        ) -> None:
            gaps.append(on_gap)
            start(broker, deliver, on_gap, room)

        self.patch(MemoryBroker, "start", note)
        self.start()
        client = self.connect()
        client.ask("subscribe", channel="a")
        gaps[0]("a", Id("other", 9))
        self.daemon.advance(0)
        [push] = client.pushes
        self.assertEqual((push["channel"], push["unsubscribe"]["code"]), ("a", 2500))
        self.assertIn("epoch", client.ask("subscribe", channel="a"))

    def test_slow(self) -> None:
        """A client that takes nothing is closed, and may come back."""
        self.start(max_buffered=64 << 10)
        client = self.connect()
        client.ask("subscribe", channel="a")
        client.browser.stall()
        for _ in range(20):
            self.publish("a", "x" * 20_000)
        self.daemon.advance(5, 5, 1)
        client.browser.resume()
        self.daemon.advance(0)
        assert client.browser.closing is not None
        self.assertEqual(client.browser.closing.code, 3008)

    def test_unavailable(self) -> None:
        """A subscription that cannot begin is an error, and the client tries again."""
        replay = MemoryBroker.replay

        def refuse(broker: MemoryBroker, topic: str, after: Id | None, limit: int) -> Any:
            return replay(broker, topic, after, limit) if not limit else fail(Unavailable("gone"))

        self.patch(MemoryBroker, "replay", refuse)
        client = self.connect()
        reply = client.tell("subscribe", channel="a")
        self.assertEqual((reply["error"]["code"], reply["error"]["temporary"]), (100, True))
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_revoked(self) -> None:
        """A subscription that is revoked ends, and its client does not come back by itself."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        client.ask("subscribe", channel="b")
        answer = self.control("DELETE", "/subscriptions?topic=a")
        self.assertEqual(json.loads(answer.body), {"ended": 1})
        [push] = client.pushes
        self.assertEqual((push["channel"], push["unsubscribe"]["code"]), ("a", 2000))

    def test_ends_with_the_first(self) -> None:
        """A connection that ends with its first publications takes part in nothing."""
        self.publish("a", "x")
        deliver = TopicSubscriber.deliver

        def deliver_and_close(subscriber: TopicSubscriber, batch: Any) -> None:
            deliver(subscriber, batch)
            subscriber._socket.close_with(NORMAL)

        self.patch(TopicSubscriber, "deliver", deliver_and_close)
        client = self.connect()
        client.tell("subscribe", channel="a", recover=True)
        self.assertEqual(client.browser.closing, NORMAL)
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_too_slow_to_be_told(self) -> None:
        """A client that cannot even take that its subscriptions end is closed."""
        self.start(max_buffered=64 << 10)
        client = self.connect()
        for channel in ("a", "b"):
            client.ask("subscribe", channel=channel)
        client.browser.stall()
        for _ in range(20):
            self.publish("a", "x" * 20_000)
        answer = self.control("DELETE", "/subscriptions?topic=**")
        self.assertEqual(json.loads(answer.body), {"ended": 2})
        client.browser.resume()
        self.daemon.advance(0)
        self.assertEqual(client.browser.closing, TRY_AGAIN_LATER)

    def test_end_while_read(self) -> None:
        """A connection that ends while the position is looked up gets no subscription."""
        waiting: list[Deferred[Replay]] = []

        def replay(*args: Any) -> Deferred[Replay]:
            waiting.append(Deferred())
            return waiting[-1]

        self.patch(MemoryBroker, "replay", replay)
        client = self.connect()
        client.tell("subscribe", channel="a", recover=True)
        self.control("DELETE", "/subscriptions?topic=a")
        waiting[0].callback(Replay(Id("e", 0), False, (), Id("e", 0)))
        self.daemon.advance(0)
        self.assertEqual(client.heard()[0]["error"]["code"], 100)
