"""The last publications of every topic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.topics.publication import Id, Publication, Replay

_V = TypeVar("_V")

# What a publication takes in memory beside its data, in bytes, its topic included.
_OVERHEAD = 1024

# How many topics are remembered only because somebody was told an id of theirs.
_MAX_IDLE = 100_000


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

    __slots__ = ("epoch", "held", "kept", "name", "offset")

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = 0
        self.held = False
        #: The last publications by their offset, without a gap.
        self.kept: dict[int, Publication] = {}

    @property
    def last(self) -> Id:
        """The id of the last publication; offset 0 where there was none."""
        return Id(self.epoch, self.offset)

    @property
    def oldest(self) -> Publication:
        """The oldest publication that is kept."""
        return self.kept[self.offset - len(self.kept) + 1]


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
        # When each publication has had its time, and each topic whose id was handed out. As all
        # are kept equally long, what came first goes first. (To find the first of a dict, Python
        # walks over all that was deleted before it.) And how many bytes were counted for a
        # publication: text that somebody has had encoded is larger when it goes than when it came.
        self._entries: OrderedDict[Publication, tuple[float, int]] = OrderedDict()
        self._idle: OrderedDict[Topic, float] = OrderedDict()
        self._expiry: IDelayedCall | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, name: str, data: str | bytes) -> Publication:
        """Give a publication its id, and keep it."""
        topic = self._get(name)
        self._touch(topic)
        topic.offset += 1
        publication = Publication(topic.name, data, topic.last)
        if self._retention.size:
            self._keep(topic, publication)
        return publication

    def replay(self, name: str, after: Id | None, limit: int) -> Replay:
        """What was published after an id; nothing, and not recovered, where that can't be told.

        :param after: None for one who is new, and starts with what comes next.
        :param limit: bytes after which no more is given, but for the first; ask again then.
        """
        topic = self._get(name)
        self._touch(topic)
        last = topic.last
        if after is None or after.epoch != topic.epoch:
            return Replay(last, False, (), last)
        if not 0 <= topic.offset - after.offset <= len(topic.kept):
            return Replay(last, False, (), last)
        chosen: list[Publication] = []
        for offset in range(after.offset + 1, topic.offset + 1):
            if chosen and limit <= 0:
                break
            chosen.append(topic.kept[offset])
            limit -= _size(chosen[-1])
        return Replay(after, True, tuple(chosen), last)

    def hold(self, name: str) -> None:
        """Do not forget a topic: somebody listens."""
        topic = self._get(name)
        topic.held = True
        self._idle.pop(topic, None)
        self._rest()

    def release(self, name: str) -> None:
        """Forget a topic in its time: nobody listens any more."""
        topic = self._get(name)
        topic.held = False
        self._touch(topic)

    def describe(self, name: str) -> tuple[Id | None, int]:
        """A topic's last id and how many publications are kept; (None, 0) for one unheard of."""
        topic = self._topics.get(name)
        return (None, 0) if topic is None else (topic.last, len(topic.kept))

    def names(self) -> list[str]:
        """The topics that are not forgotten."""
        return list(self._topics)

    def stop(self) -> None:
        """Forget everything, timers included."""
        self._topics.clear()
        self._entries.clear()
        self._idle.clear()
        self.bytes = 0
        self._rest()

    def _get(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name, self._make_epoch())
        return topic

    def _touch(self, topic: Topic) -> None:
        """Keep a topic's epoch for those who are about to hear of it."""
        if topic.held:
            return
        self._idle[topic] = self._due()
        self._idle.move_to_end(topic)
        if len(self._idle) > _MAX_IDLE:
            self._forget(self._idle.popitem(last=False)[0])

    def _keep(self, topic: Topic, publication: Publication) -> None:
        topic.kept[topic.offset] = publication
        size = _size(publication)
        self._entries[publication] = (self._due(), size)
        self.bytes += size
        if len(topic.kept) > self._retention.size:
            self._drop(topic.oldest)
        while self.bytes > self._retention.bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, publication: Publication) -> None:
        """Let the oldest publication of a topic go."""
        topic = self._topics[publication.topic]
        self.bytes -= self._entries.pop(publication)[1]
        del topic.kept[publication.id.offset]
        self._forget(topic)

    def _forget(self, topic: Topic) -> None:
        """Forget a topic, unless there is a reason not to."""
        if not (topic.kept or topic.held or topic in self._idle):
            del self._topics[topic.name]

    def _due(self) -> float:
        """When what is kept from now on has had its time."""
        if self._expiry is None:
            self._expiry = self._clock.callLater(self._retention.ttl, self._expire)
        return self._clock.seconds() + self._retention.ttl

    def _expire(self) -> None:
        self._expiry = None
        now = self._clock.seconds()
        while self._entries and _first(self._entries)[0] <= now:
            self._drop(next(iter(self._entries)))
        while self._idle and _first(self._idle) <= now:
            self._forget(self._idle.popitem(last=False)[0])
        dues = [_first(self._entries)[0]] if self._entries else []
        dues += [_first(self._idle)] if self._idle else []
        if dues:
            self._expiry = self._clock.callLater(min(dues) - now, self._expire)
        for emptied in (self._entries, self._idle, self._topics):
            if not emptied:
                # Python keeps the room that a million keys took, for keys that may come.
                emptied.clear()

    def _rest(self) -> None:
        """Stop the timer when nothing is left to expire."""
        if self._expiry is not None and not self._entries and not self._idle:
            self._expiry.cancel()
            self._expiry = None


def _size(publication: Publication) -> int:
    # Text takes up to four bytes a character.
    return getsizeof(publication.data) + _OVERHEAD


def _first(queue: OrderedDict[Any, _V]) -> _V:
    return next(iter(queue.values()))
