"""No gap and no repeat for connections with several topics: each cursor says where each topic is.

Whatever the order in which nodes publish, read and deliver, every cursor that a connection gives is
compared with what its client has received at that moment, topic by topic; and clients resume from
any of them, at any node.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Protocol

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics import hub as hub_module
from pushd.topics.cursor import LOST, Cursor, CursorTracker
from pushd.topics.fanout import Batch
from pushd.topics.history import History, Retention, Topic
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.rules import Rule, Rules
from pushd.topics.subscription import Subscription
from tests.support.fake_redis import FakeRedis
from tests.support.hub_case import iterate
from tests.support.hypothesis_settings import same_examples
from tests.topics.test_resuming import LateSource

TOPICS = "abcdef"

# Of topic e only the newest publication matters; that of topic f is kept, and given to newcomers.
RULES = Rules((Rule(match="e", latest=True), Rule(match="f", retain=True)))


class NodeSource(LateSource):
    """The broker of one node: it reads and delivers later than another node may."""

    generation = "g"

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.passed = history.sequence

    @property
    def settled(self) -> int:
        """Return the sequence of the last publication that was passed to the hub."""
        return self.passed

    def pass_on(self) -> None:
        """Pass the oldest publication to the hub."""
        if self.publications:
            sequence = self.publications[0].sequence
            super().pass_on()
            self.passed = sequence

    def locate(self, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Look up the ids now; another node may have published more by the time of the reads."""
        places = {topic: cursor.position(topic) for topic in topics}
        return succeed(
            [
                place if isinstance(place, Id) else self.history.locate(topic, place)
                for topic, place in places.items()
            ]
        )


class Log:
    """All publications of each topic, in their order."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Publication]] = {topic: [] for topic in TOPICS}
        # How many publications a topic had when an epoch was first seen.
        self.begun: dict[tuple[str, str], int] = {}

    def add(self, publication: Publication) -> None:
        """Note a publication."""
        self.topics[publication.topic].append(publication)

    def index(self, topic: str, id: Id) -> int:
        """Return how many publications of a topic a client at an id has behind it."""
        return self.begun[topic, id.epoch] + id.offset

    def begin(self, topic: str, epoch: str) -> None:
        """Note an epoch, if it is new."""
        self.begun.setdefault((topic, epoch), len(self.topics[topic]))

    def check(self, cursor: Cursor, received: dict[str, Id]) -> None:
        """Check that a cursor says of each topic what a client has received of it."""
        for topic, id in received.items():
            position = cursor.position(topic)
            if isinstance(position, Id):
                assert position == id, (topic, str(cursor), str(id))
                continue
            index = self.index(topic, id)
            before, after = self.topics[topic][:index], self.topics[topic][index:]
            assert not before or before[-1].sequence <= position, (topic, str(cursor), str(id))
            assert not after or after[0].sequence > position, (topic, str(cursor), str(id))


class LoggedHistory(History):
    """A history that logs what is published, with epochs e0, e1 and so on."""

    def __init__(self, clock: Any, retention: Retention) -> None:
        epochs = iter(range(10_000))
        super().__init__(clock, retention, lambda: f"e{next(epochs)}", rules=RULES)
        self.log = Log()

    def add(
        self,
        name: str,
        data: str | bytes,
        event: str | None = None,
        is_json: bool = False,
        metadata: str | None = None,
    ) -> Publication:
        """Publish, and log that."""
        publication = super().add(name, data, event, is_json, metadata)
        self.log.add(publication)
        return publication

    def _get(self, name: str) -> Topic:
        topic = super()._get(name)
        self.log.begin(name, topic.epoch)
        return topic


class Nodes(Protocol):
    """Two nodes that share their topics."""

    clock: Any
    hubs: list[Hub]
    history: LoggedHistory

    def locate(self, node: int, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Locate a cursor at a node."""

    def publish(self, topic: str, data: str) -> None:
        """Publish."""

    def happen(self, what: str, node: int) -> None:
        """Let something arrive, be read or be answered at a node."""

    def settle(self) -> None:
        """Let everything arrive."""

    def stop(self) -> None:
        """Stop, and leave nothing behind."""


class PlainNodes:
    """Two nodes that read and deliver when a test decides."""

    def __init__(self, retention: Retention) -> None:
        self.clock = Clock()
        self.history = LoggedHistory(self.clock, retention)
        self.sources = [NodeSource(self.history), NodeSource(self.history)]
        self.hubs = []
        for source in self.sources:
            source.hub = Hub(source, self.clock, rules=RULES)
            self.hubs.append(source.hub)

    def locate(self, node: int, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Locate a cursor at a node."""
        return self.sources[node].locate(topics, cursor)

    def publish(self, topic: str, data: str) -> None:
        """Publish; no hub gets it yet."""
        publication = self.history.add(topic, data)
        for source in self.sources:
            source.publications.append(publication)

    def happen(self, what: str, node: int) -> None:
        """Let something arrive, be read or be answered at a node."""
        source = self.sources[node]
        match what:
            case "message":
                source.pass_on()
            case "read":
                source.look_up()
            case "answer":
                source.answer()
            case _:
                source.settle()

    def settle(self) -> None:
        """Let everything arrive."""
        for source in self.sources:
            source.settle()

    def stop(self) -> None:
        """Check that nothing is left once all has expired."""
        for _ in range(2):
            self.clock.advance(10)
        # The newest of topic f is kept.
        assert len(self.history) <= 1


class LateBroker(RedisBroker):
    """A broker of which a test decides when messages reach it."""

    def __init__(self, clock: Any, redis: FakeRedis) -> None:
        super().__init__(
            clock,
            redis.open,
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: "fresh",
            rules=RULES,
        )
        self.messages: deque[tuple[Any, bytes, bytes]] = deque()

    def _receive(self, channel: bytes, message: bytes) -> None:
        self.messages.append((self._reconnector.session, channel, message))

    def receive_one(self) -> None:
        """Receive the oldest message, if its session is open still."""
        if self.messages:
            session, channel, message = self.messages.popleft()
            if session is self._reconnector.session:
                super()._receive(channel, message)


class RedisNodes:
    """Two nodes over a fake Redis, with late answers and messages, and lost connections."""

    def __init__(self, retention: Retention) -> None:
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.history = LoggedHistory(self.clock, retention)
        self.redis.history = self.history
        self.brokers = [LateBroker(self.clock, self.redis) for _ in range(2)]
        self.hubs = []
        for broker in self.brokers:
            hub = Hub(broker, self.clock, rules=RULES)
            broker.start(hub.deliver, hub.end_at_gap)
            self.hubs.append(hub)
        for call, args, arguments in self.clock.whenRunningHooks:
            call(*args, **arguments)

    def locate(self, node: int, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Locate a cursor at a node."""
        return self.brokers[node].locate(topics, cursor)

    def publish(self, topic: str, data: str) -> None:
        """Publish as a third node."""
        self.redis.publish(topic, data)

    def happen(self, what: str, node: int) -> None:
        """Let something arrive or be answered at a node, or be late from now on."""
        match what:
            case "message":
                self.brokers[node].receive_one()
            case "read":
                self.redis.late = True
            case "answer":
                for _ in range(min(1 + 2 * node, len(self.redis.waiting))):
                    waiting, answer = self.redis.waiting.popleft()
                    if not waiting.called:
                        fire = (
                            waiting.errback if isinstance(answer, Exception) else waiting.callback
                        )
                        fire(answer)
            case "lose":
                self.redis.lose()
                # What the next sessions ask is answered late, step by step.
                self.redis.late = True
                self.clock.advance(2)
            case _:
                self.redis.answer()

    def settle(self) -> None:
        """Let everything arrive."""
        for _ in range(4):
            self.redis.answer()
            for broker in self.brokers:
                while broker.messages:
                    broker.receive_one()
            self.clock.advance(0.1)

    def stop(self) -> None:
        """Stop both nodes."""
        for broker in self.brokers:
            broker.stop()
        self.redis.answer()
        self.history.stop()


class Connection:
    """A connection with several topics, and what its client has received.

    :param received: the position of each topic when the client last saw it.
    """

    def __init__(self, world: World, node: int, received: dict[str, Id]) -> None:
        self.world = world
        self.hub = world.nodes.hubs[node]
        self.received = dict(received)
        self.tracker = CursorTracker(self.hub)
        #: Each cursor that the client may resume from, with what it has received by then.
        self.seen: list[tuple[Cursor, dict[str, Id]]] = []
        self.subscriptions: dict[str, Subscription] = {}
        self.room = 3
        #: False until its cursor is located, and after its end.
        self.open = False
        self.gone = False

    def resume(self, cursor: Cursor, topics: Sequence[str], ids: list[Id | None]) -> None:
        """Subscribe to topics from where a cursor says."""
        if self.gone:
            return
        self.open = True
        log, before = self.world.log, dict(self.received)
        self.received = {}
        for topic, id in zip(topics, ids, strict=True):
            if topic in before and id is not None:
                assert log.index(topic, id) == log.index(topic, before[topic])
            if id is not None or topic in before:
                self.received[topic] = before[topic] if id is None else id
        self.tracker = CursorTracker(self.hub, cursor)
        for topic in topics:
            self.tracker.started(topic, cursor)
        for topic, id in zip(topics, ids, strict=True):
            self.subscribe(topic, id or LOST)

    def subscribe(self, topic: str, after: Id | None) -> None:
        """Subscribe to a topic that was registered, unless the connection is over."""
        if not self.open:
            return
        subscriber = TopicOfConnection(self, topic)
        subscription = self.hub.subscribe(topic, subscriber, after, self.tracker)
        self.subscriptions[topic] = subscription
        self.cancel_if_over()

    def unsubscribe(self, topic: str) -> None:
        """Unsubscribe from a topic."""
        subscription = self.subscriptions.pop(topic, None)
        if subscription is not None:
            subscription.cancel()
            self.received.pop(topic, None)

    def give_cursor(self) -> None:
        """Give the client a cursor, which must be exact. Nothing is given after the end."""
        if self.gone:
            return
        text = self.tracker.value()
        cursor = Cursor.parse(text)
        self.world.log.check(cursor, self.received)
        self.seen.append((cursor, dict(self.received)))
        self.world.seen["exceptions" if cursor.exceptions else "no exceptions"] += 1

    def make_room(self, room: int) -> None:
        """Let the client read on."""
        self.room += room
        for subscription in list(self.subscriptions.values()):
            subscription.resume()

    def cut(self) -> None:
        """End the connection."""
        self.gone, self.open = True, False
        self.cancel_if_over()

    def cancel_if_over(self) -> None:
        """Cancel all subscriptions if the connection has ended."""
        if self.gone:
            for subscription in self.subscriptions.values():
                subscription.cancel()


class TopicOfConnection:
    """The subscriber of one topic of a connection."""

    transport = "fake"

    def __init__(self, connection: Connection, topic: str) -> None:
        self.connection = connection
        self.topic = topic
        self.begun = False

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Note where the topic begins: where the client was, if that is recovered."""
        connection = self.connection
        assert not self.begun
        self.begun = True
        log = connection.world.log
        connection.world.seen["recovered" if recovered else "not recovered"] += 1
        if recovered and topic == "e":
            # What it did not get is the newest, or is left out.
            connection.received.setdefault(topic, id)
            return
        if recovered:
            assert log.index(topic, connection.received[topic]) == log.index(topic, id)
        connection.received[topic] = id

    def deliver(self, batch: Batch) -> None:
        """Take publications, each with a cursor."""
        connection = self.connection
        for publication in batch:
            last = connection.received[self.topic]
            if self.topic == "e":
                index = connection.world.log.index
                assert index("e", publication.id) > index("e", last)
            else:
                assert publication.id == Id(last.epoch, last.offset + 1)
            connection.room -= 1
            connection.received[self.topic] = publication.id
            connection.tracker.delivered(publication)
            connection.give_cursor()

    def has_room(self) -> bool:
        """Return whether there is room left."""
        return self.connection.room > 0

    @property
    def taken(self) -> int:
        """Return that it takes nothing."""
        return 0

    def keeps_up(self) -> bool:
        """Return whether there is room left."""
        return self.connection.room > 0

    def can_take(self, batch: Batch) -> bool:
        """Return whether there is room left."""
        return self.connection.room > 0

    def direct_write(self) -> None:
        """Return None: each connection has cursors of its own."""

    def subscription_lost(self) -> None:
        """End the connection, after a cursor that does not hide that this topic lacks something."""
        if not self.connection.gone:
            self.connection.give_cursor()
            self.connection.world.seen["lost"] += 1
            self.connection.cut()


class World:
    """Nodes, connections, and the truth about what was published."""

    def __init__(self, nodes: Nodes, seen: Counter[str]) -> None:
        self.nodes = nodes
        self.seen = seen
        self.log = nodes.history.log
        self.places: list[Connection | None] = [None] * 3
        #: The connections of each place that are over.
        self.former: list[list[Connection]] = [[], [], []]

    def connect(self, place: int, node: int, topics: str, choice: int) -> None:
        """Connect, and resume from any cursor that the client was given."""
        cursors = [one for connection in self.former[place] for one in connection.seen]
        if not cursors:
            connection = self.places[place] = Connection(self, node, {})
            connection.open = True
            for topic in topics:
                connection.subscribe(topic, None)
            return
        # One of the last ones, usually.
        cursor, received = cursors[-1 - min(choice, len(cursors) - 1)]
        connection = self.places[place] = Connection(self, node, received)
        locating = self.nodes.locate(node, topics, cursor)
        locating.addCallback(lambda ids: connection.resume(cursor, topics, ids))
        locating.addErrback(lambda failure: None if connection.gone else failure)
        self.seen["resumed"] += 1

    def cut(self, place: int) -> None:
        """End a connection."""
        connection, self.places[place] = self.places[place], None
        if connection is not None:
            connection.cut()
            if connection.seen:
                self.former[place].append(connection)

    def step(self, step: Any) -> None:
        """Do one step."""
        match step:
            case ("publish", topic):
                self.nodes.publish(topic, "x")
            case ("connect", place, node, topics, choice):
                self.cut(place)
                self.connect(place, node, topics, choice)
            case ("cut", place):
                self.cut(place)
            case ("topic", place, topic, way):
                self.change(place, topic, way)
            case ("room", place):
                connection = self.places[place]
                if connection is not None and connection.open:
                    connection.make_room(3)
                    connection.give_cursor()
            case ("iterate",):
                iterate(self.nodes.clock)
                self.seen["paused"] += any(hub._delivery is not None for hub in self.nodes.hubs)
            case ("flush", node):
                self.nodes.hubs[node].flush()
            case ("expire",):
                self.nodes.clock.advance(3)
            case (what, node):
                self.nodes.happen(what, node)

    def change(self, place: int, topic: str, way: str) -> None:
        """Subscribe to a topic or unsubscribe from it, while others go on."""
        connection = self.places[place]
        if connection is None or not connection.open:
            return
        if topic in connection.subscriptions:
            connection.unsubscribe(topic)
        elif topic not in connection.received:
            log = self.log.topics[topic]
            after = log[max(0, len(log) - 3)].id if log and way == "id" else None
            if after is not None:
                connection.received[topic] = after
            connection.tracker.started(topic, after)
            connection.give_cursor()
            connection.subscribe(topic, after)

    def finish(self) -> None:
        """Let everything arrive: each client that is connected has all, and a short cursor."""
        for _ in range(3):
            for connection in self.places:
                if connection is not None and connection.open:
                    connection.make_room(1 << 30)
            self.nodes.settle()
        for topic in TOPICS:
            self.nodes.publish(topic, "the last shows what was missed")
        self.nodes.settle()
        for hub in self.nodes.hubs:
            hub.flush()
        for connection in self.places:
            if connection is not None and connection.open:
                for topic in connection.subscriptions:
                    assert connection.received[topic] == self.log.topics[topic][-1].id
                connection.give_cursor()
                assert not connection.seen[-1][0].exceptions
                self.seen["finished"] += 1


class InterleavingTests(SynchronousTestCase):
    """Random interleavings of all that can happen to connections, topics and nodes."""

    def interleave(self, make: Any, events: list[str], examples: int) -> Counter[str]:
        """Play many interleavings over nodes, and count the situations that occurred."""
        # Each iteration delivers one run to one subscriber, if it is not told to deliver all.
        self.patch(hub_module, "_STEP", 0)
        places, nodes = st.integers(0, 2), st.integers(0, 1)
        topics = st.sampled_from(TOPICS)
        some = st.sampled_from(["abcdef", "ab", "abce", "fdcba", "bef"])
        publish = st.tuples(st.just("publish"), topics)
        connect = st.tuples(st.just("connect"), places, nodes, some, st.integers(0, 12))
        step = st.one_of(
            publish,
            publish,
            connect,
            st.tuples(st.sampled_from(events), nodes),
            st.tuples(st.sampled_from(events), nodes),
            st.tuples(st.sampled_from(["iterate", "iterate", "iterate", "expire"])),
            st.tuples(st.just("flush"), nodes),
            st.tuples(st.sampled_from(["room", "room", "room", "cut"]), places),
            st.tuples(st.just("topic"), places, topics, st.sampled_from(["id", "new"])),
        )
        retentions = st.builds(
            Retention,
            size=st.sampled_from([100, 100, 4, 1, 0]),
            ttl=st.just(10),
            bytes=st.sampled_from([1 << 20, 8000]),
        )
        seen: Counter[str] = Counter()

        @same_examples(max_examples=examples)
        @given(st.lists(connect, max_size=3), st.lists(step, min_size=40, max_size=100), retentions)
        def play(first: list[Any], steps: list[Any], retention: Retention) -> None:
            world = World(make(retention), seen)
            for step in [*first, *steps]:
                world.step(step)
            world.finish()
            for place in range(3):
                world.cut(place)
            world.nodes.stop()

        play()
        # A random test may miss its purpose: check that it has met every situation, and often.
        for situation in (
            "resumed",
            "recovered",
            "not recovered",
            "exceptions",
            "no exceptions",
            "paused",
            "finished",
        ):
            self.assertGreater(seen[situation], 20, (situation, seen))
        return seen

    def test_plain(self) -> None:
        """Two nodes that read and deliver late: no cursor claims too much or too little."""
        events = ["message", "message", "message", "read", "answer", "settle"]
        self.interleave(PlainNodes, events, 300)

    def test_redis(self) -> None:
        """Two nodes over Redis, which also lose their connections."""
        events = ["message"] * 4 + ["read", "answer", "answer", "answer", "settle", "lose"]
        seen = self.interleave(RedisNodes, events, 150)
        self.assertGreater(seen["lost"], 10, seen)
