"""The start of a node with Redis: no request is read before the first attempt to connect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pushd.service.lifecycle.lifespan import Holdable

# Seconds after which requests are read in any case: a server that cannot be reached takes longer to
# be given up.
_LONGEST = 1.0


class BrokerWait(Service):
    """Leaves connections in the kernel's queue until Redis is connected, or is known not to be.

    Otherwise the first publishers after a restart would get 503, although Redis is there.

    :param tried: fires after the first attempt, whatever its result.
    :param ports: all that can be published at.
    """

    def __init__(
        self, clock: IReactorTime, tried: Deferred[Any], ports: Sequence[Holdable]
    ) -> None:
        self._tried = tried.addTimeout(_LONGEST, clock)
        self._ports = ports

    def startService(self) -> None:
        """Hold the ports, which are open by now, until the attempt is over."""
        super().startService()
        for port in self._ports:
            port.hold()
        self._tried.addBoth(self._resume)

    def stopService(self) -> None:
        """Wait no longer."""
        super().stopService()
        self._tried.cancel()

    def _resume(self, _: object) -> None:
        for port in self._ports:
            port.resume()
