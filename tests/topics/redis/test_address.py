"""The address of Redis: every form of ``--broker``, and no password in any text."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.topics.redis.address import RedisAddress, parse_broker


class ParseTests(SynchronousTestCase):
    """Valid addresses, their parts and texts, and invalid ones."""

    def test_memory(self) -> None:
        """``memory`` means that there is no Redis."""
        self.assertIsNone(parse_broker("memory"))

    def test_forms(self) -> None:
        """Each form is parsed, with defaults, and its text does not show the password."""
        local = (("localhost", 6379),)
        for given, address, text in [
            ("redis://localhost", RedisAddress(hosts=local), "redis://localhost:6379/0"),
            (
                "redis://me:p%40ss%2F@h.example:1/15",
                RedisAddress(hosts=(("h.example", 1),), db=15, user="me", password="p@ss/"),
                "redis://me:***@h.example:1/15",
            ),
            (
                "rediss://:pw@[::1]:7/",
                RedisAddress(hosts=(("::1", 7),), tls=True, password="pw"),
                "rediss://:***@[::1]:7/0",
            ),
            ("unix:///run/r.sock", RedisAddress(path="/run/r.sock"), "unix:///run/r.sock?db=0"),
            (
                "unix://:pw@/run/r.sock?db=3",
                RedisAddress(path="/run/r.sock", password="pw", db=3),
                "unix://:***@/run/r.sock?db=3",
            ),
            (
                "redis+sentinel://a,b:2/main/4",
                RedisAddress(hosts=(("a", 26379), ("b", 2)), service="main", db=4),
                "redis+sentinel://a:26379,b:2/main/4",
            ),
            (
                "redis+sentinel://u:pw@a/main",
                RedisAddress(hosts=(("a", 26379),), service="main", user="u", password="pw"),
                "redis+sentinel://u:***@a:26379/main/0",
            ),
            (
                "redis://:pw@h/2?prefix=app-1.x_Y",
                RedisAddress(hosts=(("h", 6379),), db=2, password="pw", prefix="app-1.x_Y"),
                "redis://:***@h:6379/2?prefix=app-1.x_Y",
            ),
            (
                "unix:///r?prefix=a&db=3",
                RedisAddress(path="/r", db=3, prefix="a"),
                "unix:///r?db=3&prefix=a",
            ),
            (
                "redis+sentinel://a/main?prefix=b",
                RedisAddress(hosts=(("a", 26379),), service="main", prefix="b"),
                "redis+sentinel://a:26379/main/0?prefix=b",
            ),
            ("redis://h?prefix=pushd", RedisAddress(hosts=(("h", 6379),)), "redis://h:6379/0"),
        ]:
            self.assertEqual(parse_broker(given), address, given)
            self.assertEqual(str(address), text)
            self.assertNotIn("pw", repr(address))

    def test_invalid(self) -> None:
        """An invalid address raises ValueError, whose text contains nothing of it."""
        for given in (
            *("", "redis", "localhost:6379", "http://secret", "redis://", "redis://secret/x"),
            *("redis://secret:0", "redis://secret:65536", "redis://secret:x", "redis://se cret"),
            *(
                "redis://secret,secret",
                "redis://secret@host",
                "redis://:@secret/",
                "redis://[secret",
            ),
            *(
                "redis://h/1?secret=1",
                "redis://h/1#secret",
                "redis://:se#cret@h/",
                "redis://h/999999",
            ),
            *("unix://secret/path", "unix://", "unix:///", "unix:///s?secret=1", "unix:///s?db=x"),
            *("unix:///secret?db", "redis+sentinel://secret", "redis+sentinel://h/se%20cret/1"),
            *("redis+sentinel://h/s/secret", "redis://:%FFsecret@h"),
            *("redis://h?prefix=", "redis://h?prefix=sec:ret", "redis://h?prefix=sec{ret}"),
            *(
                "redis://h?prefix=" + 65 * "a",
                "redis://h?prefix",
                "redis://h?db=1",
                "unix:///s?x=1",
            ),
            *("rediss://h?prefix=a&secret=1", "redis+sentinel://h/s?secret=1", "unix:///s#secret"),
        ):
            error = self.assertRaises(ValueError, parse_broker, given)
            self.assertIn("must be memory, redis://", str(error), given)
            self.assertNotIn("secret", str(error))


class OptionTests(SynchronousTestCase):
    """``--broker``."""

    def parse(self, *args: str) -> RedisAddress | None:
        """Parse a command line, and return the setting."""
        options = Options()
        options.parseOptions(args)
        return options.settings.broker

    def test_given(self) -> None:
        """The default is memory."""
        self.assertIsNone(self.parse())
        self.assertEqual(self.parse("--broker=unix:///r"), RedisAddress(path="/r"))

    def test_invalid(self) -> None:
        """The error for an invalid address does not show the password."""
        error = str(self.assertRaises(SystemExit, self.parse, "--broker=redis://me:secret@h/x"))
        self.assertIn("--broker redis://***@h/x: must be memory", error)
        self.assertIn("the database must be a number", error)
