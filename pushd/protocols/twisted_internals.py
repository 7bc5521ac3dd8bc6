"""All uses of private names of Twisted in this room: those of its transports and HTTP channel.

And those of pyOpenSSL, on which Twisted's TLS is built.

There are two reasons for them.

**Fast paths** save time, and fall back to the public way (``pushd.protocols.fast_paths``):

* *direct writes* (``DirectWriter``, ``sender``, ``write_at_once``, ``lose``): data goes to the
  socket by one system call at once, where a transport's own ``write`` waits until the reactor finds
  the socket writable, which takes three. Needs to know that the transport's buffer is empty.
* *direct TLS* (``encrypt_directly``): OpenSSL reads from and writes to a connection's socket
  (``pushd.protocols.tls``), which halves the cost of a delivery over TLS.
* *direct encryption* (``DirectTlsSocket``): a write or a read is one call of OpenSSL's. What
  pyOpenSSL does around a write takes longer than to encrypt a short message; and for each read it
  allocates 16 KiB.
* *whole heads* (``HTTPChannelAdapter.handle``): a head that was parsed in one piece skips
  twisted.web's parser, which saves 60 µs a handshake.
* *direct starts* (``HTTPChannelAdapter.connectionMade``): a connection begins without setting an
  option that its socket has from its port, and without looking for adapters of its transport.

**Requirements** have no public way: ``unsent``, ``receive_rest``, half-closed TLS connections,
ALPN, and the rest of ``HTTPChannelAdapter``. They do not depend on ``--fast-paths``;
``check_requirements``, ``pass_half_closes`` and ``prepare_tls`` log which of them a
version of Twisted lacks.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from fcntl import ioctl
from functools import cache
from termios import TIOCOUTQ
from types import SimpleNamespace
from typing import Any, Protocol

from OpenSSL import SSL
from OpenSSL.SSL import OP_NO_TICKET, Context
from OpenSSL.SSL import Error as TlsError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol as TransportProtocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Connection, Port
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import HTTPChannel, Request

from pushd.protocols.certificate import LiveCertificate
from pushd.protocols.fast_paths import FAST_PATHS, missing
from pushd.protocols.tls import RECORD, TlsSocket, encrypted

_log = Logger(namespace="pushd.protocols")

# Memory of a piece of data in a transport's buffer beside its bytes.
_PIECE_OVERHEAD = 48


def unsent(transport: Any) -> int:
    """Return how many bytes were written to a transport that the kernel has not taken.

    Required: Twisted tells a producer only that they are too many. A transport of another kind
    may have a number of its own as ``unsent``; else it counts as empty.
    """
    if isinstance(transport, ProtocolWrapper):
        # TLS buffers what it cannot encrypt yet, and joins small writes of one reactor iteration.
        waiting: list[bytes] = vars(transport).get("_appSendBuffer", [])
        joined: list[bytes] = getattr(vars(transport).get("_aggregator"), "_buffer", [])
        return unsent(transport.transport) + sum(map(len, waiting)) + sum(map(len, joined))
    try:
        size: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    except AttributeError:
        size = getattr(transport, "unsent", 0)
    return size


def buffered(transport: Any) -> int:
    """Return the memory that a transport's buffer takes.

    Required, as ``unsent``. Thousands of tiny writes take far more memory than they have bytes. And
    of a large write, Twisted keeps all until the kernel has taken all.
    """
    waiting = unsent(transport)
    if not waiting:
        return 0
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    pieces = len(getattr(transport, "_tempDataBuffer", ()))
    return waiting + getattr(transport, "offset", 0) + _PIECE_OVERHEAD * pieces


def untaken(transport: Any) -> int:
    """Return how many bytes were written to a transport that its peer's kernel has not taken.

    The kernel's own send buffer grows to 4 MiB. It takes more only when a third of it is free, so a
    transport's buffer may be unchanged for minutes while a slow peer reads from the kernel's.
    Linux tells how full that is (TIOCOUTQ in tcp(7)); elsewhere it counts as empty.
    """
    return unsent(transport) + _unsent_by_kernel(transport)


def _unsent_by_kernel(transport: Any) -> int:
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    try:
        ioctl(transport.fileno(), TIOCOUTQ, _SIZE)
    except (AttributeError, OSError, ValueError):  # Not a socket, or not a connected one.
        return 0
    return int.from_bytes(_SIZE, sys.byteorder)


# Where the kernel writes a size, as an int of C.
_SIZE = bytearray(4)


def receive_rest(transport: Any) -> int:
    """Let a connection that is lost deliver a piece of what its kernel has received before.

    Returns the number of bytes; 0 if there are no more. What cannot be decrypted is dropped.

    Required: Twisted reads nothing more from a connection that was lost while writing. It calls the
    producer's ``stopProducing`` before it closes the socket: that is the time for this.
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    try:
        data: bytes = transport.socket.recv(_PIECE)
    except (AttributeError, OSError):  # Not a socket, or an empty one.
        return 0
    if data:
        # TLS and the PROXY protocol may be in between.
        transport.protocol.dataReceived(data)
    return len(data)


# Bytes that Twisted reads at a time.
_PIECE = Connection.bufferSize


class WriteListener(Protocol):
    """Notified by a ``DirectWriter``."""

    def writing_deferred(self) -> None:
        """Called when the kernel did not take all: the rest waits in the transport's buffer."""


# Flag of the last write before a close, which then leaves in the same segment (Linux only).
LAST = int(getattr(socket, "MSG_MORE", 0))


class DirectWriter:
    """Writes to a transport's socket at once; the transport writes what the kernel does not take.

    It is for transports of which ``takes_direct_writes`` is true.
    """

    __slots__ = ("_listener", "_socket", "transport")

    def __init__(self, transport: Any, listener: WriteListener) -> None:
        self.transport = transport
        self._listener = listener
        # The socket, as long as the transport's buffer is empty. To look at the transport each
        # time costs five more cache misses, for each of thousands.
        self._socket: Any = None

    def write_now(self, data: bytes, flags: int = 0) -> None:
        """Write now. Data for a connection that is lost is dropped.

        :param flags: for the system call.
        """
        direct = self._socket or self._find_socket()
        if direct is None:
            self.transport.write(data)
            return
        try:
            sent = direct.send(data, flags)
        except OSError:
            # The kernel's buffer is full, or the connection lost: the transport deals with both.
            sent = 0
        if sent < len(data):
            self._socket = None
            self._listener.writing_deferred()
            self.transport.write(data[sent:])

    def _find_socket(self) -> Any:
        """Return the socket, or None while the transport has data that must go first."""
        transport = self.transport
        if transport.connected and _is_empty(transport):
            self._socket = transport.socket
        return self._socket


def sender(transport: Any) -> Callable[[bytes], int] | None:
    """Return the ``send`` of a transport's socket if the transport's buffer is empty, else None.

    It may be used until the connection ends or a ``DirectWriter`` notifies its listener. Until
    then nothing may be written to the transport in another way.
    """
    if not (takes_direct_writes(transport) and _is_empty(transport)):
        return None
    send: Callable[[bytes], int] = transport.socket.send
    return send


class _OrderlyClose(Failure):
    """The reason of every connection that is closed in order.

    Twisted asks at each end whether it is an abort: only the first time must that be found out.
    """

    def check(self, *errorTypes: Any) -> Any:
        return _check_done(*errorTypes)


#: Reason of a connection that was closed in order.
DONE = _OrderlyClose(ConnectionDone())


@cache
def _check_done(*kinds: Any) -> Any:
    return Failure.check(DONE, *kinds)


def write_at_once(transport: Any, data: bytes) -> None:
    """Write to a transport's socket at once, if its buffer is empty and the socket takes it.

    A ``DirectWriter`` is faster, for those who write often.
    """
    send = sender(transport)
    if send is None or not transport.connected:
        transport.write(data)
        return
    try:
        sent = send(data)
    except OSError:
        sent = 0  # As in write_now.
    if sent < len(data):
        transport.write(data[sent:])


def lose(transport: Any) -> bool:
    """Close a connection after all is sent; with an empty buffer, before this returns.

    Returns whether it is closed now. Twisted's ``loseConnection`` waits in any case until the
    reactor finds the socket writable.
    """
    if takes_direct_writes(transport) and transport.connected and _is_empty(transport):
        transport.connectionLost(DONE)
        return True
    transport.loseConnection()
    return False


def _is_empty(transport: Any) -> bool:
    """Whether nothing waits in the buffer of a transport that takes direct writes: see unsent."""
    return not transport._tempDataLen and transport.offset == len(transport.dataBuffer)


def takes_direct_writes(transport: Any) -> bool:
    """Whether a transport is Twisted's own for plain TCP or Unix sockets, and fast paths are on."""
    if not (issubclass(type(transport), Connection) and FAST_PATHS.enabled) or transport.TLS:
        return False
    lacking = _lacking_in_transports()
    return not lacking or FAST_PATHS.allow("direct writes", lacking)


def closes_halfway(transport: Any) -> bool:
    """Whether a transport can close our side alone; Twisted's TLS says goodbye for both."""
    return not (isinstance(transport, ProtocolWrapper) and ISSLTransport.providedBy(transport))


class _HalfClosableWrapper(ProtocolWrapper):
    """A wrapper, such as that of the PROXY protocol, that is half-closable if its protocol is."""

    def __conform__(self, interface: Any) -> Any:
        if interface is IHalfCloseableProtocol:
            return IHalfCloseableProtocol(self.wrappedProtocol, None)
        return None


class _EndOfData(Exception):
    """The peer has sent its close_notify."""


# Not typed: the methods of Twisted's TLS wrapper that these override are private.
_AnyWrapper: Any = ProtocolWrapper


class _HalfClosableTLS(_AnyWrapper):
    """The wrapper of TLS, if the protocol inside may go on after the peer's close_notify.

    TLS 1.3 allows to write after the peer has finished (RFC 8446 §6.1), and OpenSSL does so in all
    versions. Twisted would answer a close_notify with its own, and drop what is written later. A
    FIN without a close_notify means the same to HTTP, whose messages know their own ends
    (RFC 9112 §9.8).
    """

    # Whether the peer has sent a FIN, so that no answer to our close_notify can come.
    _fin_received = False

    def __conform__(self, interface: Any) -> Any:
        halfway = interface is IHalfCloseableProtocol and self._half_closable is not None
        return self if halfway else None

    def readConnectionLost(self) -> None:
        """Pass on a FIN."""
        self._fin_received = True
        self._half_closable.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Do nothing: only TLS itself closes the connection below it."""

    @property
    def _half_closable(self) -> Any:
        return IHalfCloseableProtocol(self.wrappedProtocol, None)

    def _shutdownTLS(self) -> None:
        # Only a close_notify causes this unless we are closing ourselves.
        if not self.disconnecting and self._half_closable is not None:
            raise _EndOfData
        super()._shutdownTLS()
        if self._fin_received:
            self.transport.loseConnection()

    def _flushReceiveBIO(self) -> None:
        try:
            super()._flushReceiveBIO()
        except _EndOfData:
            self._half_closable.readConnectionLost()
            self._flushSendBIO()


# What _HalfClosableTLS relies on.
_TLS_METHODS = ("_shutdownTLS", "_flushReceiveBIO", "_flushSendBIO")


def pass_half_closes(factory: Any) -> None:
    """Let the wrappers of a port pass on that a client has closed its side of the connection.

    Required: Twisted's wrappers, for TLS and for the PROXY protocol, take that for the end of the
    whole connection, and the answer would be lost.

    :param factory: of the port; ours is inside if it is wrapped.
    """
    while isinstance(factory, WrappingFactory):
        factory.protocol = _half_closable(factory.protocol)
        factory = factory.wrappedFactory


@cache
def _half_closable(wrapper: Any) -> Any:
    """Return a subclass of a wrapper that passes on half-closes."""
    mixin: Any = _HalfClosableWrapper
    if hasattr(wrapper, "getPeerCertificate"):  # TLS
        lacking = missing(wrapper, _TLS_METHODS)
        FAST_PATHS.require("answers over half-closed TLS connections", lacking)
        if lacking:
            return wrapper
        mixin = _HalfClosableTLS
    return type(wrapper.__name__, (mixin, wrapper), {})


def prepare_tls(endpoint: Any) -> LiveCertificate | None:
    """Let clients of an endpoint with TLS resume sessions, and learn that no protocol suits both.

    Returns its certificate, which can be replaced; None for other endpoints.

    Required: after ALPN the alert must be no_application_protocol (RFC 7301 §3.2), which says why;
    Twisted sends internal_error. And a resumed handshake takes half of the CPU. A context cannot be
    changed once it is complete, and Twisted completes it when it makes it.
    """
    options = getattr(endpoint, "_sslContextFactory", None)
    if not isinstance(options, CertificateOptions):
        return None
    lacking = missing(options, ["_contextFactory"])
    feature = "resumed TLS sessions and the alert no_application_protocol"
    FAST_PATHS.require(feature, lacking)
    options._contextFactory = _SiteContext
    certificate = LiveCertificate(options)
    endpoint._sslContextFactory = certificate
    return certificate


# The ciphers of TLS 1.3, in the order that Mozilla recommends.
_TLS13 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


class _SiteContext(Context):
    """A context of TLS whose clients can resume their sessions, and learn why ALPN failed."""

    def __init__(self, method: int) -> None:
        super().__init__(method)
        # SHA-256 makes a resumed handshake a tenth cheaper than SHA-384, which OpenSSL prefers.
        self.set_tls13_ciphersuites(_TLS13)

    def set_options(self, options: int) -> int:
        """Set options, except the one that keeps clients from resuming their sessions."""
        return super().set_options(options & ~OP_NO_TICKET)

    def set_alpn_select_callback(self, callback: Callable[[Any, list[bytes]], Any]) -> None:
        """Set the callback; if it returns no protocol, the client gets an alert.

        Where that is not possible, ALPN is left out. All clients then speak HTTP/1.1 without it.
        """

        def select(connection: Any, offered: list[bytes]) -> Any:
            selected = callback(connection, offered)
            if not selected:
                # OpenSSL makes the alert of it, and Twisted the end of the connection.
                raise TlsError([("", "", "no application protocol")])
            return selected

        try:
            super().set_alpn_select_callback(select)
        except MemoryError:
            # cffi calls Python by way of such memory.
            _log.info(
                "TLS without ALPN, as no memory may be writable and executable "
                "(MemoryDenyWriteExecute=): clients speak HTTP/1.1 all the same",
                event="alpn_off",
            )


def encrypt_directly(port: Any, certificate: LiveCertificate) -> None:
    """Let OpenSSL read from and write to the sockets of a port with TLS.

    Behind the PROXY protocol TLS is left to Twisted.
    """
    factory = getattr(port, "factory", None)
    if not (isinstance(port, Port) and isinstance(factory, TLSMemoryBIOFactory)):
        return
    if FAST_PATHS.allow("direct TLS", missing(TlsSocket, ["set_options"])):
        # What Twisted's callbacks of a context ask, for ALPN and for the name of the server.
        asked: Any = SimpleNamespace(factory=factory, abortConnection=lambda: None)
        transport: Any = encrypted(
            port.transport, lambda: certificate.context, asked, tls_socket_class()
        )
        port.transport = transport
        port.factory = factory.wrappedFactory


class DirectTlsSocket(TlsSocket):
    """A ``TlsSocket`` that calls OpenSSL's ``SSL_write`` and ``SSL_read`` itself.

    All read into the same buffer: for the reactor's thread only.
    """

    _ssl: Any

    def encrypt(self, data: Any) -> int:
        """Encrypt and send; see ``TlsSocket.encrypt``."""
        if type(data) is not bytes:
            return super().encrypt(data)
        written: int = _openssl.SSL_write(self._ssl, data, len(data))
        if written <= 0:
            self._raise_ssl_error(self._ssl, written)
        return written

    def decrypt(self, size: int) -> bytes:
        """Receive and decrypt; see ``TlsSocket.decrypt``."""
        buffer, view = _record_buffer()
        read: int = _openssl.SSL_read(self._ssl, buffer, size)
        if read <= 0:
            self._raise_ssl_error(self._ssl, read)
        data: bytes = view[:read]
        return data


# What cffi makes of OpenSSL, and cffi; neither has types.
_openssl: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)


@cache
def _record_buffer() -> tuple[Any, Any]:
    """Return a buffer for a record of TLS, and what makes bytes of it."""
    buffer = _ffi.new("char[]", RECORD)
    return buffer, _ffi.buffer(buffer)


def tls_socket_class() -> type[TlsSocket]:
    """Return the class of sockets with TLS that this version of pyOpenSSL allows."""
    probe = SSL.Connection(Context(SSL.TLS_SERVER_METHOD))
    lacking = missing(probe, ["_ssl", "_raise_ssl_error"])
    lacking += missing(_openssl, ["SSL_read", "SSL_write"]) + missing(_ffi, ["buffer", "new"])
    return DirectTlsSocket if FAST_PATHS.allow("direct encryption", lacking) else TlsSocket


class HTTPChannelAdapter(HTTPChannel):
    """twisted.web's HTTPChannel, with public names for what has none."""

    def connectionMade(self) -> None:
        """Register with the transport, to be paused while its buffer is full."""
        transport: Any = self.transport
        lacking = _lacking_in_channels()
        if (
            isinstance(transport, Connection)
            and FAST_PATHS.enabled
            and (not lacking or FAST_PATHS.allow("direct starts", lacking))
        ):
            self._networkProducer = transport
            transport.registerProducer(self, True)
        else:
            super().connectionMade()

    def malformed(self) -> None:
        """Called for a request that twisted.web finds malformed.

        Required: twisted.web would write an answer of its own, and nothing to our log.
        """

    @property
    def unparsed_bytes(self) -> int:
        """How many bytes have arrived and were not parsed: of a head, or of further requests.

        Required: both parsers keep them for themselves.
        """
        return len(self._buffer) + sum(map(len, self._dataBuffer))

    @property
    def trailer(self) -> Sequence[bytes]:
        """The lines behind the last chunk of a body.

        Required: twisted.web drops them without a look.
        """
        lines: Sequence[bytes] = getattr(self._transferDecoder, "_trailerHeaders", ())
        return lines

    def take_following(self) -> bytes:
        """Take the bytes that came behind the request that is being answered.

        Required: after a handshake they are a WebSocket's first frames.
        """
        if not self._dataBuffer:
            return b""
        following = b"".join(self._dataBuffer)
        self._dataBuffer.clear()
        return following

    @classmethod
    def can_handle(cls) -> bool:
        """Whether ``handle`` may be called: it is a fast path."""
        return FAST_PATHS.allow("whole heads", missing(cls(), ["_handlingRequest"]))

    def handle(self, request: Request) -> None:
        """Go on as if twisted.web had parsed this request: what comes now waits behind it."""
        self.requests.append(request)
        self._handlingRequest = True
        self.setRawMode()

    def handled(self) -> bool:
        """Undo ``handle`` once all is written; return False if more has arrived meanwhile.

        It is what ``requestDone`` does if nothing has.
        """
        if self._dataBuffer:
            return False
        self.requests.clear()
        self._handlingRequest = False
        self.setLineMode()
        return True

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.malformed()


def check_requirements() -> None:
    """Log what this version of Twisted lacks of the private names that have no public way."""
    decoder = getattr(http, "_ChunkedTransferDecoder", lambda *callbacks: None)(id, id)
    names = ["_respondToBadRequestAndDisconnect", "_dataBuffer", "_transferDecoder"]
    lacking = missing(HTTPChannel(), names) + missing(decoder, ["_trailerHeaders"])
    FAST_PATHS.require("strict parsing of requests", lacking)
    FAST_PATHS.require("limits on unsent data", _lacking_in_transports())


@cache
def _lacking_in_channels() -> tuple[str, ...]:
    """Return what direct starts need of a channel that has a connection, and do not find."""
    probe: Any = HTTPChannel()
    probe.makeConnection(SimpleNamespace(registerProducer=lambda producer, streaming: None))
    return tuple(missing(probe, ["_networkProducer"]))


@cache
def _lacking_in_transports() -> tuple[str, ...]:
    """Return what ``unsent`` and direct writes need of a transport and do not find."""
    with socket.socket() as unconnected:
        idle: Any = SimpleNamespace(addWriter=lambda transport: None)
        probe = Connection(unconnected, TransportProtocol(), idle)
        probe.connected = True
        lacking = missing(probe, ["TLS", "socket", "dataBuffer", "offset", "_tempDataLen"])
        probe.write(b"12345")
        if not lacking and unsent(probe) != 5:
            lacking = ["a buffer of the size that Connection.dataBuffer and _tempDataLen tell"]
    return tuple(lacking)
