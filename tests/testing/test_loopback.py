"""Connections in memory: they keep the habits of TCP under Twisted."""

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

from pushd.testing.loopback import Loopback, LoopbackTransport


class Peer(Protocol):
    """One end: it notes what comes, and may do something about it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ends: list[object] = []
        self.answer: Callable[[bytes], object] = lambda data: None

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self.answer(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends.append(type(reason.value))


class PeerFactory(Factory):
    """Makes a peer for each connection, and keeps it."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Peer:
        """Make one."""
        self.peers.append(Peer())
        self.addresses.append(addr)
        return self.peers[-1]


@implementer(IPushProducer)
class Producer:
    """A producer that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class LoopbackTestCase(SynchronousTestCase):
    """One connection, with a client and a server."""

    def setUp(self) -> None:
        """Connect them."""
        self.loopback = Loopback()
        self.factory = PeerFactory()
        self.client = Peer()
        self.here = self.loopback.connect(self.factory, self.client)
        [self.server] = self.factory.peers
        self.there = self.here.other


class ConnectTests(LoopbackTestCase):
    """A connection has two ends that know each other."""

    def test_ends(self) -> None:
        """Each end has its transport, and the other's address as its peer."""
        self.assertIs(self.client.transport, self.here)
        self.assertIs(self.server.transport, self.there)
        self.assertIs(self.there.other, self.here)
        self.assertEqual(self.here.getPeer(), self.there.getHost())
        self.assertEqual(self.there.getPeer(), self.here.getHost())
        self.assertEqual(self.factory.addresses, [self.here.getHost()])
        self.assertIsInstance(self.here.getHost(), IPv4Address)

    def test_ports(self) -> None:
        """Each client has a port of its own."""
        other = self.loopback.connect(self.factory, Peer())
        self.assertNotEqual(other.getHost(), self.here.getHost())
        self.assertEqual(other.getPeer(), self.here.getPeer())

    def test_refused(self) -> None:
        """A factory that wants no connection has none: the client's breaks off."""

        class Full(Factory):
            def buildProtocol(self, addr: Any) -> None:
                return None

        client = Peer()
        transport = self.loopback.connect(Full(), client)
        transport.write(b"anybody there?")
        self.loopback.run()
        self.assertEqual((client.heard, client.ends), ([], [ConnectionLost]))
        self.assertFalse(transport.connected)

    def test_interfaces(self) -> None:
        """It provides what it says: a TCP transport that is a producer."""
        for interface in (ITCPTransport, IPushProducer):
            self.assertTrue(verifyObject(interface, self.here))

    def test_options(self) -> None:
        """It remembers TCP_NODELAY, and knows of no keep-alive."""
        self.assertIs(self.here.getTcpNoDelay(), False)
        self.here.setTcpNoDelay(True)
        self.assertIs(self.here.getTcpNoDelay(), True)
        self.here.setTcpKeepAlive(True)
        self.assertIs(self.here.getTcpKeepAlive(), False)


class DeliveryTests(LoopbackTestCase):
    """What is written arrives when the loopback is run."""

    def test_not_before(self) -> None:
        """Nothing arrives from within a write: no protocol is called back while it writes."""
        self.here.write(b"a")
        self.assertEqual(self.server.heard, [])
        self.assertEqual(self.here.unsent, 1)
        self.loopback.run()
        self.assertEqual(self.server.heard, [b"a"])
        self.assertEqual(self.here.unsent, 0)

    def test_stream(self) -> None:
        """It is a stream: what was written in pieces arrives in order, be it as one."""
        self.here.write(b"a")
        self.here.writeSequence([b"b", b"c"])
        self.loopback.run()
        self.assertEqual(b"".join(self.server.heard), b"abc")

    def test_answers(self) -> None:
        """It runs until all is quiet: answers, and answers to answers."""

        def count(peer: Peer, data: bytes) -> None:
            if int(data) < 10:
                assert peer.transport is not None
                peer.transport.write(b"%d" % (int(data) + 1))

        self.server.answer = lambda data: count(self.server, data)
        self.client.answer = lambda data: count(self.client, data)
        self.here.write(b"1")
        self.loopback.run()
        self.assertEqual(self.server.heard, [b"1", b"3", b"5", b"7", b"9"])
        self.assertEqual(self.client.heard, [b"2", b"4", b"6", b"8", b"10"])

    def test_from_within(self) -> None:
        """A connection that is made while it runs takes part."""
        late = Peer()

        def connect(data: bytes) -> None:
            self.loopback.connect(self.factory, late).write(b"late")

        self.server.answer = connect
        self.here.write(b"a")
        self.loopback.run()
        self.assertEqual(self.factory.peers[1].heard, [b"late"])

    def test_paused_reader(self) -> None:
        """To an end that does not read nothing is delivered until it does."""
        self.there.pauseProducing()
        self.here.write(b"a")
        self.loopback.run()
        self.assertEqual(self.server.heard, [])
        self.here.write(b"b")
        self.there.resumeProducing()
        self.loopback.run()
        self.assertEqual(self.server.heard, [b"ab"])

    def test_paused_within(self) -> None:
        """An end that stops reading while it is told something gets no more."""
        self.server.answer = lambda data: self.there.pauseProducing()
        self.here.write(b"a")
        self.loopback.run()
        self.here.write(b"b")
        self.loopback.run()
        self.assertEqual(self.server.heard, [b"a"])


class CloseTests(LoopbackTestCase):
    """The end comes in order, or it is rude."""

    def test_lose(self) -> None:
        """loseConnection() sends what was written before, then ends both sides cleanly, once."""
        self.here.write(b"a")
        self.here.loseConnection()
        self.here.write(b"too late")
        self.assertEqual((self.client.ends, self.server.ends), ([], []))
        for _ in range(2):
            self.loopback.run()
            self.assertEqual(self.server.heard, [b"a"])
            self.assertEqual(self.client.ends, [ConnectionDone])
            self.assertEqual(self.server.ends, [ConnectionDone])
        self.assertFalse(self.here.connected)
        self.assertFalse(self.there.connected)

    def test_lose_waits(self) -> None:
        """It waits for a peer that does not read."""
        self.there.pauseProducing()
        self.here.write(b"a")
        self.here.loseConnection()
        self.loopback.run()
        self.assertEqual(self.client.ends, [])
        self.there.resumeProducing()
        self.loopback.run()
        self.assertEqual((self.server.heard, self.client.ends), ([b"a"], [ConnectionDone]))

    def test_deaf(self) -> None:
        """Who loses its connection hears nothing more, even of what is under way."""
        self.there.write(b"for the client")
        self.here.write(b"for the server")
        self.there.loseConnection()
        self.loopback.run()
        self.assertEqual((self.client.heard, self.server.heard), ([b"for the client"], []))

    def test_synonyms(self) -> None:
        """A producer that is stopped, and a half that is closed, end the connection."""
        ends: list[Callable[[LoopbackTransport], None]] = [
            LoopbackTransport.stopProducing,
            LoopbackTransport.loseWriteConnection,
        ]
        for end in ends:
            client = Peer()
            transport = self.loopback.connect(self.factory, client)
            transport.write(b"a")
            end(transport)
            self.loopback.run()
            self.assertEqual(self.factory.peers[-1].heard, [b"a"])
            self.assertEqual(client.ends, [ConnectionDone])

    def test_abort(self) -> None:
        """abortConnection() throws away what was written, and both sides see that it broke."""
        self.here.write(b"a")
        self.here.abortConnection()
        self.here.abortConnection()
        self.assertEqual((self.here.unsent, self.client.ends), (0, []))
        self.loopback.run()
        self.assertEqual(self.server.heard, [])
        self.assertEqual(self.client.ends, [ConnectionAborted])
        self.assertEqual(self.server.ends, [ConnectionLost])

    def test_abort_both(self) -> None:
        """When both sides are rude, the first one was it."""
        self.here.abortConnection()
        self.there.abortConnection()
        self.loopback.run()
        self.assertEqual(self.client.ends, [ConnectionAborted])
        self.assertEqual(self.server.ends, [ConnectionLost])

    def test_abort_after_lose(self) -> None:
        """It does so to a connection that waits to be lost."""
        self.there.pauseProducing()
        self.here.write(b"a")
        self.here.loseConnection()
        self.loopback.run()
        self.here.abortConnection()
        self.loopback.run()
        self.assertEqual((self.client.ends, self.server.heard), ([ConnectionAborted], []))

    def test_abort_what_is_gone(self) -> None:
        """To a connection that is gone it does nothing."""
        self.here.loseConnection()
        self.loopback.run()
        self.here.abortConnection()
        self.there.abortConnection()
        self.loopback.run()
        self.assertEqual(self.client.ends, [ConnectionDone])

    def test_aborted_by_peer(self) -> None:
        """What is under way to an end that aborts does not arrive."""
        self.here.write(b"a")
        self.there.abortConnection()
        self.loopback.run()
        self.assertEqual((self.server.heard, self.client.ends), ([], [ConnectionLost]))

    def test_write_to_nobody(self) -> None:
        """What is written to a connection that is gone is not kept."""
        self.there.abortConnection()
        self.loopback.run()
        self.here.write(b"a")
        self.assertEqual(self.here.unsent, 0)

    def test_both_at_once(self) -> None:
        """When both sides end it, each is told once."""
        self.here.loseConnection()
        self.there.loseConnection()
        self.loopback.run()
        self.assertEqual(self.client.ends, [ConnectionDone])
        self.assertEqual(self.server.ends, [ConnectionDone])

    def test_last_words(self) -> None:
        """What a protocol says elsewhere because of its end arrives."""

        class Mourner(Peer):
            def connectionLost(self, reason: Failure = connectionDone) -> None:
                here.write(b"it is gone")

        here = self.here
        other = self.loopback.connect(self.factory, Mourner())
        other.abortConnection()
        self.loopback.run()
        self.assertEqual(self.server.heard, [b"it is gone"])

    def test_cut(self) -> None:
        """The end of a process breaks every connection, and nothing more arrives on any."""
        client = Peer()
        self.loopback.connect(self.factory, client).write(b"a")
        self.loopback.cut()
        self.loopback.run()
        for peer in (self.client, client, *self.factory.peers):
            self.assertEqual((peer.heard, len(peer.ends)), ([], 1))

    def test_forgotten(self) -> None:
        """A connection that is gone is not kept, and others go on."""
        client = Peer()
        other = self.loopback.connect(self.factory, client)
        trace = ref(self.here)
        self.here.abortConnection()
        self.loopback.run()
        other.write(b"a")
        self.loopback.run()
        self.assertEqual(self.factory.peers.pop().heard, [b"a"])
        del self.here, self.there, self.client, self.server
        self.factory.peers.clear()
        gc.collect()
        self.assertIsNone(trace())


class ProducerTests(LoopbackTestCase):
    """A producer is paused when too much waits, and resumed when nothing does."""

    def setUp(self) -> None:
        """Register one."""
        super().setUp()
        self.producer = Producer()
        self.here.registerProducer(self.producer, True)

    def test_paused(self) -> None:
        """Beyond 64 KiB it is paused, once."""
        self.here.write(bytes(1 << 16))
        self.assertEqual(self.producer.told, [])
        self.here.write(b"a")
        self.here.write(b"a")
        self.assertEqual(self.producer.told, ["pause"])

    def test_resumed(self) -> None:
        """It is resumed when everything has gone, and paused anew when it is too much again."""
        for _ in range(2):
            self.producer.told.clear()
            self.here.write(bytes(100_000))
            self.loopback.run()
            self.assertEqual(self.producer.told, ["pause", "resume"])
            self.loopback.run()
            self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_not_paused(self) -> None:
        """As long as it is not too much, it is told nothing."""
        for _ in range(10):
            self.here.write(bytes(10_000))
            self.loopback.run()
        self.assertEqual(self.producer.told, [])

    def test_let_go(self) -> None:
        """One that is let go while it is paused is not resumed any more."""
        self.here.write(bytes(100_000))
        self.here.unregisterProducer()
        self.loopback.run()
        self.assertEqual(self.producer.told, ["pause"])

    def test_stopped(self) -> None:
        """When the connection is gone it is stopped, before the protocol is told."""
        told: list[str] = []
        self.client.ends = cast(Any, told)
        self.producer.told = told
        for end in (self.there.abortConnection, self.here.abortConnection):
            end()
            self.loopback.run()
        self.assertEqual(told, ["stop", ConnectionLost])

    def test_not_while_stalled(self) -> None:
        """It is not resumed as long as the other end does not read."""
        self.there.pauseProducing()
        self.here.write(bytes(100_000))
        self.loopback.run()
        self.assertEqual(self.producer.told, ["pause"])

    def test_answer_comes_first(self) -> None:
        """It is not resumed when the delivery itself has brought more to send."""

        def write_more(data: bytes) -> None:
            self.server.answer = lambda data: None
            self.here.write(b"more")

        self.server.answer = write_more
        self.here.write(bytes(100_000))
        self.here.run()
        self.assertEqual(self.producer.told, ["pause"])
        self.loopback.run()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_one_at_a_time(self) -> None:
        """A second producer is refused until the first is let go; that one hears no more."""
        second = Producer()
        self.assertRaises(RuntimeError, self.here.registerProducer, second, True)
        self.here.write(bytes(100_000))
        self.here.unregisterProducer()
        self.here.registerProducer(second, True)
        self.loopback.run()
        self.assertEqual((self.producer.told, second.told), (["pause"], ["resume"]))

    def test_none(self) -> None:
        """Without a producer nobody is told, and everything arrives."""
        self.here.unregisterProducer()
        self.here.write(bytes(100_000))
        self.loopback.run()
        self.assertEqual(sum(map(len, self.server.heard)), 100_000)
        self.assertEqual(self.producer.told, [])
