"""History in memory: the last publications of every topic, limited in number, age and bytes.

Number and age are those of the daemon, or of the rule of a topic. Publications that are kept
equally long are a queue in the order of expiry, and there are as many queues as there are ages.

With Redis it is there: ``pushd.topics.redis.scripts`` limits its number and age, and Redis limits
the bytes (``maxmemory``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.topics.publication import Id, Publication, Replay, size_of
from pushd.topics.rules import Rule, Rules

_V = TypeVar("_V")

# Memory of a publication beside its data, in bytes, with its share of the topic.
_OVERHEAD = 1024

# How many topics without publications are kept because their last id was given out.
_MAX_IDLE = 100_000


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much history is kept, unless the rule of a topic says otherwise."""

    #: Maximum number of publications per topic.
    size: int = 100
    #: Maximum age of a publication, in seconds.
    ttl: int = 300
    #: Maximum bytes of all topics together.
    bytes: int = 64 << 20

    def size_for(self, rule: Rule) -> int:
        """Return how many publications are kept of a topic with a rule."""
        size = self.size if rule.history_size is None else rule.history_size
        return max(size, 1) if rule.retain else size

    def ttl_for(self, rule: Rule) -> int:
        """Return for how many seconds publications are kept of a topic with a rule."""
        return self.ttl if rule.history_ttl is None else rule.history_ttl


class Topic:
    """The history of one topic."""

    __slots__ = (
        "epoch",
        "expected",
        "floor",
        "held",
        "kept",
        "limit",
        "name",
        "offset",
        "replayed",
        "rules_version",
        "sequence",
        "ttl",
    )

    def __init__(self, name: str, epoch: str, floor: int) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = 0
        #: The sequence of the last publication, and that of the last one that is not kept; of a new
        #: topic, the highest that a topic of its name may have had before it was forgotten.
        self.sequence = self.floor = floor
        #: True while the topic has subscribers.
        self.held = False
        #: How many publications are written elsewhere before they are added.
        self.expected = 0
        #: The last publications by offset, without a gap.
        self.kept: dict[int, Publication] = {}
        #: What was read last, with its limit, until there is more to read, or less.
        self.replayed: tuple[Replay, int] | None = None
        #: How many publications are kept, and for how many seconds, according to these rules.
        self.limit = self.ttl = 0
        self.rules_version = -1

    @property
    def last(self) -> Id:
        """The id of the last publication; offset 0 if there was none."""
        return Id(self.epoch, self.offset)

    @property
    def oldest(self) -> Publication:
        """The oldest publication kept."""
        return self.kept[self.offset - len(self.kept) + 1]


class Recorder(Protocol):
    """Told of each change of the histories, to keep them elsewhere as well."""

    def added(self, topic: Topic, publication: Publication, kept: bool) -> None:
        """Take note of a publication, before anybody knows of it, and of whether it is kept."""

    def dropped(self, topic: Topic, publication: Publication) -> None:
        """Take note that a publication is not kept any more."""

    def changed(self, topic: Topic) -> None:
        """Take note that a topic is new."""

    def forgotten(self, topic: Topic) -> None:
        """Take note that a topic was forgotten, with its epoch; it has no publications."""


class History:
    """The histories of all topics.

    A topic is forgotten together with its epoch once it has no publications and no subscribers,
    and its last id was given out longer ago than publications are kept.

    :param make_epoch: returns a new random epoch.
    :param grown: called with the bytes that each publication adds.
    :param rules: of topics that are kept otherwise than ``retention`` says.
    """

    def __init__(
        self,
        clock: IReactorTime,
        retention: Retention,
        make_epoch: Callable[[], str],
        grown: Callable[[int], object] = lambda size: None,
        rules: Rules | None = None,
    ) -> None:
        self._grown = grown
        self._rules = Rules() if rules is None else rules
        self._rules_version = self._rules.version
        self._clock = clock
        self._retention = retention
        self._make_epoch = make_epoch
        self._topics: dict[str, Topic] = {}
        # When each publication expires, and each topic whose id was given out, by how long they are
        # kept: those that are kept equally long are in the order of expiry. (A plain dict finds its
        # first key only past all keys deleted before it.) With a publication are the bytes counted
        # for it: text takes more once it has been encoded, as Python keeps the encoded form.
        self._entries: dict[int, OrderedDict[Publication, tuple[float, int]]] = {}
        self._idle: dict[int, OrderedDict[Topic, float]] = {}
        # The newest publications of topics that retain them, each the only one of its topic, once
        # they would have been dropped; with their bytes.
        self._retained: OrderedDict[Publication, int] = OrderedDict()
        self._expiry: IDelayedCall | None = None
        # When it is due.
        self._next_due = inf
        #: Memory used, in bytes.
        self.bytes = 0
        #: The number of publications of all topics; the sequence of the last one.
        self.sequence = 0
        #: The highest sequence that topics may have had that were forgotten.
        self.floor = 0
        #: Told of each change; None if they are kept here only.
        self.recorder: Recorder | None = None

    def __len__(self) -> int:
        return len(self._topics)

    def add(
        self,
        name: str,
        data: str | bytes,
        event: str | None = None,
        is_json: bool = False,
        metadata: str | None = None,
    ) -> Publication:
        """Make the next publication of a topic, and keep it."""
        if self._rules_version != self._rules.version:
            self._apply_rules()
        topic = self._topics.get(name) or self._get(name)
        if topic.rules_version != self._rules_version:
            self._apply_rule(topic)
        limit = topic.limit
        if not limit:
            self._touch(topic, self._rules.find(name))
            while topic.kept:
                self._drop(topic.oldest)  # Kept by a rule that has changed.
        topic.offset += 1
        topic.replayed = None
        self.sequence = topic.sequence = sequence = self.sequence + 1
        id = Id(topic.epoch, topic.offset)
        publication = Publication(topic.name, data, id, event, is_json, sequence, 0, metadata)
        if self.recorder is not None:
            self.recorder.added(topic, publication, limit > 0)
        if limit:
            self._keep(topic, publication, limit)
        else:
            topic.floor = sequence
        return publication

    def pass_over(self, name: str, count: int) -> list[Id]:
        """Give out ids for publications that nobody would ever get; return these ids.

        They are the first of ``count`` publications of a topic without subscribers, at the end of
        which only the last ones are kept: these must be added at once. To make the others, and to
        drop them again, takes ten times as long. There are none if changes are recorded.
        """
        if self._rules_version != self._rules.version:
            self._apply_rules()
        topic = self._get(name)
        if topic.rules_version != self._rules_version:
            self._apply_rule(topic)
        passed = count - topic.limit
        if passed <= 0 or topic.held or not topic.limit or self.recorder is not None:
            return []
        topic.expected += 1  # It must not be forgotten meanwhile.
        while topic.kept:
            self._drop(topic.oldest)
        topic.expected -= 1
        first = topic.offset + 1
        topic.offset += passed
        self.sequence += passed
        topic.sequence = topic.floor = self.sequence
        return [Id(topic.epoch, offset) for offset in range(first, topic.offset + 1)]

    def replay(self, name: str, after: Id | None, limit: int) -> Replay:
        """Return the publications after an id; not recovered if they are not all kept.

        Then there are none, but for the newest one of a topic that retains it.

        :param after: None for a new subscriber, which starts with what comes next.
        :param limit: bytes of publications to return, approximately, but always at least one. If
            ``last`` is not among them, there are more.
        """
        rule = self._rule_for(name)
        topic = self._get(name)
        self._touch(topic, rule)
        last = topic.last
        if after is None or after.epoch != topic.epoch:
            return _begin(topic, rule)
        if not 0 <= topic.offset - after.offset <= len(topic.kept):
            return _begin(topic, rule)
        if topic.replayed is not None:
            replay, its_limit = topic.replayed
            if its_limit == limit and replay.id == after and replay.last == last:
                return replay  # Those whose connections end together come back for the same.
        chosen: list[Publication] = []
        left = limit
        for offset in range(after.offset + 1, topic.offset + 1):
            if chosen and left <= 0:
                break
            chosen.append(topic.kept[offset])
            left -= _size(chosen[-1])
        replay = Replay(after, True, tuple(chosen), last)
        topic.replayed = replay, limit
        return replay

    def locate(self, name: str, sequence: int) -> Id | None:
        """Return the id of a topic's last publication up to a sequence; None if it is not known.

        It is not if a later publication is not kept any more.
        """
        rule = self._rule_for(name)
        topic = self._topics.get(name)
        floor = self.floor if topic is None else topic.floor
        if not floor <= sequence <= self.sequence:
            return None
        topic = self._get(name)
        self._touch(topic, rule)
        first = topic.offset - len(topic.kept) + 1
        offsets = range(first, topic.offset + 1)
        later = bisect_right(offsets, sequence, key=lambda offset: topic.kept[offset].sequence)
        return Id(topic.epoch, first + later - 1)

    def newest(self, name: str) -> int:
        """Return the sequence of a topic's last publication; 0 if it is not known."""
        topic = self._topics.get(name)
        return 0 if topic is None else topic.sequence

    def is_newest(self, name: str, id: Id) -> bool:
        """Return whether an id is the last one of a topic."""
        topic = self._topics.get(name)
        return topic is not None and topic.offset == id.offset and topic.epoch == id.epoch

    def hold(self, name: str) -> None:
        """Keep a topic, as it has subscribers."""
        topic = self._get(name)
        topic.held = True
        self._stop_idle(topic)
        self._rest()

    def release(self, name: str) -> None:
        """Let a topic expire, as it has no subscribers any more."""
        rule = self._rule_for(name)
        topic = self._get(name)
        topic.held = False
        self._touch(topic, rule)

    def describe(self, name: str) -> tuple[Id | None, int]:
        """Return a topic's last id and number of publications; (None, 0) if it is unknown."""
        topic = self._topics.get(name)
        return (None, 0) if topic is None else (topic.last, len(topic.kept))

    def names(self) -> list[str]:
        """Return the names of all topics."""
        return list(self._topics)

    def trim(self, size: int) -> None:
        """Drop the oldest publications, until a number of bytes is freed or none is left.

        Those that are retained are dropped once no others are left.
        """
        goal = self.bytes - size
        while self.bytes > goal and (queue := self._oldest_queue()) is not None:
            topic = self._topics[next(iter(queue)).topic]
            if len(topic.kept) == 1:
                # It is dropped before its time, and its id may have been given out a moment ago.
                self._touch(topic, self._rules.find(topic.name))
            self._drop_first(queue)
        while self.bytes > goal and self._retained:
            self._drop(next(iter(self._retained)))

    def forget(self, name: str) -> None:
        """Drop the publications of a topic. Its epoch is kept for a while, as that of an idle one.

        Clients that lack any of them cannot resume.
        """
        topic = self._topics.get(name)
        if topic is not None:
            self._touch(topic, self._rule_for(name))
            while topic.kept:
                self._drop(topic.oldest)

    def expect(self, name: str) -> None:
        """Keep a topic, as its next publication is written elsewhere first, until ``settle``."""
        self._get(name).expected += 1

    def settle(self, name: str) -> None:
        """Take note that a publication that was expected has been added, or will not be."""
        topic = self._get(name)
        topic.expected -= 1
        self._touch(topic, self._rules.find(name))

    def look_ahead(self, name: str) -> tuple[Topic, bool]:
        """Return a topic that is expected, and whether its next publication will be kept."""
        rule = self._rule_for(name)
        return self._topics[name], self._retention.size_for(rule) > 0

    def restore_topic(self, name: str, epoch: str, offset: int, sequence: int, floor: int) -> Topic:
        """Make a topic as it was, before its publications are restored."""
        topic = self._topics[name] = Topic(name, epoch, floor)
        topic.offset, topic.sequence = offset, sequence
        topic.held = True
        return topic

    def restore(self, topic: Topic, publication: Publication, age: float) -> None:
        """Keep a publication again, after those before it.

        :param age: for how many seconds it has been kept.
        """
        rule = self._rules.find(topic.name)
        ttl, size = self._retention.ttl_for(rule), _size(publication)
        queue = self._entries.get(ttl)
        if queue is None:
            queue = self._entries[ttl] = OrderedDict()
        queue[publication] = (self._clock.seconds() + ttl - age, size)
        topic.kept[publication.id.offset] = publication
        self.bytes += size
        if len(topic.kept) > self._retention.size_for(rule):
            self._drop(topic.oldest)

    def restored(self, sequence: int, floor: int) -> None:
        """Go on after everything was restored: drop what has expired, and what is too much.

        Each topic is kept as if its last id had been given out now.

        :param sequence: of the last publication that there was.
        :param floor: the highest sequence that topics may have had that are not here.
        """
        self.sequence, self.floor = sequence, max(floor, self.floor)
        for topic in list(self._topics.values()):
            topic.held = False
            self._touch(topic, self._rules.find(topic.name))
        if self._expiry is not None:
            self._expiry.cancel()
        self._expire()
        self.trim(self.bytes - self._retention.bytes)
        self._grown(self.bytes)

    def stop(self) -> None:
        """Forget everything, and stop the timer."""
        self._topics.clear()
        self._entries.clear()
        self._idle.clear()
        self._retained.clear()
        self.bytes = 0
        self._rest()

    def _get(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name, self._make_epoch(), self.floor)
            if self.recorder is not None:
                self.recorder.changed(topic)
        return topic

    def _rule_for(self, name: str) -> Rule:
        """Return the rule of a topic."""
        if self._rules_version != self._rules.version:
            self._apply_rules()
        return self._rules.find(name)

    def _apply_rules(self) -> None:
        """Drop what is not retained any more, as the rules have changed."""
        self._rules_version = self._rules.version
        for publication in list(self._retained):
            if not self._rules.find(publication.topic).retain:
                self._drop(publication)

    def _apply_rule(self, topic: Topic) -> None:
        """Note in a topic how it is kept: to find that out takes a tenth of a publication."""
        rule, retention = self._rules.find(topic.name), self._retention
        topic.limit, topic.ttl = retention.size_for(rule), retention.ttl_for(rule)
        topic.rules_version = self._rules_version

    def _touch(self, topic: Topic, rule: Rule) -> None:
        """Keep a topic's epoch for a while, as its last id is given out."""
        if topic.held:
            return
        ttl = self._retention.ttl_for(rule)
        queue = self._idle.get(ttl)
        if queue is None:
            queue = self._idle[ttl] = OrderedDict()
        if topic in queue:
            queue[topic] = self._due(ttl)
            queue.move_to_end(topic)
            return
        self._stop_idle(topic)
        queue[topic] = self._due(ttl)
        if sum(map(len, self._idle.values())) > _MAX_IDLE:
            used = {_first(queue) - ttl: queue for ttl, queue in self._idle.items() if queue}
            self._forget(used[min(used)].popitem(last=False)[0])

    def _stop_idle(self, topic: Topic) -> None:
        for queue in self._idle.values():
            queue.pop(topic, None)

    def _keep(self, topic: Topic, publication: Publication, limit: int) -> None:
        """Keep a publication of a topic that keeps at most ``limit``."""
        kept, ttl = topic.kept, topic.ttl
        kept[topic.offset] = publication
        # This is _size, without the call.
        size = size_of(publication.data) + _OVERHEAD
        if publication.metadata is not None:
            size += len(publication.metadata)
        queue = self._entries.get(ttl)
        if queue is None:
            queue = self._entries[ttl] = OrderedDict()
        queue[publication] = (self._due(ttl), size)
        self.bytes += size
        if self._retained and kept.get(topic.offset - 1) in self._retained:
            self._drop(topic.oldest)
        while len(kept) > limit:
            # This is _drop, for one that is not the last of its topic, and most likely kept as
            # long as the new one.
            oldest = kept.pop(topic.offset - len(kept) + 1)
            if oldest.sequence > topic.floor:
                topic.floor = oldest.sequence
            entry = queue.pop(oldest, None)
            self.bytes -= self._pop_size(oldest) if entry is None else entry[1]
            if self.recorder is not None:
                self.recorder.dropped(topic, oldest)
        if self.bytes > self._retention.bytes:
            self.trim(self.bytes - self._retention.bytes)
        self._grown(size)

    def _drop_first(self, queue: OrderedDict[Publication, tuple[float, int]]) -> None:
        """Drop the first publication of a queue, or retain it."""
        publication = next(iter(queue))
        topic = self._topics[publication.topic]
        # Those before it, which were to be kept longer by another rule.
        while topic.oldest is not publication:
            self._drop(topic.oldest)
        if publication.id.offset == topic.offset and self._rules.find(topic.name).retain:
            self._retained[publication] = queue.pop(publication)[1]
        else:
            self._drop(publication)

    def _drop(self, publication: Publication) -> None:
        """Drop the oldest publication of a topic."""
        topic = self._topics[publication.topic]
        self.bytes -= self._pop_size(publication)
        del topic.kept[publication.id.offset]
        topic.replayed = None
        topic.floor = max(topic.floor, publication.sequence)
        if self.recorder is not None:
            self.recorder.dropped(topic, publication)
        self._forget(topic)

    def _pop_size(self, publication: Publication) -> int:
        """Remove a publication from its queue, and return the bytes that were counted for it."""
        for queue in self._entries.values():
            entry = queue.pop(publication, None)
            if entry is not None:
                return entry[1]
        return self._retained.pop(publication)

    def _forget(self, topic: Topic) -> None:
        """Forget a topic, unless there is a reason to keep it."""
        if not (
            topic.kept
            or topic.held
            or topic.expected
            or any(topic in queue for queue in self._idle.values())
        ):
            del self._topics[topic.name]
            self.floor = max(self.floor, topic.sequence)
            if self.recorder is not None:
                self.recorder.forgotten(topic)

    def _oldest_queue(self) -> OrderedDict[Publication, tuple[float, int]] | None:
        """Return the queue whose first publication is the oldest of all; None without any."""
        queues = [queue for queue in self._entries.values() if queue]
        if len(queues) < 2:
            return queues[0] if queues else None
        return min(queues, key=lambda queue: next(iter(queue)).sequence)

    def _due(self, ttl: int) -> float:
        """Return when what is added now expires. Starts the timer, or sets it earlier."""
        due = self._clock.seconds() + ttl
        if due < self._next_due:
            self._next_due = due
            if self._expiry is None:
                self._expiry = self._clock.callLater(ttl, self._expire)
            else:
                self._expiry.reset(ttl)
        return due

    def _expire(self) -> None:
        self._expiry, self._next_due = None, inf
        now = self._clock.seconds()
        for entries in self._entries.values():
            while entries and _first(entries)[0] <= now:
                self._drop_first(entries)
        for idle in self._idle.values():
            while idle and _first(idle) <= now:
                self._forget(idle.popitem(last=False)[0])
        # Python keeps the memory of a million deleted keys as long as there is their dict.
        self._entries = {ttl: queue for ttl, queue in self._entries.items() if queue}
        self._idle = {ttl: queue for ttl, queue in self._idle.items() if queue}
        dues = [_first(entries)[0] for entries in self._entries.values()]
        dues += [_first(idle) for idle in self._idle.values()]
        if dues:
            self._next_due = min(dues)
            self._expiry = self._clock.callLater(self._next_due - now, self._expire)
        if not self._topics:
            self._topics.clear()

    def _rest(self) -> None:
        """Stop the timer if nothing is left to expire."""
        if self._expiry is not None and not any((*self._entries.values(), *self._idle.values())):
            self._expiry.cancel()
            self._expiry, self._next_due = None, inf


def _begin(topic: Topic, rule: Rule) -> Replay:
    """Return where a subscriber begins that cannot resume: with what is retained, or what comes."""
    last = topic.last
    if not (rule.retain and topic.kept):
        return Replay(last, False, (), last)
    return Replay(Id(topic.epoch, topic.offset - 1), False, (topic.kept[topic.offset],), last)


def _size(publication: Publication) -> int:
    size = size_of(publication.data) + _OVERHEAD
    return size if publication.metadata is None else size + len(publication.metadata)


def _first(queue: OrderedDict[Any, _V]) -> _V:
    return next(iter(queue.values()))
