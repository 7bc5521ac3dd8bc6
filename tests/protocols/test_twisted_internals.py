"""Twisted's internals: direct writes, unsent bytes, closing; and versions that lack a name."""

from __future__ import annotations

from socket import socketpair
from types import SimpleNamespace
from typing import Any

from OpenSSL.SSL import OP_CIPHER_SERVER_PREFERENCE, OP_NO_TICKET, Context
from OpenSSL.SSL import Error as TlsError
from twisted.internet._sslverify import protosFromProtocol
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Connection, Port
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from pushd.access.limits import Limits
from pushd.protocols import twisted_internals
from pushd.protocols.certificate import LiveCertificate
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS, FastPaths
from pushd.protocols.http.site import PushdSite
from pushd.protocols.tls import TlsSocket, TlsTransport
from pushd.protocols.twisted_internals import (
    DONE,
    DirectTlsSocket,
    HTTPChannelAdapter,
    buffered,
    check_requirements,
    encrypt_directly,
    lose,
    pass_half_closes,
    prepare_tls,
    receive_rest,
    sender,
    takes_direct_writes,
    tls_socket_class,
    unsent,
    untaken,
    write_at_once,
)
from pushd.testing import Daemon
from pushd.views.decorators import require_websocket
from pushd.views.request import Request
from tests.support.call_counts import calls_of


class Descriptor(FileDescriptor):
    """Twisted's transport without a socket, which sends a given number of bytes at a time."""

    def __init__(self, reactor: Any, *, takes: int = 0) -> None:
        super().__init__(reactor)
        self.connected = True
        self.takes = takes

    def writeSomeData(self, data: bytes) -> int:
        """Send as many as may be."""
        return min(self.takes, len(data))


class Kernel:
    """A socket that records each system call, and sends a given number of bytes at a time."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.takes = 1 << 20
        self.error: OSError | None = None

    def send(self, data: Any, flags: int = 0) -> int:
        """Send as many as may be, or fail."""
        if self.error is not None:
            raise self.error
        self.sent.append(bytes(data[: self.takes]))
        return min(self.takes, len(data))

    def setblocking(self, flag: bool) -> None:
        """Do nothing: this socket never blocks."""

    def shutdown(self, how: int) -> None:
        """Record that the connection was closed."""
        self.sent.append(b"the end")

    def close(self) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        """Return a descriptor that is not in use."""
        return 1000


class DirectWriterTests(SynchronousTestCase):
    """A writer that sends at once."""

    def setUp(self) -> None:
        """Make a transport whose socket takes all."""
        self.patch(FAST_PATHS, "enabled", True)
        self.reactor = MemoryReactorClock()
        self.kernel = Kernel()
        kernel: Any = self.kernel
        self.transport: Any = Connection(kernel, Protocol(), self.reactor)
        self.transport.connected = True
        self.deferred = 0
        self.write = Cork().writer(self.transport, self).write

    def writing_deferred(self) -> None:
        """Count the call, which comes before the transport has data."""
        self.assertIsNotNone(sender(self.transport))
        self.deferred += 1

    def test_at_once(self) -> None:
        """A write is one system call, and the reactor does not watch the socket."""
        for data in (b"one", b"two"):
            self.write(data)
        self.assertEqual(self.kernel.sent, [b"one", b"two"])
        self.assertEqual(unsent(self.transport), 0)
        self.assertNotIn(self.transport, self.reactor.getWriters())
        self.assertEqual(self.deferred, 0)

    def test_sender(self) -> None:
        """``sender`` is None while the transport has data, of which the listener is notified."""
        send = sender(self.transport)
        assert send is not None
        self.assertEqual(send(b"abc"), 3)
        self.kernel.takes = 2
        self.write(b"def")
        self.write(b"ghi")
        self.assertEqual(self.deferred, 1)
        self.assertIsNone(sender(self.transport))
        self.kernel.takes = 100
        self.transport.doWrite()
        self.assertIsNotNone(sender(self.transport))
        self.assertEqual(self.kernel.sent, [b"abc", b"de", b"fghi"])

    def test_rest(self) -> None:
        """Data that the kernel does not take is written later, and later data behind it."""
        self.kernel.takes = 2
        self.write(b"abc")
        self.write(b"def")
        self.assertEqual(self.kernel.sent, [b"ab"])
        self.assertEqual(unsent(self.transport), 4)
        # The bytes of both pieces, and the pieces themselves.
        self.assertEqual(buffered(self.transport), 4 + 2 * 48)
        self.assertIn(self.transport, self.reactor.getWriters())
        self.kernel.takes = 3
        self.transport.doWrite()
        # The transport has data in its first buffer now.
        self.write(b"gh")
        self.transport.doWrite()
        self.transport.doWrite()
        self.assertEqual(b"".join(self.kernel.sent), b"abcdefgh")
        self.write(b"!")
        self.assertEqual(self.kernel.sent[-1], b"!")

    def test_no_room(self) -> None:
        """If the kernel has no room or no connection, the transport deals with it."""
        for error in (BlockingIOError(), BrokenPipeError()):
            self.kernel.error = error
            self.write(b"abc")
            self.assertIn(self.transport, self.reactor.getWriters())
        self.assertEqual(unsent(self.transport), 6)

    def test_write_at_once(self) -> None:
        """A single write is one system call; behind data that waits, it waits as well."""
        write_at_once(self.transport, b"one")
        self.assertNotIn(self.transport, self.reactor.getWriters())
        self.kernel.takes = 2
        write_at_once(self.transport, b"two")
        write_at_once(self.transport, b"!")
        self.assertEqual(self.kernel.sent, [b"one", b"tw"])
        self.kernel.takes = 100
        self.transport.doWrite()
        self.kernel.error = BrokenPipeError()
        write_at_once(self.transport, b"lost")
        self.assertIn(self.transport, self.reactor.getWriters())
        self.assertEqual((self.kernel.sent[2:], unsent(self.transport)), ([b"o!"], 4))

    def test_write_at_once_by_the_transport(self) -> None:
        """Without fast paths, and to a transport of another kind, a single write waits."""
        FAST_PATHS.enabled = False
        write_at_once(self.transport, b"one")
        self.assertEqual((self.kernel.sent, unsent(self.transport)), ([], 3))
        transport = StringTransport()
        write_at_once(transport, b"two")
        self.assertEqual(transport.value(), b"two")

    def test_no_socket(self) -> None:
        """A transport that encrypts, or has no socket, is written to as usual."""
        self.transport.TLS = True
        self.assertIs(Cork().writer(self.transport, self), self.transport)
        self.assertIsNone(sender(self.transport))
        transport = StringTransport()
        Cork().writer(transport, self).write(b"abc")
        self.assertIsNone(sender(transport))
        self.assertEqual(transport.value(), b"abc")


class LoseTests(SynchronousTestCase):
    """Closing a connection."""

    def setUp(self) -> None:
        """Make a transport whose protocol records the end."""
        self.patch(FAST_PATHS, "enabled", True)
        self.reactor = MemoryReactorClock()
        self.kernel = Kernel()
        kernel: Any = self.kernel
        self.lost: list[Failure] = []
        protocol: Any = Protocol()
        protocol.connectionLost = self.lost.append
        self.transport: Any = Connection(kernel, protocol, self.reactor)
        self.transport.connected = True
        self.transport.startReading()

    def test_at_once(self) -> None:
        """With an empty buffer the connection is closed at once, and the reactor forgets it."""
        lose(self.transport)
        self.assertEqual(self.kernel.sent, [b"the end"])
        self.lost[0].trap(ConnectionDone)
        self.assertEqual(self.reactor.getReaders() + self.reactor.getWriters(), [])
        lose(self.transport)
        self.assertEqual(len(self.lost), 1)

    def test_reason(self) -> None:
        """The reason of an orderly end is a Failure like others, and knows what it is at once."""
        self.assertIs(DONE.check(ConnectionDone), ConnectionDone)
        self.assertIs(DONE.trap(ConnectionAborted, ConnectionDone), ConnectionDone)
        self.assertIsNone(DONE.check(ConnectionAborted))
        self.assertLess(calls_of(lambda: DONE.check(ConnectionAborted)), 6)

    def test_unsent(self) -> None:
        """Unsent data is sent before the connection is closed."""
        self.transport.write(b"abc")
        lose(self.transport)
        self.assertEqual(self.lost, [])
        why = self.transport.doWrite()
        self.assertEqual(self.kernel.sent, [b"abc"])
        self.assertIsInstance(why, ConnectionDone)

    def test_others(self) -> None:
        """A transport of another kind closes in its own way."""
        transport = StringTransport()
        lose(transport)
        self.assertTrue(transport.disconnecting)


class FastPathTests(SynchronousTestCase):
    """Fast paths that are off, or cannot work with this version of Twisted."""

    def setUp(self) -> None:
        """Make a switch for this test alone, and a transport."""
        self.paths = FastPaths()
        self.patch(twisted_internals, "FAST_PATHS", self.paths)
        twisted_internals._lacking_in_transports.cache_clear()
        self.addCleanup(twisted_internals._lacking_in_transports.cache_clear)
        kernel: Any = Kernel()
        self.transport: Any = Connection(kernel, Protocol(), MemoryReactorClock())
        self.transport.connected = True

    def writing_deferred(self) -> None:
        """Never called, as nothing is written directly."""

    def test_off(self) -> None:
        """With ``--fast-paths off`` the transport writes and closes when the reactor lets it."""
        self.paths.enabled = False
        self.assertFalse(takes_direct_writes(self.transport))
        self.assertIs(Cork().writer(self.transport, self), self.transport)
        self.assertIsNone(sender(self.transport))
        lose(self.transport)
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(HTTPChannelAdapter.can_handle())

    def test_available(self) -> None:
        """This version of Twisted has all that is needed, and nothing is logged."""
        with capturedLogs() as logs:
            self.assertTrue(takes_direct_writes(self.transport))
            self.assertTrue(HTTPChannelAdapter.can_handle())
            check_requirements()
        self.assertEqual(logs, [])

    def start(self, transport: Any) -> HTTPChannelAdapter:
        """Start a channel on a transport, as Twisted does."""
        channel = HTTPChannelAdapter()
        channel.timeOut = None
        channel.makeConnection(transport)
        self.assertIs(transport.producer, channel)
        return channel

    def test_start(self) -> None:
        """A channel registers with its transport; the fast path sets no option of the socket."""
        for enabled in (True, False):
            self.paths.enabled = enabled
            self.transport.unregisterProducer()
            options: list[object] = []
            self.transport.setTcpNoDelay = options.append
            channel = self.start(self.transport)
            self.assertEqual(options, [] if enabled else [True])
            # The client does not read: the channel stops reading from it.
            self.transport.startReading()
            channel.pauseProducing()
            self.assertEqual(self.transport.reactor.getReaders(), [])
            channel.resumeProducing()
            self.assertEqual(self.transport.reactor.getReaders(), [self.transport])

    def test_start_missing_name(self) -> None:
        """If twisted.web lacks a name, a channel starts as twisted.web does; the log says why."""
        self.patch(HTTPChannel, "connectionMade", lambda channel: self.started.append(channel))
        self.started: list[object] = []
        twisted_internals._lacking_in_channels.cache_clear()
        self.addCleanup(twisted_internals._lacking_in_channels.cache_clear)
        with capturedLogs() as logs:
            channel = HTTPChannelAdapter()
            channel.makeConnection(self.transport)
        self.assertIs(self.started[-1], channel)
        [event] = logs
        self.assertEqual((event["event"], event["path"]), ("fast_path_off", "direct starts"))
        self.assertEqual(event["lacking"], "HTTPChannel._networkProducer")

    def test_missing_name(self) -> None:
        """If Twisted lacks a name, direct writes are off and the log says so once."""

        class Renamed(Connection):
            @property
            def offset(self) -> int:  # type: ignore[override]  # as if it were not there
                raise AttributeError

        self.assert_off(Renamed, "Renamed.offset")

    def test_other_buffer(self) -> None:
        """If Twisted keeps unsent data elsewhere, direct writes are off and the log says so."""

        class Elsewhere(Connection):
            def write(self, data: bytes) -> None:
                pass

        self.assert_off(Elsewhere, "a buffer")

    def assert_off(self, changed: type[Connection], lacking: str) -> None:
        """Check that direct writes are off, and that two lines of the log say what is lacking."""
        self.patch(twisted_internals, "Connection", changed)
        kernel: Any = Kernel()
        transport = changed(kernel, Protocol(), MemoryReactorClock())
        with capturedLogs() as logs:
            self.assertFalse(takes_direct_writes(transport))
            self.assertFalse(takes_direct_writes(transport))
            check_requirements()
        self.assertEqual(
            [event["event"] for event in logs], ["fast_path_off", "requirement_missing"]
        )
        for event in logs:
            self.assertIn(lacking, event["lacking"])

    def test_missing_requirement(self) -> None:
        """If twisted.web lacks a name that strict parsing needs, the log says so."""
        self.patch(http, "_ChunkedTransferDecoder", lambda *callbacks: None)
        with capturedLogs() as logs:
            check_requirements()
        self.assertEqual([event["event"] for event in logs], ["requirement_missing"])
        self.assertEqual(logs[0]["lacking"], "NoneType._trailerHeaders")


class UnsentTests(SynchronousTestCase):
    """How many bytes a transport has not sent."""

    def setUp(self) -> None:
        """Make a transport that sends nothing yet."""
        self.reactor = MemoryReactorClock()
        self.transport = Descriptor(self.reactor)

    def test_empty(self) -> None:
        """A transport to which nothing was written has no unsent bytes."""
        self.assertEqual(unsent(self.transport), 0)

    def test_written(self) -> None:
        """Written data is unsent before and after the kernel has refused it."""
        self.transport.write(b"x" * 1000)
        self.transport.writeSequence([b"x" * 100, b"x" * 10])
        self.assertEqual(unsent(self.transport), 1110)
        self.transport.doWrite()
        self.assertEqual(unsent(self.transport), 1110)

    def test_partly_sent(self) -> None:
        """Data that the kernel has taken is not unsent, though it is still in Twisted's buffer."""
        self.transport.write(b"x" * 300_000)
        self.transport.takes = 1000
        self.transport.doWrite()
        self.assertEqual(unsent(self.transport), 299_000)
        self.transport.write(b"x" * 500)
        self.assertEqual(unsent(self.transport), 299_500)
        self.transport.doWrite()
        self.assertEqual(unsent(self.transport), 298_500)
        self.transport.takes = 1_000_000
        while unsent(self.transport):
            self.transport.doWrite()

    def test_tls(self) -> None:
        """With TLS, data in its own buffer counts, and encrypted data in the transport's buffer."""
        factory = TLSMemoryBIOFactory(
            CertificateOptions(),
            isClient=True,
            wrappedFactory=Factory.forProtocol(Protocol),
            clock=self.reactor,
        )
        tls = factory.buildProtocol(None)
        assert tls is not None
        tls.makeConnection(self.transport)
        hello = unsent(self.transport)
        self.assertGreater(hello, 0)
        self.assertEqual(unsent(tls), hello)
        # Before the peer has answered, TLS has no key to encrypt it with.
        tls.write(b"x" * 1000)
        self.reactor.advance(0)
        self.assertEqual(unsent(tls), hello + 1000)
        # A wrapper around TLS offers its attributes as well, which must not be counted twice.
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.makeConnection(tls)
        self.assertEqual(unsent(wrapper), hello + 1000)
        self.assertEqual(unsent(self.transport), hello)

    def test_other_wrapper(self) -> None:
        """A wrapper without a buffer of its own has the unsent bytes of its transport."""
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.makeConnection(self.transport)
        wrapper.write(b"x" * 1000)
        self.assertEqual(unsent(wrapper), 1000)

    def test_unknown(self) -> None:
        """A transport of another kind has no unsent bytes."""
        transport = StringTransport()
        transport.write(b"x" * 1000)
        self.assertEqual(unsent(transport), 0)

    def test_memory(self) -> None:
        """The transport in memory knows its unsent bytes, so tests can have slow readers."""

        @require_websocket
        async def flood(request: Request) -> None:
            async for _ in request.websocket:
                request.websocket.send(b"x" * 1000)

        daemon = Daemon({"/flood/": flood}, limits=Limits(max_buffered=10_000))
        self.addCleanup(daemon.stop)
        browser = daemon.connect("/flood/")
        browser.stall()
        for _ in range(20):
            browser.send("more")
        self.assertEqual(browser.messages, [])
        browser.resume()
        # With four bytes of frame header each, the tenth exceeded the limit.
        self.assertEqual(len(browser.messages), 10)
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 1013)


class UntakenTests(SynchronousTestCase):
    """How many bytes a transport's peer has not taken."""

    def test_without_a_socket(self) -> None:
        """Without a socket, or with one that the kernel does not know, it is what is unsent."""
        unconnected: Any = Kernel()
        reactor = MemoryReactorClock()
        for transport in (Descriptor(reactor), Connection(unconnected, Protocol(), reactor)):
            transport.connected = True
            transport.write(b"x" * 1000)
            self.assertEqual(untaken(transport), 1000)
        self.assertEqual(untaken(StringTransport()), 0)

    def test_kernel(self) -> None:
        """What waits in the kernel's buffer counts as well, also for a wrapped transport."""
        near, far = socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        transport = Connection(near, Protocol(), MemoryReactorClock())
        transport.connected = True
        wrapped: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapped.transport = transport
        self.assertEqual(untaken(wrapped), 0)
        near.send(b"x" * 10_000)
        # The kernel counts its own overhead in.
        self.assertGreaterEqual(untaken(transport), 10_000)
        transport.write(b"y" * 1000)
        self.assertEqual(untaken(wrapped), untaken(transport))
        self.assertGreaterEqual(untaken(transport), 11_000)
        self.assertEqual(buffered(wrapped), 1048)
        far.recv(10_000)
        self.assertEqual(untaken(transport), 1000)

    def test_small_writes_over_tls(self) -> None:
        """TLS joins small writes, and they count until then."""
        clock = MemoryReactorClock()
        factory = TLSMemoryBIOFactory(CertificateOptions(), True, Factory(), clock)
        wrapped: Any = factory.protocol(factory, Protocol())
        wrapped.write(b"x" * 10)
        wrapped.write(b"y" * 20)
        wrapped.transport = StringTransport()
        self.assertEqual(unsent(wrapped), 30)


class Collector(Protocol):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.received = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class ReceiveRestTests(SynchronousTestCase):
    """What a kernel has received for a connection that is lost."""

    def test_without_a_socket(self) -> None:
        """Without a socket there is nothing."""
        self.assertEqual(receive_rest(StringTransport()), 0)

    def test_in_pieces(self) -> None:
        """It is delivered in pieces, whatever is wrapped around it, until the socket is empty."""
        near, far = socketpair()
        self.addCleanup(near.close)
        collector = Collector()
        transport = Connection(near, collector, MemoryReactorClock())
        wrapped: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapped.transport = transport
        far.send(b"x" * 100_000)
        self.assertEqual([receive_rest(wrapped) for _ in range(3)], [65_536, 34_464, 0])
        far.close()
        self.assertEqual(receive_rest(wrapped), 0)
        self.assertEqual(collector.received, b"x" * 100_000)

    def test_twisted_calls_stop_producing_first(self) -> None:
        """When Twisted calls ``stopProducing`` of a connection that is lost, it can be read."""

        class Producer:
            def stopProducing(self) -> None:
                pieces.append(receive_rest(transport))

        near, far = socketpair()
        self.addCleanup(far.close)
        transport = Connection(near, Collector(), MemoryReactorClock())
        transport.connected = True
        transport.registerProducer(Producer(), True)
        pieces: list[int] = []
        far.send(b"rest")
        transport.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(pieces, [4])
        self.assertEqual(receive_rest(transport), 0)


class HalfCloseTests(SynchronousTestCase):
    """Which wrappers pass on that a client has closed its side."""

    def test_plain(self) -> None:
        """A factory that is not wrapped stays as it is."""
        factory = Factory()
        pass_half_closes(factory)
        self.assertEqual(vars(factory), {})

    def test_nested(self) -> None:
        """Every wrapper is replaced, and passes on whether its protocol is half-closable."""

        @implementer(IHalfCloseableProtocol)
        class HalfClosable(Protocol):
            """Goes on."""

            def readConnectionLost(self) -> None: ...

            def writeConnectionLost(self) -> None: ...

        for protocol in (HalfClosable, Protocol):
            inner = WrappingFactory(Factory.forProtocol(protocol))
            outer = WrappingFactory(inner)
            pass_half_closes(outer)
            wrapper = outer.buildProtocol(None)
            found = IHalfCloseableProtocol(wrapper, None)
            self.assertIs(type(found), HalfClosable if protocol is HalfClosable else type(None))
            self.assertIsNone(IHandshakeListener(wrapper, None))

    def test_lacking(self) -> None:
        """If Twisted's TLS lacks what is needed, it stays as it is, and the log says so."""
        reported = FastPaths()
        self.patch(twisted_internals, "FAST_PATHS", reported)
        self.patch(twisted_internals, "_TLS_METHODS", ("_future",))
        twisted_internals._half_closable.cache_clear()
        self.addCleanup(twisted_internals._half_closable.cache_clear)
        factory = TLSMemoryBIOFactory(CertificateOptions(), False, Factory(), MemoryReactorClock())
        with capturedLogs() as events:
            pass_half_closes(factory)
        self.assertIs(factory.protocol, TLSMemoryBIOFactory.protocol)
        self.assertEqual([event["event"] for event in events], ["requirement_missing"])


class DirectTlsTests(SynchronousTestCase):
    """Ports with TLS whose connections encrypt at their sockets."""

    def setUp(self) -> None:
        """Allow fast paths."""
        self.fast_paths = FastPaths()
        self.patch(twisted_internals, "FAST_PATHS", self.fast_paths)
        self.certificate = LiveCertificate(CertificateOptions())
        self.factory = TLSMemoryBIOFactory(
            self.certificate, False, PushdSite.__new__(PushdSite), MemoryReactorClock()
        )
        self.port: Any = Port(0, self.factory, reactor=MemoryReactorClock())

    def test_port(self) -> None:
        """The port makes transports with TLS of its own kind, and the site makes the protocols."""
        encrypt_directly(self.port, self.certificate)
        self.assertIsInstance(self.port.factory, PushdSite)
        near, far = socketpair()
        self.addCleanup(far.close)
        protocol = Protocol()
        transport = self.port.transport(
            near, protocol, ("host", 1), self.port, 1, self.port.reactor
        )
        self.assertIsInstance(transport, TlsTransport)
        self.assertIsInstance(transport, Port.transport)
        # Twisted's callback for ALPN asks which protocols the site speaks.
        asked = transport.socket.get_app_data()
        self.assertEqual(protosFromProtocol(asked, ()), (b"http/1.1", b"http/1.0"))
        asked.abortConnection()
        transport.connectionLost(Failure(ConnectionDone()))

    def test_off(self) -> None:
        """With fast paths off, and if something is lacking, TLS is left to Twisted."""
        self.fast_paths.enabled = False
        encrypt_directly(self.port, self.certificate)
        self.assertIs(self.port.factory, self.factory)
        self.fast_paths.enabled = True
        self.patch(twisted_internals, "TlsSocket", object)
        with capturedLogs() as events:
            encrypt_directly(self.port, self.certificate)
        self.assertIs(self.port.factory, self.factory)
        self.assertEqual([event["path"] for event in events], ["direct TLS"])

    def test_encryption(self) -> None:
        """Sockets encrypt by one call of OpenSSL's, unless pyOpenSSL lacks what that takes."""
        self.assertIs(tls_socket_class(), DirectTlsSocket)
        self.patch(twisted_internals, "_openssl", None)
        with capturedLogs() as events:
            self.assertIs(tls_socket_class(), TlsSocket)
        [event] = events
        self.assertEqual(event["path"], "direct encryption")
        self.assertEqual(event["lacking"], "NoneType.SSL_read, NoneType.SSL_write")

    def test_others(self) -> None:
        """Ports without TLS, and those behind the PROXY protocol, stay as they are."""
        for factory in (Factory(), WrappingFactory(self.factory)):
            port: Any = Port(0, factory, reactor=MemoryReactorClock())
            encrypt_directly(port, self.certificate)
            self.assertIs(port.factory, factory)
        encrypt_directly(object(), self.certificate)


class ContextTests(SynchronousTestCase):
    """The context of a port with TLS."""

    def test_tickets(self) -> None:
        """Clients may resume their sessions; Twisted's other options remain."""
        options = CertificateOptions()
        prepare_tls(SimpleNamespace(_sslContextFactory=options))
        flags = options.getContext().set_options(0)
        self.assertFalse(flags & OP_NO_TICKET)
        self.assertTrue(flags & OP_CIPHER_SERVER_PREFERENCE)


class AlpnTests(SynchronousTestCase):
    """What clients of a port with TLS get that offer other protocols only."""

    def test_alert(self) -> None:
        """If no protocol is selected, the callback raises, of which OpenSSL makes an alert."""
        options = CertificateOptions()
        prepare_tls(SimpleNamespace(_sslContextFactory=options))
        context = options.getContext()
        callbacks: list[Any] = []
        self.patch(Context, "set_alpn_select_callback", lambda _, one: callbacks.append(one))
        context.set_alpn_select_callback(lambda connection, offered: offered[0])
        self.assertEqual(callbacks[0](None, [b"http/1.1"]), b"http/1.1")
        with self.assertRaises(TlsError):
            callbacks[0](None, [b""])

    def test_impossible(self) -> None:
        """Where Python cannot be called back, there is no ALPN, and the log says why."""

        def deny(context: Context, callback: Any) -> None:
            raise MemoryError("Cannot allocate write+execute memory for ffi.callback()")

        self.patch(Context, "set_alpn_select_callback", deny)
        options = CertificateOptions()
        prepare_tls(SimpleNamespace(_sslContextFactory=options))
        with capturedLogs() as events:
            self.assertIsInstance(options.getContext(), Context)
        self.assertEqual([event["event"] for event in events], ["alpn_off"])

    def test_others(self) -> None:
        """Endpoints without TLS, and contexts of other kinds, are left alone."""
        other = SimpleNamespace(_contextFactory=None)
        for endpoint in (SimpleNamespace(), SimpleNamespace(_sslContextFactory=other)):
            self.assertIsNone(prepare_tls(endpoint))
        self.assertIsNone(other._contextFactory)
