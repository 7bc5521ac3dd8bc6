"""HTTP as pushd speaks it: heads, time-outs, limits, and the access line."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import INTERNAL_SERVER_ERROR, HTTPChannel
from twisted.web.resource import Resource
from twisted.web.static import Data
from twisted.web.test.requesthelper import DummyChannel

from pushd.protocol import Limits
from pushd.proxies import Proxies
from pushd.request import ChannelRequest, peer_name
from pushd.routes import Routes
from pushd.testing import Answer, Daemon
from pushd.views import Request, Response, accept_websocket
from tests.peer import TEXT, Peer, UnixTransport, frame, handshake, request, said, serve
from tests.unhurried import UNHURRIED

GET = request("GET /hello/ HTTP/1.1", "Host: localhost:8080")
FOREVER = 10_000_000


class ChannelTestCase(SynchronousTestCase):
    """A daemon with one view that greets and one that takes its time."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.requests: list[Request] = []
        self.answers: list[Deferred[str]] = []

        @accept_websocket
        async def hello(request: Request) -> str | None:
            self.requests.append(request)
            if request.is_websocket():
                async for message in request.websocket:
                    request.websocket.send(message)
                return None
            return "hello"

        async def slow(request: Request) -> str:
            answer: Deferred[str] = Deferred()
            self.answers.append(answer)
            return await answer

        async def headers(request: Request) -> Response:
            own = {"Content-Security-Policy": "none", "Referrer-Policy": "a", "Date": "today"}
            return Response(headers=own)

        views = {"/hello/": hello, "/slow/": slow, "/headers/": headers}
        self.daemon = Daemon(views, **self.settings())

    def settings(self) -> dict[str, Any]:
        """The daemon's settings, where they are not the usual ones."""
        return {}

    def send(self, *segments: bytes) -> Peer:
        """Send bytes on a new connection."""
        peer = Peer(self.daemon)
        peer.send(*segments)
        return peer

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a path."""
        answer = self.daemon.get(path, {k.replace("_", "-"): v for k, v in headers.items()})
        assert answer is not None, "there is no answer"
        return answer

    def assert_refused(self, peer: Peer, status: int) -> None:
        """Check that a request was refused in one line, not handled, and the connection closed."""
        self.assertEqual(peer.head.split(" ")[1], str(status))
        self.assertIn("\r\nConnection: close", peer.head)
        self.assertIn("\r\nContent-Type: text/plain; charset=utf-8", peer.head)
        self.assertIn(f"\r\nContent-Length: {len(peer.body)}\r\n", peer.head)
        self.assertEqual(peer.body.count(b"\n"), 1)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(self.requests, [])


class HeadTests(ChannelTestCase):
    def test_no_version(self) -> None:
        """No answer tells which server this is, and of which version."""
        tag = self.get("/index.html").headers["ETag"]
        for data in (
            GET,
            request("GET / HTTP/1.1", "Host: localhost:8080"),
            request("GET / HTTP/1.1", "Host: localhost:8080", f"If-None-Match: {tag}"),
            request("POST / HTTP/1.1", "Host: localhost:8080"),
            request("GET /nothing HTTP/1.1", "Host: localhost:8080"),
            request("OPTIONS * HTTP/1.1", "Host: localhost:8080"),
            request("nonsense"),
            request("GET /hello/ HTTP/1.0"),
            handshake("/hello/"),
            handshake("/hello/", without=("Sec-WebSocket-Key",)),
        ):
            head = self.send(data).head
            self.assertTrue(head.startswith("HTTP/1.1 ") or b"HTTP/1.0" in data, head)
            self.assertNotRegex(head, "(?i)\r\nserver:|twisted|autobahn|python")

    def test_shared_headers(self) -> None:
        """Every answer keeps browsers from guessing types, and from telling others our address."""
        for path in ("/", "/hello/", "/nothing", "/pushd.js", "/favicon.svg"):
            headers = self.get(path).headers
            self.assertEqual(headers.get_all("X-Content-Type-Options"), ["nosniff"], path)
            self.assertEqual(headers.get_all("Referrer-Policy"), ["same-origin"], path)

    def test_page_headers(self) -> None:
        """Every page loads from here alone, and stands in frames of this site alone."""
        for path in ("/", "/test.html", "/hello/", "/nothing"):
            headers = self.get(path).headers
            policy = headers.get_all("Content-Security-Policy")
            self.assertEqual(policy, ["default-src 'self'"], path)
            self.assertEqual(headers.get_all("X-Frame-Options"), ["SAMEORIGIN"], path)
        for path in ("/pushd.js", "/pushd.css", "/favicon.svg"):
            self.assertNotIn("Content-Security-Policy", self.get(path).headers)

    def test_own_headers(self) -> None:
        """A view may say otherwise, and then nothing is said twice."""
        headers = self.get("/headers/").headers
        self.assertEqual(headers.get_all("Referrer-Policy"), ["a"])
        self.assertEqual(headers.get_all("Content-Security-Policy"), ["none"])
        self.assertEqual(headers.get_all("X-Content-Type-Options"), ["nosniff"])
        self.assertEqual(headers.get_all("Date"), ["today"])

    def test_date(self) -> None:
        """Every answer says when it was given (RFC 9110 §6.6.1), a refusal as well."""
        self.assertEqual(len(self.get("/hello/").headers.get_all("Date", [])), 1)
        refused = self.send(b"nonsense\r\n\r\n")
        self.assertEqual(refused.head.count("\r\nDate: "), 1)

    def test_nothing_sent(self) -> None:
        """An answer of no content says nothing of its length (RFC 9110 §8.6)."""

        class Nothing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.setResponseCode(int(request.args[b"status"][0]))
                return b""

        serve(self.daemon, Nothing())
        for status, said_so in ((200, True), (204, False), (304, False)):
            head = self.send(request(f"GET /?status={status} HTTP/1.1", "Host: a")).head
            self.assertEqual("Content-Length: 0" in head, said_so, status)


class FailureTests(ChannelTestCase):
    def test_page(self) -> None:
        """When something of ours raises, the client gets a page, and the log the reason."""

        class Broken(Routes):
            def match(self, path: str) -> None:
                raise ZeroDivisionError("our secret")

        daemon = Daemon(Broken({}))
        with capturedLogs() as events:
            answer = daemon.get("/path?token=secret")
        assert answer is not None
        self.assertEqual(answer.status, INTERNAL_SERVER_ERROR)
        self.assertIn("500 Internal Server Error", answer.text)
        self.assertIn("Something went wrong here.", answer.text)
        self.assertNotIn("secret", answer.text)
        self.assertNotIn("Traceback", answer.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(said(events)[0], "failed to answer GET /path for 127.0.0.1:50001")

    def test_fake_head(self) -> None:
        """A HEAD is answered when the GET in its place fails, and when it does not."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                raise ZeroDivisionError

        for resource, status in ((Failing(), 500), (Data(b"data", "text/plain"), 200)):
            serve(self.daemon, resource)
            peer = self.send(request("HEAD / HTTP/1.1", "Host: localhost:8080"))
            self.assertEqual(peer.head.split(" ")[1], str(status))
            self.assertEqual(peer.body, b"")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class LogTests(ChannelTestCase):
    def lines(self, *segments: bytes) -> list[str]:
        """What the log says of a connection."""
        with capturedLogs() as events:
            self.send(*segments)
        return said(events)

    def test_access_line(self) -> None:
        """Each answer is one line: peer, method, path, status and length; never the query."""
        self.assertEqual(self.lines(GET), ["127.0.0.1:50001 GET /hello/ 200 5 after 0.000 s"])
        self.assertEqual(
            self.lines(request("POST /nothing?token=secret HTTP/1.1", "Host: a")),
            [f"127.0.0.1:50001 POST /nothing 404 {len(self.get('/nothing').body)} after 0.000 s"],
        )

    def test_duration(self) -> None:
        """The line says how long the answer took from the last byte of the request on."""
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
        """Who leaves before the answer has a line, too; who leaves after it has no second one."""
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
        """No byte of a request does more in a log than stand there."""
        data = b"GET /a\x9b%1b%0A'\"\\?q\x9b HTTP/1.1\r\nHost: a\r\n\r\n"
        (line,) = self.lines(data)
        self.assertTrue(line.startswith("127.0.0.1:50001 GET /a\\x9b%1b%0A"), line)
        self.assertTrue(line.isprintable() and line.isascii())

    def test_refusals(self) -> None:
        """What is no request is a line as well, without what it said."""
        (line,) = self.lines(b"GET /\x1b[31msecret HTTP/1.1\r\n\r\n")
        self.assertTrue(line.startswith("127.0.0.1:50001 refused 400: "))
        self.assertNotIn("secret", line)
        self.assertTrue(line.isprintable())

    def test_websocket(self) -> None:
        """A WebSocket has no access line, but two of its own."""
        lines = self.lines(handshake("/hello/"))
        self.assertEqual(lines, ["#1 127.0.0.1:50001 /hello/ opened"])

    def test_names(self) -> None:
        """An address reads as in a URL; a Unix socket has none."""
        self.assertEqual(peer_name(IPv4Address("TCP", "10.1.2.3", 80)), "10.1.2.3:80")
        self.assertEqual(peer_name(IPv6Address("TCP", "::1", 80)), "[::1]:80")
        self.assertEqual(peer_name(UNIXAddress("/run/pushd.sock")), "unix")

    def test_unix(self) -> None:
        """A client of a Unix socket is one of this machine, whoever it is."""
        with capturedLogs() as events:
            UnixTransport(self.daemon).receive(GET)
        self.assertEqual(said(events), ["unix GET /hello/ 200 5 after 0.000 s"])
        self.assertEqual(self.requests[0].peer, "unix")


class TimeTests(ChannelTestCase):
    def test_keep_alive(self) -> None:
        """An idle connection is kept for 60 seconds after an answer, and each answer anew."""
        peer = self.send(GET)
        for _ in range(3):
            peer.advance(59.9)
            self.assertIsNone(peer.lost)
            peer.received.clear()
            peer.send(GET)
            self.assertEqual(peer.body, b"hello")
        peer.advance(59.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_no_request(self) -> None:
        """A connection on which nothing comes is closed after 20 seconds without a word."""
        peer = self.send()
        peer.advance(19.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(peer.received, b"")

    def test_slow_head(self) -> None:
        """A head has 20 seconds to be complete, however its bytes dribble."""
        peer = self.send()
        for place in range(39):
            peer.send(GET[place : place + 1])
            peer.advance(0.5)
        self.assertIsNone(peer.lost)
        peer.advance(0.6)
        self.assert_refused(peer, 408)

    def test_slow_body(self) -> None:
        """So has a body."""
        peer = self.send(request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 100"))
        for _ in range(19):
            peer.send(b"x")
            peer.advance(1)
        self.assertIsNone(peer.lost)
        peer.advance(1.1)
        self.assert_refused(peer, 408)

    def test_slow_second_request(self) -> None:
        """The time of a later request begins with its first byte."""
        peer = self.send(GET)
        self.requests.clear()
        peer.received.clear()
        peer.advance(50)
        peer.send(GET[:9])
        peer.advance(19.9)
        self.assertIsNone(peer.lost)
        peer.send(GET[9:30])
        peer.advance(0.2)
        self.assert_refused(peer, 408)

    def test_slow_pipelined_request(self) -> None:
        """A request that has begun behind another has its time from the end of that."""
        peer = self.send(GET + GET[:30])
        peer.advance(19.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIsNotNone(peer.lost)

    def test_slow_view(self) -> None:
        """A view may take its time: no clock runs for the client then."""
        peer = self.send(request("GET /slow/ HTTP/1.1", "Host: a"))
        peer.advance(FOREVER)
        self.assertIsNone(peer.lost)
        self.answers[0].callback("at last")
        peer.settle()
        self.assertEqual(peer.body, b"at last")

    def test_slow_reader(self) -> None:
        """A reader who takes nothing for 60 seconds is dropped; one who goes on is not."""
        serve(self.daemon, Data(b"x" * 1_000_000, "text/plain"))
        patient, stuck = Peer(self.daemon), Peer(self.daemon)
        for peer in (patient, stuck):
            peer.stall()
            peer.send(GET)
        stuck.advance(50)
        patient.resume()
        self.assertEqual(len(patient.body), 1_000_000)
        patient.send(GET)
        stuck.advance(9.9)
        self.assertTrue(stuck.server.connected)
        stuck.advance(0.2)
        patient.settle()
        self.assertFalse(stuck.server.connected)
        self.assertTrue(patient.server.connected)

    def test_steady_reader(self) -> None:
        """A large answer may take its time, as long as 64 KiB are read in a minute."""
        for connection in ("close", "keep-alive"):
            answer = Response(body=b"x" * 1_000_000)
            self.answers.clear()
            peer = self.send(request("GET /slow/ HTTP/1.1", "Host: a", f"Connection: {connection}"))
            peer.stall()
            self.answers[0].callback(answer)  # type: ignore[arg-type]  # any answer will do
            peer.settle()
            for _ in range(10):
                del peer.server._unsent[: 1 << 16]
                peer.advance(59.9)
                self.assertTrue(peer.server.connected)
            del peer.server._unsent[:60_000]
            peer.advance(61)
            self.assertFalse(peer.server.connected)

    def test_slow_reader_of_the_end(self) -> None:
        """So is one who does not take the last answer of a connection."""
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("GET /hello/ HTTP/1.1", "Host: a", "Connection: close"))
        peer.advance(59.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        self.assertFalse(peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_reader_of_a_refusal(self) -> None:
        """Who does not take a refusal is dropped after five seconds."""
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(b"nonsense\r\n\r\n")
        peer.advance(4.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        self.assertFalse(peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_websocket_has_no_clock_of_http(self) -> None:
        """A connection that has become a WebSocket is under none of these clocks."""
        peer = self.send(handshake("/hello/"))
        self.assertEqual(len(self.daemon.pending_calls), 1)
        peer.advance(24)
        peer.send(frame(TEXT, b"x"))
        self.assertEqual(peer.texts, ["x"])


class RequestTests(ChannelTestCase):
    def test_pipelined(self) -> None:
        """Requests that come together are answered one after the other."""
        first = request("GET /slow/ HTTP/1.1", "Host: a")
        peer = self.send(first + GET + first + GET)
        self.assertEqual(peer.received, b"")
        self.answers[0].callback("one")
        peer.settle()
        self.assertEqual(peer.received.count(b"HTTP/1.1 200 OK"), 2)
        self.answers[1].callback("three")
        peer.settle()
        self.assertEqual(peer.received.count(b"hello"), 2)
        self.assertLess(peer.received.index(b"one"), peer.received.index(b"hello"))
        self.assertLess(peer.received.index(b"hello"), peer.received.index(b"three"))

    def test_pipelined_to_a_slow_reader(self) -> None:
        """What came behind a request waits until the answer before it has been taken."""
        serve(self.daemon, Data(b"x" * 1_000_000, "text/plain"))
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(GET * 3)
        self.assertLess(peer.server.unsent, 1_100_000)
        for _ in range(3):
            peer.resume()
        self.assertEqual(peer.received.count(b"HTTP/1.1 200 OK"), 3)
        self.assertEqual(peer.received.count(b"x" * 1_000_000), 3)

    def test_pipelined_in_turn(self) -> None:
        """They are not answered all in one go: others have their turn in between."""
        transport = UnixTransport(self.daemon)
        self.assertEqual(transport.receive(GET * 3).count(b"hello"), 1)
        self.daemon.settle()
        self.assertEqual(transport.value().count(b"hello"), 3)

    def test_pipelined_and_gone(self) -> None:
        """Who leaves before the turn of its next request leaves nothing behind."""
        transport = UnixTransport(self.daemon)
        self.assertEqual(transport.receive(GET + GET).count(b"hello"), 1)
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(len(self.requests), 1)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 is answered, its length told, and its connection closed."""
        for lines in ((), ("Host: localhost:8080",), ("Connection: keep-alive",)):
            peer = self.send(request("GET /hello/ HTTP/1.0", *lines))
            self.assertTrue(peer.head.startswith("HTTP/1.0 200 OK\r\n"))
            self.assertIn("\r\nContent-Length: 5\r\n", peer.head)
            self.assertEqual(peer.body, b"hello")
            self.assertIs(peer.lost, ConnectionDone)

    def test_close(self) -> None:
        """Who asks for it finds its connection closed after the answer."""
        peer = self.send(request("GET /hello/ HTTP/1.1", "Host: a", "Connection: close"))
        self.assertIn("\r\nConnection: close", peer.head)
        self.assertEqual(peer.body, b"hello")
        self.assertIs(peer.lost, ConnectionDone)

    def test_form(self) -> None:
        """A form is a body like any other, for the view to read."""
        kind = "Content-Type: application/x-www-form-urlencoded"
        peer = self.send(
            request("POST /hello/ HTTP/1.1", "Host: a", kind, "Content-Length: 7") + b"a=1&b=2"
        )
        self.assertEqual(peer.body, b"hello")
        self.assertEqual(self.requests[0].body, b"a=1&b=2")
        self.assertEqual(dict(self.requests[0].query), {})

    def test_chunked(self) -> None:
        """A body may come in chunks."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        self.send(head + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
        self.assertEqual(self.requests[0].body, b"abcde")

    def test_tiny_chunks(self) -> None:
        """Chunks that are mostly heads are refused; some thousand are free."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        self.assertEqual(self.send(head + b"1\r\nx\r\n" * 4096 + b"0\r\n\r\n").body, b"hello")
        decent = b"10\r\n0123456789abcdef\r\n" * 5000
        self.assertEqual(self.send(head + decent + b"0\r\n\r\n").body, b"hello")
        self.assertEqual([len(asked.body) for asked in self.requests], [4096, 80_000])
        self.requests.clear()
        self.assert_refused(self.send(head + b"1\r\nx\r\n" * 4097), 400)

    def test_trailer(self) -> None:
        """What stands behind the chunks of a body is held to the rules of a head."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        self.assertEqual(self.send(head + b"1\r\nx\r\n0\r\nX: y\r\n\r\n").body, b"hello")
        self.requests.clear()
        self.assert_refused(self.send(head + b"1\r\nx\r\n0\r\nX: a\x0bb\r\n\r\n"), 400)

    def test_invitation(self) -> None:
        """Who waits for an invitation to send its body gets it."""
        peer = self.send(
            request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue")
        )
        self.assertEqual(peer.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.received.clear()
        peer.send(b"ab")
        self.assertEqual(peer.body, b"hello")

    def test_blank_line(self) -> None:
        """A blank line before a request does no harm (RFC 9112 §2.2)."""
        self.assertEqual(self.send(b"\r\n" + GET).body, b"hello")

    def test_malformed(self) -> None:
        """What could be read in more than one way is read in none."""
        for data in (
            b"nonsense\r\n\r\n",
            b"GET /hello/\r\n\r\n",
            b"GET /hello/ HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET  /hello/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"G\x00T /hello/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /hello/\x0b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /hello/\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
            request("GET /hello/ HTTP/1.1", "Host: a", "no colon"),
            request("GET /hello/ HTTP/1.1", "Host: a", "Space : before"),
            request("GET /hello/ HTTP/1.1", "Host: a", ": no name"),
            request("GET /hello/ HTTP/1.1", "Host: a", "X: a", " folded"),
            request("GET /hello/ HTTP/1.1", "Host: a", "X: a", "\tfolded"),
            request("GET /hello/ HTTP/1.1", " Host: a"),
            *(
                request("GET /hello/ HTTP/1.1", "Host: a", f"X: a{chr(code)}X-User: admin")
                for code in (*range(9), *range(0xB, 0xD), *range(0xE, 0x20), 0x7F)
            ),
            b"GET /hello/ HTTP/1.1\nHost: a\n\n",
            b"GET /hello/ HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            b"GET /hello/ HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: -1"),
            request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 1, 1"),
            request("POST /hello/ HTTP/1.1", "Host: a", *["Content-Length: 1"] * 2) + b"x",
            request(
                "POST /hello/ HTTP/1.1",
                "Host: a",
                "Content-Length: 1",
                "Transfer-Encoding: chunked",
            ),
            request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: gzip"),
            request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: identity"),
            request(
                "POST /hello/ HTTP/1.1",
                "Host: a",
                "Transfer-Encoding: identity",
                "Transfer-Encoding: chunked",
            ),
            request("POST /hello/ HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"),
            request("POST /hello/ HTTP/1.1", "Host: a", f"Content-Length: {'1' * 5000}"),
            request("POST /hello/ HTTP/1.1", "Host: a", f"Content-Length: {'0' * 19}"),
            request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + b"no\r\n",
        ):
            self.assert_refused(self.send(data), 400)

    def test_nothing_behind_a_refusal(self) -> None:
        """What stands behind a malformed request is not looked at, in whatever segment it comes."""
        for segments in ([b"nonsense\r\n\r\n" + GET], [b"nonsense\r\n\r\n", GET]):
            peer = Peer(self.daemon)
            peer.send(*segments)
            self.assertEqual(peer.received.count(b"HTTP/1.1"), 1)
            self.assertEqual(self.requests, [])

    def test_what_comes_behind_a_refusal(self) -> None:
        """What still comes of a refused request is read, or a reset might eat the refusal."""
        for data in (
            b"nonsense\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000,
            request("GET /hello/ HTTP/1.1", "Host: a", " folded") + GET,
            request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 99999999") + b"x" * 9,
            request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 99999999") + GET,
        ):
            transport = UnixTransport(self.daemon)
            self.assertEqual(transport.receive(data).count(b"HTTP/1.1 4"), 1)
            self.assertTrue(transport.write_closed)
            self.assertEqual(transport.producerState, "producing")
            self.assertEqual(transport.receive(GET), b"")
            self.assertEqual(transport.receive(b"x" * 100_000), b"")
            self.daemon.advance(4.9)
            self.assertFalse(transport.aborted)
            self.daemon.advance(0.2)
            self.assertTrue(transport.aborted)
            transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.requests, [])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_too_long(self) -> None:
        """An address, a header and all of them have a limit."""
        long = "x" * 20_000
        self.assert_refused(self.send(request(f"GET /{long} HTTP/1.1", "Host: a")), 414)
        second = self.send(request("GET /nothing HTTP/1.1", "Host: a"))
        second.received.clear()
        second.send(request(f"GET /{long} HTTP/1.1", "Host: a"))
        self.assert_refused(second, 414)
        self.assert_refused(self.send(request("GET / HTTP/1.1", f"X: {long}")), 431)
        many = [f"X-{number}: x" for number in range(600)]
        self.assert_refused(self.send(request("GET / HTTP/1.1", "Host: a", *many)), 431)
        wide = [f"X-{number}: {'x' * 2000}" for number in range(10)]
        self.assert_refused(self.send(request("GET / HTTP/1.1", "Host: a", *wide)), 431)

    def test_tls(self) -> None:
        """All of this holds over TLS, where a view sees https."""
        peer = Peer(self.daemon, tls=True)
        peer.send(GET)
        self.assertEqual(peer.body, b"hello")
        self.assertEqual(self.requests.pop().scheme, "https")
        peer = Peer(self.daemon, tls=True)
        peer.send(b"nonsense\r\n\r\n")
        self.assert_refused(peer, 400)
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/hello/") + frame(TEXT, b"x"))
        self.assertEqual(peer.texts, ["x"])

    def test_only_http_1_over_tls(self) -> None:
        """HTTP/2 is not offered: a WebSocket could not take its connection over."""
        door: Any = self.daemon.clock.tcpServers[0][1]
        self.assertEqual(door.acceptableProtocols(), [b"http/1.1"])


class BodyTests(ChannelTestCase):
    def settings(self) -> dict[str, Any]:
        """Let a body have ten bytes."""
        return {"limits": Limits(max_message=10)}

    def test_largest(self) -> None:
        """A body of the limit passes."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 10")
        self.assertEqual(self.send(head + b"x" * 10).body, b"hello")

    def test_announced(self) -> None:
        """A body beyond the limit is refused before it comes, and is not invited."""
        head = request(
            "POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 11", "Expect: 100-continue"
        )
        for segments in ([head], [head + b"x" * 11], [head, b"x" * 11]):
            peer = Peer(self.daemon)
            peer.send(*segments)
            self.assert_refused(peer, 413)

    def test_chunked(self) -> None:
        """So is one that does not say how large it is, as soon as it is too large."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        for segments in (
            [b"6\r\nabcdef\r\n5\r\nabcde\r\n"],
            [b"6\r\nabcdef\r\n", b"5\r\nabcde\r\n"],
        ):
            self.assert_refused(self.send(head, *segments), 413)
        self.assert_refused(self.send(head + b"6\r\nabcdef\r\n5\r\nabcde\r\n0\r\n\r\n" + GET), 413)

    def test_for_programs(self) -> None:
        """Where all is JSON, however the path is spelt, this is, too."""
        for path in ("/topics/a", "/%74opics/a", "/publish", "/schedules", "/topics"):
            peer = self.send(request(f"POST {path} HTTP/1.1", "Host: a", "Content-Length: 11"))
            self.assertIn("\r\nContent-Type: application/json\r\n", peer.head)
            value = json.loads(peer.body)
            self.assertEqual((sorted(value), value["where"]), (["error", "where"], "body"))
        for path in ("/topicsy", "/a/topics/"):
            peer = self.send(request(f"POST {path} HTTP/1.1", "Host: a", "Content-Length: 11"))
            self.assert_refused(peer, 413)


class PlacesTests(ChannelTestCase):
    def settings(self) -> dict[str, Any]:
        """Let there be two connections."""
        return {"max_connections": 2}

    def test_full(self) -> None:
        """Who finds no place is told so, in HTTP, and may come back when one is free."""
        first, second = self.send(GET), self.send(handshake("/hello/"))
        self.requests.clear()
        for data in (GET, handshake("/hello/")):
            third = self.send(data[:20], data[20:])
            self.assert_refused(third, 503)
            self.assertIn("\r\nRetry-After: 5\r\n", third.head)
        third = self.send(b"\r\n")
        self.assertIsNone(third.lost)
        third.send(GET)
        self.assertEqual(third.received.count(b"HTTP/1.1 503 "), 1)
        first.vanish()
        self.assertEqual(self.send(GET).body, b"hello")
        second.vanish()

    def test_places_are_given_back(self) -> None:
        """However a connection ends, its place is free again."""
        for leave in (Peer.vanish, Peer.finish, lambda peer: peer.advance(*[10] * 10)):
            for data in (b"", GET, GET[:20], b"nonsense\r\n", handshake("/hello/")):
                for _ in range(3):
                    peer = self.send(data)
                    leave(peer)
                    self.assertFalse(peer.server.connected)
        self.assertEqual(self.send(GET).body, b"hello")

    def test_unforeseen(self) -> None:
        """Whatever parsing may raise, the client is told, and the operator has the traceback."""
        peer = self.send()

        def fail(line: bytes) -> None:
            raise ZeroDivisionError(line)

        peer.server.protocol.lineReceived = fail
        peer.send(request("OPTIONS / HTTP/1.1", "Host: a"))
        self.assertIn(" 400 ", peer.head)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_waiting_room(self) -> None:
        """Those who wait to be told so are few: beyond them the connection is closed at once."""
        self.send(), self.send()
        waiting = [self.send() for _ in range(64)]
        self.assertEqual([peer.lost for peer in waiting], [None] * 64)
        for tls in (False, True):
            late = Peer(self.daemon, tls=tls)
            self.assertIsNotNone(late.lost)
            self.assertEqual(late.received, b"")
        waiting[0].vanish()
        self.assertIsNone(self.send().lost)
        waiting[1].send(GET)
        self.assertIn(" 503 ", waiting[1].head)


class ProxyTests(ChannelTestCase):
    def settings(self) -> dict[str, Any]:
        """Stand behind a proxy on this machine, with one place for each client."""
        return {"proxies": Proxies(["127.0.0.1"]), "max_per_address": 1}

    def ask(self, path: str, *lines: str) -> Peer:
        """Ask as the proxy does."""
        return self.send(request(f"GET {path} HTTP/1.1", "Host: localhost:8080", *lines))

    def test_who_asks(self) -> None:
        """The view and the log see the client, as the proxy tells of it."""
        with capturedLogs() as events:
            self.ask("/hello/", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
        self.assertEqual(self.requests[0].peer, "192.0.2.7")
        self.assertEqual(self.requests[0].scheme, "https")
        self.assertEqual(said(events), ["192.0.2.7 GET /hello/ 200 5 after 0.000 s"])

    def test_proxy_itself(self) -> None:
        """A request of the proxy's own is from the proxy."""
        self.ask("/hello/")
        self.assertEqual(self.requests[0].peer, "127.0.0.1:50001")
        self.assertEqual(self.requests[0].scheme, "http")

    def test_places(self) -> None:
        """Each client has its places, over whatever connection of the proxy it comes."""
        line = "X-Forwarded-For: 192.0.2.7"
        first = self.ask("/slow/", line)
        self.assertIn(" 503 ", self.ask("/hello/", line).head)
        self.assertIn(" 200 ", self.ask("/hello/", "X-Forwarded-For: 192.0.2.8").head)
        self.answers[0].callback("done")
        first.settle()
        self.assertIn(" 200 ", self.ask("/hello/", line).head)
        second = self.ask("/slow/", line)
        second.vanish()
        self.assertIn(" 200 ", self.ask("/hello/", line).head)
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        self.assertIn('pushd_refused_total{reason="busy"} 1.0', answer.text)

    def test_places_of_websockets(self) -> None:
        """A WebSocket keeps its client's place until its end."""
        line = "X-Forwarded-For: 192.0.2.7"
        first = self.send(handshake("/hello/", line))
        self.assertIn(" 101 ", first.head)
        self.assertIn(" 503 ", self.ask("/hello/", line).head)
        first.vanish()
        self.assertIn(" 200 ", self.ask("/hello/", line).head)


class GuardTests(ChannelTestCase):
    def test_before_the_door(self) -> None:
        """What the guard turns away reaches no view, and its connection goes on."""
        peer = self.send(handshake("/hello/", "Origin: https://elsewhere.example"))
        self.assertEqual(peer.head.split(" ")[1], "403")
        self.assertEqual(self.requests, [])
        peer.received.clear()
        peer.send(GET)
        self.assertEqual(peer.body, b"hello")

    def test_counted(self) -> None:
        """Everything that is turned away is counted by its reason, and is a line in the log."""
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
            inside = [self.send(slow) for _ in range(3)]
            outside = [self.send() for _ in range(64)]
            door: Any = self.daemon.clock.tcpServers[0][1]
            nobody = door.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
            self.assertNotIsInstance(nobody, HTTPChannel)
            outside[0].send(GET)
            inside[0].advance(20.1)
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


class ShownTests(SynchronousTestCase):
    """What a request looks like to who comes to show it, in an error's text perhaps."""

    def test_shown(self) -> None:
        """Its path is told, and not its query, in which there may be a token."""
        shown: list[str] = []

        class Shown(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                shown.append(repr(request))
                return b""

        async def view(request: Request) -> Resource:
            return Shown()

        with Daemon({"/a/<b>": view}) as daemon:
            daemon.get("/a/b?token=secret")
        self.assertEqual(shown, ["<ChannelRequest /a/b>"])
        self.assertEqual(repr(ChannelRequest(DummyChannel())), "<ChannelRequest not read yet>")


class DoorTests(SynchronousTestCase):
    def test_no_clock_that_ticks(self) -> None:
        """A door that opens and closes has no log file, and no date to keep for it."""
        daemon = Daemon()
        door: Any = daemon.clock.tcpServers[0][1]
        door.doStart()
        self.assertEqual(daemon.pending_calls, [])
        door.doStop()


class ShortWayTests(SynchronousTestCase):
    """A whole head at once is read as one that comes in pieces."""

    def answer(self, *pieces: bytes) -> tuple[bytes, bool]:
        """What a daemon says to a request in pieces, but for the time, and whether it stays."""

        async def tell(request: Request) -> str:
            return f"{request.method} {request.path} {request.query_string} {[*request.headers]}"

        peer = Peer(Daemon({"/": tell}))
        for piece in pieces:
            peer.send(piece)
        return re.sub(rb"Date: .*\r\n", b"", peer.received), peer.lost is None

    @settings(UNHURRIED, derandomize=True, max_examples=300)
    @given(
        st.sampled_from(["GET", "HEAD", "get", "POST"]),
        st.sampled_from(["/", "/?a=b", "*", "//", "http://a/", "/\x7f", "/a b", "", "/é"]),
        st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 ", "HTTP/2"]),
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["Host", "host", "X", "X-é", "Content-Length", "Connection", "Expect", " X", ""]
                ),
                st.sampled_from([":", ": ", ":\t", "", " :"]),
                st.sampled_from(["a", "0", "2", "close", "x\x00", "x\ry", "é", "", "100-continue"]),
            ),
            max_size=4,
        ),
    )
    def test_same(
        self, method: str, target: str, version: str, fields: list[tuple[str, str, str]]
    ) -> None:
        """Whatever the head holds, the answer is the same."""
        lines = [f"{method} {target} {version}", *("".join(field) for field in fields), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        self.assertEqual(self.answer(head), self.answer(head[:1], head[1:]))
