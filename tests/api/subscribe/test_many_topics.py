"""Many topics over one request: what it may ask for, how it is answered and how it is refused."""

from __future__ import annotations

import json
from typing import Any

from pushd.access.closing import GOING_AWAY
from pushd.access.limits import Limits
from pushd.access.permissions import Permission
from pushd.testing import Answer
from pushd.topics.rules import Rule, Rules
from pushd.views.request import Request
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import TopicTestCase


class RequestTests(TopicTestCase):
    """``/topics`` at the public port."""

    def get(self, query: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request; return the status and the JSON of the answer."""
        answer = self.daemon.get(f"/topics?{query}", headers)
        assert answer is not None
        return answer.status, json.loads(answer.body)

    def refused(self, query: str, where: str, status: int = 400, method: str = "GET") -> str:
        """Check that a request is refused; return the error."""
        answer = self.daemon.request(method, f"/topics{query}")
        assert isinstance(answer, Answer)
        value = json.loads(answer.body)
        self.assertEqual((answer.status, value.get("where")), (status, where), value)
        return str(value["error"])

    def test_bad_queries(self) -> None:
        """A mistake is named."""
        for query, where in (
            ("", "topic"),
            ("?topic=", "topic"),
            ("?topic=a+b", "topic"),
            ("?topic=a&topic=a", "topic"),
            ("?topic=a@x", "topic"),
            ("?topic=a&after=x", "after"),
            ("?topic=a&topic=b&after=e:1", "after"),
            ("?topic=a&wait=x", "wait"),
            ("?topic=a&format=text", "format"),
            ("?topic=a&envelope=yes", "envelope"),
            ("?topic=a&presence=!", "presence"),
            ("?topic=a&heartbeat=99", "heartbeat"),
            ("?topic=a&client=a.b", "client"),
            ("?topic=a&delay=5", "delay"),
        ):
            self.assertTrue(self.refused(query, where))
        for method in ("PUT", "POST"):
            for query in ("", "?topic=a"):
                self.assertIn(
                    "publish at the control port", self.refused(query, "method", 405, method)
                )

    def test_which_topic(self) -> None:
        """A mistake in one topic, and one topic too many, is named with the topic."""
        self.start(limits=Limits(max_topics=2))
        for query, topic in (
            ("topic=b&topic=a+b", "a b"),
            ("topic=a&topic=b&topic=a", "a"),
            ("topic=a&topic=b@x", "b"),
            ("topic=a&topic=b&topic=c&topic=d", "c"),
            (f"topic={'x' * 300}", "x" * 255),
        ):
            status, answer = self.get(query)
            self.assertEqual((status, answer["where"], answer["topic"]), (400, "topic", topic))
        self.assertNotIn("topic", self.get("topic=a&after=x")[1])

    def test_limit(self) -> None:
        """A request may name as many topics as a connection may have."""
        self.start(limits=Limits(max_topics=2))
        self.assertEqual(self.get("topic=a&topic=b&wait=0")[0], 200)
        error = self.refused("?topic=a&topic=b&topic=c", "topic")
        self.assertEqual(error, "a connection may have 2 topics at most (--max-topics); got 3")

    def test_options(self) -> None:
        """OPTIONS says what is possible, also to a page of another origin."""
        answer = self.daemon.request("OPTIONS", "/topics?topic=a")
        assert isinstance(answer, Answer)
        self.assertEqual((answer.status, answer.headers["allow"]), (204, "GET, HEAD, OPTIONS"))
        preflight = {"Access-Control-Request-Method": "GET"}
        answer = self.daemon.request("OPTIONS", "/topics?topic=a", preflight)
        assert isinstance(answer, Answer)
        self.assertEqual(answer.headers["access-control-allow-methods"], "GET")

    def test_head(self) -> None:
        """HEAD is answered at once."""
        answer = self.daemon.request("HEAD", "/topics?topic=a")
        assert isinstance(answer, Answer)
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_stopping(self) -> None:
        """A daemon that stops refuses it with 503."""
        connections = self.daemon._service.connections
        connections.stop_accepting(GOING_AWAY)
        self.assertEqual(self.get("topic=a")[0], 503)
        connections.closing = None

    def test_page_of_that_name(self) -> None:
        """Without topics, a view at the same path is served."""
        self.start({"/topics": lambda request: "a page"})
        answer = self.daemon.get("/topics")
        assert answer is not None
        self.assertEqual(answer.body, b"a page")

    def test_poll(self) -> None:
        """A poll tells of each topic apart, and its id resumes them all, over any transport."""
        status, first = self.get("topic=a&topic=b/c&wait=0")
        self.assertEqual((status, first["publications"]), (200, []))
        self.assertEqual(first["recovered"], {"a": False, "b/c": False})
        self.assertLess(len(first["id"]), 48)
        one, two = self.publish("b/c", "x"), self.publish("a", "[1]", is_json=True, event="paid")
        query = f"topic=a&topic=b/c&after={first['id']}"
        for format, value in (("", "[1]"), ("&format=json", [1])):
            status, second = self.get(f"{query}{format}")
            self.assertEqual(second["recovered"], {"a": True, "b/c": True})
            self.assertCountEqual(
                second["publications"],
                [
                    {"topic": "b/c", "id": one, "data": "x"},
                    {"topic": "a", "id": two, "event": "paid", "data": value},
                ],
            )
        three = self.publish("a", "y")
        later = self.get(f"topic=a&topic=b/c&after={second['id']}")[1]
        self.assertEqual(later["publications"], [{"topic": "a", "id": three, "data": "y"}])
        # The same cursor over a WebSocket, for one of the topics.
        browser = self.daemon.connect("/topics", subprotocols=("pushd.v1",))
        browser.send(json.dumps({"subscribe": "a", "after": second["id"]}))
        self.assertEqual(
            [json.loads(message) for message in browser.messages],
            [
                {"subscribed": "a", "id": two, "recovered": True},
                {"topic": "a", "id": three, "data": "y"},
            ],
        )

    def test_positions(self) -> None:
        """A topic may have an id of its own, or a cursor; the header of a browser wins."""
        cursor = self.get("topic=a&topic=b&wait=0")[1]["id"]
        first, second = self.publish("a", "1"), self.publish("a", "2")
        for position, data in ((first, ["2"]), (cursor, ["1", "2"])):
            _status, answer = self.get(f"topic=a@{position}&topic=b&wait=0")
            self.assertEqual([one["data"] for one in answer["publications"]], data)
            self.assertEqual(answer["recovered"], {"a": True, "b": False})
        _status, answer = self.get(f"topic=a@{first}&wait=0", {"Last-Event-ID": answer["id"]})
        self.assertEqual(answer["publications"], [])
        _status, answer = self.get(f"topic=a&after={second}&wait=0")
        self.assertEqual((answer["publications"], answer["recovered"]), ([], {"a": True}))

    def test_lost(self) -> None:
        """A topic whose history does not reach back is told apart; the poll is answered at once."""
        self.keep(size=1)
        cursor = self.get("topic=a&topic=b&wait=0")[1]["id"]
        self.publish("a", "1")
        self.publish("a", "2")
        _status, answer = self.get(f"topic=a&topic=b&after={cursor}")
        self.assertEqual(answer["recovered"], {"a": False, "b": True})

    def test_poll_waits(self) -> None:
        """A poll waits for a publication of any of its topics, or for its time."""
        self.assertIsNone(self.daemon.get("/topics?topic=a&topic=b&wait=3"))
        self.daemon.advance(3)

    def test_connections(self) -> None:
        """Operators see one connection, with the number of its topics."""
        self.daemon.connect("/topics?topic=a&topic=b", subprotocols=("pushd.v1",))
        [listed] = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual((listed["path"], listed["topics"]), ("/topics", 2))

    def test_denied(self) -> None:
        """One topic that is denied refuses the request; over a WebSocket only that topic."""
        self.start(token_keys=secret_keys())
        allowed = token(subscribe=["a", "b"])
        status, answer = self.get(f"topic=a&topic=c&token={allowed}")
        self.assertEqual((status, answer["where"]), (403, "token"))
        self.assertEqual(answer["topic"], "c")
        self.assertIn("subscribing to c", answer["error"])
        status, answer = self.get(f"topic=a&topic=b&wait=0&token={allowed}")
        self.assertEqual(status, 200)

    def test_authorizer(self) -> None:
        """A topic that the authorizer denies, or fails to answer about, is named."""

        def authorize(request: Request, action: str, topic: str) -> bool:
            if topic == "broken":
                raise ZeroDivisionError
            return topic != "secret"

        self.start(authorize=authorize)
        for topic, status in (("secret", 403), ("broken", 500)):
            given, answer = self.get(f"topic=a&topic={topic}&wait=0")
            self.assertEqual((given, answer["where"], answer["topic"]), (status, "topic", topic))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_identity_of_each_topic(self) -> None:
        """What the authorizer says of a client at one topic is not told at another."""

        def authorize(request: Request, action: str, topic: str) -> Permission | bool:
            if topic == "open":
                return Permission(info="hidden", until=1000)
            return Permission(subject="ann", info={"at": topic}, until=2000)

        self.start(authorize=authorize, rules=Rules([Rule(match="**", presence=True)]))
        accept = {"Accept": "text/event-stream"}
        self.daemon.get("/topics?topic=open&topic=a&topic=b&client=tab", accept)
        told = {}
        for topic in ("open", "a", "b"):
            present = json.loads(self.control("GET", f"/topics/{topic}/presence").body)
            [subject] = present["subjects"]
            told[topic] = subject["subject"], subject["info"]
        expected = {"a": ("ann", {"at": "a"}), "b": ("ann", {"at": "b"}), "open": (None, "hidden")}
        self.assertEqual(told, expected)
        [listed] = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual(listed["subject"], "ann")
