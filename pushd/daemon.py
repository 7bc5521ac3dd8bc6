"""The daemon's life: its doors open together, and close in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushd.access.closing import GOING_AWAY
from pushd.access.connections import Connections
from pushd.api.health import Readiness
from pushd.api.receipts import Receipts
from pushd.drain import Drain
from pushd.listening import DoorService
from pushd.options.settings import Applier
from pushd.topics.broker import Broker
from pushd.topics.scheduled import TimedPushes

# How long, once everybody was asked to leave, a request may take that is on its way, in seconds.
_LAST_WORDS = 1.0

# How long it takes to send what is to be sent, where nobody waits for an answer, in seconds.
_MOMENT = 0.1


class PushService(MultiService):
    """Everything that is started and stopped.

    A stop takes its time, so that a thousand browsers do not come back in one second: first
    nobody is let in any more, then those who are here are asked to leave, one after the other,
    then the private door is closed. Until then it says that the daemon is not ready.

    :param farewell: how those who are here are asked to leave.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        *,
        readiness: Readiness,
        farewell: Drain,
        timed: TimedPushes,
        broker: Broker,
        receipts: Receipts,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._readiness = readiness
        self._farewell = farewell
        self._timed = timed
        self._broker = broker
        self._receipts = receipts
        #: Seconds over which they are asked.
        self.drain: float = 0
        #: The doors for everybody, and those for operators.
        self.public: list[DoorService] = []
        self.control: list[DoorService] = []
        #: What is called when the end begins.
        self.stopping: list[Callable[[], object]] = []
        #: What is told of the settings when they were read again. A feature whose settings can
        #: change while the daemon runs adds itself here, and ``live=True`` to its options.
        self.appliers: list[Applier] = []
        self._stopped: Deferred[None] | None = None
        self._cut = False
        # Ends the wait that there is.
        self._finish: Callable[[object], None] | None = None

    def add_doors(self, public: list[DoorService], control: list[DoorService]) -> None:
        """Take charge of the doors."""
        self.public, self.control = public, control
        for door in (*public, *control):
            self.addService(door)

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
        self._receipts.stop()
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
