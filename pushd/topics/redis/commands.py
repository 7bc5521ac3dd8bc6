"""The topics in Redis: what a node asks of them, and what it understands of the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredSemaphore, fail

from pushd.errors import Unavailable
from pushd.topics.broker import KEY_TTL, Draft
from pushd.topics.history import Retention
from pushd.topics.publication import Id, Replay
from pushd.topics.redis.scripts import (
    DESCRIBE,
    HOLD,
    PUBLISH,
    REPLAY,
    SERVER,
    TOPICS,
    TOUCH,
    channel_name,
    encode,
    idempotency_key,
    read_id,
    read_replay,
    read_topic,
    topic_keys,
)

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

# How many publications may wait for Redis' answer, and how many bytes.
_MAX_UNANSWERED = 10_000
_MAX_UNANSWERED_BYTES = 64 << 20

# How many may read the past at once.
_READERS = 64

# How many topics are listed: so many times about a thousand.
_SCANS = 100


class TopicCommands:
    """Asks, over whatever session there is. All that is asked may fail with Away or Refused.

    :param db: the number of the database, as channels are not kept apart by it.
    :param make_name: gives a new random name.
    """

    def __init__(self, *, db: int, retention: Retention, make_name: Callable[[], str]) -> None:
        self._db = db
        self._retention = retention
        self._make_name = make_name
        self._readers = DeferredSemaphore(_READERS)
        self._unanswered = 0
        self._unanswered_bytes = 0

    def channel(self, topic: str) -> bytes:
        """The channel that tells of a topic."""
        return channel_name(self._db, topic)

    def publish(self, session: RedisSession, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all of them, or none; fails with Unavailable where too much is under way."""
        keys, args, size = [SERVER], [*self._common(session), self._retention.size, KEY_TTL], 0
        for draft in drafts:
            kind, data = encode(draft.data)
            topic, history = topic_keys(draft.topic)
            key = topic if draft.key is None else idempotency_key(draft.topic, draft.key)
            keys += topic, history, key
            args += self.channel(draft.topic), kind, data
            size += len(data)
        if (
            self._unanswered + len(drafts) > _MAX_UNANSWERED
            or self._unanswered_bytes + size > _MAX_UNANSWERED_BYTES
        ):
            return fail(Unavailable("too much waits for an answer of Redis already"))
        self._unanswered += len(drafts)
        self._unanswered_bytes += size
        calling = session.call(PUBLISH, keys, args)
        return calling.addBoth(self._answered, len(drafts), size).addCallback(_read_ids)

    async def read(self, session: RedisSession, topic: str, after: Id | None, limit: int) -> Replay:
        """What was published after an id; about so many bytes of it."""
        epoch, offset = ("", 0) if after is None else (after.epoch, after.offset)
        args = (*self._common(session), epoch, offset, limit)
        keys = (SERVER, *topic_keys(topic))
        await self._readers.acquire()
        try:
            return read_replay(topic, await session.call(REPLAY, keys, args))
        finally:
            self._readers.release()

    async def describe(self, session: RedisSession, topic: str) -> tuple[Id | None, int]:
        """A topic's last id, and how many publications are kept."""
        keys = (SERVER, *topic_keys(topic))
        said = await session.call(DESCRIBE, keys, self._common(session))
        return (None, 0) if said is None else (read_id(said[0]), said[1])

    async def names(self, session: RedisSession) -> list[str]:
        """The topics that are remembered; of very many, some hundred thousand."""
        names: set[str] = set()
        cursor = b"0"
        for _ in range(_SCANS):
            found = await session.command("SCAN", cursor, "MATCH", TOPICS, "COUNT", 1000)
            cursor = found[0]
            names.update(read_topic(key) for key in found[1])
            if cursor == b"0":
                break
        return list(names)

    async def touch(self, session: RedisSession, topics: Sequence[str]) -> list[str]:
        """Keep topics from being forgotten; gives their last ids, "" for what was forgotten."""
        keys = [SERVER, *(topic_keys(topic)[0] for topic in topics)]
        ids = await session.call(TOUCH, keys, self._common(session))
        return [id.decode("latin-1") for id in ids]

    def _common(self, session: RedisSession) -> list[Any]:
        """What every script is told first."""
        return [
            session.run,
            int(session.trusted),
            self._make_name(),
            self._retention.ttl * 1000,
            HOLD * 1000,
        ]

    def _answered(self, result: Any, count: int, size: int) -> Any:
        self._unanswered -= count
        self._unanswered_bytes -= size
        return result


def _read_ids(ids: list[bytes]) -> list[Id]:
    return [read_id(id) for id in ids]
