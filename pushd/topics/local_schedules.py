"""Schedules that this process keeps and publishes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import Unavailable
from pushd.schedule.ticks import lateness_of
from pushd.schedule.timeouts import TimerHeap
from pushd.topics.broker import Broker
from pushd.topics.scheduled import Dropped, Schedule, ScheduleState, exceeds, too_many

_log = Logger(namespace="pushd.topics")

# Seconds until a publication is tried again for which the broker was unavailable.
_RETRY_DELAY = 1.0


def ignore_change(id: str) -> None:
    """Ignore that a schedule has changed: nothing else keeps it."""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """What has to be stored of a schedule."""

    schedule: Schedule
    #: When its first publication is due, in seconds since 1970.
    first: float
    #: How many publications are made or dropped.
    done: int


@dataclass(eq=False, slots=True)
class _Pending:
    """A schedule that is not finished."""

    schedule: Schedule
    #: When the first publication is due, in seconds of the clock.
    first: float
    #: How many publications are made or dropped.
    done: int = 0
    #: What the broker has returned for a publication that takes time.
    answer: Deferred[Any] | None = field(default=None, repr=False)
    #: True if the broker was unavailable for the publication that is due.
    postponed: bool = False

    @property
    def due(self) -> float:
        """When the next publication is due, in seconds of the clock."""
        return self.first + self.done * self.schedule.every

    @property
    def left(self) -> int:
        """How many publications are still to be made."""
        return self.schedule.count - self.done


class LocalSchedules:
    """A ``ScheduleStore`` in memory: its schedules end with this process.

    What is to be published at a time of day keeps the delay that it has when it is accepted, also
    if the system's clock is set after that.

    :param wall: the time of day, in seconds since 1970.
    :param grace: for how many seconds a publication may have been due that is still made.
    :param changed: called with the id of each schedule that is new, further, or removed. That a
        publication is done is said before the broker is asked for it, in the same iteration of the
        reactor.
    """

    durable = False

    def __init__(
        self,
        clock: IReactorTime,
        broker: Broker,
        *,
        wall: Callable[[], float],
        grace: float,
        changed: Callable[[str], object] = ignore_change,
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._wall = wall
        self._grace = grace
        self._changed = changed
        self._pending: dict[str, _Pending] = {}
        self._timers: TimerHeap[str] = TimerHeap(clock, now=clock.seconds, expired=self._tick)
        self._lateness = lateness_of(clock)
        self._dropped: Callable[[Dropped], None] = _ignore
        self._running = False
        #: Memory used by the data of all of them, in bytes, and their rates together.
        self.bytes = 0
        self.rate = 0

    def start(self, dropped: Callable[[Dropped], None]) -> None:
        """Start to publish what is due."""
        self._dropped, self._running = dropped, True
        for pending in self._pending.values():
            self._wait(pending)

    def add(self, schedule: Schedule) -> Deferred[ScheduleState]:
        """Keep a schedule; what is due at once is published at once. Raises TooManyScheduled."""
        totals = len(self._pending), self.bytes, self.rate
        if exceeds(schedule, *totals):
            raise too_many(schedule, *totals)
        delay = schedule.delay if schedule.at is None else schedule.at - self._wall()
        pending = self._keep(_Pending(schedule, self._clock.seconds() + delay))
        self._changed(schedule.id)
        if delay > 0 or not self._running:
            self._wait(pending)
        else:
            self._tick(schedule.id)
        return succeed(self._state(pending))

    def restore(self, stored: StoredSchedule) -> None:
        """Keep a schedule of an earlier process; nothing is published before ``start``."""
        first = self._clock.seconds() + stored.first - self._wall()
        self._keep(_Pending(stored.schedule, first, stored.done))

    def find(self, id: str) -> StoredSchedule | None:
        """Return what has to be stored of a schedule, or None."""
        pending = self._pending.get(id)
        if pending is None:
            return None
        first = self._wall() + pending.first - self._clock.seconds()
        return StoredSchedule(pending.schedule, first, pending.done)

    def forget(self) -> None:
        """Forget all schedules, before ``start``, and tell nobody."""
        self._pending.clear()
        self.bytes = self.rate = 0

    def pause(self) -> None:
        """Publish nothing any more, and keep the schedules."""
        self._running = False
        for id in self._pending:
            self._timers.stop(id)

    def cancel(self, id: str) -> Deferred[bool]:
        """Remove a schedule, also if its publication is on the way."""
        pending = self._pending.get(id)
        if pending is None:
            return succeed(False)
        self._forget(pending)
        if pending.answer is not None:
            pending.answer.cancel()
        return succeed(True)

    def describe(self, id: str) -> Deferred[ScheduleState | None]:
        """Give the state of a schedule, or None."""
        pending = self._pending.get(id)
        return succeed(None if pending is None else self._state(pending))

    def all(self) -> Deferred[list[ScheduleState]]:
        """Give the states of all schedules, the oldest first."""
        return succeed([self._state(pending) for pending in self._pending.values()])

    def stop(self) -> Deferred[list[ScheduleState]]:
        """Cancel all schedules; give what they were."""
        lost = [self._state(pending) for pending in self._pending.values()]
        for state in lost:
            self.cancel(state.id)
        return succeed(lost)

    def _keep(self, pending: _Pending) -> _Pending:
        self._pending[pending.schedule.id] = pending
        self.bytes += pending.schedule.size
        self.rate += pending.schedule.rate
        return pending

    def _state(self, pending: _Pending) -> ScheduleState:
        schedule = pending.schedule
        return ScheduleState(
            id=schedule.id,
            topic=schedule.draft.topic,
            count=schedule.count,
            done=pending.done,
            every=schedule.every,
            due=self._wall() + pending.due - self._clock.seconds(),
        )

    def _tick(self, id: str) -> None:
        """Make or drop the publication that is due."""
        pending = self._pending[id]
        late = self._clock.seconds() - pending.due
        if late <= self._grace:
            self._publish(pending, late)
            return
        every = pending.schedule.every
        old = min(pending.left, ceil((late - self._grace) / every)) if every else pending.left
        pending.done += old
        self._changed(id)
        self._dropped(
            Dropped(id, pending.schedule.draft.topic, number=old, count=pending.schedule.count)
        )
        self._go_on(pending)

    def _publish(self, pending: _Pending, late: float) -> None:
        draft = pending.schedule.draft
        pending.done += 1
        self._changed(pending.schedule.id)
        answer = maybeDeferred(
            self._broker.publish, draft.topic, draft.data, event=draft.event, is_json=draft.is_json
        )
        pending.answer = answer
        answer.addCallback(self._published, pending, late)
        answer.addErrback(self._not_published, pending)

    def _published(self, _: object, pending: _Pending, late: float) -> None:
        self._lateness.observe(max(0.0, late))
        pending.postponed = False
        self._go_on(pending)

    def _go_on(self, pending: _Pending) -> None:
        """Wait for the next publication, unless there is none or the schedule was cancelled."""
        pending.answer = None
        if not pending.left:
            self._forget(pending)
        elif pending.schedule.id in self._pending:
            self._wait(pending)

    def _wait(self, pending: _Pending) -> None:
        """Set the timer for the next publication, while this runs."""
        if self._running:
            self._timers.start(pending.schedule.id, pending.due)

    def _not_published(self, failure: Failure, pending: _Pending) -> None:
        """Try again if the broker is unavailable; end the schedule after another error."""
        pending.answer = None
        schedule = pending.schedule
        if schedule.id not in self._pending:
            failure.trap(CancelledError, Unavailable)
            return
        if failure.check(Unavailable) is None:
            self._forget(pending)
            _log.failure(
                "scheduled publication {id} to {topic} failed",
                failure=failure,
                event="timed_push_failed",
                id=schedule.id,
                topic=schedule.draft.topic,
            )
            return
        if not pending.postponed:
            _log.warn(
                "scheduled publication {id} to {topic}: publication {number} is late: {error}",
                event="timed_push_late",
                id=schedule.id,
                topic=schedule.draft.topic,
                number=pending.done,
                error=failure.getErrorMessage(),
            )
        pending.postponed = True
        pending.done -= 1
        self._changed(schedule.id)
        if self._running:
            self._timers.start(schedule.id, self._clock.seconds() + _RETRY_DELAY)

    def _forget(self, pending: _Pending) -> None:
        """Remove a schedule; do nothing if it had been removed before."""
        if self._pending.pop(pending.schedule.id, None) is not None:
            self._timers.stop(pending.schedule.id)
            self.bytes -= pending.schedule.size
            self.rate -= pending.schedule.rate
            self._changed(pending.schedule.id)


def _ignore(dropped: Dropped) -> None:
    """Ignore what is dropped: nothing was started."""
