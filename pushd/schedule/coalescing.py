"""CoalescingClock: one timer for thousands of delayed calls, which are made in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from heapq import heapify, heappop, heappush
from math import ceil
from operator import attrgetter
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger(namespace="pushd.schedule")

# The heap may hold twice as many ticks as have calls, and this many more.
_SPARE = 64

# If more ticks than this have calls, calls are made at every fourth tick only.
_FEW = 64
_COARSE = 4

# Tolerance for float error when rounding to a whole tick, in ticks.
_ALMOST = 1e-4


@implementer(IReactorTime)
class CoalescingClock:
    """A clock that rounds delayed calls up to a tick, and makes those of one tick together.

    Four thousand browsers that each get two pushes a second would wake the reactor for every push,
    and make it sort four thousand timers. This clock has one timer, and wakes the reactor once for
    each tick that has calls. A call is late by at most one interval for that, or by four if there
    are calls in many ticks; the calls of a few ticks would gain little by waiting for each other.

    :param clock: the underlying clock; calls without a delay go straight to it.
    :param interval: seconds from one tick to the next.
    :param batch: entered around the calls of one tick, if there is more than one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        interval: float = 0.001,
        batch: AbstractContextManager[object] | None = None,
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._batch = batch or nullcontext()
        self.seconds = clock.seconds
        # The calls of each tick, and a heap of ticks. A tick that has lost its last call may stay
        # in the heap until its time.
        self._calls: dict[int, dict[CoalescedCall, None]] = {}
        self._ticks: list[int] = []
        self._timer: IDelayedCall | None = None

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> IDelayedCall:
        """Call a function later; see ``IReactorTime.callLater``."""
        if delay <= 0:
            return self._clock.callLater(delay, callable, *args, **kwargs)
        call = CoalescedCall(self, self.seconds() + delay, callable, args, kwargs)
        self.add(call)
        return call

    def call_at(self, time: float, function: Callable[[], Any]) -> CoalescedCall:
        """Call a function at a time of this clock; at the next tick if it has passed."""
        call = CoalescedCall(self, time, function)
        self.add(call)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return the calls that have not been made yet."""
        return [call for calls in self._calls.values() for call in calls]

    # Called by CoalescedCall:

    def add(self, call: CoalescedCall) -> None:
        """Schedule a call."""
        tick = ceil(call.time / self._interval - _ALMOST)
        if len(self._calls) > _FEW:
            tick += -tick % _COARSE
        call.tick = tick
        calls = self._calls.get(tick)
        if calls is None:
            calls = self._calls[tick] = {}
            heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._set_timer()
        calls[call] = None

    def remove(self, call: CoalescedCall) -> None:
        """Take a scheduled call out."""
        calls = self._calls[call.tick]
        del calls[call]
        if not calls:
            del self._calls[call.tick]
            if len(self._ticks) > 2 * len(self._calls) + _SPARE:
                # Otherwise timeouts of an hour, restarted with each message, would fill the heap.
                self._ticks = list(self._calls)
                heapify(self._ticks)
        if not self._calls and self._timer is not None:
            self._ticks.clear()
            self._timer.cancel()
            self._timer = None

    # Private

    def _set_timer(self) -> None:
        """Set the timer to the first tick."""
        delay = max(0.0, self._ticks[0] * self._interval - self.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._make_due_calls)
        else:
            self._timer.reset(delay)

    def _make_due_calls(self) -> None:
        """Make the calls that are due; those that they schedule wait for another tick."""
        self._timer = None
        now = self.seconds() / self._interval + _ALMOST
        due: list[CoalescedCall] = []
        while self._ticks and self._ticks[0] <= now:
            due.extend(self._calls.pop(heappop(self._ticks), ()))
        for call in due:
            call.tick = _DUE
        if len(due) > 1:
            # Within a tick they are in the order in which they were scheduled.
            due.sort(key=_TIME)
            with self._batch:
                self._make_all(due)
        else:
            self._make_all(due)
        while self._ticks and self._ticks[0] not in self._calls:
            heappop(self._ticks)
        if self._ticks:
            self._set_timer()

    def _make_all(self, calls: Iterable[CoalescedCall]) -> None:
        for call in calls:
            if call.tick != _DUE:
                continue  # An earlier call of this batch cancelled or postponed it.
            call.tick = _CALLED
            # A reference to a call that was made must not keep what it called alive.
            function, call.function = call.function, _nothing
            try:
                if call.kwargs:
                    function(*call.args, **call.kwargs)
                else:
                    function(*call.args)
            except Exception:  # The other calls must be made all the same, as by the reactor.
                _log.failure("a delayed call raised")


_TIME = attrgetter("time")


def _nothing() -> None:
    """Stand in for the function of a call that was made or cancelled."""


# Values of CoalescedCall.tick for a call that is scheduled for no tick.
_DUE, _CALLED, _CANCELLED = -1, -2, -3


@implementer(IDelayedCall)
class CoalescedCall:
    """A delayed call of a CoalescingClock; see ``IDelayedCall``."""

    __slots__ = ("_clock", "args", "function", "kwargs", "tick", "time")

    def __init__(
        self,
        clock: CoalescingClock,
        time: float,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._clock = clock
        self.time = time
        self.function = function
        self.args = args
        # None saves an empty dict in each of thousands of calls.
        self.kwargs = kwargs or None
        self.tick = _DUE

    def __repr__(self) -> str:
        due = self.time - self._clock.seconds()
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"<CoalescedCall in {due:g} s: {name}{self.args}>"

    def getTime(self) -> float:
        """Return the time for which it is scheduled, in seconds of the clock."""
        return self.time

    def active(self) -> bool:
        """Whether it has been neither made nor cancelled."""
        return self.tick >= _DUE

    def again(self, time: float, function: Callable[..., Any]) -> None:
        """Schedule this call, which has been made, for another time and function."""
        self.time = time
        self.function = function
        self._clock.add(self)

    def cancel(self) -> None:
        """Cancel it. Raises AlreadyCalled or AlreadyCancelled."""
        self._unschedule()
        self.tick = _CANCELLED
        self.function = _nothing

    def delay(self, secondsLater: float) -> None:
        """Postpone it. Raises AlreadyCalled or AlreadyCancelled."""
        self._unschedule()
        self.time += secondsLater
        self._clock.add(self)

    def reset(self, secondsFromNow: float) -> None:
        """Schedule it for a time from now. Raises AlreadyCalled or AlreadyCancelled."""
        self._unschedule()
        self.time = self._clock.seconds() + secondsFromNow
        self._clock.add(self)

    def _unschedule(self) -> None:
        if self.tick == _CALLED:
            raise AlreadyCalled
        if self.tick == _CANCELLED:
            raise AlreadyCancelled
        if self.tick != _DUE:
            self._clock.remove(self)
