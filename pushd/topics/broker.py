"""How a publication reaches everybody's hub."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.history import History
from pushd.topics.publication import Id, Publication, Replay

# How long an idempotency key is remembered, in seconds, and how many at most.
KEY_TTL = 300
_MAX_KEYS = 100_000

# How many bytes of many publications are published in one turn of the reactor, about: no more than
# what Twisted hands to the kernel of each connection in a turn, framing included.
_SLICE = 1 << 16


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be published."""

    topic: str
    data: str | bytes
    #: Makes publishing safe to repeat.
    key: str | None = None


def ignore_missed(topic: str, last: Id) -> None:
    """Take no note of what was missed."""


class TopicSource(Protocol):
    """The part of a broker that a hub needs."""

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """What was published after an id; see ``History.replay``."""

    def follow(self, topic: str) -> None:
        """Somebody listens to this topic here."""

    def unfollow(self, topic: str) -> None:
        """Nobody listens to this topic here any more."""


class Broker(TopicSource, Protocol):
    """Takes publications, and lets every hub have them in the same order.

    Every Deferred fails with ``Unavailable`` where the past is kept elsewhere, and elsewhere can't
    be reached.
    """

    @property
    def published(self) -> int:
        """How many publications this node has taken."""

    @property
    def history_bytes(self) -> int:
        """How much this node keeps of the past, in bytes."""

    def start(
        self,
        deliver: Callable[[Publication], None],
        missed: Callable[[str, Id], None] = ignore_missed,
    ) -> None:
        """Begin.

        :param deliver: gets what is published to topics that are followed, without a gap.
        :param missed: is told of a gap that can't be filled: a topic, and the id that the next
            publication will follow.
        """

    def publish(self, topic: str, data: str | bytes, key: str | None = None) -> Deferred[Id]:
        """Publish, or, for a key that was seen not long ago, only tell the id of then."""

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all of them, or none."""

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """A topic's last id, and how many publications are kept."""

    def names(self) -> Deferred[list[str]]:
        """The topics that are remembered."""

    def fault(self) -> str | None:
        """Why nothing can be published just now, in one line; None where it can."""

    def stop(self) -> None:
        """End."""


class MemoryBroker:
    """One node's broker: all is in this process, and ends with it."""

    def __init__(self, clock: IReactorTime, history: History) -> None:
        #: How many publications it has taken.
        self.published = 0
        self._clock = clock
        self._history = history
        self._deliver: Callable[[Publication], None] | None = None
        self._ids: OrderedDict[tuple[str, str], Id] = OrderedDict()
        self._keys: TimeoutQueue[tuple[str, str]] = TimeoutQueue(
            clock, timeout=KEY_TTL, expired=self._ids.pop
        )

    @property
    def history_bytes(self) -> int:
        """How much is kept of the past, in bytes."""
        return self._history.bytes

    def start(
        self,
        deliver: Callable[[Publication], None],
        missed: Callable[[str, Id], None] = ignore_missed,
    ) -> None:
        """Begin; ``deliver`` gets what is published, all of it."""
        self._deliver = deliver

    def publish(self, topic: str, data: str | bytes, key: str | None = None) -> Deferred[Id]:
        """Publish, or, for a key that was seen not long ago, only tell the id of then."""
        return succeed(self._publish(topic, data, key))

    def publish_all(self, drafts: Sequence[Draft]) -> Deferred[list[Id]]:
        """Publish all of them, many bytes in turns."""
        return Deferred.fromCoroutine(self._publish_all(drafts))

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """What was published after an id."""
        return maybeDeferred(self._history.replay, topic, after, limit)

    def follow(self, topic: str) -> None:
        """Keep the topic: somebody listens."""
        self._history.hold(topic)

    def unfollow(self, topic: str) -> None:
        """Let the topic go in its time."""
        self._history.release(topic)

    def describe(self, topic: str) -> Deferred[tuple[Id | None, int]]:
        """A topic's last id, and how many publications are kept."""
        return succeed(self._history.describe(topic))

    def names(self) -> Deferred[list[str]]:
        """The topics that are remembered."""
        return succeed(self._history.names())

    def fault(self) -> str | None:
        """Tell nothing: what is here can be reached."""
        return None

    def stop(self) -> None:
        """Forget everything."""
        for key in self._ids:
            self._keys.stop(key)
        self._ids.clear()
        self._history.stop()

    async def _publish_all(self, drafts: Sequence[Draft]) -> list[Id]:
        ids, size = [], 0
        for draft in drafts:
            if size > _SLICE:
                # Let what there is be sent: else they alone would overtake all who listen.
                await deferLater(self._clock, 0)
                size = 0
            ids.append(self._publish(draft.topic, draft.data, draft.key))
            size += len(draft.data)
        return ids

    def _publish(self, topic: str, data: str | bytes, key: str | None) -> Id:
        if key is not None and (topic, key) in self._ids:
            return self._ids[topic, key]
        publication = self._history.add(topic, data)
        self.published += 1
        if key is not None:
            self._remember((topic, key), publication.id)
        assert self._deliver is not None
        self._deliver(publication)
        return publication.id

    def _remember(self, key: tuple[str, str], id: Id) -> None:
        if len(self._ids) >= _MAX_KEYS:
            self._keys.stop(self._ids.popitem(last=False)[0])
        self._ids[key] = id
        self._keys.start(key)
