"""How everybody leaves when the daemon stops: not all at once, or they would come back so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.closing import Closing
from pushd.access.connections import Closable, Connections


class Drain:
    """Closes everybody who is here, one after the other.

    :param clock: where time comes from.
    :param random: gives numbers from 0 up to 1, so that no two daemons keep step.
    """

    def __init__(
        self, clock: IReactorTime, connections: Connections, random: Callable[[], float]
    ) -> None:
        self._clock = clock
        #: Who is here.
        self.connections = connections
        self._random = random
        self._closing: Closing | None = None
        # Who is to be closed yet, and when; the first is due first.
        self._due: deque[tuple[float, Closable]] = deque()
        self._call: IDelayedCall | None = None

    def start(self, closing: Closing, seconds: float) -> Deferred[None]:
        """Close everybody within so many seconds; 0 is at once.

        Each has a share of the time, and is closed somewhere in it. The Deferred fires when the
        last connection is gone.
        """
        self._closing = closing
        gone = self.connections.close_door(closing)
        here = self.connections.everybody()
        now, share = self._clock.seconds(), seconds / max(1, len(here))
        self._due.extend(
            (now + (number + self._random()) * share, visitor)
            for number, visitor in enumerate(here)
        )
        if seconds:
            self._go_on()
        else:
            self.hurry()
        return gone.addCallback(lambda _: self._rest())

    def hurry(self) -> None:
        """Close all who are left now."""
        while self._due:
            self._close_first()
        self._rest()

    def _go_on(self) -> None:
        """Close those who are due, and come back for the next."""
        self._call = None
        while self._due and self._due[0][0] <= self._clock.seconds():
            self._close_first()
        if self._due:
            wait = self._due[0][0] - self._clock.seconds()
            self._call = self._clock.callLater(max(0, wait), self._go_on)

    def _close_first(self) -> None:
        visitor = self._due.popleft()[1]
        if self._closing is not None and visitor in self.connections:
            visitor.close_with(self._closing)

    def _rest(self) -> None:
        self._due.clear()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
