"""The contract of all stores of schedules: its rules, and nodes to check them with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol
from unittest.mock import patch

from pushd.errors import TooManyScheduled
from pushd.topics import scheduled as module
from pushd.topics.broker import Broker, Draft
from pushd.topics.publication import Id, Publication
from pushd.topics.scheduled import (
    ScheduledPublication,
    ScheduledPublications,
    ScheduleState,
    ScheduleStore,
)


class ScheduleNode:
    """One node: its broker and its schedules.

    :param number: which node this is; part of the ids of its schedules.
    """

    def __init__(
        self,
        broker: Broker,
        store: ScheduleStore,
        *,
        number: int,
        wall: Callable[[], float],
        grace: float,
    ) -> None:
        self.broker = broker
        ids = (f"s{number}-{id}" for id in range(1_000_000))
        self.scheduled = ScheduledPublications(store, partial(next, ids), wall=wall, grace=grace)
        self.scheduled.start()

    async def add(self, data: str | bytes = "x", topic: str = "t", **times: Any) -> str:
        """Schedule a publication, wait until it is kept, and return the id of the schedule."""
        scheduled = self.scheduled.add(Draft(topic, data), **times)
        await scheduled.kept()
        return scheduled.id

    async def publications(self, topic: str = "t") -> tuple[Publication, ...]:
        """Return all that was published to a topic."""
        last = (await self.broker.replay(topic, None, 0)).last
        replay = await self.broker.replay(topic, Id(last.epoch, 0), 1 << 30)
        assert replay.recovered
        # More may have been published since.
        assert len(replay.publications) >= last.offset
        return replay.publications

    async def published(self, topic: str = "t") -> list[str | bytes]:
        """Return the data of all that was published to a topic."""
        return [one.data for one in await self.publications(topic)]


class ScheduleCluster(Protocol):
    """Nodes that share their schedules; without Redis, one node in both roles."""

    #: Whether schedules outlive all nodes.
    durable: bool

    async def start(self, grace: float = 60) -> tuple[ScheduleNode, ScheduleNode]:
        """Start two nodes."""

    async def outage(self, seconds: float) -> tuple[ScheduleNode, ScheduleNode]:
        """Kill all nodes, and start two some time later; or keep them from working meanwhile."""

    async def wait(self, seconds: float) -> None:
        """Let time pass."""

    def now(self) -> float:
        """Return the time of day, in seconds since 1970."""


Rule = Callable[[ScheduleCluster], Coroutine[Any, Any, None]]

# Seconds after which a test has waited too long.
_PATIENCE = 30.0


async def finished(cluster: ScheduleCluster, node: ScheduleNode) -> None:
    """Wait until all schedules are finished."""
    end = cluster.now() + _PATIENCE
    while await node.scheduled.all():
        assert cluster.now() < end
        await cluster.wait(0.05)


async def has_published(cluster: ScheduleCluster, node: ScheduleNode, number: int) -> None:
    """Wait until that many publications were made."""
    end = cluster.now() + _PATIENCE
    while len(await node.published()) < number:
        assert cluster.now() < end
        await cluster.wait(0.05)


async def made_later(cluster: ScheduleCluster) -> None:
    """A delayed publication is made once, not before its time, and its schedule forgotten."""
    one, two = await cluster.start()
    begin = cluster.now()
    id = await one.add("later", delay=1)
    state = await two.scheduled.describe(id)
    assert state is not None
    assert (state.id, state.topic, state.count, state.done, state.every) == (id, "t", 1, 0, 0)
    assert abs(state.due - begin - 1) < 0.5
    await cluster.wait(0.5)
    assert await two.published() == []
    await finished(cluster, two)
    assert cluster.now() >= begin + 0.99
    await cluster.wait(0.5)
    assert await two.published() == ["later"]
    assert await two.scheduled.describe(id) is None


async def made_repeatedly(cluster: ScheduleCluster) -> None:
    """Publications that repeat are made at their pace, as often as was said."""
    one, two = await cluster.start()
    begin = cluster.now()
    await one.add(every=0.2, count=6)
    await finished(cluster, two)
    assert 0.99 <= cluster.now() - begin < 5
    await cluster.wait(0.5)
    assert await one.published() == ["x"] * 6


async def made_at_a_time(cluster: ScheduleCluster) -> None:
    """The first publication is made at a time of day; at a time that has just passed, at once."""
    one, two = await cluster.start()
    at = cluster.now() + 1
    ids = [await one.add("at", at=at, every=0.2, count=2), await two.add("past", at=at - 31)]
    state = await two.scheduled.describe(ids[0])
    assert state is not None
    assert abs(state.due - at) < 0.01
    await has_published(cluster, two, 1)
    assert await two.published() == ["past"]
    assert cluster.now() < at
    await finished(cluster, one)
    assert cluster.now() >= at + 0.19
    assert await two.published() == ["past", "at", "at"]


async def kinds_are_kept(cluster: ScheduleCluster) -> None:
    """Text, bytes, JSON and the name of an event are published as they were given."""
    one, two = await cluster.start()
    drafts = [
        Draft("t", "ä\r\n\u2028"),
        Draft("t", b"\xff\x00"),
        Draft("t", "", event="paid"),
        Draft("t", '{"a":1}', is_json=True),
        Draft("t", "[2]", event="paid", is_json=True),
    ]
    for number, draft in enumerate(drafts):
        await one.scheduled.add(draft, delay=0.1 * (number + 1)).kept()
    await finished(cluster, two)
    made = [(each.data, each.event, each.is_json) for each in await two.publications()]
    assert made == [(draft.data, draft.event, draft.is_json) for draft in drafts]


async def listed_at_all_nodes(cluster: ScheduleCluster) -> None:
    """Every node lists the schedules of all, the oldest first, with their progress."""
    one, two = await cluster.start()
    assert await two.scheduled.all() == []
    ids = [await one.add(delay=60), await two.add(topic="u", every=60, count=3)]
    await has_published_to(cluster, one, "u")
    for node in (one, two):
        states = await node.scheduled.all()
        known = [(each.id, each.topic, each.count, each.done, each.every) for each in states]
        assert known == [(ids[0], "t", 1, 0, 0), (ids[1], "u", 3, 1, 60)]
        assert all(abs(each.due - cluster.now() - 60) < 5 for each in states)


async def has_published_to(cluster: ScheduleCluster, node: ScheduleNode, topic: str) -> None:
    """Wait until something was published to a topic."""
    end = cluster.now() + _PATIENCE
    while not await node.published(topic):
        assert cluster.now() < end
        await cluster.wait(0.05)


async def cancelled_at_any_node(cluster: ScheduleCluster) -> None:
    """Every node can cancel any schedule, once; nothing more is published then."""
    one, two = await cluster.start()
    ids = [await one.add("no", delay=0.5), await one.add("few", every=0.2, count=1000)]
    await has_published(cluster, two, 2)
    assert [await two.scheduled.cancel(id) for id in (*ids, "unknown")] == [
        "no" not in await one.published(),
        True,
        False,
    ]
    made = await one.published()
    await cluster.wait(1)
    assert await two.published() == made
    assert not await one.scheduled.cancel(ids[1])
    assert await one.scheduled.all() == []


async def limits_hold(cluster: ScheduleCluster) -> None:
    """The number of schedules, their bytes and their rate are limited for all nodes together."""
    nodes = await cluster.start()
    for name, limit in [
        ("MAX_SCHEDULED", 2),
        ("MAX_BYTES", 2600),
        ("MAX_RATE", 4),
    ]:
        with patch.object(module, name, limit):
            ids = [await node.add("x" * 1000, delay=9, every=0.5, count=9) for node in nodes]
            for node in nodes:
                await is_refused(node, name)
            assert await nodes[0].scheduled.cancel(ids[1])
            ids[1] = await nodes[1].add("x" * 1000, delay=9, every=0.5, count=9)
            if cluster.durable:
                nodes = await cluster.outage(0.1)
            await is_refused(nodes[0], name)
            for id in ids:
                assert await nodes[1].scheduled.cancel(id)


async def is_refused(node: ScheduleNode, name: str) -> None:
    """Check that a limit is exceeded, and what the error says."""
    refused: ScheduledPublication | None = None
    try:
        refused = node.scheduled.add(Draft("t", "x" * 1000), delay=9, every=0.5, count=9)
        await refused.kept()
    except TooManyScheduled as error:
        text = {"MAX_SCHEDULED": "limit is 2", "MAX_BYTES": "of 2600 bytes", "MAX_RATE": "exceed 4"}
        assert text[name] in str(error)
    else:
        raise AssertionError(f"{refused.id} was not refused")


async def old_is_dropped(cluster: ScheduleCluster) -> None:
    """What was due for longer than the grace is dropped and counted, and the schedule goes on."""
    nodes = await cluster.start(grace=1)
    await nodes[0].add("old", delay=1)
    await nodes[0].add(every=0.5, count=16)
    await has_published(cluster, nodes[0], 2)
    before = len(await nodes[0].published())
    nodes = await cluster.outage(4)
    await finished(cluster, nodes[0])
    made = await nodes[0].published()
    dropped = sum(each.scheduled.dropped for each in {*nodes})
    # Of the eight that were due meanwhile, two are young enough; and the other schedule.
    assert 5 <= dropped <= 8
    assert made == ["x"] * (17 - dropped)
    assert len(made) > before + 2


async def young_is_published(cluster: ScheduleCluster) -> None:
    """What became due while nothing could be published is published once that is possible."""
    nodes = await cluster.start()
    await nodes[0].add("once", delay=1)
    await nodes[0].add("often", every=0.5, count=8)
    await has_published(cluster, nodes[0], 1)
    nodes = await cluster.outage(2)
    begin = cluster.now()
    await has_published(cluster, nodes[0], 4)
    assert cluster.now() < begin + 8
    await finished(cluster, nodes[1])
    assert sorted(map(str, await nodes[0].published())) == ["often"] * 8 + ["once"]
    assert [each.scheduled.dropped for each in nodes] == [0, 0]


async def outage_changes_nothing(cluster: ScheduleCluster) -> None:
    """Schedules are the same after all nodes were killed, if they are kept outside of these."""
    nodes = await cluster.start()
    ids = [
        await nodes[0].add("a", delay=60),
        await nodes[1].add("b", at=cluster.now() + 30, every=5, count=7),
        await nodes[1].add("c", every=60, count=7),
    ]
    await has_published(cluster, nodes[0], 1)
    before = await nodes[0].scheduled.all()
    assert [each.id for each in before] == ids
    if cluster.durable:
        nodes = await cluster.outage(0.5)
    after = await nodes[0].scheduled.all()
    assert [shape(each) for each in after] == [shape(each) for each in before]
    assert all(abs(x.due - y.due) < 0.1 for x, y in zip(before, after, strict=True))


def shape(state: ScheduleState) -> tuple[object, ...]:
    """Return all of a state but its time."""
    return state.id, state.topic, state.count, state.done, state.every


RULES: tuple[Rule, ...] = (
    made_later,
    made_repeatedly,
    made_at_a_time,
    kinds_are_kept,
    listed_at_all_nodes,
    cancelled_at_any_node,
    limits_hold,
    old_is_dropped,
    young_is_published,
    outage_changes_nothing,
)
