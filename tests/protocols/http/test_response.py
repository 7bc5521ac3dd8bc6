"""HTTP responses: what a view returns, errors, and failures."""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.http.response import (
    MAX_WHOLE,
    NOT_FOUND,
    AnswerResource,
    Response,
    error_page,
    json_response,
    page,
    refusal,
)
from pushd.service.build import shipped_client
from pushd.testing import Answer, Daemon
from pushd.views.request import Request
from tests.support.peer import Peer, request, said, serve
from tests.support.recording_socket import SocketConnection


class ResponseTestCase(SynchronousTestCase):
    """A daemon whose view returns what a test wants."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.answer: Any = None

        async def view(request: Request) -> Any:
            return self.answer

        self.daemon = Daemon({"/view/": view})

    def get(self, answer: Any, method: str = "GET") -> Answer:
        """Have the view return something, and return the answer."""
        self.answer = answer
        got = self.daemon.request(method, "/view/")
        assert got is not None, "there is no answer"
        return got

    def send(self, answer: Any, method: str = "GET") -> Peer:
        """Have the view return something, and return the connection that asked for it."""
        self.answer = answer
        peer = Peer(self.daemon)
        peer.send(request(f"{method} /view/ HTTP/1.1", "Host: localhost:8080"))
        return peer


class WriteTests(ResponseTestCase):
    """With fast paths, head and body leave together, and at once."""

    def setUp(self) -> None:
        """Start the daemon with fast paths."""
        self.patch(FAST_PATHS, "enabled", True)
        super().setUp()

    def ask(self, answer: Any, line: str = "GET /view/ HTTP/1.1") -> SocketConnection:
        """Have the view return something, and return the connection that asked for it."""
        self.answer = answer
        server = SocketConnection(self.daemon)
        server.receive(request(line, "Host: localhost:8080"))
        self.daemon.settle()
        return server

    def test_whole(self) -> None:
        """A short answer is one system call."""
        for answer in ("<p>one", Response(404, body="none"), json_response(200, [1])):
            [one] = self.ask(answer).fake_socket.given
            self.assertRegex(one, rb"(?s)^HTTP/1\.1 \d+ .+\r\n\r\n.+")

    def test_parts(self) -> None:
        """What is long, or has no body, is left to twisted.web, as is HTTP/1.0."""
        for answer, line in (
            (None, "GET /view/ HTTP/1.1"),
            (Response(body=""), "GET /view/ HTTP/1.1"),
            ("text", "HEAD /view/ HTTP/1.1"),
            ("text", "GET /view/ HTTP/1.0"),
            ("x" * (MAX_WHOLE + 1), "GET /view/ HTTP/1.1"),
        ):
            server = self.ask(answer, line)
            self.assertEqual(server.fake_socket.given, [], line)
            self.assertRegex(server.sent, rb"^HTTP/1\.[01] 20[04] ")


class ReturnTests(ResponseTestCase):
    """What a view may return."""

    def test_text(self) -> None:
        """Text is sent as HTML in UTF-8."""
        got = self.get("<p>café")
        self.assertEqual((got.status, got.text), (200, "<p>café"))
        self.assertEqual(got.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(got.headers["Content-Length"], "8")

    def test_bytes(self) -> None:
        """Bytes are sent as they are."""
        got = self.get(b"\x00\xff")
        self.assertEqual((got.status, got.body), (200, b"\x00\xff"))
        self.assertEqual(got.headers["Content-Type"], "application/octet-stream")
        self.assertEqual(got.headers["Content-Length"], "2")

    def test_empty(self) -> None:
        """An empty string is a page of length 0, not a missing answer."""
        got = self.get("")
        self.assertEqual((got.status, got.headers["Content-Length"]), (200, "0"))

    def test_length(self) -> None:
        """A view cannot set the length of a body; for HEAD a valid Content-Length is kept."""
        headers = {"Content-Length": "99", "Transfer-Encoding": "chunked"}
        for body in ("four", b"four"):
            peer = self.send(Response(200, headers, body))
            self.assertIn("\r\nContent-Length: 4\r\n", peer.head)
            self.assertNotIn("Transfer-Encoding", peer.head)
            peer.send(request("GET /view/ HTTP/1.1", "Host: localhost:8080"))
            self.assertEqual(peer.received.count(b"HTTP/1.1 200 OK"), 2)
        peer = self.send(Response(200, headers), "HEAD")
        self.assertIn("\r\nContent-Length: 99\r\n", peer.head)
        for wrong in (["2", "3"], "many"):
            peer = self.send(Response(200, {"Content-Length": wrong}, "four"), "HEAD")
            self.assertIn("\r\nContent-Length: 4\r\n", peer.head)

    def test_none(self) -> None:
        """None is 204, without a body and without headers about it."""
        peer = self.send(None)
        self.assertTrue(peer.head.startswith("HTTP/1.1 204 No Content\r\n"))
        self.assertNotRegex(peer.head, r"(?i)\n(content-(type|length)|transfer-encoding)")
        self.assertEqual(peer.body, b"")

    def test_response(self) -> None:
        """A Response sets status, headers and body."""
        got = self.get(Response(418, {"X-Pot": "tea", "Content-Type": "text/tea"}, "short"))
        self.assertEqual((got.status, got.text), (418, "short"))
        self.assertEqual(got.headers["X-Pot"], "tea")
        self.assertEqual(got.headers.get_all("Content-Type"), ["text/tea"])

    def test_header_twice(self) -> None:
        """A header may have more than one value."""
        got = self.get(Response(headers={"Set-Cookie": ["a=1", "b=2"], "X": ("c",)}))
        self.assertEqual(got.headers.get_all("Set-Cookie"), ["a=1", "b=2"])
        self.assertEqual(got.headers.get_all("X"), ["c"])

    def test_header_in_a_header(self) -> None:
        """A value with line ends adds no header, and does not end the head."""
        peer = self.send(Response(headers={"X": "a\r\nY: b\r\n\r\nc"}))
        self.assertNotIn("\r\nY:", peer.head)
        self.assertEqual(peer.body, b"")

    def test_phrase(self) -> None:
        """Every known status has its reason phrase."""
        for status, phrase in ((200, "OK"), (426, "Upgrade Required"), (429, "Too Many Requests")):
            head = self.send(Response(status)).head
            self.assertTrue(head.startswith(f"HTTP/1.1 {status} {phrase}\r\n"), head)
        self.assertTrue(self.send(Response(599)).head.startswith("HTTP/1.1 599 "))

    def test_no_body(self) -> None:
        """A status that must not have a body has none, whatever the view returned."""
        for status in (204, 304):
            peer = self.send(Response(status, body="body"))
            self.assertEqual(peer.body, b"")
            self.assertNotRegex(peer.head, r"(?i)\n(content-(type|length)|transfer-encoding)")

    def test_page(self) -> None:
        """A page is a file of the static client, with the headers of a file."""
        got = self.get(page("test.html"))
        self.assertEqual(got.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn("ETag", got.headers)
        self.assertEqual(got.body, getattr(self.daemon.get("/test.html"), "body", None))

    def test_resource(self) -> None:
        """A twisted.web resource answers as it does elsewhere."""
        got = self.get(Data(b"data", "text/plain"))
        self.assertEqual((got.status, got.body), (200, b"data"))
        self.assertEqual(got.headers["Content-Type"], "text/plain")

    def test_slow_resource(self) -> None:
        """A twisted.web resource may answer later, and in parts."""
        waiting: list[Any] = []

        class Slow(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                waiting.append(request)
                return NOT_DONE_YET

        peer = self.send(Slow())
        self.assertEqual(peer.received, b"")
        waiting[0].write(b"a")
        waiting[0].write(b"bc")
        waiting[0].finish()
        peer.settle()
        self.assertEqual(peer.body, b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")

    def test_head(self) -> None:
        """HEAD gets the head of each answer, and no body."""
        for answer, length in (
            ("text", "4"),
            (b"bytes", "5"),
            (Response(404, body="gone"), "4"),
            (Data(b"data", "text/plain"), "4"),
        ):
            peer = self.send(answer, "HEAD")
            self.assertIn(f"\r\nContent-Length: {length}\r\n", peer.head)
            self.assertEqual(peer.body, b"", answer)
        self.assertEqual(self.send(page("test.html"), "HEAD").body, b"")
        self.assertEqual(self.send(None, "HEAD").body, b"")

    def test_not_an_answer(self) -> None:
        """Any other type is an error that names the allowed types."""
        for answer in (5, ["text"], {"a": 1}, object, bytearray(b"x"), True):
            self.assertEqual(self.get(answer).status, 500, answer)
            (failure,) = self.flushLoggedErrors(TypeError)
            self.assertIn("str, bytes, Response", failure.getErrorMessage())
            self.assertIn(type(answer).__name__, failure.getErrorMessage())

    def test_page_that_is_not_there(self) -> None:
        """A page that does not exist, or must not be served, is an error that names it."""
        for name in ("nothing.html", "../setup.cfg", ".hidden", "/etc/passwd"):
            self.assertEqual(self.get(page(name)).status, 500, name)
            (failure,) = self.flushLoggedErrors(LookupError)
            self.assertIn(name, failure.getErrorMessage())


class ErrorTests(SynchronousTestCase):
    """Errors for people and for programs."""

    def test_error_page(self) -> None:
        """An error for people is a page like the others, with a link to the start page."""
        answer = error_page(404, "<nothing> & more")
        assert isinstance(answer.body, str)
        self.assertEqual(answer.status, 404)
        self.assertIn("<h1>404 Not Found</h1>", answer.body)
        self.assertIn("<title>404 Not Found</title>", answer.body)
        self.assertIn('<p class="lead">&lt;nothing&gt; &amp; more</p>', answer.body)
        self.assertIn('<a class="go" href="/">', answer.body)
        own = ("description", "<title>", "aria-current")
        page = (shipped_client() / "index.html").read_text()
        for line in page.partition("</header>")[0].splitlines():
            if line.strip() and not any(word in line for word in own):
                self.assertIn(f"{line}\n", answer.body)

    def test_refusal(self) -> None:
        """An error for programs is one line of text."""
        answer = refusal(400, "no", {"X": "y"})
        self.assertEqual((answer.status, answer.body), (400, "no\n"))
        self.assertEqual(answer.headers, {"Content-Type": "text/plain; charset=utf-8", "X": "y"})

    def test_json(self) -> None:
        """JSON is written in UTF-8; what UTF-8 cannot encode, with escapes."""
        for value, body in (("a", '"a"\n'), ("é", '"é"\n'), ("é\udc00", '"\\u00e9\\udc00"\n')):
            self.assertEqual(json_response(200, value).body, body)

    def test_resource(self) -> None:
        """A resource can answer every method with the same response, any number of times."""
        daemon = Daemon()
        serve(daemon, AnswerResource(NOT_FOUND))
        for method in ("GET", "POST", "GET"):
            got = daemon.request(method, "/")
            assert got is not None
            self.assertEqual((got.status, got.text), (404, NOT_FOUND.body))


class FailureTests(SynchronousTestCase):
    """Resources that raise before, during and after their answer."""

    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon()

    def ask(self, resource: Resource, method: str = "GET", *lines: str) -> Peer:
        """Send a request to a resource that raises, and assert that this is logged once."""
        serve(self.daemon, resource)
        peer = Peer(self.daemon)
        with capturedLogs() as events:
            peer.send(request(f"{method} /path HTTP/1.1", "Host: localhost:8080", *lines))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        failures = [line for line in said(events) if "failed" in line]
        self.assertEqual(failures, [f"failed to answer {method} /path for 127.0.0.1:50001"])
        return peer

    def test_at_once(self) -> None:
        """A resource that raises at once gets a page that discloses nothing of the reason."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                raise ZeroDivisionError("our secret")

        peer = self.ask(Failing())
        self.assertTrue(peer.head.startswith("HTTP/1.1 500 Internal Server Error\r\n"))
        self.assertIn("Something went wrong here.", peer.body.decode())
        for secret in ("secret", "Traceback", "ZeroDivision", ".py", "Failing"):
            self.assertNotIn(secret, peer.received.decode())
        self.assertIsNone(peer.lost)

    def test_with_headers(self) -> None:
        """The failure gets none of the headers of the failed answer."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.setHeader("Cache-Control", "public, max-age=86400")
                request.setHeader("Content-Encoding", "gzip")
                request.setHeader("Content-Length", "5")
                request.setHeader("Location", "/elsewhere")
                request.setETag(b'"tag"')
                request.setLastModified(1_700_000_000)
                request.addCookie("a", "b")
                request.setResponseCode(302)
                raise ZeroDivisionError

        peer = self.ask(Failing(), "GET", "Connection: close")
        self.assertNotRegex(peer.head, "(?i)cache|encoding|location|etag|modified|cookie")
        self.assertTrue(peer.head.startswith("HTTP/1.1 500 "))
        self.assertIn(f"\r\nContent-Length: {len(peer.body)}\r\n", peer.head)
        self.assertIn("\r\nDate: ", peer.head)
        self.assertIn("\r\nConnection: close", peer.head)
        self.assertIsNotNone(peer.lost)

    def test_readers(self) -> None:
        """A page that may read the answer may read the failure."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.setHeader("Access-Control-Allow-Origin", "https://a")
                request.setHeader("Vary", "Origin")
                raise ZeroDivisionError

        peer = self.ask(Failing())
        self.assertIn("\r\nAccess-Control-Allow-Origin: https://a", peer.head)
        self.assertIn("\r\nVary: Origin", peer.head)

    def test_in_the_middle(self) -> None:
        """If a resource raises after it wrote something, the connection is closed."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.write(b"half")
                raise ZeroDivisionError

        peer = self.ask(Failing())
        self.assertEqual(peer.body, b"4\r\nhalf\r\n")
        self.assertIsNotNone(peer.lost)

    def test_after_the_end(self) -> None:
        """If a resource raises after the end of its answer, the connection stays in order."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.write(b"whole")
                request.finish()
                raise ZeroDivisionError

        peer = self.ask(Failing())
        self.assertEqual(peer.body, b"5\r\nwhole\r\n0\r\n\r\n")
        self.assertIsNone(peer.lost)
        serve(self.daemon, Data(b"next", "text/plain"))
        peer.send(request("GET / HTTP/1.1", "Host: localhost:8080"))
        self.assertTrue(peer.received.endswith(b"next"))

    def test_head(self) -> None:
        """A HEAD that twisted.web answers with a GET gets a 500 if that raises."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                raise ZeroDivisionError

        serve(self.daemon, Failing())
        peer = Peer(self.daemon)
        peer.send(request("HEAD / HTTP/1.1", "Host: localhost:8080"))
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertTrue(peer.head.startswith("HTTP/1.1 500 "))
        self.assertEqual(peer.body, b"")
