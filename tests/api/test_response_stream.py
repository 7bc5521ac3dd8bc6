"""Streamed responses: how they are registered as connections, and framed."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import capturedLogs

from pushd.api.response_stream import chunk
from tests.support.topic_clients import SseClient, TopicTestCase


class RegisterTests(TopicTestCase):
    """A response is a connection for as long as it lasts."""

    def listed(self) -> list[dict[str, Any]]:
        """Return the connections that the control port lists."""
        listed: list[dict[str, Any]] = json.loads(self.control("GET", "/connections").body)[
            "connections"
        ]
        return listed

    def test_stream(self) -> None:
        """A stream is listed while it is open, and logged when it opens and closes."""
        with capturedLogs() as logs:
            client = SseClient(self.daemon, "t")
            [one] = self.listed()
            client.leave()
        self.assertEqual((one["transport"], one["path"]), ("sse", "/topics/t"))
        self.assertEqual(self.listed(), [])
        events = [log.get("event") for log in logs if log.get("connection") == one["id"]]
        self.assertEqual(events, ["opened", "closed"])

    def test_poll(self) -> None:
        """A long poll is listed while it waits."""
        poll = self.daemon.open_connection()
        poll.send(b"GET /topics/t?wait=25 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertEqual([one["transport"] for one in self.listed()], ["longpoll"])
        self.daemon.advance(25)
        self.assertEqual(self.listed(), [])

    def test_chunk(self) -> None:
        """A chunk says how long it is, in hexadecimal digits."""
        self.assertEqual(chunk(b"x" * 17), b"11\r\n" + b"x" * 17 + b"\r\n")
