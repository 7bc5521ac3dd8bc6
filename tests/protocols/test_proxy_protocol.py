"""The PROXY protocol: its headers, and connections that begin with one."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.proxy_protocol import HEADER_TIMEOUT, ProxyHeader, read_header
from pushd.testing import Daemon
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.peer import PING, Peer, frame, handshake, request, said

GET = request("GET /pushd.css HTTP/1.1", "Host: localhost")
CLOSING = request("GET /pushd.css HTTP/1.1", "Host: localhost", "Connection: close")
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def line(client: str = "203.0.113.7", port: int = 5000) -> bytes:
    """Make a header of version 1."""
    return b"PROXY TCP4 %s 192.0.2.1 %d 443\r\n" % (client.encode(), port)


def binary(
    family: int = 0x11, rest: bytes = bytes(12), *, command: int = 0x21, length: int | None = None
) -> bytes:
    """Make a header of version 2."""
    size = len(rest) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2) + rest


def tcp(*hosts: str) -> bytes:
    """Make the addresses of a header of version 2, with the ports 5000 and 443."""
    packed = b"".join(ip_address(host).packed for host in hosts)
    return packed + (5000).to_bytes(2) + (443).to_bytes(2)


class HeaderTests(SynchronousTestCase):
    def test_line(self) -> None:
        """Version 1 names the client and the server."""
        self.assertEqual(
            read_header(line() + b"GET"),
            ProxyHeader(
                IPv4Address("TCP", "203.0.113.7", 5000),
                IPv4Address("TCP", "192.0.2.1", 443),
                len(line()),
            ),
        )
        header = read_header(b"PROXY TCP6 2001:DB8::1 ::1 1 65535\r\n")
        assert header is not None
        self.assertEqual(header.client, IPv6Address("TCP", "2001:db8::1", 1))
        self.assertEqual(header.server, IPv6Address("TCP", "::1", 65535))

    def test_binary(self) -> None:
        """Version 2 does so, too; what follows the addresses is skipped."""
        data = binary(0x11, tcp("203.0.113.7", "192.0.2.1") + b"\x03\0\x04abcd")
        self.assertEqual(
            read_header(data + b"GET"),
            ProxyHeader(
                IPv4Address("TCP", "203.0.113.7", 5000),
                IPv4Address("TCP", "192.0.2.1", 443),
                len(data),
            ),
        )
        header = read_header(binary(0x21, tcp("2001:db8::1", "::1")))
        assert header is not None
        self.assertEqual(header.client, IPv6Address("TCP", "2001:db8::1", 5000))
        path = b"/run/a".ljust(108, b"\0")
        header = read_header(binary(0x31, path + bytes(108)))
        assert header is not None
        self.assertEqual(header.client, UNIXAddress(b"/run/a"))
        self.assertEqual(header.server, UNIXAddress(None))

    def test_tls(self) -> None:
        """Version 2 may say that the client speaks TLS with the proxy."""
        addresses, other = tcp("203.0.113.7", "192.0.2.1"), b"\x04\0\x02xx"
        for field, encrypted in (
            (b"\x20\0\x05\x01\0\0\0\0", True),
            (b"\x20\0\x05\x02\0\0\0\0", False),
            (b"\x20\0\x05", False),
            (b"\x20", False),
        ):
            header = read_header(binary(0x11, addresses + other + field))
            assert header is not None
            self.assertEqual(header.encrypted, encrypted)

    def test_unknown_client(self) -> None:
        """A proxy may not know the client, or have connected for a health check of its own."""
        for data in (
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN ffff::1 what ever\r\n",
            binary(0x00, b""),
            binary(0x00, b"", command=0x20),
            binary(0x11, tcp("203.0.113.7", "192.0.2.1"), command=0x20),
            binary(0x12, b"x", command=0x20),
        ):
            self.assertEqual(read_header(data), ProxyHeader(None, None, len(data)))

    def test_incomplete(self) -> None:
        """A header that has not arrived as a whole is waited for."""
        for data in (line(), binary(0x21, tcp("2001:db8::1", "::1"))):
            for end in range(len(data)):
                self.assertIsNone(read_header(data[:end]))

    def test_malformed(self) -> None:
        """Everything else is a mistake."""
        for data, mistake in (
            (b"GET / HTTP/1.1\r\n", "does not begin with a header"),
            (b"\x16\x03\x01", "does not begin with a header"),
            (b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n", "malformed"),
            (b"PROXY UNKNOWNS\r\n", "malformed"),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", "malformed"),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n", "malformed"),
            (b"PROXY TCP4 ::1 ::1 1 1\r\n", "malformed"),
            (b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n", "malformed"),
            (b"PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n", "malformed"),
            (b"PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n", "malformed"),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n" + b"x" * 99, "too long"),
            (binary(0x11, bytes(11)), "malformed"),
            (binary(0x12), "malformed"),
            (binary(0x11, command=0x22), "malformed"),
            (binary(0x11, command=0x11), "malformed"),
            (binary(0x11, bytes(12), length=4097), "too long"),
        ):
            with self.assertRaisesRegex(ValueError, mistake):
                read_header(data)

    @NO_DEADLINE
    @given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]), st.binary())
    def test_any(self, start: bytes, rest: bytes) -> None:
        """Whatever arrives, it is a header, a part of one, or a ValueError."""
        try:
            header = read_header(start + rest)
        except ValueError:
            return
        self.assertTrue(header is None or header.length <= len(start + rest))


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.start()

    def start(self, **options: Any) -> None:
        """Start a daemon with options."""
        self.daemon = Daemon(**options)
        self.addCleanup(self.daemon.stop)

    @property
    def site(self) -> Any:
        """The site of its public port."""
        site: Any = self.daemon.clock.tcpServers[0][1]
        return site

    def test_client(self) -> None:
        """The log has the address of the client, over TCP and TLS, in whatever segments."""
        for tls in (False, True):
            for header in (line(), binary(0x11, tcp("203.0.113.7", "192.0.2.1"))):
                with capturedLogs() as events:
                    # The start of TLS follows in the same segment.
                    peer = Peer(self.daemon, tls=tls, proxy_header=header if tls else b"")
                    for byte in b"" if tls else header:
                        peer.send(bytes([byte]))
                    peer.send(GET)
                self.assertIn(" 200 ", peer.head)
                self.assertIn("203.0.113.7:5000 GET /pushd.css 200", said(events)[-1])
                peer.finish()
        self.assertEqual(len(self.site.policy.admission), 0)

    def test_same_segment(self) -> None:
        """The first request may come in the same segment as the header."""
        peer = Peer(self.daemon, proxy_header=line() + CLOSING)
        self.assertIn(" 200 ", peer.head)
        self.assertIsNotNone(peer.lost)

    def test_unknown_client(self) -> None:
        """If the proxy names no client, it counts as the client itself."""
        with capturedLogs() as events:
            Peer(self.daemon, proxy_header=b"PROXY UNKNOWN\r\n" + GET)
        self.assertIn("127.0.0.1:50001 GET /pushd.css 200", said(events)[-1])

    def test_websocket(self) -> None:
        """Handshake and frames may follow at once, and a WebSocket takes the connection over."""
        peer = Peer(self.daemon, proxy_header=line() + handshake("/topics/t"))
        peer.send(frame(PING, b"1"))
        self.assertIn(" 101 ", peer.head)
        self.assertEqual(peer.frames[-1].payload, b"1")

    def test_limit_per_address(self) -> None:
        """The address of the client counts for --max-per-address, not that of the proxy."""
        self.start(max_per_address=2)
        peers = [Peer(self.daemon, proxy_header=line(port=port)) for port in (1, 2, 3)]
        other = Peer(self.daemon, proxy_header=line("203.0.113.8"))
        for peer, status in zip([*peers, other], (200, 200, 503, 200), strict=True):
            peer.send(GET)
            self.assertIn(f" {status} ", peer.head)
        peers[0].finish()
        again = Peer(self.daemon, proxy_header=line())
        again.send(GET)
        self.assertIn(" 200 ", again.head)

    def test_limit(self) -> None:
        """A connection without a header counts for --max-connections; some more may wait."""
        self.start(max_connections=1)
        first = Peer(self.daemon, proxy_header=b"")
        second = Peer(self.daemon, proxy_header=line() + GET)
        self.assertIn(" 503 ", second.head)
        first.send(line() + GET)
        self.assertIn(" 200 ", first.head)
        waiting = [Peer(self.daemon, proxy_header=b"") for _ in range(64)]
        self.assertEqual([peer.lost for peer in waiting], [None] * 64)
        self.assertIsNotNone(Peer(self.daemon, proxy_header=line()).lost)
        waiting[0].vanish()
        self.assertIsNone(Peer(self.daemon, proxy_header=b"").lost)

    def test_time_out(self) -> None:
        """A connection whose header does not arrive in time is dropped, with a line in the log."""
        peer = Peer(self.daemon, proxy_header=line()[:10])
        with capturedLogs() as events:
            peer.advance(HEADER_TIMEOUT - 1)
            self.assertIsNone(peer.lost)
            peer.advance(1)
        self.assertIsNotNone(peer.lost)
        self.assertIn("refused 408: no header of the PROXY protocol", said(events)[-1])
        self.assertEqual(len(self.site.policy.admission), 0)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_no_header(self) -> None:
        """A connection without a header is closed, and the log says what is missing."""
        with capturedLogs() as events:
            peer = Peer(self.daemon, proxy_header=GET)
            peer.server.protocol.dataReceived(GET)
        self.assertEqual(peer.received, b"")
        self.assertIsNotNone(peer.lost)
        (entry,) = said(events)
        self.assertIn("127.0.0.1:50001 refused 400: the connection does not begin with", entry)
        self.assertIn("send-proxy", entry)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_gone(self) -> None:
        """Connections that end without a word, as health checks do, leave nothing behind."""
        with capturedLogs() as events:
            Peer(self.daemon, proxy_header=b"").finish()
            Peer(self.daemon, proxy_header=b"PROXY").vanish()
        self.assertEqual(said(events), [])
        self.assertEqual(len(self.site.policy.admission), 0)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_slowed(self) -> None:
        """A client that comes too often is read later, also if its request came with the header."""
        self.start(max_rate_per_address=1)
        for _ in range(10):
            Peer(self.daemon, proxy_header=line() + CLOSING)
        peer = Peer(self.daemon, proxy_header=line() + CLOSING)
        peer.server.protocol.dataReceived(b"")
        self.assertEqual(peer.received, b"")
        gone = Peer(self.daemon, proxy_header=line() + CLOSING)
        gone.vanish()
        other = Peer(self.daemon, proxy_header=line("203.0.113.8") + CLOSING)
        self.assertIn(" 200 ", other.head)
        peer.advance(1)
        self.assertIn(" 200 ", peer.head)
        peer.advance(10)
        self.assertEqual(gone.received, b"")

    def test_log_prefix(self) -> None:
        """Twisted may ask a connection for its name."""
        peer = Peer(self.daemon, proxy_header=b"")
        protocol: Any = peer.server.protocol
        self.assertEqual(protocol.logPrefix(), "ProxiedConnection")

    def test_scheme(self) -> None:
        """A page that the proxy serves with TLS is of the same origin if the header says so."""
        addresses = tcp("203.0.113.7", "192.0.2.1")
        for field, status in ((b"", 403), (b"\x20\0\x05\x01\0\0\0\0", 101)):
            peer = Peer(self.daemon, proxy_header=binary(0x11, addresses + field))
            peer.send(handshake("/topics/t", "Origin: https://localhost:8080"))
            self.assertIn(f" {status} ", peer.head)

    def test_host(self) -> None:
        """The control port's own address is the one that the client has connected to."""
        for header in (line(), b"PROXY UNKNOWN\r\n"):
            peer = Peer(self.daemon, control=True, proxy_header=header)
            host = "192.0.2.1" if header == line() else "127.0.0.1"
            peer.send(request("GET /metrics HTTP/1.1", f"Host: {host}:443"))
            self.assertIn(" 200 ", peer.head)
