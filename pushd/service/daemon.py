"""The daemon's life: its ports open together and close in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pushd.access.closing import GOING_AWAY, Closing
from pushd.access.connections import Closable, Connections
from pushd.access.limits import Limits
from pushd.api.health import Readiness
from pushd.options.settings import Applier
from pushd.service.listening import PortService
from pushd.topics.broker import Broker
from pushd.topics.scheduled import ScheduledPublications

# How long, once everybody was asked to leave, a request may take that is on its way, in seconds.
_LAST_WORDS = 1.0

# How long it takes to send what is to be sent, where nobody waits for an answer, in seconds.
_MOMENT = 0.1


class PushService(MultiService):
    """Everything that is started and stopped.

    A stop takes its time, so that a thousand browsers do not come back in one second: first
    nobody is let in any more, then those who are here are asked to leave, one after the other,
    then the control port is closed. Until then it says that the daemon is not ready.

    :param farewell: how those who are here are asked to leave.
    """

    _log = Logger(namespace="pushd.service")

    def __init__(
        self,
        clock: IReactorTime,
        *,
        readiness: Readiness,
        farewell: Drain,
        timed: ScheduledPublications,
        broker: Broker,
        limits: Limits,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._readiness = readiness
        self._farewell = farewell
        self._timed = timed
        self._broker = broker
        self._limits = limits
        #: The doors for everybody, and those for operators.
        self.public: list[PortService] = []
        self.control: list[PortService] = []
        #: What is called when the end begins.
        self.stopping: list[Callable[[], object]] = []
        #: What is told of the settings when they were read again. A feature whose settings can
        #: change while the daemon runs adds itself here, and ``live=True`` to its options.
        self.appliers: list[Applier] = []
        self._stopped: Deferred[None] | None = None
        self._cut = False
        # Ends the wait that there is.
        self._finish: Callable[[object], None] | None = None

    def add_doors(self, public: list[PortService], control: list[PortService]) -> None:
        """Take charge of the doors."""
        self.public, self.control = public, control
        for door in (*public, *control):
            self.addService(door)

    @property
    def drain(self) -> int:
        """Seconds over which a stop closes the connections."""
        return self._limits.drain

    @property
    def connections(self) -> Connections:
        """Who is here."""
        return self._farewell.connections

    def startService(self) -> None:
        """Open the doors."""
        super().startService()
        self._readiness.listening = True

    def stopService(self) -> Deferred[Any]:
        """Let nobody in any more, say goodbye to those who are here, and wait until they left."""
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop())
        return self._stopped

    def cut(self) -> None:
        """End a stop that is under way without waiting for anybody any more."""
        self._cut = True
        self._farewell.hurry()
        if self._finish is not None:
            # The goodbyes must be on the wire first.
            self._clock.callLater(_MOMENT, self._finish, None)

    async def _stop(self) -> None:
        self._readiness.draining = True
        for call in self.stopping:
            call()
        begin = self._clock.seconds()
        closed = gatherResults([door.close() for door in self.public], consumeErrors=True)
        await self._wait(self._farewell.start(GOING_AWAY, self.drain))
        # Requests that nobody has to be asked about: they end by themselves.
        await self._wait(closed, _LAST_WORDS)
        for door in self.public:
            door.close_silent()
        await self._wait(closed, begin + self.drain - self._clock.seconds())
        self._timed.stop()
        self._broker.stop()
        closed = gatherResults([door.close() for door in self.control], consumeErrors=True)
        await self._wait(closed, _LAST_WORDS)
        await super().stopService()

    def _wait(self, awaited: Deferred[Any], seconds: float | None = None) -> Deferred[None]:
        """Wait for something, but so long at most, and not beyond a cut."""
        done: Deferred[None] = Deferred()

        def finish(_: object) -> None:
            if not done.called:
                self._finish = None
                done.callback(None)

        awaited.addErrback(self._complain).addCallback(finish)
        if done.called:
            return done
        if self._cut or (seconds is not None and seconds <= 0):
            return succeed(None)
        if seconds is not None:
            call = self._clock.callLater(seconds, finish, None)
            done.addCallback(lambda _: call.cancel() if call.active() else None)
        self._finish = finish
        return done

    def _complain(self, failure: Any) -> None:
        self._log.failure("failed to close a door", failure=failure, event="stop_failed")


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
