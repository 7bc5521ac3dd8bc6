"""Many nodes, one Redis: topics that all of them share.

Publishing is one script in Redis: it gives the publication its id, keeps it in the history and
tells all nodes that follow the topic. What must not go wrong, and why it does not:

* *Told while not listening.* Every topic that is followed is subscribed to first and read after
  Redis has confirmed that: what is published before the read is in the history, what is published
  after it comes by itself, and what is both has an offset given already (``FollowedTopic``).
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

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.topics.broker import Draft, ignore_gap
from pushd.topics.history import Retention
from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.redis.commands import TopicCommands
from pushd.topics.redis.followed_topic import FollowedTopic, Patience, Waiters, wake
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.topic_sync import TopicSync

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

# Opens a session; see ``session.open_session``.
Opener = Callable[[Callable[[bytes, bytes], None], Callable[[str], object]], Deferred[Any]]

_Answer = TypeVar("_Answer")


class RedisBroker:
    """The broker of a node that is one of many.

    :param reactor: where time comes from, and when to begin.
    :param open_session: opens a session, given what to call with a channel and a notice, and what
        to call when the session has ended.
    :param name: what to call the Redis in the log; has no password.
    :param db: the number of the database, as channels are not kept apart by it.
    :param make_name: gives a new random name.
    """

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
        self._name = name
        self._link = Reconnector(
            reactor,
            partial(open_session, self._notice),
            name=name,
            opened=self._opened,
            closed=self._closed,
        )
        self._commands = TopicCommands(db=db, retention=retention, make_name=make_name)
        self._sync = TopicSync(reactor, self._link, self._commands, name=name)
        self._patience = Patience(reactor, self.fault)
        # Those who wait for a session.
        self._waiters: Waiters = {}
        self._deliver: Callable[[Publication], None] = _ignore
        self._on_gap: Callable[[str, Id], None] = ignore_gap

    # What the daemon calls

    @property
    def history_bytes(self) -> int:
        """How much this node keeps of the past: nothing, it is all in Redis."""
        return 0

    def start(
        self,
        deliver: Callable[[Publication], None],
        on_gap: Callable[[str, Id], None] = ignore_gap,
    ) -> None:
        """Begin; the connections are made once the reactor runs."""
        self._deliver, self._on_gap = deliver, on_gap
        self._link.start()

    def fault(self) -> str | None:
        """Why nothing can be published just now; None where it can."""
        return self._link.fault()

    def stop(self) -> None:
        """End."""
        self._link.stop()
        for waiters in (self._waiters, *(followed.waiters for followed in self._sync)):
            self._patience.send_away(waiters)

    def publish(self, topic: str, data: str | bytes, key: str | None = None) -> Deferred[Id]:
        """Publish, or, for a key that was seen not long ago, only tell the id of then."""
        return self.publish_all((Draft(topic, data, key),)).addCallback(_first)

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all of them, or none, in one step."""
        session = self._link.session
        if session is None:
            return fail(Unavailable(self.fault()))
        publishing = self._commands.publish(session, drafts)
        return publishing.addCallbacks(self._published, self._not_published, errbackArgs=(session,))

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """What was published after an id."""
        return Deferred.fromCoroutine(self._replay(topic, after, limit))

    def follow(self, topic: str) -> None:
        """Have what is published to this topic."""
        self._sync.follow(FollowedTopic(topic, self._deliver, self._on_gap))

    def unfollow(self, topic: str) -> None:
        """Have no more of it."""
        self._patience.send_away(self._sync.unfollow(topic).waiters)

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """A topic's last id, and how many publications are kept."""
        return Deferred.fromCoroutine(self._ask(partial(self._commands.describe, topic=topic)))

    def names(self) -> Deferred[list[str]]:
        """The topics that are remembered; of very many, some hundred thousand."""
        return Deferred.fromCoroutine(self._ask(self._commands.names))

    # What the link calls

    def _opened(self, session: RedisSession) -> None:
        wake(self._waiters)
        self._sync.begin()

    def _closed(self) -> None:
        self._sync.interrupt()

    def _notice(self, channel: bytes, notice: bytes) -> None:
        self._sync.notice(channel, notice)

    # What the answers come to

    async def _replay(self, topic: str, after: Id | None, limit: int) -> Replay:
        while True:
            followed = self._sync.find(topic)
            if followed is not None and followed.live and after in (None, followed.position):
                # What is next comes by itself: there is nothing to read.
                assert followed.position is not None
                return Replay(followed.position, after is not None, (), followed.position)
            session = self._link.session
            if session is None or not (followed is None or followed.ready):
                await self._wait(self._waiters if followed is None else followed.waiters)
                continue
            try:
                return await self._commands.read(session, topic, after, limit)
            except RedisUnavailable:
                pass  # the next session will tell
            except RedisError as error:
                raise Unavailable(f"Redis at {self._name}: {error}") from None

    async def _wait(self, waiters: Waiters) -> None:
        if self._link.stopped:
            raise Unavailable("the daemon stops")
        await self._patience.wait(waiters)

    async def _ask(self, question: Callable[[RedisSession], Awaitable[_Answer]]) -> _Answer:
        """Ask what is of no use later: where there is no session now, there is no answer."""
        if self._link.session is None:
            raise Unavailable(self.fault())
        try:
            return await question(self._link.session)
        except (RedisUnavailable, RedisError) as error:
            raise Unavailable(f"Redis at {self._name}: {error}") from None

    def _published(self, ids: list[Id]) -> list[Id]:
        self.published += len(ids)
        return ids

    def _not_published(self, failure: Failure, session: RedisSession) -> Any:
        if failure.check(RedisUnavailable):
            raise Unavailable(
                f"Redis at {self._name} was lost before it answered: published or not, nobody knows"
            )
        if failure.check(RedisError):
            if "READONLY" in str(failure.value):
                self._link.leave(session, "it has become a read-only replica")
            raise Unavailable(f"Redis at {self._name} refuses: {failure.getErrorMessage()}")
        return failure


def _ignore(publication: Publication) -> None:
    """Do nothing: it has not begun."""


def _first(ids: list[Id]) -> Id:
    return ids[0]
