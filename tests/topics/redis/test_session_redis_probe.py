"""A look at Redis before the daemon starts."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisMisconfigured, RedisUnavailable
from pushd.topics.redis import session as redis_probe
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.session import probe

ADDRESS = RedisAddress(path="/nobody/is/here")


class Session:
    """A session that notes that it was ended."""

    ended = False

    def end(self) -> None:
        """Note it."""
        Session.ended = True


class ProbeTests(SynchronousTestCase):
    """What it finds out."""

    def after_a_moment(self, outcome: Any) -> None:
        """Let the session be opened, or not, when its reactor has turned."""

        def opener(reactor: Any, *_: Any) -> Deferred[Any]:
            opening: Deferred[Any] = Deferred()
            fire = opening.errback if isinstance(outcome, Exception) else opening.callback
            reactor.callLater(0, fire, outcome)
            return opening

        self.patch(redis_probe, "open_session", opener)
        self.patch(redis_probe, "RedisSession", Session)

    def test_suitable(self) -> None:
        """One that will do is left in peace."""
        self.after_a_moment(Session())
        self.assertIsNone(probe(ADDRESS))
        self.assertTrue(Session.ended)

    def test_unsuitable(self) -> None:
        """One that will not do: why not."""
        self.after_a_moment(RedisMisconfigured("wrong password"))
        self.assertEqual(probe(ADDRESS), "wrong password")

    def test_away(self) -> None:
        """One that is just away may come back."""
        self.after_a_moment(RedisUnavailable("no route"))
        self.assertIsNone(probe(ADDRESS))

    def test_really(self) -> None:
        """The real one, where nobody listens."""
        self.assertIsNone(probe(ADDRESS))
