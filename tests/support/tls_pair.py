"""Both ends of a connection with TLS in memory: the daemon's transport, and a client."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL.SSL import Context
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from pushd.protocols.tls import TlsSocket, encrypted
from tests.support.certificate import make_tls_endpoint, no_warning, read_tls_endpoint

# Bytes in front of a record, which end with the length of the rest.
_RECORD_HEAD = 5


def make_context() -> Context:
    """Make the context of a port with TLS, as the daemon does."""
    with TemporaryDirectory() as folder:
        certificate = read_tls_endpoint(make_tls_endpoint(Path(folder)))
    with no_warning():
        context = certificate.context
    # Twisted's callback asks the factory of a port.
    context.set_alpn_select_callback(lambda connection, offered: offered[0])
    return context


def trusting() -> ssl.SSLContext:
    """Make a client's context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsPair:
    """A transport with TLS that runs by hand, and its client, on a pair of sockets.

    :param session: of an earlier client, to be resumed.
    :param tls_socket: the class of the transport's socket.
    """

    def __init__(
        self,
        context: Context,
        protocol: Protocol,
        client: ssl.SSLContext,
        session: ssl.SSLSession | None = None,
        tls_socket: type[TlsSocket] = TlsSocket,
    ) -> None:
        near, self.raw = socket.socketpair()
        self.raw.setblocking(False)
        self.reactor: Any = MemoryReactorClock()
        self.transport: Any = encrypted(Connection, lambda: context, None, tls_socket)(
            near, protocol, self.reactor
        )
        self.transport.connected = True
        self.transport.startReading()
        protocol.makeConnection(self.transport)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self._in, self._out, session=session)
        #: Lengths of the records that the client has received.
        self.records: list[int] = []
        #: Whether the client has seen the end of the connection.
        self.ended = False
        self._unread = b""

    def handshake(self) -> None:
        """Do the handshake, up to the tickets for later sessions."""
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.run()
        with suppress(ssl.SSLWantReadError):
            self.client.read(1)

    def send(self, data: bytes) -> None:
        """Send from the client."""
        self.client.write(data)
        self.run()

    def receive(self) -> bytes:
        """Return what has arrived at the client."""
        received = b""
        self.run()
        with suppress(ssl.SSLWantReadError):
            while data := self.client.read(1 << 16):
                received += data
        return received

    def run(self) -> None:
        """Do what the reactor does, and pass on what both sides send."""
        for _ in range(200):
            self.push()
            busy = self.turn()
            with suppress(BlockingIOError, ConnectionResetError):
                data = self.raw.recv(1 << 20)
                busy = bool(data)
                self.ended = not data
                self._count(data)
                self._in.write(data)
            if not busy:
                break

    def push(self) -> None:
        """Let the client's bytes arrive at the transport's socket."""
        if data := self._out.read():
            self.raw.sendall(data)

    def turn(self) -> bool:
        """Let the reactor run once; return whether something was ready."""
        transport, busy = self.transport, False
        for ready, act, reads in (
            (self._readable, transport.doRead, True),
            (lambda: transport in self.reactor.getWriters(), transport.doWrite, False),
        ):
            if ready():
                busy = True
                why = act()
                if why is not None:
                    self._disconnect(why, reads)
        return busy

    def _readable(self) -> bool:
        if self.transport not in self.reactor.getReaders():
            return False
        try:
            return self.transport.socket.plain.recv(1, socket.MSG_PEEK) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _disconnect(self, why: Any, reads: bool) -> None:
        """Do what the reactor does after an end or an error."""
        self.reactor.removeReader(self.transport)
        end = self.transport.readConnectionLost if reads else self.transport.connectionLost
        if reads and type(why).__name__ != "ConnectionDone":
            end = self.transport.connectionLost
        end(Failure(why))

    def _count(self, data: bytes) -> None:
        self._unread += data
        while len(self._unread) >= _RECORD_HEAD:
            length = int.from_bytes(self._unread[3:_RECORD_HEAD], "big")
            if len(self._unread) < _RECORD_HEAD + length:
                break
            self.records.append(length)
            self._unread = self._unread[_RECORD_HEAD + length :]
