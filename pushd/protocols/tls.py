"""TLS on a connection's own socket: OpenSSL reads from it and writes to it by itself.

Twisted keeps TLS apart from sockets: a wrapper around each protocol decrypts what the transport has
read, and encrypts what the transport is to write, in two buffers in memory. Here the transport is
Twisted's own for TCP, and its socket is a ``TlsSocket``. So whatever is done with the transport of
a plain connection works with TLS as well: direct writes, the cork, fan-out groups, limits on what
waits to be sent, and closing only one direction.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from errno import ECONNABORTED, ECONNRESET, EWOULDBLOCK
from functools import cache
from typing import Any

from OpenSSL.SSL import (
    OP_IGNORE_UNEXPECTED_EOF,
    Connection,
    Context,
    Error,
    SysCallError,
    WantReadError,
    WantWriteError,
    ZeroReturnError,
)
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Connection as TcpConnection
from twisted.python.failure import Failure
from zope.interface import implementer

#: The most bytes in a record of TLS (RFC 8446 §5.1).
RECORD = 1 << 14

# Bytes that are dropped before a close.
_DROPPED = 1 << 16


class TlsSocket(Connection):
    """The server's side of a connection with TLS, with the methods and errors of a socket.

    The socket must not block. The handshake is a part of reading. One record is read at a time, so
    nothing that has arrived is hidden from the reactor, which asks the kernel.

    :param app_data: passed to the callbacks of the context.
    """

    def __init__(self, context: Context, plain: socket.socket, app_data: Any) -> None:
        super().__init__(context, plain)
        self.set_accept_state()
        self.set_app_data(app_data)
        # A FIN without a close_notify means the same to HTTP and WebSockets, whose messages know
        # their own ends (RFC 9112 §9.8), and an answer can still be sent.
        self.set_options(OP_IGNORE_UNEXPECTED_EOF)
        #: The socket below.
        self.plain = plain
        #: Whether data could not be written since the peer must go on with the handshake first.
        self.awaits_peer = False
        #: Whether reading must wait until TLS can write something of its own.
        self.awaits_room = False

    def send(self, data: Any, flags: int = 0) -> int:
        """Encrypt and send; return how many bytes were taken.

        What was not taken must be sent again before anything else: a part of its record may be on
        its way.
        """
        if self.plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # After a write that fails, OpenSSL decrypts nothing of what has arrived before.
            raise OSError(ECONNRESET, "the connection is lost")
        try:
            return self.encrypt(data) if data else 0
        except (WantReadError, WantWriteError) as reason:
            self.awaits_peer = isinstance(reason, WantReadError)
            raise BlockingIOError(EWOULDBLOCK, "TLS has to wait") from None
        except Error:
            raise OSError(ECONNRESET, "TLS cannot go on") from None

    def encrypt(self, data: Any) -> int:
        """Encrypt and send with pyOpenSSL: ``send``, with its errors."""
        return super().send(data)

    def decrypt(self, size: int) -> bytes:
        """Receive and decrypt with pyOpenSSL: ``recv``, with its errors."""
        return super().recv(size)

    def recv(self, size: int, flags: int | None = None) -> bytes:
        """Return what a record holds, or no bytes if the peer has closed its side."""
        try:
            return self.decrypt(min(size, RECORD))
        except WantReadError:
            raise BlockingIOError(EWOULDBLOCK, "nothing has arrived") from None
        except WantWriteError:
            self.awaits_room = True
            raise BlockingIOError(EWOULDBLOCK, "TLS has to write first") from None
        except ZeroReturnError:
            return b""
        except SysCallError:
            raise OSError(ECONNRESET, "the connection is lost") from None
        except Error:
            # OpenSSL has sent an alert. With input unread the kernel would send a reset instead.
            self._drop_input()
            raise OSError(ECONNABORTED, "the peer does not speak TLS as it should") from None

    def shutdown(self, how: int) -> None:  # type: ignore[override]  # As a socket has it.
        """Close our side, or both: send a close_notify, then a FIN."""
        # There is none before the handshake, and none after an error.
        with suppress(Error):
            super().shutdown()
        if how == socket.SHUT_RDWR:
            self._drop_input()
        self.plain.shutdown(how)

    def _drop_input(self) -> None:
        """Read what has arrived: a close_notify, or what follows an error."""
        with suppress(OSError):
            self.plain.recv(_DROPPED)


@implementer(ISSLTransport)
class TlsTransport(TcpConnection):
    """A transport of Twisted's whose socket is a ``TlsSocket``: reads and writes may depend.

    A mixin for the class of a port's transports.
    """

    # Not typed: Twisted types it as a plain one.
    socket: Any

    # Whether the client has closed its side, and whether ours is closed once all is sent.
    _client_finished = False
    _finishing = False

    def getPeerCertificate(self) -> Any:
        """Return the client's certificate, or None without one."""
        return self.socket.get_peer_certificate()

    def loseConnection(self) -> None:
        """Close our side once all is sent, and the connection once the client has closed its own.

        A client may send a close_notify at any moment. If it found the connection closed, it would
        get a reset, which could destroy what it has not read.
        """
        if self._client_finished:
            super().loseConnection()
        elif self.connected and not self._finishing:
            self._finishing = True
            self.startReading()
            self.loseWriteConnection()

    def readConnectionLost(self, reason: Failure) -> None:
        """Close, or have the protocol decide: the client has closed its side."""
        self._client_finished = True
        if self._finishing:
            super().loseConnection()
        else:
            super().readConnectionLost(reason)

    def doRead(self) -> Any:
        """Read; then write what had to wait for the handshake. After our end, all is dropped."""
        tls = self.socket
        why = self._read_and_drop() if self._finishing else super().doRead()
        if why is None and self.connected and (tls.awaits_peer or tls.awaits_room):
            tls.awaits_peer = False
            self.startWriting()
        return why

    def doWrite(self) -> Any:
        """Write, unless the peer must go on first. Then the socket is always ready, but useless."""
        tls, why = self.socket, None
        if tls.awaits_room:
            tls.awaits_room = False
            why = self.doRead()
        if why is None and self.connected:
            why = super().doWrite()
        if tls.awaits_peer:
            self.stopWriting()
        return why

    def _read_and_drop(self) -> Any:
        """Read what the client sends after our end, up to its own."""
        try:
            data = self.socket.recv(RECORD)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        return None if data else CONNECTION_DONE


def encrypted(
    kind: Callable[..., Any],
    context: Callable[[], Context],
    app_data: Any,
    tls_socket: type[TlsSocket] = TlsSocket,
) -> Callable[..., Any]:
    """Return what makes transports with TLS in place of those of a class.

    :param context: returns the context of the next connection.
    :param app_data: passed to the callbacks of a context.
    :param tls_socket: the class of their sockets.
    """
    transport = _with_tls(kind)

    def connect(plain: socket.socket, *arguments: Any) -> Any:
        return transport(tls_socket(context(), plain, app_data), *arguments)

    return connect


@cache
def _with_tls(kind: Any) -> Any:
    return type(f"Tls{kind.__name__}", (TlsTransport, kind), {})
