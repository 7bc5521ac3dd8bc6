"""How late the reactor is: what its calls wait for while it is busy with others."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.schedule.histogram import Distribution

# How often to look, in seconds.
_INTERVAL = 0.25


class LagMeter(Service):
    """Asks for a call every quarter of a second, and notes how much later each comes.

    :param clock: the reactor.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None
        #: How late the calls came, in seconds.
        self.lag = Distribution()

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._wait()

    def stopService(self) -> Any:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return super().stopService()

    def _wait(self) -> None:
        self._due = self._clock.seconds() + _INTERVAL
        self._call = self._clock.callLater(_INTERVAL, self._look)

    def _look(self) -> None:
        self.lag.observe(max(0.0, self._clock.seconds() - self._due))
        self._wait()
