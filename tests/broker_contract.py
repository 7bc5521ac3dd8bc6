"""What every broker does, whatever keeps the topics: the rules, and what it takes to run them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from pushd.topics.broker import Broker, Draft
from pushd.topics.fanout import Batch
from pushd.topics.history import Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.subscription import Subscription


class Listener:
    """A subscriber that has room for all, and notes what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.subscription: Subscription | None = None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Note it."""
        self.events.append((str(id), recovered))

    def deliver(self, batch: Batch) -> None:
        """Note it."""
        self.events += [(str(publication.id), publication.data) for publication in batch]

    def has_room(self) -> bool:
        """Whether there is room: always."""
        return True

    def keeps_up(self) -> bool:
        """Whether it keeps up: always."""
        return True

    def direct_write(self) -> None:
        """Always be asked."""

    def subscription_lost(self) -> None:
        """Note it."""
        self.events.append("lost")

    def has_heard(self, number: int) -> bool:
        """Whether it has heard so many publications."""
        return len(self.events) == 1 + number

    @property
    def begun(self) -> bool:
        """Whether it was told where it begins."""
        return bool(self.events)


class Node:
    """One node: its broker and its hub."""

    def __init__(self, broker: Broker, clock: Any) -> None:
        self.broker = broker
        self.hub = Hub(broker, clock)
        broker.start(self.deliver, self.hub.end_at_gap)

    def deliver(self, publication: Publication) -> None:
        """Let the hub have it; it tells at the end of the turn."""
        self.hub.deliver(publication)

    def listen(self, topic: str, after: str | None = None) -> Listener:
        """Let somebody listen."""
        listener = Listener()
        id = None if after is None else Id.parse(after)
        listener.subscription = self.hub.subscribe(topic, listener, id)
        return listener

    async def publish(self, topic: str, data: str | bytes, key: str | None = None) -> str:
        """Publish; gives the id."""
        return str(await self.broker.publish(topic, data, key))

    async def replay(self, topic: str, after: str | None, limit: int = 1 << 20) -> Replay:
        """Read the past."""
        id = None if after is None else Id.parse(after)
        return await self.broker.replay(topic, id, limit)


class Cluster(Protocol):
    """Nodes that share their topics; a broker that is alone is all of them."""

    async def start(self, retention: Retention) -> tuple[Node, Node]:
        """Start two nodes."""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until this is true; fails where it does not become so."""

    async def wait(self, seconds: float) -> None:
        """Let time pass."""


Rule = Callable[[Cluster], Awaitable[None]]


async def ids_count(cluster: Cluster) -> None:
    """Ids count 1, 2, 3… in one epoch, whichever node publishes; each topic has its own."""
    one, two = await cluster.start(Retention())
    ids = [await node.publish("t", "x") for node in (one, two, two, one)]
    epoch = ids[0].partition(":")[0]
    assert ids == [f"{epoch}:{offset}" for offset in (1, 2, 3, 4)]
    other = await two.publish("u", "x")
    assert other.endswith(":1")
    assert not other.startswith(f"{epoch}:")


async def everybody_hears(cluster: Cluster) -> None:
    """What is published at a node all hear at all nodes, as it was sent, in the same order."""
    one, two = await cluster.start(Retention())
    listeners = [one.listen("t"), two.listen("t"), one.listen("t")]
    await cluster.until(lambda: all(listener.begun for listener in listeners))
    sent: list[str | bytes] = [
        "text",
        b"\xff\x00 bytes",
        "",
        b"",
        "ä\r\n\u2028",
        "1234",
        "-1.5",
        "x" * 300_000,
    ]
    ids = [await node.publish("t", data) for node, data in zip([one, two] * 4, sent, strict=True)]
    for listener in listeners:
        await cluster.until(partial(listener.has_heard, 8))
        assert listener.events[1:] == list(zip(ids, sent, strict=True))


async def many_at_once(cluster: Cluster) -> None:
    """Publications from all nodes at once come in one order, the same for all, with no gap."""
    one, two = await cluster.start(Retention())
    listeners = [one.listen("t"), two.listen("t")]
    await cluster.until(lambda: all(listener.begun for listener in listeners))
    publishing = [node.broker.publish("t", f"{n}") for n in range(300) for node in (one, two)]
    ids = [str(await one) for one in publishing]
    for listener in listeners:
        await cluster.until(partial(listener.has_heard, 600))
    assert listeners[0].events[1:] == listeners[1].events[1:]
    heard = [id for id, _ in listeners[0].events[1:]]
    assert sorted(heard) == sorted(ids)
    assert [int(id.partition(":")[2]) for id in heard] == list(range(1, 601))


async def keys_are_remembered(cluster: Cluster) -> None:
    """A key that a topic has seen gives the id of then, at every node, and publishes nothing."""
    one, two = await cluster.start(Retention())
    listener = two.listen("t")
    await cluster.until(lambda: listener.begun)
    first = await one.publish("t", "a", "k")
    assert await two.publish("t", "b", "k") == first
    assert await two.publish("u", "c", "k") != first
    last = await two.publish("t", "d", "l")
    await cluster.until(lambda: len(listener.events) == 3)
    assert listener.events[1:] == [(first, "a"), (last, "d")]


async def all_are_published(cluster: Cluster) -> None:
    """Many are published in their order, with their keys, to their topics."""
    one, two = await cluster.start(Retention())
    before = await two.publish("t", "a", "k")
    drafts = [Draft("t", "b"), Draft("t", b"again", "k"), Draft("u", b"\xfe"), Draft("t", "c", "l")]
    ids = [str(id) for id in await one.broker.publish_all(drafts)]
    epoch = before.partition(":")[0]
    assert ids == [f"{epoch}:2", before, ids[2], f"{epoch}:3"]
    assert await two.publish("t", "again", "l") == ids[3]
    replay = await two.replay("t", f"{epoch}:0")
    assert [one.data for one in replay.publications] == ["a", "b", "c"]
    assert await one.broker.publish_all([]) == []


async def past_is_read(cluster: Cluster) -> None:
    """The past since an id is given, or it is said that it can't be."""
    one, two = await cluster.start(Retention())
    new = await one.replay("t", None)
    assert (new.recovered, new.publications, new.id) == (False, (), new.last)
    ids = [await one.publish("t", data) for data in ("a", b"b", "c")]
    assert str(new.id) == ids[0].replace(":1", ":0")
    for after, expected in [(str(new.id), 0), (ids[0], 1), (ids[1], 2), (ids[2], 3)]:
        replay = await two.replay("t", after)
        assert (str(replay.id), replay.recovered, str(replay.last)) == (after, True, ids[2])
        assert [str(one.id) for one in replay.publications] == ids[expected:]
        assert [one.data for one in replay.publications] == ["a", b"b", "c"][expected:]
    for unknown in (None, "another:1", ids[0].replace(":1", ":4"), ids[0].replace(":1", ":99")):
        replay = await two.replay("t", unknown)
        assert (str(replay.id), replay.recovered, replay.publications) == (ids[2], False, ())


async def past_is_read_in_pieces(cluster: Cluster) -> None:
    """Of a long past as much is given as was asked for, one publication at least."""
    one, two = await cluster.start(Retention())
    begin = str((await one.replay("t", None)).id)
    ids = [await one.publish("t", "x" * 5000) for _ in range(50)]
    first = await two.replay("t", begin, 1)
    assert [str(one.id) for one in first.publications] == ids[:1]
    after = begin
    seen: list[str] = []
    asked = 0
    while after != ids[-1]:
        replay = await two.replay("t", after, 40_000)
        assert replay.recovered
        assert 1 <= len(replay.publications) <= 20
        seen += [str(one.id) for one in replay.publications]
        after = seen[-1]
        asked += 1
    assert seen == ids
    assert asked < 15


async def number_is_bounded(cluster: Cluster) -> None:
    """Of each topic as many are kept as the retention says."""
    one, two = await cluster.start(Retention(size=3))
    ids = [await one.publish("t", f"{number}") for number in range(5)]
    id, kept = await two.broker.describe("t")
    assert (str(id), kept) == (ids[4], 3)
    assert (await two.replay("t", ids[1])).recovered
    assert not (await two.replay("t", ids[0])).recovered


async def nothing_is_kept(cluster: Cluster) -> None:
    """Where nothing is kept, who has the last id has all, and nobody else."""
    one, two = await cluster.start(Retention(size=0))
    listener = two.listen("t")
    await cluster.until(lambda: listener.begun)
    ids = [await one.publish("t", f"{number}") for number in range(3)]
    await cluster.until(lambda: len(listener.events) == 4)
    assert [id for id, _ in listener.events[1:]] == ids
    assert (await two.replay("t", ids[2])).recovered
    assert not (await two.replay("t", ids[1])).recovered


async def age_is_bounded(cluster: Cluster) -> None:
    """What is too old is not given any more; the epoch stays as long as somebody may ask."""
    # So long that what is young may take some seconds more where time is not ours.
    one, two = await cluster.start(Retention(ttl=8))
    listener = one.listen("t")
    await cluster.until(lambda: listener.begun)
    ids = [await one.publish("t", f"{number}") for number in range(7)]
    await cluster.wait(5)
    ids += [await one.publish("t", "young"), await one.publish("t", "young")]
    await cluster.wait(3.5)
    assert not (await two.replay("t", ids[5])).recovered
    replay = await two.replay("t", ids[6])
    assert [str(one.id) for one in replay.publications] == ids[7:]
    assert await two.broker.describe("t") == (Id.parse(ids[8]), 2)
    await cluster.wait(8)
    assert await two.broker.describe("t") == (Id.parse(ids[8]), 0)
    assert (await two.replay("t", ids[8])).recovered
    assert await one.publish("t", "next") == ids[0].replace(":1", ":10")


async def topics_are_told(cluster: Cluster) -> None:
    """Topics are listed and described; one that nobody has heard of is not made by that."""
    one, two = await cluster.start(Retention())
    assert await one.broker.describe("t") == (None, 0)
    assert await one.broker.names() == []
    ids = [await one.publish(topic, "x") for topic in ("t", "a/b:c.d-e_f", "t")]
    assert sorted(await two.broker.names()) == ["a/b:c.d-e_f", "t"]
    assert await two.broker.describe("t") == (Id.parse(ids[2]), 2)
    assert (one.broker.fault(), two.broker.fault()) == (None, None)


async def one_leaves_and_comes_back(cluster: Cluster) -> None:
    """Who leaves hears no more; who comes back, at any node, hears what was missed and goes on."""
    one, two = await cluster.start(Retention())
    listener = one.listen("t")
    await cluster.until(lambda: listener.begun)
    ids = [await two.publish("t", "a")]
    await cluster.until(lambda: len(listener.events) == 2)
    assert listener.subscription is not None
    listener.subscription.cancel()
    ids.append(await two.publish("t", "b"))
    for node in (one, two, one):
        back = node.listen("t", after=ids[0])
        await cluster.until(partial(back.has_heard, len(ids) - 1))
        assert back.events[0] == (ids[0], True)
        ids.append(await two.publish("t", "c"))
        await cluster.until(partial(back.has_heard, len(ids) - 1))
        assert [id for id, _ in back.events[1:]] == ids[1:]
        assert back.subscription is not None
        back.subscription.cancel()
    assert len(listener.events) == 2


RULES: tuple[Rule, ...] = (
    ids_count,
    everybody_hears,
    many_at_once,
    keys_are_remembered,
    all_are_published,
    past_is_read,
    past_is_read_in_pieces,
    number_is_bounded,
    nothing_is_kept,
    age_is_bounded,
    topics_are_told,
    one_leaves_and_comes_back,
)
