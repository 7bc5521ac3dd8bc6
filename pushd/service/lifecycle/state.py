"""The state on disk as a service: opened before anything is served, and closed last."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from pushd.errors import StateUnusable
from pushd.topics.state.broker import StoredBroker


class StateService(Service):
    """Opens the state once the process has dropped its privileges, and ends it with the daemon."""

    def __init__(self, broker: StoredBroker) -> None:
        self._broker = broker

    def startService(self) -> None:
        """Open the state, and restore it. Ends the process with one line on failure."""
        super().startService()
        try:
            self._broker.open()
        except StateUnusable as error:
            raise SystemExit(f"pushd: {error}") from None

    def stopService(self) -> Deferred[None]:
        """Write what is left; the Deferred fires when all is on the disk."""
        super().stopService()
        return self._broker.close()
