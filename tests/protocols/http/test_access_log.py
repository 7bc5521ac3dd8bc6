"""Log lines of requests, and the count of refusals."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from pushd.access.limits import Limits
from pushd.access.origins import Hosts
from pushd.access.proxies import Proxies
from pushd.protocols.http.response import Response
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket, require_token, require_websocket
from pushd.views.request import Request
from tests.support.channel_case import GET, ChannelTestCase
from tests.support.keyring import secret_keys, token
from tests.support.peer import Peer, UnixTransport, handshake, request, said, serve


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

    def test_cut_off(self) -> None:
        """A client that does not take its answer has a line that says so, and has not left."""

        class Parts(Resource):
            isLeaf = True

            def render(self, request: Any) -> int:
                request.write(bytes(100_000))
                return NOT_DONE_YET

        for resource, path, length in (
            (Parts(), " GET /hello/", 100_000),
            (Data(bytes(100_000), "text/plain"), "", 100_000),
        ):
            serve(self.daemon, resource)
            peer = Peer(self.daemon)
            peer.stall()
            with capturedLogs() as events:
                peer.send(GET)
                peer.advance(60.1)
            *_, line = said(events)
            when = r" cut off after 60\.100 s" if path else " cut off"
            what = r"by us: client reads too slowly, 10\d{4} bytes were not taken$"
            self.assertRegex(line, rf"^127\.0\.0\.1:\d+{path}{when} {what}")
            self.assertNotIn("left", [event["event"] for event in events])
            [cut] = [event for event in events if event["event"] == "cut_off"]
            self.assertGreater(cut["bytes_untaken"], length)

    def test_freed(self) -> None:
        """A request that is answered when the daemon's buffers are full has such a line, too."""
        self.send(request("GET /slow/ HTTP/1.1", "Host: a"))
        sites: list[Any] = self.daemon._sites
        [channel] = sites[0].connections._open
        with capturedLogs() as events:
            channel.free_memory()
            self.daemon.settle()
        self.assertEqual(
            said(events),
            [
                "127.0.0.1:50001 GET /slow/ cut off after 0.000 s by us: "
                "the server's buffers are full"
            ],
        )

    def test_freed_in_between(self) -> None:
        """Between two requests nothing is lost, and there is no line."""
        peer = self.send(GET)
        sites: list[Any] = self.daemon._sites
        [channel] = sites[0].connections._open
        with capturedLogs() as events:
            channel.free_memory()
            peer.settle()
        self.assertEqual(said(events), [])
        self.assertIs(peer.lost, ConnectionLost)

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


class ReasonTests(SynchronousTestCase):
    """The line of a request that is refused says why, and what helps."""

    def start(self, **settings: Any) -> None:
        """Start a daemon with views of all kinds."""

        def plain(request: Request) -> str:
            return "a page"

        @accept_websocket
        async def both(request: Request) -> str:
            return "a page"

        @require_token
        @accept_websocket
        async def guarded(request: Request) -> str:
            return "a page"

        @require_websocket
        async def required(request: Request) -> Response:
            return Response(403, body="members only")

        @require_websocket
        def blocking(request: Request) -> None:
            request.websocket.wait()

        views = {"/plain/": plain, "/both/": both, "/required/": required, "/blocking/": blocking}
        self.daemon = Daemon({**views, "/token/": guarded}, **settings)

    def line(self, data: bytes, *, control: bool = False, address: str = "192.0.2.1") -> str:
        """Send a request, and return its only line without its beginning."""
        with capturedLogs() as events:
            connection = self.daemon.open_connection(control=control, address=address)
            connection.send(data)
        (line,) = said(events)
        (event,) = (one for one in events if one.get("event") in ("request", "refused"))
        if "reason" in event:
            self.assertTrue(line.endswith(f" after 0.000 s: {event['reason']}"), line)
        self.assertTrue(line.isascii() and line.isprintable(), line)
        return line.partition(f"{address}:50000 ")[2]

    def assert_explained(self, line: str, status: int, *words: str) -> None:
        """Assert that a line has a status, and all these words."""
        self.assertIn(f" {status}", line)
        for word in words:
            self.assertIn(word, line)

    def test_handshakes(self) -> None:
        """Each handshake that is refused has one line, with the option or document that helps."""
        self.start(hosts=Hosts(["localhost", "a"]))
        for data, status, words in (
            (
                handshake("/both/", "Origin: https://evil.example"),
                403,
                ("https://evil.example", "http://localhost:8080", "--origin", "deploying.md"),
            ),
            (
                handshake("/topics/t", "Origin: null"),
                403,
                ("null", "--origin"),
            ),
            (handshake("/both/", "Host: b"), 400, ("Host",)),
            (handshake("/both/").replace(b"localhost", b"b.example"), 421, ("b.example", "--host")),
            (handshake("/nothing"), 404, ("--views",)),
            (handshake("/plain/"), 400, ("plain", "accept_websocket", "docs/views.md")),
            (handshake("/token/"), 401, ("a token is required", "--token-key", "docs/tokens.md")),
            (handshake("/both/", without=("Sec-WebSocket-Key",)), 400, ("Sec-WebSocket-Key",)),
            (
                handshake("/both/").replace(b"Connection: Upgrade", b"Connection: close"),
                400,
                ("Connection: Upgrade", "proxy", "docs/deploying.md"),
            ),
            (handshake("/both/").replace(b"13", b"12"), 426, ("Version must be 13",)),
            (handshake("/topics/"), 400, ("topic",)),
            (handshake("/topics/t?after=x"), 400, ("id",)),
            (handshake("/required/"), 403, ("required", "opened no WebSocket")),
            (handshake("/both/"), 200, ("both", "opened no WebSocket")),
        ):
            self.assert_explained(self.line(data), status, *words)

    def test_lost_upgrade(self) -> None:
        """A handshake from which a proxy took its Upgrade is explained at every kind of URL."""
        self.start()
        for path, status in (("/both/", 200), ("/required/", 426), ("/topics/t", 426)):
            line = self.line(handshake(path, without=("Upgrade",)))
            self.assert_explained(line, status, "without Upgrade", "docs/deploying.md")
            line = self.line(handshake(path).replace(b"HTTP/1.1", b"HTTP/1.0"))
            self.assert_explained(line, status, "HTTP/1.0", "docs/deploying.md")
        line = self.line(request("GET /required/ HTTP/1.1", "Host: a"))
        self.assert_explained(line, 426, "WebSockets only")
        self.assertNotIn(": ", self.line(handshake("/plain/", without=("Upgrade",))))

    def test_tokens(self) -> None:
        """A token that is missing, wrong or not sufficient is explained."""
        self.start(token_keys=secret_keys())
        for path, status, word in (
            ("/topics/t", 401, "a token is required"),
            ("/topics/t?token=x", 401, "token"),
            (f"/topics/t?token={token(subscribe=['other'])}", 403, "subscribing to t"),
            ("/token/", 401, "a token is required"),
        ):
            line = self.line(handshake(path))
            self.assert_explained(line, status, word, "docs/tokens.md")
            self.assertNotIn("--token-key", line)
            self.assertNotIn("token=", line)

    def test_full_house(self) -> None:
        """A connection that is one too many is explained by the limit that is reached."""
        self.start(max_connections=2, max_per_address=1)
        first = self.daemon.open_connection(address="192.0.2.1")
        line = self.line(handshake("/both/"))
        self.assert_explained(line, 503, "limit reached: 1 connections, see --max-per-address")
        self.daemon.open_connection(address="192.0.2.2")
        line = self.line(handshake("/both/"))
        self.assert_explained(line, 503, "limit reached: 2 connections, see --max-connections")
        first.leave()

    def test_full_queue(self) -> None:
        """So is one that is closed at once."""
        self.start(max_connections=1)
        connections = [self.daemon.open_connection(address="192.0.2.1") for _ in range(17)]
        with capturedLogs() as events:
            connections.append(self.daemon.open_connection(address="192.0.2.1"))
        (line,) = said(events)
        self.assert_explained(line, 503, "--max-connections", "503 queue is full")

    def test_behind_a_proxy(self) -> None:
        """So is a client of a proxy with too many connections."""
        self.start(max_per_address=1, proxies=Proxies(["127.0.0.1"]))
        stream = request(
            "GET /topics/t HTTP/1.1",
            "Host: a",
            "Accept: text/event-stream",
            "X-Forwarded-For: 192.0.2.1",
        )
        self.daemon.open_connection().send(stream)
        with capturedLogs() as events:
            self.daemon.open_connection().send(handshake("/both/", "X-Forwarded-For: 192.0.2.1"))
        (line,) = said(events)
        self.assert_explained(line, 503, "192.0.2.1 GET /both/", "--max-per-address")

    def test_threads(self) -> None:
        """A blocking view without a thread is explained, beside the warning once in a minute."""
        self.start(threads=1)
        self.daemon.connect("/blocking/")
        with capturedLogs() as events:
            self.daemon.connect("/blocking/")
        lines = said(events)
        self.assertEqual(len(lines), 2)
        self.assert_explained(lines[1], 503, "1 threads", "--threads")

    def test_stopping(self) -> None:
        """A handshake during a stop is explained."""
        self.start(drain=60)
        opened = [self.daemon.open_connection(address="192.0.2.1") for _ in range(2)]
        self.daemon.begin_stop()
        for connection, path in zip(opened, ("/topics/t", "/both/"), strict=True):
            with capturedLogs() as events:
                connection.send(handshake(path))
            self.assert_explained(said(events)[0], 503, "server is shutting down")

    def test_control_port(self) -> None:
        """Requests that the control port refuses are explained."""
        self.start()
        for lines, word in (
            (("Host: pushd:8081",), "Host pushd:8081 is not allowed, see --control-host"),
            (("Host: localhost", "Origin: http://a"), "docs/tokens.md"),
        ):
            line = self.line(request("GET /metrics HTTP/1.1", *lines), control=True)
            self.assert_explained(line, 403, word)

    def test_method(self) -> None:
        """A publication at the public port without token keys is explained."""
        self.start()
        line = self.line(request("POST /topics/t HTTP/1.1", "Host: a", "Content-Length: 0"))
        self.assert_explained(line, 405, "control port", "docs/tokens.md")

    def test_hostile(self) -> None:
        """What a client sends appears escaped, and not at length."""
        self.start(hosts=Hosts(["localhost"]))
        line = self.line(handshake("/both/", f"Origin: \xe9{'x' * 5000}"))
        self.assertLess(len(line), 500)
        self.assertIn("Origin \\xe9xxx", line)


class RefusalTests(ChannelTestCase):
    """The count of refusals."""

    def test_counted(self) -> None:
        """Each refusal is counted by its reason, and has a line in the log."""
        self.daemon = Daemon({}, max_connections=3, limits=Limits(max_body=10))
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
