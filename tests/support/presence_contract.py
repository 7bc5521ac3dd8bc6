"""The contract of presence, over memory and over Redis: its rules, and nodes to check them with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pushd.access.limits import Limits
from pushd.topics.broker import Broker
from pushd.topics.presence import Attendance, Presence, PresenceList
from tests.support.presence import RecordingWatcher

#: How long what changes at one node may take until it is known at another, in seconds.
SOON = 1.0


class PresenceNode:
    """One node: its broker and its presence."""

    def __init__(self, broker: Broker, clock: Any, name: str) -> None:
        self.broker = broker
        self.presence = Presence(clock, Limits(max_present=20), name, broker.presence)
        self._number = 0

    def join(self, subject: str | None = None, **settings: Any) -> Attendance:
        """Let a new connection join."""
        self._number += 1
        return self.presence.join("t", self._number, subject=subject, **settings)

    def watch(self) -> RecordingWatcher:
        """Let a new watcher watch."""
        watcher = RecordingWatcher()
        self.presence.watch("t", watcher)
        return watcher

    async def list(self) -> PresenceList:
        """Return who is present."""
        return await self.presence.describe("t")

    async def names(self) -> dict[str, int]:
        """Return the number of connections of each subject."""
        subjects = (await self.list()).subjects
        assert subjects is not None
        return {one.subject or one.connection: one.count for one in subjects}


class PresenceCluster(Protocol):
    """Nodes that share their presence; in memory, one node in both roles."""

    async def start_presence(self) -> tuple[PresenceNode, PresenceNode]:
        """Start two nodes."""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true; fail if that takes too long."""

    async def wait(self, seconds: float) -> None:
        """Let time pass."""


PresenceRule = Callable[[PresenceCluster], Coroutine[Any, Any, None]]


async def all_nodes_list(cluster: PresenceCluster) -> None:
    """Each node lists the subjects of all nodes, with all connections and what is said of them."""
    one, two = await cluster.start_presence()
    one.join("ann", info={"name": "Änn"})
    two.join("ann")
    two.join("bob")
    one.join(client="tab")
    two.join()
    await cluster.wait(SOON)
    for node in (one, two):
        names = await node.names()
        assert [names[name] for name in ("ann", "bob", "tab")] == [2, 1, 1]
        assert len(names) == 4
    first, second = await one.list(), await two.list()
    assert (first.count, first.connections) == (4, 5)
    assert (second.count, second.connections) == (4, 5)
    assert first.version == second.version


async def all_watchers_are_told(cluster: PresenceCluster) -> None:
    """Watchers of all nodes are told who joins and leaves at any of them."""
    one, two = await cluster.start_presence()
    watchers = [one.watch(), two.watch()]
    await cluster.until(lambda: all(watcher.events for watcher in watchers))
    ann = one.join("ann")
    await cluster.until(lambda: all(len(watcher.events) == 2 for watcher in watchers))
    two.join("bob")
    await cluster.until(lambda: all(len(watcher.events) == 3 for watcher in watchers))
    ann.leave()
    await cluster.until(lambda: all(len(watcher.events) == 4 for watcher in watchers))
    for watcher in watchers:
        assert watcher.events == ["=", "+ ann", "+ bob", "- ann"]


async def late_watchers_are_told(cluster: PresenceCluster) -> None:
    """A watcher that comes later first gets all who are present at any node."""
    one, two = await cluster.start_presence()
    one.join("ann")
    two.join("bob")
    await cluster.wait(SOON)
    for node in (one, two):
        watcher = node.watch()
        await cluster.until(lambda watcher=watcher: watcher.events)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert watcher.events == ["= ann bob"]


async def reconnects_are_not_told(cluster: PresenceCluster) -> None:
    """A subject that comes back in time, at any node, neither leaves nor joins."""
    one, two = await cluster.start_presence()
    watchers = [one.watch(), two.watch()]
    attendance = one.join("ann")
    tab = two.join(client="tab")
    await cluster.until(lambda: all(len(watcher.present) == 2 for watcher in watchers))
    before = [len(watcher.events) for watcher in watchers]
    for node in (two, one, two):
        attendance.leave()
        tab.leave()
        await cluster.wait(3)
        attendance, tab = node.join("ann"), node.join(client="tab")
    await cluster.wait(6)
    assert [len(watcher.events) for watcher in watchers] == before
    assert await one.names() == {"ann": 1, "tab": 1}


async def connections_are_counted(cluster: PresenceCluster) -> None:
    """A subject is present as long as it has a connection at any node."""
    one, two = await cluster.start_presence()
    watcher = two.watch()
    attendances = [one.join("ann"), two.join("ann"), one.join("ann")]
    await cluster.until(lambda: watcher.present)
    while attendances:
        attendances.pop().leave()
        await cluster.wait(SOON)
        assert await two.names() == {"ann": len(attendances)}
        await cluster.wait(4.5 if attendances else 0)
    await cluster.until(lambda: not watcher.present)
    assert watcher.events[-2:] == ["+ ann", "- ann"] or watcher.events == ["= ann", "- ann"]
    assert await one.names() == {}


async def many_are_counted(cluster: PresenceCluster) -> None:
    """Beyond the limit, all nodes give counts only, and the list again when it is short enough."""
    one, two = await cluster.start_presence()
    watchers = [one.watch(), two.watch()]
    await cluster.until(lambda: all(watcher.events for watcher in watchers))
    nodes = (one, two) * 25
    attendances = [node.join(f"s{number}") for number, node in enumerate(nodes)]
    await cluster.until(lambda: all("# 50 50" in watcher.events for watcher in watchers))
    for node in (one, two):
        listed = await node.list()
        assert (listed.subjects, listed.count, listed.connections) == (None, 50, 50)
    for attendance in attendances[10:]:
        attendance.leave()
    expected = {f"s{number}" for number in range(10)}
    await cluster.until(lambda: all(watcher.present == expected for watcher in watchers))
    assert await one.names() == dict.fromkeys(expected, 1)


PRESENCE_RULES: tuple[PresenceRule, ...] = (
    all_nodes_list,
    all_watchers_are_told,
    late_watchers_are_told,
    reconnects_are_not_told,
    connections_are_counted,
    many_are_counted,
)
