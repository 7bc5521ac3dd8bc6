"""What stands at which address of the two doors."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.testing.daemon import Answer, Daemon
from pushd.views.request import Request, accept_websocket
from tests.peer import Peer, handshake, request


@accept_websocket
async def show(request: Request) -> str:
    """Show what was asked for."""
    return f"{request.path} {dict(request.parameters)}"


class SiteTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon with some views."""
        views = {"/": show, "/chat/<room>/": show, "/index.html": show, "/café/": show}
        self.daemon = Daemon(views)

    def get(self, path: str, *, control: bool = False) -> Answer:
        """Ask for a path."""
        answer = self.daemon.request("GET", path, control=control)
        assert answer is not None, "there is no answer"
        return answer


class PublicTests(SiteTestCase):
    def test_views_first(self) -> None:
        """A view stands before a file of the same path."""
        self.assertEqual(self.get("/").text, "/ {}")
        self.assertEqual(self.get("/index.html").text, "/index.html {}")

    def test_then_files(self) -> None:
        """What is no view's is looked for among the files."""
        self.assertIn("<!doctype html>", self.get("/test.html").text)
        self.assertEqual(self.get("/pushd.css").headers["Content-Type"], "text/css; charset=utf-8")

    def test_then_nothing(self) -> None:
        """What is nowhere is a page of our own that says so, for every method."""
        for path in ("/nothing", "/chat/", "/chat/a/b/", "/test.html/", "/healthz", "/metrics"):
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertIn("There is nothing at this address.", answer.text)
            self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        post = self.daemon.request("POST", "/nothing")
        assert post is not None
        self.assertEqual(post.status, 404)

    def test_decoded(self) -> None:
        """A path means what it says once it is decoded; the query is no part of it."""
        self.assertEqual(self.get("/caf%C3%A9/?x").text, "/café/ {}")
        self.assertEqual(self.get("/%63hat/a%20b/").text, "/chat/a b/ {'room': 'a b'}")

    def test_no_path(self) -> None:
        """What is no path, or not in UTF-8, is nowhere."""
        for path in ("nothing", "%ff", "/%ff/", "/chat/%ff/", "?/", "test.html"):
            peer = Peer(self.daemon)
            peer.send(request(f"GET {path} HTTP/1.1", "Host: localhost:8080"))
            self.assertIn(" 404 ", peer.head, path)

    def test_handshakes(self) -> None:
        """A handshake is for views alone: where there is a file, there is none."""
        for path, status in (("/chat/a/", "200"), ("/test.html", "404"), ("/nothing", "404")):
            peer = Peer(self.daemon)
            peer.send(handshake(path))
            self.assertEqual(peer.head.split(" ")[1], status, path)


class ControlTests(SiteTestCase):
    def test_health(self) -> None:
        """The control port tells whether the daemon is alive, with a query or without."""
        self.assertEqual(self.get("/healthz", control=True).status, 200)
        self.assertEqual(self.get("/healthz?verbose", control=True).status, 200)

    def test_metrics(self) -> None:
        """It tells what was counted."""
        self.assertEqual(self.get("/metrics", control=True).status, 200)

    def test_nothing_else(self) -> None:
        """Neither views nor files stand behind it."""
        for path in ("/", "/chat/a/", "/test.html", "/healthz/", "/Healthz", "/%68ealthz", "/x"):
            answer = self.get(path, control=True)
            self.assertEqual(answer.status, 404, path)
            self.assertEqual(answer.text, "not found\n")

    def test_no_handshake(self) -> None:
        """There is no WebSocket behind it either."""
        peer = Peer(self.daemon, control=True)
        peer.send(handshake("/healthz"))
        self.assertNotIn(" 101 ", peer.head)
        peer = Peer(self.daemon, control=True)
        peer.send(handshake("/chat/a/"))
        self.assertIn(" 404 ", peer.head)
