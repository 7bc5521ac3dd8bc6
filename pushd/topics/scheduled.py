"""Scheduled publications: published after a delay, or repeatedly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import TooManyScheduled, Unavailable
from pushd.schedule.ticks import JUST_PASSED, PushSchedule
from pushd.topics.broker import Broker, Draft
from pushd.topics.publication import Id, size_of

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

# Rates are counted in publications per this many seconds, as sums of integers are exact.
_RATE_PERIOD = 1_000_000


@dataclass(eq=False, slots=True)
class ScheduledPublication:
    """A publication that is made once or repeatedly, later. ``cancel()`` ends it."""

    id: str
    topic: str
    #: How often it is published in all, and how often it has been.
    count: int
    done: int
    #: Seconds between two of them; 0 if there is only one.
    every: float
    #: When the next is due, in seconds of the daemon's clock.
    due: float
    cancel: Callable[[], object]
    #: Memory used by the data, in bytes.
    size: int = 0
    #: How often it is published, in publications per million seconds; 0 if only once.
    rate: int = 0
    #: True while the broker is being called for it.
    publishing: bool = False
    #: The coroutine that publishes it.
    running: Deferred[None] | None = None


class ScheduledPublications:
    """The pending schedules of this node. They are not stored: a stop of the daemon cancels them.

    :param make_id: returns a new random id.
    """

    def __init__(self, clock: IReactorTime, broker: Broker, make_id: Callable[[], str]) -> None:
        self._clock = clock
        self._broker = broker
        self._make_id = make_id
        self._scheduled: dict[str, ScheduledPublication] = {}
        #: Memory used by the data of all of them, in bytes.
        self.bytes = 0
        #: The rates of all of them together.
        self.rate = 0

    def add(
        self,
        draft: Draft,
        *,
        delay: float = 0,
        every: float | None = None,
        count: int | None = None,
    ) -> ScheduledPublication:
        """Publish after ``delay`` seconds, then every ``every`` seconds until ``count`` are made.

        Raises ValueError, which begins with the name of the parameter, if a time or the count is
        out of range, and TooManyScheduled at the limit of schedules, their data or their rate.
        """
        # Computed seconds may also be a Decimal or a Fraction.
        delay, every = float(delay), None if every is None else float(every)
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
        if len(self._scheduled) >= MAX_SCHEDULED:
            raise TooManyScheduled(f"too many scheduled publications: the limit is {MAX_SCHEDULED}")
        size = size_of(draft.data)
        if self.bytes + size > MAX_BYTES:
            raise TooManyScheduled(
                f"scheduled publications already hold {self.bytes} of {MAX_BYTES} bytes"
            )
        rate = 0 if every is None or count == 1 else ceil(_RATE_PERIOD / every)
        if self.rate + rate > MAX_RATE * _RATE_PERIOD:
            raise TooManyScheduled(
                f"scheduled publications would exceed {MAX_RATE} a second: "
                f"others make {self.rate / _RATE_PERIOD:.10g}, this one {1 / (every or 1):.10g}"
            )
        interval = every or MAX_DELAY
        schedule = PushSchedule(self._clock, count=count or 1, interval=interval, delay=delay)
        scheduled = ScheduledPublication(
            id=self._make_id(),
            topic=draft.topic,
            count=count or 1,
            done=0,
            every=every or 0,
            due=self._clock.seconds() + delay,
            cancel=lambda: self._cancel(scheduled),
            size=size,
            rate=rate,
        )
        self._scheduled[scheduled.id] = scheduled
        self.bytes += size
        self.rate += rate
        scheduled.running = Deferred.fromCoroutine(self._run(scheduled, draft, schedule))
        scheduled.running.addErrback(self._failed, scheduled)
        return scheduled

    def get(self, id: str) -> ScheduledPublication | None:
        """Return the pending schedule with an id, or None."""
        return self._scheduled.get(id)

    def all(self) -> list[ScheduledPublication]:
        """Return the pending schedules, the oldest first."""
        return list(self._scheduled.values())

    def stop(self) -> None:
        """Cancel all schedules, and log each with the number of publications it still had."""
        for scheduled in self.all():
            _log.warn(
                "scheduled publication {id} to {topic} dropped at shutdown, "
                "{left} of {count} not yet published",
                event="timed_push_lost",
                id=scheduled.id,
                topic=scheduled.topic,
                left=scheduled.count - scheduled.done,
                count=scheduled.count,
            )
            scheduled.cancel()

    async def _run(
        self, scheduled: ScheduledPublication, draft: Draft, schedule: PushSchedule
    ) -> None:
        try:
            async for number in schedule:
                scheduled.done = number + 1
                scheduled.due += scheduled.every
                try:
                    await self._publish(scheduled, draft)
                except Unavailable as error:
                    _log.warn(
                        "scheduled publication {id} to {topic}: publication {number} skipped: "
                        "{error}",
                        id=scheduled.id,
                        topic=scheduled.topic,
                        number=scheduled.done,
                        error=str(error),
                    )
                if scheduled.done == scheduled.count or scheduled.id not in self._scheduled:
                    return
        finally:
            self._forget(scheduled)

    def _publish(self, scheduled: ScheduledPublication, draft: Draft) -> Deferred[Id]:
        scheduled.publishing = True
        try:
            return self._broker.publish(
                draft.topic, draft.data, event=draft.event, is_json=draft.is_json
            )
        finally:
            scheduled.publishing = False

    def _cancel(self, scheduled: ScheduledPublication) -> None:
        known = self._forget(scheduled)
        # During its own publication the coroutine is running; it looks afterwards, and returns.
        if known and not scheduled.publishing and scheduled.running is not None:
            scheduled.running.cancel()

    def _forget(self, scheduled: ScheduledPublication) -> bool:
        """Remove a schedule. Returns False if it had been removed before."""
        known = self._scheduled.pop(scheduled.id, None) is not None
        if known:
            self.bytes -= scheduled.size
            self.rate -= scheduled.rate
        return known

    def _failed(self, failure: Failure, scheduled: ScheduledPublication) -> Any:
        if failure.check(CancelledError) is None:
            _log.failure(
                "scheduled publication {id} to {topic} failed",
                failure=failure,
                event="timed_push_failed",
                id=scheduled.id,
                topic=scheduled.topic,
            )
