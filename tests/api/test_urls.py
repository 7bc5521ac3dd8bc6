"""Which URLs the two ports serve."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.testing import Answer, Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import Peer, handshake, request


@accept_websocket
async def show(request: Request) -> str:
    """Return the path and the parameters of the request."""
    return f"{request.path} {dict(request.parameters)}"


class SiteTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon with some views."""
        views = {"/": show, "/chat/<room>/": show, "/index.html": show, "/café/": show}
        self.daemon = Daemon(views)

    def get(self, path: str, *, control: bool = False) -> Answer:
        """Send a GET."""
        answer = self.daemon.request("GET", path, control=control)
        assert answer is not None, "there is no answer"
        return answer


class PublicTests(SiteTestCase):
    def test_views_first(self) -> None:
        """A view takes precedence over a file of the same path."""
        self.assertEqual(self.get("/").text, "/ {}")
        self.assertEqual(self.get("/index.html").text, "/index.html {}")

    def test_then_files(self) -> None:
        """Other paths are looked up among the static files."""
        self.assertIn("<!doctype html>", self.get("/test.html").text)
        self.assertEqual(self.get("/pushd.css").headers["Content-Type"], "text/css; charset=utf-8")

    def test_then_nothing(self) -> None:
        """Any other path is 404 with an error page, for every method."""
        for path in ("/nothing", "/chat/", "/chat/a/b/", "/test.html/", "/healthz", "/metrics"):
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertIn("There is nothing at this address.", answer.text)
            self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        post = self.daemon.request("POST", "/nothing")
        assert post is not None
        self.assertEqual(post.status, 404)

    def test_decoded(self) -> None:
        """A path is decoded before it is looked up, and the query is no part of it."""
        self.assertEqual(self.get("/caf%C3%A9/?x").text, "/café/ {}")
        self.assertEqual(self.get("/%63hat/a%20b/").text, "/chat/a b/ {'room': 'a b'}")

    def test_no_path(self) -> None:
        """A path that is no path, or is not UTF-8, is 404."""
        for path in ("nothing", "%ff", "/%ff/", "/chat/%ff/", "?/", "test.html"):
            peer = Peer(self.daemon)
            peer.send(request(f"GET {path} HTTP/1.1", "Host: localhost:8080"))
            self.assertIn(" 404 ", peer.head, path)

    def test_handshakes(self) -> None:
        """A handshake for a file is refused."""
        for path, status in (("/chat/a/", "200"), ("/test.html", "404"), ("/nothing", "404")):
            peer = Peer(self.daemon)
            peer.send(handshake(path))
            self.assertEqual(peer.head.split(" ")[1], status, path)


class ControlTests(SiteTestCase):
    def test_health(self) -> None:
        """/healthz answers, with a query or without."""
        self.assertEqual(self.get("/healthz", control=True).status, 200)
        self.assertEqual(self.get("/healthz?verbose", control=True).status, 200)

    def test_metrics(self) -> None:
        """/metrics answers."""
        self.assertEqual(self.get("/metrics", control=True).status, 200)

    def test_nothing_else(self) -> None:
        """Views, files and other spellings are 404."""
        for path in (
            "/index.html",
            "/chat/a/",
            "/test.html",
            "/healthz/",
            "/Healthz",
            "/%68ealthz",
            "/x",
        ):
            answer = self.get(path, control=True)
            self.assertEqual(answer.status, 404, path)
            self.assertEqual(answer.text, "not found\n")

    def test_no_handshake(self) -> None:
        """The control port accepts no WebSocket."""
        peer = Peer(self.daemon, control=True)
        peer.send(handshake("/healthz"))
        self.assertNotIn(" 101 ", peer.head)
        peer = Peer(self.daemon, control=True)
        peer.send(handshake("/chat/a/"))
        self.assertIn(" 404 ", peer.head)
