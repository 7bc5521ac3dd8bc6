"""Log lines of requests, and the count of refusals."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import capturedLogs
from twisted.web.http import HTTPChannel

from pushd.access.limits import Limits
from pushd.testing import Daemon
from tests.support.channel_case import GET, ChannelTestCase
from tests.support.peer import UnixTransport, handshake, request, said


class LogTests(ChannelTestCase):
    """Log lines of requests."""

    def lines(self, *segments: bytes) -> list[str]:
        """Send bytes on a connection, and return its log lines."""
        with capturedLogs() as events:
            self.send(*segments)
        return said(events)

    def test_access_line(self) -> None:
        """Each answer has one line: peer, method, path, status and length, but not the query."""
        self.assertEqual(self.lines(GET), ["127.0.0.1:50001 GET /hello/ 200 5 after 0.000 s"])
        self.assertEqual(
            self.lines(request("POST /nothing?token=secret HTTP/1.1", "Host: a")),
            [f"127.0.0.1:50001 POST /nothing 404 {len(self.get('/nothing').body)} after 0.000 s"],
        )

    def test_duration(self) -> None:
        """The line has the seconds from the last byte of the request to the answer."""
        peer = self.send(request("GET /slow/ HTTP/1.1", "Host: a")[:-1])
        peer.advance(1)
        with capturedLogs() as events:
            peer.send(b"\n")
            peer.advance(1.5)
            self.answers[0].callback("done")
        self.assertEqual(said(events), ["127.0.0.1:50001 GET /slow/ 200 4 after 1.500 s"])
        fields = events[-1]
        self.assertEqual((fields["event"], fields["seconds"]), ("request", 1.5))

    def test_left(self) -> None:
        """A client that leaves before its answer has a line; one that leaves later adds none."""
        peer = self.send(request("GET /slow/ HTTP/1.1", "Host: a"))
        peer.advance(2)
        with capturedLogs() as events:
            peer.vanish()
            self.send(GET).vanish()
            self.send(GET[:-1]).vanish()
        self.assertEqual(
            said(events),
            [
                "127.0.0.1:50001 GET /slow/ left unanswered after 2.000 s",
                "127.0.0.1:50001 GET /hello/ 200 5 after 0.000 s",
            ],
        )

    def test_escaped(self) -> None:
        """Bytes of a request are escaped in the log."""
        data = b"GET /a\x9b%1b%0A'\"\\?q\x9b HTTP/1.1\r\nHost: a\r\n\r\n"
        (line,) = self.lines(data)
        self.assertTrue(line.startswith("127.0.0.1:50001 GET /a\\x9b%1b%0A"), line)
        self.assertTrue(line.isprintable() and line.isascii())

    def test_refusals(self) -> None:
        """A malformed request has a line, without its contents."""
        (line,) = self.lines(b"GET /\x1b[31msecret HTTP/1.1\r\n\r\n")
        self.assertTrue(line.startswith("127.0.0.1:50001 refused 400: "))
        self.assertNotIn("secret", line)
        self.assertTrue(line.isprintable())

    def test_websocket(self) -> None:
        """A WebSocket has no access line; its opening and its end have lines of their own."""
        lines = self.lines(handshake("/hello/"))
        self.assertEqual(lines, ["#1 127.0.0.1:50001 /hello/ opened"])

    def test_unix(self) -> None:
        """A client of a Unix socket is logged as ``unix``."""
        with capturedLogs() as events:
            UnixTransport(self.daemon).receive(GET)
        self.assertEqual(said(events), ["unix GET /hello/ 200 5 after 0.000 s"])
        self.assertEqual(self.requests[0].peer, "unix")


class RefusalTests(ChannelTestCase):
    """The count of refusals."""

    def test_counted(self) -> None:
        """Each refusal is counted by its reason, and has a line in the log."""
        self.daemon = Daemon({}, max_connections=3, limits=Limits(max_message=10))
        slow = request("POST / HTTP/1.1", "Host: a", "Content-Length: 9")
        with capturedLogs() as events:
            for data in (
                handshake("/", "Origin: https://elsewhere.example"),
                b"nonsense\r\n\r\n",
                b"nonsense\r\n\r\n",
                request("POST / HTTP/1.1", "Host: a", "Content-Length: 11"),
                request(f"GET /{'x' * 20_000} HTTP/1.1"),
                request("GET / HTTP/1.1", f"X: {'x' * 20_000}"),
            ):
                self.send(data).vanish()
            served = [self.send(slow) for _ in range(3)]
            waiting = [self.send() for _ in range(64)]
            site: Any = self.daemon.clock.tcpServers[0][1]
            closed = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
            self.assertNotIsInstance(closed, HTTPChannel)
            waiting[0].send(GET)
            served[0].advance(20.1)
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        for reason, count in {
            "forbidden": 1,
            "bad_request": 2,
            "content_too_large": 1,
            "uri_too_long": 1,
            "headers_too_large": 1,
            "request_timeout": 66,
            "busy": 2,
        }.items():
            line = f'pushd_refused_total{{reason="{reason}"}} {count}.0'
            self.assertIn(line, answer.text.splitlines())
        codes = [line.split(" ")[2].rstrip(":") for line in said(events) if " refused " in line]
        self.assertEqual(
            codes, ["400", "400", "413", "414", "431", "503", "503", "408", "408", "408"]
        )
