"""A network in memory: connections whose two ends are in one process."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

# Bytes beyond which a producer is paused, as in twisted.internet.abstract.FileDescriptor.
_BUFFER = 1 << 16


@implementer(ITCPTransport, IPushProducer)
class MemoryTransport:
    """One end of a connection. What is written arrives when ``MemoryNetwork.run`` is called.

    It behaves as Twisted's TCP transport does: ``loseConnection`` waits until everything written
    has been sent, ``abortConnection`` does not, and a full buffer pauses the producer.
    """

    disconnecting = False
    connected = True
    # Whether this side is to be closed once everything was sent, and whether it is.
    _finishing = False
    _finished = False

    def __init__(self, host: Any, peer: Any) -> None:
        self._host = host
        self._peer = peer
        self._unsent = bytearray()
        self._producer: Any = None
        self._producer_paused = False
        self.protocol: Any = None
        self.other: MemoryTransport = self
        self.reading_paused = False
        self.no_delay = False
        self.lost: Failure | None = None

    # What protocols call

    def write(self, data: bytes) -> None:
        """Buffer data, to be delivered later."""
        if self.connected and not self.disconnecting and not self._finishing:
            self._unsent += data
            if len(self._unsent) > _BUFFER and self._producer and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Buffer data given in pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once everything has been sent."""
        self.disconnecting = True

    def abortConnection(self) -> None:
        """Close at once."""
        if self.lost is None:
            self.clear_unsent()
            self.lose(ConnectionAborted())
            self.other.lose(ConnectionLost())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Register a producer, to be paused when the buffer is full; one at a time."""
        if self._producer is not None:
            raise RuntimeError(f"there is a producer already: {self._producer}")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Remove the producer."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Stop reading."""
        self.reading_paused = True

    def resumeProducing(self) -> None:
        """Start reading again."""
        self.reading_paused = False

    def stopProducing(self) -> None:
        """Close, as the consumer is gone."""
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        """Return the address of the other end."""
        return cast(IPv4Address, self._peer)

    def getHost(self) -> IPv4Address:
        """Return the address of this end."""
        return cast(IPv4Address, self._host)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Remember what a socket would be set to."""
        self.no_delay = bool(enabled)

    def getTcpNoDelay(self) -> bool:
        """Return what a socket would be set to."""
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: there is no network that could fail."""

    def getTcpKeepAlive(self) -> bool:
        """Return False."""
        return False

    def loseWriteConnection(self) -> None:
        """Close this side once everything has been sent; the other end may still send."""
        self._finishing = True

    # What the network calls

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not read."""
        return len(self._unsent)

    @property
    def _reads(self) -> bool:
        return not self.reading_paused and not self.disconnecting

    def lose(self, error: Exception) -> None:
        """Mark the connection as lost; ``run`` calls connectionLost."""
        self.lost = Failure(error)

    def take(self, count: int) -> None:
        """Let the other end read up to a number of bytes, also if its reading is paused."""
        data = bytes(self._unsent[:count])
        del self._unsent[:count]
        self.other.protocol.dataReceived(data)
        self._ask_for_more()

    def clear_unsent(self) -> bytes:
        """Remove and return what the other end has not read."""
        data = bytes(self._unsent)
        self._unsent.clear()
        return data

    def _ask_for_more(self) -> None:
        """Resume a producer that was paused, once everything has been read."""
        if self._producer_paused and self._producer and not self._unsent:
            self._producer_paused = False
            self._producer.resumeProducing()

    def run(self) -> bool:
        """Deliver what can be delivered; return True if anything happened."""
        if self._unsent and self.other._reads and self.other.lost is None:
            self.other.protocol.dataReceived(self.clear_unsent())
            self._ask_for_more()
            return True
        if self._finishing and not self._finished and not self._unsent and self.other._reads:
            self._finished = True
            self._end_reading_of_other()
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

    def _end_reading_of_other(self) -> None:
        """Tell the other end that nothing more comes: unless it is half-closable, both close."""
        protocol: Any = IHalfCloseableProtocol(self.other.protocol, None)
        if protocol is not None:
            protocol.readConnectionLost()
        else:
            self.other.lose(ConnectionDone())
            self.lose(ConnectionDone())


class MemoryNetwork:
    """All connections of a daemon in memory."""

    def __init__(self) -> None:
        self._transports: list[MemoryTransport] = []
        self._port = 50_000

    def connect(self, server: Any, client: Any, address: IAddress | None = None) -> MemoryTransport:
        """Connect a client's protocol to a server's factory; return the client's end.

        :param address: of the client; None for a new port of 127.0.0.1.
        """
        self._port += 1
        here = address or IPv4Address("TCP", "127.0.0.1", self._port)
        there = IPv4Address("TCP", "127.0.0.1", 8080)
        ours, theirs = MemoryTransport(here, there), MemoryTransport(there, here)
        ours.other, theirs.other = theirs, ours
        ours.protocol, theirs.protocol = client, server.buildProtocol(here) or Protocol()
        self._transports += [ours, theirs]
        theirs.protocol.makeConnection(theirs)
        client.makeConnection(ours)
        if type(theirs.protocol) is Protocol:
            theirs.abortConnection()  # As Twisted does if there is no protocol.
        return ours

    def cut(self) -> None:
        """Abort every connection, as the exit of a process does."""
        for transport in self._transports:
            transport.abortConnection()

    def run(self) -> None:
        """Deliver everything, and all that this causes."""
        busy = True
        while busy:
            # Each transport delivers once per round, so that none starves another.
            delivered = [transport.run() for transport in self._transports]
            busy = any(delivered)
            self._transports = [one for one in self._transports if one.connected]
