"""Cursors: the position of a connection in all its topics, as one short value.

Every broker numbers the publications of all topics (``Publication.sequence``) in an order that is
also the order of each topic. A cursor is ``GENERATION.SEQUENCE``: the client has received, of each
of its topics, everything up to that number and nothing after it. Topics of which that is not true
follow as exceptions, ``~POSITION.HASHES`` for each position: a number, or an id of the topic for a
subscription that began at an id; then a hash of 8 characters for each topic that is there. A
hundred topics that get what is published as it is published need none. The sequence counts within
the generation, a random name of the numbering: that of the process, or with Redis the generation of
all topics there. A cursor of another generation proves nothing.

**What a cursor must be.** If it is given back, at this node or another and over any transport, the
client must get of each topic what it has not received, and nothing twice; or else be told that this
cannot be known (``recovered: false``). A wrong number is a loss or a repeat that nothing notices,
so that each change of a ``CursorTracker`` keeps this invariant: *a topic that is not an exception
is at the base exactly: everything up to it was written, and nothing after it; an exception is at
its own position exactly.* Being an exception is always right, only longer. So the one step that has
to be justified is the one that ends an exception or raises the base, and it needs two things:

1. *The subscription is live.* It has then passed on whatever the hub has delivered. One that reads
   the history is an exception at the position that it has reached, and so is one that has fallen
   behind, from the publication on that it did not take.
2. *The hub has delivered everything up to the new base* (``Hub.settled``). The hub delivers what is
   published in one iteration of the reactor topic by topic, in runs; while it delivers a run of
   topic *a*, the base can go no further than the first publication of any other run, wherever
   that waits. What *a* has beyond that makes *a* an exception, until the other runs are delivered.
   A subscriber that has read such a publication in the history before the hub delivered it is
   ahead in the same way.

**With Redis** a message on a channel shows that everything before it in the topics of this node has
arrived, as Redis runs one script at a time, sends to a connection in that order, and closes it if
it can't. That is not true of a topic that catches up here after a lost connection. So
``settled`` does not move while any followed topic does that. A topic that is followed for the first
time delays nothing: its subscribers have begun only once it is read, after Redis has confirmed its
channel, and what they have read may be ahead of what the channels have brought, as above.

**Another node** may not have seen yet what a cursor speaks of. The base is then higher than what
that node has settled. The base is right nevertheless for the topics that the cursor covers: the
client has received those publications. It says nothing of a topic that begins at this node, which
remains an exception until the node has settled the base.

**A new generation** comes with a Redis that has lost its data, and ends all subscriptions of the
old one. A connection whose subscriptions have all waited for Redis takes over the new one when the
first of them begins: with a cursor of the old one, a client that has just been told where it is
could not resume. If one has begun before, the connection is about to be closed, and keeps the old.

**Subscribing and unsubscribing.** A topic is registered with its position before any topic is
subscribed to, as the first event of one carries the positions of all. A topic that begins with what
comes next has no position before its subscription has begun; until then nothing was promised. One
whose position can't be proven keeps it until the client has been told so: a client that is cut off
before that is told the next time. A topic that is unsubscribed from is forgotten; if the client
comes back for it, the base is as good a position as any.

**Which positions can be proven** is decided by the broker (``TopicSource.locate``): the history of
a topic has the number of each publication, and of the last one that it has dropped. A cursor older
than that one is not recovered, and neither is one from the future.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from pushd.topics.publication import Id, Publication

#: The longest cursor that is accepted, in characters: 128 topics, each at a position of its own.
MAX_CURSOR = 8192

#: Where a topic is: everything up to a sequence, or up to an id of the topic, was received.
Position = int | Id

#: A generation that is not known, so that cursors of it are never recovered.
UNKNOWN = "0"

#: A position that can't be proven: no epoch has this name.
LOST = Id(UNKNOWN, 0)

_SEQUENCE = r"(?:0|[1-9][0-9]{0,17})"
_GENERATION = r"[A-Za-z0-9_-]{1,32}"
_HASHES = r"(?:[A-Za-z0-9_-]{8})+"
_POSITION = rf"(?:{_GENERATION}:)?{_SEQUENCE}"
_CURSOR = re.compile(
    rf"(?P<generation>{_GENERATION})\.(?P<sequence>{_SEQUENCE})"
    rf"(?P<exceptions>(?:~{_POSITION}\.{_HASHES})*)"
)
_HASH_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position of a connection in all its topics; the module's docstring explains it."""

    generation: str
    #: Everything up to this sequence was received, and nothing after it.
    sequence: int
    #: The positions of topics of which that is not true, by the hashes of their names.
    exceptions: Mapping[str, Position] = field(default_factory=dict)

    def __str__(self) -> str:
        groups: dict[Position, list[str]] = {}
        for topic, position in self.exceptions.items():
            groups.setdefault(position, []).append(topic)
        others = "".join(f"~{position}.{''.join(topics)}" for position, topics in groups.items())
        return f"{self.generation}.{self.sequence}{others}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse the text form of a cursor. Raises ValueError if it is malformed."""
        match = _CURSOR.fullmatch(text) if len(text) <= MAX_CURSOR else None
        if match is None:
            raise ValueError("cursor must be as received with a publication")
        exceptions = dict(_read_exceptions(match["exceptions"]))
        return cls(match["generation"], int(match["sequence"]), exceptions)

    def position(self, topic: str) -> Position:
        """Return the position of a topic."""
        return self.exceptions.get(hash_topic(self.generation, topic), self.sequence)


@lru_cache(maxsize=4096)
def hash_topic(generation: str, topic: str) -> str:
    """Return what stands for a topic in the cursors of a generation."""
    digest = blake2b(topic.encode(), digest_size=6, key=generation.encode()).digest()
    return urlsafe_b64encode(digest).decode()


def _read_exceptions(text: str) -> Iterator[tuple[str, Position]]:
    for group in text.split("~")[1:]:
        place, _, topics = group.partition(".")
        position = Id.parse(place) if ":" in place else int(place)
        for start in range(0, len(topics), _HASH_LENGTH):
            yield topics[start : start + _HASH_LENGTH], position


class Horizon(Protocol):
    """What a hub knows about the progress of all topics together."""

    @property
    def generation(self) -> str:
        """The generation in which the broker numbers publications."""

    def settled(self, beside: str = "") -> int:
        """Return the sequence up to which everything was delivered to live subscriptions.

        :param beside: a topic whose run does not count if it is being delivered.
        """

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic that may have been read."""


class CursorTracker:
    """The cursor of a connection, kept up to date as its topics are subscribed to and written.

    Topics are registered first, by ``started``, all of them before the first is subscribed to; then
    each is subscribed to with ``Hub.subscribe``, which gets the tracker. The connection reports
    each publication as it is written, and then asks for the ``value`` that goes with it.

    :param horizon: the hub.
    :param cursor: where the connection resumes.
    """

    __slots__ = (
        "_ahead",
        "_base",
        "_begun",
        "_behind",
        "_exceptions",
        "_generation",
        "_horizon",
        "_waiting",
    )

    def __init__(self, horizon: Horizon, cursor: Cursor | None = None) -> None:
        self._horizon = horizon
        self._generation = horizon.generation
        known = cursor is not None and cursor.generation == self._generation
        self._base = cursor.sequence if cursor is not None and known else horizon.settled()
        # The positions of topics that are not at the base.
        self._exceptions: dict[str, Position] = {}
        # Topics whose subscription is not live; and those of them that are at the base.
        self._behind: set[str] = set()
        self._waiting: set[str] = set()
        # Topics that are exceptions although they are live, each with the sequence from which on
        # the base holds for it, too.
        self._ahead: dict[str, int] = {}
        # Whether a subscription has begun.
        self._begun = False

    def started(self, topic: str, after: Cursor | Id | None) -> None:
        """Register a topic that resumes from a cursor or an id, or begins with what comes next."""
        if after is None:
            return
        position: Position = after if isinstance(after, Id) else after.position(topic)
        if isinstance(after, Cursor) and isinstance(position, int):
            # Another generation counts in another way.
            position = position if after.generation == self._generation else LOST
        self._behind.add(topic)
        self._move(topic, position)

    def delivered(self, publication: Publication) -> None:
        """Note that a publication was written: the next value includes it."""
        topic, sequence = publication.topic, publication.sequence
        if not sequence:
            # From a node of an older version: only its id is known.
            self._ahead.pop(topic, None)
            self._waiting.discard(topic)
            self._exceptions[topic] = publication.id
        elif topic in self._behind:
            self._move(topic, sequence)
        else:
            self._exceptions[topic] = self._ahead[topic] = sequence
            settled = self._horizon.settled(topic)
            self._raise(min(sequence, settled), settled)

    def dropped(self, topic: str) -> None:
        """Forget a topic, as its subscription has ended."""
        for topics in (self._behind, self._waiting):
            topics.discard(topic)
        for positions in (self._exceptions, self._ahead):
            positions.pop(topic, None)

    def value(self) -> str:
        """Return the cursor after everything that was written."""
        settled = self._horizon.settled()
        self._raise(settled, settled)
        exceptions = {}
        for topic, position in self._exceptions.items():
            # What is settled is a position of all live topics that are not beyond it.
            reached = self._ahead.get(topic, settled + 1) <= settled
            exceptions[hash_topic(self._generation, topic)] = settled if reached else position
        return str(Cursor(self._generation, self._base, exceptions))

    # Called by a subscription

    def began(self, topic: str, id: Id, recovered: bool) -> None:
        """Note that a subscription begins after an id, which was asked for if it is recovered."""
        if not self._begun and self._generation != self._horizon.generation:
            self._change_generation()
        self._begun = True
        if not (recovered and topic in self._behind) or self._exceptions.get(topic) == LOST:
            self._behind.add(topic)
            self._move(topic, id)

    def caught_up(self, topic: str) -> None:
        """Note that a subscription is live: it has all that the hub has delivered."""
        self._behind.discard(topic)
        self._waiting.discard(topic)
        if topic in self._exceptions:
            position = self._exceptions[topic]
            self._ahead[topic] = (
                position if isinstance(position, int) else self._horizon.newest(topic)
            )
            settled = self._horizon.settled()
            self._raise(settled, settled)

    def fell_behind(self, topic: str) -> None:
        """Note that a subscription is not live any more: it did not get what was published."""
        self._ahead.pop(topic, None)
        self._behind.add(topic)
        if topic not in self._exceptions:
            self._waiting.add(topic)

    def _change_generation(self) -> None:
        """Take over a generation that has begun while all subscriptions waited for the broker."""
        for topic, position in self._exceptions.items():
            if isinstance(position, int):
                self._exceptions[topic] = LOST
        self._exceptions |= dict.fromkeys(self._waiting, LOST)
        self._waiting.clear()
        self._generation = self._horizon.generation
        self._base = self._horizon.settled()

    def _move(self, topic: str, position: Position) -> None:
        """Note the position of a topic that is behind."""
        if position == self._base:
            self._exceptions.pop(topic, None)
            self._waiting.add(topic)
        else:
            self._waiting.discard(topic)
            self._exceptions[topic] = position

    def _raise(self, base: int, settled: int) -> None:
        """Raise the base, if there are not more topics that stay there than topics ahead of it."""
        if base > self._base and len(self._waiting) <= len(self._ahead):
            for topic in self._waiting:
                self._exceptions[topic] = self._base
            self._waiting.clear()
            self._base = base
        if self._base <= settled:
            for topic in [one for one, due in self._ahead.items() if due <= self._base]:
                del self._ahead[topic], self._exceptions[topic]
