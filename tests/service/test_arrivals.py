"""Connections on their way from the kernel to their protocols."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.transport import DONE, lose
from pushd.service.arrivals import Arrival, hasten
from tests.work import calls_of

# What one takes that is here, the kernel's share included: Twisted takes 156.
MOST_CALLS = 36


class Failing(Exception):
    """What goes wrong in these tests."""


class Guest(Protocol):
    """Keeps what it hears."""

    transport: Any

    def connectionMade(self) -> None:
        """Begin to listen."""
        self.heard = b""
        self.ends: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Keep why."""
        self.ends.append(reason)


class House(Factory):
    """Keeps the protocols that it makes."""

    noisy = False

    def __init__(self) -> None:
        self.guests: list[Guest] = []
        self.addresses: list[IAddress | None] = []
        self.answer: Any = Guest

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make one, or do what the test wants."""
        self.addresses.append(addr)
        guest = self.answer()
        self.guests.append(guest)
        return guest


class HastenTests(SynchronousTestCase):
    """A port that takes who comes."""

    def setUp(self) -> None:
        """Listen on the loopback, with a reactor that nobody runs."""
        self.reactor = MemoryReactorClock()
        self.house = House()
        self.port: Any = Port(0, self.house, interface="127.0.0.1", reactor=self.reactor)
        self.port.startListening()
        self.addCleanup(self.leave)
        hasten(self.port)

    def leave(self) -> None:
        """Close the port, and let all go who have come through it."""
        reason = Failure(ConnectionDone())
        for guest in self.house.guests:
            if guest is not None:
                guest.transport.connectionLost(reason)
        self.port.connectionLost(reason)

    def take(self, accept: Callable[[], object]) -> None:
        """Let the kernel do what the test wants."""
        self.port.socket.close()
        self.port.socket = SimpleNamespace(
            accept=accept, shutdown=lambda how: None, close=lambda: None
        )
        del self.port.doRead
        hasten(self.port)

    def come(self) -> socket.socket:
        """Connect."""
        peer = socket.create_connection(self.port.socket.getsockname(), timeout=10)
        self.addCleanup(peer.close)
        return peer

    def test_taken(self) -> None:
        """Who comes has a protocol with a connection, which knows both ends and is read from."""
        peer = self.come()
        self.port.doRead()
        [guest] = self.house.guests
        transport = guest.transport
        self.assertEqual(self.house.addresses, [IPv4Address("TCP", *peer.getsockname())])
        self.assertEqual(transport.getPeer(), IPv4Address("TCP", *peer.getsockname()))
        self.assertEqual(transport.getHost(), self.port.getHost())
        self.assertIn(transport, self.reactor.getReaders())
        peer.send(b"abc")
        transport.doRead()
        self.assertEqual(guest.heard, b"abc")
        transport.write(b"def")
        transport.doWrite()
        self.assertEqual(peer.recv(10), b"def")
        self.assertFalse(transport.socket.getblocking())

    def test_end(self) -> None:
        """One that ends in order tells its protocol, closes its socket and is watched no more."""
        for end in (lose, Arrival.loseConnection):
            peer = self.come()
            self.port.doRead()
            guest = self.house.guests.pop()
            transport = guest.transport
            end(transport)
            if transport in self.reactor.getWriters():
                # It ends when it can be written to.
                transport.connectionLost(Failure(transport.doWrite()))
            self.assertEqual(peer.recv(1), b"")
            self.assertEqual([reason.type for reason in guest.ends], [ConnectionDone])
            self.assertNotIn(transport, self.reactor.getReaders())
            self.assertFalse(transport.connected)
            # Both may be found to be over once more, as what goes on ends later than what began it.
            transport.connectionLost(DONE)
            transport.connectionLost(Failure(ConnectionLost()))
            self.assertEqual(len(guest.ends), 1)

    def test_calls_of_end(self) -> None:
        """Where the end is in order nobody looks into its reason."""
        self.come()
        self.come()
        self.port.doRead()
        ours, theirs = (self.house.guests.pop().transport for _ in range(2))
        few = calls_of(lambda: ours.connectionLost(DONE))
        reason = Failure(ConnectionDone())
        many = calls_of(lambda: theirs.connectionLost(reason))
        self.assertLess(few + 5, many)

    def test_names(self) -> None:
        """It has the names that Twisted's own has."""
        self.come()
        self.port.doRead()
        transport = self.house.guests[0].transport
        self.assertEqual(repr(transport), f"<Guest #0 on {self.port.getHost().port}>")
        self.assertEqual(transport.logPrefix(), "Guest,0,127.0.0.1")

    def test_many(self) -> None:
        """All who have come are taken at once; where one comes at a time nobody looks for more."""
        for _ in range(3):
            self.come()
        self.port.doRead()
        self.assertEqual(len(self.house.guests), 3)
        self.assertEqual(self.port.numberAccepts, 3)
        self.port.doRead()
        self.assertEqual(self.port.numberAccepts, 1)
        self.come()
        self.port.doRead()
        self.assertEqual(len(self.house.guests), 4)
        self.assertGreater(self.port.numberAccepts, 10)
        numbers = [guest.transport.sessionno for guest in self.house.guests]
        self.assertEqual(numbers, [0, 1, 2, 3])

    def test_not_wanted(self) -> None:
        """One for whom there is no protocol is let go."""
        self.house.answer = lambda: None
        peer = self.come()
        self.port.doRead()
        self.assertEqual(peer.recv(1), b"")

    def test_failure(self) -> None:
        """One whose protocol fails is let go, which is logged; the next is taken all the same."""

        def fail() -> None:
            self.house.answer = Guest
            raise Failing

        self.house.answer = fail
        first, _ = self.come(), self.come()
        host, port = first.getsockname()
        with capturedLogs() as events:
            self.port.doRead()
        self.assertEqual([event["peer"] for event in events], [f"{host}:{port}"])
        self.assertEqual(first.recv(1), b"")
        self.assertEqual(len(self.house.guests), 1)
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_failure_when_connected(self) -> None:
        """One that fails once it has its connection is lost, and not watched any more."""
        lost: list[Failure] = []

        class Faint(Guest):
            def connectionMade(self) -> None:
                raise Failing

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.append(reason)

        self.house.answer = Faint
        peer = self.come()
        self.port.doRead()
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        transport = self.house.guests[0].transport
        self.assertNotIn(transport, self.reactor.getReaders())
        self.reactor.advance(0)
        self.assertEqual(len(lost), 1)
        self.assertRaises(ConnectionResetError, peer.recv, 1)
        self.assertIn("#0 on", repr(transport))
        self.assertIn(",0,127.0.0.1", transport.logPrefix())
        self.house.guests.clear()

    def test_ipv6(self) -> None:
        """An address of IPv6 is kept as it is written."""
        here, there = socket.socketpair()
        self.addCleanup(there.close)
        self.take([(here, ("::1", 5000, 0, 0))].pop)
        self.port._addressType = IPv6Address
        self.port.numberAccepts = 1
        self.port.doRead()
        transport = self.house.guests[0].transport
        self.assertEqual(transport.getPeer(), IPv6Address("TCP", "::1", 5000))

    def test_no_descriptors(self) -> None:
        """What the kernel refuses is Twisted's to deal with, which says so; the port stays."""

        def accept() -> None:
            raise OSError(errno.ENFILE, "too many open files")

        self.take(accept)
        with capturedLogs() as events:
            self.port.doRead()
        self.assertEqual([event["acceptError"] for event in events], ["ENFILE"])
        self.assertIn(self.port, self.reactor.getReaders())

    def test_calls(self) -> None:
        """It takes few calls of functions."""
        self.come()
        self.port.numberAccepts = 1
        counted = calls_of(self.port.doRead)
        self.assertLess(counted, MOST_CALLS)

    def test_others(self) -> None:
        """What is no TCP port of Twisted's keeps its own way."""
        port = SimpleNamespace(doRead=len)
        hasten(port)
        self.assertIs(port.doRead, len)

    def test_kind(self) -> None:
        """A connection is one of Twisted's, so what is plain is known to be."""
        self.come()
        self.port.doRead()
        self.assertIsInstance(self.house.guests[0].transport, Arrival)
