"""Pages of a channel's history."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from pushd.topics.broker import MemoryBroker
from tests.support.centrifuge_client import CentrifugeTestCase
from tests.support.keyring import secret_keys
from tests.support.topic_clients import split


class HistoryTests(CentrifugeTestCase):
    """The history of a channel."""

    def offsets(self, **request: Any) -> list[int]:
        """Return the offsets that a client gets."""
        result = self.client.ask("history", channel="a", **request)
        return [one["offset"] for one in result["publications"]]

    def fill(self, count: int = 5, data: str = "x") -> str:
        """Publish some; return the epoch."""
        ids = [self.publish("a", data) for _ in range(count)]
        self.client = self.connect()
        return split(ids[0])[0]

    def test_pages(self) -> None:
        """A page begins at either end, or beside a position."""
        epoch = self.fill()
        since = {"epoch": epoch, "offset": 3}
        self.assertEqual(self.offsets(), [])
        self.assertEqual(self.offsets(limit=-1), [1, 2, 3, 4, 5])
        self.assertEqual(self.offsets(limit=2), [1, 2])
        self.assertEqual(self.offsets(limit=2, since=since), [4, 5])
        self.assertEqual(self.offsets(limit=1, since={"offset": 1}), [2])
        self.assertEqual(self.offsets(limit=9, since={"offset": 9}), [])
        self.assertEqual(self.offsets(limit=-1, reverse=True), [5, 4, 3, 2, 1])
        self.assertEqual(self.offsets(limit=2, reverse=True), [5, 4])
        self.assertEqual(self.offsets(limit=1, since=since, reverse=True), [2])
        self.assertEqual(self.offsets(limit=1, since={"offset": 99}, reverse=True), [5])
        self.assertEqual(self.offsets(limit=1, since={}, reverse=True), [])

    def test_position(self) -> None:
        """The result has the last id of the topic, also of one that is new."""
        epoch = self.fill(2)
        result = self.client.ask("history", channel="a")
        self.assertEqual((result["epoch"], result["offset"]), (epoch, 2))
        self.assertEqual(self.client.ask("history", channel="b", limit=-1)["offset"], 0)

    def test_unknown_epoch(self) -> None:
        """A position of another epoch proves nothing."""
        self.fill()
        request = {"channel": "a", "limit": 1, "since": {"epoch": "other", "offset": 1}}
        self.assertEqual(self.client.error("history", **request), 112)

    def test_large(self) -> None:
        """A page ends after about a megabyte, in both directions."""
        self.fill(20, "x" * 300_000)
        self.assertEqual(self.offsets(limit=-1), [1, 2, 3])
        self.assertEqual(self.offsets(limit=-1, reverse=True), [20, 19, 18])

    def test_dropped(self) -> None:
        """What is dropped while it is read is left out."""
        self.fill()
        describe = MemoryBroker.describe

        def describe_more(broker: MemoryBroker, topic: str) -> Deferred[Any]:
            return describe(broker, topic).addCallback(lambda found: (found[0], found[1] + 2))

        self.patch(MemoryBroker, "describe", describe_more)
        self.assertEqual(self.offsets(limit=-1), [])
        self.assertEqual(self.offsets(limit=-1, reverse=True), [5, 4, 3, 2, 1])

    def test_denied(self) -> None:
        """Who may not subscribe may not read."""
        self.start(token_keys=secret_keys())
        self.assertEqual(self.connect().error("history", channel="a"), 103)
