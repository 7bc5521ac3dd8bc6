"""The playground of the page topics.html."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.api import playground
from pushd.api.playground import BURST, MAX_BODY
from pushd.testing.daemon import Answer, Daemon, Wire
from tests.keyring import secret_keys, token

OWN = {"Origin": "http://localhost:8080"}


class PlaygroundTestCase(SynchronousTestCase):
    """One daemon as it is shipped."""

    def setUp(self) -> None:
        self.daemon = Daemon()
        self.addCleanup(self.daemon.stop)

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Ask for what comes at once: with a body by POST."""
        method = "GET" if body is None else "POST"
        answer = self.daemon.request(method, path, headers, body or b"")
        assert answer is not None
        return answer

    def publish(self, topic: str, body: bytes = b"hello") -> Answer:
        """Publish as the page does."""
        return self.ask(f"/play/publish/?topic={topic}", body, OWN)

    def costs(self, topic: str) -> dict[str, dict[str, int]]:
        """What the ways to listen to a topic have cost."""
        costs: dict[str, dict[str, int]] = json.loads(self.ask(f"/play/costs/?topic={topic}").text)[
            "costs"
        ]
        return costs

    def open(self, path: str, *lines: str) -> Wire:
        """Send a GET that is not answered at once, or not to its end."""
        wire = self.daemon.open_connection()
        head = "".join(f"{line}\r\n" for line in ("Host: localhost:8080", *lines))
        wire.send(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        return wire

    def assert_refused(self, answer: Answer, status: int, where: str | None) -> None:
        """Prove that an answer is a refusal that says where the mistake is."""
        self.assertEqual(answer.status, status, answer.text)
        self.assertEqual(json.loads(answer.text).get("where"), where)


class TokenTests(PlaygroundTestCase):
    """Where tokens are asked for, the playground is for strangers no more."""

    def setUp(self) -> None:
        self.daemon = Daemon(token_keys=secret_keys())
        self.addCleanup(self.daemon.stop)

    def ask_with(self, path: str, given: str | None) -> Answer:
        """Send a POST as the page does, with a token or without."""
        more = {} if given is None else {"Authorization": f"Bearer {given}"}
        return self.ask(path, b"hello", OWN | more)

    def test_strangers(self) -> None:
        """Who has no token, or no good one, neither publishes nor cuts nor listens."""
        for path in ("/play/publish/?topic=play/a", "/play/cut/?topic=play/a&seconds=0"):
            for given in (None, "x.y.z"):
                answer = self.ask_with(path, given)
                self.assertEqual(answer.status, 401, answer.text)
                self.assertIn("Bearer", answer.headers["www-authenticate"])
        answer = self.ask("/play/topics/poll/play/a?wait=0")
        self.assert_refused(answer, 401, "token")

    def test_members(self) -> None:
        """A token is good for the topics that it names."""
        given = token("ann", publish=["play/a"])
        for path in ("/play/publish/?topic=play/{}", "/play/cut/?topic=play/{}&seconds=0"):
            self.assertEqual(self.ask_with(path.format("a"), given).status, 200)
            self.assert_refused(self.ask_with(path.format("b"), given), 403, "token")


class PublishTests(PlaygroundTestCase):
    def test_publish(self) -> None:
        """What a page publishes is heard by all who listen to the topic."""
        browser = self.daemon.connect("/topics/play/a", subprotocols=["pushd.v1"])
        answer = self.publish("play/a", "žluťoučký 🐎".encode())
        id = json.loads(answer.text)["id"]
        self.assertEqual(answer.status, 200)
        self.assertEqual(json.loads(browser.messages[-1]), {"id": id, "data": "žluťoučký 🐎"})

    def test_programs(self) -> None:
        """What has no Origin is no page of a stranger."""
        self.assertEqual(self.ask("/play/publish/?topic=play/a", b"hello").status, 200)

    def test_strangers(self) -> None:
        """Pages of other origins do not publish, and do not cut."""
        for origin in ("http://evil.example", "https://localhost:8080", "null"):
            for path in ("/play/publish/?topic=play/a", "/play/cut/?topic=play/a&seconds=5"):
                answer = self.ask(path, b"hello", {"Origin": origin})
                self.assert_refused(answer, 403, "Origin")

    def test_method(self) -> None:
        """A link does not publish."""
        answer = self.ask("/play/publish/?topic=play/a")
        self.assert_refused(answer, 405, "method")
        self.assertEqual(answer.headers["Allow"], "POST")

    def test_topic(self) -> None:
        """It ends at the fence of the playground."""
        for topic in ("news", "playa", "play", "play/", "play/a/", "play//a", "play/%20", ""):
            self.assert_refused(self.publish(topic), 400, "topic")
        self.assert_refused(self.ask("/play/publish/", b"hello"), 400, "topic")

    def test_body(self) -> None:
        """A publication is short, and text."""
        self.assertEqual(self.publish("play/a", b"x" * MAX_BODY).status, 200)
        self.assert_refused(self.publish("play/a", b"x" * (MAX_BODY + 1)), 413, "body")
        self.assert_refused(self.publish("play/a", b"\xff"), 400, "body")

    def test_rate(self) -> None:
        """All visitors together publish only so much; others are told to come back."""
        self.assertEqual({self.publish("play/a").status for _ in range(BURST)}, {200})
        answer = self.publish("play/b")
        self.assert_refused(answer, 429, None)
        self.assertEqual(answer.headers["Retry-After"], "1")
        self.daemon.advance(1)
        self.assertEqual(self.publish("play/b").status, 200)


class ListenTests(PlaygroundTestCase):
    def test_same(self) -> None:
        """Each way gets to the topic's own door, with all that is asked of it."""
        first = json.loads(self.publish("play/a").text)["id"]
        self.publish("play/a", b"again")
        query = f"?after={first}&wait=0"
        through = self.ask(f"/play/topics/poll/play/a{query}")
        self.assertEqual(through.text, self.ask(f"/topics/play/a{query}").text)
        self.assertEqual(json.loads(through.text)["publications"][0]["data"], "again")

        browser = self.daemon.connect(
            f"/play/topics/websocket/play/a?after={first}", subprotocols=["pushd.v1"]
        )
        self.assertEqual(browser.subprotocol, "pushd.v1")
        self.assertEqual([*json.loads(browser.messages[0])], ["subscribed", "id", "recovered"])
        self.assertEqual(json.loads(browser.messages[1])["data"], "again")

        stream = self.open(
            "/play/topics/sse/play/a", "Accept: text/event-stream", f"Last-Event-ID: {first}"
        )
        self.assertIn(b"Content-Type: text/event-stream", stream.received)
        self.assertIn(b"data: again\n\n", stream.received)

    def test_guarded(self) -> None:
        """Who may not listen at the topic's own door may not here."""
        answer = self.ask("/play/topics/poll/play/a?wait=0", None, {"Origin": "http://evil"})
        self.assertEqual(answer.status, 403)
        browser = self.daemon.connect("/play/topics/websocket/play/a", origin="http://evil")
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 403)

    def test_fence(self) -> None:
        """There are the ways that are counted, and the topics of the playground."""
        self.assert_refused(self.ask("/play/topics/pigeon/play/a"), 404, "way")
        self.assert_refused(self.ask("/play/topics/poll/news"), 400, "topic")
        self.assert_refused(self.ask("/play/topics/poll/play/%C3%A9"), 400, "topic")
        browser = self.daemon.connect("/play/topics/websocket/news")
        assert browser.refused is not None
        self.assert_refused(browser.refused, 400, "topic")

    def test_mistakes(self) -> None:
        """A question that the topic's own door refuses is refused by it."""
        self.assert_refused(self.ask("/play/topics/poll/play/a?after=x"), 400, "after")

    def test_nothing_left(self) -> None:
        """When all have left no timer runs."""
        browser = self.daemon.connect("/play/topics/websocket/play/a")
        stream = self.open("/play/topics/sse/play/a", "Accept: text/event-stream")
        poll = self.open("/play/topics/longpoll/play/a")
        browser.close()
        stream.leave()
        poll.leave()
        # A topic that nobody listens to is remembered for a while, for who comes back.
        self.daemon.advance(*[100.0] * 4)
        self.assertEqual(self.daemon.pending_calls, [])


class CostsTests(PlaygroundTestCase):
    def test_nobody(self) -> None:
        """A topic that nobody has listened to has cost nothing, and takes no room."""
        costs = self.costs("play/a")
        self.assertEqual([*costs], ["poll", "longpoll", "sse", "websocket", "any"])
        nothing = {"requests": 0, "received": 0, "sent": 0}
        self.assertEqual(costs["sse"], nothing)
        self.assertEqual(self.costs("")["sse"], nothing)

    def test_memory(self) -> None:
        """A topic's count is thrown away when there are too many that are newer."""
        self.patch(playground, "MAX_TOPICS", 3)
        for number in range(4):
            self.ask(f"/play/topics/poll/play/{number}?wait=0")
            self.ask("/play/topics/poll/play/0?wait=0")
        self.assertEqual(self.costs("play/1")["poll"]["requests"], 0)
        self.assertEqual(self.costs("play/2")["poll"]["requests"], 1)
        self.assertEqual(self.costs("play/0")["poll"]["requests"], 5)


class CutTests(PlaygroundTestCase):
    def cut(self, topic: str, seconds: Any) -> Answer:
        """Cut as the page does."""
        return self.ask(f"/play/cut/?topic={topic}&seconds={seconds}", b"", OWN)

    def test_cut(self) -> None:
        """All who listen are cut off without a goodbye, and get in again after the time."""
        browser = self.daemon.connect("/play/topics/websocket/play/a")
        stream = self.open("/play/topics/sse/play/a", "Accept: text/event-stream")
        poll = self.open("/play/topics/longpoll/play/a")
        others = (
            self.daemon.connect("/topics/play/a"),
            self.daemon.connect("/play/topics/any/play/b"),
        )
        self.assertEqual(json.loads(self.cut("play/a", 5).text), {"cut": 3})
        self.assertEqual((browser.gone, browser.closing), (True, None))
        self.assertTrue(stream.closed and poll.closed)
        self.assertFalse(any(other.gone for other in others))

        self.daemon.advance(4.9)
        self.assertIsNone(self.daemon.get("/play/topics/poll/play/a?wait=0"))
        late = self.daemon.connect("/play/topics/websocket/play/a")
        self.assertEqual((late.gone, late.refused), (True, None))
        self.daemon.advance(0.1)
        self.assertEqual(self.ask("/play/topics/poll/play/a?wait=0").status, 200)

    def test_served(self) -> None:
        """A connection that has its answer is not cut."""
        wire = self.open("/play/topics/poll/play/a?wait=0")
        self.assertEqual(json.loads(self.cut("play/a", 0).text), {"cut": 0})
        self.assertFalse(wire.closed)

    def test_seconds(self) -> None:
        """The time is a short one."""
        for seconds in ("", "x", "-1", "10.1", "99", "1e1", "nan"):
            self.assert_refused(self.cut("play/a", seconds), 400, "seconds")
        self.assert_refused(self.cut("news", 5), 400, "topic")
        self.assertEqual(self.cut("play/a", "10.0").status, 200)
