"""What a node asks of the topics in Redis, and how much of it at a time."""

from __future__ import annotations

from pushd.topics.redis import commands as module
from tests.topics.redis.test_broker import BrokerTestCase


class StoreTests(BrokerTestCase):
    """A node that asks for more than is good."""

    def test_bounds(self) -> None:
        """Only so much waits for an answer, in number and in bytes; when it comes, more may."""
        self.start()
        for name, most in [("_MAX_UNANSWERED", 2), ("_MAX_UNANSWERED_BYTES", 2)]:
            with self.subTest(name):
                patched = self.patch(module, name, most)
                self.redis.late = True
                waiting = [self.broker.publish("t", "x") for _ in range(2)]
                self.assertIn("too much", self.why(self.broker.publish("t", "x")))
                self.redis.answer()
                for one in waiting:
                    self.successResultOf(one)
                self.publish("t")
                patched.restore()

    def test_given_up(self) -> None:
        """A publisher that does not wait for the answer takes nothing with it."""
        self.start()
        self.redis.late = True
        publishing = self.broker.publish("t", "x")
        publishing.addErrback(lambda _: None)
        publishing.cancel()
        self.redis.answer()
        self.assertEqual(
            (self.broker._commands._unanswered, self.broker._commands._unanswered_bytes), (0, 0)
        )

    def test_very_many(self) -> None:
        """Not all of very many are listed."""
        self.start()
        for topic in "abcd":
            self.publish(topic)
        self.patch(module, "_SCANS", 1)
        names: list[str] = self.successResultOf(self.broker.names())
        self.assertEqual(sorted(names), ["a", "b"])
