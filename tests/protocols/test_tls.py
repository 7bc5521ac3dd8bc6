"""TLS on a connection's own socket, against the client of Python's ``ssl``."""

from __future__ import annotations

import socket
import ssl
from functools import cache
from typing import Any

from OpenSSL.SSL import WantWriteError
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.tls import TlsSocket
from pushd.protocols.twisted_internals import (
    DirectTlsSocket,
    lose,
    sender,
    takes_direct_writes,
    unsent,
)
from tests.support.call_counts import calls_of
from tests.support.tls_pair import TlsPair, make_context, trusting

# Function calls for one message that is sent directly, with those of C: with pyOpenSSL's own
# ``send``, and with OpenSSL's.
MOST_SEND_CALLS = {TlsSocket: 17, DirectTlsSocket: 8}


# It takes a while, as it has a key of its own.
_context = cache(make_context)


class Server(Protocol):
    """Records what it receives, and why it ends."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


@implementer(IHalfCloseableProtocol)
class HalfClosableServer(Server):
    """Goes on once the client has finished."""

    finished = False

    def readConnectionLost(self) -> None:
        self.finished = True

    def writeConnectionLost(self) -> None:
        """Do nothing: the other direction is still open."""


class TlsTests(SynchronousTestCase):
    """A transport with TLS."""

    tls_socket: type[TlsSocket] = TlsSocket

    def setUp(self) -> None:
        """Allow direct writes, and take the context of a port."""
        self.patch(FAST_PATHS, "enabled", True)
        self.context = _context()
        self.client = trusting()

    def connect(self, server: Server | None = None, **options: Any) -> TlsPair:
        """Connect a client, up to its handshake."""
        self.server = HalfClosableServer() if server is None else server
        options["tls_socket"] = self.tls_socket
        pair = TlsPair(self.context, self.server, self.client, **options)
        self.addCleanup(pair.raw.close)
        self.addCleanup(self.abort, pair)
        return pair

    @staticmethod
    def abort(pair: TlsPair) -> None:
        """Drop a connection."""
        pair.transport.connectionLost(Failure(ConnectionAborted()))

    def open(self, server: Server | None = None, **options: Any) -> TlsPair:
        """Connect a client, with its handshake."""
        pair = self.connect(server, **options)
        pair.handshake()
        pair.records.clear()
        return pair

    def test_both_ways(self) -> None:
        """What either side sends arrives at the other, encrypted."""
        pair = self.open()
        self.assertTrue(ISSLTransport.providedBy(pair.transport))
        self.assertIsNone(pair.transport.getPeerCertificate())
        pair.send(b"question")
        self.assertEqual(self.server.received, [b"question"])
        pair.transport.write(b"answer")
        self.assertEqual(pair.receive(), b"answer")
        large = bytes(range(256)) * 4096
        for start in range(0, len(large), 1 << 14):
            pair.send(large[start : start + (1 << 14)])
        self.assertEqual(b"".join(self.server.received[1:]), large)

    def test_direct_write(self) -> None:
        """A message is sent at once, in one record, and in few calls."""
        pair = self.open()
        self.assertTrue(takes_direct_writes(pair.transport))
        send = sender(pair.transport)
        assert send is not None
        taken: list[int] = []
        calls = calls_of(lambda: taken.append(send(b"x" * 128)))
        self.assertEqual(taken, [128])
        self.assertLessEqual(calls, MOST_SEND_CALLS[self.tls_socket])
        self.assertEqual(pair.receive(), b"x" * 128)
        # The type of what is inside, and a tag of 16 bytes (RFC 8446 §5.2).
        self.assertEqual(pair.records, [128 + 17])

    def test_before_the_handshake(self) -> None:
        """What is written too early waits, without keeping the reactor busy, and then arrives."""
        pair = self.connect()
        pair.transport.write(b"early")
        pair.run()
        self.assertEqual(unsent(pair.transport), 5)
        self.assertNotIn(pair.transport, pair.reactor.getWriters())
        pair.handshake()
        pair.send(b"late")
        self.assertIn(b"early", b"early" + pair.receive())
        self.assertEqual(unsent(pair.transport), 0)
        self.assertEqual(self.server.received, [b"late"])

    def test_full(self) -> None:
        """What a socket does not take is sent later, in order."""
        pair = self.open()
        cork = Cork()
        writer = cork.writer(pair.transport, self)
        pieces = [bytes([number]) * 50_000 for number in range(40)]
        for piece in pieces:
            writer.write(piece)
        self.assertTrue(self.deferred)
        self.assertGreater(unsent(pair.transport), 0)
        self.assertIsNone(sender(pair.transport))
        received = b""
        while len(received) < 40 * 50_000:
            received += pair.receive()
        self.assertEqual(received, b"".join(pieces))
        self.assertEqual(unsent(pair.transport), 0)

    deferred = 0

    def writing_deferred(self) -> None:
        """Count the calls."""
        self.deferred += 1

    def test_close(self) -> None:
        """A close sends a close_notify and a FIN, and what has arrived causes no reset."""
        pair = self.open()
        pair.client.write(b"unread")
        pair.push()
        lose(pair.transport)
        self.assertTrue(self.server.lost[0].check(ConnectionDone))
        self.assertEqual(pair.receive(), b"")
        self.assertTrue(pair.ended)
        # Without a close_notify it would raise.
        self.assertEqual(pair.client.read(1), b"")

    def test_abort(self) -> None:
        """An abort sends no close_notify: the client must not take it for the end of the data."""
        pair = self.open()
        self.abort(pair)
        pair.run()
        self.assertEqual(pair.records, [])

    def test_half_close(self) -> None:
        """The daemon can close its side only; the client's close_notify then ends it."""
        pair = self.open()
        pair.transport.loseWriteConnection()
        self.assertEqual(pair.receive(), b"")
        self.assertTrue(pair.ended)
        pair.send(b"more")
        self.assertEqual(self.server.received, [b"more"])
        self.assertEqual(self.server.lost, [])

    def test_client_finishes(self) -> None:
        """A close_notify, or a FIN alone, closes one direction; the answer can still be sent."""
        for notify in (True, False):
            pair = self.open()
            if notify:
                self.assertRaises(ssl.SSLWantReadError, pair.client.unwrap)
                pair.push()
            else:
                pair.raw.shutdown(socket.SHUT_WR)
            pair.run()
            server: Any = self.server
            self.assertTrue(server.finished)
            self.assertEqual(server.lost, [])
            pair.transport.write(b"answer")
            self.assertEqual(pair.receive(), b"answer")

    def test_lingers(self) -> None:
        """An orderly close of ours waits until the client has closed its side, if it has not."""
        for first in (True, False):
            pair = self.open()
            if not first:
                pair.raw.shutdown(socket.SHUT_WR)
                pair.run()
            pair.transport.write(b"answer")
            pair.transport.loseConnection()
            pair.transport.loseConnection()
            self.assertEqual(pair.receive(), b"answer")
            self.assertTrue(pair.ended)
            if first:
                self.assertEqual(self.server.lost, [])
                pair.send(b"unheard")
                self.assertEqual(self.server.received, [])
                pair.raw.shutdown(socket.SHUT_WR)
                pair.run()
                pair.reactor.advance(0)
            self.assertTrue(self.server.lost[0].check(ConnectionDone))

    def test_reset_after_our_end(self) -> None:
        """A client that resets the connection instead ends it, too."""
        pair = self.open()
        pair.transport.loseConnection()
        pair.transport.doWrite()
        self.assertIsNone(pair.transport.doRead())
        pair.raw.close()
        self.assertIsInstance(pair.transport.doRead(), ConnectionLost)

    def test_end(self) -> None:
        """For a protocol that is not half-closable, either is the end."""
        pair = self.open(Server())
        pair.raw.shutdown(socket.SHUT_WR)
        pair.run()
        self.assertTrue(self.server.lost[0].check(ConnectionDone))

    def test_no_tls(self) -> None:
        """Bytes that are not TLS end the connection with an alert; what follows is dropped."""
        pair = self.connect()
        pair.raw.sendall(b"\x16\x03\x01\x00\x05hello\r\nHost: x\r\n\r\n")
        pair.turn()
        self.assertTrue(self.server.lost[0].check(ConnectionLost))
        # A reset would raise here.
        self.assertNotEqual(pair.raw.recv(100), b"")
        self.assertEqual(pair.raw.recv(100), b"")

    def test_write_after_end(self) -> None:
        """Nothing can be sent behind our own end."""
        pair = self.open()
        pair.transport.socket.shutdown(socket.SHUT_WR)
        with self.assertRaisesRegex(OSError, "TLS cannot go on"):
            pair.transport.socket.send(b"x")

    def test_reset(self) -> None:
        """A connection that the client has reset is lost, whether it is read or written to."""
        for reads in (True, False):
            pair = self.open()
            pair.transport.socket.send(b"unread")
            pair.raw.close()
            transport = pair.transport
            if reads:
                self.assertIsInstance(transport.doRead(), ConnectionLost)
            else:
                self.assertIsInstance(transport.writeSomeData(b"x"), ConnectionLost)

    def test_needs_room(self) -> None:
        """If TLS must write before it can read, it reads on once the socket is writable."""
        pair = self.open()
        full = [WantWriteError()]
        decrypt = self.tls_socket.decrypt

        def receive(connection: Any, size: int) -> bytes:
            if full:
                raise full.pop()
            return decrypt(connection, size)

        self.patch(self.tls_socket, "decrypt", receive)
        pair.client.write(b"question")
        pair.push()
        self.assertIsNone(pair.transport.doRead())
        self.assertIn(pair.transport, pair.reactor.getWriters())
        pair.transport.doWrite()
        self.assertEqual(self.server.received, [b"question"])
        self.assertNotIn(pair.transport, pair.reactor.getWriters())

    def test_ends_while_room_is_needed(self) -> None:
        """If what is then read is the end, nothing is written."""
        pair = self.open()
        pair.transport.socket.awaits_room = True
        pair.raw.shutdown(socket.SHUT_WR)
        self.assertIsInstance(pair.transport.doWrite(), ConnectionDone)

    def test_resume(self) -> None:
        """A client that comes back resumes its session, with TLS 1.2 and 1.3."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            self.client.maximum_version = version
            first = self.open()
            self.assertFalse(first.client.session_reused)
            second = self.open(session=first.client.session)
            self.assertTrue(second.client.session_reused)
            second.send(b"again")
            self.assertEqual(self.server.received, [b"again"])

    def test_cipher(self) -> None:
        """TLS 1.3 uses the cipher whose handshake is the cheapest."""
        cipher = self.open().client.cipher()
        assert cipher is not None
        self.assertEqual(cipher[0], "TLS_AES_128_GCM_SHA256")


class DirectTests(TlsTests):
    """The same, with OpenSSL's own ``SSL_write`` and ``SSL_read``."""

    tls_socket = DirectTlsSocket

    def test_kinds(self) -> None:
        """What is not ``bytes`` is left to pyOpenSSL, and no bytes are not written."""
        pair = self.open()
        for data in (memoryview(b"abc")[1:], bytearray(b"d"), b"", b"e"):
            self.assertEqual(pair.transport.socket.send(data), len(data))
        self.assertEqual(pair.receive(), b"bcde")

    def test_errors_of_others(self) -> None:
        """An error of one connection is not found by the next."""
        broken, pair = self.open(), self.open()
        broken.transport.socket.shutdown(socket.SHUT_WR)
        for _ in range(2):
            with self.assertRaisesRegex(OSError, "TLS cannot go on"):
                broken.transport.socket.send(b"x")
            self.assertIsNone(pair.transport.doRead())
            pair.transport.socket.send(b"more")
        self.assertEqual(pair.receive(), b"moremore")

    def test_buffer(self) -> None:
        """What was read stays as it was while others read into the same buffer."""
        first, second = self.open(first_server := Server()), self.open(second_server := Server())
        first.send(b"one")
        second.send(b"other")
        first.send(b"two")
        self.assertEqual(first_server.received, [b"one", b"two"])
        self.assertEqual(second_server.received, [b"other"])
