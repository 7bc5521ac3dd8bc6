"""From an address to a Redis that will do, and to what is said of one that will not."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure

from pushd.errors import RedisMisconfigured, RedisUnavailable
from pushd.topics.redis import connection as redis_greeting
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.session import open_session
from tests.topics.redis.test_session import INFO, SessionTestCase


class FindingTests(SessionTestCase):
    """Where it is, and with which words one comes in."""

    def test_password(self) -> None:
        """User and password are said first, on both."""
        self.opened("unix://me:pw@/r")
        self.setUp()
        self.successResultOf(self.open("unix://me:pw@/r")).end()
        said = [command for command in self.asked if command[0] == b"AUTH"]
        self.assertEqual(said, [[b"AUTH", b"me", b"pw"]] * 2)
        self.asked.clear()
        self.successResultOf(self.open("unix://:pw@/r")).end()
        self.assertEqual(self.asked[0], [b"AUTH", b"pw"])

    def test_host(self) -> None:
        """A host is connected to, by TLS where that is asked for."""
        self.opened("redis://h:1/0")
        wrapped: list[Any] = []

        def wrap(options: Any, endpoint: Any, clock: Any) -> Any:
            self.assertIs(clock, self.clock)
            wrapped.append(options._hostname)
            return endpoint

        self.patch(redis_greeting, "wrapClientTLS", wrap)
        self.opened("rediss://example.com:1/0")
        self.assertEqual(self.places, [(b"h", 1), (b"example.com", 1)])
        self.assertEqual(wrapped, ["example.com"])

    def test_sentinels(self) -> None:
        """The first Sentinel that knows the master tells where it is."""
        answers = [b"*-1\r\n", b"-ERR oh\r\n", b"*2\r\n$1\r\nh\r\n$1\r\n7\r\n"]
        self.answers[b"SENTINEL"] = lambda _: answers.pop(0)
        self.opened("redis+sentinel://a,b:1,c,d/main")
        expected = [(b"a", 26379), (b"b", 1), (b"c", 26379), (b"h", 7)]
        self.assertEqual(self.places, expected)

    def test_no_sentinel(self) -> None:
        """When none of them knows, that is said, with what the last one said."""
        self.answers[b"SENTINEL"] = lambda _: b"*-1\r\n"
        opening = self.open("redis+sentinel://a/main")
        self.assertEqual(self.why(opening, RedisUnavailable), "no Sentinel knows the master main")
        self.answers[b"SENTINEL"] = lambda _: b"-ERR oh\r\n"
        opening = self.open("redis+sentinel://a/main")
        self.assertEqual(
            self.why(opening, RedisUnavailable), "no Sentinel knows the master main: ERR oh"
        )

    def test_sentinel_away(self) -> None:
        """A Sentinel that can't be reached is passed over."""
        address = RedisAddress(hosts=(("a", 1),), service="main")
        opening = open_session(self.clock, address, lambda *_: None, self.lost.append)
        self.clock.unixClients.pop()[1].clientConnectionFailed(
            None, Failure(ConnectionRefusedError())
        )
        self.assertIn("main: Connection was refused", self.why(opening, RedisUnavailable))


class RefusingTests(SessionTestCase):
    """What will not do."""

    def test_unsuitable(self) -> None:
        """What is of no use until somebody changes it is told from what may come back."""
        for changes, kind, reason in [
            ({"redis_version": "6.0.20"}, RedisMisconfigured, "this is Redis 6.0.20: 6.2 or newer"),
            ({"redis_version": "x"}, RedisMisconfigured, "this is Redis x: 6.2"),
            ({"redis_mode": "cluster"}, RedisMisconfigured, "a Redis Cluster"),
            ({"loading": "1"}, RedisUnavailable, "still loading"),
            ({"role": "slave"}, RedisUnavailable, "a read-only replica"),
        ]:
            self.info = {**INFO, **changes}
            self.assertIn(reason, self.why(self.open(), kind))
        self.info = {}
        self.assertIn("this is Redis ?", self.why(self.open(), RedisMisconfigured))

    def test_errors(self) -> None:
        """The errors of a server that does not want us."""
        for error, kind, reason in [
            ("NOAUTH Authentication required.", RedisMisconfigured, "it wants a password"),
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
        """A database that is not there."""
        self.answers[b"SELECT"] = lambda _: b"-ERR DB index is out of range\r\n"
        self.assertIn("out of range", self.why(self.open("unix:///r?db=99"), RedisMisconfigured))

    def test_no_redis(self) -> None:
        """What speaks another language is no Redis."""
        self.answers[b"INFO"] = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
        self.assertIn("no Redis", self.why(self.open(), RedisMisconfigured))
