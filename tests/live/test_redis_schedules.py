"""Schedules over a real Redis: the contract, nodes that are killed, and nodes that race."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from time import monotonic, sleep, time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from pushd.topics.broker import Draft
from pushd.topics.history import Retention
from pushd.topics.redis.address import parse_broker
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.redis.session import open_session
from tests.live.control_port import ask, read_topic, wait_until_finished
from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer
from tests.support.schedule_contract import RULES, Rule, ScheduleNode, finished, made_repeatedly

# Timeout of single steps, in seconds.
PATIENCE = 60.0

_names = count()


class Cluster:
    """Nodes over one Redis, in this process."""

    durable = True

    def __init__(self, server: RedisServer) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = server
        #: The address with which nodes connect.
        self.url = server.url
        self.nodes: list[ScheduleNode] = []
        self.grace = 60.0

    async def start_node(self) -> ScheduleNode:
        """Start a node."""
        address = parse_broker(self.url)
        assert address is not None
        broker = RedisBroker(
            self.reactor,
            partial(open_session, self.reactor, address),
            name="it",
            names=RedisNames(),
            retention=Retention(size=10_000),
            make_name=lambda: f"e{next(_names)}",
            schedule_grace=self.grace,
        )
        broker.start(lambda publication: None)
        node = ScheduleNode(
            broker, broker.schedules, number=next(_names), wall=time, grace=self.grace
        )
        self.nodes.append(node)
        await self.until(lambda: broker.fault() is None)
        return node

    async def start(self, grace: float = 60) -> tuple[ScheduleNode, ScheduleNode]:
        """Start two nodes."""
        self.grace = grace
        return await self.start_node(), await self.start_node()

    async def outage(self, seconds: float) -> tuple[ScheduleNode, ScheduleNode]:
        """Kill all nodes, and start two some time later."""
        for node in tuple(self.nodes):
            self.kill(node)
        await self.wait(seconds)
        return await self.start(self.grace)

    def kill(self, node: ScheduleNode) -> None:
        """End a node without a word."""
        self.nodes.remove(node)
        node.broker.stop()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true."""
        deadline = self.reactor.seconds() + PATIENCE
        while not condition():
            assert self.reactor.seconds() < deadline
            await self.wait(0.01)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.reactor, seconds)

    def now(self) -> float:
        """Return the time of day."""
        return time()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Make a cluster over a Redis that writes nothing to disk."""
    with RedisServer() as server:
        cluster = Cluster(server)
        yield cluster
        for node in tuple(cluster.nodes):
            cluster.kill(node)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_rule(cluster: Cluster, rule: Rule) -> None:
    """Two nodes keep every rule of the contract."""
    await rule(cluster)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_races(cluster: Cluster) -> None:
    """Nodes that all take each other for dead, and lose connections, make each one once.

    Each is made when it is due, or later: one that was made twice would be the next one, too early.
    """
    nodes = [*await cluster.start(), await cluster.start_node()]
    first = {}
    for number, node in enumerate(nodes):
        scheduled = node.scheduled.add(Draft("t", f"{number}"), every=0.02, count=200)
        first[f"{number}".encode()] = (await scheduled.kept()).due * 1000
    for turn in range(60):
        cluster.server.ask("EVAL", _ALL_ARE_DEAD, 1, "pushd:schedules:nodes")
        for node in nodes[turn % 3 :]:
            broker: Any = node.broker
            if (session := broker._reconnector.session) is not None:
                await broker.schedules._set_timers(session)
        if turn % 10 == 5:
            cluster.server.ask("CLIENT", "KILL", "TYPE", "normal")
        await cluster.wait(0.05)
    await cluster.until(lambda: all(node.broker.fault() is None for node in nodes))
    await finished(cluster, nodes[0])
    made = dict.fromkeys(first, 0)
    for place, (_, data, *_) in cluster.server.ask("XRANGE", "pushd:{t}:history", "-", "+"):
        # The time in the place of a publication is rounded down.
        assert int(place.partition(b"-")[2]) >= int(first[data] + made[data] * 20)
        made[data] += 1
    assert made == dict.fromkeys(first, 200)


_ALL_ARE_DEAD = """
for _, node in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    redis.call('ZADD', KEYS[1], 0, node)
end
"""


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_nothing_is_left(cluster: Cluster) -> None:
    """Finished and cancelled schedules leave no key in Redis."""
    one, two = await cluster.start()
    ids = [await one.add(delay=60, data="x" * 1000), await two.add(every=60, count=2)]
    await one.add(every=0.1, count=3)
    await one.add(delay=0)
    await cluster.wait(1)
    keys = sorted(cluster.server.ask("KEYS", "pushd:schedule*"))
    assert len(keys) == 7
    assert all(cluster.server.ask("TTL", key) == -1 for key in keys)
    for id in ids:
        assert await one.scheduled.cancel(id)
    await cluster.wait(1.5)
    assert cluster.server.ask("KEYS", "pushd:schedule*") == []


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_full(cluster: Cluster) -> None:
    """While Redis is full, nothing is scheduled and what is due waits; nothing is half done."""
    one, two = await cluster.start()
    id = await one.add(every=0.5, count=6)
    await cluster.wait(0.7)
    cluster.server.ask("CONFIG", "SET", "maxmemory", "1")
    kept = two.scheduled.add(Draft("t", "y"), delay=1).kept()
    with pytest.raises(Exception, match="OOM"):
        await kept
    await cluster.wait(1.5)
    assert len(await two.published()) == 2
    (state,) = await two.scheduled.all()
    assert (state.id, state.done) == (id, 2)
    cluster.server.ask("CONFIG", "SET", "maxmemory", "0")
    await finished(cluster, two)
    assert await two.published() == ["x"] * 6


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_many_at_once(cluster: Cluster) -> None:
    """Thousands of schedules for the same moment are made once each, soon after it."""
    one, two = await cluster.start()
    at = time() + 4
    for number in range(0, 4000, 100):
        adding = [
            (one, two)[other % 2].scheduled.add(Draft("t", f"{number + other}"), at=at)
            for other in range(100)
        ]
        for scheduled in adding:
            await scheduled.kept()
    assert len(await one.scheduled.all()) == 4000
    await finished(cluster, two)
    made = await one.published()
    assert sorted(map(int, made)) == list(range(4000))


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_rights(cluster: Cluster) -> None:
    """Schedules need no rights in Redis but those that the documentation asks for."""
    document = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
    asked = document[document.index("The ACL of pushd's Redis user") :].split("\n\n")[0]
    commands = re.findall("`([A-Z ]+)`", asked)
    rights = [f"+{name.lower().replace(' ', '|')}" for name in commands]
    user = ("pushd", "on", ">s3cret", "~pushd:*", "&pushd:*")
    cluster.server.ask("ACL", "SETUSER", *user, *rights)
    cluster.url = f"unix://pushd:s3cret@{cluster.server.path}"
    await made_repeatedly(cluster)
    ids = [await cluster.nodes[0].add(delay=9), await cluster.nodes[0].add(delay=1)]
    assert await cluster.nodes[1].scheduled.cancel(ids[0])
    await cluster.nodes[0].scheduled.stop()
    await finished(cluster, cluster.nodes[1])


class Daemons:
    """Daemons over one Redis, which are killed and started again."""

    def __init__(self, server: RedisServer, directory: Path, stack: ExitStack) -> None:
        self._options = ["--broker", server.url, "--control", "tcp:0:interface=127.0.0.1"]
        self._options += ["--history-size", "10000"]
        self._directory = directory
        self._stack = stack
        self.running: list[DaemonProcess] = []

    def start(self) -> DaemonProcess:
        """Start a daemon, and wait until it has connected to Redis."""
        daemon = self._stack.enter_context(DaemonProcess(self._options, directory=self._directory))
        daemon.wait_for("connected to Redis at")
        self.running.append(daemon)
        return daemon

    def kill(self, daemon: DaemonProcess) -> None:
        """Kill a daemon."""
        self.running.remove(daemon)
        os.kill(daemon.pid, SIGKILL)
        daemon.wait()


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Run a Redis, and prepare daemons over it."""
    with RedisServer() as server, ExitStack() as stack:
        yield Daemons(server, tmp_path, stack)


def test_killed(daemons: Daemons) -> None:
    """Of two daemons, one is killed in the middle, again and again: each tick is made once."""
    daemons.start()
    first = ask(daemons.start(), "GET", "/last-id?topic=ticks")["id"]
    begin = time()
    for number, daemon in enumerate(daemons.running):
        path = "/topics/ticks?every=0.01&count=1500"
        ask(daemon, "POST", path, f"{number}".encode())
    killed = 0
    # On a busy machine, the schedules may be finished before three daemons have been started.
    while killed < 3 and ask(daemons.running[0], "GET", "/schedules")["schedules"]:
        sleep(1.5)
        # The one that has been running for longer has the schedules.
        daemons.kill(daemons.running[0])
        killed += 1
        daemons.start()
    assert killed
    wait_until_finished(daemons.running[0])
    assert time() - begin >= 1499 * 0.01
    made = read_topic(daemons.running[1], "ticks", first)
    assert {data: made.count(data) for data in made} == {"0": 1500, "1": 1500}


def test_suspended(daemons: Daemons) -> None:
    """A daemon that is suspended, and goes on when another has its schedules, repeats nothing."""
    suspended, other = daemons.start(), daemons.start()
    first = ask(other, "GET", "/last-id?topic=ticks")["id"]
    begin = time()
    ask(suspended, "POST", "/topics/ticks?every=0.01&count=1500", b"x")
    for _ in range(2):
        sleep(1)
        os.kill(suspended.pid, SIGSTOP)
        try:
            sleep(4.5)
        finally:
            os.kill(suspended.pid, SIGCONT)
        suspended, other = other, suspended
    wait_until_finished(other)
    assert time() - begin >= 1499 * 0.01
    assert read_topic(other, "ticks", first) == ["x"] * 1500


def test_nobody(daemons: Daemons) -> None:
    """What came due while no daemon ran is made by the next; others' schedules are cancelled."""
    daemon = daemons.start()
    first = ask(daemon, "GET", "/last-id?topic=ticks")["id"]
    ask(daemon, "POST", "/topics/ticks?delay=2", b"late")
    far = ask(daemon, "POST", "/topics/ticks?delay=3600", b"far")["schedule"]
    daemons.kill(daemon)
    sleep(3)
    daemon = daemons.start()
    deadline = monotonic() + 5
    while read_topic(daemon, "ticks", first) != ["late"]:
        assert monotonic() < deadline
        sleep(0.05)
    (listed,) = ask(daemon, "GET", "/schedules")["schedules"]
    assert listed["schedule"] == far
    ask(daemon, "DELETE", f"/schedules/{far}")
    assert ask(daemon, "GET", "/schedules")["schedules"] == []
