"""Ticks over callLater: what is sent when."""

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

# So many numbers that are overdue come at once; then others have a turn. After a long pause there
# may be a great many.
_TURN = 64

_lateness: WeakKeyDictionary[IReactorTime, Histogram] = WeakKeyDictionary()


def lateness_of(clock: IReactorTime) -> Histogram:
    """How much later than scheduled the numbers of all schedules on a clock came, in seconds."""
    lateness = _lateness.get(clock)
    if lateness is None:
        lateness = _lateness[clock] = Histogram()
    return lateness


class PushSchedule(CheapAwaitable):
    """Numbers that come at a steady pace: ``async for number in PushSchedule(clock, …)``.

    Number ``n`` comes ``n * interval`` seconds after the first was asked for, and the loop ends
    ``interval`` seconds after the last number. The times are absolute: a tick that comes late,
    because the loop's body or the reactor was busy, does not delay the ones behind it.

    :param clock: where time comes from; in a view, ``request.clock``.
    :param count: how many numbers come; None for no end.
    :param interval: seconds from one number to the next; more than 0.
    :param delay: seconds until the first number.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_clock",
        "_count",
        "_delay",
        "_go_on",
        "_hurried",
        "_interval",
        "_lateness",
        "_moment",
        "_number",
        "_start",
    )

    def __init__(
        self, clock: IReactorTime, *, count: int | None, interval: float, delay: float = 0
    ) -> None:
        if count is not None and count < 0:
            raise ValueError(f"count is {count}: 0 or more, or None for no end")
        if not 0 < interval < float("inf"):
            raise ValueError(f"interval is {interval}: a number of seconds above 0")
        self._clock = clock
        self._count = count
        self._interval = interval
        if not 0 <= delay < float("inf"):
            raise ValueError(f"delay is {delay}: a number of seconds from 0 on")
        self._delay = delay
        self._number = 0
        # How many were overdue, one after the other.
        self._hurried = 0
        self._start: float | None = None
        # What is to be done when the time has come.
        self._moment = 0.0
        self._call: IDelayedCall | CoalescedCall | None = None
        self._go_on: Callable[..., object] | None = None
        self._lateness = lateness_of(clock)

    def __aiter__(self) -> PushSchedule:
        return self

    @coroutine
    def __anext__(self) -> Generator[Any, Any, int]:
        """Wait for the next number's time and give it.

        What it gives can be awaited; ``Deferred.fromCoroutine`` makes a Deferred of it.
        """
        # This is the way of every push, and thousands wait in here: so what lives meanwhile is
        # this generator, the timer, and nothing else.
        if self._go_on is not None:
            raise RuntimeError("another task waits for this schedule's next number already")
        clock, number = self._clock, self._number
        now = clock.seconds()
        if self._start is None:
            self._start = now + self._delay
        # One tick more than there are numbers: the last one gets its full interval, too.
        moment = self._start + number * self._interval
        self._hurried = 0 if moment > now else self._hurried + 1
        if moment > now or self._hurried % _TURN == 0:
            self._moment = moment
            try:
                if (yield self) is self:
                    yield self.as_deferred()
            except BaseException:  # The wait is over before its time, whoever ended it.
                self._let_go()
                raise
            self._go_on = None
            now = clock.seconds()
        if number == self._count:
            self._call = None
            raise StopAsyncIteration
        self._number = number + 1
        self._lateness.observe(now - moment if now > moment else 0.0)
        return number

    def begin(self, go_on: Callable[..., object]) -> None:
        """Set the timer."""
        self._go_on = go_on
        clock = self._clock
        call = self._call
        if isinstance(call, CoalescedCall):
            call.again(self._moment, go_on)
        elif isinstance(clock, CoalescingClock):
            self._call = clock.call_at(self._moment, go_on)
        else:
            self._call = clock.callLater(max(0.0, self._moment - clock.seconds()), go_on)

    def cancel(self) -> None:
        """Let the wait be over with a CancelledError; nothing happens when nobody waits."""
        if self._go_on is not None:
            self._go_on(Failure(CancelledError()))

    def _let_go(self) -> None:
        """Let go of the timer, as nobody wants the number any more."""
        call, self._call, self._go_on = self._call, None, None
        if call is not None and call.active():
            call.cancel()
