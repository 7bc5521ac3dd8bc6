"""What has changed in the histories in memory, as statements for the database.

The tables hold what memory holds, no more and no less, so the limits of the history are those of
the database. A publication that was dropped before it was written is never written, and a topic is
written once in a group.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from pushd.topics.history import History, Topic
from pushd.topics.publication import Id, Publication
from pushd.topics.state.activity_log import ActivityLog
from pushd.topics.state.database import Statement, Value
from pushd.topics.state.writer import Changes

# How many rows one statement inserts: powers of two, so that there are few different statements.
# Python gives the interpreter's lock away with each statement, and has to get it back.
_MOST_ROWS = 128


def insert_all(table: str, rows: Sequence[Sequence[Value]]) -> Iterator[Statement]:
    """Yield statements that insert rows of equal length, or replace those with the same key."""
    at, size = 0, _MOST_ROWS
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2
        row = f"({', '.join('?' * len(rows[at]))})"
        values = [value for one in rows[at : at + size] for value in one]
        yield Statement(f"INSERT OR REPLACE INTO {table} VALUES {', '.join([row] * size)}", values)
        at += size


def delete_all(table: str, column: str, keys: Iterable[Value]) -> Statement:
    """Return a statement that deletes the rows with one of some keys."""
    sql = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
    return Statement(sql, (json.dumps(list(keys)),))


def topic_row(topic: Topic) -> tuple[str, str, int, int, int]:
    """Return the row of a topic."""
    return topic.name, topic.epoch, topic.offset, topic.sequence, topic.floor


def insert_publications(made: Sequence[tuple[Publication, float]]) -> Iterator[Statement]:
    """Yield statements that insert publications, each with the time of day at which it was made."""
    yield from insert_all("publication", [publication_row(one, at) for one, at in made])
    metadata = [(one.sequence, one.metadata) for one, _ in made if one.metadata is not None]
    yield from insert_all("metadata", metadata)


def publication_row(publication: Publication, at: float) -> tuple[Value, ...]:
    """Return the row of a publication that was made at a time of day."""
    return (
        publication.sequence,
        publication.topic,
        publication.id.offset,
        at,
        publication.data,
        publication.event,
        publication.is_json,
    )


class HistoryChanges:
    """Records what changes in a history, until it is taken for the next group.

    :param wall: the time of day, in seconds since 1970.
    :param log: told of each publication before it is delivered.
    :param changed: called with each change; wakes the writer.
    """

    def __init__(
        self,
        history: History,
        wall: Callable[[], float],
        log: ActivityLog,
        changed: Callable[[], object],
    ) -> None:
        #: The sequence of the last publication that is in the database.
        self.written = history.sequence
        self._history = history
        self._wall = wall
        self._log = log
        self._changed = changed
        # None stands for a topic that was forgotten.
        self._topics: dict[str, Topic | None] = {}
        self._publications: dict[int, tuple[Publication, float]] = {}
        self._dropped: list[int] = []
        self._keys: list[tuple[Value, ...]] = []
        # The numbers of keys that must not be in the database.
        self._refused_keys: list[int] = []
        # The numbers of the keys that are remembered, and the highest of those that are not.
        self._key_numbers: deque[int] = deque()
        self._last_key = self._dropped_key = 0

    # Called by the history

    def added(self, topic: Topic, publication: Publication, kept: bool) -> None:
        """Record a publication, unless it was written before it was made."""
        name, sequence = topic.name, publication.sequence
        self._topics[name] = topic
        if sequence > self.written:
            self._log.note(sequence, name)
            if kept:
                self._publications[sequence] = publication, self._wall()
        elif not kept:
            self._dropped.append(sequence)
        self._changed()

    def dropped(self, topic: Topic, publication: Publication) -> None:
        """Record that a publication is not kept any more."""
        self._topics[topic.name] = topic
        if self._publications.pop(publication.sequence, None) is None:
            self._dropped.append(publication.sequence)
        self._changed()

    def changed(self, topic: Topic) -> None:
        """Record a topic."""
        self._topics[topic.name] = topic
        self._changed()

    def forgotten(self, topic: Topic) -> None:
        """Record that a topic was forgotten."""
        self._topics[topic.name] = None
        self._changed()

    # Called by the broker

    def add_key(self, topic: str, key: str, id: Id) -> None:
        """Record an idempotency key."""
        number = self.reserve_key()
        self._key_numbers.append(number)
        self._keys.append((number, topic, key, id.epoch, id.offset, self._wall()))
        self._changed()

    def reserve_key(self) -> int:
        """Return the number of a key that is written before it is known."""
        self._last_key += 1
        return self._last_key

    def refuse(self, topic: str, number: int) -> None:
        """Record that a publication was not written first, nor its key with a number, if any.

        It may have been all the same: what seems to fail does not always.
        """
        self._topics[topic] = self._history.look_ahead(topic)[0]
        if number:
            self._refused_keys.append(number)
        self._changed()

    def restore_key(self, number: int) -> None:
        """Note a key that is in the database, after those before it."""
        self._last_key = max(self._last_key, number)
        self._key_numbers.append(number)

    def drop_key(self) -> None:
        """Record that the oldest key is forgotten."""
        self._dropped_key = self._key_numbers.popleft()
        self._changed()

    def take(self) -> Changes | None:
        """Return what was recorded since it was last taken; None without anything."""
        statements = list(self._take())
        if not statements:
            return None
        sequence = self._history.sequence
        numbers = (sequence, self._history.floor)
        statements += [
            Statement("UPDATE daemon SET sequence = ?, floor = ?", numbers),
            # What a write has left that seemed to fail, and did not.
            Statement("DELETE FROM publication WHERE sequence > ?", (sequence,)),
        ]
        return Changes(statements, lambda: self.note_written(sequence))

    def note_written(self, sequence: int) -> None:
        """Note that the publications up to a sequence are in the database."""
        self.written = max(self.written, sequence)

    def _take(self) -> Iterator[Statement]:
        topics, self._topics = self._topics, {}
        if forgotten := [name for name, topic in topics.items() if topic is None]:
            yield delete_all("topic", "name", forgotten)
        yield from insert_all("topic", [topic_row(one) for one in topics.values() if one])
        publications, self._publications = self._publications, {}
        yield from insert_publications(list(publications.values()))
        if self._dropped:
            yield delete_all("publication", "sequence", self._dropped)
            self._dropped = []
        if self._refused_keys:
            yield delete_all("idempotency", "number", self._refused_keys)
            self._refused_keys = []
        keys, self._keys = self._keys, []
        yield from insert_all("idempotency", keys)
        if self._dropped_key:
            yield Statement("DELETE FROM idempotency WHERE number <= ?", (self._dropped_key,))
            self._dropped_key = 0
