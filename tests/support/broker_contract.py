"""The contract of all brokers: its rules, and nodes and subscribers to check them with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from pushd.topics.broker import Broker, Draft
from pushd.topics.cursor import Cursor, Position, hash_topic
from pushd.topics.fanout import Batch
from pushd.topics.history import Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.rules import Rule as TopicRule
from pushd.topics.rules import Rules as TopicRules
from pushd.topics.subscription import Subscription


class RecordingSubscriber:
    """A subscriber that always keeps up, and records what it gets."""

    transport = "fake"

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.subscription: Subscription | None = None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Record where the subscription begins."""
        self.events.append((str(id), recovered))

    def deliver(self, batch: Batch) -> None:
        """Record the publications."""
        self.events += [(str(publication.id), publication.data) for publication in batch]

    def has_room(self) -> bool:
        """Return True."""
        return True

    @property
    def taken(self) -> int:
        """Return that it takes nothing."""
        return 0

    def keeps_up(self) -> bool:
        """Return True."""
        return True

    def can_take(self, batch: Batch) -> bool:
        """Return True."""
        return True

    def direct_write(self) -> None:
        """Return None: it has no socket."""

    def subscription_lost(self) -> None:
        """Record the end."""
        self.events.append("lost")

    def has_received(self, number: int) -> bool:
        """Return whether it has received that many publications."""
        return len(self.events) == 1 + number

    @property
    def begun(self) -> bool:
        """Whether the subscription has begun."""
        return bool(self.events)


class Collector(RecordingSubscriber):
    """A subscriber that keeps all publications."""

    def __init__(self) -> None:
        super().__init__()
        self.publications: list[Publication] = []

    def deliver(self, batch: Batch) -> None:
        """Keep the publications."""
        super().deliver(batch)
        self.publications += batch


class Node:
    """One node: its broker and its hub."""

    def __init__(self, broker: Broker, clock: Any, rules: TopicRules | None = None) -> None:
        self.broker = broker
        self.hub = Hub(broker, clock, rules=rules)
        broker.start(self.deliver, self.hub.end_at_gap)

    def deliver(self, publication: Publication) -> None:
        """Pass a publication to the hub."""
        self.hub.deliver(publication)

    def listen(self, topic: str, after: str | None = None) -> RecordingSubscriber:
        """Subscribe to a topic."""
        subscriber = RecordingSubscriber()
        id = None if after is None else Id.parse(after)
        subscriber.subscription = self.hub.subscribe(topic, subscriber, id)
        return subscriber

    async def publish(self, topic: str, data: str | bytes, key: str | None = None) -> str:
        """Publish, and return the id."""
        return str(await self.broker.publish(topic, data, key))

    async def replay(self, topic: str, after: str | None, limit: int = 1 << 20) -> Replay:
        """Read the history."""
        id = None if after is None else Id.parse(after)
        return await self.broker.replay(topic, id, limit)


class Cluster(Protocol):
    """Nodes that share their topics; with a memory broker, one node in both roles."""

    async def start(
        self, retention: Retention, rules: TopicRules | None = None
    ) -> tuple[Node, Node]:
        """Start two nodes, with the same rules for topics."""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true; fail if that takes too long."""

    async def wait(self, seconds: float) -> None:
        """Let time pass."""


Rule = Callable[[Cluster], Awaitable[None]]


async def ids_count(cluster: Cluster) -> None:
    """Offsets count 1, 2, 3… in one epoch per topic, no matter which node publishes."""
    one, two = await cluster.start(Retention())
    ids = [await node.publish("t", "x") for node in (one, two, two, one)]
    epoch = ids[0].partition(":")[0]
    assert ids == [f"{epoch}:{offset}" for offset in (1, 2, 3, 4)]
    other = await two.publish("u", "x")
    assert other.endswith(":1")
    assert not other.startswith(f"{epoch}:")


async def all_subscribers_receive(cluster: Cluster) -> None:
    """Subscribers of all nodes receive the same publications, unchanged, in the same order."""
    one, two = await cluster.start(Retention())
    subscribers = [one.listen("t"), two.listen("t"), one.listen("t")]
    await cluster.until(lambda: all(subscriber.begun for subscriber in subscribers))
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
    for subscriber in subscribers:
        await cluster.until(partial(subscriber.has_received, 8))
        assert subscriber.events[1:] == list(zip(ids, sent, strict=True))


async def publish_concurrently(cluster: Cluster) -> None:
    """Concurrent publications of all nodes get one order, without gaps, for all subscribers."""
    one, two = await cluster.start(Retention())
    subscribers = [one.listen("t"), two.listen("t")]
    await cluster.until(lambda: all(subscriber.begun for subscriber in subscribers))
    publishing = [node.broker.publish("t", f"{n}") for n in range(300) for node in (one, two)]
    ids = [str(await one) for one in publishing]
    for subscriber in subscribers:
        await cluster.until(partial(subscriber.has_received, 600))
    assert subscribers[0].events[1:] == subscribers[1].events[1:]
    received = [id for id, _ in subscribers[0].events[1:]]
    assert sorted(received) == sorted(ids)
    assert [int(id.partition(":")[2]) for id in received] == list(range(1, 601))


async def keys_are_remembered(cluster: Cluster) -> None:
    """A key that the topic has seen gives the first id, at every node, and publishes nothing."""
    one, two = await cluster.start(Retention())
    subscriber = two.listen("t")
    await cluster.until(lambda: subscriber.begun)
    first = await one.publish("t", "a", "k")
    assert await two.publish("t", "b", "k") == first
    assert await two.publish("u", "c", "k") != first
    last = await two.publish("t", "d", "l")
    await cluster.until(lambda: len(subscriber.events) == 3)
    assert subscriber.events[1:] == [(first, "a"), (last, "d")]


async def drafts_are_published(cluster: Cluster) -> None:
    """Several drafts are published in order, with their topics and keys."""
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


async def history_is_read(cluster: Cluster) -> None:
    """The publications after an id are returned, or the replay is not recovered."""
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


async def history_is_forgotten(cluster: Cluster) -> None:
    """A history can be dropped: ids go on, and who lacks nothing can resume."""
    one, two = await cluster.start(Retention())
    await one.broker.forget("t")
    ids = [await one.publish("t", data) for data in ("a", "b")]
    await two.broker.forget("t")
    assert not (await one.replay("t", ids[0])).recovered
    assert (await two.replay("t", ids[1])).recovered
    assert (await one.broker.describe("t"))[1] == 0
    assert await one.publish("t", "c") == ids[1].replace(":2", ":3")


async def history_is_read_in_parts(cluster: Cluster) -> None:
    """A long history is returned in parts of the given size, with at least one publication."""
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


async def number_is_limited(cluster: Cluster) -> None:
    """The number of publications kept per topic is limited."""
    one, two = await cluster.start(Retention(size=3))
    ids = [await one.publish("t", f"{number}") for number in range(5)]
    id, kept = await two.broker.describe("t")
    assert (str(id), kept) == (ids[4], 3)
    assert (await two.replay("t", ids[1])).recovered
    assert not (await two.replay("t", ids[0])).recovered


async def nothing_is_kept(cluster: Cluster) -> None:
    """If nothing is kept, only a subscriber with the last id is recovered."""
    one, two = await cluster.start(Retention(size=0))
    subscriber = two.listen("t")
    await cluster.until(lambda: subscriber.begun)
    ids = [await one.publish("t", f"{number}") for number in range(3)]
    await cluster.until(lambda: len(subscriber.events) == 4)
    assert [id for id, _ in subscriber.events[1:]] == ids
    assert (await two.replay("t", ids[2])).recovered
    assert not (await two.replay("t", ids[1])).recovered


async def age_is_limited(cluster: Cluster) -> None:
    """Publications expire; the epoch stays as long as a subscriber may resume."""
    # Long enough for the young publications to take some seconds more on a slow machine.
    one, two = await cluster.start(Retention(ttl=8))
    subscriber = one.listen("t")
    await cluster.until(lambda: subscriber.begun)
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


async def rules_limit_numbers(cluster: Cluster) -> None:
    """The number of publications kept is that of a topic's rule; a reload changes it."""
    rules = TopicRules([TopicRule(match="a", history_size=3), TopicRule(match="b", history_size=0)])
    one, two = await cluster.start(Retention(size=2), rules)
    drafts = [Draft(topic, f"{number}") for number in range(5) for topic in ("a", "b", "c")]
    await one.broker.publish_all(drafts)

    async def counts() -> list[int]:
        return [(await two.broker.describe(topic))[1] for topic in ("a", "b", "c")]

    assert await counts() == [3, 0, 2]
    rules.replace(TopicRules([TopicRule(match="a", history_size=0)]))
    assert await counts() == [3, 0, 2]
    last = [await one.publish(topic, "x") for topic in ("a", "b", "c")][1]
    assert await counts() == [0, 1, 2]
    replay = await two.replay("b", last.replace(":6", ":5"))
    assert [one.data for one in replay.publications] == ["x"]
    rules.replace(TopicRules())
    last = await two.publish("a", "y")
    replay = await one.replay("a", last.replace(":7", ":6"))
    assert (replay.recovered, [one.data for one in replay.publications]) == (True, ["y"])
    assert not (await one.replay("a", last.replace(":7", ":5"))).recovered


async def rules_limit_ages(cluster: Cluster) -> None:
    """Publications of one topic expire, while those of others are still kept."""
    rules = TopicRules([TopicRule(match="a", history_ttl=2)])
    one, two = await cluster.start(Retention(), rules)
    ids = [await one.publish(topic, "x") for topic in ("a", "b", "a")]
    for topic, kept in (("a", 2), ("b", 1)):
        assert (await two.broker.describe(topic))[1] == kept
    await cluster.wait(2.5)
    assert (await two.replay("b", ids[1].replace(":1", ":0"))).recovered
    ids.append(await two.publish("b", "y"))
    assert await two.broker.describe("b") == (Id.parse(ids[3]), 2)
    # The topic is forgotten in memory, and has nothing to be read in Redis.
    assert not (await two.replay("a", ids[0])).recovered


async def newest_is_retained(cluster: Cluster) -> None:
    """A topic may retain its newest publication; subscribers that cannot resume begin with it."""
    rules = TopicRules([TopicRule(match="a", history_ttl=2, retain=True)])
    one, two = await cluster.start(Retention(), rules)
    new = await one.replay("a", None)
    assert (new.recovered, new.publications, new.id) == (False, (), new.last)
    ids = [await one.publish("a", data) for data in ("1", b"2")]
    live = one.listen("a")
    await cluster.until(partial(live.has_received, 1))
    await cluster.wait(2.5)
    assert await two.broker.describe("a") == (Id.parse(ids[1]), 1)
    assert (await two.replay("a", ids[0])).recovered
    for after in (None, "other:1", str(new.id)):
        replay = await two.replay("a", after)
        assert (str(replay.id), replay.recovered, str(replay.last)) == (ids[0], False, ids[1])
        assert [publication.data for publication in replay.publications] == [b"2"]
    subscribers = [live, one.listen("a"), two.listen("a"), one.listen("a", "other:7")]
    for subscriber in subscribers:
        await cluster.until(partial(subscriber.has_received, 1))
        assert subscriber.events == [(ids[0], False), (ids[1], b"2")]
    ids.append(await two.publish("a", "3"))
    for subscriber in subscribers:
        await cluster.until(partial(subscriber.has_received, 2))
        assert subscriber.events[2:] == [(ids[2], "3")]
    assert (await one.broker.describe("a"))[1] == 1
    rules.replace(TopicRules())
    replay = await one.replay("a", None)
    assert (replay.publications, str(replay.id)) == ((), ids[2])


async def newest_is_enough(cluster: Cluster) -> None:
    """Of a topic with ``latest``, a subscriber that resumes gets the newest publication only."""
    rules = TopicRules([TopicRule(match="a", latest=True)])
    one, two = await cluster.start(Retention(), rules)
    live = one.listen("a")
    await cluster.until(lambda: live.begun)
    ids = [await node.publish("a", f"{n}") for n, node in enumerate((one, two, two, one, two))]
    await cluster.until(partial(live.has_received, 5))
    assert [id for id, _ in live.events[1:]] == ids
    subscribers = []
    for after, begun in ((ids[1], ids[1]), ("other:7", ids[3]), (ids[4], ids[4])):
        for node in (one, two):
            back = node.listen("a", after)
            newest = [] if after == ids[4] else [(ids[4], "4")]
            await cluster.until(partial(back.has_received, len(newest)))
            assert back.events == [(begun, True), *newest]
            subscribers.append((back, len(newest)))
    ids.append(await one.publish("a", "5"))
    for back, received in subscribers:
        await cluster.until(partial(back.has_received, received + 1))
        assert back.events[-1] == (ids[5], "5")


async def topics_are_described(cluster: Cluster) -> None:
    """Topics are listed and described, which does not create them."""
    one, two = await cluster.start(Retention())
    assert await one.broker.describe("t") == (None, 0)
    assert await one.broker.names() == []
    ids = [await one.publish(topic, "x") for topic in ("t", "a/b:c.d-e_f", "t")]
    assert sorted(await two.broker.names()) == ["a/b:c.d-e_f", "t"]
    assert await two.broker.describe("t") == (Id.parse(ids[2]), 2)
    assert (one.broker.fault(), two.broker.fault()) == (None, None)


async def last_ids_are_kept(cluster: Cluster) -> None:
    """A subscriber that comes later misses nothing since a last id, even one before the first."""
    one, two = await cluster.start(Retention())
    for topic in ("new", "used"):
        if topic == "used":
            await one.publish(topic, "before")
        last = str((await one.replay(topic, None, 0)).last)
        assert await two.publish(topic, "after") == last[:-1] + str(int(last[-1]) + 1)
        replay = await two.replay(topic, last)
        assert replay.recovered
        assert [publication.data for publication in replay.publications] == ["after"]


async def subscribers_resume(cluster: Cluster) -> None:
    """A subscriber that leaves and resumes, at any node, receives what it missed, and goes on."""
    one, two = await cluster.start(Retention())
    subscriber = one.listen("t")
    await cluster.until(lambda: subscriber.begun)
    ids = [await two.publish("t", "a")]
    await cluster.until(lambda: len(subscriber.events) == 2)
    assert subscriber.subscription is not None
    subscriber.subscription.cancel()
    ids.append(await two.publish("t", "b"))
    for node in (one, two, one):
        back = node.listen("t", after=ids[0])
        await cluster.until(partial(back.has_received, len(ids) - 1))
        assert back.events[0] == (ids[0], True)
        ids.append(await two.publish("t", "c"))
        await cluster.until(partial(back.has_received, len(ids) - 1))
        assert [id for id, _ in back.events[1:]] == ids[1:]
        assert back.subscription is not None
        back.subscription.cancel()
    assert len(subscriber.events) == 2


async def kinds_are_kept(cluster: Cluster) -> None:
    """Events, and whether the data is JSON, arrive as published, and stay in the history."""
    one, two = await cluster.start(Retention())
    subscriber = Collector()
    two.hub.subscribe("t", subscriber, None)
    await cluster.until(lambda: subscriber.begun)
    await one.broker.publish("t", "a", event="paid")
    await one.broker.publish("t", "[1]", None, None, True)
    drafts = [Draft("t", b"\n", None, "a:b"), Draft("t", '{"a": "\\n"}', "k", "c", True)]
    await one.broker.publish_all(drafts)
    expected = [("a", "paid", False), ("[1]", None, True), (b"\n", "a:b", False)]
    expected.append(('{"a": "\\n"}', "c", True))
    await cluster.until(lambda: len(subscriber.publications) == 4)
    begin = subscriber.events[0][0]
    for got in (subscriber.publications, (await one.replay("t", begin)).publications):
        assert [(one.data, one.event, one.is_json) for one in got] == expected


async def publications_are_numbered(cluster: Cluster) -> None:
    """All topics are numbered together, with the same numbers in messages and in the history."""
    one, two = await cluster.start(Retention())
    subscribers = {topic: Collector() for topic in "tu"}
    for topic, subscriber in subscribers.items():
        two.hub.subscribe(topic, subscriber, None)
    await cluster.until(lambda: all(each.begun for each in subscribers.values()))
    for topic, node in (("t", one), ("u", two), ("t", two)):
        await node.publish(topic, "x")
    await one.broker.publish_all([Draft("u", "x"), Draft("elsewhere", "x"), Draft("t", "x")])
    await cluster.until(lambda: [len(subscribers[each].events) for each in "tu"] == [4, 3])
    numbers = {}
    for topic, subscriber in subscribers.items():
        replay = await one.replay(topic, subscriber.events[0][0])
        numbers[topic] = [each.sequence for each in replay.publications]
        assert numbers[topic] == [each.sequence for each in subscriber.publications]
        assert two.broker.newest(topic) >= numbers[topic][-1]
    (first, third, sixth), (second, fourth) = numbers["t"], numbers["u"]
    assert 0 < first < second < third < fourth < sixth
    await cluster.until(lambda: two.broker.settled >= sixth)
    assert one.broker.generation == two.broker.generation


async def cursors_are_located(cluster: Cluster) -> None:
    """A cursor gives each topic the id of its last publication up to it, at every node."""
    one, two = await cluster.start(Retention())
    publications = await publish_and_collect(cluster, one, two, "tutuutt")
    generation = one.broker.generation
    for node in (one, two):
        for place, made in enumerate(publications):
            for sequence in (made.sequence - 1, made.sequence):
                cursor = Cursor(generation, sequence)
                before = publications[: place + (sequence == made.sequence)]
                found = await node.broker.locate(["t", "u"], cursor)
                for topic, id in zip("tu", found, strict=True):
                    offset = sum(each.topic == topic for each in before)
                    assert id is not None
                    assert id.offset == offset
                    replay = await node.broker.replay(topic, id, 1 << 20)
                    assert replay.recovered
                    expected = [each for each in publications if each.topic == topic][offset:]
                    assert [each.id for each in replay.publications] == [one.id for one in expected]
    exceptions: dict[str, Position] = {hash_topic(generation, "t"): Id("e", 5)}
    cursor = Cursor(generation, publications[-1].sequence, exceptions)
    last = next(each for each in reversed(publications) if each.topic == "u").id
    assert await one.broker.locate(["u", "t"], cursor) == [last, Id("e", 5)]
    assert await one.broker.locate([], cursor) == []
    assert await one.broker.locate(["t"], cursor) == [Id("e", 5)]


async def cursors_are_not_located(cluster: Cluster) -> None:
    """A cursor that is too old, from the future, or of another generation proves nothing."""
    one, two = await cluster.start(Retention(size=2))
    publications = await publish_and_collect(cluster, one, two, "ttuttt")
    generation = one.broker.generation
    numbers = [each.sequence for each in publications]

    async def locate(sequence: int, name: str = generation) -> list[Id | None]:
        return await two.broker.locate(["t", "u"], Cursor(name, sequence))

    t, u = publications[-1].id, publications[2].id
    # The first three of topic t are dropped.
    assert await locate(numbers[5]) == [t, u]
    assert await locate(numbers[4]) == [Id(t.epoch, 4), u]
    assert await locate(numbers[3]) == [Id(t.epoch, 3), u]
    assert await locate(numbers[2]) == [None, u]
    assert await locate(numbers[1]) == [None, Id(u.epoch, 0)]
    assert await locate(numbers[5] + 1) == [None, None]
    assert await locate(1 << 59) == [None, None]
    assert await locate(numbers[5], "another") == [None, None]


async def cursors_expire(cluster: Cluster) -> None:
    """What has expired can't be located any more, and what is up to date can."""
    one, two = await cluster.start(Retention(ttl=4))
    publications = await publish_and_collect(cluster, one, two, "ttu")
    await cluster.wait(6)
    cursors = [Cursor(one.broker.generation, each.sequence) for each in publications]
    t, u = publications[1].id, publications[2].id
    assert await two.broker.locate(["t", "u"], cursors[0]) == [None, None]
    assert await two.broker.locate(["t", "u"], cursors[1]) == [t, None]
    assert await two.broker.locate(["t", "u"], cursors[2]) == [t, u]


async def cursors_without_history(cluster: Cluster) -> None:
    """If nothing is kept, only a cursor that is up to date is located."""
    one, two = await cluster.start(Retention(size=0))
    publications = await publish_and_collect(cluster, one, two, "tt")
    cursors = [Cursor(one.broker.generation, each.sequence) for each in publications]
    assert await two.broker.locate(["t"], cursors[0]) == [None]
    assert await two.broker.locate(["t"], cursors[1]) == [publications[1].id]


async def publish_and_collect(
    cluster: Cluster, one: Node, two: Node, topics: str
) -> list[Publication]:
    """Publish to topics in turn, subscribed to at the second node, and return what arrives."""
    subscriber = Collector()
    for topic in sorted(set(topics)):
        two.hub.subscribe(topic, subscriber, None)
    await cluster.until(lambda: len(subscriber.events) == len(set(topics)))
    for topic in topics:
        await one.publish(topic, "x")
    await cluster.until(lambda: len(subscriber.publications) == len(topics))
    return sorted(subscriber.publications, key=lambda each: each.sequence)


RULES: tuple[Rule, ...] = (
    ids_count,
    all_subscribers_receive,
    publish_concurrently,
    keys_are_remembered,
    drafts_are_published,
    history_is_read,
    history_is_forgotten,
    history_is_read_in_parts,
    number_is_limited,
    nothing_is_kept,
    age_is_limited,
    rules_limit_numbers,
    rules_limit_ages,
    newest_is_retained,
    newest_is_enough,
    topics_are_described,
    last_ids_are_kept,
    subscribers_resume,
    kinds_are_kept,
    publications_are_numbered,
    cursors_are_located,
    cursors_are_not_located,
    cursors_expire,
    cursors_without_history,
)
