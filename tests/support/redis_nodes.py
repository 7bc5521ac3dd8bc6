"""Tests of several nodes over one fake Redis."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.history import Retention
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from tests.support.fake_redis import FakeRedis


class RedisNodesTestCase(SynchronousTestCase):
    """A fake Redis, and its nodes."""

    def setUp(self) -> None:
        """Make a Redis without nodes."""
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.brokers: list[RedisBroker] = []
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop, and check that no timer is left."""
        for broker in self.brokers:
            broker.stop()
        self.redis.history.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def make(self, name: str) -> RedisBroker:
        """Make a node."""
        broker = RedisBroker(
            self.clock,
            self.redis.open,
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: name,
        )
        self.brokers.append(broker)
        return broker

    def connect(self, broker: RedisBroker) -> None:
        """Connect a node to Redis."""
        broker.start(lambda publication: None)
        self.clock.whenRunningHooks.pop()[0]()
