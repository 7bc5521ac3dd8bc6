"""Pages of other origins that read topics, and import the client."""

from __future__ import annotations

from http.client import parse_headers
from io import BytesIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.origins import Origins
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

    def start(self, *origins: str, **settings: object) -> None:
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
