"""Presence over Redis: each node tells the others what it has of each topic.

What a node has of a topic is a hash, ``pushd:{topic}:present:NODE``, with a field for each subject.
The hash ``pushd:{topic}:present`` has a summary of each node: the version of what it has, and how
many subjects and connections. Whenever that changes, the node writes both, and publishes the change
on the topic's channel for presence, with the version that it follows. A node that has watchers of
the topic reads all hashes, and follows the changes; if one is missing, it reads again.

``pushd:nodes`` says until when each node counts. A node renews that every ``BEAT`` seconds, for
``LIFE`` seconds, and learns which others do; so one that dies is forgotten by all within the sum of
both. One that was forgotten, or meets a Redis that has lost its data, writes everything anew.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.presence import LINGER, LocalPresence, Others, Present
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import RedisNames, Script

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_log = Logger(namespace="pushd.topics")

#: How often a node renews its life, and for how long, in seconds.
BEAT = 5.0
LIFE = 20.0

# After how many beats the expiry of everything that this node has is renewed, and for how long that
# is kept, in seconds, should the node die and nobody ask for the topic again.
_TOUCH_BEATS = 240
_HOLD = 3600

# How long nodes that are missing in a new session are kept, in seconds: they connect anew as well,
# and Redis may have lost what they had written.
_RETURN = 10.0

# How many topics are written with one command, and how many subjects of each.
_MAX_TOPICS = 100
_MAX_SUBJECTS = 1000

# How many topics are read at the same time.
_MAX_READERS = 16

# After how many seconds a command is repeated if Redis answered with an error, and the minimum time
# between two log lines about that.
_RETRY_DELAY = 1.0
_LOG_INTERVAL = 10.0

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
    return string.format('%.0f', number)
end

local function find_living()
    return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. whole(now), '+inf')
end
"""

#: Renews the life of a node. Returns whether it was alive, and all that are.
BEAT_SCRIPT = Script(
    _NOW
    + """
local node, life = ARGV[1], tonumber(ARGV[2])
local until_then = redis.call('ZSCORE', KEYS[1], node)
redis.call('ZADD', KEYS[1], whole(now + life), node)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - 3600000))
redis.call('PEXPIRE', KEYS[1], 7200000)
return {until_then and tonumber(until_then) > now and 1 or 0, find_living()}
"""
)

#: Writes what a node has of some topics, and publishes that.
SHARE = Script(
    """
local node, hold = ARGV[1], ARGV[2]
local place = 3
for number = 1, #KEYS / 2 do
    local present, part = KEYS[2 * number - 1], KEYS[2 * number]
    local channel, anew, summary, message, count = unpack(ARGV, place, place + 4)
    place = place + 5
    if anew == '1' then
        redis.call('DEL', part)
    end
    for _ = 1, tonumber(count) do
        local key, value = ARGV[place], ARGV[place + 1]
        place = place + 2
        if value == '' then
            redis.call('HDEL', part, key)
        else
            redis.call('HSET', part, key, value)
        end
    end
    if summary == '' then
        redis.call('HDEL', present, node)
    else
        redis.call('HSET', present, node, summary)
        redis.call('PEXPIRE', present, hold)
        redis.call('PEXPIRE', part, hold)
    end
    redis.call('PUBLISH', channel, message)
end
"""
)

#: Reads what the other living nodes have of a topic, and deletes what the dead ones had. Returns
#: whether all subjects are listed, and the name, the summary and the subjects of each node.
READ = Script(
    _NOW
    + """
local node, limit, parts = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local living = {}
for _, name in ipairs(find_living()) do
    living[name] = true
end
local summaries = redis.call('HGETALL', KEYS[2])
local found, subjects = {}, 0
for place = 1, #summaries, 2 do
    local name, summary = summaries[place], summaries[place + 1]
    if not living[name] then
        redis.call('HDEL', KEYS[2], name)
        redis.call('DEL', parts .. name)
    elseif name ~= node then
        subjects = subjects + tonumber(string.match(summary, '^%d+ (%d+) '))
        found[#found + 1] = {name, summary, {}}
    end
end
if subjects > limit then
    return {0, found}
end
for _, one in ipairs(found) do
    one[3] = redis.call('HGETALL', parts .. one[1])
end
return {1, found}
"""
)

# The error for an answer of another form.
_UNEXPECTED = "unexpected answer: another program may write to this database"


@dataclass(frozen=True, slots=True)
class _Summary:
    """What a node has of a topic, in short."""

    version: int
    subjects: int
    connections: int

    def __str__(self) -> str:
        return f"{self.version} {self.subjects} {self.connections}"

    @classmethod
    def parse(cls, text: str) -> _Summary:
        """Parse a summary. Raises ValueError."""
        version, subjects, connections = map(int, text.split())
        return cls(version, subjects, connections)


class _FollowedTopic:
    """A topic that has watchers at this node."""

    __slots__ = ("changed", "is_counted", "is_stale", "parts", "subscribed", "topic", "versions")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.subscribed = False
        #: The version of what is known of each node; None before the first read of a session.
        self.versions: dict[str, int] | None = None
        self.parts: dict[str, dict[str, Present]] = {}
        #: The versions of the changes that have come since the last read began.
        self.changed: dict[str, int] = {}
        #: Whether there are too many subjects to list; then changes are not followed.
        self.is_counted = False
        #: Whether something has changed that is not known yet.
        self.is_stale = False


class RedisPresence:
    """Shares the presence of a node with the others, through the session of its broker.

    It does nothing until a topic with presence is used for the first time.

    :param node: the name of this node, which no other has.
    :param name: the address of Redis for the log, without the password.
    """

    def __init__(
        self, reactor: Any, reconnector: Reconnector, names: RedisNames, *, node: str, name: str
    ) -> None:
        self._reactor = reactor
        self._reconnector = reconnector
        self._names = names
        self._node = node
        self._name = name
        self._local: LocalPresence | None = None
        self._is_used = False
        # The session in which this node has been announced.
        self._session: RedisSession | None = None
        self._beats = 0
        self._beat_call: IDelayedCall | None = None
        # What has to be written: the keys by topic; None for a topic that is written anew.
        self._dirty: dict[str, set[str] | None] = {}
        # The version that was written last, of each topic of which this node has subjects.
        self._shared: dict[str, int] = {}
        self._version = 0
        self._is_writing = False
        self._write_call: IDelayedCall | None = None
        # Followed topics by channel, and those that have to be read.
        self._followed: dict[bytes, _FollowedTopic] = {}
        self._queue: OrderedDict[_FollowedTopic, None] = OrderedDict()
        self._readers = 0
        self._retries: TimeoutQueue[_FollowedTopic] = TimeoutQueue(
            reactor, timeout=_RETRY_DELAY, expired=self._enqueue
        )
        self._returns: TimeoutQueue[_FollowedTopic] = TimeoutQueue(
            reactor, timeout=_RETURN, expired=self._enqueue
        )
        # Until when nodes that are missing may come back.
        self._returned_at = 0.0
        # When the next error may be logged.
        self._log_after = 0.0

    # What Presence calls

    def start(self, local: LocalPresence) -> None:
        """Start to share what this node has."""
        self._local = local

    def share(self, topic: str, key: str) -> None:
        """Tell the other nodes soon what this node has of a subject."""
        keys = self._dirty.setdefault(topic, set())
        if keys is not None:
            keys.add(key)
        self._use()
        self._write_in(0)

    def follow(self, topic: str) -> None:
        """Tell this node what the others have of a topic, and what changes."""
        followed = _FollowedTopic(topic)
        self._followed[self._names.presence_channel(topic)] = followed
        self._use()
        self._enqueue(followed)

    def unfollow(self, topic: str) -> None:
        """Stop that."""
        channel = self._names.presence_channel(topic)
        followed = self._followed.pop(channel)
        self._queue.pop(followed, None)
        self._retries.stop(followed)
        self._returns.stop(followed)
        if self._session is not None:
            self._session.unsubscribe(channel)

    def read(self, topic: str, limit: int) -> Deferred[Others]:
        """Read what the others have. Fails with ``Unavailable``."""
        return Deferred.fromCoroutine(self._ask(topic, limit))

    def leave(self) -> Deferred[None]:
        """Tell the other nodes that this one ends, once all could have reconnected elsewhere."""
        session, self._session = self._session, None
        self._cancel_calls()
        if session is None:
            return succeed(None)
        leaving = self._run_beat(session, LINGER)
        return leaving.addCallbacks(lambda _: None, _ignore)

    def stop(self) -> None:
        """Stop: write and read nothing more."""
        self._is_used = False
        self.disconnected()

    # What the broker calls

    def connected(self) -> None:
        """Begin a new session."""
        if self._is_used:
            self._begin()

    def disconnected(self) -> None:
        """End the session. What is known of other nodes stays until the next one."""
        self._session = None
        self._cancel_calls()
        self._queue.clear()
        for followed in self._followed.values():
            followed.subscribed, followed.versions = False, None
            self._retries.stop(followed)
            self._returns.stop(followed)

    def receive(self, channel: bytes, message: bytes) -> bool:
        """Take a message of a channel. Returns False if it is that of no followed topic."""
        followed = self._followed.get(channel)
        if followed is None:
            return False
        try:
            self._take(followed, json.loads(message))
        except (ValueError, TypeError, KeyError, AttributeError):
            _log.warn(
                "unexpected message on Redis channel {channel}: another program writes to it",
                event="broker_misused",
                channel=channel.decode("latin-1"),
            )
        return True

    # Beats

    def _use(self) -> None:
        """Begin, if this is the first use and there is a session."""
        if not self._is_used:
            self._is_used = True
            if self._reconnector.session is not None:
                self._begin()

    def _begin(self) -> None:
        session = self._reconnector.session
        assert session is not None
        self._returned_at = self._reactor.seconds() + _RETURN
        self._start(self._announce(session))

    async def _announce(self, session: RedisSession) -> None:
        """Make this node count, then write and read everything."""
        if await self._beat(session) and self._reconnector.session is session and self._is_used:
            self._session = session
            self._share_all()
            self._read_all()

    async def _beat(self, session: RedisSession) -> bool:
        """Renew the life of this node, and forget nodes that are dead. Returns whether it could."""
        try:
            known, living = await self._run_beat(session, LIFE)
            names = {name.decode() for name in living}
        except (RedisUnavailable, RedisError, ValueError, TypeError, AttributeError) as error:
            self._not_done(session, error)
            self._beat_in(session, _RETRY_DELAY)
            return False
        self._beats += 1
        self._beat_in(session, BEAT)
        if not known:
            self._share_all()
        elif self._beats % _TOUCH_BEATS == 0:
            for topic in self._shared:
                self._dirty.setdefault(topic, set())
            self._write_in(0)
        for followed in self._followed.values():
            if (followed.is_counted and followed.is_stale) or not followed.parts.keys() <= names:
                self._enqueue(followed)
        return True

    def _run_beat(self, session: RedisSession, life: float) -> Deferred[Any]:
        args = (self._node, int(life * 1000))
        return session.run_script(BEAT_SCRIPT, [self._names.nodes], args)

    def _beat_in(self, session: RedisSession, seconds: float) -> None:
        if self._is_used and self._reconnector.session is session:
            self._beat_call = self._reactor.callLater(seconds, self._beat_again, session)

    def _beat_again(self, session: RedisSession) -> None:
        self._start(self._beat(session) if self._session is session else self._announce(session))

    # Writing

    def _share_all(self) -> None:
        """Write everything anew, and what other nodes may still know of topics without subjects."""
        assert self._local is not None
        self._dirty.update(dict.fromkeys((*self._local.topics(), *self._shared)))
        self._write_in(0)

    def _write_in(self, seconds: float) -> None:
        if self._session is not None and self._write_call is None and not self._is_writing:
            self._write_call = self._reactor.callLater(seconds, self._start_writing)

    def _start_writing(self) -> None:
        self._write_call, self._is_writing = None, True
        assert self._session is not None  # Its end cancels the call.
        self._start(self._write(self._session))

    async def _write(self, session: RedisSession) -> None:
        """Write until nothing is left to be written."""
        wait = 0.0
        try:
            while self._dirty and self._session is session:
                topics = list(self._dirty)[:_MAX_TOPICS]
                keys, args = self._take_dirty(topics)
                try:
                    await session.run_script(SHARE, keys, args)
                except (RedisUnavailable, RedisError) as error:
                    self._not_done(session, error)
                    self._dirty.update(dict.fromkeys(topics))
                    wait = _RETRY_DELAY
                    return
        finally:
            self._is_writing = False
            if self._dirty:
                self._write_in(wait)

    def _take_dirty(self, topics: Iterable[str]) -> tuple[list[str], list[Any]]:
        """Return the keys and arguments of a command that writes what is dirty of some topics."""
        keys: list[str] = []
        args: list[Any] = [self._node, _HOLD * 1000]
        for topic in topics:
            keys += self._names.presence_keys(topic, self._node)
            args += self._take_topic(topic)
        return keys, args

    def _take_topic(self, topic: str) -> list[Any]:
        local = self._local
        assert local is not None
        dirty = self._dirty.pop(topic)
        changed = list(local.part(topic) if dirty is None else dirty)
        some, rest = changed[:_MAX_SUBJECTS], changed[_MAX_SUBJECTS:]
        if rest:
            self._dirty[topic] = set(rest)
        changes = {key: _encode(local.find(topic, key)) for key in some}
        previous = self._shared.pop(topic, 0)
        self._version += 1
        summary = _Summary(self._version, *local.counts(topic))
        if summary.subjects:
            self._shared[topic] = self._version
        message: dict[str, Any] = {"node": self._node, "version": self._version}
        if dirty is not None:
            # What is written anew is read anew.
            message.update(previous=previous, subjects=summary.subjects, changes=changes)
        fields: list[Any] = []
        for key, value in changes.items():
            fields += key, "" if value is None else json.dumps(value)
        return [
            self._names.presence_channel(topic),
            int(dirty is None),
            str(summary) if summary.subjects else "",
            json.dumps(message),
            len(changes),
            *fields,
        ]

    # Reading

    def _read_all(self) -> None:
        for followed in self._followed.values():
            self._enqueue(followed)

    def _enqueue(self, followed: _FollowedTopic) -> None:
        """Read a topic as soon as a reader is free."""
        followed.is_stale = True
        self._queue[followed] = None
        self._start_reader()

    def _start_reader(self) -> None:
        if self._queue and self._session is not None and self._readers < _MAX_READERS:
            self._readers += 1
            self._start(self._read_queue(self._session))

    async def _read_queue(self, session: RedisSession) -> None:
        try:
            while self._queue and self._session is session:
                followed, _ = self._queue.popitem(last=False)
                try:
                    await self._read_followed(session, followed)
                except RedisUnavailable:
                    return
                except RedisError as error:
                    self._not_done(session, error)
                    if self._session is session and self._is_followed(followed):
                        self._retries.start(followed)
        finally:
            self._readers -= 1
            self._start_reader()

    async def _read_followed(self, session: RedisSession, followed: _FollowedTopic) -> None:
        """Subscribe first, then read: what changes meanwhile is not missed."""
        channel = self._names.presence_channel(followed.topic)
        if not followed.subscribed:
            await session.subscribe(channel)
            followed.subscribed = True
        while followed.is_stale and self._session is session and self._is_followed(followed):
            followed.is_stale = False
            followed.changed.clear()
            assert self._local is not None
            others, versions = await self._read(session, followed.topic, self._local.limit)
            if self._session is session and self._is_followed(followed):
                self._take_read(followed, others, versions)
            if followed.is_counted:
                return  # What has changed is read with the next beat.

    def _take_read(
        self, followed: _FollowedTopic, others: Others, versions: dict[str, int]
    ) -> None:
        if any(version > versions.get(node, 0) for node, version in followed.changed.items()):
            followed.is_stale = True  # It was read before a change that has come meanwhile.
            return
        parts = {node: dict(part) for node, part in others.parts.items()}
        missing = followed.parts.keys() - versions.keys()
        if missing and self._reactor.seconds() < self._returned_at:
            parts.update({node: followed.parts[node] for node in missing})
            self._returns.start(followed)
        followed.versions, followed.parts = versions, parts
        followed.is_counted = others.counts is not None
        assert self._local is not None
        self._local.others_read(followed.topic, Others(parts, others.counts))

    async def _ask(self, topic: str, limit: int) -> Others:
        session = self._reconnector.session
        if session is None:
            raise Unavailable(self._reconnector.fault())
        try:
            return (await self._read(session, topic, limit))[0]
        except (RedisUnavailable, RedisError) as error:
            self._reconnector.refused(session, error)
            raise Unavailable(f"Redis at {self._name}: {error}") from None

    async def _read(
        self, session: RedisSession, topic: str, limit: int
    ) -> tuple[Others, dict[str, int]]:
        """Return what the other nodes have, and the version of each."""
        present, part = self._names.presence_keys(topic, "")
        args = (self._node, limit, part)
        answer = await session.run_script(READ, [self._names.nodes, present], args)
        try:
            is_listed, found = answer
            summaries = {node.decode(): _Summary.parse(text.decode()) for node, text, _ in found}
            versions = {node: one.version for node, one in summaries.items()}
            if not is_listed:
                subjects = sum(one.subjects for one in summaries.values())
                connections = sum(one.connections for one in summaries.values())
                return Others({}, (subjects, connections)), versions
            parts = {node.decode(): _read_part(fields) for node, _, fields in found}
        except (AttributeError, IndexError, TypeError, ValueError):
            raise RedisError(_UNEXPECTED) from None
        return Others(parts), versions

    def _take(self, followed: _FollowedTopic, message: Mapping[str, Any]) -> None:
        """Take a change at another node. Raises an exception if it is malformed."""
        node, version = message["node"], message["version"]
        if node == self._node:
            return
        if followed.is_counted or followed.versions is None:
            followed.is_stale = True  # It will be read anyway.
            return
        known = followed.versions.get(node, 0)
        if version <= known:
            return  # It has been read already.
        if message.get("previous") != known:
            self._enqueue(followed)
            return
        changes = {key: _decode(value) for key, value in message["changes"].items()}
        is_empty = not message["subjects"]
        part = followed.parts.setdefault(node, {})
        for key, present in changes.items():
            if present is None:
                part.pop(key, None)
            else:
                part[key] = present
        followed.versions[node] = followed.changed[node] = version
        if is_empty:
            del followed.parts[node], followed.versions[node]
        assert self._local is not None
        self._local.other_changed(followed.topic, node, changes)
        if sum(map(len, followed.parts.values())) > self._local.limit:
            self._enqueue(followed)  # They are only counted from now on.

    def _is_followed(self, followed: _FollowedTopic) -> bool:
        return self._followed.get(self._names.presence_channel(followed.topic)) is followed

    # Common

    def _start(self, coroutine: Any) -> None:
        running = Deferred.fromCoroutine(coroutine)
        running.addErrback(self._reconnector.log_failure)

    def _not_done(self, session: RedisSession, error: Exception) -> None:
        """Log an error of Redis, but not one for every topic."""
        if isinstance(error, RedisUnavailable):
            return  # The end of the session is logged.
        self._reconnector.refused(session, error)
        now = self._reactor.seconds()
        if now >= self._log_after:
            self._log_after = now + _LOG_INTERVAL
            _log.warn(
                "Redis at {name} returned an error for presence, retrying every second: {error}",
                event="presence_refused",
                name=self._name,
                error=str(error),
            )

    def _cancel_calls(self) -> None:
        for call in (self._beat_call, self._write_call):
            if call is not None and call.active():
                call.cancel()
        self._beat_call = self._write_call = None


def _encode(present: Present | None) -> list[Any] | None:
    """Return a subject for JSON."""
    if present is None:
        return None
    connections = list(present.connections)
    return [present.subject, present.connection, connections, present.count, present.info]


def _decode(value: Any) -> Present | None:
    """Return the subject that JSON holds. Raises ValueError or TypeError if it is malformed."""
    if value is None:
        return None
    subject, connection, connections, count, info = value
    if not (isinstance(subject, str | None) and isinstance(connection, str)):
        raise ValueError("a subject and a connection must be strings")
    return Present(subject, connection, tuple(map(str, connections)), int(count), info)


def _read_part(fields: list[bytes]) -> dict[str, Present]:
    """Return the subjects of a hash, by key."""
    part = {}
    for key, value in zip(fields[::2], fields[1::2], strict=True):
        present = _decode(json.loads(value))
        if present is not None:
            part[key.decode()] = present
    return part


def _ignore(_: object) -> None:
    """Ignore that Redis could not be told: then this node is forgotten as a dead one is."""
