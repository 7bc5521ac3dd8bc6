"""Brokers: accept publications, once per idempotency key, and pass them to every hub in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pushd.access.permissions import RevocationExchange
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.cursor import UNKNOWN, Cursor
from pushd.topics.history import History
from pushd.topics.presence import PresenceExchange
from pushd.topics.publication import Id, Publication, Replay, size_of

# How long an idempotency key is remembered, in seconds, and the maximum number of keys.
KEY_TTL = 300
_MAX_KEYS = 100_000

#: How many bytes of a long list are published in one iteration of the reactor, approximately: as
#: many as Twisted passes to the kernel per connection and iteration, with room for framing.
SLICE = 1 << 16

_log = Logger(namespace="pushd.topics")


@dataclass(slots=True)
class Draft:
    """A publication that has no id yet; not frozen for the sake of time, like ``Publication``."""

    topic: str
    data: str | bytes
    #: The idempotency key, which makes publishing safe to repeat.
    key: str | None = None
    #: The name of its event, and whether the data is JSON; see ``Publication``.
    event: str | None = None
    is_json: bool = False
    #: See ``Publication``.
    metadata: str | None = None


_topic_of = attrgetter("topic")
_key_of = attrgetter("key")


def ignore_gap(topic: str, last: Id) -> None:
    """Ignore that publications are missing."""


def succeed_at_once() -> Deferred[None]:
    """Return a Deferred that has fired: there is always room."""
    return succeed(None)


class TopicSource(Protocol):
    """The part of a broker that a hub needs."""

    @property
    def generation(self) -> str:
        """A random name of the numbering: sequences of one generation can be compared."""

    @property
    def settled(self) -> int:
        """The sequence up to which every publication of followed topics was delivered to the hub.

        It does not move while one of them catches up.
        """

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic that may have been read here."""

    def is_newest(self, topic: str, id: Id) -> bool:
        """Return whether nothing follows an id in a topic that is followed.

        False if that is not known at once, and ``replay`` must be asked.
        """

    def locate(self, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Find for each topic the id after which a subscriber with a cursor has to continue.

        None if it is not known whether something is missing then.
        """

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Read the publications after an id; see ``History.replay``."""

    def follow(self, topic: str) -> None:
        """Deliver what is published to a topic, as it has subscribers on this node now."""

    def unfollow(self, topic: str) -> None:
        """Stop that, as the topic has no subscribers on this node any more."""


class NodeRelay(Protocol):
    """Passes messages from one node to another."""

    @property
    def node(self) -> str:
        """The name of this node, which no other has."""

    def start(self, receive: Callable[[bytes], object]) -> None:
        """Call a function with each message for this node.

        To be called before the broker starts; without that, there are no messages.
        """

    def send(self, node: str, message: bytes) -> Deferred[bool]:
        """Pass a message to a node; the Deferred tells whether there is such a node.

        Messages from one node to another arrive in order. Fails with ``Unavailable``.
        """


#: Answers a call of another node: takes the name of a method, and its argument. The argument and
#: what it returns are values of JSON.
AnswerCall = Callable[[str, Any], Any]


class NodeCalls(Protocol):
    """Calls the other nodes that take part, and answers their calls."""

    def serve(self, answer: AnswerCall) -> None:
        """Take part from now on."""

    def call(self, method: str, argument: Any) -> Deferred[list[Any]]:
        """Return what each of the other nodes answers.

        Fails with ``Unavailable`` if one of them does not answer in time, or cannot.
        """


class Broker(TopicSource, Protocol):
    """Accepts publications, and delivers them to every node in the same order.

    A Deferred fails with ``Unavailable`` if the publications are kept outside of this process and
    cannot be reached.
    """

    @property
    def presence(self) -> PresenceExchange | None:
        """Shares presence with other nodes; None for a single process."""

    @property
    def revocations(self) -> RevocationExchange | None:
        """Shares revocations with other nodes; None for a single process."""

    @property
    def relay(self) -> NodeRelay | None:
        """Passes messages to single nodes; None for a single process."""

    @property
    def calls(self) -> NodeCalls | None:
        """Calls the other nodes; None for a single process."""

    @property
    def published(self) -> int:
        """Publications that this node has accepted."""

    @property
    def history_bytes(self) -> int:
        """Memory used by the histories of this node, in bytes."""

    def trim_history(self, size: int) -> None:
        """Drop the oldest publications of this node, until a number of bytes is freed."""

    def start(
        self,
        deliver: Callable[[Publication], None],
        on_gap: Callable[[str, Id], None] = ignore_gap,
        room: Callable[[], Deferred[None]] = succeed_at_once,
    ) -> None:
        """Start.

        :param deliver: called with each publication to a topic that is followed, without a gap.
        :param on_gap: called when publications are lost, with the topic and the id that the next
            publication will follow.
        :param room: awaited between the parts of a large batch, where that is possible.
        """

    def publish(
        self,
        topic: str,
        data: str | bytes,
        key: str | None = None,
        event: str | None = None,
        is_json: bool = False,
    ) -> Deferred[Id]:
        """Publish. For a key that the topic has seen, only give the id of the first time."""

    def publish_at_once(self, draft: Draft) -> Id | None:
        """Publish without a Deferred; return None, and do nothing, if that takes time."""

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all drafts or none."""

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """Give a topic's last id, and the number of publications in its history."""

    def names(self) -> Deferred[list[str]]:
        """Give the names of all topics that have a history."""

    def forget(self, topic: str) -> Deferred[None]:
        """Drop the history of a topic. Its ids go on, and its subscribers notice nothing."""

    def fault(self) -> str | None:
        """Return in one line why publishing is impossible at the moment; None if it is possible."""

    def stop(self) -> None:
        """Stop. Deferreds that are pending fail."""


class MemoryBroker:
    """Broker of a single process, which keeps all publications in memory.

    :param generation: a random name; see ``TopicSource.generation``.
    """

    #: There are no other nodes.
    presence: PresenceExchange | None = None
    revocations: RevocationExchange | None = None
    relay: NodeRelay | None = None
    calls: NodeCalls | None = None

    def __init__(self, clock: IReactorTime, history: History, generation: str = UNKNOWN) -> None:
        #: Publications accepted.
        self.published = 0
        self.generation = generation
        self._clock = clock
        self._history = history
        self._deliver: Callable[[Publication], None] | None = None
        self._room: Callable[[], Deferred[None]] = succeed_at_once
        # When it may be logged again that keys are forgotten early.
        self._warn_after = 0.0
        # The ids of the publications that had a key, by topic and key.
        self._ids: OrderedDict[tuple[str, str], Id] = OrderedDict()
        self._keys: TimeoutQueue[tuple[str, str]] = TimeoutQueue(
            clock, timeout=KEY_TTL, expired=self._forget_key
        )

    @property
    def settled(self) -> int:
        """The sequence of the last publication: each is delivered at once."""
        return self._history.sequence

    @property
    def history_bytes(self) -> int:
        """Memory used by all histories, in bytes."""
        return self._history.bytes

    def trim_history(self, size: int) -> None:
        """Drop the oldest publications, until a number of bytes is freed."""
        self._history.trim(size)

    def start(
        self,
        deliver: Callable[[Publication], None],
        on_gap: Callable[[str, Id], None] = ignore_gap,
        room: Callable[[], Deferred[None]] = succeed_at_once,
    ) -> None:
        """Start. ``deliver`` is called with every publication; there are never gaps."""
        self._deliver, self._room = deliver, room

    def publish(
        self,
        topic: str,
        data: str | bytes,
        key: str | None = None,
        event: str | None = None,
        is_json: bool = False,
    ) -> Deferred[Id]:
        """Publish. For a key that the topic has seen, only give the id of the first time."""
        return succeed(self._publish(Draft(topic, data, key, event, is_json)))

    def publish_at_once(self, draft: Draft) -> Id | None:
        """Publish. In memory that takes no time."""
        return self._publish(draft)

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all drafts. Many bytes take more than one iteration of the reactor."""
        return Deferred.fromCoroutine(self._publish_all(drafts))

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """Read the publications after an id."""
        return maybeDeferred(self._history.replay, topic, after, limit)

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic."""
        return self._history.newest(topic)

    def is_newest(self, topic: str, id: Id) -> bool:
        """Return whether nothing follows an id in a topic."""
        return self._history.is_newest(topic, id)

    def locate(self, topics: Sequence[str], cursor: Cursor) -> Deferred[list[Id | None]]:
        """Find for each topic the id after which a subscriber with a cursor has to continue."""
        return succeed([self._locate(topic, cursor) for topic in topics])

    def follow(self, topic: str) -> None:
        """Keep a topic, as it has subscribers."""
        self._history.hold(topic)

    def unfollow(self, topic: str) -> None:
        """Let a topic expire, as it has no subscribers any more."""
        self._history.release(topic)

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """Give a topic's last id, and the number of publications in its history."""
        return succeed(self._history.describe(topic))

    def names(self) -> Deferred[list[str]]:
        """Give the names of all topics that have a history."""
        return succeed(self._history.names())

    def forget(self, topic: str) -> Deferred[None]:
        """Drop the history of a topic."""
        self._history.forget(topic)
        return succeed(None)

    def fault(self) -> str | None:
        """Return None: memory is always available."""
        return None

    def stop(self) -> None:
        """Forget everything, and stop all timers."""
        for key in self._ids:
            self._keys.stop(key)
        self._ids.clear()
        self._history.stop()

    async def _publish_all(self, drafts: Sequence[Draft]) -> list[Id]:
        ids: list[Id] = []
        size = 0
        for topic, drafts_of_topic in groupby(drafts, _topic_of):
            run = list(drafts_of_topic)
            if len(run) > 1 and not any(map(_key_of, run)):
                passed = self._history.pass_over(topic, len(run))
                if passed:
                    self.published += len(passed)
                    ids += passed
                    ids += map(self._publish, run[len(passed) :])
                    continue
            for draft in run:
                if size > SLICE:
                    # Let the sockets take what there is, or these publications alone would be more
                    # than subscribers may have unsent.
                    await deferLater(self._clock, 0)
                    await self._room()
                    size = 0
                ids.append(self._publish(draft))
                size += size_of(draft.data)
        return ids

    def _publish(self, draft: Draft) -> Id:
        topic, key = draft.topic, draft.key
        if key is not None and (topic, key) in self._ids:
            return self._ids[topic, key]
        publication = self._history.add(
            topic, draft.data, draft.event, draft.is_json, draft.metadata
        )
        self.published += 1
        if key is not None:
            self._remember((topic, key), publication.id)
        assert self._deliver is not None
        self._deliver(publication)
        return publication.id

    def _locate(self, topic: str, cursor: Cursor) -> Id | None:
        position = cursor.position(topic)
        if isinstance(position, Id):
            return position
        return (
            self._history.locate(topic, position) if cursor.generation == self.generation else None
        )

    def _remember(self, key: tuple[str, str], id: Id) -> None:
        if len(self._ids) >= _MAX_KEYS:
            oldest = next(iter(self._ids))
            self._keys.stop(oldest)
            self._forget_key(oldest)
            self._warn_of_forgotten_keys()
        self._ids[key] = id
        self._keys.start(key)

    def _forget_key(self, key: tuple[str, str]) -> None:
        """Forget the oldest key."""
        del self._ids[key]

    def _warn_of_forgotten_keys(self) -> None:
        now = self._clock.seconds()
        if now >= self._warn_after:
            self._warn_after = now + KEY_TTL
            _log.warn(
                "more than {limit} idempotency keys in {seconds} s: the oldest are forgotten, and "
                "a publication that repeats one is made twice (docs/topics.md)",
                event="keys_forgotten",
                limit=_MAX_KEYS,
                seconds=KEY_TTL,
            )
