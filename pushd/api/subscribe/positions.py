"""Positions at which clients resume topics: an id, or a cursor for many topics at once."""

from __future__ import annotations

from collections.abc import Mapping

from pushd.errors import BadRequest, Unavailable
from pushd.topics.broker import TopicSource
from pushd.topics.cursor import LOST, Cursor
from pushd.topics.publication import Id

#: Where a topic is to be resumed: after an id, or after all that a cursor includes.
Position = Id | Cursor

# Seconds after which a client may try again whose cursor cannot be looked up.
_RETRY_AFTER = 5


def read_position(text: str) -> Position:
    """Read an id or a cursor. Raises ValueError if it is neither."""
    try:
        return Id.parse(text)
    except ValueError:
        pass
    try:
        return Cursor.parse(text)
    except ValueError:
        raise ValueError("must be an id or a cursor, as received with a publication") from None


async def locate(
    source: TopicSource, topics: Mapping[str, Position | None]
) -> dict[str, Id | None]:
    """Return the ids after which topics are resumed; ``LOST`` if that is not known.

    Raises BadRequest (503) if the broker cannot be reached.
    """
    ids: dict[str, Id | None] = {}
    by_cursor: dict[str, tuple[Cursor, list[str]]] = {}
    for topic, after in topics.items():
        ids[topic] = None if isinstance(after, Cursor) else after
        if isinstance(after, Cursor):
            by_cursor.setdefault(str(after), (after, []))[1].append(topic)
    for cursor, names in by_cursor.values():
        try:
            found = await source.locate(names, cursor)
        except Unavailable:
            retry = {"Retry-After": f"{_RETRY_AFTER}"}
            raise BadRequest("topics temporarily unavailable", "topic", 503, retry) from None
        for topic, id in zip(names, found, strict=True):
            ids[topic] = LOST if id is None else id
    return ids
