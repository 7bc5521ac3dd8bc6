"""One who listens to a topic, and how far it has heard."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pushd.errors import Unavailable
from pushd.schedule.coroutine import Task
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.fanout import Batch, DirectWrite, FanOutGroup
from pushd.topics.publication import Id, Replay

# How much of the past is asked for at a time, in bytes.
_BATCH = 1 << 18

# How long one that does not keep up has to read some of what it was sent, in seconds.
PATIENCE = 10.0


class Subscriber(Protocol):
    """Anything that a publication can be delivered to."""

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Take note that the next publication follows this id.

        ``recovered`` says that nothing is missing since the id that was asked for.
        """

    def deliver(self, batch: Batch) -> None:
        """Take what was published."""

    def has_room(self) -> bool:
        """Whether more of the past may come now; if not, ``Subscription.resume`` is called."""

    def keeps_up(self) -> bool:
        """Whether what is published now may come at once; if not, ``resume`` is called.

        If not, it comes from the past, and has_room() decides when.
        """

    def part(self) -> DirectWrite | None:
        """How it is told of what comes next, where nothing need be asked before; else None.

        Once something is to be asked again, it calls ``Subscription.step_out``.
        """

    def lost_track(self) -> None:
        """End: what comes next is not kept any more, so there would be a gap."""


class Past(Protocol):
    """Where a hub gets what was published before."""

    def replay(self, topic: str, after: Id | None, limit: int) -> Deferred[Replay]:
        """What was published after an id; see ``History.replay``."""

    def follow(self, topic: str) -> None:
        """Somebody listens to this topic here: let the hub have what is published."""

    def unfollow(self, topic: str) -> None:
        """Nobody listens to this topic here any more."""


class Home(Protocol):
    """What a subscription needs of the hub that it belongs to."""

    past: Past
    clock: IReactorTime
    # Those that did not keep up, and have read nothing to speak of since.
    behind: TimeoutQueue[Subscription]
    # How often a publication has been given to a subscriber, and how many were too slow for it.
    delivered: int
    cut: int

    def forget(self, subscription: Subscription) -> None:
        """Take out one that is over."""

    def unite(self, subscription: Subscription, part: DirectWrite) -> None:
        """Let one that has just been told hear in unison what comes next."""

    def set_apart(self, subscription: Subscription) -> None:
        """Let one hear by itself what comes next."""

    def complain(self, failure: Failure, topic: str) -> None:
        """Log that something failed for one subscriber."""


def transport_of(subscriber: Subscriber) -> str:
    """How a subscriber is connected, for those who count."""
    return getattr(subscriber, "transport", "other")


class _State(Enum):
    """How a subscription gets its publications."""

    CATCHING_UP = "from the past"
    LIVE = "as they come"
    ENDED = "not at all"


class Subscription:
    """One subscriber of one topic, and how far it has heard.

    It first gets what it has missed, at its own pace, then what comes. The two meet without a gap
    and without a repeat: what comes while it catches up is in the past by the time it gets there.
    When more comes at once than it can take, it falls back on the past for the rest of it.

    One of whom nothing need be asked hears what comes in unison with others; how far it has heard
    is then known of all of them together.
    """

    __slots__ = (
        "_begun",
        "_hub",
        "_newest",
        "_part",
        "_position",
        "_reading",
        "_state",
        "_subscriber",
        "topic",
        "unison",
    )

    def __init__(self, hub: Home, topic: str, subscriber: Subscriber) -> None:
        self.topic = topic
        self._hub = hub
        self._subscriber = subscriber
        self._state = _State.CATCHING_UP
        self._position: Id | None = None
        self._newest: Id | None = None
        self._reading = False
        self._begun = False
        self._part: DirectWrite | None = None
        #: Those with whom it hears what comes; None while it is apart.
        self.unison: FanOutGroup[Subscription] | None = None

    @property
    def subscriber(self) -> Subscriber:
        """Who listens."""
        return self._subscriber

    @property
    def part(self) -> DirectWrite:
        """How it is told, in a unison."""
        assert self._part is not None
        return self._part

    @property
    def last(self) -> Id:
        """The id of what it has heard last."""
        assert self._position is not None
        return self._position

    def start(self, after: Id | None) -> None:
        """Ask for the past since an id; None: from now on, whether there is room or not."""
        self._position = after
        if after is None or self._subscriber.has_room():
            self.resume()

    def resume(self) -> None:
        """Go on: the subscriber has room again."""
        if self._state is _State.CATCHING_UP and not self._reading:
            self._hub.behind.stop(self)
            self._reading = True
            Task(self._read(), self._hub.clock, _ignore, self._have_read).advance()

    def cancel(self) -> None:
        """End it."""
        if self._state is not _State.ENDED:
            self._state = _State.ENDED
            self._hub.behind.stop(self)
            self._hub.forget(self)

    def take(self, batch: Batch) -> None:
        """Take what has just been published."""
        position = self._position
        if self._state is not _State.LIVE or position is None:
            self._newest = batch.last
        elif batch.follows(position) and self._subscriber.keeps_up():
            # Nearly always. Whatever is different is for the past to sort out.
            self._deliver(batch)
            part = self._subscriber.part()
            if part is not None:
                self._hub.unite(self, part)
        elif position.epoch != batch.epoch:
            self._lose_track()
        elif position.offset < batch.last.offset:
            self._follow(batch)

    def step_out(self) -> None:
        """Hear by itself what comes next: something is to be asked before, or said behind."""
        if self.unison is not None:
            self._hub.set_apart(self)

    def joined(self, unison: FanOutGroup[Subscription], part: DirectWrite) -> None:
        """Take note that it hears in unison with others what comes next."""
        self.unison, self._part = unison, part

    def left(self, last: Id) -> None:
        """Take note that it is by itself again, and of what it has heard until now."""
        self.unison = self._part = None
        self._position = last

    def overdue(self) -> None:
        """End one that has read nothing to speak of since it fell behind."""
        if self._subscriber.keeps_up():
            self.resume()
        else:
            self._cut_off()

    def miss(self, last: Id) -> None:
        """Take note of a gap up to an id that can't be filled."""
        if self._state is _State.CATCHING_UP:
            self._newest = last
        elif self._position is None or _is_before(self._position, last):
            self._lose_track()

    def failed(self, failure: Failure) -> None:
        """Log what went wrong with this one, and end it."""
        # The broker logs once that it is away, not once for everybody who waits for it.
        if failure.check(Unavailable) is None:
            self._hub.complain(failure, self.topic)
        if self._state is not _State.ENDED:
            self._lose_track()

    def _have_read(self, result: Failure | None) -> None:
        if isinstance(result, Failure):
            self.failed(result)

    async def _read(self) -> None:
        """Read the past until it meets the present, or the subscriber has no room."""
        try:
            while not await self._read_some():
                pass
        finally:
            self._reading = False

    async def _read_some(self) -> bool:
        """Read a batch. Returns whether that is all for now."""
        replay = await self._hub.past.replay(self.topic, self._position, _BATCH)
        if self._has_ended():
            return True
        if not self._begun:
            self._begun = True
            self._position = replay.id
            self._subscriber.subscribed(self.topic, replay.id, replay.recovered)
        elif not replay.recovered:
            self._cut_off()
            return True
        for publication in replay.publications:
            if self._has_ended() or not self._subscriber.has_room():
                return True
            self._deliver(Batch((publication,)))
        return self._has_ended() or self._has_caught_up(replay.last)

    def _has_ended(self) -> bool:
        return self._state is _State.ENDED

    def _has_caught_up(self, last: Id) -> bool:
        assert self._position is not None
        newest, self._newest = self._newest, None
        if newest is not None and newest.epoch != last.epoch:
            # One of the two is from before the epoch changed: the next read tells which.
            return False
        if newest is not None and _is_before(last, newest):
            self._newest = last = newest
        if _is_before(self._position, last):
            return False
        self._state = _State.LIVE
        return True

    def _follow(self, batch: Batch) -> None:
        """Take of what comes now what is new, or go on from the past.

        From there at once where something is missing, else when there is room.
        """
        assert self._position is not None
        keeps_up = self._subscriber.keeps_up()
        if keeps_up and batch.first <= self._position.offset + 1:
            self._deliver(batch.since(self._position.offset))
            return
        self._state = _State.CATCHING_UP
        self._newest = batch.last
        if keeps_up:
            self.resume()
        else:
            self._hub.behind.start(self)

    def _deliver(self, batch: Batch) -> None:
        self._position = batch.last
        self._hub.delivered += batch.count
        self._subscriber.deliver(batch)

    def _cut_off(self) -> None:
        """End one that is too slow."""
        self._hub.cut += 1
        self._lose_track()

    def _lose_track(self) -> None:
        self.cancel()
        self._subscriber.lost_track()


def _ignore(_: object) -> None:
    """Whoever reads the past in small pieces blocks nobody."""


def _is_before(position: Id, id: Id) -> bool:
    """Whether there is something to read on the way from one id to another."""
    return position.epoch != id.epoch or position.offset < id.offset
