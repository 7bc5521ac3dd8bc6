"""Presence over a real Redis: the contract, nodes that die, and a Redis that is restarted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from websockets.sync.client import connect

from pushd.topics.history import Retention
from pushd.topics.redis.address import parse_broker
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.redis.session import open_session
from tests.support.daemon_process import DaemonProcess
from tests.support.presence_contract import (
    PRESENCE_RULES,
    PresenceNode,
    PresenceRule,
    all_watchers_are_told,
)
from tests.support.redis_server import RedisServer

# Timeout of single steps, in seconds.
PATIENCE = 60.0

_names = count()


class Cluster:
    """Nodes over one Redis, in this process."""

    def __init__(self, server: RedisServer) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = server
        #: The address with which nodes connect.
        self.url = server.url
        self.nodes: list[PresenceNode] = []

    async def start_node(self) -> PresenceNode:
        """Start a node."""
        address = parse_broker(self.url)
        assert address is not None
        broker = RedisBroker(
            self.reactor,
            partial(open_session, self.reactor, address),
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: f"e{next(_names)}",
        )
        node = PresenceNode(broker, self.reactor, f"n{next(_names)}")
        self.nodes.append(node)
        broker.start(lambda publication: None)
        await self.until(lambda: broker.fault() is None)
        return node

    async def start_presence(self) -> tuple[PresenceNode, PresenceNode]:
        """Start two nodes."""
        return await self.start_node(), await self.start_node()

    def kill(self, node: PresenceNode) -> None:
        """End a node without a word."""
        self.nodes.remove(node)
        node.presence.stop()
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


def ask_control(daemon: DaemonProcess, path: str) -> Any:
    """Return what a daemon answers at its control port."""
    url = daemon.wait_for(r"control port listening on (http://\S+)")[1]
    with urlopen(url.rstrip("/") + path, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def test_daemons(tmp_path: Path) -> None:
    """A daemon that is killed is forgotten within 30 seconds, one that stops within ten."""
    rules = tmp_path / "pushd.toml"
    rules.write_text('[[topic]]\nmatch = "chat/*"\npresence = true\n')
    with RedisServer() as server, ExitStack() as stack:
        options = ["--config", str(rules), "--broker", server.url, "--drain", "0"]
        options += ["--control", "tcp:0:interface=127.0.0.1"]
        daemons = [DaemonProcess(options, directory=tmp_path) for _ in range(3)]
        for daemon in daemons:
            stack.enter_context(daemon)
            daemon.wait_for("connected to Redis at")
        clients = []
        for name, daemon in zip(("a", "b", "c"), daemons, strict=True):
            netloc = urlsplit(daemon.url).netloc
            url = f"ws://{netloc}/topics/chat/7?client={name}&presence=1"
            subprotocols: Any = ["pushd.v1"]
            connection = connect(url, subprotocols=subprotocols, proxy=None, open_timeout=PATIENCE)
            clients.append(stack.enter_context(connection))
        for daemon in daemons:
            wait_for(partial(ask_control, daemon, "/presence?topic=chat/7"), 3, 5)
        os.kill(daemons[0].pid, SIGKILL)
        daemons[0].wait()
        began = monotonic()
        daemons[1].stop()
        wait_for(lambda: ask_control(daemons[2], "/topics/chat/7/presence"), 2, 12)
        listed = wait_for(lambda: ask_control(daemons[2], "/topics/chat/7/presence"), 1, 32)
        assert monotonic() - began < 30
        assert [one["connection"] for one in listed["subjects"]] == ["c"]
        told: list[str] = []
        while len(told) < 2:
            said = json.loads(clients[2].recv(PATIENCE))
            told += [said["connection"]] if "left" in said else []
        assert told == ["b", "a"]


def wait_for(ask: Callable[[], Any], count: int, seconds: float) -> Any:
    """Ask until there are so many subjects, and return the answer."""
    deadline = monotonic() + seconds
    while (answer := ask())["count"] != count:
        assert monotonic() < deadline, answer
        sleep(0.2)
    return answer


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Make a cluster over a Redis that writes nothing to disk."""
    with RedisServer() as server:
        cluster = Cluster(server)
        yield cluster
        for node in tuple(cluster.nodes):
            cluster.kill(node)


@pytest.mark.parametrize("rule", PRESENCE_RULES, ids=lambda rule: rule.__name__)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_rule(cluster: Cluster, rule: PresenceRule) -> None:
    """Two nodes keep every rule of the contract."""
    await rule(cluster)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_death(cluster: Cluster) -> None:
    """A node that dies is forgotten within 30 seconds, and leaves nothing in Redis."""
    one, two = await cluster.start_presence()
    watcher = two.watch()
    one.join("ann")
    two.join("bob")
    await cluster.until(lambda: watcher.present == {"ann", "bob"})
    assert len(cluster.server.ask("KEYS", "*present*")) == 3
    died = cluster.reactor.seconds()
    cluster.kill(one)
    await cluster.until(lambda: watcher.present == {"bob"})
    assert 10 < cluster.reactor.seconds() - died < 30
    assert len(cluster.server.ask("KEYS", "*present*")) == 2


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_stop(cluster: Cluster) -> None:
    """A node that stops is forgotten within ten seconds."""
    one, two = await cluster.start_presence()
    watcher = two.watch()
    one.join("ann")
    await cluster.until(lambda: watcher.present == {"ann"})
    stopped = cluster.reactor.seconds()
    await one.presence.leave()
    cluster.kill(one)
    await cluster.until(lambda: not watcher.present)
    assert cluster.reactor.seconds() - stopped < 11


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_restart(cluster: Cluster) -> None:
    """A Redis that is restarted without its data gets it anew, and nobody is told."""
    one, two = await cluster.start_presence()
    watcher = two.watch()
    one.join("ann")
    await cluster.until(lambda: watcher.present == {"ann"})
    before = list(watcher.events)
    cluster.server.kill()
    await cluster.wait(1)
    cluster.server.start()
    await cluster.until(lambda: one.broker.fault() is two.broker.fault() is None)
    await cluster.wait(14)
    assert watcher.events == before
    assert await two.names() == await one.names() == {"ann": 1}


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_rights(cluster: Cluster) -> None:
    """Presence needs no rights in Redis but those that the documentation asks for."""
    document = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
    asked = document[document.index("The ACL of pushd's Redis user") :].split("\n\n")[0]
    commands = re.findall("`([A-Z ]+)`", asked)
    rights = [f"+{name.lower().replace(' ', '|')}" for name in commands]
    user = ("pushd", "on", ">s3cret", "~pushd:*", "&pushd:*")
    cluster.server.ask("ACL", "SETUSER", *user, *rights)
    cluster.url = f"unix://pushd:s3cret@{cluster.server.path}"
    await all_watchers_are_told(cluster)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_lasting(cluster: Cluster) -> None:
    """The keys of Redis have an expiry, so that dead nodes leave nothing for ever."""
    one, _ = await cluster.start_presence()
    one.join("ann")
    await cluster.until(lambda: cluster.server.ask("KEYS", "*present*"))
    keys = [*cluster.server.ask("KEYS", "*present*"), b"pushd:nodes"]
    assert len(keys) == 3
    assert all(cluster.server.ask("PTTL", key) > 0 for key in keys)
