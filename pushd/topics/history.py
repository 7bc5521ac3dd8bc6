"""History in memory: the last publications of every topic, limited in number, age and bytes.

With Redis it is there: ``pushd.topics.redis.scripts`` limits its number and age, and Redis limits
the bytes (``maxmemory``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.topics.publication import Id, Publication, Replay, size_of

_V = TypeVar("_V")

# Memory of a publication beside its data, in bytes, with its share of the topic.
_OVERHEAD = 1024

# How many topics without publications are kept because their last id was given out.
_MAX_IDLE = 100_000


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much history is kept."""

    #: Maximum number of publications per topic.
    size: int = 100
    #: Maximum age of a publication, in seconds.
    ttl: int = 300
    #: Maximum bytes of all topics together.
    bytes: int = 64 << 20


class Topic:
    """The history of one topic."""

    __slots__ = ("epoch", "held", "kept", "name", "offset")

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = 0
        #: True while the topic has subscribers.
        self.held = False
        #: The last publications by offset, without a gap.
        self.kept: dict[int, Publication] = {}

    @property
    def last(self) -> Id:
        """The id of the last publication; offset 0 if there was none."""
        return Id(self.epoch, self.offset)

    @property
    def oldest(self) -> Publication:
        """The oldest publication kept."""
        return self.kept[self.offset - len(self.kept) + 1]


class History:
    """The histories of all topics.

    A topic is forgotten together with its epoch once it has no publications and no subscribers,
    and its last id was given out longer ago than publications are kept.

    :param make_epoch: returns a new random epoch.
    :param grown: called with the bytes that each publication adds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        retention: Retention,
        make_epoch: Callable[[], str],
        grown: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._grown = grown
        self._clock = clock
        self._retention = retention
        self._make_epoch = make_epoch
        self._topics: dict[str, Topic] = {}
        # When each publication expires, and each topic whose id was given out. As all are kept
        # equally long, both are in the order of expiry. (A plain dict finds its first key only
        # past all keys deleted before it.) With a publication are the bytes counted for it: text
        # takes more once it has been encoded, as Python keeps the encoded form.
        self._entries: OrderedDict[Publication, tuple[float, int]] = OrderedDict()
        self._idle: OrderedDict[Topic, float] = OrderedDict()
        self._expiry: IDelayedCall | None = None
        #: Memory used, in bytes.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._topics)

    def add(
        self, name: str, data: str | bytes, event: str | None = None, is_json: bool = False
    ) -> Publication:
        """Make the next publication of a topic, and keep it."""
        topic = self._get(name)
        self._touch(topic)
        topic.offset += 1
        publication = Publication(topic.name, data, topic.last, event, is_json)
        if self._retention.size:
            self._keep(topic, publication)
        return publication

    def replay(self, name: str, after: Id | None, limit: int) -> Replay:
        """Return the publications after an id; none, and not recovered, if they are not all kept.

        :param after: None for a new subscriber, which starts with what comes next.
        :param limit: bytes of publications to return, approximately, but always at least one. If
            ``last`` is not among them, there are more.
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
        """Keep a topic, as it has subscribers."""
        topic = self._get(name)
        topic.held = True
        self._idle.pop(topic, None)
        self._rest()

    def release(self, name: str) -> None:
        """Let a topic expire, as it has no subscribers any more."""
        topic = self._get(name)
        topic.held = False
        self._touch(topic)

    def describe(self, name: str) -> tuple[Id | None, int]:
        """Return a topic's last id and number of publications; (None, 0) if it is unknown."""
        topic = self._topics.get(name)
        return (None, 0) if topic is None else (topic.last, len(topic.kept))

    def names(self) -> list[str]:
        """Return the names of all topics."""
        return list(self._topics)

    def trim(self, size: int) -> None:
        """Drop the oldest publications, until a number of bytes is freed or none is left."""
        goal = self.bytes - size
        while self._entries and self.bytes > goal:
            self._drop(next(iter(self._entries)))

    def stop(self) -> None:
        """Forget everything, and stop the timer."""
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
        """Keep a topic's epoch for a while, as its last id is about to be given out."""
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
        self.trim(self.bytes - self._retention.bytes)
        self._grown(size)

    def _drop(self, publication: Publication) -> None:
        """Drop the oldest publication of a topic."""
        topic = self._topics[publication.topic]
        self.bytes -= self._entries.pop(publication)[1]
        del topic.kept[publication.id.offset]
        self._forget(topic)

    def _forget(self, topic: Topic) -> None:
        """Forget a topic, unless there is a reason to keep it."""
        if not (topic.kept or topic.held or topic in self._idle):
            del self._topics[topic.name]

    def _due(self) -> float:
        """Return when what is added now expires. Starts the timer."""
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
                # Python keeps the memory of a million deleted keys until the dict is cleared.
                emptied.clear()

    def _rest(self) -> None:
        """Stop the timer if nothing is left to expire."""
        if self._expiry is not None and not self._entries and not self._idle:
            self._expiry.cancel()
            self._expiry = None


def _size(publication: Publication) -> int:
    return size_of(publication.data) + _OVERHEAD


def _first(queue: OrderedDict[Any, _V]) -> _V:
    return next(iter(queue.values()))
