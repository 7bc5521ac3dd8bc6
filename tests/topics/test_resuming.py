"""No gap and no repeat: subscribers come, leave and resume in random interleavings."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.testing import Daemon
from pushd.topics import fanout
from pushd.topics import hub as hub_module
from pushd.topics.cursor import UNKNOWN, Cursor
from pushd.topics.fanout import Batch, DirectWrite
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.subscription import Subscription
from tests.support.hub_case import iterate
from tests.support.topic_clients import TRANSPORTS, Run, TopicClient, sequel, split

# Every run has the same examples on every machine; each test takes some seconds.
FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class LateSource:
    """A source whose answers and publications arrive when the test decides, as over a network."""

    generation = UNKNOWN

    def __init__(self, history: History) -> None:
        self.history = history
        self.hub: Hub | None = None
        self.reads: deque[tuple[Deferred[Replay], Callable[[], Replay]]] = deque()
        self.answers: deque[tuple[Deferred[Replay], Replay]] = deque()
        self.publications: deque[Publication] = deque()

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Take a read; it is answered in two steps."""
        asked: Deferred[Replay] = Deferred()
        self.reads.append((asked, lambda: self.history.replay(topic, after, 3000)))
        return asked

    @property
    def settled(self) -> int:
        """Return the sequence of the last publication."""
        return self.history.sequence

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic."""
        return self.history.newest(topic)

    def is_newest(self, topic: str, id: Id) -> bool:
        """Return False: the history must be read."""
        return False

    def locate(self, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Refuse: no test asks for it."""
        raise NotImplementedError

    def follow(self, topic: str) -> None:
        """Keep the topic."""
        self.history.hold(topic)

    def unfollow(self, topic: str) -> None:
        """Let the topic expire."""
        self.history.release(topic)

    def publish(self, topic: str, data: str) -> Id:
        """Publish; the hub does not get it yet."""
        publication = self.history.add(topic, data)
        self.publications.append(publication)
        return publication.id

    def look_up(self) -> None:
        """Read the history for the oldest pending read."""
        if self.reads:
            asked, read = self.reads.popleft()
            self.answers.append((asked, read()))

    def answer(self) -> None:
        """Answer the oldest read that was looked up."""
        if self.answers:
            asked, replay = self.answers.popleft()
            asked.callback(replay)

    def pass_on(self) -> None:
        """Pass the oldest publication to the hub."""
        if self.publications:
            assert self.hub is not None
            self.hub.deliver(self.publications.popleft())

    def settle(self) -> None:
        """Let all answers and publications arrive."""
        while self.reads or self.answers or self.publications:
            self.look_up()
            self.answer()
            self.pass_on()
            assert self.hub is not None
            self.hub.flush()

    def lose(self) -> None:
        """Drop the oldest publication; the next one shows the gap."""
        if self.publications:
            self.publications.popleft()


class SlowSubscriber:
    """A subscriber with little room, which gets more only when a test gives it some.

    :param direct: whether it can be written to directly.
    """

    transport = "fake"

    def __init__(self, after: Id | None, *, direct: bool) -> None:
        self.after = after
        self.direct = direct
        # The received part of a line that is not complete yet.
        self.piece = b""
        self.room = 2
        self.run: Run | None = None
        self.lost = False
        self.left = False
        self.traffic = Traffic()
        self.subscription: Subscription | None = None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Record where the subscription begins; it does so once."""
        assert self.run is None
        assert not self.left
        self.run = Run(None if self.after is None else str(self.after), str(id), recovered, [])

    def deliver(self, batch: Batch) -> None:
        """Take publications."""
        assert self.run is not None
        assert not self.lost
        assert not self.left
        self._take(b"".join(map(line, batch)))

    def direct_write(self) -> DirectWrite | None:
        """Return how to write directly, if it may be written to so and has room."""
        if not (self.direct and self.room > 0):
            return None
        return DirectWrite(line, self._send, self._take_rest, self.traffic)

    def _send(self, lines: bytes) -> int:
        """Take what there is room for, and half of the first publication without room."""
        assert not (self.piece or self.lost or self.left)
        if self.room <= 0:
            raise BlockingIOError
        whole = b"".join(lines.splitlines(keepends=True)[: self.room])
        taken = lines[: len(whole) + 2]
        self._take(taken)
        return len(taken)

    def _take_rest(self, lines: bytes, sent: int) -> None:
        """Take the rest of some lines."""
        self._take(lines[sent:])

    def _take(self, data: bytes) -> None:
        """Record complete lines."""
        assert self.run is not None
        *lines, self.piece = (self.piece + data).split(b"\n")
        for one in lines:
            self.room -= 1
            id, _, text = one.decode().partition(" ")
            self.run.got.append((id, text))

    def has_room(self) -> bool:
        """Return whether there is room left."""
        return self.room > 0

    @property
    def taken(self) -> int:
        """Return that it takes nothing."""
        return 0

    def keeps_up(self) -> bool:
        """Return whether there is room left."""
        return self.room > 0

    def can_take(self, batch: Batch) -> bool:
        """Return whether there is room left."""
        return self.room > 0

    def subscription_lost(self) -> None:
        """Record the end."""
        self.lost = True

    @property
    def last(self) -> Id | None:
        """The id to resume from."""
        if self.run is None:
            return self.after
        got, begun = self.run.got, self.run.begun
        return Id.parse(str(got[-1][0] if got else begun))


def line(publication: Publication) -> bytes:
    """Render a publication as one line."""
    return f"{publication.id} {publication.data!s}\n".encode()


class ResumingTestCase(SynchronousTestCase):
    """What must be true of everything that a subscriber received."""

    def check(self, run: Run, published: dict[str, str]) -> None:
        """Check that a run begins at its id, and has no gaps, no repeats and nothing else."""
        if run.begun is not None:
            self.assertEqual([id for id, _ in run.got], list(sequel(run.begun, len(run.got))))
            if run.recovered:
                self.assertEqual(run.begun, run.after)
            for id, data in run.got:
                self.assertEqual(published[str(id)], data)
            return
        # Without ids: all data is different, so it identifies the publication.
        ids = {data: id for id, data in published.items()}
        got = [ids[str(data)] for _, data in run.got]
        if got:
            epoch, offset = split(got[0])
            self.assertEqual(got, list(sequel(f"{epoch}:{offset - 1}", len(got))))


class HubTests(ResumingTestCase):
    """The hub, with a source that answers late."""

    def test_interleavings(self) -> None:
        """Publications, answers, room, leaving and resuming in random order leave no gap."""
        # Each iteration delivers to one subscriber, if it is not told to deliver all.
        self.patch(hub_module, "_STEP", 0)
        self.patch(fanout, "_BYTES_PER_LOOK", 0)
        late = ["publish", "look_up", "answer", "pass_on"]
        step = st.one_of(
            st.sampled_from(
                [*late, *late, "iterate", "deliver a little", "arrive", "settle", "expire", "lose"]
            ),
            st.tuples(
                st.sampled_from(["come back", "come back", "leave", "room"]), st.integers(0, 2)
            ),
        )
        retentions = st.builds(
            Retention,
            size=st.sampled_from([100, 3, 1, 0]),
            ttl=st.just(10),
            bytes=st.sampled_from([1 << 20, 4000, 0]),
        )
        self.seen: Counter[str] = Counter()

        @settings(FUZZ, max_examples=650)
        @given(st.lists(step, min_size=40, max_size=90), retentions)
        def play(steps: list[Any], retention: Retention) -> None:
            self.play(steps, retention)

        play()
        # A random test may miss its purpose: check that it has met every situation, and often.
        for situation in (
            "resumed",
            "not recovered",
            "fell behind",
            "went live again",
            "published during a read",
            "cut off",
            "left during a read",
            "joined a group",
            "left its group",
            "paused a delivery",
        ):
            self.assertGreater(self.seen[situation], 20, (situation, self.seen))

    def play(self, steps: list[Any], retention: Retention) -> None:
        """Run the steps, then let everything arrive."""
        clock = Clock()
        epochs = iter(range(10_000))
        source = LateSource(History(clock, retention, lambda: f"e{next(epochs)}"))
        hub = source.hub = Hub(source, clock)
        published: dict[str, str] = {}
        here: list[SlowSubscriber | None] = [None] * 4
        last: list[Id | None] = [None] * 4
        subscribers: list[SlowSubscriber] = []
        behind: set[Subscription] = set()
        known = 0
        grouped: set[Subscription] = set()
        for step in steps:
            match step:
                case "publish" | "arrive":
                    if source.reads or source.answers:
                        self.seen["published during a read"] += 1
                    data = f"{len(published)}"
                    published[str(source.publish("t", data))] = data
                    if step == "arrive":
                        source.settle()
                case "iterate":
                    hub.flush()
                case "deliver a little":
                    iterate(clock)
                    self.seen["paused a delivery"] += hub._delivery is not None
                case "settle":
                    source.settle()
                case "expire":
                    clock.advance(4)
                case "look_up" | "answer" | "pass_on" | "lose":
                    getattr(source, step)()
                case (what, place):
                    subscriber = here[place]
                    if what == "room" and subscriber and subscriber.subscription:
                        subscriber.room += 3
                        subscriber.subscription.resume()
                    elif what == "leave" and subscriber and subscriber.subscription:
                        if subscriber.subscription._reading:
                            self.seen["left during a read"] += 1
                        subscriber.subscription.cancel()
                        subscriber.left = True
                        last[place], here[place] = subscriber.last, None
                    elif what == "come back" and subscriber is None:
                        subscriber = here[place] = SlowSubscriber(last[place], direct=place == 0)
                        subscribers.append(subscriber)
                        subscriber.subscription = hub.subscribe("t", subscriber, last[place])
            now = {one.subscription for one in here if one and one.subscription}
            now = {one for one in now if one._group is not None}
            self.seen["joined a group"] += len(now - grouped)
            self.seen["left its group"] += len(grouped - now)
            grouped = now
            behind.update(hub._shared.lagging)
            self.seen["fell behind"] += len(behind) - known
            known = len(behind)
        for subscriber in subscribers:
            subscriber.room = 1 << 30
            assert subscriber.subscription
            subscriber.subscription.resume()
        data = "the last shows what was missed"
        published[str(source.publish("t", data))] = data
        source.settle()
        for subscriber in subscribers:
            if subscriber.run is not None:
                self.check(subscriber.run, published)
                if subscriber.after is not None:
                    self.seen["resumed" if subscriber.run.recovered else "not recovered"] += 1
            self.assertEqual(subscriber.piece, b"")
            self.seen["cut off"] += subscriber.lost
            if subscriber.subscription in behind and not (subscriber.lost or subscriber.left):
                self.seen["went live again"] += 1
        # A subscriber that was not lost has received everything up to the end.
        for subscriber in here:
            if subscriber is not None and not subscriber.lost:
                self.assertEqual(str(subscriber.last), str(source.history.describe("t")[0]))
            if subscriber is not None and subscriber.subscription:
                subscriber.subscription.cancel()
        self.assertEqual(hub.topics(), [])
        clock.advance(10)
        clock.advance(10)
        self.assertEqual((len(source.history), source.history.bytes), (0, 0))
        self.assertEqual(clock.getDelayedCalls(), [])


class DaemonTests(ResumingTestCase):
    """The whole daemon, over every transport."""

    def test_interleavings(self) -> None:
        """Publications, stalls, leaving and resuming over another transport leave no gap."""
        places, ways = st.integers(0, 2), st.integers(0, len(TRANSPORTS) - 1)
        step = st.one_of(
            st.tuples(st.just("publish"), st.sampled_from([1, 1, 2, 5]), st.booleans()),
            st.tuples(st.just("join"), places, ways),
            st.tuples(st.just("come back"), places, ways),
            st.tuples(st.sampled_from(["leave", "stall", "read on"]), places),
            st.tuples(st.just("burst"), st.sampled_from([3, 9])),
            st.tuples(st.just("wait"), st.sampled_from([1, 6, 11])),
        )
        retentions = st.builds(
            Retention,
            size=st.sampled_from([100, 10, 2, 0]),
            ttl=st.just(10),
            bytes=st.sampled_from([1 << 26, 1 << 19]),
        )
        self.seen: Counter[str] = Counter()

        @settings(FUZZ, max_examples=60)
        @given(st.lists(step, min_size=20, max_size=40), retentions)
        def play(steps: list[Any], retention: Retention) -> None:
            with Daemon({}, retention=retention, limits=Limits(max_buffered=1 << 18)) as daemon:
                self.play(daemon, steps)

        play()
        for situation in ("resumed", "not recovered"):
            self.assertGreater(self.seen[situation], 20, (situation, self.seen))

    def play(self, daemon: Daemon, steps: list[Any]) -> None:
        """Run the steps, then let all clients read to the end."""
        published: dict[str, str] = {}
        here: list[TopicClient | None] = [None] * 4
        last: list[str | None] = [None] * 4
        clients: list[TopicClient] = []

        def publish(data: str) -> None:
            answer = daemon.request("POST", "/topics/t", body=data.encode(), control=True)
            assert answer is not None
            published[answer.text.split('"')[3]] = data

        for step in steps:
            match step:
                case ("publish", count, big):
                    for _ in range(count):
                        publish(f"{len(published)} {'x' * (60_000 if big else 0)}")
                case ("burst", count):
                    # More than --max-buffered, in one iteration of the reactor.
                    for _ in range(count):
                        data = f"{len(published)} {'y' * 60_000}"
                        id = self.successResultOf(daemon._service._broker.publish("t", data))
                        published[str(id)] = data
                    daemon.settle()
                case ("join", place, way):
                    if here[place] is None:
                        client = TRANSPORTS[way](daemon, "t", last[place])
                        here[place] = client
                        clients.append(client)
                case ("come back", place, way):
                    client = here[place]
                    if client is not None:
                        last[place] = self.last(client, published)
                        client.leave()
                    publish(f"{len(published)} meanwhile")
                    client = here[place] = TRANSPORTS[way](daemon, "t", last[place])
                    clients.append(client)
                case ("wait", seconds):
                    daemon.advance(seconds)
                case (what, place):
                    client = here[place]
                    if client is None:
                        continue
                    if what == "leave":
                        last[place], here[place] = self.last(client, published), None
                        client.leave()
                    elif what == "stall":
                        client.stall()
                    else:
                        client.resume()
        for client in clients:
            client.resume()
        # Two more: one that may end a poll, and one that no client may miss.
        for data in ("last but one", "last"):
            publish(data)
            for one in here:
                if one is not None:
                    one.resume()
        for client in clients:
            for run in client.runs:
                self.check(run, published)
                if run.after is not None and run.begun is not None:
                    self.seen["resumed" if run.recovered else "not recovered"] += 1
        for client in here:
            if client is not None and not client.gone:
                self.assertEqual(client.data[-1], "last")

    def last(self, client: TopicClient, published: dict[str, str]) -> str | None:
        """Return the last id of a client, looked up by its data if it gets no ids."""
        if client.has_ids or not client.data:
            return client.last or client.after
        ids = {data: id for id, data in published.items()}
        return ids[str(client.data[-1])]
