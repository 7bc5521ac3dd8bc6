"""The lines of a stream in the log; those of a WebSocket are in test_resource.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.testing.daemon import Daemon
from tests.peer import Peer, request, said

STREAM = request("GET /topics/news?token=secret HTTP/1.1", "Host: a", "Accept: text/event-stream")
POLL = request("GET /topics/news?wait=3 HTTP/1.1", "Host: a", "Connection: close")


class VisitTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon(max_connections=5)

    def publish(self, text: str) -> None:
        """Publish to the topic."""
        self.daemon.request("POST", "/topics/news", body=text.encode(), control=True)

    def lines(self, end: Callable[[Peer], object]) -> tuple[list[str], list[dict[str, Any]]]:
        """What the log has of a stream that gets a publication and ends in a given way."""
        with capturedLogs() as events:
            peer = Peer(self.daemon)
            peer.send(STREAM)
            self.publish("hello")
            peer.advance(2)
            end(peer)
        lines = [line for line in said(events) if "GET" in line or "#" in line]
        return lines, [event for event in events if "connection" in event]

    def test_browser_left(self) -> None:
        """A stream has a line when it opens and one when it ends, and no access line."""
        (opened, closed), fields = self.lines(Peer.vanish)
        self.assertEqual(opened, "#1 127.0.0.1:50001 /topics/news opened")
        begin = "#1 127.0.0.1:50001 /topics/news closed 1006 after 2.000 s by peer: "
        begin += "the client disconnected; "
        self.assertTrue(closed.startswith(begin), closed)
        self.assertRegex(closed, r"; 0 messages, 0 bytes in; 2, [1-9]\d+ out$")
        self.assertEqual([one["transport"] for one in fields if "transport" in one], ["sse"] * 2)

    def test_stop(self) -> None:
        """When the daemon stops, the line says so, once."""
        (_, closed), _ = self.lines(lambda _: self.daemon.stop())
        self.assertIn("closed 1001 after 2.000 s by us: the server is going away;", closed)

    def test_too_slow(self) -> None:
        """A reader that does not read was cut by us, for that."""

        def stall(peer: Peer) -> None:
            peer.stall()
            for _ in range(4):
                self.publish("x" * 1_000_000)
            peer.advance(61, 61)

        (_, closed), _ = self.lines(stall)
        self.assertRegex(closed, r"closed 1013 after \S+ s by us: too slow to follow;")

    def test_long_poll(self) -> None:
        """A long poll is a request like any other, with its duration."""
        with capturedLogs() as events:
            peer = Peer(self.daemon)
            peer.send(POLL)
            peer.advance(3)
        self.assertRegex(
            said(events)[0], r"^127\.0\.0\.1:50001 GET /topics/news 200 \d+ after 3\.000 s$"
        )
        self.assertEqual(events[-1]["connection"], 1)
