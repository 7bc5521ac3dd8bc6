"""The daemon as a Twisted service: its ports open together, and a stop closes them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pushd.access.closing import GOING_AWAY, Closing
from pushd.access.connections import Closable, Connections
from pushd.access.limits import Limits
from pushd.api.operator.health import Readiness
from pushd.api.resource import DaemonState
from pushd.options.settings import Applier
from pushd.service.listening import PortService
from pushd.views.runner import ViewRunner

_log = Logger(namespace="pushd.service")

# Seconds for requests in progress after the connections were closed, even if --drain is shorter.
_LAST_REQUESTS = 1.0

# Seconds between an immediate end and the exit, in which the last Close frames are sent.
_LAST_WRITES = 0.1


class Application(Protocol):
    """An application that is told when the daemon stops."""

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when it is doing nothing any more."""

    def stop(self) -> Deferred[None]:
        """End it; the Deferred fires when it has ended."""


class PushService(MultiService):
    """Everything that is started and stopped with the daemon.

    A stop takes ``--drain`` seconds, so that clients do not all reconnect at the same moment. The
    public port is closed first, then each open connection, then the control port, which meanwhile
    reports that the daemon is not ready.

    :param state: the broker, the scheduled publications, the connections and the limits.
    :param drain: closes the open connections.
    :param views: waited for until they have ended after their conversations, or for their grace.
    :param application: as well.
    """

    def __init__(
        self,
        state: DaemonState,
        *,
        readiness: Readiness,
        drain: Drain,
        views: ViewRunner,
        public: Sequence[PortService],
        control: Sequence[PortService],
        application: Application | None = None,
    ) -> None:
        super().__init__()
        self._clock = state.clock
        self._broker = state.broker
        self._scheduled = state.scheduled
        self._presence = state.attendances.presence
        self._readiness = readiness
        self._drain = drain
        self._views = views
        self._application = application
        #: Limits in force.
        self.limits: Limits = state.limits
        #: Open connections.
        self.connections: Connections = state.connections
        #: The public ports, and the control ports.
        self.public, self.control = public, control
        #: Functions that are called at a signal that comes while the services still start.
        self.interrupting: list[Callable[[], object]] = []
        #: Functions that are called when a stop begins.
        self.stopping: list[Callable[[], object]] = []
        #: Functions that are called when the control ports close, at the end of a stop.
        self.finishing: list[Callable[[], object]] = []
        #: Functions that apply new settings after a reload. To make an option changeable at run
        #: time, add one here, and ``live=True`` to the option.
        self.appliers: list[Applier] = []
        self._stopped: Deferred[None] | None = None
        self._cut = False
        # Ends the current wait.
        self._finish: Callable[[object], None] | None = None
        for port in (*public, *control):
            self.addService(port)

    def startService(self) -> None:
        """Open the ports, and report that the daemon is ready."""
        super().startService()
        self._scheduled.start()
        self._readiness.listening = True

    def stopService(self) -> Deferred[Any]:
        """Close the ports and the connections; the Deferred fires when all are closed."""
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop())
        return self._stopped

    def interrupt(self) -> None:
        """Wait for nothing any more while starting: a signal has come."""
        for call in self.interrupting:
            call()

    def cut(self) -> None:
        """Finish a stop without waiting for anything: after a second signal."""
        self._cut = True
        self._drain.close_now()
        if self._finish is not None:
            self._clock.callLater(_LAST_WRITES, self._finish, None)

    async def _stop(self) -> None:
        self._readiness.draining = True
        for call in self.stopping:
            call()
        begin, seconds = self._clock.seconds(), self.limits.drain
        closed = gatherResults([port.close() for port in self.public], consumeErrors=True)
        await self._wait(self._drain.start(GOING_AWAY, seconds))
        # Requests in progress end by themselves.
        await self._wait(closed, _LAST_REQUESTS)
        for port in self.public:
            port.close_unused()
        await self._wait(closed, begin + seconds - self._clock.seconds())
        # They may still read messages, clean up, and publish.
        await self._wait(self._views.settled(), self._views.grace)
        if self._application is not None:
            await self._wait(self._application.settled(), self._views.grace)
            await self._wait(self._application.stop(), self._views.grace)
        await self._wait(self._scheduled.stop(), _LAST_REQUESTS)
        await self._wait(self._presence.leave(), _LAST_REQUESTS)
        self._presence.stop()
        # With systemd's sockets, publishers wait there for the next process from now on. Until then
        # the broker takes what they publish.
        for call in self.finishing:
            call()
        closed = gatherResults([port.close() for port in self.control], consumeErrors=True)
        await self._wait(closed, _LAST_REQUESTS)
        self._broker.stop()
        await super().stopService()

    def _wait(self, awaited: Deferred[Any], seconds: float | None = None) -> Deferred[None]:
        """Wait for a Deferred, at most for the given seconds, and not after ``cut``."""
        done: Deferred[None] = Deferred()

        def finish(_: object) -> None:
            if not done.called:
                self._finish = None
                done.callback(None)

        awaited.addErrback(self._log_failure).addCallback(finish)
        if done.called:
            return done
        if self._cut or (seconds is not None and seconds <= 0):
            return succeed(None)
        if seconds is not None:
            call = self._clock.callLater(seconds, finish, None)
            done.addCallback(lambda _: call.cancel() if call.active() else None)
        self._finish = finish
        return done

    def _log_failure(self, failure: Any) -> None:
        _log.failure(
            "closing a listening port raised an exception; the stop goes on",
            failure=failure,
            event="stop_failed",
        )


class Drain:
    """Closes all open connections, spread over a given time.

    :param clock: where time comes from.
    :param random: random numbers from 0 to 1, so that two daemons do not close in step.
    """

    def __init__(
        self, clock: IReactorTime, connections: Connections, random: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._random = random
        self._closing: Closing | None = None
        # The connections that are still to be closed, and when, in order of time.
        self._due: deque[tuple[float, Closable]] = deque()
        self._call: IDelayedCall | None = None

    def start(self, closing: Closing, seconds: float) -> Deferred[None]:
        """Close every connection within the given seconds; 0 closes all at once.

        The time is divided into as many parts as there are connections, and each connection is
        closed at a random moment of its part. The Deferred fires when the last one is gone.
        """
        self._closing = closing
        gone = self._connections.stop_accepting(closing)
        connections = [one.closable for one in self._connections]
        now, part = self._clock.seconds(), seconds / max(1, len(connections))
        self._due.extend(
            (now + (number + self._random()) * part, connection)
            for number, connection in enumerate(connections)
        )
        if seconds:
            self._close_due()
        else:
            self.close_now()
        return gone.addCallback(lambda _: self._finish())

    def close_now(self) -> None:
        """Close all connections that are left."""
        while self._due:
            self._close_first()
        self._finish()

    def _close_due(self) -> None:
        """Close the connections whose time has come, and set a timer for the next."""
        self._call = None
        while self._due and self._due[0][0] <= self._clock.seconds():
            self._close_first()
        if self._due:
            wait = self._due[0][0] - self._clock.seconds()
            self._call = self._clock.callLater(max(0, wait), self._close_due)

    def _close_first(self) -> None:
        connection = self._due.popleft()[1]
        if self._closing is not None and connection in self._connections:
            connection.close_with(self._closing)

    def _finish(self) -> None:
        self._due.clear()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
