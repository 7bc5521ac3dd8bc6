"""One connection to Redis: its answers and errors, and what is no answer of Redis'."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisUnavailable
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.scripts import PUBLISH
from pushd.topics.redis.session import open_session
from tests.topics.redis.test_session import Peer, SessionTestCase


class ConnectionTests(SessionTestCase):
    """The connections of a session."""

    def test_hangs_up(self) -> None:
        """One that hangs up may be there later."""
        opening = open_session(
            self.clock, RedisAddress(path="/r"), lambda *_: None, self.lost.append
        )
        peer = Peer(self.clock.unixClients.pop())
        peer.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertIn(
            "the connection was lost", str(self.failureResultOf(opening, RedisUnavailable).value)
        )

    def test_refused(self) -> None:
        """An error is an answer."""
        session = self.opened()
        self.answers[b"EVALSHA"] = self.answers[b"SCAN"] = lambda _: b"-OOM no\tmore\r\n"
        for calling in (session.call(PUBLISH, ["a"], []), session.command("SCAN", 0)):
            self.serve()
            self.assertEqual(str(self.failureResultOf(calling, RedisError).value), "OOM no more")

    def test_cancelled(self) -> None:
        """Who does not wait for an answer does not take that of another."""
        session = self.opened()
        first, second = session.command("PING"), session.command("GET", "x")
        first.cancel()
        self.serve()
        self.assertEqual(self.successResultOf(second), b"OK")
        first.addErrback(lambda _: None)

    def test_garbage(self) -> None:
        """One that begins to speak another language is lost."""
        self.opened()
        self.peers[0].say(b"hello\r\n")
        self.assertEqual(len(self.lost), 1)
