"""PushSchedule: an asynchronous iterator that ticks at a fixed rate."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import coroutine
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from pushd.schedule.coalescing import CoalescedCall, CoalescingClock
from pushd.schedule.coroutine import CheapAwaitable
from pushd.schedule.histogram import Histogram

#: A time that passed less than this many seconds ago counts as now: what is left until a time was
#: computed a moment before it is used.
JUST_PASSED = 1.0

# Maximum number of overdue numbers in a row; after a suspend there may be thousands, and other
# views must not wait until all of them have come.
_BURST = 64

_lateness: WeakKeyDictionary[IReactorTime, Histogram] = WeakKeyDictionary()


def lateness_of(clock: IReactorTime) -> Histogram:
    """How much later than scheduled the numbers of all schedules on a clock came, in seconds."""
    lateness = _lateness.get(clock)
    if lateness is None:
        lateness = _lateness[clock] = Histogram()
    return lateness


class PushSchedule(CheapAwaitable):
    """Numbers at a fixed rate: ``async for number in PushSchedule(clock, …)``.

    Number ``n`` comes ``n * interval`` seconds after the first, and the loop ends ``interval``
    seconds after the last. The times are absolute: a number that comes late, because the body of
    the loop or the reactor was busy, does not delay the next ones.

    Raises ValueError for a negative count or delay, and for an interval that is not above 0.

    :param clock: where time comes from; in a view, ``request.clock``.
    :param count: how many numbers come; None for endless.
    :param interval: seconds from one number to the next; more than 0.
    :param delay: seconds until the first number. What passed less than a second ago counts as 0.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_clock",
        "_count",
        "_delay",
        "_due",
        "_interval",
        "_lateness",
        "_number",
        "_overdue",
        "_resume",
        "_start",
    )

    def __init__(
        self, clock: IReactorTime, *, count: int | None, interval: float, delay: float = 0
    ) -> None:
        if count is not None and count < 0:
            raise ValueError(f"count must be 0 or more, or None for endless; got {count}")
        if not 0 < interval < float("inf"):
            raise ValueError(f"interval must be a number of seconds above 0; got {interval}")
        if -JUST_PASSED < delay < 0:
            delay = 0
        if not 0 <= delay < float("inf"):
            raise ValueError(f"delay must be a number of seconds, 0 or more; got {delay}")
        self._clock = clock
        self._count = count
        self._interval = interval
        self._delay = delay
        self._number = 0
        # Consecutive numbers whose time had passed when they were asked for.
        self._overdue = 0
        self._start: float | None = None
        # The number's time, the timer set for it, and what that calls: None while nothing waits.
        self._due = 0.0
        self._call: IDelayedCall | CoalescedCall | None = None
        self._resume: Callable[..., object] | None = None
        self._lateness = lateness_of(clock)

    def __aiter__(self) -> PushSchedule:
        return self

    @coroutine
    def __anext__(self) -> Generator[Any, Any, int]:
        """Wait until the next number is due, and return it."""
        if self._resume is not None:
            raise RuntimeError("another task already waits for the next number of this schedule")
        number, now = self._number, self._clock.seconds()
        if self._start is None:
            self._start = now + self._delay
        # There is one tick more than numbers: the loop ends an interval after the last one.
        due = self._due = self._start + number * self._interval
        self._overdue = 0 if due > now else self._overdue + 1
        if due > now or self._overdue % _BURST == 0:
            try:
                # As CheapAwaitable.__await__ does, but without a generator for each wait.
                result = yield self
                if result is self:
                    yield self.as_deferred()
            except BaseException:  # It was cancelled, or the coroutine was closed.
                self._stop_timer()
                raise
            finally:
                self._resume = None
            now = self._clock.seconds()
        if number == self._count:
            raise StopAsyncIteration
        self._number = number + 1
        self._lateness.observe(now - due if now > due else 0.0)
        return number

    def start(self, resume: Callable[..., object]) -> None:
        """Set the timer for the next number."""
        self._resume = resume
        clock, call = self._clock, self._call
        if isinstance(call, CoalescedCall):
            call.again(self._due, resume)
        elif isinstance(clock, CoalescingClock):
            self._call = clock.call_at(self._due, resume)
        else:
            self._call = clock.callLater(max(0.0, self._due - clock.seconds()), resume)

    def cancel(self) -> None:
        """Raise CancelledError where a loop waits for the next number; else do nothing."""
        if self._resume is not None:
            self._resume(Failure(CancelledError()))

    def _stop_timer(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
