"""Transports in memory behave as Twisted's TCP transports do."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, cast
from weakref import ref

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushd.testing.memory_network import MemoryNetwork, MemoryTransport


class Peer(Protocol):
    """One end: records what it receives, and may answer."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ends: list[object] = []
        self.answer: Callable[[bytes], object] = lambda data: None

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        self.answer(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends.append(type(reason.value))


class PeerFactory(Factory):
    """Makes a peer for each connection, and keeps it."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Peer:
        """Make a peer."""
        self.peers.append(Peer())
        self.addresses.append(addr)
        return self.peers[-1]


@implementer(IPushProducer)
class Producer:
    """Records the calls that a producer gets."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class MemoryNetworkTestCase(SynchronousTestCase):
    """One connection with a client and a server."""

    def setUp(self) -> None:
        """Connect them."""
        self.network = MemoryNetwork()
        self.factory = PeerFactory()
        self.client = Peer()
        self.here = self.network.connect(self.factory, self.client)
        [self.server] = self.factory.peers
        self.there = self.here.other


class ConnectTests(MemoryNetworkTestCase):
    """Connecting a client with a factory."""

    def test_ends(self) -> None:
        """Each end has a transport, with the other end's address as its peer."""
        self.assertIs(self.client.transport, self.here)
        self.assertIs(self.server.transport, self.there)
        self.assertIs(self.there.other, self.here)
        self.assertEqual(self.here.getPeer(), self.there.getHost())
        self.assertEqual(self.there.getPeer(), self.here.getHost())
        self.assertEqual(self.factory.addresses, [self.here.getHost()])
        self.assertIsInstance(self.here.getHost(), IPv4Address)

    def test_ports(self) -> None:
        """Each client has a port of its own."""
        other = self.network.connect(self.factory, Peer())
        self.assertNotEqual(other.getHost(), self.here.getHost())
        self.assertEqual(other.getPeer(), self.here.getPeer())

    def test_refused(self) -> None:
        """If the factory returns no protocol, the client's connection is aborted."""

        class Full(Factory):
            def buildProtocol(self, addr: Any) -> None:
                return None

        client = Peer()
        transport = self.network.connect(Full(), client)
        transport.write(b"anybody there?")
        self.network.run()
        self.assertEqual((client.received, client.ends), ([], [ConnectionLost]))
        self.assertFalse(transport.connected)

    def test_interfaces(self) -> None:
        """A transport provides ITCPTransport and IPushProducer."""
        for interface in (ITCPTransport, IPushProducer):
            self.assertTrue(verifyObject(interface, self.here))

    def test_options(self) -> None:
        """A transport remembers TCP_NODELAY; keep-alive is always off."""
        self.assertIs(self.here.getTcpNoDelay(), False)
        self.here.setTcpNoDelay(True)
        self.assertIs(self.here.getTcpNoDelay(), True)
        self.here.setTcpKeepAlive(True)
        self.assertIs(self.here.getTcpKeepAlive(), False)


class DeliveryTests(MemoryNetworkTestCase):
    """What is written arrives when the network runs."""

    def test_not_before(self) -> None:
        """Nothing arrives during write(): no protocol is called back while it writes."""
        self.here.write(b"a")
        self.assertEqual(self.server.received, [])
        self.assertEqual(self.here.unsent, 1)
        self.network.run()
        self.assertEqual(self.server.received, [b"a"])
        self.assertEqual(self.here.unsent, 0)

    def test_stream(self) -> None:
        """A connection is a stream: pieces arrive in order, possibly as one."""
        self.here.write(b"a")
        self.here.writeSequence([b"b", b"c"])
        self.network.run()
        self.assertEqual(b"".join(self.server.received), b"abc")

    def test_answers(self) -> None:
        """run() returns when everything has been delivered, including answers to answers."""

        def count(peer: Peer, data: bytes) -> None:
            if int(data) < 10:
                assert peer.transport is not None
                peer.transport.write(b"%d" % (int(data) + 1))

        self.server.answer = lambda data: count(self.server, data)
        self.client.answer = lambda data: count(self.client, data)
        self.here.write(b"1")
        self.network.run()
        self.assertEqual(self.server.received, [b"1", b"3", b"5", b"7", b"9"])
        self.assertEqual(self.client.received, [b"2", b"4", b"6", b"8", b"10"])

    def test_from_within(self) -> None:
        """A connection that is made during run() is part of it."""
        late = Peer()

        def connect(data: bytes) -> None:
            self.network.connect(self.factory, late).write(b"late")

        self.server.answer = connect
        self.here.write(b"a")
        self.network.run()
        self.assertEqual(self.factory.peers[1].received, [b"late"])

    def test_paused_reader(self) -> None:
        """An end that does not read receives nothing until it does."""
        self.there.pauseProducing()
        self.here.write(b"a")
        self.network.run()
        self.assertEqual(self.server.received, [])
        self.here.write(b"b")
        self.there.resumeProducing()
        self.network.run()
        self.assertEqual(self.server.received, [b"ab"])

    def test_paused_within(self) -> None:
        """An end that stops reading during a delivery receives nothing more."""
        self.server.answer = lambda data: self.there.pauseProducing()
        self.here.write(b"a")
        self.network.run()
        self.here.write(b"b")
        self.network.run()
        self.assertEqual(self.server.received, [b"a"])


class CloseTests(MemoryNetworkTestCase):
    """The end of a connection, in order or by an abort."""

    def test_lose(self) -> None:
        """loseConnection() sends what was written, then ends both sides in order, once."""
        self.here.write(b"a")
        self.here.loseConnection()
        self.here.write(b"too late")
        self.assertEqual((self.client.ends, self.server.ends), ([], []))
        for _ in range(2):
            self.network.run()
            self.assertEqual(self.server.received, [b"a"])
            self.assertEqual(self.client.ends, [ConnectionDone])
            self.assertEqual(self.server.ends, [ConnectionDone])
        self.assertFalse(self.here.connected)
        self.assertFalse(self.there.connected)

    def test_lose_waits(self) -> None:
        """loseConnection() waits for a peer that does not read."""
        self.there.pauseProducing()
        self.here.write(b"a")
        self.here.loseConnection()
        self.network.run()
        self.assertEqual(self.client.ends, [])
        self.there.resumeProducing()
        self.network.run()
        self.assertEqual((self.server.received, self.client.ends), ([b"a"], [ConnectionDone]))

    def test_deaf(self) -> None:
        """After loseConnection() an end receives nothing, not even what is under way."""
        self.there.write(b"for the client")
        self.here.write(b"for the server")
        self.there.loseConnection()
        self.network.run()
        self.assertEqual((self.client.received, self.server.received), ([b"for the client"], []))

    def test_synonyms(self) -> None:
        """stopProducing() and loseWriteConnection() end the connection in order."""
        ends: list[Callable[[MemoryTransport], None]] = [
            MemoryTransport.stopProducing,
            MemoryTransport.loseWriteConnection,
        ]
        for end in ends:
            client = Peer()
            transport = self.network.connect(self.factory, client)
            transport.write(b"a")
            end(transport)
            self.network.run()
            self.assertEqual(self.factory.peers[-1].received, [b"a"])
            self.assertEqual(client.ends, [ConnectionDone])

    def test_abort(self) -> None:
        """abortConnection() drops what was written and ends both sides with an error."""
        self.here.write(b"a")
        self.here.abortConnection()
        self.here.abortConnection()
        self.assertEqual((self.here.unsent, self.client.ends), (0, []))
        self.network.run()
        self.assertEqual(self.server.received, [])
        self.assertEqual(self.client.ends, [ConnectionAborted])
        self.assertEqual(self.server.ends, [ConnectionLost])

    def test_abort_both(self) -> None:
        """If both sides abort, the first call counts."""
        self.here.abortConnection()
        self.there.abortConnection()
        self.network.run()
        self.assertEqual(self.client.ends, [ConnectionAborted])
        self.assertEqual(self.server.ends, [ConnectionLost])

    def test_abort_after_lose(self) -> None:
        """abortConnection() ends a connection that waits to be closed."""
        self.there.pauseProducing()
        self.here.write(b"a")
        self.here.loseConnection()
        self.network.run()
        self.here.abortConnection()
        self.network.run()
        self.assertEqual((self.client.ends, self.server.received), ([ConnectionAborted], []))

    def test_abort_what_is_gone(self) -> None:
        """abortConnection() does nothing after the end."""
        self.here.loseConnection()
        self.network.run()
        self.here.abortConnection()
        self.there.abortConnection()
        self.network.run()
        self.assertEqual(self.client.ends, [ConnectionDone])

    def test_aborted_by_peer(self) -> None:
        """What is under way to an end that aborts does not arrive."""
        self.here.write(b"a")
        self.there.abortConnection()
        self.network.run()
        self.assertEqual((self.server.received, self.client.ends), ([], [ConnectionLost]))

    def test_write_to_nobody(self) -> None:
        """After the end, what is written is dropped."""
        self.there.abortConnection()
        self.network.run()
        self.here.write(b"a")
        self.assertEqual(self.here.unsent, 0)

    def test_both_at_once(self) -> None:
        """If both sides close, each gets connectionLost once."""
        self.here.loseConnection()
        self.there.loseConnection()
        self.network.run()
        self.assertEqual(self.client.ends, [ConnectionDone])
        self.assertEqual(self.server.ends, [ConnectionDone])

    def test_last_words(self) -> None:
        """What connectionLost writes to another connection arrives."""

        class Mourner(Peer):
            def connectionLost(self, reason: Failure = connectionDone) -> None:
                here.write(b"it is gone")

        here = self.here
        other = self.network.connect(self.factory, Mourner())
        other.abortConnection()
        self.network.run()
        self.assertEqual(self.server.received, [b"it is gone"])

    def test_cut(self) -> None:
        """cut() aborts every connection, and nothing more arrives."""
        client = Peer()
        self.network.connect(self.factory, client).write(b"a")
        self.network.cut()
        self.network.run()
        for peer in (self.client, client, *self.factory.peers):
            self.assertEqual((peer.received, len(peer.ends)), ([], 1))

    def test_forgotten(self) -> None:
        """A connection that has ended is not kept; others are."""
        client = Peer()
        other = self.network.connect(self.factory, client)
        trace = ref(self.here)
        self.here.abortConnection()
        self.network.run()
        other.write(b"a")
        self.network.run()
        self.assertEqual(self.factory.peers.pop().received, [b"a"])
        del self.here, self.there, self.client, self.server
        self.factory.peers.clear()
        gc.collect()
        self.assertIsNone(trace())


class ProducerTests(MemoryNetworkTestCase):
    """A producer is paused while the buffer is full."""

    def setUp(self) -> None:
        """Register a producer."""
        super().setUp()
        self.producer = Producer()
        self.here.registerProducer(self.producer, True)

    def test_paused(self) -> None:
        """Beyond 64 KiB a producer is paused, once."""
        self.here.write(bytes(1 << 16))
        self.assertEqual(self.producer.calls, [])
        self.here.write(b"a")
        self.here.write(b"a")
        self.assertEqual(self.producer.calls, ["pause"])

    def test_resumed(self) -> None:
        """A producer is resumed when the buffer is empty, and paused again when it is full."""
        for _ in range(2):
            self.producer.calls.clear()
            self.here.write(bytes(100_000))
            self.network.run()
            self.assertEqual(self.producer.calls, ["pause", "resume"])
            self.network.run()
            self.assertEqual(self.producer.calls, ["pause", "resume"])

    def test_not_paused(self) -> None:
        """A producer is not paused while the buffer is not full."""
        for _ in range(10):
            self.here.write(bytes(10_000))
            self.network.run()
        self.assertEqual(self.producer.calls, [])

    def test_let_go(self) -> None:
        """A producer that was unregistered while it was paused is not resumed."""
        self.here.write(bytes(100_000))
        self.here.unregisterProducer()
        self.network.run()
        self.assertEqual(self.producer.calls, ["pause"])

    def test_stopped(self) -> None:
        """At the end, stopProducing() is called before connectionLost."""
        calls: list[str] = []
        self.client.ends = cast(Any, calls)
        self.producer.calls = calls
        for end in (self.there.abortConnection, self.here.abortConnection):
            end()
            self.network.run()
        self.assertEqual(calls, ["stop", ConnectionLost])

    def test_not_while_stalled(self) -> None:
        """A producer is not resumed while the other end does not read."""
        self.there.pauseProducing()
        self.here.write(bytes(100_000))
        self.network.run()
        self.assertEqual(self.producer.calls, ["pause"])

    def test_answer_comes_first(self) -> None:
        """A producer is not resumed if the delivery itself has filled the buffer again."""

        def write_more(data: bytes) -> None:
            self.server.answer = lambda data: None
            self.here.write(b"more")

        self.server.answer = write_more
        self.here.write(bytes(100_000))
        self.here.run()
        self.assertEqual(self.producer.calls, ["pause"])
        self.network.run()
        self.assertEqual(self.producer.calls, ["pause", "resume"])

    def test_one_at_a_time(self) -> None:
        """A second producer is refused until the first is unregistered."""
        second = Producer()
        self.assertRaises(RuntimeError, self.here.registerProducer, second, True)
        self.here.write(bytes(100_000))
        self.here.unregisterProducer()
        self.here.registerProducer(second, True)
        self.network.run()
        self.assertEqual((self.producer.calls, second.calls), (["pause"], ["resume"]))

    def test_none(self) -> None:
        """Without a producer, everything arrives."""
        self.here.unregisterProducer()
        self.here.write(bytes(100_000))
        self.network.run()
        self.assertEqual(sum(map(len, self.server.received)), 100_000)
        self.assertEqual(self.producer.calls, [])
