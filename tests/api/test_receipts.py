"""The answers that publishers get again."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.api import receipts as module
from pushd.api.receipts import Receipts
from pushd.topics.broker import KEY_TTL


class ReceiptsTests(SynchronousTestCase):
    """What is kept, and for how long."""

    def setUp(self) -> None:
        """Keep nothing yet."""
        self.clock = Clock()
        self.receipts = Receipts(self.clock)

    def test_first(self) -> None:
        """The first answer stays, whatever is said later; another topic's key is another."""
        first = {"id": "e:1", "subscribers": 1}
        self.assertIsNone(self.receipts.find("t", "k"))
        self.assertIs(self.receipts.keep("t", "k", first), first)
        self.assertIs(self.receipts.keep("t", "k", {"id": "e:1", "subscribers": 2}), first)
        self.assertIs(self.receipts.find("t", "k"), first)
        self.assertIsNone(self.receipts.find("u", "k"))

    def test_time(self) -> None:
        """It is kept for five minutes from the first time on."""
        self.receipts.keep("t", "k", {})
        self.clock.advance(KEY_TTL - 1)
        self.receipts.keep("t", "k", {})
        self.assertEqual(len(self.receipts), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.receipts), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bound(self) -> None:
        """Where there are too many, the oldest goes."""
        self.patch(module, "_MAX_RECEIPTS", 2)
        for key in "abc":
            self.receipts.keep("t", key, {})
        kept = [key for key in "abc" if self.receipts.find("t", key) is not None]
        self.assertEqual(kept, ["b", "c"])

    def test_stop(self) -> None:
        """At the end nothing is left."""
        self.receipts.keep("t", "a", {})
        self.receipts.keep("t", "b", {})
        self.receipts.stop()
        self.assertEqual(len(self.receipts), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
