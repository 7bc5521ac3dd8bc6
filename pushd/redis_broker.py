"""Many nodes, one Redis: topics that all of them share.

Publishing is one script in Redis: it gives the publication its id, keeps it in the history and
tells all nodes that follow the topic. What must not go wrong, and why it does not:

* *Told while not listening.* Every topic that is followed is subscribed to first and read after
  Redis has confirmed that: what is published before the read is in the history, what is published
  after it comes by itself, and what is both has an offset that was given already (``Followed``).
* *Out of step.* News and answers come over two connections, so either may be early. Nothing is
  given to the hub but the offset that is next. A higher one shows a gap, which is read at once.
* *A connection is lost*, or cut by Redis because this node reads too slowly. Then the session ends,
  and in the next one every topic is subscribed to and read again, from the last offset given.
* *The counters are lost*, or count anew: then the epoch is another one (``redis_scripts`` says how
  that is found out), the past can't be read from our id, and all who listen are ended, to come
  back with their last id and be told ``recovered: false``.
* *An answer is lost*: what was to be published may be published. The publisher is told 503, never
  200, and repeats it with its idempotency key.
* *A tail is lost* that no later offset shows: every few minutes the last ids are compared as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.broker import KEY_TTL, Draft, Unavailable, ignore_missed
from pushd.deadlines import Deadlines
from pushd.history import Retention
from pushd.messages import Id, Publication, Replay
from pushd.redis_link import Link, Session
from pushd.redis_scripts import (
    DESCRIBE,
    HOLD,
    PUBLISH,
    REPLAY,
    SERVER,
    TOPICS,
    TOUCH,
    Away,
    Refused,
    channel_name,
    encode,
    idempotency_key,
    read_id,
    read_notice,
    read_replay,
    read_topic,
    topic_keys,
)
from pushd.redis_topic import Followed

# How many publications may wait for Redis' answer, and how many bytes.
_MAX_UNANSWERED = 10_000
_MAX_UNANSWERED_BYTES = 64 << 20

# How long one who wants to read the past waits for Redis to come back, in seconds.
_PATIENCE = 30.0

# How many topics catch up at once, how many read the past at once, how much of it in bytes.
_WORKERS = 64
_READERS = 64
_BATCH = 1 << 18

# How often topics that are followed are kept from being forgotten, how many in one step.
_TOUCH = HOLD / 3
_TOUCHED = 500

# How soon a topic is tried again that Redis would not let us read, in seconds.
_AGAIN = 1.0

# How often at most it is logged that it does not, in seconds.
_SILENCE = 10.0

# How many topics are listed: so many times about a thousand.
_SCANS = 100

# Opens a session; see ``redis_session.open_session``.
Opener = Callable[[Callable[[bytes, bytes], None], Callable[[str], object]], Deferred[Any]]


class RedisBroker:
    """The broker of a node that is one of many.

    :param reactor: where time comes from, and when to begin.
    :param open_session: opens a session, given what to call with a channel and a notice, and what
        to call when the session has ended.
    :param name: what to call the Redis in the log; has no password.
    :param db: the number of the database, as channels are not kept apart by it.
    :param make_name: gives a new random name.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        open_session: Opener,
        *,
        name: str,
        db: int,
        retention: Retention,
        make_name: Callable[[], str],
    ) -> None:
        #: How many publications this node has taken.
        self.published = 0
        self._reactor = reactor
        self._name = name
        self._link = Link(
            reactor,
            partial(open_session, self._notice),
            name=name,
            opened=self._opened,
            closed=self._closed,
        )
        self._db = db
        self._retention = retention
        self._make_name = make_name
        self._deliver: Callable[[Publication], None] = _ignore
        self._missed: Callable[[str, Id], None] = ignore_missed
        self._touching: IDelayedCall | None = None
        self._followed: dict[bytes, Followed] = {}
        # Those that are to catch up, and those to try again in a moment.
        self._queue: OrderedDict[Followed, None] = OrderedDict()
        self._again: Deadlines[Followed] = Deadlines(reactor, length=_AGAIN, expired=self._enqueue)
        self._workers = 0
        # When the next refusal may be logged.
        self._silent_until = 0.0
        self._readers = DeferredSemaphore(_READERS)
        # Those who wait for a session, and how long each still does.
        self._waiters: dict[Deferred[None], None] = {}
        self._patience: Deadlines[Deferred[None]] = Deadlines(
            reactor, length=_PATIENCE, expired=self._give_up
        )
        self._unanswered = 0
        self._unanswered_bytes = 0

    # What the daemon calls

    @property
    def history_bytes(self) -> int:
        """How much this node keeps of the past: nothing, it is all in Redis."""
        return 0

    def start(
        self,
        deliver: Callable[[Publication], None],
        missed: Callable[[str, Id], None] = ignore_missed,
    ) -> None:
        """Begin; the connections are made once the reactor runs."""
        self._deliver, self._missed = deliver, missed
        self._link.start()

    def fault(self) -> str | None:
        """Why nothing can be published just now; None where it can."""
        return self._link.fault()

    def stop(self) -> None:
        """End."""
        self._link.stop()
        for waiters in (self._waiters, *(one.waiters for one in self._followed.values())):
            self._send_away(waiters)

    def publish(self, topic: str, data: str | bytes, key: str | None = None) -> Deferred[Id]:
        """Publish, or, for a key that was seen not long ago, only tell the id of then."""
        return self.publish_all((Draft(topic, data, key),)).addCallback(_first)

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all of them, or none, in one step."""
        session = self._link.session
        if session is None:
            return fail(Unavailable(self.fault()))
        keys, args, size = [SERVER], [*self._common(session), self._retention.size, KEY_TTL], 0
        for draft in drafts:
            kind, data = encode(draft.data)
            topic, history = topic_keys(draft.topic)
            key = topic if draft.key is None else idempotency_key(draft.topic, draft.key)
            keys += topic, history, key
            args += channel_name(self._db, draft.topic), kind, data
            size += len(data)
        if (
            self._unanswered + len(drafts) > _MAX_UNANSWERED
            or self._unanswered_bytes + size > _MAX_UNANSWERED_BYTES
        ):
            return fail(Unavailable("too much waits for an answer of Redis already"))
        self._unanswered += len(drafts)
        self._unanswered_bytes += size
        calling = session.call(PUBLISH, keys, args)
        calling.addBoth(self._answered, len(drafts), size)
        return calling.addCallbacks(self._published, self._not_published, errbackArgs=(session,))

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """What was published after an id."""
        return Deferred.fromCoroutine(self._replay(topic, after, limit))

    def follow(self, topic: str) -> None:
        """Have what is published to this topic."""
        followed = Followed(topic, self._deliver, self._missed)
        self._followed[channel_name(self._db, topic)] = followed
        self._enqueue(followed)

    def unfollow(self, topic: str) -> None:
        """Have no more of it."""
        channel = channel_name(self._db, topic)
        followed = self._followed.pop(channel)
        self._queue.pop(followed, None)
        self._again.stop(followed)
        self._send_away(followed.waiters)
        if self._link.session is not None:
            self._link.session.unsubscribe(channel)

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """A topic's last id, and how many publications are kept."""
        return Deferred.fromCoroutine(self._describe(topic))

    def names(self) -> Deferred[list[str]]:
        """The topics that are remembered; of very many, some hundred thousand."""
        return Deferred.fromCoroutine(self._names())

    # What the link calls

    def _opened(self, session: Session) -> None:
        _wake(self._waiters)
        for followed in list(self._followed.values()):
            self._enqueue(followed)
        self._touching = self._reactor.callLater(_TOUCH, self._touch_all)

    def _closed(self) -> None:
        if self._touching is not None and self._touching.active():
            self._touching.cancel()
        self._queue.clear()
        for followed in self._followed.values():
            self._again.stop(followed)
            followed.interrupt()

    # What is published

    def _notice(self, channel: bytes, notice: bytes) -> None:
        followed = self._followed.get(channel)
        if followed is None:
            return
        try:
            publication = read_notice(followed.topic, notice)
        except ValueError:
            self._log.warn(
                "somebody else publishes to {channel}",
                event="broker_misused",
                channel=channel.decode("latin-1"),
            )
            return
        if not followed.take(publication):
            self._enqueue(followed)

    def _enqueue(self, followed: Followed) -> None:
        """Let a topic catch up, as soon as it is its turn."""
        self._queue[followed] = None
        self._hire()

    def _hire(self) -> None:
        if self._queue and self._link.session is not None and self._workers < _WORKERS:
            self._workers += 1
            working = Deferred.fromCoroutine(self._work(self._link.session))
            working.addErrback(self._link.failed)

    async def _work(self, session: Session) -> None:
        try:
            while self._queue and self._link.session is session:
                followed, _ = self._queue.popitem(last=False)
                try:
                    await self._catch_up(session, followed)
                except Away:
                    return
                except Refused as error:
                    self._complain(followed, error)
                    if self._is_followed(followed):
                        self._again.start(followed)
        finally:
            self._workers -= 1
            self._hire()

    def _complain(self, followed: Followed, error: Refused) -> None:
        # A full Redis refuses all topics that are new, each of them every second.
        now = self._reactor.seconds()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self._log.warn(
                "Redis at {name} refuses to tell of {topic}, and perhaps of others: {error}",
                event="broker_refused",
                name=self._name,
                topic=followed.topic,
                error=str(error),
            )

    async def _catch_up(self, session: Session, followed: Followed) -> None:
        if not followed.subscribed:
            await session.subscribe(channel_name(self._db, followed.topic))
            if self._link.session is not session or not self._is_followed(followed):
                return
            followed.subscribed = True
        while not followed.live:
            replay = await self._read(session, followed.topic, followed.position, _BATCH)
            if self._link.session is not session or not self._is_followed(followed):
                return
            followed.read(replay)
            # Only now: who reads before we have might hear less than we take for given.
            _wake(followed.waiters)

    def _is_followed(self, followed: Followed) -> bool:
        return self._followed.get(channel_name(self._db, followed.topic)) is followed

    # What was published

    async def _replay(self, topic: str, after: Id | None, limit: int) -> Replay:
        channel = channel_name(self._db, topic)
        while True:
            followed = self._followed.get(channel)
            if followed is not None and followed.live and after in (None, followed.position):
                # What is next comes by itself: there is nothing to read.
                assert followed.position is not None
                return Replay(followed.position, after is not None, (), followed.position)
            session = self._link.session
            if session is None or not (followed is None or followed.ready):
                await self._wait(self._waiters if followed is None else followed.waiters)
                continue
            try:
                return await self._read(session, topic, after, limit)
            except Away:
                pass  # the next session will tell
            except Refused as error:
                raise Unavailable(f"Redis at {self._name}: {error}") from None

    async def _read(self, session: Session, topic: str, after: Id | None, limit: int) -> Replay:
        epoch, offset = ("", 0) if after is None else (after.epoch, after.offset)
        args = (*self._common(session), epoch, offset, limit)
        keys = (SERVER, *topic_keys(topic))
        await self._readers.acquire()
        try:
            return read_replay(topic, await session.call(REPLAY, keys, args))
        finally:
            self._readers.release()

    async def _describe(self, topic: str) -> tuple[Id | None, int]:
        session = self._get_session()
        try:
            keys = (SERVER, *topic_keys(topic))
            said = await session.call(DESCRIBE, keys, self._common(session))
        except (Away, Refused) as error:
            raise Unavailable(f"Redis at {self._name}: {error}") from None
        return (None, 0) if said is None else (read_id(said[0]), said[1])

    async def _names(self) -> list[str]:
        session = self._get_session()
        names: set[str] = set()
        cursor = b"0"
        try:
            for _ in range(_SCANS):
                found = await session.command("SCAN", cursor, "MATCH", TOPICS, "COUNT", 1000)
                cursor = found[0]
                names.update(read_topic(key) for key in found[1])
                if cursor == b"0":
                    break
        except (Away, Refused) as error:
            raise Unavailable(f"Redis at {self._name}: {error}") from None
        return list(names)

    def _get_session(self) -> Session:
        if self._link.session is None:
            raise Unavailable(self.fault())
        return self._link.session

    # Keeping topics that are followed

    def _touch_all(self) -> None:
        assert self._link.session is not None
        self._touching = self._reactor.callLater(_TOUCH, self._touch_all)
        Deferred.fromCoroutine(self._touch(self._link.session)).addErrback(self._link.failed)

    async def _touch(self, session: Session) -> None:
        topics = list(self._followed.values())
        for start in range(0, len(topics), _TOUCHED):
            some = topics[start : start + _TOUCHED]
            keys = [SERVER, *(topic_keys(followed.topic)[0] for followed in some)]
            try:
                ids = await session.call(TOUCH, keys, self._common(session))
            except (Away, Refused):
                return
            for followed, id in zip(some, ids, strict=True):
                known = str(followed.position).encode()
                if followed.live and id != known and self._is_followed(followed):
                    followed.live = False
                    self._enqueue(followed)

    # Waiting, and what came of it

    async def _wait(self, waiters: dict[Deferred[None], None]) -> None:
        if self._link.stopped:
            raise Unavailable("the daemon stops")
        waiter: Deferred[None] = Deferred()
        waiters[waiter] = None
        self._patience.start(waiter)
        try:
            await waiter
        finally:
            self._patience.stop(waiter)
            waiters.pop(waiter, None)

    def _give_up(self, waiter: Deferred[None]) -> None:
        waiter.errback(Unavailable(self.fault() or "nobody waits for it any more"))

    def _send_away(self, waiters: dict[Deferred[None], None]) -> None:
        for waiter in list(waiters):
            self._patience.stop(waiter)
            self._give_up(waiter)

    def _answered(self, result: Any, count: int, size: int) -> Any:
        self._unanswered -= count
        self._unanswered_bytes -= size
        return result

    def _published(self, ids: list[bytes]) -> list[Id]:
        self.published += len(ids)
        return [read_id(id) for id in ids]

    def _not_published(self, failure: Failure, session: Session) -> Any:
        if failure.check(Away):
            raise Unavailable(
                f"Redis at {self._name} was lost before it answered: published or not, nobody knows"
            )
        if failure.check(Refused):
            if "READONLY" in str(failure.value):
                self._link.leave(session, "it has become a read-only replica")
            raise Unavailable(f"Redis at {self._name} refuses: {failure.getErrorMessage()}")
        return failure

    def _common(self, session: Session) -> list[Any]:
        """What every script is told first."""
        return [
            session.run,
            int(session.trusted),
            self._make_name(),
            self._retention.ttl * 1000,
            HOLD * 1000,
        ]


def _ignore(publication: Publication) -> None:
    """Do nothing: it has not begun."""


def _first(ids: list[Id]) -> Id:
    return ids[0]


def _wake(waiters: dict[Deferred[None], None]) -> None:
    for waiter in list(waiters):
        waiter.callback(None)
