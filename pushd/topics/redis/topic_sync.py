"""The topics that somebody listens to on this node, kept in step with Redis."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushd.errors import RedisError, RedisUnavailable
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.redis.commands import TopicCommands
from pushd.topics.redis.followed_topic import FollowedTopic, wake
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import HOLD, read_notice

_log = Logger(namespace="pushd.topics")

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

# How many topics catch up at once, and how much of the past each reads at once, in bytes.
_WORKERS = 64
_BATCH = 1 << 18

# How often topics that are followed are kept from being forgotten, how many in one step.
_TOUCH = HOLD / 3
_TOUCHED = 500

# How soon a topic is tried again that Redis would not let us read, in seconds.
_AGAIN = 1.0

# How often at most it is logged that it does not, in seconds.
_SILENCE = 10.0


class TopicSync:
    """Follows topics: has each of them catch up when it begins, and whenever it is out of step.

    :param name: what to call the Redis in the log; has no password.
    """

    def __init__(
        self, reactor: Any, link: Reconnector, commands: TopicCommands, *, name: str
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._commands = commands
        self._name = name
        self._followed: dict[bytes, FollowedTopic] = {}
        # Those that are to catch up, and those to try again in a moment.
        self._queue: OrderedDict[FollowedTopic, None] = OrderedDict()
        self._again: TimeoutQueue[FollowedTopic] = TimeoutQueue(
            reactor, timeout=_AGAIN, expired=self._enqueue
        )
        self._workers = 0
        # When the next refusal may be logged.
        self._silent_until = 0.0
        self._touching: IDelayedCall | None = None

    def __iter__(self) -> Iterator[FollowedTopic]:
        return iter(self._followed.values())

    def find(self, topic: str) -> FollowedTopic | None:
        """A topic that is followed, or None."""
        return self._followed.get(self._commands.channel(topic))

    def follow(self, followed: FollowedTopic) -> None:
        """Have what is published to this topic."""
        self._followed[self._commands.channel(followed.topic)] = followed
        self._enqueue(followed)

    def unfollow(self, topic: str) -> FollowedTopic:
        """Have no more of it; gives what was followed."""
        channel = self._commands.channel(topic)
        followed = self._followed.pop(channel)
        self._queue.pop(followed, None)
        self._again.stop(followed)
        if self._link.session is not None:
            self._link.session.unsubscribe(channel)
        return followed

    def begin(self) -> None:
        """Begin with a new session: all that was published meanwhile is read."""
        for followed in list(self._followed.values()):
            self._enqueue(followed)
        self._touching = self._reactor.callLater(_TOUCH, self._touch_all)

    def interrupt(self) -> None:
        """Wait for the next session: this one has ended."""
        if self._touching is not None and self._touching.active():
            self._touching.cancel()
        self._queue.clear()
        for followed in self._followed.values():
            self._again.stop(followed)
            followed.interrupt()

    def notice(self, channel: bytes, notice: bytes) -> None:
        """Take what has been published to a channel."""
        followed = self._followed.get(channel)
        if followed is None:
            return
        try:
            publication = read_notice(followed.topic, notice)
        except ValueError:
            _log.warn(
                "somebody else publishes to {channel}",
                event="broker_misused",
                channel=channel.decode("latin-1"),
            )
            return
        if not followed.take(publication):
            self._enqueue(followed)

    def _enqueue(self, followed: FollowedTopic) -> None:
        """Let a topic catch up, as soon as it is its turn."""
        self._queue[followed] = None
        self._hire()

    def _hire(self) -> None:
        if self._queue and self._link.session is not None and self._workers < _WORKERS:
            self._workers += 1
            working = Deferred.fromCoroutine(self._work(self._link.session))
            working.addErrback(self._link.failed)

    async def _work(self, session: RedisSession) -> None:
        try:
            while self._queue and self._link.session is session:
                followed, _ = self._queue.popitem(last=False)
                try:
                    await self._catch_up(session, followed)
                except RedisUnavailable:
                    return
                except RedisError as error:
                    self._complain(followed, error)
                    if self._is_followed(followed):
                        self._again.start(followed)
        finally:
            self._workers -= 1
            self._hire()

    def _complain(self, followed: FollowedTopic, error: RedisError) -> None:
        # A full Redis refuses all topics that are new, each of them every second.
        now = self._reactor.seconds()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            _log.warn(
                "Redis at {name} refuses to tell of {topic}, and perhaps of others: {error}",
                event="broker_refused",
                name=self._name,
                topic=followed.topic,
                error=str(error),
            )

    async def _catch_up(self, session: RedisSession, followed: FollowedTopic) -> None:
        if not followed.subscribed:
            await session.subscribe(self._commands.channel(followed.topic))
            if self._link.session is not session or not self._is_followed(followed):
                return
            followed.subscribed = True
        while not followed.live:
            replay = await self._commands.read(session, followed.topic, followed.position, _BATCH)
            if self._link.session is not session or not self._is_followed(followed):
                return
            followed.read(replay)
            # Only now: who reads before we have might hear less than we take for given.
            wake(followed.waiters)

    def _is_followed(self, followed: FollowedTopic) -> bool:
        return self.find(followed.topic) is followed

    def _touch_all(self) -> None:
        assert self._link.session is not None
        self._touching = self._reactor.callLater(_TOUCH, self._touch_all)
        Deferred.fromCoroutine(self._touch(self._link.session)).addErrback(self._link.failed)

    async def _touch(self, session: RedisSession) -> None:
        """Keep topics from being forgotten, and see which are not where we take them to be."""
        topics = list(self._followed.values())
        for start in range(0, len(topics), _TOUCHED):
            some = topics[start : start + _TOUCHED]
            try:
                ids = await self._commands.touch(session, [followed.topic for followed in some])
            except (RedisUnavailable, RedisError):
                return
            for followed, id in zip(some, ids, strict=True):
                if followed.live and id != str(followed.position) and self._is_followed(followed):
                    followed.live = False
                    self._enqueue(followed)
