"""The scripts of schedules, as a fake Redis runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from pushd.topics.redis.schedules import CANCEL, CLAIM, DESCRIBE_SCHEDULES, KEEP, RELEASE
from pushd.topics.redis.scripts import PUBLISH_DUE, RedisNames, Script, decode

SCHEDULE_SCRIPTS = {
    KEEP: "keep",
    CLAIM: "claim",
    RELEASE: "release",
    CANCEL: "cancel",
    DESCRIBE_SCHEDULES: "describe schedules",
    PUBLISH_DUE: "publish due",
}

_PREFIX = RedisNames().schedule_prefix


@dataclass
class FakeSchedule:
    """A schedule; its times are in milliseconds."""

    node: str
    first: float
    size: int
    rate: int
    fields: dict[str, Any]
    done: int = 0

    @property
    def count(self) -> int:
        """How often it is published in all."""
        return int(self.fields["count"])

    @property
    def every(self) -> float:
        """The time between two publications."""
        return float(self.fields["every"])

    @property
    def due(self) -> float:
        """When the next publication is due."""
        return self.first + self.done * self.every


class FakeScheduleData:
    """The schedules of all nodes.

    :param clock: the clock of Redis.
    :param publish: publishes topic, data, event, and whether it is JSON.
    """

    def __init__(self, clock: Any, publish: Callable[..., object]) -> None:
        self._clock = clock
        self._publish = publish
        self.schedules: dict[str, FakeSchedule] = {}
        #: The nodes that have schedules, each with the time at which it is dead.
        self.nodes: dict[str, float] = {}

    @property
    def now(self) -> float:
        """The time, in milliseconds since 1970."""
        return float(self._clock.seconds()) * 1000

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script."""
        if script is KEEP:
            return self._keep(args)
        if script is CLAIM:
            return self._claim(args)
        if script is RELEASE:
            if any(one.node == args[0] for one in self.schedules.values()):
                self.nodes[args[0]] = 0
            return 1
        if script is CANCEL:
            return int(self.schedules.pop(args[0], None) is not None)
        if script is DESCRIBE_SCHEDULES:
            return [self._describe(id) for id in args if id in self.schedules]
        grace, node = args[6], args[7]
        topics = [RedisNames().read_topic(key.encode()) for key in keys[4::3]]
        ids = args[9::5]
        return [
            self._publish_due(id, topic, node, grace) for id, topic in zip(ids, topics, strict=True)
        ]

    def _keep(self, args: Sequence[Any]) -> list[Any]:
        id, node, delay, at, size, rate, most, most_bytes, most_rate, alive, *rest = args
        fields = dict(zip(rest[::2], rest[1::2], strict=True))
        number = len(self.schedules)
        held = sum(one.size for one in self.schedules.values())
        rates = sum(one.rate for one in self.schedules.values())
        if number >= most or held + size > most_bytes or rates + rate > most_rate:
            return [0, number, held, b"%d" % rates]
        first = float(at) if at else self.now + float(delay)
        self.schedules[id] = FakeSchedule(node, first, size, rate, fields)
        self.nodes[node] = self.now + alive
        return [1, f"{first!r}".encode(), f"{first - self.now!r}".encode()]

    def _claim(self, args: Sequence[Any]) -> list[Any]:
        node, alive, window, *_ = args
        dead = {name for name, until in self.nodes.items() if until <= self.now and name != node}
        for one in self.schedules.values():
            if one.node in dead:
                one.node = node
        for name in dead:
            del self.nodes[name]
        mine = {id: one for id, one in self.schedules.items() if one.node == node}
        if not mine:
            self.nodes.pop(node, None)
            return []
        self.nodes[node] = self.now + alive
        return [
            [id.encode(), one.fields["topic"].encode(), b"%f" % max(0, one.due - self.now)]
            for id, one in mine.items()
            if one.due <= self.now + window
        ]

    def _describe(self, id: str) -> list[bytes]:
        one = self.schedules[id]
        fields = one.fields["topic"], one.count, one.done, one.every, one.first
        return [id.encode(), *(f"{field}".encode() for field in fields)]

    def _publish_due(self, id: str, topic: str, node: str, grace: float) -> list[Any]:
        one = self.schedules.get(id)
        if one is None:
            return [0, 0, 0, b"-1", b"0", 0]
        made, old, late, count = 0, 0, self.now - one.due, b"%d" % one.count
        if late > grace:
            old = one.count - one.done
            if one.every:
                old = min(old, ceil((late - grace) / one.every))
            late -= old * one.every
        if one.done + old < one.count and late >= -0.001:
            made = 1
            self._publish(topic, *decode(one.fields["kind"].encode(), one.fields["data"]))
        one.done += old + made
        if one.done == one.count:
            del self.schedules[id]
            return [made, old, 0, b"-1", b"%f" % late, count]
        left = b"%f" % max(0, one.due - self.now)
        return [made, old, int(one.node == node), left, b"%f" % late, count]
