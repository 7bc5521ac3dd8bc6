"""One timer for all that is due together."""

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

# So many beats that nobody waits for any more may be left in the heap, or as many as there are
# others.
_SPARE = 64

# Where more beats than this have calls, so many are taken for one.
_FEW = 64
_TOGETHER = 4

# Whole beats are told from what arithmetic makes of them, in beats.
_ALMOST = 1e-4


@implementer(IReactorTime)
class CoalescingClock:
    """A clock whose delayed calls are made on the beat: those of one beat at once.

    Four thousand browsers that get two pushes a second each would wake the reactor for every
    one, and have it sort four thousand timers; here it wakes for each beat in which something is
    due, with one timer in all. A call is late by one beat at most for that, or by four where calls
    stand in many beats: few have little to share, and need not wait for one another.

    :param clock: the clock behind it; what is due at once goes straight there.
    :param interval: of a beat, in seconds.
    :param batch: entered where more than one call is due.
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
        # The calls of each beat, and the beats, the next one first; a beat without calls may be
        # left among them until its time.
        self._calls: dict[int, dict[CoalescedCall, None]] = {}
        self._beats: list[int] = []
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
        """Call a function at a time, in seconds of the clock; at the next beat if it has passed."""
        call = CoalescedCall(self, time, function)
        self.add(call)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """The calls that are still to be made."""
        return [call for calls in self._calls.values() for call in calls]

    # What the calls call

    def add(self, call: CoalescedCall) -> None:
        """Make a call at its time."""
        beat = ceil(call.time / self._interval - _ALMOST)
        if len(self._calls) > _FEW:
            beat += -beat % _TOGETHER
        call.beat = beat
        calls = self._calls.get(beat)
        if calls is None:
            calls = self._calls[beat] = {}
            heappush(self._beats, beat)
            if self._beats[0] == beat:
                self._arm()
        calls[call] = None

    def remove(self, call: CoalescedCall) -> None:
        """Do not make a call."""
        calls = self._calls[call.beat]
        del calls[call]
        if not calls:
            del self._calls[call.beat]
            if len(self._beats) > 2 * len(self._calls) + _SPARE:
                # Else time-outs of an hour, a new one with each message, would be kept so long.
                self._beats = list(self._calls)
                heapify(self._beats)
        if not self._calls and self._timer is not None:
            self._beats.clear()
            self._timer.cancel()
            self._timer = None

    # Private

    def _arm(self) -> None:
        """Wake at the next beat."""
        delay = max(0.0, self._beats[0] * self._interval - self.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._strike)
        else:
            self._timer.reset(delay)

    def _strike(self) -> None:
        """Make the calls that are due; what they begin is for another beat."""
        self._timer = None
        now = self.seconds() / self._interval + _ALMOST
        due: list[CoalescedCall] = []
        while self._beats and self._beats[0] <= now:
            due.extend(self._calls.pop(heappop(self._beats), ()))
        for call in due:
            call.beat = _DUE
        if len(due) > 1:
            # In one beat they stand as they came.
            due.sort(key=_TIME)
            with self._batch:
                self._make_all(due)
        else:
            self._make_all(due)
        while self._beats and self._beats[0] not in self._calls:
            heappop(self._beats)
        if self._beats:
            self._arm()

    def _make_all(self, calls: Iterable[CoalescedCall]) -> None:
        for call in calls:
            if call.beat != _DUE:
                continue  # One of those before has cancelled it, or put it off.
            call.beat = _CALLED
            # Who keeps a call that is made does not keep what it has called.
            function, call.function = call.function, _nothing
            try:
                if call.kwargs:
                    function(*call.args, **call.kwargs)
                else:
                    function(*call.args)
            except Exception:  # The others are nobody's fault; the reactor does likewise.
                _log.failure("a delayed call failed")


_TIME = attrgetter("time")


def _nothing() -> None:
    """What a call calls that is not to be made any more."""


# Where a call stands that is in no beat any more.
_DUE, _CALLED, _CANCELLED = -1, -2, -3


@implementer(IDelayedCall)
class CoalescedCall:
    """A call that is to be made; see ``IDelayedCall``."""

    __slots__ = ("_clock", "args", "beat", "function", "kwargs", "time")

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
        # Thousands wait: an empty one is not kept for each.
        self.kwargs = kwargs or None
        self.beat = _DUE

    def __repr__(self) -> str:
        due = self.time - self._clock.seconds()
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"<BeatCall in {due:g} s: {name}{self.args}>"

    def getTime(self) -> float:
        """When it is due, in seconds of the clock."""
        return self.time

    def active(self) -> bool:
        """Whether it is still to be made."""
        return self.beat >= _DUE

    def again(self, time: float, function: Callable[..., Any]) -> None:
        """Call a function at a time with this very call, which has been made."""
        self.time = time
        self.function = function
        self._clock.add(self)

    def cancel(self) -> None:
        """Do not make it. Raises AlreadyCalled or AlreadyCancelled where that is too late."""
        self._leave()
        self.beat = _CANCELLED
        self.function = _nothing

    def delay(self, secondsLater: float) -> None:
        """Make it so much later than it would be."""
        self._leave()
        self.time += secondsLater
        self._clock.add(self)

    def reset(self, secondsFromNow: float) -> None:
        """Make it so long from now."""
        self._leave()
        self.time = self._clock.seconds() + secondsFromNow
        self._clock.add(self)

    def _leave(self) -> None:
        if self.beat == _CALLED:
            raise AlreadyCalled
        if self.beat == _CANCELLED:
            raise AlreadyCancelled
        if self.beat != _DUE:
            self._clock.remove(self)
