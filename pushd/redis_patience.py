"""Waiting for Redis: as long as it may be worth it, and no longer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pushd.broker import Unavailable
from pushd.schedule.timeouts import Deadlines

# How long one who wants to read the past waits for Redis to come back, in seconds.
_PATIENCE = 30.0

#: Those who wait for the same, in the order in which they came.
Waiters = dict[Deferred[None], None]


class Patience:
    """What those have who wait.

    :param fault: says what is wrong just now, to those who wait no longer.
    """

    def __init__(self, clock: IReactorTime, fault: Callable[[], str | None]) -> None:
        self._fault = fault
        self._deadlines: Deadlines[Deferred[None]] = Deadlines(
            clock, length=_PATIENCE, expired=self._give_up
        )

    async def wait(self, waiters: Waiters) -> None:
        """Be one of those who wait, until they are woken. Raises Unavailable when that is late."""
        waiter: Deferred[None] = Deferred()
        waiters[waiter] = None
        self._deadlines.start(waiter)
        try:
            await waiter
        finally:
            self._deadlines.stop(waiter)
            waiters.pop(waiter, None)

    def send_away(self, waiters: Waiters) -> None:
        """Let them wait no longer."""
        for waiter in list(waiters):
            self._deadlines.stop(waiter)
            self._give_up(waiter)

    def _give_up(self, waiter: Deferred[None]) -> None:
        waiter.errback(Unavailable(self._fault() or "nobody waits for it any more"))


def wake(waiters: Waiters) -> None:
    """Tell those who wait that it is there."""
    for waiter in list(waiters):
        waiter.callback(None)
