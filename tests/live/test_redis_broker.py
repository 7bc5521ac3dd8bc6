"""The broker over a real Redis: the contract of all brokers, and faults of Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.logger import capturedLogs

from pushd.errors import Unavailable
from pushd.topics.broker import Draft
from pushd.topics.history import Retention
from pushd.topics.publication import Id
from pushd.topics.redis.address import parse_broker
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.redis.session import open_session
from pushd.topics.rules import Rule as TopicRule
from pushd.topics.rules import Rules
from tests.support.broker_contract import RULES, Node, RecordingSubscriber, Rule
from tests.support.held_port import held_port
from tests.support.redis_server import RedisServer
from tests.topics import test_resuming as resuming
from tests.topics.test_resuming import FUZZ, SlowSubscriber

# Timeout of single steps, in seconds.
PATIENCE = 60.0

# Replicate at once.
SYNC = ["--repl-diskless-sync-delay", "0"]

_names = count()


class Cluster:
    """Nodes over one Redis, in this process."""

    def __init__(self, server: RedisServer) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = server
        self.nodes: list[Node] = []

    async def start(self, retention: Retention, rules: Rules | None = None) -> tuple[Node, Node]:
        """Start two nodes."""
        nodes = [await self.start_node(retention, rules=rules) for _ in range(2)]
        return nodes[0], nodes[1]

    async def start_node(self, retention: Retention | None = None, **settings: Any) -> Node:
        """Start another node."""
        address = parse_broker(self.server.url)
        assert address is not None
        broker = RedisBroker(
            self.reactor,
            settings.get("open_session", partial(open_session, self.reactor, address)),
            name="it",
            names=RedisNames(db=settings.get("db", 0), prefix=settings.get("prefix", "pushd")),
            retention=retention or Retention(),
            make_name=lambda: f"e{next(_names)}",
            rules=settings.get("rules"),
        )
        node = Node(broker, self.reactor, settings.get("rules"))
        self.nodes.append(node)
        await self.until(lambda: broker.fault() is None)
        return node

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true."""
        deadline = self.reactor.seconds() + PATIENCE
        while not condition():
            assert self.reactor.seconds() < deadline, [one.broker.fault() for one in self.nodes]
            await self.wait(0.005)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.reactor, seconds)


class MovingAddress:
    """An address that leads to one server or another, as a name or a proxy does."""

    def __init__(self, cluster: Cluster, server: RedisServer) -> None:
        self.cluster = cluster
        self.server = server

    async def start_node(self) -> Node:
        """Start a node that connects to it."""
        node = await self.cluster.start_node(open_session=self.open)
        return node

    def open(self, *args: Any) -> Deferred[Any]:
        """Open a session with the present server."""
        address = parse_broker(self.server.url)
        assert address is not None
        return open_session(self.cluster.reactor, address, *args)

    async def move(self, server: RedisServer) -> None:
        """Let it lead to a server, and all nodes connect again."""
        brokers: list[Any] = [node.broker for node in self.cluster.nodes]
        reconnectors = [one._reconnector for one in brokers]
        lost = [one.session for one in reconnectors]
        former, self.server = self.server, server
        former.ask("CLIENT", "KILL", "TYPE", "normal")
        await self.cluster.until(
            lambda: not any(one.session in (None, *lost) for one in reconnectors)
        )


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Run a Redis that writes nothing to disk."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def cluster(server: RedisServer) -> Iterator[Cluster]:
    """Make a cluster over it."""
    cluster = Cluster(server)
    yield cluster
    for node in cluster.nodes:
        node.broker.stop()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_rule(cluster: Cluster, rule: Rule) -> None:
    """The Redis broker keeps every rule of the contract."""
    await rule(cluster)


async def listen(cluster: Cluster, node: Node, after: str | None = None) -> RecordingSubscriber:
    """Subscribe, and wait until the subscription has begun."""
    subscriber = node.listen("t", after)
    await cluster.until(lambda: subscriber.begun)
    return subscriber


async def received(cluster: Cluster, subscriber: RecordingSubscriber, last: str) -> list[str]:
    """Wait until a subscriber has received an id, and return all ids it has received."""
    await cluster.until(lambda: subscriber.events[-1][0] == last)
    return [id for id, _ in subscriber.events[1:]]


async def refused(publishing: Any) -> str:
    """Return the reason why something fails with Unavailable."""
    with pytest.raises(Unavailable) as caught:
        await publishing
    return str(caught.value)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_restarted_empty(cluster: Cluster, server: RedisServer) -> None:
    """Without Redis, publishing fails and subscribers wait; if it comes back empty, they end."""
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    last = await two.publish("t", "a")
    await received(cluster, first, last)
    server.kill()
    await cluster.until(lambda: one.broker.fault() and two.broker.fault())
    assert "connection" in await refused(one.publish("t", "b"))
    await refused(one.broker.describe("t"))
    await refused(one.broker.names())
    # A new subscriber waits.
    late, back = two.listen("t"), two.listen("t", after=last)
    assert [first.events[-1], late.events, back.events] == [(last, "a"), [], []]
    server.start()
    await cluster.until(lambda: late.begun and back.begun and first.events[-1] == "lost")
    assert late.events == back.events
    (begin, recovered) = late.events[0]
    assert not recovered
    assert begin.endswith(":0")
    assert not begin.startswith(last.partition(":")[0])
    assert await one.publish("t", "b") == begin.replace(":0", ":1")
    await cluster.until(lambda: len(late.events) == 2)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_restarted_with_its_data(cluster: Cluster, server: RedisServer) -> None:
    """After a restart with an append-only file, subscribers go on without a gap."""
    server.kill()
    server.args = ["--appendonly", "yes"]
    server.start()
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    ids = [await two.publish("t", "a", "k")]
    server.kill()
    await cluster.until(lambda: one.broker.fault() and two.broker.fault())
    server.start()
    await cluster.until(lambda: two.broker.fault() is None)
    assert await two.publish("t", "a", "k") == ids[0]
    ids += [await two.publish("t", data) for data in "bc"]
    assert await received(cluster, first, ids[2]) == ids


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_restarted_with_old_data(cluster: Cluster, server: RedisServer) -> None:
    """After a restart with older data, lost offsets are not given again."""
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    ids = [await two.publish("t", "a")]
    server.ask("SAVE")
    ids += [await two.publish("t", data) for data in "bc"]
    await received(cluster, first, ids[2])
    server.kill()
    server.start()
    await cluster.until(lambda: two.broker.fault() is None and first.events[-1] == "lost")
    assert (await two.broker.describe("t"))[0] is not None
    new = [await two.publish("t", data) for data in "bcd"]
    assert new[0].endswith(":1")
    assert not new[0].startswith(ids[0].partition(":")[0])
    assert not (await two.replay("t", ids[2])).recovered
    assert first.events[1:-1] == list(zip(ids, "abc", strict=True))


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_flushed(cluster: Cluster, server: RedisServer) -> None:
    """After FLUSHALL and SCRIPT FLUSH, the next publication begins a new epoch."""
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    last = await two.publish("t", "a")
    await received(cluster, first, last)
    server.ask("FLUSHALL")
    server.ask("SCRIPT", "FLUSH")
    new = await two.publish("t", "b")
    assert new.endswith(":1")
    assert not new.startswith(last.partition(":")[0])
    await cluster.until(lambda: first.events[-1] == "lost")


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_paused(cluster: Cluster, server: RedisServer) -> None:
    """A short pause of Redis is a delay; a long one makes it unavailable."""
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    server.pause()
    publishing = [two.broker.publish("t", data) for data in "abc"]
    await cluster.wait(1)
    assert not any(one.called for one in publishing)
    server.resume()
    ids = [str(await one) for one in publishing]
    assert await received(cluster, first, ids[2]) == ids
    server.pause()
    unknown = two.broker.publish("t", "d", "k")
    await cluster.until(lambda: one.broker.fault() and two.broker.fault())
    assert "may or may not" in await refused(unknown)
    server.resume()
    await cluster.until(lambda: two.broker.fault() is None)
    # Repeated with the same key, it is published once, then or now.
    ids.append(await two.publish("t", "d", "k"))
    assert await received(cluster, first, ids[3]) == ids


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_clients_killed(cluster: Cluster, server: RedisServer) -> None:
    """Connections that are cut at any time cause no gap and no repeat."""
    one, two = await cluster.start(Retention(size=10_000))
    first = await listen(cluster, one)
    ids: list[str] = []
    for number in range(300):
        if number % 50 == 25:
            server.ask("CLIENT", "KILL", "TYPE", ("pubsub", "normal")[number % 100 == 25])
        while True:
            try:
                ids.append(await two.publish("t", f"{number}", f"{number}"))
                break
            except Unavailable:
                await cluster.until(lambda: two.broker.fault() is None)
    assert await received(cluster, first, ids[-1]) == ids
    assert [data for _, data in first.events[1:]] == [f"{number}" for number in range(300)]


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_expiry_of_keys(cluster: Cluster, server: RedisServer) -> None:
    """Only what is retained has no expiry in Redis, and only as long as a rule says so."""
    rules = Rules([TopicRule(match="r/*", retain=True), TopicRule(match="s", history_ttl=5)])
    node, other = await cluster.start(Retention(ttl=50), rules)

    def left(topic: str) -> list[int]:
        """Return for how many seconds the two keys of a topic are kept; -1 without a limit."""
        names = RedisNames().topic_keys(topic)
        return [max(-2, server.ask("PTTL", name)) // 1000 for name in names]

    def is_about(seconds: list[int], *expected: int) -> bool:
        """Return whether times are those expected, or a little less."""
        return all(one - 10 <= got <= one for got, one in zip(seconds, expected, strict=True))

    unused, used = node.listen("r/unused"), node.listen("r/1")
    await cluster.until(lambda: unused.begun and used.begun)
    for topic in ("r/1", "s", "t"):
        await node.publish(topic, "x")
    broker: Any = node.broker
    for _ in range(2):
        assert left("r/1") == [-1, -1]
        assert is_about(left("s"), 605, 5)
        assert is_about(left("t"), 650, 50)
        assert is_about(left("r/unused")[:1], 650)
        # Renewed, described and read, which a retained topic does not notice.
        await broker._commands.touch(broker._reconnector.session, ["r/1", "s", "t"])
        for topic in ("r/1", "s", "t"):
            await node.broker.describe(topic)
            await other.replay(topic, None)
    assert unused.events[1:] == []
    rules.replace(Rules())
    await other.replay("r/1", None)
    assert is_about(left("r/1"), 650, 50)
    rules.replace(Rules([TopicRule(match="**", retain=True)]))
    for topic in ("r/1", "t"):
        await other.replay(topic, None)
        assert left(topic) == [-1, -1]
    rules.replace(Rules())
    await node.publish("r/1", "y")
    assert is_about(left("r/1"), 650, 50)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_gaps(cluster: Cluster, server: RedisServer) -> None:
    """A publication whose message was lost is read from the history, even from a long one."""
    one, _ = await cluster.start(Retention(size=10_000))
    # This node publishes to the channels of another database.
    silent = await cluster.start_node(Retention(size=10_000), db=7)
    first = await listen(cluster, one)
    second = await listen(cluster, one)
    ids = [await silent.publish("t", "x" * 1000) for _ in range(600)]
    assert len(first.events) == 1
    server.ask("PUBLISH", "pushd:0:t", "not a publication")
    server.ask("PUBLISH", "pushd:0:t", b"e:1 t\xff")
    with capturedLogs() as events:
        ids.append(await one.publish("t", "x"))
        assert await received(cluster, first, ids[-1]) == ids
    assert await received(cluster, second, ids[-1]) == ids
    assert sum("another program" in str(event["log_format"]) for event in events) == 2


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_gap_longer_than_the_history(cluster: Cluster) -> None:
    """If the publication is not in the history any more, the subscribers end."""
    one, _ = await cluster.start(Retention(size=3))
    silent = await cluster.start_node(Retention(size=3), db=7)
    first = await listen(cluster, one)
    for _ in range(10):
        await silent.publish("t", "x")
    await one.publish("t", "x")
    await cluster.until(lambda: first.events[1:] == ["lost"])
    second = await listen(cluster, one)
    last = await one.publish("t", "x")
    assert await received(cluster, second, last) == [last]


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_full(cluster: Cluster, server: RedisServer) -> None:
    """A full Redis accepts no publications, and keeps those it has."""
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    last = await two.publish("t", "a")
    server.ask("CONFIG", "SET", "maxmemory", 1)
    assert "OOM" in await refused(two.publish("t", "b"))
    assert "OOM" in await refused(two.broker.publish_all([Draft("t", "c"), Draft("u", "d")]))
    assert one.broker.fault() is None
    newcomer = one.listen("new")
    await cluster.wait(0.1)
    server.ask("CONFIG", "SET", "maxmemory", 0)
    assert await two.broker.describe("u") == (None, 0)
    ids = [last, await two.publish("t", "e")]
    assert await received(cluster, first, ids[1]) == ids
    await cluster.until(lambda: newcomer.begun)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_becomes_a_replica(cluster: Cluster, server: RedisServer) -> None:
    """A server that becomes a replica is unavailable until it is a master again."""
    one, two = await cluster.start(Retention())
    first = await listen(cluster, one)
    ids = [await two.publish("t", "a")]
    server.ask("REPLICAOF", "127.0.0.1", 1)
    assert "READONLY" in await refused(two.publish("t", "b"))
    await cluster.until(lambda: "read-only replica" in (two.broker.fault() or ""))
    server.ask("REPLICAOF", "NO", "ONE")
    await cluster.until(lambda: two.broker.fault() is None)
    ids.append(await two.publish("t", "c"))
    assert ids[1] == ids[0].replace(":1", ":2")
    assert await received(cluster, first, ids[1]) == ids


async def replicate(cluster: Cluster, replica: RedisServer, port: int) -> None:
    """Make a server the replica of another, and wait until it has all data."""
    replica.ask("REPLICAOF", "127.0.0.1", port)
    await cluster.until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))


@pytest.mark.parametrize("appendonly", ["no", "yes"])
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_demoted_and_promoted(appendonly: str) -> None:
    """A server that took the data of a stale replica, and is the master again, has new epochs."""
    with (
        held_port() as one,
        held_port() as two,
        RedisServer([*SYNC, "--appendonly", appendonly], port=one) as server,
        RedisServer(SYNC, port=two) as replica,
    ):
        cluster = Cluster(server)
        node, _ = await cluster.start(Retention())
        first = await listen(cluster, node)
        await replicate(cluster, replica, one)
        ids = [await node.publish("t", "a")]
        await cluster.until(lambda: replica.ask("XLEN", "pushd:{t}:history") == 1)
        replica.ask("REPLICAOF", "NO", "ONE")
        ids += [await node.publish("t", data) for data in "bc"]
        await received(cluster, first, ids[2])
        await replicate(cluster, server, two)
        server.ask("REPLICAOF", "NO", "ONE")
        # The node has not noticed anything.
        assert node.broker.fault() is None
        assert (await node.broker.describe("t"))[0] is None
        new = [await node.publish("t", data) for data in "de"]
        assert not {*new} & {*ids}
        assert not new[0].startswith(ids[0].partition(":")[0])
        await cluster.until(lambda: first.events[-1] == "lost")
        for id in ids:
            assert not (await node.replay("t", id)).recovered
        assert (await node.replay("t", new[0])).recovered
        for each in cluster.nodes:
            each.broker.stop()


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_replica_promoted(cluster: Cluster) -> None:
    """A replica that took over without a restart of anything has new epochs."""
    with held_port() as port, RedisServer(SYNC, port=port) as server, RedisServer(SYNC) as replica:
        cluster = Cluster(server)
        node, _ = await cluster.start(Retention())
        ids = [await node.publish("t", data) for data in "ab"]
        await replicate(cluster, replica, port)
        replica.ask("REPLICAOF", "NO", "ONE")
        cluster.server = replica
        other = await cluster.start_node()
        ids += [await other.publish("t", data) for data in "cde"]
        assert len({*ids}) == 5
        assert not (await other.replay("t", ids[1])).recovered
        for each in cluster.nodes:
            each.broker.stop()


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_back_at_the_former_server(cluster: Cluster, server: RedisServer) -> None:
    """What was published at another server meanwhile is missing: each change has new epochs."""
    with RedisServer() as another:
        moving = MovingAddress(cluster, server)
        nodes = [await moving.start_node() for _ in range(2)]
        ids, epochs = [], []
        for place in (server, another, server, another):
            await moving.move(place)
            ids.append(await nodes[0].publish("t", "x"))
            # The other node does not change the epoch once more.
            ids.append(await nodes[1].publish("t", "x"))
            epochs.append(ids[-1].partition(":")[0])
            assert ids[-2].partition(":")[0] == epochs[-1]
            assert [(await nodes[0].replay("t", id)).recovered for id in ids] == [
                id.startswith(f"{epochs[-1]}:") for id in ids
            ]
        assert len({*epochs}) == 4
        # A new session with the same server changes nothing.
        await moving.move(another)
        assert (await nodes[1].publish("t", "x")).startswith(f"{epochs[-1]}:")


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_prefix(cluster: Cluster, server: RedisServer) -> None:
    """Two deployments on one Redis share nothing: neither topics and keys, nor messages."""
    one, _ = await cluster.start(Retention())
    other = await cluster.start_node(prefix="other")
    first, second = await listen(cluster, one), await listen(cluster, other)
    ids = [await one.publish("t", "a", "k"), await other.publish("t", "b", "k")]
    assert await received(cluster, first, ids[0]) == ids[:1]
    assert await received(cluster, second, ids[1]) == ids[1:]
    assert ids[1].endswith(":1")
    await other.publish("u", "x")
    assert [sorted(await node.broker.names()) for node in (one, other)] == [["t"], ["t", "u"]]
    keys = sorted(server.ask("KEYS", "*"))
    assert {key.partition(b":")[0] for key in keys} == {b"pushd", b"other"}
    assert b"other:server" in keys


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_slow_node(cluster: Cluster, server: RedisServer) -> None:
    """A node whose connection Redis closes because it reads too slowly catches up."""
    one, two = await cluster.start(Retention(size=10_000))
    first = await listen(cluster, one)
    server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 300000 0 0")
    drafts = [Draft("t", f"{number} {'x' * 10_000}") for number in range(500)]
    with capturedLogs() as events:
        ids = [str(id) for id in await two.broker.publish_all(drafts)]
        assert await received(cluster, first, ids[-1]) == ids
    assert any("is unavailable" in str(event["log_format"]) for event in events)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_connections_and_channels(cluster: Cluster, server: RedisServer) -> None:
    """A node has two connections, and is subscribed to the channels of followed topics only."""
    one, _ = await cluster.start(Retention())
    subscribers = [one.listen(f"t{number}") for number in range(200)]
    await cluster.until(lambda: all(subscriber.begun for subscriber in subscribers))
    # And to the channel of revocations.
    assert len(server.ask("PUBSUB", "CHANNELS")) == 201
    # Two nodes have two each, and this command has one.
    assert len(server.ask("CLIENT", "LIST").splitlines()) == 5
    for subscriber in subscribers[1:]:
        assert subscriber.subscription is not None
        subscriber.subscription.cancel()
    await one.publish("t0", "x")
    await cluster.until(lambda: len(subscribers[0].events) == 2)
    assert len(server.ask("PUBSUB", "CHANNELS")) == 2
    assert b"pushd:0:t0" in server.ask("PUBSUB", "CHANNELS")


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_keys_expire(cluster: Cluster, server: RedisServer) -> None:
    """All keys of a topic expire; only one small key is permanent."""
    one, _ = await cluster.start(Retention())
    await one.publish("t", "x", "k")
    ages = {key: server.ask("TTL", key) for key in server.ask("KEYS", "*")}
    assert ages.pop(b"pushd:server") == -1
    for key, most in [
        (b"pushd:{t}:topic", 900),
        (b"pushd:{t}:history", 300),
        (RedisNames().idempotency_key("t", "k").encode(), 300),
    ]:
        assert most - 30 <= ages.pop(key) <= most
    assert ages == {}


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_interleavings(server: RedisServer) -> None:
    """Publications, faults, leaving and resuming at another node in random order leave no gap."""
    places, nodes = st.integers(0, 3), st.integers(0, 1)
    step = st.one_of(
        st.tuples(st.just("publish"), nodes, st.sampled_from([1, 1, 2, 5])),
        st.tuples(st.just("join"), places, nodes),
        st.tuples(st.sampled_from(["leave", "room"]), places, nodes),
        st.sampled_from(["lose", "iterate", "settle", "kill pubsub", "kill normal", "forget"]),
    )

    @settings(FUZZ, max_examples=40)
    @given(st.lists(step, min_size=5, max_size=40), st.sampled_from([0, 1, 3, 100]))
    def play(steps: list[Any], size: int) -> None:
        server.ask("FLUSHALL")
        playing = partial(_play, server, steps, Retention(size=size))
        _block: Any = blockingCallFromThread
        _block(reactor, lambda: Deferred.fromCoroutine(playing()))

    from twisted.internet import reactor as it

    reactor: Any = it
    await deferToThread(play)


async def _play(server: RedisServer, steps: list[Any], retention: Retention) -> None:
    """Run the steps, then let everything arrive."""
    cluster = Cluster(server)
    nodes = await cluster.start(retention)
    silent = await cluster.start_node(retention, db=7)
    published: dict[str, str] = {}
    here: list[SlowSubscriber | None] = [None] * 4
    last: list[Id | None] = [None] * 4
    subscribers: list[SlowSubscriber] = []

    async def publish(node: Node) -> None:
        data = f"{len(published)}"
        while data not in published.values():
            try:
                published[await node.publish("t", data, data)] = data
            except Unavailable:
                await cluster.until(lambda: node.broker.fault() is None)

    for step in steps:
        match step:
            case ("publish", place, number):
                for _ in range(number):
                    await publish(nodes[place])
            case ("join", place, node) if here[place] is None:
                subscriber = here[place] = SlowSubscriber(last[place], direct=place == 0)
                subscribers.append(subscriber)
                subscriber.subscription = nodes[node].hub.subscribe("t", subscriber, last[place])
            case ("leave" | "room" as what, place, _):
                if (subscriber := here[place]) is None or subscriber.subscription is None:
                    continue
                if what == "room":
                    subscriber.room += 3
                    subscriber.subscription.resume()
                else:
                    subscriber.subscription.cancel()
                    subscriber.left = True
                    last[place], here[place] = subscriber.last, None
            case "lose":
                await publish(silent)
            case "iterate":
                await cluster.wait(0)
            case "settle":
                await cluster.wait(0.01)
            case "kill pubsub" | "kill normal":
                server.ask("CLIENT", "KILL", "TYPE", step.split()[1])
            case "forget":
                server.ask("FLUSHALL")
    for subscriber in subscribers:
        subscriber.room = 1 << 30
        assert subscriber.subscription
        subscriber.subscription.resume()
    await cluster.until(lambda: all(node.broker.fault() is None for node in cluster.nodes))
    await publish(nodes[0])
    end = list(published)[-1]
    # A subscriber that was not lost has received everything up to the end.
    await cluster.until(
        lambda: all(one is None or one.lost or str(one.last) == end for one in here)
    )
    for subscriber in subscribers:
        if subscriber.run is not None:
            resuming.ResumingTestCase().check(subscriber.run, published)
    for node in cluster.nodes:
        node.broker.stop()
