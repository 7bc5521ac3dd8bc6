"""Replica of one topic with subscribers on this node, and those who wait for Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pushd.errors import Unavailable
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.publication import Id, Publication, Replay

# How much may wait while the topic catches up; what comes beyond is read from the past again.
_MAX_WAITING = 1000
_MAX_BYTES = 4 << 20


class FollowedTopic:
    """What the hub has been given of a topic, and what it lacks.

    A topic is *live* when all that was published, as far as this node can know, has been given.
    It then takes what comes as long as it has no gap. Else it reads the past, and what comes
    meanwhile waits; the two meet without a gap and without a repeat.

    :param deliver: gets each publication, in order.
    :param on_gap: is told of a gap that can't be filled, and of the id to go on from.
    """

    __slots__ = (
        "_bytes",
        "_deliver",
        "_dropped",
        "_on_gap",
        "_waiting",
        "live",
        "position",
        "subscribed",
        "topic",
        "waiters",
    )

    def __init__(
        self,
        topic: str,
        deliver: Callable[[Publication], None],
        on_gap: Callable[[str, Id], None],
    ) -> None:
        self.topic = topic
        self._deliver = deliver
        self._on_gap = on_gap
        #: The last publication that was given; None before the past was first read.
        self.position: Id | None = None
        self.live = False
        #: Whether Redis tells us all that is published from now on.
        self.subscribed = False
        #: Those who wait for that.
        self.waiters: Waiters = {}
        self._waiting: deque[Publication] = deque()
        self._bytes = 0
        self._dropped = False

    @property
    def ready(self) -> bool:
        """Whether others may read the past, as all that comes after it will be given."""
        return self.subscribed and self.position is not None

    def take(self, publication: Publication) -> bool:
        """Take what has just been published. Returns False where the past has to be read now."""
        if not self.live:
            self._put_by(publication)
        elif not self._give(publication):
            self.live = False
            self._put_by(publication)
            return False
        return True

    def read(self, replay: Replay) -> None:
        """Take what was read of the past; if that was all, the topic is live."""
        if self.position is None:
            # Those who listen read for themselves; they need what comes from here on.
            self.position = replay.last
        elif not replay.recovered:
            self.position = replay.last
            self._on_gap(self.topic, replay.last)
        for publication in replay.publications:
            self._give(publication)
        if self.position == replay.last or self._has_passed(replay.last):
            self.live = self._give_waiting()

    def interrupt(self) -> None:
        """Note that Redis does not tell us any more what is published."""
        self.live = self.subscribed = self._dropped = False
        self._waiting.clear()
        self._bytes = 0

    def _give(self, publication: Publication) -> bool:
        """Give what comes next; returns False for what does not, as something is missing."""
        assert self.position is not None
        if publication.id.epoch != self.position.epoch:
            return False
        distance = publication.id.offset - self.position.offset
        if distance == 1:
            self.position = publication.id
            self._deliver(publication)
        return distance <= 1

    def _has_passed(self, last: Id) -> bool:
        assert self.position is not None
        return self.position.epoch == last.epoch and self.position.offset > last.offset

    def _give_waiting(self) -> bool:
        while self._waiting:
            publication = self._waiting.popleft()
            self._bytes -= len(publication.data)
            if not self._give(publication):
                return False
        dropped, self._dropped = self._dropped, False
        return not dropped

    def _put_by(self, publication: Publication) -> None:
        if len(self._waiting) >= _MAX_WAITING or self._bytes >= _MAX_BYTES:
            self._dropped = True
        else:
            self._waiting.append(publication)
            self._bytes += len(publication.data)


# How long one who wants to read the past waits for Redis to come back, in seconds.
_PATIENCE = 30.0

#: Those who wait for the same, in the order in which they came.
Waiters = dict[Deferred[None], None]


class Patience:
    """What those have who wait.

    :param fault: says what is wrong just now, to those who wait no longer.
    """

    def __init__(self, clock: IReactorTime, fault: Callable[[], str | None]) -> None:
        self._fault = fault
        self._deadlines: TimeoutQueue[Deferred[None]] = TimeoutQueue(
            clock, timeout=_PATIENCE, expired=self._give_up
        )

    async def wait(self, waiters: Waiters) -> None:
        """Be one of those who wait, until they are woken. Raises Unavailable when that is late."""
        waiter: Deferred[None] = Deferred()
        waiters[waiter] = None
        self._deadlines.start(waiter)
        try:
            await waiter
        finally:
            self._deadlines.stop(waiter)
            waiters.pop(waiter, None)

    def send_away(self, waiters: Waiters) -> None:
        """Let them wait no longer."""
        for waiter in list(waiters):
            self._deadlines.stop(waiter)
            self._give_up(waiter)

    def _give_up(self, waiter: Deferred[None]) -> None:
        waiter.errback(Unavailable(self._fault() or "nobody waits for it any more"))


def wake(waiters: Waiters) -> None:
    """Tell those who wait that it is there."""
    for waiter in list(waiters):
        waiter.callback(None)
