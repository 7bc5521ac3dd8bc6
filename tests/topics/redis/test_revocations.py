"""Revocations over a fake Redis: told at once, late, again after a loss, and never twice."""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs

from pushd.errors import Unavailable
from pushd.topics.redis.broker import RedisBroker
from tests.support.fake_redis import NAMES
from tests.support.redis_nodes import RedisNodesTestCase

Revoked = tuple[str | None, str | None]


class RevocationTestCase(RedisNodesTestCase):
    """A fake Redis, and nodes that take down what is revoked at others."""

    def start(self, name: str) -> tuple[RedisBroker, list[Revoked]]:
        """Start a node; return it, and what it is told to revoke."""
        broker = self.make(name)
        revoked: list[Revoked] = []
        assert broker.revocations is not None
        broker.revocations.start(lambda topic, subject: revoked.append((topic, subject)))
        self.connect(broker)
        return broker, revoked

    def tell(self, broker: RedisBroker, topic: str | None, subject: str | None = None) -> None:
        """Revoke at a node, which can tell the others at once."""
        assert broker.revocations is not None
        self.assertIsNone(self.successResultOf(broker.revocations.tell(topic, subject)))

    def cannot_tell(self, broker: RedisBroker, topic: str) -> str:
        """Revoke at a node, which can't tell the others; return the reason."""
        assert broker.revocations is not None
        failure = self.failureResultOf(broker.revocations.tell(topic, None), Unavailable)
        return str(failure.value)


class TellingTests(RevocationTestCase):
    def test_told(self) -> None:
        """The other nodes are told, each once, and the node itself is not."""
        a, at_a = self.start("a")
        _, at_b = self.start("b")
        _, at_c = self.start("c")
        self.tell(a, "chat/**", "ann")
        self.tell(a, None, "bob")
        self.assertEqual((at_a, at_b), ([], [("chat/**", "ann"), (None, "bob")]))
        self.assertEqual(at_c, at_b)

    def test_before(self) -> None:
        """A node that begins is not told what was revoked before."""
        a, _ = self.start("a")
        self.tell(a, "x")
        _, at_b = self.start("b")
        self.assertEqual(at_b, [])
        self.tell(a, "y")
        self.assertEqual(at_b, [("y", None)])

    def test_missed(self) -> None:
        """A node that was without Redis learns what it missed, and nothing again."""
        a, at_a = self.start("a")
        b, at_b = self.start("b")
        self.tell(a, "x")
        # Only b loses its session.
        self.redis.sessions[1].open = False
        self.redis.sessions[1].on_lost("gone")
        self.tell(a, "y")
        self.assertEqual(at_b, [("x", None)])
        self.clock.advance(10)
        self.assertEqual(at_b, [("x", None), ("y", None)])
        self.tell(b, "z")
        self.assertEqual(at_a, [("z", None)])

    def test_while_reading(self) -> None:
        """What is revoked while the stream is read is neither missed nor taken twice."""
        a, _ = self.start("a")
        self.redis.revocations.late = []
        _, at_b = self.start("b")
        self.tell(a, "x")
        self.assertEqual(at_b, [])
        self.redis.revocations.late[0]()
        self.assertEqual(at_b, [("x", None)])
        self.redis.sessions[1].open = False
        self.redis.sessions[1].on_lost("gone")
        self.tell(a, "y")
        self.clock.advance(10)
        self.tell(a, "z")
        self.redis.revocations.late[1]()
        self.assertEqual(at_b, [("x", None), ("y", None), ("z", None)])

    def test_twice(self) -> None:
        """A revocation that comes again, with an id that is not new, is not taken again."""
        a, _ = self.start("a")
        b, at_b = self.start("b")
        self.tell(a, "x")
        revocations: Any = b.revocations
        revocations._take(b"0-1", b'{"node": "a", "topic": "x", "subject": null}')
        self.assertEqual(at_b, [("x", None)])

    def test_unreachable(self) -> None:
        """What is revoked without Redis is told once it is back."""
        a, _ = self.start("a")
        _, at_b = self.start("b")
        self.redis.lose()
        self.assertIn("the connection was lost", self.cannot_tell(a, "x"))
        self.clock.advance(10)
        self.assertEqual(at_b, [("x", None)])


class FaultTests(RevocationTestCase):
    def test_refused(self) -> None:
        """If Redis refuses to take a revocation, it is told in the next session."""
        a, _ = self.start("a")
        _, at_b = self.start("b")
        self.redis.revocations.refusal = "OOM"
        self.assertEqual(self.cannot_tell(a, "x"), "Redis at it: OOM")
        self.redis.lose()
        self.redis.revocations.refusal = None
        self.clock.advance(10)
        self.assertEqual(at_b, [("x", None)])

    def test_refused_again(self) -> None:
        """What Redis refuses in the next session, too, waits for the one after it."""
        a, _ = self.start("a")
        _, at_b = self.start("b")
        self.redis.lose()
        self.cannot_tell(a, "x")
        self.redis.revocations.late = []
        self.clock.advance(10)
        self.redis.revocations.refusal = "OOM"
        for answer in self.redis.revocations.late:
            answer()
        self.assertEqual(at_b, [])
        self.redis.revocations.refusal = self.redis.revocations.late = None
        self.redis.lose()
        self.clock.advance(10)
        self.assertEqual(at_b, [("x", None)])

    def test_not_read(self) -> None:
        """If the stream cannot be read, that is logged, and tried again."""
        a, _ = self.start("a")
        self.tell(a, "before")
        self.redis.revocations.refusal = "NOPERM"
        with capturedLogs() as events:
            _, at_b = self.start("b")
        self.assertEqual(
            [event["event"] for event in events], ["broker_back", "revocations_unread"]
        )
        self.redis.revocations.refusal = None
        self.tell(a, "x")
        self.assertEqual(at_b, [])
        self.clock.advance(5)
        self.assertEqual(at_b, [("x", None)])

    def test_stopped_meanwhile(self) -> None:
        """A session that ends before the next try takes that with it."""
        self.redis.revocations.refusal = "NOPERM"
        with capturedLogs():
            self.start("a")
        self.redis.lose()
        self.redis.revocations.refusal = None
        self.clock.advance(10)

    def test_read_only(self) -> None:
        """A server that has become a replica is left."""
        a, _ = self.start("a")
        self.redis.revocations.refusal = "READONLY"
        with capturedLogs() as events:
            self.cannot_tell(a, "x")
            self.redis.revocations.refusal = "READONLY"
            self.clock.advance(10)
        self.assertIn("it has become a read-only replica", str(a.fault()))
        self.assertNotIn("broker_failed", [event["event"] for event in events])
        self.redis.revocations.refusal = None
        self.clock.advance(30)

    def test_foreign(self) -> None:
        """What other programs write is logged, and ignored."""
        a, _ = self.start("a")
        _, at_b = self.start("b")
        channel = NAMES.revocation_channel
        messages = (b"", b"x", b"8-1", b"8-1 {}", b"8 {}", b'8-1 {"node": 1}', b"8-1 []")
        with capturedLogs() as events:
            for message in messages:
                self.redis.send_message(channel, message)
        misuses = [event for event in events if event["event"] == "broker_misused"]
        self.assertEqual(len(misuses), 2 * len(messages))
        self.assertIn("!revocations", misuses[0]["channel"])
        self.tell(a, "x")
        self.assertEqual(at_b, [("x", None)])

    def test_foreign_entries(self) -> None:
        """A stream of another form is reported like an error."""
        for entries in ([(b"x", [b"m", b"{}"])], [(b"7-1", [b"m"])]):
            self.redis.revocations.entries = entries
            with capturedLogs() as events:
                self.start("a")
            self.assertIn("revocations_unread", [event["event"] for event in events])
