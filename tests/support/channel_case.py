"""Test case with a daemon to which tests send HTTP byte by byte."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.http.response import Response
from pushd.testing import Answer, Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import Peer, request

GET = request("GET /hello/ HTTP/1.1", "Host: localhost:8080")


class ChannelTestCase(SynchronousTestCase):
    """A daemon with a view that answers at once, a slow one, and one that sets headers."""

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
        self.daemon = Daemon({**views, **self.views()}, **self.settings())

    def views(self) -> dict[str, Any]:
        """Return more views."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the daemon's settings that differ from the defaults."""
        return {}

    def send(self, *segments: bytes) -> Peer:
        """Send bytes on a new connection."""
        peer = Peer(self.daemon)
        peer.send(*segments)
        return peer

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET and return the answer."""
        answer = self.daemon.get(path, {k.replace("_", "-"): v for k, v in headers.items()})
        assert answer is not None, "there is no answer"
        return answer

    def assert_refused(self, peer: Peer, status: int) -> None:
        """Assert that a request reached no view, got one line of text, and was the last one."""
        self.assertEqual(peer.head.split(" ")[1], str(status))
        self.assertIn("\r\nConnection: close", peer.head)
        self.assertIn("\r\nContent-Type: text/plain; charset=utf-8", peer.head)
        self.assertIn(f"\r\nContent-Length: {len(peer.body)}\r\n", peer.head)
        self.assertEqual(peer.body.count(b"\n"), 1)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(self.requests, [])
