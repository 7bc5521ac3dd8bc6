"""Nothing is lost, nothing comes twice: subscribers that come and go, in any order of events."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.testing.daemon import Daemon
from pushd.topics.fanout import Batch, DirectWrite
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.subscription import Subscription
from tests.listeners import TRANSPORTS, Listener, Run, sequel, split

# So that a run says the same on every machine; each test takes some seconds.
FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class LatePast:
    """A history whose answers come when the test wants them to: as if they came over a network.

    What is published reaches the hub late as well, but in order.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.hub: Hub | None = None
        self.questions: deque[tuple[Deferred[Replay], Callable[[], Replay]]] = deque()
        self.answers: deque[tuple[Deferred[Replay], Replay]] = deque()
        self.news: deque[Publication] = deque()

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Take a question; it is answered in two steps."""
        asked: Deferred[Replay] = Deferred()
        self.questions.append((asked, lambda: self.history.replay(topic, after, 3000)))
        return asked

    def follow(self, topic: str) -> None:
        """Keep the topic."""
        self.history.hold(topic)

    def unfollow(self, topic: str) -> None:
        """Let it go."""
        self.history.release(topic)

    def publish(self, topic: str, data: str) -> Id:
        """Publish; nobody hears it yet."""
        publication = self.history.add(topic, data)
        self.news.append(publication)
        return publication.id

    def look_up(self) -> None:
        """Find the answer to the oldest question."""
        if self.questions:
            asked, question = self.questions.popleft()
            self.answers.append((asked, question()))

    def answer(self) -> None:
        """Give the oldest answer."""
        if self.answers:
            asked, replay = self.answers.popleft()
            asked.callback(replay)

    def tell(self) -> None:
        """Let the hub have the oldest news."""
        if self.news:
            assert self.hub is not None
            self.hub.deliver(self.news.popleft())

    def settle(self) -> None:
        """Let everything arrive."""
        while self.questions or self.answers or self.news:
            self.look_up()
            self.answer()
            self.tell()
            assert self.hub is not None
            self.hub.flush()

    def lose(self) -> None:
        """Let the hub miss the oldest news; what comes next shows that it did."""
        if self.news:
            self.news.popleft()


class Reader:
    """A subscriber that has room for so many, and none again until it is given some.

    :param plain: whether it has something like a socket, so that it need not be asked each time.
    """

    def __init__(self, after: Id | None, *, plain: bool) -> None:
        self.after = after
        self.plain = plain
        # What has come of a publication whose rest is still to come.
        self.piece = b""
        self.room = 2
        self.run: Run | None = None
        self.lost = False
        self.left = False
        self.traffic = Traffic()
        self.subscription: Subscription | None = None

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Begin, once."""
        assert self.run is None
        assert not self.left
        self.run = Run(None if self.after is None else str(self.after), str(id), recovered, [])

    def deliver(self, batch: Batch) -> None:
        """Take some."""
        assert self.run is not None
        assert not self.lost
        assert not self.left
        self._take(b"".join(map(line, batch)))

    def direct_write(self) -> DirectWrite | None:
        """Take lines without being asked, as long as there is room."""
        if not (self.plain and self.room > 0):
            return None
        return DirectWrite(line, self._send, self._take, self.traffic)

    def _send(self, lines: bytes) -> int:
        """Take what there is room for; the first that there is none for, by half."""
        assert not (self.piece or self.lost or self.left)
        if self.room <= 0:
            raise BlockingIOError
        whole = b"".join(lines.splitlines(keepends=True)[: self.room])
        taken = lines[: len(whole) + 2]
        self._take(taken)
        return len(taken)

    def _take(self, data: bytes) -> None:
        """Take whole lines apart."""
        assert self.run is not None
        *lines, self.piece = (self.piece + data).split(b"\n")
        for one in lines:
            self.room -= 1
            id, _, text = one.decode().partition(" ")
            self.run.got.append((id, text))

    def has_room(self) -> bool:
        """Whether there is room left."""
        return self.room > 0

    def keeps_up(self) -> bool:
        """Whether what comes now finds room."""
        return self.room > 0

    def subscription_lost(self) -> None:
        """End."""
        self.lost = True

    @property
    def last(self) -> Id | None:
        """The id to resume from."""
        if self.run is None:
            return self.after
        got, begun = self.run.got, self.run.begun
        return Id.parse(str(got[-1][0] if got else begun))


def line(publication: Publication) -> bytes:
    """A publication as readers have it."""
    return f"{publication.id} {publication.data!s}\n".encode()


class ResumingTestCase(SynchronousTestCase):
    """What must be true of everything that any subscriber got."""

    def check(self, run: Run, published: dict[str, str]) -> None:
        """A run begins where it was told, and has no gap, no repeat and nothing else."""
        if run.begun is not None:
            self.assertEqual([id for id, _ in run.got], list(sequel(run.begun, len(run.got))))
            if run.recovered:
                self.assertEqual(run.begun, run.after)
            for id, data in run.got:
                self.assertEqual(published[str(id)], data)
            return
        # Without ids: what was published is unlike, so it says where it stands.
        ids = {data: id for id, data in published.items()}
        got = [ids[str(data)] for _, data in run.got]
        if got:
            epoch, offset = split(got[0])
            self.assertEqual(got, list(sequel(f"{epoch}:{offset - 1}", len(got))))


class HubTests(ResumingTestCase):
    """The hub, with a past that answers late."""

    def test_interleavings(self) -> None:
        """However publishing, answers, room, leaving and coming back are mixed: no gap."""
        late = ["publish", "look_up", "answer", "tell"]
        step = st.one_of(
            st.sampled_from([*late, *late, "turn", "hear", "settle", "expire", "lose"]),
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

        @settings(FUZZ, max_examples=500)
        @given(st.lists(step, min_size=40, max_size=90), retentions)
        def play(steps: list[Any], retention: Retention) -> None:
            self.play(steps, retention)

        play()
        # A test of chance may miss what it is for; this one has met all of it, and often.
        for situation in (
            "resumed",
            "told of a gap",
            "fell behind",
            "went live again",
            "published while somebody was reading",
            "cut off",
            "left while reading",
            "joined a group",
            "left its group",
        ):
            self.assertGreater(self.seen[situation], 20, (situation, self.seen))

    def play(self, steps: list[Any], retention: Retention) -> None:
        """Take the steps, then let everything arrive."""
        clock = Clock()
        epochs = iter(range(10_000))
        past = LatePast(History(clock, retention, lambda: f"e{next(epochs)}"))
        hub = past.hub = Hub(past, clock)
        published: dict[str, str] = {}
        here: list[Reader | None] = [None] * 4
        last: list[Id | None] = [None] * 4
        everybody: list[Reader] = []
        behind: set[Subscription] = set()
        known = 0
        grouped: set[Subscription] = set()
        for step in steps:
            match step:
                case "publish" | "hear":
                    if past.questions or past.answers:
                        self.seen["published while somebody was reading"] += 1
                    data = f"{len(published)}"
                    published[str(past.publish("t", data))] = data
                    if step == "hear":
                        past.settle()
                case "turn":
                    hub.flush()
                case "settle":
                    past.settle()
                case "expire":
                    clock.advance(4)
                case "look_up" | "answer" | "tell" | "lose":
                    getattr(past, step)()
                case (what, place):
                    reader = here[place]
                    if what == "room" and reader and reader.subscription:
                        reader.room += 3
                        reader.subscription.resume()
                    elif what == "leave" and reader and reader.subscription:
                        if reader.subscription._reading:
                            self.seen["left while reading"] += 1
                        reader.subscription.cancel()
                        reader.left = True
                        last[place], here[place] = reader.last, None
                    elif what == "come back" and reader is None:
                        reader = here[place] = Reader(last[place], plain=place == 0)
                        everybody.append(reader)
                        reader.subscription = hub.subscribe("t", reader, last[place])
            now = {one.subscription for one in here if one and one.subscription}
            now = {one for one in now if one._group is not None}
            self.seen["joined a group"] += len(now - grouped)
            self.seen["left its group"] += len(grouped - now)
            grouped = now
            behind.update(hub._context.lagging)
            self.seen["fell behind"] += len(behind) - known
            known = len(behind)
        for reader in everybody:
            reader.room = 1 << 30
            assert reader.subscription
            reader.subscription.resume()
        data = "the last shows what was missed"
        published[str(past.publish("t", data))] = data
        past.settle()
        for reader in everybody:
            if reader.run is not None:
                self.check(reader.run, published)
                if reader.after is not None:
                    self.seen["resumed" if reader.run.recovered else "told of a gap"] += 1
            self.assertEqual(reader.piece, b"")
            self.seen["cut off"] += reader.lost
            if reader.subscription in behind and not (reader.lost or reader.left):
                self.seen["went live again"] += 1
        # Who is still here and was not told of a gap has everything up to the end.
        for reader in here:
            if reader is not None and not reader.lost:
                self.assertEqual(str(reader.last), str(past.history.describe("t")[0]))
            if reader is not None and reader.subscription:
                reader.subscription.cancel()
        self.assertEqual(hub.topics(), [])
        clock.advance(10)
        clock.advance(10)
        self.assertEqual((len(past.history), past.history.bytes), (0, 0))
        self.assertEqual(clock.getDelayedCalls(), [])


class DaemonTests(ResumingTestCase):
    """The whole daemon, by every transport."""

    def test_interleavings(self) -> None:
        """However publishing, stalling, leaving and resuming by another way are mixed: no gap."""
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
        for situation in ("resumed", "told of a gap"):
            self.assertGreater(self.seen[situation], 20, (situation, self.seen))

    def play(self, daemon: Daemon, steps: list[Any]) -> None:
        """Take the steps, then let everybody read to the end."""
        published: dict[str, str] = {}
        here: list[Listener | None] = [None] * 4
        last: list[str | None] = [None] * 4
        everybody: list[Listener] = []

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
                    # More than --max-buffered, in one turn of the reactor.
                    for _ in range(count):
                        data = f"{len(published)} {'y' * 60_000}"
                        id = self.successResultOf(daemon._service._broker.publish("t", data))
                        published[str(id)] = data
                    daemon.settle()
                case ("join", place, way):
                    if here[place] is None:
                        listener = TRANSPORTS[way](daemon, "t", last[place])
                        here[place] = listener
                        everybody.append(listener)
                case ("come back", place, way):
                    listener = here[place]
                    if listener is not None:
                        last[place] = self.last(listener, published)
                        listener.leave()
                    publish(f"{len(published)} meanwhile")
                    listener = here[place] = TRANSPORTS[way](daemon, "t", last[place])
                    everybody.append(listener)
                case ("wait", seconds):
                    daemon.advance(seconds)
                case (what, place):
                    listener = here[place]
                    if listener is None:
                        continue
                    if what == "leave":
                        last[place], here[place] = self.last(listener, published), None
                        listener.leave()
                    elif what == "stall":
                        listener.stall()
                    else:
                        listener.resume()
        for listener in everybody:
            listener.resume()
        # Two more: one that a poll may take with it, one that nobody may miss.
        for data in ("last but one", "last"):
            publish(data)
            for one in here:
                if one is not None:
                    one.resume()
        for listener in everybody:
            for run in listener.runs:
                self.check(run, published)
                if run.after is not None and run.begun is not None:
                    self.seen["resumed" if run.recovered else "told of a gap"] += 1
        for listener in here:
            if listener is not None and not listener.gone:
                self.assertEqual(listener.data[-1], "last")

    def last(self, listener: Listener, published: dict[str, str]) -> str | None:
        """The id that a client has, or that of its last data."""
        if listener.tells or not listener.data:
            return listener.last or listener.after
        ids = {data: id for id, data in published.items()}
        return ids[str(listener.data[-1])]
