"""Pages of other origins that read topics, and import the client."""

from __future__ import annotations

from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.origins import Origins
from pushd.access.proxies import Proxies
from pushd.testing import Answer, Daemon

PAGE = "https://page.example"

# The client's scripts, all in one folder.
SCRIPTS = [path.name for path in (Path(__file__).parents[3] / "web").glob("*.js")]

ALLOW = "Access-Control-Allow-Origin"
CREDENTIALS = "Access-Control-Allow-Credentials"


class CrossOriginTestCase(SynchronousTestCase):
    """A daemon that allows one other origin."""

    def setUp(self) -> None:
        """Start it."""
        self.start(PAGE)

    def start(self, *origins: str, **settings: Any) -> None:
        """Start a daemon that allows these origins."""
        views = {"/broken/": self.fail_to_answer, "/topics/broken": self.fail_to_answer}
        self.daemon = Daemon(views, origins=Origins(origins), **settings)
        self.addCleanup(self.daemon.stop)

    @staticmethod
    def fail_to_answer(request: object) -> None:
        """Raise an exception."""
        raise RuntimeError("broken")

    def ask(self, path: str, origin: str | None = PAGE, **headers: str) -> Answer:
        """Send a request from a page; return the answer, or what has arrived of it."""
        connection = self.daemon.open_connection()
        if origin is not None:
            headers["Origin"] = origin
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.send(f"GET {path} HTTP/1.1\r\nHost: localhost:8080\r\n{lines}\r\n".encode())
        self.daemon.settle()
        first, _, head = connection.received.partition(b"\r\n")
        return Answer(int(first.split()[1]), parse_headers(BytesIO(head)), b"")


class TopicTests(CrossOriginTestCase):
    """Event streams and polls."""

    def test_transports(self) -> None:
        """A stream and a poll can be read, with cookies, and so can their refusals."""
        for path, accept, status in (
            ("/topics/t", "text/event-stream", 200),
            ("/topics/t?wait=0", "application/json", 200),
            ("/topics/t?wait=x", "application/json", 400),
            ("/topics/%ff", "application/json", 400),
        ):
            answer = self.ask(path, Accept=accept)
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers[ALLOW], PAGE)
            self.assertEqual(answer.headers[CREDENTIALS], "true")
            self.assertEqual(answer.headers["Vary"], "origin")

    def test_failure(self) -> None:
        """The response stays readable if it is replaced by a failure."""
        answer = self.ask("/topics/broken")
        self.assertEqual((answer.status, answer.headers[CREDENTIALS]), (500, "true"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_by_name_only(self) -> None:
        """Requests with cookies are for origins that are named: anyone can have any other."""
        for allowed, origin, named in (
            ("https://*.page.example", "https://a.page.example", True),
            ("capacitor://localhost", "capacitor://localhost", True),
            ("moz-extension://*", "moz-extension://0d0c1e5a", False),
            ("null", "null", False),
            ("*", PAGE, False),
            ("*", "garbage", False),
        ):
            self.start(allowed)
            answer = self.ask("/topics/t?wait=0", origin)
            self.assertEqual(answer.headers[ALLOW], origin)
            self.assertEqual(CREDENTIALS in answer.headers, named, allowed)
        self.start("*", PAGE)
        self.assertIn(CREDENTIALS, self.ask("/topics/t?wait=0").headers)

    def test_others(self) -> None:
        """Neither a foreign page nor a request without an origin gets any of these headers."""
        for origin in ("https://evil.example", None):
            answer = self.ask("/topics/t?wait=0", origin)
            self.assertEqual(answer.status, 403 if origin else 200)
            self.assertNotIn(ALLOW, answer.headers)
            self.assertNotIn(CREDENTIALS, answer.headers)


class ScriptTests(CrossOriginTestCase):
    """``import … from "https://push.example.com/pushd.js"``."""

    def test_import(self) -> None:
        """A page of an allowed origin can import the client and each of its parts."""
        self.assertIn("pushd.js", SCRIPTS)
        for name in SCRIPTS:
            answer = self.ask(f"/{name}")
            self.assertEqual(answer.status, 200)
            self.assertEqual((answer.headers[ALLOW], answer.headers["Vary"]), (PAGE, "origin"))
            again = {"If-None-Match": answer.headers["ETag"]}
            answer = self.ask(f"/{name}", **again)
            self.assertEqual((answer.status, answer.headers[ALLOW]), (304, PAGE))

    def test_beside_an_application(self) -> None:
        """The client can be imported where an application serves the other pages as well."""

        def application(environ: object, start_response: object) -> list[bytes]:
            raise AssertionError("the application is not asked")

        self.start(PAGE, wsgi=application)
        answer = self.ask("/pushd/pushd.js")
        self.assertEqual((answer.status, answer.headers[ALLOW]), (200, PAGE))

    def test_others(self) -> None:
        """No other page can, and caches are told that the response depends on the origin."""
        for origin in ("https://evil.example", None):
            answer = self.ask("/pushd.js", origin)
            self.assertEqual(answer.status, 200)
            self.assertNotIn(ALLOW, answer.headers)
            self.assertEqual(answer.headers["Vary"], "origin")

    def test_nothing_else(self) -> None:
        """Other files and views cannot be read."""
        for path in ("/", "/pushd.css", "/demo/topics.js", "/broken/", "/nothing.js"):
            self.assertNotIn(ALLOW, self.ask(path).headers)
        self.flushLoggedErrors(RuntimeError)


class EarlyRefusalTests(CrossOriginTestCase):
    """Refusals of requests that have not arrived as a whole."""

    def refuse(self, *lines: str, body: bytes = b"", host: str = "localhost:8080") -> Answer:
        """Send a request that is refused early, in one piece and byte by byte."""
        head = "".join(f"{line}\r\n" for line in (lines[0], f"Host: {host}", *lines[1:], ""))
        data, answers = head.encode() + body, []
        for size in (len(data), 1460):
            connection = self.daemon.open_connection(address="192.0.2.1")
            for start in range(0, len(data), size):
                connection.send(data[start : start + size])
            answers.append(connection.answer(lines[0].partition(" ")[0]))
        assert answers[0] is not None and answers[1] is not None, answers
        # A second may begin between the two.
        del answers[0].headers["Date"], answers[1].headers["Date"]
        self.assertEqual(answers[0].headers.items(), answers[1].headers.items())
        self.assertEqual(answers[0].status, answers[1].status)
        return answers[0]

    def assert_readable(self, answer: Answer, status: int, origin: str = PAGE) -> None:
        """Assert that the page can read the answer, and its Retry-After."""
        self.assertEqual((answer.status, answer.headers[ALLOW]), (status, origin))
        self.assertEqual(answer.headers["Vary"], "origin")
        self.assertIn("Retry-After", answer.headers["Access-Control-Expose-Headers"])

    def test_body(self) -> None:
        """A body that is too large is refused readably, with and without a length."""
        self.start(PAGE, max_message=10)
        line, origin = "POST /topics/t HTTP/1.1", f"Origin: {PAGE}"
        answer = self.refuse(line, origin, "Content-Length: 11", body=b"x" * 11)
        self.assert_readable(answer, 413)
        self.assertEqual(answer.headers[CREDENTIALS], "true")
        chunk = b"b\r\n12345678901\r\n0\r\n\r\n"
        answer = self.refuse(line, "Transfer-Encoding: chunked", origin, body=chunk)
        self.assert_readable(answer, 413)

    def test_target(self) -> None:
        """So is a target that is too long, whose headers come behind it."""
        for size in (17_000, 30_000):
            line = f"GET /topics/t?token={'x' * size} HTTP/1.1"
            self.assert_readable(self.refuse(line, f"Origin: {PAGE}", "X: y"), 414)
            self.assert_readable(self.refuse(line, "X: y", f"oRIGIN:{PAGE}"), 414)
            self.assertNotIn(ALLOW, self.refuse(line, "X: y").headers)

    def test_endless_target(self) -> None:
        """A target that does not end, and a head behind one, are not read for ever."""
        for more in (b"x" * 17_000, b"\r\n" + b"X: y\r\n" * 3000):
            connection = self.daemon.open_connection()
            connection.send(b"GET /topics/" + b"x" * 17_000)
            self.assertEqual(connection.received, b"")
            connection.send(more)
            self.assertIn(b" 414 ", connection.received)

    def test_slow_target(self) -> None:
        """If what follows a target that is too long does not come, neither does the answer."""
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics/" + b"x" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n")
        self.daemon.advance(20)
        self.assertTrue(connection.closed or b" 408 " in connection.received)

    def test_headers(self) -> None:
        """So are headers that are too long, too large or too many, wherever the Origin is."""
        for many in (
            [f"X: {'x' * 17_000}"],
            ["X: " + "x" * 9000] * 3,
            [f"X-{number}: y" for number in range(501)],
        ):
            for lines in ([f"Origin: {PAGE}", *many], [many[0], f"Origin: {PAGE}", *many[1:]]):
                connection = self.daemon.open_connection()
                head = "".join(
                    f"{line}\r\n" for line in ("GET /topics/t HTTP/1.1", "Host: a", *lines, "")
                )
                connection.send(head.encode())
                answer = connection.answer()
                assert answer is not None
                self.assert_readable(answer, 431)

    def test_full_house(self) -> None:
        """So is a connection beyond the limit, whose Origin may be the last header."""
        self.start(PAGE, max_connections=1)
        self.daemon.open_connection()
        for lines in ((f"Origin: {PAGE}", "X: y"), ("X: y", f"Origin: {PAGE}")):
            answer = self.refuse("GET /topics/t HTTP/1.1", *lines)
            self.assert_readable(answer, 503)
            self.assertEqual(answer.headers["Retry-After"], "5")

    def test_full_house_behind_a_proxy(self) -> None:
        """So is a client behind a proxy that has too many connections."""
        self.start(PAGE, max_per_address=1, proxies=Proxies(["127.0.0.1"]))
        stream = "GET /topics/t HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n"
        accept = f"Accept: text/event-stream\r\nOrigin: {PAGE}\r\n\r\n"
        for _ in range(2):
            connection = self.daemon.open_connection()
            connection.send(f"{stream}{accept}".encode())
        answer = connection.answer()
        assert answer is not None
        self.assert_readable(answer, 503)

    def test_full_memory(self) -> None:
        """So is a request that is given up as the daemon's buffers are full."""
        self.start(PAGE, max_memory=1 << 20)
        connection = self.daemon.open_connection()
        head = (
            f"POST /topics/t HTTP/1.1\r\nHost: a\r\nOrigin: {PAGE}\r\nContent-Length: 1000000\r\n"
        )
        connection.send(f"{head}\r\n".encode() + b"x" * 900_000)
        other = self.daemon.open_connection()
        other.send(f"{head}\r\n".encode() + b"x" * 500_000)
        answer = connection.answer()
        assert answer is not None
        self.assert_readable(answer, 503)
        self.assertEqual(answer.headers["Retry-After"], "1")

    def test_slow_body(self) -> None:
        """So is a body that comes too slowly."""
        connection = self.daemon.open_connection()
        head = f"POST /topics/t HTTP/1.1\r\nHost: a\r\nOrigin: {PAGE}\r\nContent-Length: 10\r\n\r\n"
        connection.send(head.encode())
        self.daemon.advance(20)
        answer = connection.answer()
        assert answer is not None
        self.assert_readable(answer, 408)

    def test_own_origin(self) -> None:
        """Our own origin has the scheme that a proxy gives, in early refusals as well."""
        self.start(proxies=Proxies(["192.0.2.1"]), max_message=10)
        lines = ("POST /topics/t HTTP/1.1", "X-Forwarded-Proto: wss", "Content-Length: 11")
        for scheme, readable in (("https", True), ("http", False)):
            answer = self.refuse(*lines, f"Origin: {scheme}://localhost:8080")
            self.assertEqual((answer.status, ALLOW in answer.headers), (413, readable))

    def test_others(self) -> None:
        """Other pages, requests for other paths, and handshakes get no such headers."""
        self.start(PAGE, max_message=10, max_body=10)
        large = "Content-Length: 11"
        for lines in (
            ("POST /topics/t HTTP/1.1", "Origin: https://evil.example", large),
            ("POST /topics/t HTTP/1.1", f"Origin: {PAGE}.evil.example", large),
            ("POST /other HTTP/1.1", f"Origin: {PAGE}", large),
            ("POST /topics/t HTTP/1.1", large),
            ("POST /topics/t HTTP/1.1", f"Origin: {PAGE}", "Upgrade: websocket", large),
        ):
            answer = self.refuse(*lines)
            self.assertEqual((answer.status, ALLOW in answer.headers), (413, False), lines)
        for data in (b"\r\n \r\n", b"x\r\n\r\n", b"GET /topics/t\r\nOrigin: " + PAGE.encode()):
            connection = self.daemon.open_connection()
            connection.send(data + b"\r\n\r\n")
            self.assertNotIn(b"Access-Control", connection.received)
            self.assertIn(b" 400 ", connection.received)

    def test_any_origin(self) -> None:
        """With ``*`` every origin may read refusals, but one with control bytes is not repeated."""
        self.start("*", max_connections=1)
        self.daemon.open_connection()
        answer = self.refuse("GET /topics/t HTTP/1.1", "Origin: https://any.example")
        self.assert_readable(answer, 503, "https://any.example")
        self.assertNotIn(CREDENTIALS, answer.headers)
        for origin in ("https://a\x01b", "https://é.example"):
            line = f"GET /topics/{'x' * 17_000} HTTP/1.1"
            answer = self.refuse(line, f"Origin: {origin}")
            self.assertEqual((answer.status, ALLOW in answer.headers), (414, False))
