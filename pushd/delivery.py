"""How long a publication takes to the sockets of all who listen."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from pushd.distributions import Distribution
from pushd.hub import Hub
from pushd.messages import Publication


class TimedDelivery:
    """Passes publications on to the hub, and notes the time until the last socket has each.

    Those that nobody listens to are not noted.
    """

    def __init__(self, clock: IReactorTime, hub: Hub) -> None:
        self._clock = clock
        self._hub = hub
        #: From the hub's door to the last of its subscribers' sockets, in seconds.
        self.seconds = Distribution()

    def deliver(self, publication: Publication) -> None:
        """Tell all who listen."""
        start = self._clock.seconds()
        heard = self._hub.count(publication.topic) > 0
        self._hub.deliver(publication)
        if heard:
            self.seconds.observe(self._clock.seconds() - start)
