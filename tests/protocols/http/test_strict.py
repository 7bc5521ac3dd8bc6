"""Strict reading of requests, and the headers of every response."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from pushd.access.limits import Limits
from pushd.protocols.http.response import Response
from pushd.testing import Daemon
from tests.support.channel_case import GET, ChannelTestCase
from tests.support.peer import Peer, UnixTransport, handshake, request, serve


def _own_policy(_: object) -> Response:
    return Response(headers={"Content-Security-Policy": "sandbox"}, body="<p>own</p>")


class HeadTests(ChannelTestCase):
    """Headers of responses."""

    def test_no_version(self) -> None:
        """No response names the server or its version."""
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
        """Every response forbids to guess its type, and to send referrers to other sites."""
        for path in ("/", "/hello/", "/nothing", "/pushd.js", "/favicon.svg"):
            headers = self.get(path).headers
            self.assertEqual(headers.get_all("X-Content-Type-Options"), ["nosniff"], path)
            self.assertEqual(headers.get_all("Referrer-Policy"), ["same-origin"], path)

    def test_page_headers(self) -> None:
        """Every page may load from its own site only, and be framed by it only."""
        for path in ("/", "/test.html", "/hello/", "/nothing"):
            headers = self.get(path).headers
            policy = headers.get_all("Content-Security-Policy")
            self.assertEqual(
                policy, ["default-src 'self'; base-uri 'self'; form-action 'self'"], path
            )
            self.assertEqual(headers.get_all("X-Frame-Options"), ["SAMEORIGIN"], path)
        for path in ("/pushd.js", "/pushd.css", "/favicon.svg"):
            self.assertNotIn("Content-Security-Policy", self.get(path).headers)

    def test_csp(self) -> None:
        """The operator may choose another policy, or none; a view's own is kept."""
        for given, sent in (("default-src 'none'", ["default-src 'none'"]), ("", None)):
            daemon = Daemon({"/hello/": lambda _: "hello", "/own/": _own_policy}, csp=given)
            for path, expected in (("/hello/", sent), ("/", sent), ("/own/", ["sandbox"])):
                answer = daemon.get(path)
                assert answer is not None
                headers = answer.headers
                self.assertEqual(headers.get_all("Content-Security-Policy"), expected, path)
                self.assertEqual(headers.get_all("X-Frame-Options"), ["SAMEORIGIN"], path)

    def test_own_headers(self) -> None:
        """A view may set these headers itself; then they occur once."""
        headers = self.get("/headers/").headers
        self.assertEqual(headers.get_all("Referrer-Policy"), ["a"])
        self.assertEqual(headers.get_all("Content-Security-Policy"), ["none"])
        self.assertEqual(headers.get_all("X-Content-Type-Options"), ["nosniff"])
        self.assertEqual(headers.get_all("Date"), ["today"])

    def test_date(self) -> None:
        """Every response has a Date (RFC 9110 §6.6.1), refusals included."""
        self.assertEqual(len(self.get("/hello/").headers.get_all("Date", [])), 1)
        refused = self.send(b"nonsense\r\n\r\n")
        self.assertEqual(refused.head.count("\r\nDate: "), 1)

    def test_nothing_sent(self) -> None:
        """204 and 304 have no Content-Length (RFC 9110 §8.6)."""

        class Nothing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.setResponseCode(int(request.args[b"status"][0]))
                return b""

        serve(self.daemon, Nothing())
        for status, has_length in ((200, True), (204, False), (304, False)):
            head = self.send(request(f"GET /?status={status} HTTP/1.1", "Host: a")).head
            self.assertEqual("Content-Length: 0" in head, has_length, status)


class RefusalTests(ChannelTestCase):
    """Requests that are ambiguous, malformed or too large."""

    def test_blank_line(self) -> None:
        """A blank line before a request is ignored (RFC 9112 §2.2)."""
        self.assertEqual(self.send(b"\r\n" + GET).body, b"hello")

    def test_malformed(self) -> None:
        """A request that could be understood in more than one way is refused."""
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

    def test_trailer(self) -> None:
        """The trailer of a chunked body must follow the rules of a head."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        self.assertEqual(self.send(head + b"1\r\nx\r\n0\r\nX: y\r\n\r\n").body, b"hello")
        self.requests.clear()
        self.assert_refused(self.send(head + b"1\r\nx\r\n0\r\nX: a\x0bb\r\n\r\n"), 400)

    def test_too_long(self) -> None:
        """The target, each header, and all headers together have limits."""
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

    def test_unread_behind_a_refusal(self) -> None:
        """Whatever follows a malformed request is not read, in the same segment or a later one."""
        for segments in ([b"nonsense\r\n\r\n" + GET], [b"nonsense\r\n\r\n", GET]):
            peer = Peer(self.daemon)
            peer.send(*segments)
            self.assertEqual(peer.received.count(b"HTTP/1.1"), 1)
            self.assertEqual(self.requests, [])

    def test_dropped_behind_a_refusal(self) -> None:
        """What follows a refusal is received and dropped, as a reset could destroy the refusal."""
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


class BodyTests(ChannelTestCase):
    """The limit of a body."""

    def settings(self) -> dict[str, Any]:
        """Limit bodies to ten bytes."""
        return {"limits": Limits(max_message=10, max_body=10)}

    def test_largest(self) -> None:
        """A body at the limit is taken."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 10")
        self.assertEqual(self.send(head + b"x" * 10).body, b"hello")

    def test_announced(self) -> None:
        """A body beyond the limit is refused before it arrives, without 100 Continue."""
        head = request(
            "POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 11", "Expect: 100-continue"
        )
        for segments in ([head], [head + b"x" * 11], [head, b"x" * 11]):
            peer = Peer(self.daemon)
            peer.send(*segments)
            self.assert_refused(peer, 413)

    def test_chunked(self) -> None:
        """A chunked body is refused as soon as it exceeds the limit."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        for segments in (
            [b"6\r\nabcdef\r\n5\r\nabcde\r\n"],
            [b"6\r\nabcdef\r\n", b"5\r\nabcde\r\n"],
        ):
            self.assert_refused(self.send(head, *segments), 413)
        self.assert_refused(self.send(head + b"6\r\nabcdef\r\n5\r\nabcde\r\n0\r\n\r\n" + GET), 413)

    def test_for_programs(self) -> None:
        """At the paths of the API, in any encoding, the refusal is JSON."""
        for path in ("/topics/a", "/%74opics/a", "/publish", "/schedules", "/topics"):
            peer = self.send(request(f"POST {path} HTTP/1.1", "Host: a", "Content-Length: 11"))
            self.assertIn("\r\nContent-Type: application/json\r\n", peer.head)
            value = json.loads(peer.body)
            self.assertEqual((sorted(value), value["where"]), (["error", "where"], "body"))
        for path in ("/topicsy", "/a/topics/"):
            peer = self.send(request(f"POST {path} HTTP/1.1", "Host: a", "Content-Length: 11"))
            self.assert_refused(peer, 413)
