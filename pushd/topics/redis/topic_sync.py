"""Keeps the topics that have subscribers on this node in sync with Redis."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushd.errors import RedisError, RedisUnavailable
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.redis.commands import TopicCommands
from pushd.topics.redis.followed_topic import FollowedTopic
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import HOLD, read_message

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_log = Logger(namespace="pushd.topics")

# How many topics catch up at the same time, and how much history is read at a time, in bytes.
_MAX_WORKERS = 64
_READ_SIZE = 1 << 18

# How often the expiry of followed topics is renewed, in seconds, and for how many in one command.
_TOUCH_INTERVAL = HOLD / 3
_TOUCH_COUNT = 500

# After how many seconds a topic is tried again if Redis answered with an error.
_RETRY_DELAY = 1.0

# The minimum time between two log lines about such errors, in seconds.
_LOG_INTERVAL = 10.0


class TopicSync:
    """Follows topics: subscribes to their channels, and lets them catch up whenever they lag.

    :param name: the address of Redis for the log, without the password.
    """

    def __init__(
        self, reactor: Any, reconnector: Reconnector, commands: TopicCommands, *, name: str
    ) -> None:
        self._reactor = reactor
        self._reconnector = reconnector
        self._commands = commands
        self._name = name
        # The followed topics by the name of their channel.
        self._topics: dict[bytes, FollowedTopic] = {}
        # The topics that are to catch up, and those that are tried again later.
        self._queue: OrderedDict[FollowedTopic, None] = OrderedDict()
        self._retries: TimeoutQueue[FollowedTopic] = TimeoutQueue(
            reactor, timeout=_RETRY_DELAY, expired=self._enqueue
        )
        self._workers = 0
        # Topics with subscribers that lack something; the highest sequence of a message; and the
        # one up to which everything was delivered: the same, unless a topic lags.
        self._lagging: set[FollowedTopic] = set()
        self._received = 0
        #: See ``TopicSource``.
        self.settled = 0
        # When the next error may be logged.
        self._log_after = 0.0
        self._touch_call: IDelayedCall | None = None

    def __iter__(self) -> Iterator[FollowedTopic]:
        return iter(self._topics.values())

    def find(self, topic: str) -> FollowedTopic | None:
        """Return a topic if it is followed."""
        return self._topics.get(self._commands.channel(topic))

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic that may have been read."""
        followed = self.find(topic)
        return self._received if followed is None else max(self._received, followed.read)

    def follow(self, topic: FollowedTopic) -> None:
        """Follow a topic."""
        self._topics[self._commands.channel(topic.topic)] = topic
        self._enqueue(topic)

    def unfollow(self, name: str) -> FollowedTopic:
        """Stop following a topic, and return it."""
        channel = self._commands.channel(name)
        topic = self._topics.pop(channel)
        self._queue.pop(topic, None)
        self._retries.stop(topic)
        self._lagging.discard(topic)
        self._settle_sequence()
        if self._reconnector.session is not None:
            self._reconnector.session.unsubscribe(channel)
        return topic

    def connected(self) -> None:
        """Let all topics catch up in a new session."""
        self._start_settling()
        for topic in list(self._topics.values()):
            self._enqueue(topic)
        self._touch_call = self._reactor.callLater(_TOUCH_INTERVAL, self._touch_all)

    def disconnected(self) -> None:
        """Stop until the next session."""
        if self._touch_call is not None and self._touch_call.active():
            self._touch_call.cancel()
        self._queue.clear()
        for topic in self._topics.values():
            self._retries.stop(topic)
            topic.disconnected()
            self._note(topic)

    def receive(self, channel: bytes, message: bytes) -> bool:
        """Take a message of a channel. Returns False if it is that of no followed topic."""
        topic = self._topics.get(channel)
        if topic is None:
            return False
        try:
            publication = read_message(topic.topic, message)
        except ValueError:
            _log.warn(
                "unexpected message on Redis channel {channel}: another program writes to it",
                event="broker_misused",
                channel=channel.decode("latin-1"),
            )
            return True
        if not topic.receive(publication):
            self._note(topic)
            self._enqueue(topic)
        if publication.sequence > self._received:
            # Messages come in this order: all before this one, of all topics, have come.
            self._received = publication.sequence
            self._settle_sequence()
        return True

    def _note(self, topic: FollowedTopic) -> None:
        """Note whether a topic lags, after that may have changed."""
        if topic.lags:
            self._lagging.add(topic)
        else:
            self._lagging.discard(topic)
            self._settle_sequence()

    def _settle_sequence(self) -> None:
        if not self._lagging:
            self.settled = self._received

    def _enqueue(self, topic: FollowedTopic) -> None:
        """Let a topic catch up as soon as a worker is free."""
        self._queue[topic] = None
        self._start_worker()

    def _start_worker(self) -> None:
        session = self._reconnector.session
        if self._queue and session is not None and self._workers < _MAX_WORKERS:
            self._workers += 1
            working = Deferred.fromCoroutine(self._work(session))
            working.addErrback(self._reconnector.log_failure)

    async def _work(self, session: RedisSession) -> None:
        try:
            while self._queue and self._reconnector.session is session:
                topic, _ = self._queue.popitem(last=False)
                try:
                    await self._catch_up(session, topic)
                except RedisUnavailable:
                    return
                except RedisError as error:
                    self._log_error(topic, error)
                    self._reconnector.refused(session, error)
                    if self._is_followed(topic):
                        self._retries.start(topic)
        finally:
            self._workers -= 1
            self._start_worker()

    def _log_error(self, topic: FollowedTopic, error: RedisError) -> None:
        # A full Redis answers so for every new topic, every second.
        now = self._reactor.seconds()
        if now >= self._log_after:
            self._log_after = now + _LOG_INTERVAL
            _log.warn(
                "Redis at {name} returned an error for topic {topic} (and possibly for others), "
                "retrying every second: {error}",
                event="broker_refused",
                name=self._name,
                topic=topic.topic,
                error=str(error),
            )

    async def _catch_up(self, session: RedisSession, topic: FollowedTopic) -> None:
        """Subscribe first, then read the history: what is published meanwhile is not missed."""
        if not topic.subscribed:
            await session.subscribe(self._commands.channel(topic.topic))
            if self._reconnector.session is not session or not self._is_followed(topic):
                return
            topic.subscribed = True
        while not topic.live:
            replay = await self._commands.read(session, topic.topic, topic.position, _READ_SIZE)
            if self._reconnector.session is not session or not self._is_followed(topic):
                return
            topic.catch_up(replay)
            self._note(topic)
            # Only now: a subscriber that read before us could miss what is between the two reads.
            topic.waiters.wake()

    def _is_followed(self, topic: FollowedTopic) -> bool:
        return self.find(topic.topic) is topic

    def _start_settling(self) -> None:
        settling = Deferred.fromCoroutine(self._settle())
        settling.addErrback(self._reconnector.log_failure)

    async def _settle(self) -> None:
        """Learn whether something was forgotten. If that fails, each later command asks again."""
        assert self._reconnector.session is not None
        before = self._commands.generation
        with suppress(RedisUnavailable, RedisError):
            await self._commands.settle(self._reconnector.session)
        if self._commands.generation != before:
            # Its publications may be numbered anew.
            self._received = self.settled = 0

    def _touch_all(self) -> None:
        assert self._reconnector.session is not None
        self._touch_call = self._reactor.callLater(_TOUCH_INTERVAL, self._touch_all)
        # Redis forgets after an hour that it was a replica, and nothing else may ask until then.
        self._start_settling()
        touching = Deferred.fromCoroutine(self._touch(self._reconnector.session))
        touching.addErrback(self._reconnector.log_failure)

    async def _touch(self, session: RedisSession) -> None:
        """Renew the expiry of all topics, and let those catch up whose last id is not ours."""
        topics = list(self._topics.values())
        for start in range(0, len(topics), _TOUCH_COUNT):
            some = topics[start : start + _TOUCH_COUNT]
            try:
                ids = await self._commands.touch(session, [topic.topic for topic in some])
            except (RedisUnavailable, RedisError) as error:
                self._reconnector.refused(session, error)
                return
            for topic, id in zip(some, ids, strict=True):
                if topic.live and id != str(topic.position) and self._is_followed(topic):
                    topic.live = False
                    self._note(topic)
                    self._enqueue(topic)
