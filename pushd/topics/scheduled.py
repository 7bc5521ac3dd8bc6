"""Scheduled publications: published after a delay, at a time of day, or repeatedly.

A ``ScheduleStore`` keeps the schedules, and publishes what is due: in the memory of this process
(``local_schedules``), on its disk, or in a Redis for all nodes. The rules are the same for all:

* Publication ``n`` of a schedule is due ``n * every`` seconds after the first. One that is late
  does not delay the next ones.
* What could not be published in time, because no node was up or Redis was unavailable, is published
  as soon as possible if it has been due for no longer than the grace. What is older is dropped,
  which is logged and counted; the schedule goes on with the publication that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import TooManyScheduled
from pushd.schedule.ticks import JUST_PASSED
from pushd.topics.broker import Draft
from pushd.topics.publication import size_of

_log = Logger(namespace="pushd.topics")

# Limits of one schedule; times are in seconds.
MAX_DELAY = 86_400.0
MIN_INTERVAL = 0.01
MAX_COUNT = 1_000_000

# Limits of all pending schedules together: their number, the bytes of their data, and how many
# publications those that repeat make a second. Due at the same moment, as many take 0.1 s.
MAX_SCHEDULED = 10_000
MAX_BYTES = 64 << 20
MAX_RATE = 5000

#: For how many seconds a publication may have been due that is still made, by default.
SCHEDULE_GRACE = 60

#: Rates are counted in publications per this many seconds, as sums of integers are exact.
RATE_PERIOD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A publication that is to be made once or repeatedly."""

    id: str
    draft: Draft
    #: Seconds until the first publication.
    delay: float
    #: Its time in seconds since 1970, in place of the delay.
    at: float | None = None
    #: Seconds between two publications; 0 if there is only one.
    every: float = 0
    #: How often it is published in all.
    count: int = 1

    @property
    def size(self) -> int:
        """Memory used by the data, in bytes."""
        return size_of(self.draft.data)

    @property
    def rate(self) -> int:
        """How often it is published, per ``RATE_PERIOD``; 0 if only once."""
        return ceil(RATE_PERIOD / self.every) if self.every and self.count > 1 else 0


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """How far a pending schedule has come."""

    id: str
    topic: str
    #: How often it is published in all, and how many of these publications are made or dropped.
    count: int
    done: int
    #: Seconds between two publications; 0 if there is only one.
    every: float
    #: When the next is due, in seconds since 1970.
    due: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """Publications of a schedule that were not made, because they were due too long ago."""

    id: str
    topic: str
    number: int
    count: int


class ScheduleStore(Protocol):
    """Keeps the pending schedules, and makes each of their publications exactly once.

    A Deferred fails with ``Unavailable`` if the schedules are kept outside of this process and
    cannot be reached.
    """

    @property
    def durable(self) -> bool:
        """Whether schedules survive the end of this process."""

    def start(self, dropped: Callable[[Dropped], None]) -> None:
        """Start to publish what is due.

        :param dropped: called with what is dropped because it is too old.
        """

    def add(self, schedule: Schedule) -> Deferred[ScheduleState]:
        """Keep a schedule. Raises TooManyScheduled, or fails with it, if a limit is exceeded."""

    def cancel(self, id: str) -> Deferred[bool]:
        """Remove a schedule, of any node; give False if there is none with this id."""

    def describe(self, id: str) -> Deferred[ScheduleState | None]:
        """Give the state of a schedule, of any node; None if it is finished or unknown."""

    def all(self) -> Deferred[list[ScheduleState]]:
        """Give the states of all schedules, of all nodes, the oldest first."""

    def stop(self) -> Deferred[list[ScheduleState]]:
        """Stop to publish; give the schedules that are lost with the end of this process."""


class ScheduledPublication:
    """The handle of a publication that is made once or repeatedly, later.

    :param kept: fires when it is kept, or fails if it could not be.
    """

    def __init__(
        self, schedule: Schedule, store: ScheduleStore, kept: Deferred[ScheduleState]
    ) -> None:
        #: Its id in ``/schedules``.
        self.id = schedule.id
        self.topic = schedule.draft.topic
        self._store = store
        self._outcome: ScheduleState | Failure | None = None
        self._waiting: list[Deferred[ScheduleState]] = []
        kept.addCallbacks(self._kept, self._not_kept)

    def cancel(self) -> Deferred[bool]:
        """Publish nothing more. The Deferred gives False if it had ended before."""
        return self._store.cancel(self.id)

    def kept(self) -> Deferred[ScheduleState]:
        """Give the state as it is kept.

        Fails with TooManyScheduled at the limit of schedules, and with Unavailable if they are kept
        outside of this process and cannot be reached; nothing is published then.
        """
        if isinstance(self._outcome, Failure):
            return fail(self._outcome)
        if self._outcome is not None:
            return succeed(self._outcome)
        waiting: Deferred[ScheduleState] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def _kept(self, state: ScheduleState) -> None:
        self._outcome = state
        for one in self._waiting:
            one.callback(state)

    def _not_kept(self, failure: Failure) -> None:
        self._outcome = failure
        if not self._waiting:
            _log.warn(
                "scheduled publication {id} to {topic} will not be made: {error}",
                event="timed_push_refused",
                id=self.id,
                topic=self.topic,
                error=failure.getErrorMessage(),
            )
        for one in self._waiting:
            one.errback(failure)


class ScheduledPublications:
    """Checks what is to be published later, and passes it to the store.

    :param make_id: returns a new random id.
    :param wall: the time of day, in seconds since 1970.
    :param grace: for how many seconds a publication may have been due that is still made.
    """

    def __init__(
        self,
        store: ScheduleStore,
        make_id: Callable[[], str],
        *,
        wall: Callable[[], float],
        grace: float,
    ) -> None:
        self._store = store
        self._make_id = make_id
        self._wall = wall
        self._grace = grace
        #: Publications that were dropped because they were due too long ago.
        self.dropped = 0

    @property
    def durable(self) -> bool:
        """Whether schedules survive the end of this process."""
        return self._store.durable

    def start(self) -> None:
        """Start to publish what is due."""
        self._store.start(self._drop)

    def add(
        self,
        draft: Draft,
        *,
        delay: float | None = None,
        at: float | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> ScheduledPublication:
        """Publish after ``delay`` seconds, then every ``every`` seconds until ``count`` are made.

        :param at: the time of the first publication in seconds since 1970, in place of the delay.

        Raises ValueError, which begins with the name of the parameter, if a time or the count is
        out of range. At the limit of schedules, their data or their rate it raises
        TooManyScheduled, or the handle's ``kept()`` fails with it.
        """
        schedule = self._check(draft, delay, at, every, count)
        return ScheduledPublication(schedule, self._store, self._store.add(schedule))

    def keep(
        self,
        draft: Draft,
        *,
        delay: float | None = None,
        at: float | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Deferred[ScheduleState]:
        """Do the same as ``add``, for one who waits until it is kept: give the state as it is kept.

        Raises, or fails with, the same errors, and with Unavailable; none of them is logged.
        """
        return self._store.add(self._check(draft, delay, at, every, count))

    def describe(self, id: str) -> Deferred[ScheduleState | None]:
        """Give the state of a pending schedule, or None."""
        return self._store.describe(id)

    def all(self) -> Deferred[list[ScheduleState]]:
        """Give the states of all pending schedules, the oldest first."""
        return self._store.all()

    def cancel(self, id: str) -> Deferred[bool]:
        """Cancel a schedule; give False if there is none with this id."""
        return self._store.cancel(id)

    def stop(self) -> Deferred[None]:
        """Stop to publish, and log each schedule that is lost, with what it still had."""
        return self._store.stop().addCallback(_log_lost)

    def _check(
        self,
        draft: Draft,
        delay: float | None,
        at: float | None,
        every: float | None,
        count: int | None,
    ) -> Schedule:
        """Return what is to be published. Raises ValueError, as ``add`` does."""
        if at is not None and delay is not None:
            raise ValueError("at and delay cannot be given together")
        # Computed seconds may also be a Decimal or a Fraction.
        delay, every = float(delay or 0), None if every is None else float(every)
        if at is not None:
            self._check_time(at)
        if -JUST_PASSED < delay < 0:
            delay = 0.0
        if not 0 <= delay <= MAX_DELAY:
            raise ValueError(f"delay must be from 0 to {MAX_DELAY:g} seconds; got {delay}")
        if (every is None) != (count is None):
            raise ValueError("every and count must be given together")
        if every is not None and not MIN_INTERVAL <= every <= MAX_DELAY:
            raise ValueError(
                f"every must be from {MIN_INTERVAL} to {MAX_DELAY:g} seconds; got {every}"
            )
        if count is not None and not (isinstance(count, int) and 1 <= count <= MAX_COUNT):
            raise ValueError(f"count must be an integer from 1 to {MAX_COUNT}; got {count}")
        return Schedule(
            id=self._make_id(), draft=draft, delay=delay, at=at, every=every or 0, count=count or 1
        )

    def _check_time(self, at: float) -> None:
        ahead = at - self._wall()
        if not -self._grace <= ahead <= MAX_DELAY:
            raise ValueError(
                f"at must be at most {MAX_DELAY:g} seconds from now, and at most {self._grace:g} "
                f"ago (--schedule-grace); got a time {abs(ahead):.0f} seconds "
                f"{'from now' if ahead > 0 else 'ago'}"
            )

    def _drop(self, dropped: Dropped) -> None:
        self.dropped += dropped.number
        _log.warn(
            "scheduled publication {id} to {topic}: {number} of {count} dropped: due more than "
            "{grace} seconds ago (--schedule-grace)",
            event="timed_push_dropped",
            id=dropped.id,
            topic=dropped.topic,
            number=dropped.number,
            count=dropped.count,
            grace=self._grace,
        )


def exceeds(schedule: Schedule, number: int, held: int, rate: int) -> bool:
    """Return whether a schedule is too much beside those that are pending.

    :param number: how many are pending.
    :param held: the bytes of their data.
    :param rate: their rates together.
    """
    return (
        number >= MAX_SCHEDULED
        or held + schedule.size > MAX_BYTES
        or rate + schedule.rate > MAX_RATE * RATE_PERIOD
    )


def too_many(schedule: Schedule, number: int, held: int, rate: int) -> TooManyScheduled:
    """Return the error for a schedule that ``exceeds`` a limit."""
    if number >= MAX_SCHEDULED:
        return TooManyScheduled(f"too many scheduled publications: the limit is {MAX_SCHEDULED}")
    if held + schedule.size > MAX_BYTES:
        return TooManyScheduled(f"scheduled publications already hold {held} of {MAX_BYTES} bytes")
    return TooManyScheduled(
        f"scheduled publications would exceed {MAX_RATE} a second: "
        f"others make {rate / RATE_PERIOD:.10g}, this one {1 / (schedule.every or 1):.10g}"
    )


def _log_lost(lost: list[ScheduleState]) -> None:
    for one in lost:
        _log.warn(
            "scheduled publication {id} to {topic} dropped at shutdown, "
            "{left} of {count} not yet published",
            event="timed_push_lost",
            id=one.id,
            topic=one.topic,
            left=one.count - one.done,
            count=one.count,
        )
