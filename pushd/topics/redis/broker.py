"""The broker over Redis, which any number of nodes share.

To publish is one script in Redis: it gives the publication its id, appends it to the history and
publishes it on the topic's channel. The following can go wrong, and this is how it is handled:

* *Published while a node is not subscribed.* A followed topic's channel is subscribed to first, and
  its history read once Redis has confirmed that. What is published before the read is in the
  history; what is published after it comes through the channel; what comes both ways has an offset
  that was delivered before (``FollowedTopic``).
* *Out of order.* Messages and answers come over two connections, so either may be early. Only the
  next offset is delivered to the hub. A higher one shows a gap, which is read from the history.
* *A connection is lost*, or Redis closes it because this node reads too slowly. Then the session is
  closed, and in the next one every topic is subscribed to and read again, from its position on.
* *Redis has lost data*, or counts offsets anew. Then the epoch is a new one (``redis/scripts.py``
  says how that is detected), and the history cannot be read from our position: the subscribers are
  disconnected, come back with their last id, and get ``recovered: false``.
* *An answer is lost.* Then it is unknown whether a request was published. The publisher gets 503,
  never 200, and can repeat the request with its idempotency key.
* *The last messages are lost*, and no later one shows that. Every few minutes the last ids of all
  followed topics are compared with those in Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from pushd.access.permissions import RevocationExchange
from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.schedule.histogram import Histogram
from pushd.topics.broker import Draft, NodeCalls, NodeRelay, ignore_gap, succeed_at_once
from pushd.topics.cursor import UNKNOWN, Cursor
from pushd.topics.history import Retention
from pushd.topics.presence import PresenceExchange
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.redis.commands import TopicCommands
from pushd.topics.redis.followed_topic import FollowedTopic
from pushd.topics.redis.node_calls import RedisNodeCalls
from pushd.topics.redis.presence import RedisPresence
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.relay import RedisRelay
from pushd.topics.redis.revocations import RedisRevocations
from pushd.topics.redis.schedules import RedisSchedules
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.redis.topic_sync import TopicSync
from pushd.topics.redis.waiters import MAX_WAIT, Waiters, make_timeouts
from pushd.topics.rules import Rules
from pushd.topics.scheduled import SCHEDULE_GRACE

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

# Opens a session; see ``session.open_session``.
Opener = Callable[[Callable[[bytes, bytes], None], Callable[[str], object]], Deferred[Any]]

_Answer = TypeVar("_Answer")


class RedisBroker:
    """Broker of a node that shares its topics with others through Redis.

    :param open_session: opens a session, given what to call with a channel and a message, and what
        to call when the session is lost.
    :param name: the address of Redis for the log, without the password.
    :param names: the names of keys and channels.
    :param make_name: returns a new random name, for an epoch or a generation.
    :param rules: of topics that are kept otherwise than ``retention`` says.
    :param schedule_grace: for how many seconds a scheduled publication may have been due that is
        still made.
    :param lateness: how late those are that are made, in seconds.
    """

    def __init__(
        self,
        reactor: Any,
        open_session: Opener,
        *,
        name: str,
        names: RedisNames,
        retention: Retention,
        make_name: Callable[[], str],
        rules: Rules | None = None,
        schedule_grace: float = SCHEDULE_GRACE,
        lateness: Histogram | None = None,
    ) -> None:
        #: Publications that this node has accepted.
        self.published = 0
        self._name = name
        self._reconnector = Reconnector(
            reactor,
            partial(open_session, self._receive),
            name=name,
            on_open=self._connected,
            on_close=self._disconnected,
        )
        self._commands = TopicCommands(
            names,
            retention=retention,
            make_name=make_name,
            rules=Rules() if rules is None else rules,
        )
        node = make_name()
        #: Shares presence with the other nodes.
        self.presence: PresenceExchange | None
        self.presence = self._presence = RedisPresence(
            reactor, self._reconnector, names, node=node, name=name
        )
        #: Shares revocations with the other nodes.
        self.revocations: RevocationExchange | None
        self.revocations = self._revocations = RedisRevocations(
            reactor, self._reconnector, names, node=node, name=name
        )
        #: Passes messages to single nodes.
        self.relay: NodeRelay | None
        self.relay = self._relay = RedisRelay(self._reconnector, names, node=node, name=name)
        #: Calls the other nodes.
        self.calls: NodeCalls | None
        self.calls = self._calls = RedisNodeCalls(
            reactor, self._reconnector, names, node=node, name=name
        )
        #: Keeps the schedules of all nodes.
        self.schedules = RedisSchedules(
            reactor,
            self._reconnector,
            self._commands,
            names,
            node=node,
            name=name,
            grace=schedule_grace,
            published=self._count,
            lateness=Histogram() if lateness is None else lateness,
        )
        self._sync = TopicSync(reactor, self._reconnector, self._commands, name=name)
        self._seconds: Callable[[], float] = reactor.seconds
        self._wait_timeouts = make_timeouts(reactor, self.fault)
        # Reads of topics that are not followed wait for a session.
        self._waiters = Waiters(self._wait_timeouts)
        self._deliver: Callable[[Publication], None] = _ignore
        self._on_gap: Callable[[str, Id], None] = ignore_gap

    # Called by the daemon and the hub

    @property
    def generation(self) -> str:
        """The generation of all topics in Redis, as far as this node knows."""
        return self._commands.generation or UNKNOWN

    @property
    def tried(self) -> Deferred[object]:
        """Fires after the first attempt to connect, whatever its result."""
        return self._reconnector.tried

    @property
    def settled(self) -> int:
        """The sequence up to which every publication of followed topics was delivered."""
        return self._sync.settled

    @property
    def history_bytes(self) -> int:
        """Return 0: the histories are in Redis."""
        return 0

    def trim_history(self, size: int) -> None:
        """Do nothing: the histories are in Redis."""

    def start(
        self,
        deliver: Callable[[Publication], None],
        on_gap: Callable[[str, Id], None] = ignore_gap,
        room: Callable[[], Deferred[None]] = succeed_at_once,
    ) -> None:
        """Start, and connect as soon as the reactor runs. Batches are published in one part."""
        self._deliver, self._on_gap = deliver, on_gap
        self._reconnector.start()

    def fault(self) -> str | None:
        """Return why publishing is impossible at the moment; None if it is possible."""
        return self._reconnector.fault()

    def stop(self) -> None:
        """Close the session, and make everything fail that waits for one."""
        self._reconnector.stop()
        for waiters in (self._waiters, *(topic.waiters for topic in self._sync)):
            waiters.fail(str(self.fault()))

    def publish(
        self,
        topic: str,
        data: str | bytes,
        key: str | None = None,
        event: str | None = None,
        is_json: bool = False,
    ) -> Deferred[Id]:
        """Publish. For a key that the topic has seen, only give the id of the first time."""
        return self.publish_all((Draft(topic, data, key, event, is_json),)).addCallback(_first)

    def publish_at_once(self, draft: Draft) -> Id | None:
        """Return None: Redis has to be asked."""
        return None

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all drafts or none."""
        session = self._reconnector.session
        if session is None:
            return fail(Unavailable(self.fault()))
        publishing = self._commands.publish(session, drafts)
        return publishing.addCallbacks(self._published, self._not_published, errbackArgs=(session,))

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Read the publications after an id. Waits for Redis if it is unavailable."""
        return Deferred.fromCoroutine(self._replay(topic, after, limit))

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic that may have been read."""
        return self._sync.newest(topic)

    def is_newest(self, topic: str, id: Id) -> bool:
        """Return False: only Redis knows."""
        return False

    def locate(self, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Find the id for each topic. Waits for Redis if it is unavailable."""
        return Deferred.fromCoroutine(self._locate(topics, cursor))

    def follow(self, topic: str) -> None:
        """Deliver what is published to a topic."""
        waiters = Waiters(self._wait_timeouts)
        self._sync.follow(FollowedTopic(topic, self._deliver, self._on_gap, waiters))

    def unfollow(self, topic: str) -> None:
        """Stop that."""
        reason = self.fault() or "the topic has no subscribers any more"
        self._sync.unfollow(topic).waiters.fail(reason)

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """Give a topic's last id, and the number of publications in its history."""
        return Deferred.fromCoroutine(self._ask(partial(self._commands.describe, topic=topic)))

    def forget(self, topic: str) -> Deferred[None]:
        """Drop the history of a topic."""
        return Deferred.fromCoroutine(self._ask(partial(self._commands.forget, topic=topic)))

    def names(self) -> Deferred[list[str]]:
        """Give the names of all topics, or of about 100,000 if there are more."""
        return Deferred.fromCoroutine(self._ask(self._commands.names))

    # Called by the reconnector and the session

    def _connected(self, session: RedisSession) -> None:
        self._waiters.wake()
        self._sync.connected()
        self._presence.connected()
        self._revocations.connected(session)
        self._relay.connected(session)
        self._calls.connected(session)
        self.schedules.connected(session)

    def _disconnected(self) -> None:
        self._sync.disconnected()
        self._presence.disconnected()
        self._revocations.disconnected()
        self._calls.disconnected()
        self.schedules.disconnected()

    def _receive(self, channel: bytes, message: bytes) -> None:
        parts = (self._sync, self._presence, self._revocations, self._relay, self._calls)
        any(part.receive(channel, message) for part in parts)

    async def _replay(self, name: str, after: Id | None, limit: int) -> Replay:
        until = None
        while True:
            topic = self._sync.find(name)
            if topic is not None and topic.live and self._has_nothing_for(topic, after):
                # All that is published from now on will be delivered.
                assert topic.position is not None
                return Replay(topic.position, after is not None, (), topic.position)
            session = self._reconnector.session
            if session is None or not (topic is None or topic.ready):
                waiters = self._waiters if topic is None else topic.waiters
                until = await self._wait(waiters, until)
                continue
            with self._reading(session):
                replay = await self._commands.read(session, name, after, limit)
                topic = self._sync.find(name)
                if topic is not None:
                    topic.note_read(replay)
                return replay

    async def _locate(self, topics: Sequence[str], cursor: Cursor) -> list[Id | None]:
        found: dict[str, Id | None] = {}
        sequences: dict[str, int] = {}
        for topic in topics:
            position = cursor.position(topic)
            if isinstance(position, Id):
                found[topic] = position
            else:
                sequences[topic] = position
        until = None
        while sequences:
            session = self._reconnector.session
            if session is None:
                until = await self._wait(self._waiters, until)
                continue
            with self._reading(session):
                ids = await self._commands.locate(session, cursor.generation, sequences)
                found |= dict(zip(sequences, ids, strict=True))
                break
        return [found[topic] for topic in topics]

    @contextmanager
    def _reading(self, session: RedisSession) -> Iterator[None]:
        """Turn errors of a read into Unavailable; if the session is lost, wait for the next one."""
        try:
            yield
        except RedisUnavailable:
            pass
        except RedisError as error:
            self._reconnector.refused(session, error)
            raise Unavailable(f"Redis at {self._name}: {error}") from None

    def _has_nothing_for(self, topic: FollowedTopic, after: Id | None) -> bool:
        """Return whether a subscriber of a live topic has nothing to read."""
        if after is None:
            return not self._commands.retains(topic.topic)
        return after == topic.position

    async def _wait(self, waiters: Waiters, until: float | None) -> float:
        """Wait; return until when it may be waited again.

        :param until: what the last wait of the same read returned; None if this is the first one.
        """
        if self._reconnector.stopped:
            raise Unavailable("the daemon is shutting down")
        if until is None:
            until = self._seconds() + MAX_WAIT
        await waiters.wait(until)
        return until

    async def _ask(self, ask: Callable[[RedisSession], Awaitable[_Answer]]) -> _Answer:
        """Run a command of which a late answer is of no use. Fails if there is no session."""
        session = self._reconnector.session
        if session is None:
            raise Unavailable(self.fault())
        try:
            return await ask(session)
        except (RedisUnavailable, RedisError) as error:
            self._reconnector.refused(session, error)
            raise Unavailable(f"Redis at {self._name}: {error}") from None

    def _published(self, ids: list[Id]) -> list[Id]:
        self.published += len(ids)
        return ids

    def _count(self, number: int) -> None:
        """Count publications that were scheduled."""
        self.published += number

    def _not_published(self, failure: Failure, session: RedisSession) -> Any:
        if failure.check(RedisUnavailable):
            raise Unavailable(
                f"connection to Redis at {self._name} lost before the answer: the publication may "
                "or may not have been accepted; repeat it with its Idempotency-Key"
            )
        if failure.check(RedisError):
            self._reconnector.refused(session, failure.value)
            raise Unavailable(
                f"Redis at {self._name} returned an error: {failure.getErrorMessage()}"
            )
        return failure


def _ignore(publication: Publication) -> None:
    """Ignore a publication: the broker has not been started."""


def _first(ids: list[Id]) -> Id:
    return ids[0]
