"""A reactor in memory that records where it listens, and what a daemon on it is built with."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from pushd.service.build import Runtime
from pushd.testing.alternating_threads import AlternatingThreads


@implementer(IListeningPort)
class RecordingPort:
    """A listening port that records when it is closed."""

    def __init__(self, address: IPv4Address | IPv6Address, events: list[str]) -> None:
        self._address = address
        self._events = events

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._address

    def startListening(self) -> None:
        """Do nothing."""

    def stopListening(self) -> Deferred[None]:
        self._events.append(f"closed {self._address.port}")
        return succeed(None)


class RecordingReactor(MemoryReactorClock):
    """A reactor in memory that records the ports it opens and closes; port 0 becomes 40000."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.failure: Exception | None = None

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> RecordingPort:
        if self.failure is not None:
            raise self.failure
        super().listenTCP(port, factory, backlog, interface)
        self.events.append(f"opened {port}")
        if ":" in interface:
            return RecordingPort(IPv6Address("TCP", interface, port or 40_000), self.events)
        return RecordingPort(
            IPv4Address("TCP", interface or "0.0.0.0", port or 40_000), self.events
        )


def make_runtime(reactor: RecordingReactor, threads: AlternatingThreads | None = None) -> Runtime:
    """Make what a daemon is built with, on a reactor in memory."""
    return Runtime(reactor=reactor, threads=threads or AlternatingThreads(1), wall=reactor.seconds)
