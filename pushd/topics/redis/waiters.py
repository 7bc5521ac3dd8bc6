"""Coroutines that wait until Redis can be asked, for a limited time."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pushd.errors import Unavailable
from pushd.schedule.timeouts import TimerHeap

#: How long a coroutine waits at most, in seconds, however often it waits.
MAX_WAIT = 30.0


def make_timeouts(
    clock: IReactorTime, fault: Callable[[], str | None]
) -> TimerHeap[Deferred[None]]:
    """Make the timeouts that all Waiters of a broker share.

    :param fault: returns why Redis is unavailable, for the error of a wait that takes too long.
    """

    def expire(waiter: Deferred[None]) -> None:
        waiter.errback(Unavailable(fault() or f"Redis took more than {MAX_WAIT:g} seconds"))

    return TimerHeap(clock, now=clock.seconds, expired=expire)


class Waiters:
    """Coroutines that wait for the same thing: a session, or a topic that can be read.

    :param timeouts: from ``make_timeouts``.
    """

    __slots__ = ("_timeouts", "_waiting")

    def __init__(self, timeouts: TimerHeap[Deferred[None]]) -> None:
        self._timeouts = timeouts
        # In the order in which they came.
        self._waiting: dict[Deferred[None], None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, until: float) -> None:
        """Wait for ``wake``. Raises Unavailable after ``fail``, or at a time of the clock."""
        waiter: Deferred[None] = Deferred()
        self._waiting[waiter] = None
        self._timeouts.start(waiter, until)
        try:
            await waiter
        finally:
            self._timeouts.stop(waiter)
            self._waiting.pop(waiter, None)

    def wake(self) -> None:
        """Let all coroutines continue that are waiting now."""
        for waiter in list(self._waiting):
            # One that continues may have made the others fail.
            if waiter in self._waiting:
                waiter.callback(None)

    def fail(self, reason: str) -> None:
        """Make all coroutines fail that are waiting now."""
        for waiter in list(self._waiting):
            if waiter in self._waiting:
                waiter.errback(Unavailable(reason))
