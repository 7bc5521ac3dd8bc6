"""The patches of Twisted's reactor: direct polling, direct accepts, and monotonic time."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.tcp import Port
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.fast_paths import FastPaths
from pushd.service.process import reactor as module
from pushd.service.process.reactor import (
    accept_directly,
    event_loop_of,
    poll_directly,
    run_on_monotonic_time,
)
from tests.support.call_counts import calls_of
from tests.support.recording_context import RecordingContext

# Function calls for a poll with one readable socket, most of them the reactor's own.
MOST_CALLS = 14

# Function calls for accepting one connection, those of the test included.
MOST_ACCEPT_CALLS = 35

HOUR = 3600.0


class ApplicationError(Exception):
    """Raised by the protocols of these tests."""


class FakeTransport:
    """A socket that is connected to another, registered with a reactor."""

    def __init__(self, reactor: EPollReactor) -> None:
        self.socket, self.peer = socket.socketpair()
        self.socket.setblocking(False)
        self.reactor = reactor
        self.received: list[bytes] = []
        self.writes = 0
        self.lost: list[Failure] = []
        self.on_read: Callable[[], object] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def doRead(self) -> Exception | None:
        """Read, and do what the test wants."""
        data = self.socket.recv(100)
        self.received.append(data)
        self.on_read()
        return None if data else ConnectionDone()

    def doWrite(self) -> None:
        """Count the call, and wait for no other."""
        self.writes += 1
        self.reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """Note the reason, and do what the test wants."""
        self.lost.append(reason)
        self.on_lost()
        self.close()

    def logPrefix(self) -> str:
        """Return the prefix of Twisted's log lines."""
        return "a transport"

    def close(self) -> None:
        """Close both sockets."""
        self.socket.close()
        self.peer.close()


def raise_error() -> None:
    """Fail as an application does."""
    raise ApplicationError


class FastPathTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Turn fast paths on, whatever the rest of the suite runs with."""
        self.fast_paths = FastPaths()
        self.patch(module, "FAST_PATHS", self.fast_paths)


class PollingTests(FastPathTestCase):
    """An epoll reactor whose events are dispatched by pushd."""

    def setUp(self) -> None:
        """Patch a reactor that is not running."""
        super().setUp()
        self.reactor = self.make_reactor()
        self.notes: list[str] = []
        poll_directly(self.reactor, RecordingContext(self.notes))
        self.transports = [self.connect(), self.connect()]

    def make_reactor(self) -> EPollReactor:
        """Make a reactor whose descriptors are closed after the test."""
        reactor = EPollReactor()
        self.addCleanup(self.close, reactor)
        return reactor

    def close(self, reactor: EPollReactor) -> None:
        """Close the descriptors of a reactor."""
        for reader in reactor._internalReaders:
            reader.connectionLost(Failure(ConnectionDone()))
        reactor._poller.close()

    def connect(self) -> FakeTransport:
        """Register one more transport."""
        transport = FakeTransport(self.reactor)
        self.addCleanup(transport.close)
        self.reactor.addReader(transport)
        return transport

    def poll(self) -> None:
        """Poll once, without waiting."""
        self.reactor.doIteration(0)

    def test_read(self) -> None:
        """A readable socket is read from once; others are left alone."""
        first, second = self.transports
        first.peer.send(b"abc")
        self.poll()
        self.poll()
        self.assertEqual((first.received, second.received), ([b"abc"], []))

    def test_together(self) -> None:
        """Several events of one poll are handled within the given context, a single one is not."""
        for transport in self.transports:
            transport.on_read = lambda: self.notes.append("read")
        self.transports[0].peer.send(b"abc")
        self.poll()
        self.assertEqual(self.notes, ["read"])
        for transport in self.transports:
            transport.peer.send(b"abc")
        self.poll()
        self.assertEqual(self.notes, ["read", "(", "read", "read", ")"])

    def test_no_timeout(self) -> None:
        """Without a timeout, a poll waits for an event."""
        self.transports[0].peer.send(b"abc")
        self.reactor.doIteration(None)
        self.assertEqual(self.transports[0].received, [b"abc"])

    def test_write(self) -> None:
        """A writable socket is written to, whether or not it is readable as well."""
        first, second = self.transports
        first.peer.send(b"abc")
        for transport in self.transports:
            self.reactor.addWriter(transport)
        self.poll()
        self.assertEqual((first.received, first.writes, second.writes), ([b"abc"], 1, 1))

    def test_end(self) -> None:
        """A socket closed by its peer is read to the end, then disconnected and removed."""
        first, second = self.transports
        first.peer.send(b"abc")
        first.peer.shutdown(socket.SHUT_WR)
        self.poll()
        self.poll()
        self.poll()
        self.assertEqual(first.received, [b"abc", b""])
        self.assertEqual(len(first.lost), 1)
        first.lost[0].trap(ConnectionDone)
        self.assertNotIn(first, self.reactor.getReaders())
        self.assertEqual(second.lost, [])

    def test_hangup(self) -> None:
        """A socket whose peer has hung up is disconnected."""
        self.transports[0].peer.close()
        self.poll()
        self.assertEqual(len(self.transports[0].lost), 1)

    def test_failure(self) -> None:
        """A transport that raises is logged and disconnected; others are read in the same poll."""
        first, second = self.transports
        first.on_read = first.on_lost = raise_error
        for transport in self.transports:
            transport.peer.send(b"abc")
        self.poll()
        self.assertEqual(len(first.lost), 1)
        self.assertEqual(second.received, [b"abc"])
        self.assertEqual(len(self.flushLoggedErrors(ApplicationError)), 2)
        self.assertNotIn(first, self.reactor.getReaders())

    def test_worst_failures(self) -> None:
        """Of all exceptions, only KeyboardInterrupt leaves the reactor."""

        def leave() -> None:
            raise SystemExit

        def interrupt() -> None:
            raise KeyboardInterrupt

        first, second = self.transports
        first.peer.close()
        second.peer.send(b"abc")
        first.on_lost = leave
        self.poll()
        self.assertEqual(second.received, [b"abc"])
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        second.peer.shutdown(socket.SHUT_WR)
        second.on_lost = interrupt
        # A poll would report the end together with something to read, and leave it to Twisted.
        with self.assertRaises(KeyboardInterrupt):
            module._disconnect(self.reactor, second, ConnectionDone())

    def test_closed_by_another(self) -> None:
        """A transport that is removed during a poll is not read from."""
        for transport, other in zip(self.transports, reversed(self.transports), strict=True):
            transport.on_read = lambda other=other: self.reactor.removeReader(other)  # type: ignore[misc] # mypy cannot infer a lambda with a default
            transport.peer.send(b"abc")
        self.poll()
        self.assertEqual(sorted(len(one.received) for one in self.transports), [0, 1])

    def test_calls(self) -> None:
        """A poll takes few function calls: Twisted's own takes ten more."""
        self.transports[0].peer.send(b"abc")
        self.assertLess(calls_of(self.poll), MOST_CALLS)

    def test_other_reactors(self) -> None:
        """A reactor that does not use epoll keeps its own polling."""
        reactor = SelectReactor()
        before = reactor.doIteration
        poll_directly(reactor, nullcontext())
        self.assertEqual(reactor.doIteration, before)
        for reader in reactor._internalReaders:
            reader.connectionLost(Failure(ConnectionDone()))

    def test_off(self) -> None:
        """With fast paths off, an epoll reactor keeps its own polling."""
        self.fast_paths.enabled = False
        reactor = self.make_reactor()
        before = reactor.doIteration
        poll_directly(reactor, nullcontext())
        self.assertEqual(reactor.doIteration, before)

    def test_missing_names(self) -> None:
        """A reactor without what direct polling relies on keeps its own, and a line says why."""
        reactor = self.make_reactor()
        before = reactor.doIteration
        selectables = reactor._selectables
        del reactor._selectables
        with capturedLogs() as events:
            poll_directly(reactor, nullcontext())
        reactor._selectables = selectables
        self.assertEqual(reactor.doIteration, before)
        [event] = events
        self.assertEqual((event["event"], event["path"]), ("fast_path_off", "direct polling"))
        self.assertEqual(event["lacking"], "twisted.internet.reactor._selectables")


class GreetingProtocol(Protocol):
    """Greets its client, and keeps the transport."""

    def connectionMade(self) -> None:
        """Greet."""
        assert self.transport is not None
        self.transport.write(b"hello")


class PortFactory(Factory):
    """Makes protocols in the way that the test wants."""

    noisy = False

    def __init__(self) -> None:
        self.make: Callable[[], Protocol | None] = GreetingProtocol
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """Note the client's address, and make a protocol."""
        self.addresses.append(addr)
        return self.make()


class AsyncioTests(FastPathTestCase):
    """A reactor on asyncio's event loop, whose sockets are read from by pushd."""

    def setUp(self) -> None:
        """Patch a reactor that is not running."""
        super().setUp()
        self.reactor, self.loop = self.make_reactor()
        poll_directly(self.reactor, nullcontext())

    def make_reactor(self) -> tuple[Any, asyncio.AbstractEventLoop]:
        """Make a reactor whose descriptors are closed after the test."""
        loop = asyncio.new_event_loop()
        reactor = AsyncioSelectorReactor(loop)
        self.addCleanup(loop.close)
        for reader in reactor._internalReaders:
            self.addCleanup(reader.connectionLost, Failure(ConnectionDone()))
        return reactor, loop

    def connect(self, reactor: Any) -> FakeTransport:
        """Register a transport."""
        transport = FakeTransport(reactor)
        self.addCleanup(transport.close)
        reactor.addReader(transport)
        return transport

    def poll(self, loop: asyncio.AbstractEventLoop) -> None:
        """Poll once, without waiting."""
        loop.call_soon(loop.stop)
        loop.run_forever()

    def test_loop(self) -> None:
        """The loop of such a reactor is known; others have none."""
        self.assertIs(event_loop_of(self.reactor), self.loop)
        self.assertIsNone(event_loop_of(object()))

    def test_read(self) -> None:
        """A readable socket is read from, and disconnected at its end; adding it twice is once."""
        transport = self.connect(self.reactor)
        self.reactor.addReader(transport)
        transport.peer.send(b"abc")
        self.poll(self.loop)
        transport.peer.shutdown(socket.SHUT_WR)
        self.poll(self.loop)
        self.assertEqual(transport.received, [b"abc", b""])
        self.assertEqual(len(transport.lost), 1)
        self.assertNotIn(transport, self.reactor.getReaders())

    def test_read_fails(self) -> None:
        """A transport that raises while it is read is disconnected, and the error is logged."""
        transport = self.connect(self.reactor)

        def fail() -> None:
            raise LookupError

        transport.on_read = fail
        transport.peer.send(b"abc")
        self.poll(self.loop)
        self.assertEqual(len(transport.lost), 1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_file(self) -> None:
        """A file, which cannot be polled, is left to Twisted."""
        with tempfile.TemporaryFile() as file:
            file.doRead = file.logPrefix = lambda: None  # type: ignore[attr-defined] # as a reader
            self.reactor.addReader(file)
            self.assertIn(file, self.reactor.getReaders())
            self.reactor.removeReader(file)

    def test_calls(self) -> None:
        """A poll takes fewer function calls than Twisted's own."""
        plain, loop = self.make_reactor()
        counts = []
        for reactor, one in ((self.reactor, self.loop), (plain, loop)):
            transport = self.connect(reactor)
            transport.peer.send(b"abc")
            counts.append(calls_of(lambda one=one: self.poll(one)))  # type: ignore[misc] # mypy cannot infer a lambda with a default
        self.assertLess(counts[0], counts[1] - 8)

    def test_off(self) -> None:
        """With fast paths off, or without what they rely on, Twisted reads."""
        reactor, _ = self.make_reactor()
        before = reactor.addReader
        self.fast_paths.enabled = False
        poll_directly(reactor, nullcontext())
        self.fast_paths.enabled = True
        readers, reactor._readers = reactor._readers, {}
        del reactor._readers
        with capturedLogs() as events:
            poll_directly(reactor, nullcontext())
        reactor._readers = readers
        self.assertEqual(reactor.addReader, before)
        self.assertEqual([event["event"] for event in events], ["fast_path_off"])


class AcceptTests(FastPathTestCase):
    """A TCP port that accepts connections directly."""

    def setUp(self) -> None:
        """Listen, with a reactor that is not running."""
        super().setUp()
        self.reactor = SelectReactor()
        self.addCleanup(self.close)
        self.factory = PortFactory()
        self.port = self.listen("127.0.0.1")

    def close(self) -> None:
        """Close what is registered with the reactor."""
        for selectable in self.reactor.removeAll() + list(self.reactor._internalReaders):
            selectable.connectionLost(Failure(ConnectionDone()))

    def listen(self, interface: str) -> Any:
        """Open a port, and let it accept directly."""
        port: Any = self.reactor.listenTCP(0, self.factory, interface=interface)
        port.numberAccepts = 2
        accept_directly(port)
        return port

    def connect(self, count: int = 1) -> list[socket.socket]:
        """Connect some clients."""
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.port.getHost().port), timeout=5)
            self.addCleanup(client.close)
            clients.append(client)
        return clients

    @property
    def transports(self) -> list[Any]:
        """The transports of the connections that are open, in the order of their numbers."""
        readers = [one for one in self.reactor.getReaders() if hasattr(one, "sessionno")]
        return sorted(
            (one for one in readers if one is not self.port), key=lambda one: one.sessionno
        )

    def test_accept(self) -> None:
        """A connection gets its protocol, which serves it as one that Twisted accepted."""
        [client] = self.connect()
        self.port.doRead()
        [transport] = self.transports
        address = client.getsockname()
        for peer in (transport.getPeer(), self.factory.addresses[0]):
            self.assertEqual((peer.host, peer.port), address)
        self.assertEqual(transport.getHost(), self.port.getHost())
        self.assertFalse(transport.socket.getblocking())
        transport.doWrite()
        self.assertEqual(client.recv(100), b"hello")
        protocol, lost = transport.protocol, list[Failure]()
        protocol.connectionLost = lost.append
        transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(lost), 1)
        self.assertEqual(client.recv(100), b"")

    def test_accept_calls(self) -> None:
        """Accepting takes few function calls: Twisted's own way takes more than a hundred."""
        self.connect()
        self.assertLess(calls_of(self.port.doRead), MOST_ACCEPT_CALLS)

    def test_read(self) -> None:
        """A transport passes on what has arrived, and tells how its connection has ended."""
        client, broken = self.connect(2)
        self.port.doRead()
        transport, other = self.transports
        received: list[bytes] = []
        transport.protocol.dataReceived = received.append
        self.assertIsNone(transport.doRead())
        client.sendall(b"abc")
        self.assertIsNone(transport.doRead())
        self.assertEqual(received, [b"abc"])
        client.shutdown(socket.SHUT_WR)
        self.assertIs(transport.doRead(), CONNECTION_DONE)
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broken.close()
        self.assertIs(other.doRead(), CONNECTION_LOST)
        self.assertEqual(received, [b"abc"])

    def note(self, told: list[str], name: str) -> Callable[[Any], object]:
        """Return what notes that a method of the reactor was called, and calls it."""
        tell = getattr(self.reactor, name)

        def call(transport: Any) -> None:
            told.append(name)
            tell(transport)

        return call

    def test_polled(self) -> None:
        """The reactor is told only once that it shall poll, or poll no more."""
        self.connect()
        self.port.doRead()
        [transport] = self.transports
        told: list[str] = []
        for name in ("addReader", "removeReader", "addWriter", "removeWriter"):
            self.patch(self.reactor, name, self.note(told, name))
        transport.resumeProducing()
        transport.pauseProducing()
        transport.pauseProducing()
        self.assertNotIn(transport, self.reactor.getReaders())
        transport.resumeProducing()
        self.assertIn(transport, self.reactor.getReaders())
        self.assertEqual(told, ["removeReader", "addReader"])
        transport.doWrite()
        transport.stopWriting()
        transport.write(b"x")
        self.assertIn(transport, self.reactor.getWriters())
        transport.connectionLost(Failure(ConnectionDone()))
        self.assertNotIn(transport, self.reactor.getReaders() + self.reactor.getWriters())

    def test_names(self) -> None:
        """A transport has names for Twisted's log, and after its end as well."""
        self.connect(2)
        self.port.doRead()
        number = self.port.getHost().port
        first, second = self.transports
        self.assertEqual(first.logPrefix(), "GreetingProtocol,0,127.0.0.1")
        self.assertEqual(repr(second), f"<GreetingProtocol,1,127.0.0.1 on {number}>")
        first.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(first.logPrefix(), "NoneType,0,127.0.0.1")

    def test_number(self) -> None:
        """As with Twisted, a busy port accepts more in one poll, and an idle one less."""
        self.connect(3)
        self.port.doRead()
        self.assertEqual((len(self.transports), self.port.numberAccepts), (2, 16))
        self.port.doRead()
        self.assertEqual((len(self.transports), self.port.numberAccepts), (3, 1))
        self.port.doRead()
        self.assertEqual(self.port.numberAccepts, 1)

    def test_most(self) -> None:
        """There is a bound: the first of a crowd are served before the others are accepted."""
        self.port.numberAccepts = 15
        self.connect(16)
        self.port.doRead()
        self.assertEqual((len(self.transports), self.port.numberAccepts), (15, 16))

    def test_refused(self) -> None:
        """A connection without a protocol is closed."""
        self.factory.make = lambda: None
        [client] = self.connect()
        self.port.doRead()
        self.assertEqual(client.recv(100), b"")

    def test_failure(self) -> None:
        """A factory that raises is logged, and the next connection is accepted in the same poll."""
        made: list[Callable[[], Protocol]] = [raise_error, GreetingProtocol]  # type: ignore[list-item] # raise_error returns nothing
        self.factory.make = lambda: made.pop(0)()
        client, _ = self.connect(2)
        self.port.doRead()
        self.assertEqual(len(self.transports), 1)
        self.assertEqual(len(self.flushLoggedErrors(ApplicationError)), 1)
        self.assertEqual(client.recv(100), b"")

    def test_error(self) -> None:
        """An error of the kernel is left to Twisted."""
        twisted: list[str] = []
        port: Any = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        port.doRead = lambda: twisted.append("asked")
        listening, port.socket = port.socket, BrokenSocket()
        accept_directly(port)
        port.socket = listening
        port.doRead()
        self.assertEqual(twisted, ["asked"])

    def test_others(self) -> None:
        """An IPv6 port and other kinds of ports accept as Twisted does."""
        port = Port(0, self.factory, interface="::1", reactor=self.reactor)
        accept_directly(port)
        self.assertEqual(port.doRead, Port.doRead.__get__(port))
        other = object()
        accept_directly(other)

    def test_off(self) -> None:
        """With fast paths off, a port accepts as Twisted does."""
        self.fast_paths.enabled = False
        port = self.listen("127.0.0.1")
        self.assertEqual(port.doRead, Port.doRead.__get__(port))

    def test_missing_names(self) -> None:
        """A port without what direct accepts rely on keeps its own, and a line says why."""
        self.patch(module, "_PORT_NAMES", ("_renamed",))
        with capturedLogs() as events:
            port = self.listen("127.0.0.1")
        self.assertEqual(port.doRead, Port.doRead.__get__(port))
        [event] = [one for one in events if one.get("event") == "fast_path_off"]
        self.assertEqual((event["path"], event["lacking"]), ("direct accepts", "Port._renamed"))


class BrokenSocket:
    """A listening socket for which the process has no descriptors left."""

    def _accept(self) -> object:
        raise OSError(errno.EMFILE, "too many open files")


class WallClockReactor(SelectReactor):
    """Twisted's reactor with a system clock that the test sets."""

    wall = 1_000_000.0

    def seconds(self) -> float:
        """Return the system's time."""
        return self.wall

    def installWaker(self) -> None:
        """Need no descriptors: it never runs."""


class MonotonicTimeTests(FastPathTestCase):
    """A reactor whose time goes on while the system clock is set."""

    def setUp(self) -> None:
        """Patch a reactor that is not running."""
        super().setUp()
        self.reactor = WallClockReactor()
        self.monotonic = 7.0
        self.calls: list[str] = []
        run_on_monotonic_time(self.reactor, lambda: self.monotonic)

    def let_pass(self, seconds: float) -> None:
        """Let both clocks advance, and the reactor make the calls that are due."""
        self.monotonic += seconds
        self.reactor.wall += seconds
        self.reactor.runUntilCurrent()

    def test_seconds(self) -> None:
        """The reactor's time is that of the monotonic clock."""
        self.assertEqual(self.reactor.seconds(), 7)
        self.let_pass(5)
        self.assertEqual(self.reactor.seconds(), 12)

    def test_pending(self) -> None:
        """Timers that exist already are called after the time that they had left."""
        reactor = WallClockReactor()
        cancelled = reactor.callLater(0.5, self.calls.append, "cancelled")
        for delay, name in ((2, "two"), (1, "one")):
            reactor.callLater(delay, self.calls.append, name)
            reactor.runUntilCurrent()
        cancelled.cancel()
        reactor.callLater(3, self.calls.append, "three")
        delayed = reactor.callLater(1, self.calls.append, "four")
        delayed.delay(3)
        run_on_monotonic_time(reactor, lambda: self.monotonic)
        for number, name in enumerate(("one", "two", "three", "four")):
            self.monotonic = 7.5 + number
            reactor.runUntilCurrent()
            self.assertNotIn(name, self.calls)
            self.monotonic = 8.0 + number
            reactor.runUntilCurrent()
            self.assertEqual(self.calls[-1], name)
        self.assertEqual(len(self.calls), 4)

    def test_pending_delayed(self) -> None:
        """Timers that exist already can be reset and delayed."""
        reactor = WallClockReactor()
        calls = [reactor.callLater(delay, self.calls.append, "late") for delay in (2, 3)]
        run_on_monotonic_time(reactor, lambda: self.monotonic)
        calls[0].reset(10)
        calls[1].delay(7)
        for moment, made in ((16.5, 0), (17.0, 2)):
            self.monotonic = moment
            reactor.runUntilCurrent()
            self.assertEqual(len(self.calls), made)

    def test_set(self) -> None:
        """A timer is called after its delay, whatever the system clock is set to meanwhile."""
        for step in (-HOUR, HOUR):
            self.calls.clear()
            self.reactor.callLater(10, self.calls.append, "ten")
            self.let_pass(5)
            self.reactor.wall += step
            self.reactor.callLater(6, self.calls.append, "eleven")
            self.let_pass(4.5)
            self.assertEqual(self.calls, [])
            self.assertAlmostEqual(self.reactor.timeout() or 0, 0.5)
            self.let_pass(1)
            self.assertEqual(self.calls, ["ten"])
            self.let_pass(1)
            self.assertEqual(self.calls, ["ten", "eleven"])

    def test_twice(self) -> None:
        """Patching a reactor again changes nothing."""
        self.reactor.callLater(10, self.calls.append, "ten")
        self.reactor.wall -= HOUR
        run_on_monotonic_time(self.reactor, lambda: self.monotonic)
        self.assertEqual(self.reactor.seconds(), 7)
        self.let_pass(9.5)
        self.assertEqual(self.calls, [])
        self.let_pass(1)
        self.assertEqual(self.calls, ["ten"])

    def test_off(self) -> None:
        """With fast paths off, a reactor's time is that of the system clock."""
        self.fast_paths.enabled = False
        reactor = WallClockReactor()
        run_on_monotonic_time(reactor, lambda: self.monotonic)
        self.assertEqual(reactor.seconds(), reactor.wall)

    def test_no_effect(self) -> None:
        """A reactor with timers of another clock keeps its own time, and a line says why."""

        class OtherReactor(WallClockReactor):
            """Takes the time of its timers from elsewhere."""

            def callLater(self, delay: float, *args: Any, **named: Any) -> DelayedCall:
                call = super().callLater(delay, *args, **named)
                call.time = self.wall + delay
                return call

        reactor = OtherReactor()
        with capturedLogs() as events:
            run_on_monotonic_time(reactor, lambda: self.monotonic)
        self.assertEqual(reactor.seconds(), reactor.wall)
        [event] = events
        self.assertEqual((event["event"], event["path"]), ("fast_path_off", "monotonic time"))
        self.assertEqual(event["lacking"], "ReactorBase.seconds")
        self.assertEqual(reactor.getDelayedCalls(), [])
