"""Connections to Redis: how a server is found and checked, and what its answers become."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisMisconfigured, RedisUnavailable
from pushd.topics.redis import connection
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.scripts import PUBLISH
from pushd.topics.redis.session import open_session
from tests.topics.redis.test_session import INFO, FakeServerConnection, SessionTestCase


class ConnectionTests(SessionTestCase):
    """Answers and errors on the connections of a session."""

    def test_closed_by_the_server(self) -> None:
        """If the server closes the connection, Redis counts as unavailable."""
        opening = open_session(
            self.clock, RedisAddress(path="/r"), lambda *_: None, self.lost.append
        )
        server = FakeServerConnection(self.clock.unixClients.pop())
        server.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertIn(
            "the connection was lost", str(self.failureResultOf(opening, RedisUnavailable).value)
        )

    def test_error(self) -> None:
        """An error as the answer to a command or a script raises RedisError with its text."""
        session = self.opened()
        self.answers[b"EVALSHA"] = self.answers[b"SCAN"] = lambda _: b"-OOM no\tmore\r\n"
        for running in (session.run_script(PUBLISH, ["a"], []), session.run("SCAN", 0)):
            self.serve()
            self.assertEqual(str(self.failureResultOf(running, RedisError).value), "OOM no more")

    def test_cancelled(self) -> None:
        """The answer to a cancelled command is not taken for that to the next one."""
        session = self.opened()
        first, second = session.run("PING"), session.run("GET", "x")
        first.cancel()
        self.serve()
        self.assertEqual(self.successResultOf(second), b"OK")
        first.addErrback(lambda _: None)

    def test_unencodable(self) -> None:
        """A command that cannot be encoded fails like one that Redis refuses; the next one runs."""
        session = self.opened()
        failed, running = session.run("GET", "\udc00"), session.run("GET", "x")
        self.failureResultOf(failed, RedisError)
        self.serve()
        self.assertEqual(self.successResultOf(running), b"OK")

    def test_garbage(self) -> None:
        """Data that is not the protocol of Redis ends the session."""
        self.opened()
        self.peers[0].send(b"hello\r\n")
        self.assertEqual(len(self.lost), 1)

    def test_spontaneous(self) -> None:
        """An answer to no command ends the session: the next command must not take it for its."""
        for peer in (0, 1):
            self.opened()
            self.peers[peer - 2].send(b"+OK\r\n")
            self.assertEqual(len(self.lost), 1)
            self.lost.clear()


class FindTests(SessionTestCase):
    """A server is found and connected to."""

    def test_password(self) -> None:
        """User and password are sent first, on both connections."""
        self.opened("unix://me:pw@/r")
        self.setUp()
        self.successResultOf(self.open("unix://me:pw@/r")).close()
        sent = [command for command in self.asked if command[0] == b"AUTH"]
        self.assertEqual(sent, [[b"AUTH", b"me", b"pw"]] * 2)
        self.asked.clear()
        self.successResultOf(self.open("unix://:pw@/r")).close()
        self.assertEqual(self.asked[0], [b"AUTH", b"pw"])

    def test_host(self) -> None:
        """A host is connected to, with TLS for rediss."""
        self.opened("redis://h:1/0")
        wrapped: list[Any] = []

        def wrap(options: Any, endpoint: Any, clock: Any) -> Any:
            self.assertIs(clock, self.clock)
            wrapped.append(options._hostname)
            return endpoint

        self.patch(connection, "wrapClientTLS", wrap)
        self.opened("rediss://example.com:1/0")
        self.assertEqual(self.addresses, [(b"h", 1), (b"example.com", 1)])
        self.assertEqual(wrapped, ["example.com"])

    def test_sentinels(self) -> None:
        """The first Sentinel that knows the master gives its address."""
        answers = [b"*-1\r\n", b"-ERR oh\r\n", b"*2\r\n$1\r\nh\r\n$1\r\n7\r\n"]
        self.answers[b"SENTINEL"] = lambda _: answers.pop(0)
        self.opened("redis+sentinel://a,b:1,c,d/main")
        expected = [(b"a", 26379), (b"b", 1), (b"c", 26379), (b"h", 7)]
        self.assertEqual(self.addresses, expected)

    def test_unknown_master(self) -> None:
        """If no Sentinel knows the master, the error says so, with the last Sentinel's answer."""
        self.answers[b"SENTINEL"] = lambda _: b"*-1\r\n"
        opening = self.open("redis+sentinel://a/main")
        self.assertEqual(self.why(opening, RedisUnavailable), "no Sentinel knows the master main")
        self.answers[b"SENTINEL"] = lambda _: b"-ERR oh\r\n"
        opening = self.open("redis+sentinel://a/main")
        self.assertEqual(
            self.why(opening, RedisUnavailable), "no Sentinel knows the master main: ERR oh"
        )

    def test_strange_sentinel(self) -> None:
        """An answer that no Sentinel gives is as none, and the error says whose it was."""
        for answer in (b":7\r\n", b"*1\r\n$1\r\nh\r\n", b"*2\r\n:1\r\n$1\r\n7\r\n"):
            self.answers[b"SENTINEL"] = lambda _, answer=answer: answer  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            self.assertEqual(
                self.why(self.open("redis+sentinel://a:1/main"), RedisUnavailable),
                "no Sentinel knows the master main: unexpected answer of the Sentinel at a:1",
            )

    def test_strange_server(self) -> None:
        """A server that answers INFO with something else is not a Redis server."""
        for answer in (b"$-1\r\n", b":1\r\n", b"*0\r\n"):
            self.answers[b"INFO"] = lambda _, answer=answer: answer  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            self.assertIn(
                "unexpected answer to INFO", self.why(self.open(), RedisMisconfigured), answer
            )

    def test_strange_messages(self) -> None:
        """Something that is neither a message nor an answer ends the session."""
        for sent in (
            b"*3\r\n*0\r\n$1\r\nc\r\n$1\r\nx\r\n",
            b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:1\r\n",
            b"*3\r\n$7\r\nmessage\r\n$-1\r\n$1\r\nx\r\n",
        ):
            self.opened()
            self.peers[-1].send(sent)
            self.assertEqual(len(self.lost), 1, sent)
            self.lost.clear()
        self.assertEqual(self.messages, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_unreachable_sentinel(self) -> None:
        """The error names the reason why the last Sentinel cannot be reached."""
        address = RedisAddress(hosts=(("a", 1),), service="main")
        opening = open_session(self.clock, address, lambda *_: None, self.lost.append)
        self.clock.unixClients.pop()[1].clientConnectionFailed(
            None, Failure(ConnectionRefusedError())
        )
        self.assertIn("main: Connection was refused", self.why(opening, RedisUnavailable))


class CheckTests(SessionTestCase):
    """Servers that cannot be used."""

    def test_info(self) -> None:
        """A server that must be changed is told from one that may be usable later."""
        for changes, kind, reason in [
            ({"redis_version": "6.0.20"}, RedisMisconfigured, "6.2 or newer is required"),
            ({"redis_version": "6.0.20"}, RedisMisconfigured, "this is 6.0.20"),
            ({"redis_version": "x"}, RedisMisconfigured, "this is x"),
            ({"redis_mode": "cluster"}, RedisMisconfigured, "Redis Cluster is not supported"),
            ({"loading": "1"}, RedisUnavailable, "still loading"),
            ({"role": "slave"}, RedisUnavailable, "a read-only replica"),
        ]:
            self.info = {**INFO, **changes}
            self.assertIn(reason, self.why(self.open(), kind))
        self.info = {}
        self.assertIn("this is ?", self.why(self.open(), RedisMisconfigured))

    def test_errors(self) -> None:
        """Errors during the login are explained, and told apart in the same way."""
        for error, kind, reason in [
            ("NOAUTH Authentication required.", RedisMisconfigured, "a password is required"),
            ("NOPERM this user has no permissions", RedisMisconfigured, "NOPERM this user"),
            ("LOADING Redis is loading", RedisUnavailable, "LOADING Redis"),
        ]:
            self.refuse(b"INFO", error)
            self.assertIn(reason, self.why(self.open(), kind))
        for error in ("WRONGPASS invalid username-password pair", "ERR invalid password"):
            self.refuse(b"AUTH", error)
            opening = self.open("unix://:secret@/r")
            self.assertEqual(self.why(opening, RedisMisconfigured), "wrong user or password")
        self.answers[b"AUTH"] = lambda _: b"-ERR AUTH called without any password configured\r\n"
        opening = self.open("unix://:secret@/r")
        self.assertIn("without any password configured", self.why(opening, RedisMisconfigured))

    def test_database(self) -> None:
        """A database that does not exist is a misconfiguration."""
        self.answers[b"SELECT"] = lambda _: b"-ERR DB index is out of range\r\n"
        self.assertIn("out of range", self.why(self.open("unix:///r?db=99"), RedisMisconfigured))

    def test_not_redis(self) -> None:
        """A server of another protocol is a misconfiguration."""
        self.answers[b"INFO"] = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
        self.assertIn("not a Redis server", self.why(self.open(), RedisMisconfigured))
