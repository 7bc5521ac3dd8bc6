"""Topics over WebSocket."""

from __future__ import annotations

import json

from pushd.access.closing import GOING_AWAY, NORMAL
from tests.support.topic_clients import RawWebSocketClient, TopicTestCase, V1WebSocketClient


class TopicViewTests(TopicTestCase):
    """A WebSocket that is subscribed to a topic."""

    def test_subprotocol(self) -> None:
        """``pushd.v1`` is chosen if the client offers it, whatever else it offers."""
        for offered, chosen in (
            ((), None),
            (("pushd.v1",), "pushd.v1"),
            (("other", "pushd.v1"), "pushd.v1"),
            (("other",), None),
        ):
            browser = self.daemon.connect("/topics/t", subprotocols=offered)
            self.assertEqual(browser.subprotocol, chosen, offered)
            self.assertEqual(len(browser.messages), 1 if chosen else 0)

    def test_what_it_says(self) -> None:
        """Messages from a subscriber are read and ignored."""
        client = V1WebSocketClient(self.daemon, "t")
        for _ in range(200):
            client.browser.send("x" * 1000)
        client.browser.send(b"\xff")
        self.publish("t", "y")
        self.assertEqual(client.data, ["y"])

    def test_format_json(self) -> None:
        """With format=json, JSON is a value. That needs pushd.v1: plain frames have data only."""
        browser = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        plain = self.daemon.connect("/topics/t")
        self.publish("t", '{"a": 1}', event="paid", is_json=True)
        self.assertEqual(
            str(browser.messages[1]).partition(",")[2], '"event":"paid","data":{"a": 1}}'
        )
        self.assertEqual(plain.messages, ['{"a": 1}'])
        refused = self.daemon.connect("/topics/t?format=json").refused
        assert refused is not None
        self.assertEqual((refused.status, json.loads(refused.body)["where"]), (400, "format"))

    def test_close(self) -> None:
        """When the client closes, its code is echoed."""
        client = RawWebSocketClient(self.daemon, "t")
        client.browser.close(4000, "enough")
        assert client.closing is not None
        self.assertEqual((client.closing.code, client.gone), (4000, True))
        self.assertEqual(self.describe("t")["subscribers"], {})
        other = RawWebSocketClient(self.daemon, "t")
        other.browser.close()
        self.assertEqual(other.closing, NORMAL)

    def test_stop(self) -> None:
        """When the daemon stops, the client receives its Close."""
        client = RawWebSocketClient(self.daemon, "t")
        self.daemon.stop()
        self.assertEqual(client.closing, GOING_AWAY)

    def test_any_topic(self) -> None:
        """A topic may contain slashes and all permitted characters."""
        for topic in ("a/b/c", "A-z_0.9:x", "a%2Fb", "x" * 255):
            client = RawWebSocketClient(self.daemon, topic)
            self.publish(topic, "x")
            self.assertEqual(client.data, ["x"], topic)

    def test_refused(self) -> None:
        """An invalid topic, id or wait is refused before the handshake completes."""
        for path, where in (
            ("/topics/", "topic"),
            ("/topics/a//b", "topic"),
            ("/topics/a%20b", "topic"),
            ("/topics/a?after=x", "after"),
            ("/topics/a?wait=x", "wait"),
        ):
            refused = self.daemon.connect(path).refused
            assert refused is not None
            self.assertEqual(refused.status, 400, path)
            self.assertIn(f'"where":"{where}"', refused.text)

    def test_origin(self) -> None:
        """A page of another origin is refused over every transport."""
        headers = {"Origin": "https://evil.example"}
        refused = self.daemon.connect("/topics/t", origin="https://evil.example").refused
        answer = self.daemon.get("/topics/t", headers)
        assert refused is not None
        assert answer is not None
        self.assertEqual((refused.status, answer.status), (403, 403))
