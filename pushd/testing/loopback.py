"""Connections in memory, for tests: two transports, and nothing between them but order."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

# As twisted.internet.abstract.FileDescriptor has it: a producer is paused beyond this, in bytes.
_BUFFER = 1 << 16


@implementer(ITCPTransport, IPushProducer)
class LoopbackTransport:
    """One end of a connection. What is written arrives when the loopback is run, not before.

    It keeps the habits of Twisted's TCP transport: ``loseConnection`` waits for what is
    written, ``abortConnection`` does not, a producer is paused when too much waits.
    """

    disconnecting = False
    connected = True

    def __init__(self, host: IPv4Address, peer: IPv4Address) -> None:
        self._host = host
        self._peer = peer
        self._unsent = bytearray()
        self._producer: Any = None
        self._producer_paused = False
        self.protocol: Any = None
        self.other: LoopbackTransport = self
        self.reading_paused = False
        self.no_delay = False
        self.lost: Failure | None = None

    # What protocols call

    def write(self, data: bytes) -> None:
        """Take data to be sent."""
        if self.connected and not self.disconnecting:
            self._unsent += data
            if len(self._unsent) > _BUFFER and self._producer and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Take data in pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once everything is sent."""
        self.disconnecting = True

    def abortConnection(self) -> None:
        """Close at once."""
        if self.lost is None:
            self._unsent.clear()
            self.lose(ConnectionAborted())
            self.other.lose(ConnectionLost())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take a producer, to be paused when too much waits; one at a time."""
        if self._producer is not None:
            raise RuntimeError(f"there is a producer already: {self._producer}")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Let the producer go."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Read no more."""
        self.reading_paused = True

    def resumeProducing(self) -> None:
        """Read on."""
        self.reading_paused = False

    def stopProducing(self) -> None:
        """Close, as nobody wants to read."""
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        """Where the other end is."""
        return self._peer

    def getHost(self) -> IPv4Address:
        """Where this end is."""
        return self._host

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Note what would be set on the socket."""
        self.no_delay = bool(enabled)

    def getTcpNoDelay(self) -> bool:
        """What would be set on the socket."""
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: memory does not go away."""

    def getTcpKeepAlive(self) -> bool:
        """Never."""
        return False

    def loseWriteConnection(self) -> None:
        """Close our way, once everything is sent; the other end sees that it is over."""
        self.loseConnection()

    # What the loopback calls

    @property
    def unsent(self) -> int:
        """How many bytes wait for the other end to read them."""
        return len(self._unsent)

    @property
    def _reads(self) -> bool:
        return not self.reading_paused and not self.disconnecting

    def lose(self, error: Exception) -> None:
        """Note that the connection is gone; the protocol is told in turn."""
        self.lost = Failure(error)

    def run(self) -> bool:
        """Deliver what can be delivered. Returns whether anything happened."""
        if self._unsent and self.other._reads and self.other.lost is None:
            data = bytes(self._unsent)
            self._unsent.clear()
            self.other.protocol.dataReceived(data)
            if self._producer_paused and self._producer and not self._unsent:
                self._producer_paused = False
                self._producer.resumeProducing()
            return True
        if self.disconnecting and not self._unsent and self.lost is None:
            self.lose(ConnectionDone())
            self.other.lose(ConnectionDone())
        if self.lost is not None and self.connected:
            self.connected = False
            producer, self._producer = self._producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(self.lost)
            return True
        return False


class Loopback:
    """All connections in memory."""

    def __init__(self) -> None:
        self._transports: list[LoopbackTransport] = []
        self._port = 50_000

    def connect(self, server: Any, client: Any) -> LoopbackTransport:
        """Connect a server's factory with a client's protocol; returns the client's end."""
        self._port += 1
        here = IPv4Address("TCP", "127.0.0.1", self._port)
        there = IPv4Address("TCP", "127.0.0.1", 8080)
        ours, theirs = LoopbackTransport(here, there), LoopbackTransport(there, here)
        ours.other, theirs.other = theirs, ours
        ours.protocol, theirs.protocol = client, server.buildProtocol(here) or Protocol()
        self._transports += [ours, theirs]
        theirs.protocol.makeConnection(theirs)
        client.makeConnection(ours)
        if type(theirs.protocol) is Protocol:
            theirs.abortConnection()  # As Twisted does with a connection that nobody wants.
        return ours

    def cut(self) -> None:
        """End every connection, as the end of a process does."""
        for transport in self._transports:
            transport.abortConnection()

    def run(self) -> None:
        """Deliver everything, and what comes of it, until all is quiet."""
        busy = True
        while busy:
            # Every transport has its turn, so none starves another.
            turns = [transport.run() for transport in self._transports]
            busy = any(turns)
            self._transports = [one for one in self._transports if one.connected]
