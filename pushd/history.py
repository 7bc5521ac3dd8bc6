"""The last publications of every topic."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.deadlines import Deadlines
from pushd.messages import Id, Publication, Replay

# What a publication and a topic take in memory beside their data, in bytes, about.
_OVERHEAD = 512


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much of the past is kept."""

    #: Publications of each topic.
    size: int = 100
    #: Seconds.
    ttl: int = 300
    #: Bytes of all topics together.
    bytes: int = 64 << 20


class Topic:
    """One topic's past."""

    __slots__ = ("epoch", "history", "name", "offset")

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = 0
        self.history: deque[_Entry] = deque()

    @property
    def last(self) -> Id:
        """The id of the last publication; offset 0 where there was none."""
        return Id(self.epoch, self.offset)


class _Entry:
    """One publication that is kept."""

    __slots__ = ("due", "publication", "topic")

    def __init__(self, topic: Topic, publication: Publication, due: float) -> None:
        self.topic = topic
        self.publication = publication
        self.due = due

    @property
    def size(self) -> int:
        return len(self.publication.data) + _OVERHEAD


class History:
    """What every topic's publications were, bounded in number, age and bytes.

    A topic is forgotten, and with it its epoch, once it has no publication left, nobody holds it,
    and its last id was handed out longer ago than publications are kept.

    :param clock: where time comes from.
    :param make_epoch: gives a new random epoch.
    """

    def __init__(
        self, clock: IReactorTime, retention: Retention, make_epoch: Callable[[], str]
    ) -> None:
        self._clock = clock
        self._retention = retention
        self._make_epoch = make_epoch
        self._topics: dict[str, Topic] = {}
        self._held: set[str] = set()
        # All entries from the oldest to the newest, whatever their topic: as all are kept equally
        # long, the first is due first, and the first to go when the bytes are too many.
        self._entries: dict[_Entry, None] = {}
        self._expiry: IDelayedCall | None = None
        self._idle: Deadlines[Topic] = Deadlines(clock, length=retention.ttl, expired=self._forget)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, name: str, data: str | bytes) -> Publication:
        """Give a publication its id, and keep it."""
        topic = self._get(name)
        topic.offset += 1
        publication = Publication(name, data, topic.last)
        if self._retention.size:
            self._keep(topic, publication)
        self._touch(topic)
        return publication

    def replay(self, name: str, after: Id | None, limit: int) -> Replay:
        """What was published after an id; nothing, and not recovered, where that can't be told.

        :param after: None for one who is new, and starts with what comes next.
        :param limit: bytes after which no more is given, but for the first; ask again then.
        """
        topic = self._get(name)
        self._touch(topic)
        last = topic.last
        if after is None or after.epoch != topic.epoch or after.offset > topic.offset:
            return Replay(last, False, (), last)
        missing = topic.offset - after.offset
        if missing > len(topic.history):
            return Replay(last, False, (), last)
        chosen: list[Publication] = []
        for entry in islice(topic.history, len(topic.history) - missing, None):
            if chosen and limit <= 0:
                break
            chosen.append(entry.publication)
            limit -= entry.size
        return Replay(after, True, tuple(chosen), last)

    def hold(self, name: str) -> None:
        """Do not forget a topic: somebody listens."""
        self._held.add(name)
        self._idle.stop(self._get(name))

    def release(self, name: str) -> None:
        """Forget a topic in its time: nobody listens any more."""
        self._held.discard(name)
        self._touch(self._get(name))

    def describe(self, name: str) -> tuple[Id | None, int]:
        """A topic's last id and how many publications are kept; (None, 0) for one unheard of."""
        topic = self._topics.get(name)
        return (None, 0) if topic is None else (topic.last, len(topic.history))

    def names(self) -> list[str]:
        """The topics that are not forgotten."""
        return list(self._topics)

    def stop(self) -> None:
        """Forget everything, timers included."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for topic in self._topics.values():
            self._idle.stop(topic)
        self._topics.clear()
        self._entries.clear()

    def _get(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name, self._make_epoch())
            self._count(_OVERHEAD)
        return topic

    def _touch(self, topic: Topic) -> None:
        """Keep a topic's epoch for those who have just heard of it."""
        if topic.name not in self._held and topic.name in self._topics:
            self._idle.start(topic)

    def _keep(self, topic: Topic, publication: Publication) -> None:
        entry = _Entry(topic, publication, self._clock.seconds() + self._retention.ttl)
        topic.history.append(entry)
        self._entries[entry] = None
        if len(topic.history) > self._retention.size:
            self._drop(topic.history[0])
        if self._expiry is None:
            self._expiry = self._clock.callLater(self._retention.ttl, self._expire)
        self._count(entry.size)

    def _count(self, size: int) -> None:
        self.bytes += size
        while self.bytes > self._retention.bytes and self._entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, entry: _Entry) -> None:
        """Let the oldest publication of a topic go."""
        del self._entries[entry]
        entry.topic.history.popleft()
        self.bytes -= entry.size
        self._forget_if_unused(entry.topic)

    def _expire(self) -> None:
        self._expiry = None
        now = self._clock.seconds()
        while self._entries:
            entry = next(iter(self._entries))
            if entry.due > now:
                self._expiry = self._clock.callLater(entry.due - now, self._expire)
                return
            self._drop(entry)

    def _forget(self, topic: Topic) -> None:
        self._forget_if_unused(topic)

    def _forget_if_unused(self, topic: Topic) -> None:
        used = topic.history or topic.name in self._held or topic in self._idle
        if not used and self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
            self.bytes -= _OVERHEAD
