"""Which broker it is: memory, or a Redis that can be used."""

from __future__ import annotations

import sys

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.build import check_redis, make_broker
from pushd.topics.broker import Broker, MemoryBroker
from pushd.topics.history import Retention
from pushd.topics.redis import session as redis_probe
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker

# Where nobody is.
NOBODY = RedisAddress(path="/nobody/is/here", password="secret")


class MakeBrokerTests(SynchronousTestCase):
    def make(self, address: RedisAddress | None) -> Broker:
        """Make a broker."""
        return make_broker(address, MemoryReactorClock(), Retention(), lambda: "name")

    def test_memory(self) -> None:
        """Without a Redis topics are kept in this process."""
        self.assertIsInstance(self.make(None), MemoryBroker)

    def test_redis(self) -> None:
        """With one it is named in what is wrong, but for its password."""
        broker = self.make(NOBODY)
        self.assertIsInstance(broker, RedisBroker)
        self.assertEqual(
            broker.fault(), "Redis at unix://:***@/nobody/is/here?db=0: it has not answered yet"
        )


class CheckRedisTests(SynchronousTestCase):
    def test_suitable(self) -> None:
        """One that can be used, or that just isn't there yet, is no reason to end."""
        self.patch(redis_probe, "probe", lambda _: None)
        check_redis(NOBODY)

    def test_unsuitable(self) -> None:
        """One that will not do ends the process, with one line that has no password."""
        self.patch(redis_probe, "probe", lambda _: "wrong user or password")
        error = self.assertRaises(SystemExit, check_redis, NOBODY)
        said = "pushd: --broker unix://:***@/nobody/is/here?db=0: wrong user or password"
        self.assertEqual(str(error), said)

    def test_not_installed(self) -> None:
        """Without its extra it can't be had, and it is said how to get it."""
        for name in ("pushd.topics.redis.session",):
            self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
            sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
        error = self.assertRaises(SystemExit, check_redis, NOBODY)
        self.assertIn("pip install 'pushd[redis]'", str(error))
