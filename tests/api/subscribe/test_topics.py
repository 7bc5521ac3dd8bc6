"""``/topics/<topic>`` at the public port: negotiation and refusals."""

from __future__ import annotations

import json

from pushd.access.origins import Origins
from pushd.testing import Answer
from tests.support.topic_clients import (
    LongPollClient,
    RawWebSocketClient,
    SseClient,
    TopicClient,
    TopicTestCase,
    V1WebSocketClient,
)


class TopicResourceTests(TopicTestCase):
    """One URL for three transports."""

    def ask(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """Send a request that is answered at once."""
        answer = self.daemon.request(method, path, headers)
        assert answer is not None
        return answer

    def assert_wrong(self, answer: Answer, status: int, where: str) -> None:
        """Check a refusal: its status, and a JSON body with the error and what is wrong."""
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        value = json.loads(answer.body)
        self.assertEqual((sorted(value), value["where"]), (["error", "where"], where))

    def test_negotiation(self) -> None:
        """The transport follows from the request."""
        wanted: dict[str, list[TopicClient]] = {
            "websocket": [
                RawWebSocketClient(self.daemon, "t"),
                V1WebSocketClient(self.daemon, "t"),
            ],
            "sse": [SseClient(self.daemon, "t")],
            "longpoll": [LongPollClient(self.daemon, "t")],
        }
        counts = {transport: len(clients) for transport, clients in wanted.items()}
        self.assertEqual(self.describe("t")["subscribers"], counts)
        listing = json.loads(self.control("GET", "/topics").body)
        self.assertEqual(listing["topics"][0]["subscribers"], counts)

    def test_accept(self) -> None:
        """A request that accepts text/event-stream, among others or alone, gets an event stream."""
        for accept, kind in (
            ("text/event-stream", "text/event-stream; charset=utf-8"),
            ("text/html, Text/Event-Stream;q=0.9", "text/event-stream; charset=utf-8"),
            ("application/json", "application/json"),
            ("*/*", "application/json"),
        ):
            connection = self.daemon.open_connection()
            head = f"GET /topics/t?wait=0 HTTP/1.1\r\nHost: localhost:8080\r\nAccept: {accept}"
            connection.send(f"{head}\r\n\r\n".encode())
            self.assertIn(f"content-type: {kind}\r\n", connection.received.decode().lower())
            connection.leave()

    def test_bad_topic(self) -> None:
        """An invalid topic is refused over every transport."""
        for name in ("", "a/", "/a", "a//b", "a%20b", "caf%C3%A9", "%ff", "a%00", "x" * 256):
            for accept in ("*/*", "text/event-stream"):
                answer = self.daemon.request("GET", f"/topics/{name}", {"Accept": accept})
                assert answer is not None
                self.assert_wrong(answer, 400, "topic")
        self.assertEqual(json.loads(self.control("GET", "/topics").body)["topics"], [])

    def test_bad_id(self) -> None:
        """An invalid id is refused with the name of the header or argument it came in."""
        for id in ("x", "e:", ":1", "e:01", "e:-1", "e:1:1", "e%20e:1", "%ff:1", "e:" + "1" * 19):
            self.assert_wrong(self.ask(f"/topics/t?after={id}"), 400, "after")
        for last in ("x", "é:1", "e:1 2"):
            headers = {"Last-Event-ID": last}
            self.assert_wrong(self.ask("/topics/t?after=e:1", headers), 400, "Last-Event-ID")

    def test_no_id(self) -> None:
        """An empty id is the same as none."""
        self.assertEqual(self.ask("/topics/t?after=&wait=0").status, 200)

    def test_bad_wait(self) -> None:
        """A wait that is no number from 0 to 60 is refused."""
        for wait in ("", "x", "-1", "1e3", "60.1", "61", "1.", "inf", "nan", "1e999"):
            self.assert_wrong(self.ask(f"/topics/t?wait={wait}"), 400, "wait")

    def test_bad_format(self) -> None:
        """A format other than json is refused."""
        for given in ("", "text", "JSON"):
            self.assert_wrong(self.ask(f"/topics/t?wait=0&format={given}"), 400, "format")

    def test_the_last_of_many(self) -> None:
        """Of two values of an argument, the last one counts."""
        self.assertEqual(self.ask("/topics/t?wait=x&wait=0").status, 200)

    def test_no_upgrade(self) -> None:
        """A handshake without Upgrade is answered with 426, not as a poll."""
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        answer = self.ask("/topics/t", key)
        self.assert_wrong(answer, 426, "Upgrade")
        self.assertEqual(answer.headers["Upgrade"], "websocket")
        self.assertIn("proxy", answer.text)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_method(self) -> None:
        """Without token keys, another method than GET is 405."""
        for method in ("POST", "PUT", "DELETE"):
            answer = self.ask("/topics/t", method=method)
            self.assert_wrong(answer, 405, "method")
            self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")
            self.assertIn("control port", answer.text)

    def test_options(self) -> None:
        """OPTIONS gets the allowed methods, for a valid topic."""
        answer = self.ask("/topics/t", method="OPTIONS")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")
        self.assert_wrong(self.ask("/topics/", method="OPTIONS"), 400, "topic")

    def test_head(self) -> None:
        """HEAD is answered at once with the headers of a poll or an event stream."""
        for accept, kind in (
            ("*/*", "application/json"),
            ("text/event-stream", "text/event-stream; charset=utf-8"),
        ):
            answer = self.ask("/topics/t", {"Accept": accept}, method="HEAD")
            self.assertEqual((answer.status, answer.body), (200, b""))
            self.assertEqual(answer.headers["Content-Type"], kind)
            self.assertIn("Cache-Control", answer.headers)
            # The length of what a GET would wait for is not known.
            self.assertNotIn("Content-Length", answer.headers)
            self.assertNotIn("Transfer-Encoding", answer.headers)
        self.assertEqual(self.describe("t")["subscribers"], {})
        for path in ("/topics/", "/topics/t?after=x", "/topics/t?wait=x"):
            self.assertEqual(self.ask(path, method="HEAD").status, 400, path)

    def test_handshake_in_http_1_0(self) -> None:
        """In HTTP/1.0 an Upgrade is ignored: without a key for a WebSocket, it is a poll."""
        connection = self.daemon.open_connection()
        connection.send(
            b"GET /topics/t?wait=0 HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        answer = connection.answer()
        assert answer is not None
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))

    def test_origin(self) -> None:
        """A page of an allowed origin may read every answer, refusals included."""
        for path in ("/topics/t?wait=0", "/topics/t?wait=x"):
            answer = self.ask(path, {"Origin": "http://localhost:8080"})
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "http://localhost:8080")
            self.assertEqual(answer.headers["Vary"], "origin")
            self.assertNotIn("Access-Control-Allow-Origin", self.ask(path).headers)

    def test_spelling(self) -> None:
        """Origins are checked for every spelling of the path."""
        self.start(origins=Origins(["https://friend.example"]))
        for path in ("/topics/t", "/%74opics/t", "/topics%2Ft", "/%74%6f%70%69%63%73/t"):
            answer = self.ask(f"{path}?wait=0", {"Origin": "https://evil.example"})
            self.assertEqual(answer.status, 403)
            self.assertNotIn("Access-Control-Allow-Origin", answer.headers)
            for origin in ("https://friend.example", "http://localhost:8080"):
                answer = self.ask(f"{path}?wait=0", {"Origin": origin})
                self.assertEqual(answer.status, 200)
                self.assertEqual(answer.headers["Access-Control-Allow-Origin"], origin)

    def test_view_comes_first(self) -> None:
        """A view at such a path takes precedence over the topic."""
        self.start({"/topics/t": lambda request: "mine"})
        self.assertEqual(self.ask("/topics/t").text, "mine")
        self.assertEqual(self.ask("/topics/u?wait=0").status, 200)

    def test_many_topics(self) -> None:
        """Only the subscribers of a topic receive its publications."""
        clients = [SseClient(self.daemon, f"t/{number}") for number in range(50)]
        self.publish("t/7", "x")
        self.assertEqual([len(one.data) for one in clients].index(1), 7)
        self.assertEqual(sum(len(one.data) for one in clients), 1)
