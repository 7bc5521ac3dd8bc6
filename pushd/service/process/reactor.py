"""Patches of Twisted's reactor: shorter ways to its sockets, monotonic time, and signals.

The first three are fast paths (``--fast-paths``): if Twisted lacks something that a patch relies
on, or if fast paths are off, the reactor and its ports stay as Twisted made them.

- ``poll_directly`` saves ten function calls for each event, a sixth of the cost of an echo (22.2 to
  16.7 µs). It relies on private names of Twisted's epoll reactor.
- ``accept_directly`` saves a log buffer, a generator and two strings for each new connection: a
  handshake and close takes 0.97 of the CPU. It relies on private names of ports and sockets.
- ``run_on_monotonic_time`` is there for correctness, not for speed: without it, a change of the
  system clock delays timers. It relies on the reactor calling its own public method ``seconds``.
- ``keep_signal_handler`` keeps the handlers that were installed before the reactor started.
"""

from __future__ import annotations

import select
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Connection, Port, Server
from twisted.python import log

from pushd.protocols.fast_paths import FAST_PATHS, missing

# The reactor whose polling is replaced. Its module can be imported on Linux only.
_EPOLL = "twisted.internet.epollreactor"
_RELIED_ON = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable", "doIteration")

_RELIED_ON_OF_ASYNCIO = ("_asyncioEventloop", "_readers", "_disconnectSelectable")

# What accepting relies on, of a port and of its socket.
_PORT_NAMES = ("_buildAddr", "_realPortNumber", "numberAccepts", "sessionno")
_SOCKET_NAMES = ("_accept",)

# A port that accepted as many connections as it may in one poll may accept this many more; and the
# most. Each of a crowd brings a request at once, and what has been open for long must not wait for
# all of them: the others wait in the kernel's queue.
_MORE_ACCEPTS = 20
_MOST_ACCEPTS = 16

# Seconds by which a monotonic clock and the time of day differ at least, as they count from
# different moments.
_CLOCKS_DIFFER = 3600.0


def event_loop_of(reactor: Any) -> AbstractEventLoop | None:
    """Return asyncio's event loop if a reactor runs on one.

    A reactor does not tell in public, and the loop may be that of another thread.
    """
    if not isinstance(reactor, AsyncioSelectorReactor):
        return None
    loop: AbstractEventLoop = reactor._asyncioEventloop
    return loop


def keep_signal_handler(reactor: Any, handler: Callable[[int, object], object]) -> None:
    """Let a reactor that starts install this handler of SIGINT and SIGTERM, not its own.

    Twisted looks its handlers up under these public names.
    """
    reactor.sigInt = reactor.sigTerm = handler


def poll_directly(reactor: Any, together: AbstractContextManager[object]) -> None:
    """Let an epoll reactor call ``doRead`` of readable sockets without setting up a log context.

    The context gives a prefix to lines in the log of ``twisted.python``, which pushd does not
    write. Every event but a plain read is left to Twisted, and so is every other kind of reactor.

    :param together: entered while several events of one poll are handled: of the epoll reactor.
    """
    if isinstance(reactor, AsyncioSelectorReactor):
        _read_directly(reactor)
    if type(reactor).__module__ != _EPOLL:
        return
    if not FAST_PATHS.allow("direct polling", missing(reactor, _RELIED_ON)):
        return
    poll, selectables = reactor._poller.poll, reactor._selectables
    readable: int = select.EPOLLIN

    def poll_once(timeout: float | None) -> None:
        events = poll(-1 if timeout is None else timeout, len(selectables))
        if len(events) > 1:
            with together:
                dispatch(events)
        else:
            dispatch(events)

    def dispatch(events: Iterable[tuple[int, int]]) -> None:
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if selectable is None:
                continue  # An event before this one has closed it.
            if event == readable:
                try:
                    why = selectable.doRead()
                except BaseException as error:  # Others must not wait, even for SystemExit.
                    log.err()
                    why = error
                if why:
                    _disconnect(reactor, selectable, why)
            else:
                log.callWithLogger(
                    selectable, reactor._doReadOrWrite, selectable, descriptor, event
                )

    reactor.doIteration = poll_once


def _read_directly(reactor: Any) -> None:
    """Do the same for asyncio's event loop, which calls a function for each readable socket.

    It does not tell which of these is the last of a poll.
    """
    if not FAST_PATHS.allow("direct polling", missing(reactor, _RELIED_ON_OF_ASYNCIO)):
        return
    add_with_twisted, loop, readers = reactor.addReader, reactor._asyncioEventloop, reactor._readers

    def add(reader: Any) -> None:
        if reader in readers:
            return
        descriptor = reader.fileno()
        try:
            loop.add_reader(descriptor, _read, reactor, reader)
        except OSError:  # A file cannot be polled. Twisted meets the error as well.
            add_with_twisted(reader)
        else:
            readers[reader] = descriptor

    reactor.addReader = add


def _read(reactor: Any, selectable: Any) -> None:
    """Let a connection read. Disconnect it if it has ended or fails."""
    try:
        why = selectable.doRead()
    except BaseException as error:  # As in dispatch.
        log.err()
        why = error
    if why:
        _disconnect(reactor, selectable, why)


def _disconnect(reactor: Any, selectable: Any, why: BaseException) -> None:
    """Disconnect what has ended or failed while it was read, as Twisted does."""
    try:
        reactor._disconnectSelectable(selectable, why, True)
    except KeyboardInterrupt:
        raise
    except BaseException:  # Others must not wait.
        log.err()


def accept_directly(port: Any) -> None:
    """Let a TCP port accept connections without what Twisted prepares for its own log.

    IPv6 ports, other kinds of ports, and errors of the kernel are left to Twisted.
    """
    kind: type = type(port)
    if kind is not Port or port.addressFamily != socket.AF_INET:
        return
    lacking = missing(port, _PORT_NAMES) + missing(port.socket, _SOCKET_NAMES)
    if not FAST_PATHS.allow("direct accepts", lacking):
        return
    port.numberAccepts = min(port.numberAccepts, _MOST_ACCEPTS)
    accept_one, accept_with_twisted = port.socket._accept, port.doRead

    def accept() -> None:
        for accepted in range(port.numberAccepts):
            try:
                descriptor, client = accept_one()
            except BlockingIOError:
                port.numberAccepts = max(1, accepted)
                return
            except OSError:  # Twisted meets it as well, and can deal with it.
                accept_with_twisted()
                return
            try:
                _open(port, descriptor, client)
            except BaseException:  # As above.
                log.err()
        port.numberAccepts = min(port.numberAccepts + _MORE_ACCEPTS, _MOST_ACCEPTS)

    port.transport, port.doRead = _DirectServer, accept


def _open(port: Any, descriptor: int, client: tuple[str, int]) -> None:
    """Make the transport and the protocol of a connection that was accepted."""
    handle = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    protocol = None
    try:
        protocol = port.factory.buildProtocol(port._buildAddr(client))
    finally:
        if protocol is None:
            handle.close()
    if protocol is not None:
        session, port.sessionno = port.sessionno, port.sessionno + 1
        transport = port.transport(handle, protocol, client, port, session, port.reactor)
        protocol.makeConnection(transport)


class _DirectServer(Server):
    """A connection with shorter ways to its socket and to the reactor.

    Its names for Twisted's log are made when they are asked for, and the reactor is told only what
    it does not know yet.
    """

    # Twisted's own look for TLS that was started within the connection, which pushd never does.
    registerProducer = FileDescriptor.registerProducer
    unregisterProducer = FileDescriptor.unregisterProducer

    # Whether the reactor polls the socket for reading, and for writing.
    _polled = _polled_for_room = False

    def __init__(
        self, handle: Any, protocol: Any, client: Any, port: Any, session: int, reactor: Any
    ) -> None:
        # Not that of Server, which makes the names.
        Connection.__init__(self, handle, protocol, reactor)
        self.server, self.client, self.hostname = port, client, client[0]
        self.sessionno = session
        self.startReading()
        self.connected = 1

    def doRead(self) -> ConnectionLost | ConnectionDone | None:  # type: ignore[override]
        # The signature is that of one of Server's bases; another has one of its own.
        """Read what has arrived; return why the connection has ended, if it has."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def startReading(self) -> None:
        """Have the reactor poll the socket for reading."""
        if not self._polled:
            self._polled = True
            self.reactor.addReader(self)

    def stopReading(self) -> None:
        """Read no more."""
        if self._polled:
            self._polled = False
            self.reactor.removeReader(self)

    def startWriting(self) -> None:
        """Have the reactor poll the socket for writing."""
        self._polled_for_room = True
        self.reactor.addWriter(self)

    def stopWriting(self) -> None:
        """Write no more."""
        if self._polled_for_room:
            self._polled_for_room = False
            self.reactor.removeWriter(self)

    @property
    def logstr(self) -> str:  # type: ignore[override]  # Twisted assigns it.
        """The prefix of Twisted's log lines."""
        # The protocol is gone when the connection is.
        protocol = getattr(self, "protocol", None)
        return f"{type(protocol).__name__},{self.sessionno},{self.hostname}"

    @property
    def repstr(self) -> str:  # type: ignore[override]  # likewise
        """What ``repr`` returns."""
        return f"<{self.logstr} on {self.server._realPortNumber}>"


def run_on_monotonic_time(reactor: Any, monotonic: Callable[[], float]) -> None:
    """Make a Twisted reactor take the time from a clock that is never set.

    Twisted takes it from the system clock: if that is set back by an hour, every timer is late by
    an hour; if it is set forward, an hour of pushes is due at once. Timers that exist already keep
    the time that they have left. From now on the reactor's time is no time of day.

    :param monotonic: seconds since any moment. The reactor calls this very function: it is called
        60 times for each client of the demo, and a wrapper would take as long again.
    """
    if not FAST_PATHS.enabled:
        return
    before = reactor.seconds
    pending = [(call, call.getTime() - before()) for call in reactor.getDelayedCalls()]
    reactor.seconds = monotonic
    probe = reactor.callLater(0, int)
    probe.cancel()
    in_effect = abs(probe.getTime() - monotonic()) < _CLOCKS_DIFFER
    if not FAST_PATHS.allow("monotonic time", [] if in_effect else ["ReactorBase.seconds"]):
        reactor.seconds = before
        return
    for call, left in pending:
        call.seconds = monotonic
        call.reset(left)
