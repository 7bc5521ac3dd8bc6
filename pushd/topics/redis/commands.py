"""The commands about topics that a node sends to Redis, and how their answers are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredSemaphore, fail, maybeDeferred
from twisted.python.failure import Failure

from pushd.errors import RedisError, Unavailable
from pushd.topics.broker import KEY_TTL, Draft
from pushd.topics.history import Retention
from pushd.topics.publication import Id, Replay
from pushd.topics.redis.scripts import (
    DESCRIBE,
    HOLD,
    LOCATE,
    PUBLISH_DUE,
    REPLAY,
    SETTLE,
    TOPIC_TYPE,
    TOUCH,
    RedisNames,
    encode,
    read_id,
    read_replay,
)
from pushd.topics.rules import Rules

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

# How many publications, and how many bytes of them, may be sent and not answered yet.
_MAX_UNANSWERED = 10_000
_MAX_UNANSWERED_BYTES = 64 << 20

# How many reads of the history may be in progress.
_MAX_READS = 64

# The error for an answer of another form.
_UNEXPECTED = "unexpected answer: another program may write to this database"

# Of how many topics it is remembered where they are kept, before all are forgotten.
_MAX_PLACES = 1000

# How many times SCAN is run to list the topics; each finds about a thousand.
_MAX_SCANS = 100


class TopicCommands:
    """Sends commands over a session. All of them may fail with RedisError or RedisUnavailable.

    :param names: the names of keys and channels.
    :param make_name: returns a new random name, for an epoch or a generation.
    :param rules: of topics that are kept otherwise than ``retention`` says.
    """

    def __init__(
        self,
        names: RedisNames,
        *,
        retention: Retention,
        make_name: Callable[[], str],
        rules: Rules,
    ) -> None:
        self._names = names
        #: The last generation that this node knows of: of this server, or of one before it.
        self.generation = ""
        self._retention = retention
        self._rules = rules
        self._make_name = make_name
        self._reads = DeferredSemaphore(_MAX_READS)
        self._unanswered = 0
        self._unanswered_bytes = 0
        # Where topics are kept that were published to, under a version of the rules.
        self._places: dict[str, _Place] = {}
        self._places_version = rules.version

    def channel(self, topic: str) -> bytes:
        """Return the name of a topic's channel."""
        return self._names.channel(topic)

    def publish(self, session: RedisSession, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all drafts or none. Fails with Unavailable if too many are not answered yet.

        If the Deferred is cancelled, they are published all the same, and count until then.
        """
        size = 0
        keys, args = [self._names.server], [*self._common(session), KEY_TTL]
        for draft in drafts:
            kind, data = encode(draft.data, draft.event, draft.is_json, draft.metadata)
            place = self._place(draft.topic)
            keys += place.keys
            if draft.key is None:
                keys.append(place.keys[0])
            else:
                keys.append(self._names.idempotency_key(draft.topic, draft.key))
            args += place.channel, kind, data, *place.kept
            size += len(data)
        if (
            self._unanswered + len(drafts) > _MAX_UNANSWERED
            or self._unanswered_bytes + size > _MAX_UNANSWERED_BYTES
        ):
            return fail(Unavailable("too many publications are waiting for an answer from Redis"))
        self._unanswered += len(drafts)
        self._unanswered_bytes += size
        published: Deferred[list[Id]] = Deferred()
        publishing = maybeDeferred(session.publish, keys, args)
        publishing.addBoth(self._answered, len(drafts), size, published)
        return published

    async def publish_due(
        self, session: RedisSession, due: Sequence[tuple[str, str]], *, node: str, grace: float
    ) -> list[DueAnswer]:
        """Make the publications of schedules that are due, or drop them if they are too old.

        :param due: the id and the topic of each schedule.
        :param node: the name of this node.
        :param grace: for how many seconds a publication may have been due that is still made.
        """
        names = self._names
        keys = [names.server, names.schedules, names.schedule_totals]
        args = [*self._common(session), grace * 1000, node, names.due_prefix]
        for id, topic in due:
            place = self._place(topic)
            keys += names.schedule_prefix + id, *place.keys
            args += id, place.channel, *place.kept
        answers = await session.run_script(PUBLISH_DUE, keys, args)
        with reading():
            if len(answers) == len(due):
                return [
                    DueAnswer(
                        made,
                        dropped,
                        owned == 1,
                        float(left) / 1000,
                        float(late) / 1000,
                        int(count),
                    )
                    for made, dropped, owned, left, late, count in answers
                ]
        raise RedisError(_UNEXPECTED)

    async def settle(self, session: RedisSession) -> None:
        """Learn the generation, at the start of a session.

        It is a new one if this server has forgotten something, or another one was used meanwhile.
        """
        answer = await session.run_script(SETTLE, [self._names.server], self._common(session))
        with reading():
            # Its characters are checked: it becomes part of a line in event streams.
            self.generation = read_id(b"%b:0" % answer).epoch

    async def read(self, session: RedisSession, topic: str, after: Id | None, limit: int) -> Replay:
        """Read the publications after an id, about ``limit`` bytes of them."""
        epoch, offset = ("", 0) if after is None else (after.epoch, after.offset)
        args = (*self._common(session, topic), epoch, offset, limit, self._keeping(topic)[1])
        keys = (self._names.server, *self._names.topic_keys(topic))
        await self._reads.acquire()
        try:
            with reading():
                return read_replay(topic, await session.run_script(REPLAY, keys, args))
        finally:
            self._reads.release()

    async def locate(
        self, session: RedisSession, generation: str, sequences: Mapping[str, int]
    ) -> list[Id | None]:
        """Find for each topic its last id up to a sequence; None if that is not certain."""
        topics = [key for topic in sequences for key in self._names.topic_keys(topic)]
        args = [*self._common(session), generation]
        for topic, sequence in sequences.items():
            args += sequence, *self._keeping(topic)
        ids = await session.run_script(LOCATE, [self._names.server, *topics], args)
        with reading():
            if len(ids) == len(sequences):
                return [read_id(id) if id else None for id in ids]
        raise RedisError(_UNEXPECTED)

    async def describe(self, session: RedisSession, topic: str) -> tuple[Id | None, int]:
        """Return a topic's last id, and the number of publications in its history."""
        keys = (self._names.server, *self._names.topic_keys(topic))
        args = [*self._common(session, topic), self._keeping(topic)[1]]
        answer = await session.run_script(DESCRIBE, keys, args)
        with reading():
            return (None, 0) if answer is None else (read_id(answer[0]), int(answer[1]))

    async def forget(self, session: RedisSession, topic: str) -> None:
        """Drop the history of a topic."""
        await session.run("DEL", self._names.topic_keys(topic)[1])

    async def names(self, session: RedisSession) -> list[str]:
        """Return the names of all topics, or of about 100,000 if there are more."""
        names: set[str] = set()
        cursor = b"0"
        rest = ("MATCH", self._names.topic_pattern, "COUNT", 1000, "TYPE", TOPIC_TYPE)
        for _ in range(_MAX_SCANS):
            with reading():
                cursor, keys = await session.run("SCAN", cursor, *rest)
                for key in keys:
                    with suppress(ValueError):  # A key of another program.
                        names.add(self._names.read_topic(key))
            if cursor == b"0":
                break
        return list(names)

    async def touch(self, session: RedisSession, topics: Sequence[str]) -> list[str]:
        """Renew the expiry of topics. Returns their last ids, "" for one that has expired."""
        keys = [self._names.server, *(self._names.topic_keys(topic)[0] for topic in topics)]
        args = self._common(session)
        for topic in topics:
            args += self._keeping(topic)
        ids = await session.run_script(TOUCH, keys, args)
        with reading():
            if len(ids) == len(topics):
                return [id.decode("latin-1") for id in ids]
        raise RedisError(_UNEXPECTED)

    def retains(self, topic: str) -> bool:
        """Return whether new subscribers of a topic get its newest publication."""
        return self._rules.find(topic).retain

    def _size(self, topic: str) -> int:
        """Return how many publications of a topic are kept."""
        return self._retention.size_for(self._rules.find(topic))

    def _keeping(self, topic: str) -> tuple[int, int]:
        """Return how long a topic keeps publications, in ms, and 1 if it retains the newest."""
        rule = self._rules.find(topic)
        return self._retention.ttl_for(rule) * 1000, int(rule.retain)

    def _common(self, session: RedisSession, topic: str | None = None) -> list[Any]:
        """Return the first arguments of every script; those that are about one topic name it."""
        ttl = self._retention.ttl * 1000 if topic is None else self._keeping(topic)[0]
        return [
            session.run_id,
            int(session.trusted),
            self.generation,
            self._make_name(),
            ttl,
            HOLD * 1000,
        ]

    def _answered(self, answer: Any, count: int, size: int, published: Deferred[list[Id]]) -> None:
        """Pass on the answer to some publications."""
        self._unanswered -= count
        self._unanswered_bytes -= size
        if isinstance(answer, Failure):
            published.errback(answer)
            return
        try:
            ids = _read_ids(answer, count)
        except RedisError as error:
            published.errback(error)
        else:
            published.callback(ids)

    def _place(self, topic: str) -> _Place:
        """Return where a topic is kept."""
        if self._places_version != self._rules.version:
            self._places_version = self._rules.version
            self._places.clear()
        place = self._places.get(topic)
        if place is None:
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()
            kept = self._size(topic), *self._keeping(topic)
            place = _Place(self._names.topic_keys(topic), self.channel(topic), kept)
            self._places[topic] = place
        return place


@dataclass(frozen=True, slots=True)
class DueAnswer:
    """What has become of a schedule that may have been due; times are in seconds."""

    #: How many publications were made, and how many dropped.
    made: int
    dropped: int
    #: Whether it belongs to this node and goes on.
    owned: bool
    #: Time until the next publication.
    left: float
    #: How late the publication is that was made.
    late: float
    #: How many publications the schedule makes in all.
    count: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a topic is kept."""

    #: Its two keys, and its channel.
    keys: tuple[str, str]
    channel: bytes
    #: How many publications it keeps; for how long, in ms; and 1 if it retains the newest.
    kept: tuple[int, int, int]


# What reading an answer raises that our scripts do not give: the server may be any.
_MALFORMED = (AttributeError, IndexError, TypeError, ValueError)


@contextmanager
def reading() -> Iterator[None]:
    """Raise RedisError for an answer of another form."""
    try:
        yield
    except _MALFORMED:
        raise RedisError(_UNEXPECTED) from None


def _read_ids(ids: list[bytes], count: int) -> list[Id]:
    with suppress(*_MALFORMED):
        if len(ids) == count:
            return [read_id(id) for id in ids]
    raise RedisError(_UNEXPECTED)
