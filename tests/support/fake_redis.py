"""A fake Redis in memory, which can delay answers, return errors, and lose connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from pushd.errors import RedisError, RedisUnavailable
from pushd.topics.history import History, Retention
from pushd.topics.publication import Id, Publication
from pushd.topics.redis.scripts import (
    DESCRIBE,
    LOCATE,
    PUBLISH,
    REPLAY,
    SETTLE,
    TOUCH,
    RedisNames,
    Script,
    decode,
    encode,
)
from pushd.topics.rules import Rules
from tests.support.fake_presence_redis import PRESENCE_SCRIPTS, FakePresenceData
from tests.support.fake_revocations import REVOCATION_SCRIPTS, FakeRevocationData
from tests.support.fake_schedules import SCHEDULE_SCRIPTS, FakeScheduleData

NAMES = RedisNames()

#: The generation of its topics.
GENERATION = "generation"


class FakeRedis:
    """A Redis server: its topics, and the sessions with it."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.sessions: list[FakeSession] = []
        #: The error of an attempt to open a session, if it is to fail.
        self.trouble: Exception | None = None
        #: The error that every command returns, if they are to fail.
        self.refusal: str | None = None
        #: The error of the command with which a session begins, if it is to fail.
        self.settling: Exception | None = None
        #: If true, publications are not published on channels.
        self.silent = False
        #: If true, answers are delayed until ``answer`` is called.
        self.late = False
        self.waiting: deque[tuple[Deferred[Any], Any]] = deque()
        #: How each publication was to be kept: the size of its history, its age in ms, and 1 if the
        #: newest is retained.
        self.kept: list[tuple[Any, ...]] = []
        #: The topics that retain their newest publication.
        self.rules = Rules()
        #: The names of the scripts and commands that were run.
        self.asked: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Delete all data."""
        self.presence = FakePresenceData(self.clock, self.send_message)
        self.revocations = FakeRevocationData(self.send_message)
        self.schedules = FakeScheduleData(self.clock, self.publish)
        epochs = iter(range(1000))
        count = len(self.sessions)
        self.history = History(
            self.clock,
            Retention(ttl=100_000),
            lambda: f"e{count}-{next(epochs)}",
            rules=self.rules,
        )
        self.ids: dict[str, Id] = {}

    def open(
        self, on_message: Callable[[bytes, bytes], None], on_lost: Callable[[str], object]
    ) -> Deferred[Any]:
        """Open a session."""
        if self.trouble is not None:
            return self.reply(self.trouble)
        self.sessions.append(FakeSession(self, on_message, on_lost))
        return self.reply(self.sessions[-1])

    def reply(self, answer: Any) -> Deferred[Any]:
        """Answer now, or when ``answer`` is called."""
        if not self.late:
            return fail(answer) if isinstance(answer, Exception) else succeed(answer)
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, answer))
        return waiting

    def answer(self) -> None:
        """Send all delayed answers, and delay none from now on."""
        self.late = False
        while self.waiting:
            waiting, answer = self.waiting.popleft()
            if not waiting.called:
                waiting.errback(answer) if isinstance(answer, Exception) else waiting.callback(
                    answer
                )

    def lose(self, reason: str = "the connection was lost") -> None:
        """Close all sessions. Commands whose answers are delayed fail."""
        sessions = [session for session in self.sessions if session.open]
        for session in sessions:
            session.open = False
            session.on_lost(reason)
        self.waiting = deque((waiting, RedisUnavailable(reason)) for waiting, _ in self.waiting)
        self.answer()

    def publish(
        self,
        topic: str,
        data: str | bytes,
        event: str | None = None,
        is_json: bool = False,
        metadata: str | None = None,
    ) -> Id:
        """Publish as another node."""
        publication = self.history.add(topic, data, event, is_json, metadata)
        if not self.silent:
            self.send(publication)
        return publication.id

    def send(self, publication: Publication) -> None:
        """Send a publication to all sessions that are subscribed to its channel."""
        channel = NAMES.channel(publication.topic)
        kind, data = encode(
            publication.data, publication.event, publication.is_json, publication.metadata
        )
        self.send_message(
            channel, f"{publication.id} {publication.sequence} {kind}".encode() + data
        )

    def send_message(self, channel: bytes, message: bytes) -> int:
        """Send a message to all sessions that are subscribed to a channel; return how many."""
        sessions = [
            session
            for session in self.sessions
            if session.open and channel in (*session.channels, NAMES.revocation_channel)
        ]
        for session in sessions:
            session.on_message(channel, message)
        return len(sessions)


class FakeSession:
    """A session with the fake Redis."""

    def __init__(
        self,
        redis: FakeRedis,
        on_message: Callable[[bytes, bytes], None],
        on_lost: Callable[[str], object],
    ) -> None:
        self.redis = redis
        self.on_message = on_message
        self.on_lost = on_lost
        self.run_id = "run"
        self.trusted = False
        self.open = True
        self.channels: list[bytes] = []
        #: The generations that the node knew when it asked for the present one.
        self.generations: list[str] = []

    def run_script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run a script."""
        if script is SETTLE:
            # Each session begins with it: it is not recorded, and never late.
            self.generations.append(args[2])
            settling = self.redis.settling
            return succeed(GENERATION.encode()) if settling is None else fail(settling)
        if script in REVOCATION_SCRIPTS:
            # Each session begins with one of them: they are not recorded.
            return self.redis.revocations.run(script, args)
        if script in PRESENCE_SCRIPTS:
            self.redis.asked.append(PRESENCE_SCRIPTS[script])
            if not self.open:
                return self.redis.reply(RedisUnavailable("not open"))
            if self.redis.refusal is not None:
                return self.redis.reply(RedisError(self.redis.refusal))
            return self.redis.reply(self.redis.presence.run(script, keys, args))
        if script in SCHEDULE_SCRIPTS:
            self.redis.asked.append(SCHEDULE_SCRIPTS[script])
            if not self.open:
                return self.redis.reply(RedisUnavailable("not open"))
            if self.redis.refusal is not None:
                return self.redis.reply(RedisError(self.redis.refusal))
            return self.redis.reply(self.redis.schedules.run(script, keys, args))
        names = {
            PUBLISH: "publish",
            REPLAY: "replay",
            LOCATE: "locate",
            DESCRIBE: "describe",
            TOUCH: "touch",
        }
        self.redis.asked.append(names[script])
        if not self.open:
            return self.redis.reply(RedisUnavailable("not open"))
        if self.redis.refusal is not None:
            return self.redis.reply(RedisError(self.redis.refusal))
        return self.redis.reply(getattr(self, f"_{names[script]}")(keys[1:], args[6:]))

    def publish(self, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run the script that publishes."""
        return self.run_script(PUBLISH, keys, args)

    def run(self, *args: Any) -> Deferred[Any]:
        """Run a command: SCAN takes two calls, ZRANGE is of schedules, DEL of a history."""
        self.redis.asked.append(str(args[0]))
        if self.redis.refusal is not None:
            return self.redis.reply(RedisError(self.redis.refusal))
        if args[0] == "ZRANGE":
            return self.redis.reply([id.encode() for id in self.redis.schedules.schedules])
        if args[0] == "PUBLISH":
            _, channel, message = args
            sent = message if isinstance(message, bytes) else message.encode()
            return self.redis.reply(self.redis.send_message(channel, sent))
        if args[0] == "DEL":
            self.redis.history.forget(str(args[1]).partition("{")[2].partition("}")[0])
            return self.redis.reply(1)
        names = sorted(self.redis.history.names())
        half = len(names) // 2
        some, cursor = (names[:half], b"7") if args[1] == b"0" else (names[half:], b"0")
        return self.redis.reply([cursor, [f"pushd:{{{name}}}:topic".encode() for name in some]])

    def subscribe(self, channel: bytes) -> Deferred[Any]:
        """Subscribe; to the channel of revocations each session is subscribed anyway."""
        if channel == NAMES.revocation_channel:
            return succeed(None)
        self.channels.append(channel)
        return self.redis.reply(None if self.open else RedisUnavailable("not open"))

    def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribe."""
        if channel in self.channels:
            self.channels.remove(channel)

    def close(self) -> None:
        """Close it."""
        self.open = False

    def _publish(self, keys: Sequence[str], args: Sequence[Any]) -> list[bytes]:
        ids = []
        for place in range(0, len(keys), 3):
            topic, _, key = keys[place : place + 3]
            _, kind, data, *kept = args[1 + 2 * place : 7 + 2 * place]
            self.redis.kept.append(tuple(kept))
            id = self.redis.ids.get(key)
            if id is None:
                name = NAMES.read_topic(topic.encode())
                id = self.redis.publish(name, *decode(kind.encode(), data))
                if key != topic:
                    self.redis.ids[key] = id
            ids.append(str(id).encode())
        return ids

    def _replay(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        epoch, offset, limit, _ = args
        after = Id(epoch, offset) if epoch else None
        replay = self.redis.history.replay(NAMES.read_topic(keys[0].encode()), after, limit)
        entries = []
        for one in replay.publications:
            kind, data = encode(one.data, one.event, one.is_json, one.metadata)
            entry = [f"{one.id.offset}-1".encode(), kind.encode(), data, b"%d" % one.sequence]
            entries.append(entry)
        return [
            replay.id.epoch.encode(),
            f"{replay.id.offset}".encode(),
            int(replay.recovered),
            f"{replay.last.offset}".encode(),
            entries,
            b"%d" % self.redis.history.newest(NAMES.read_topic(keys[0].encode())),
        ]

    def _locate(self, keys: Sequence[str], args: Sequence[Any]) -> list[bytes]:
        generation, *rest = args
        sequences = rest[::3]
        ids = []
        for key, sequence in zip(keys[::2], sequences, strict=True):
            id = self.redis.history.locate(NAMES.read_topic(key.encode()), sequence)
            ids.append(b"" if id is None or generation != GENERATION else str(id).encode())
        return ids

    def _describe(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any] | None:
        id, kept = self.redis.history.describe(NAMES.read_topic(keys[0].encode()))
        return None if id is None else [str(id).encode(), kept]

    def _touch(self, keys: Sequence[str], args: Sequence[Any]) -> list[bytes]:
        ids = [self.redis.history.describe(NAMES.read_topic(key.encode()))[0] for key in keys]
        return [b"" if id is None else str(id).encode() for id in ids]
