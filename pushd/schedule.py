"""Ticks over callLater: what is sent when."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.distributions import Distribution

# So many numbers that are overdue come at once; then others have a turn. After a long pause there
# may be a great many.
_TURN = 64

_lateness: WeakKeyDictionary[IReactorTime, Distribution] = WeakKeyDictionary()


def lateness_of(clock: IReactorTime) -> Distribution:
    """How much later than scheduled the numbers of all schedules on a clock came, in seconds."""
    return _lateness.setdefault(clock, Distribution())


class PushSchedule:
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
        "_hurried",
        "_interval",
        "_lateness",
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
        self._call: IDelayedCall | None = None
        self._lateness = lateness_of(clock)

    def __aiter__(self) -> PushSchedule:
        return self

    def __anext__(self) -> Deferred[int]:
        """Wait for the next number's time and give it."""
        if self._call is not None:
            raise RuntimeError("another task waits for this schedule's next number already")
        clock, number = self._clock, self._number
        if self._start is None:
            self._start = clock.seconds() + self._delay
        # One tick more than there are numbers: the last one gets its full interval, too.
        moment = self._start + number * self._interval
        delay = moment - clock.seconds()
        # Not a coroutine: this is the way of every push, and nothing else is to be done in it.
        ticked: Deferred[int] = Deferred(self._forget)
        self._hurried = 0 if delay > 0 else self._hurried + 1
        if delay > 0 or self._hurried % _TURN == 0:
            self._call = clock.callLater(max(0.0, delay), self._tick, ticked, moment)
        else:
            self._tick(ticked, moment)
        return ticked

    def _tick(self, ticked: Deferred[int], moment: float) -> None:
        self._call = None
        number = self._number
        if number == self._count:
            ticked.errback(StopAsyncIteration())
            return
        self._number = number + 1
        self._lateness.observe(max(0.0, self._clock.seconds() - moment))
        ticked.callback(number)

    def _forget(self, _: Deferred[int]) -> None:
        """Let go of the timer when nobody waits for it any more."""
        assert self._call is not None  # Or it would have fired.
        self._call.cancel()
        self._call = None
