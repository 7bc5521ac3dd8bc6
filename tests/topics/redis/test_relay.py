"""Messages between nodes over a fake Redis: passed on, refused, and after a loss."""

from __future__ import annotations

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.topics.broker import NodeRelay
from tests.support.fake_redis import NAMES
from tests.support.redis_nodes import RedisNodesTestCase


class RelayTests(RedisNodesTestCase):
    """A fake Redis, and nodes that take down the messages that they get."""

    def start(self, name: str, *, listens: bool = True) -> tuple[NodeRelay, list[bytes]]:
        """Start a node; return its relay, and the messages for it."""
        broker = self.make(name)
        received: list[bytes] = []
        assert broker.relay is not None
        if listens:
            broker.relay.start(received.append)
        self.connect(broker)
        return broker.relay, received

    def fails(self, relay: NodeRelay, node: str) -> str:
        """Fail to send; return the reason."""
        return str(self.failureResultOf(relay.send(node, b"x"), Unavailable).value)

    def test_send(self) -> None:
        """A message reaches the node that it is for, and no other."""
        a, at_a = self.start("a")
        b, at_b = self.start("b")
        self.assertEqual((a.node, b.node), ("a", "b"))
        self.assertTrue(self.successResultOf(a.send("b", b"\xff one")))
        self.assertTrue(self.successResultOf(a.send("b", b"two")))
        self.assertEqual((at_a, at_b), ([], [b"\xff one", b"two"]))

    def test_unknown(self) -> None:
        """The sender learns that there is no such node; a name that none has is not looked for."""
        a, _ = self.start("a")
        self.start("deaf", listens=False)
        for node in ("c", "deaf", "", "x" * 65, "a:b", "ä"):
            self.assertFalse(self.successResultOf(a.send(node, b"x")), node)
        self.assertEqual(self.redis.asked.count("PUBLISH"), 2)

    def test_unexpected(self) -> None:
        """A node that expects no messages ignores them, and those of unknown channels."""
        _, received = self.start("a", listens=False)
        session = self.redis.sessions[0]
        session.on_message(NAMES.relay_channel("a"), b"x")
        session.on_message(b"elsewhere", b"x")
        self.assertEqual(received, [])

    def test_lost(self) -> None:
        """While Redis is away nothing can be sent; a new session gets messages again."""
        a, _ = self.start("a")
        _, at_b = self.start("b")
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose("it is gone")
        self.assertIn("it is gone", self.fails(a, "b"))
        self.redis.trouble = None
        self.clock.advance(10)
        self.assertTrue(self.successResultOf(a.send("b", b"back")))
        self.assertEqual(at_b, [b"back"])

    def test_lost_meanwhile(self) -> None:
        """What was being sent as the session was lost fails."""
        a, _ = self.start("a")
        self.redis.late = True
        sending = a.send("a", b"x")
        self.redis.lose("it is gone")
        self.failureResultOf(sending, Unavailable)

    def test_refused(self) -> None:
        """An error of Redis is passed on, with the name of the server."""
        a, _ = self.start("a")
        self.redis.refusal = "NOPERM no permissions"
        self.assertEqual(self.fails(a, "b"), "Redis at it: NOPERM no permissions")
        self.redis.refusal = None

    def test_not_subscribed(self) -> None:
        """An error of the subscription is logged, unless the session is lost."""
        broker = self.make("a")
        assert broker.relay is not None
        broker.relay.start(lambda message: None)
        self.redis.late = True
        self.connect(broker)
        # The session, and then the subscription.
        opening, session = self.redis.waiting.popleft()
        opening.callback(session)
        [(subscribing, _)] = self.redis.waiting
        subscribing.errback(RedisError("NOPERM"))
        self.assertEqual(len(self.flushLoggedErrors(RedisError)), 1)
        self.redis.lose()
