"""Connections, subscriptions, schedules and topics, at the control port."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import fail
from twisted.logger import capturedLogs

from pushd.access.closing import PERMISSION_REVOKED, Closing
from pushd.access.permissions import Revoker
from pushd.api.operator import admin
from pushd.errors import Unavailable
from pushd.testing import Daemon
from pushd.topics.timestamp import parse_timestamp
from pushd.views import Request, accept_websocket, revoke
from tests.api.test_publish import PublishTestCase
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import (
    LongPollClient,
    RawWebSocketClient,
    SseClient,
    TopicTestCase,
    V1WebSocketClient,
)


class ScheduleTests(TopicTestCase):
    """``/schedules``: list, describe and cancel scheduled publications."""

    def add(self, query: str, topic: str = "t") -> str:
        """Schedule a publication; return its id."""
        answer = self.control("POST", f"/topics/{topic}?{query}", b"x")
        self.assertEqual(answer.status, 202)
        name = json.loads(answer.body)["schedule"]
        assert isinstance(name, str)
        return name

    def list(self) -> list[dict[str, Any]]:
        """Return the list of schedules."""
        schedules = json.loads(self.control("GET", "/schedules").body)["schedules"]
        assert isinstance(schedules, list)
        return schedules

    def test_list(self) -> None:
        """Unfinished schedules are listed, oldest first, with their progress."""
        self.assertEqual(self.list(), [])
        first, second = self.add("every=1&count=3"), self.add("delay=1.5", "u")
        self.daemon.advance(1)
        known = self.list()
        now = self.daemon.clock.seconds()
        self.assertEqual([parse_timestamp(one.pop("due")) - now for one in known], [1, 0.5])
        self.assertEqual(
            known,
            [
                {"schedule": first, "topic": "t", "count": 3, "done": 2, "every": 1.0},
                {"schedule": second, "topic": "u", "count": 1, "done": 0, "every": 0},
            ],
        )
        self.daemon.advance(0.5)
        self.assertEqual([one["schedule"] for one in self.list()], [first])
        self.daemon.advance(0.5)
        self.assertEqual(self.list(), [])

    def test_too_late(self) -> None:
        """A publication scheduled during shutdown is refused: it would be lost at once."""
        stopping = Daemon(drain=30)
        self.addCleanup(stopping.stop)
        RawWebSocketClient(stopping, "t")
        stopping.begin_stop()
        query = "/topics/t?delay=1"
        answer = stopping.request("POST", query, body=b"x", control=True)
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (503, "schedules"))

    def test_limit(self) -> None:
        """A list may be shorter than the number of all, which it has as well."""
        first, _ = self.add("delay=1"), self.add("delay=2")
        listed = json.loads(self.control("GET", "/schedules?limit=1").body)
        self.assertEqual([one["schedule"] for one in listed["schedules"]], [first])
        self.assertEqual(listed["total"], 2)
        for limit in ("0", "10001", "x", "-1", "", "1.5", "9" * 30):
            answer = self.control("GET", f"/schedules?limit={limit}")
            self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, "limit"))

    def test_one(self) -> None:
        """One schedule is described under its id."""
        name = self.add("delay=1")
        answer = self.control("GET", f"/schedules/{name}")
        self.assertEqual(json.loads(answer.body), self.list()[0])

    def test_cancel(self) -> None:
        """DELETE cancels a schedule: nothing more is published, and its URL is 404."""
        client = V1WebSocketClient(self.daemon, "t")
        name = self.add("every=1&count=3")
        answer = self.control("DELETE", f"/schedules/{name}")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.daemon.advance(5)
        self.assertEqual(len(client.data), 1)
        for method in ("GET", "DELETE"):
            for id in (name, "unknown", "not:an/id", "x" * 65):
                answer = self.control(method, f"/schedules/{id}")
                self.assertEqual(answer.status, 404)
                self.assertEqual(json.loads(answer.body)["where"], "schedule")

    def test_method(self) -> None:
        """Another method is 405, with the allowed methods in Allow."""
        for path, allowed in (("/schedules", "GET, HEAD"), ("/schedules/x", "GET, HEAD, DELETE")):
            answer = self.control("POST", path)
            self.assertEqual(answer.status, 405)
            self.assertEqual(answer.headers["Allow"], f"{allowed}, OPTIONS")
            self.assertEqual(json.loads(answer.body)["where"], "method")

    def test_stop(self) -> None:
        """A stop of the daemon cancels all schedules and logs what each still had to publish."""
        self.add("every=1&count=3")
        self.add("delay=7", "u")
        with capturedLogs() as logs:
            self.daemon.stop()
        lost = [event for event in logs if event.get("event") == "timed_push_lost"]
        self.assertEqual([(one["topic"], one["left"]) for one in lost], [("t", 2), ("u", 1)])
        self.assertEqual(self.daemon.pending_calls, [])


class ConnectionTests(TopicTestCase):
    """``/connections``: list, describe and close connections."""

    def list(self, query: str = "") -> list[dict[str, Any]]:
        """Return the listed connections."""
        answer = self.control("GET", f"/connections{query}")
        self.assertEqual(answer.status, 200, answer)
        said = json.loads(answer.body)
        self.assertIs(said["more"], False)
        connections: list[dict[str, Any]] = said["connections"]
        return connections

    def assert_wrong(self, method: str, path: str, status: int, where: str) -> None:
        """Check the status of a refusal and the part of the request that it names."""
        answer = self.control(method, path)
        said = json.loads(answer.body)
        self.assertEqual((answer.status, said["where"]), (status, where), answer)

    def test_nobody(self) -> None:
        """The list is empty without connections; the request for the list itself is not in it."""
        self.assertEqual(self.list(), [])

    def test_list(self) -> None:
        """Connections are listed with their transport and details, oldest first."""
        self.daemon.advance(60)
        clients = [
            one(self.daemon, "a/b") for one in (RawWebSocketClient, SseClient, LongPollClient)
        ]
        listed = self.list()
        self.assertEqual([one["id"] for one in listed], [1, 2, 3])
        self.assertEqual([one["transport"] for one in listed], ["websocket", "sse", "longpoll"])
        for one in listed:
            self.assertRegex(one["peer"], r"\A127\.0\.0\.1:[0-9]+\Z")
            self.assertEqual(one["path"], "/topics/a/b")
            self.assertEqual(one["since"], "1970-01-01T00:01:00.000+00:00")
            self.assertIsNone(one["subject"])
        one = json.loads(self.control("GET", "/connections/2").body)
        self.assertEqual(one, listed[1])
        self.assertEqual([one["id"] for one in self.list("?after=1")], [2, 3])
        clients[0].leave()
        self.assertEqual([one["id"] for one in self.list()], [2, 3])

    def test_traffic(self) -> None:
        """Messages and bytes each way are up to date."""
        socket = RawWebSocketClient(self.daemon, "t")
        SseClient(self.daemon, "t")
        before = self.list()[1]["bytes_out"]
        self.control("POST", "/topics/t", b"abc")
        socket.browser.send("to you")
        websocket, events = self.list()
        names = ("messages_in", "bytes_in", "messages_out", "bytes_out")
        # A frame has a head of two bytes.
        self.assertEqual([websocket[name] for name in names], [1, 6, 1, 5])
        self.assertEqual([events[name] for name in names[:3]], [0, 0, 2])
        self.assertGreater(events["bytes_out"], before)

    def test_subject(self) -> None:
        """A connection with a token is listed with the token's subject."""
        self.start(token_keys=secret_keys())
        for subject in ("ann", ""):
            given = token(subject, subscribe=["t"])
            self.daemon.connect(f"/topics/t?token={given}")
        self.assertEqual([one["subject"] for one in self.list()], ["ann", ""])

    def test_search(self) -> None:
        """Connections are found by transport, and by parts of their peer, path and subject."""
        self.start(token_keys=secret_keys())
        for subject in ("Ann", "bob", ""):
            self.daemon.connect(f"/topics/{subject}A/b?token={token(subject, subscribe=['**'])}")
        stream = self.daemon.open_connection(address="192.0.2.7")
        query = f"token={token('joanna', subscribe=['**'])}"
        head = "Host: localhost:8080\r\nAccept: text/event-stream"
        stream.send(f"GET /topics/x?{query} HTTP/1.1\r\n{head}\r\n\r\n".encode())
        for asked, found in (
            ("", [1, 2, 3, 4]),
            ("subject=ann", [1, 4]),
            ("subject=ANN&transport=websocket", [1]),
            ("transport=SSE", [4]),
            ("transport=ss", []),
            ("peer=192.0.2.", [4]),
            ("path=a/B", [1, 2, 3]),
            ("path=/bob", [2]),
            ("subject=nobody", []),
            ("path=a&after=1&limit=1", [2]),
        ):
            listed = json.loads(self.control("GET", f"/connections?{asked}").body)
            self.assertEqual([one["id"] for one in listed["connections"]], found, asked)
        # The last one: all that match are counted, and there are more behind those listed.
        self.assertEqual((listed["total"], listed["more"]), (3, True))
        for query in ("limit=0", "limit=1001", "limit=x"):
            self.assert_wrong("GET", f"/connections?{query}", 400, "limit")

    def test_pages(self) -> None:
        """A list has at most 1000 connections; ``?after=`` continues it."""
        self.start(max_per_address=3000)
        for _ in range(1001):
            RawWebSocketClient(self.daemon, "t")
        first = json.loads(self.control("GET", "/connections").body)
        self.assertEqual((len(first["connections"]), first["more"]), (1000, True))
        last = first["connections"][-1]["id"]
        self.assertEqual([one["id"] for one in self.list(f"?after={last}")], [1001])

    def test_close(self) -> None:
        """DELETE closes one connection, with 1008 or with the given code and reason."""
        first, second, third = (RawWebSocketClient(self.daemon, "t") for _ in range(3))
        self.assertEqual(self.control("DELETE", "/connections/2").status, 204)
        self.assertEqual(second.closing, Closing(1008, "closed by an operator"))
        self.assertEqual([one["id"] for one in self.list()], [1, 3])
        path = "/connections/3?code=4000&reason=tsch%C3%BC%C3%9F"
        self.assertEqual(self.control("DELETE", path).status, 204)
        self.assertEqual(third.closing, Closing(4000, "tschüß"))
        self.assertIsNone(first.closing)

    def test_close_others(self) -> None:
        """DELETE ends an event stream and answers a long poll; neither has close codes."""
        events, poller = SseClient(self.daemon, "t"), LongPollClient(self.daemon, "t")
        for id in (1, 2):
            self.control("DELETE", f"/connections/{id}")
        self.assertTrue(events.ended)
        self.assertNotIn(1, [one["id"] for one in self.list()])
        self.assertNotIn(2, [one["id"] for one in self.list()])
        poller.leave()

    def test_wrong(self) -> None:
        """Each invalid request is refused with the name of the part that is wrong."""
        RawWebSocketClient(self.daemon, "t")
        for name in ("2", "0", "x", "", "-1", "1/2", "9" * 30):
            self.assert_wrong("DELETE", f"/connections/{name}", 404, "connection")
        for code in ("x", "0", "999", "1005", "1006", "5000", "10000"):
            self.assert_wrong("DELETE", f"/connections/1?code={code}", 400, "code")
        reason = "x" * 124
        self.assert_wrong("DELETE", f"/connections/1?reason={reason}", 400, "reason")
        self.assert_wrong("GET", "/connections?after=x", 400, "after")
        self.assert_wrong("POST", "/connections", 405, "method")
        self.assert_wrong("PUT", "/connections/1", 405, "method")
        self.assertEqual(len(self.list()), 1)

    def test_public(self) -> None:
        """The public port does not serve the list."""
        answer = self.daemon.request("GET", "/connections")
        assert answer is not None
        self.assertEqual(answer.status, 404)


class SubscriptionTests(TopicTestCase):
    """``/subscriptions``: revoke them."""

    def revoke(self, query: str) -> int:
        """Revoke subscriptions; return how many have ended."""
        answer = self.control("DELETE", f"/subscriptions?{query}")
        self.assertEqual(answer.status, 200, answer)
        ended = json.loads(answer.body)["ended"]
        assert isinstance(ended, int)
        return ended

    def test_transports(self) -> None:
        """Every transport of a topic ends; a WebSocket is closed with 1008."""
        websockets = [RawWebSocketClient(self.daemon, "t"), V1WebSocketClient(self.daemon, "t")]
        stream, other = SseClient(self.daemon, "t"), SseClient(self.daemon, "u")
        poll = self.daemon.open_connection()
        poll.send(b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertEqual(self.revoke("topic=v"), 0)
        self.assertEqual(self.revoke("topic=t"), 4)
        for client in websockets:
            self.assertEqual(client.closing, PERMISSION_REVOKED)
        self.assertTrue(stream.ended)
        answer = poll.answer()
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["publications"]), (200, []))
        self.assertFalse(other.gone)
        self.assertEqual(self.revoke("topic=**"), 1)
        self.assertEqual(self.revoke("topic=**"), 0)

    def test_others_unreachable(self) -> None:
        """If other nodes cannot be told, the answer says so."""
        self.patch(
            Revoker, "revoke_everywhere", lambda *_: fail(Unavailable("Redis cannot be reached"))
        )
        answer = self.control("DELETE", "/subscriptions?topic=t")
        self.assertEqual(answer.status, 503)
        self.assertIn("ended at this node", json.loads(answer.body)["error"])

    def test_subject(self) -> None:
        """Those of a subject end, and others stay."""
        self.start(token_keys=secret_keys())
        ann, bob = (
            self.daemon.connect(f"/topics/t?token={token(name, subscribe=['t'])}")
            for name in ("ann", "bob")
        )
        self.assertEqual(self.revoke("subject=ann&topic=u"), 0)
        self.assertEqual(self.revoke("subject=ann"), 1)
        self.assertEqual((ann.closing, bob.closing), (PERMISSION_REVOKED, None))

    def test_of_a_view(self) -> None:
        """A view's WebSocket stays open; only its subscription ends."""

        @accept_websocket
        async def view(request: Request) -> None:
            await request.websocket.subscribe("t")
            await request.websocket.subscribe("u")
            async for message in request.websocket:
                request.websocket.send(message)

        self.start({"/": view})
        browser = self.daemon.connect("/")
        self.assertEqual(self.revoke("topic=t"), 1)
        self.publish("t", "not sent")
        self.publish("u", "sent")
        browser.send("echo")
        self.assertEqual((browser.messages, browser.closing), (["sent", "echo"], None))

    def test_from_views(self) -> None:
        """Views revoke with ``request.revoke``, on the reactor and in threads."""

        async def on_reactor(request: Request) -> str:
            return str(request.revoke(topic="t"))

        def in_thread(request: Request) -> str:
            return str(request.revoke(topic="t"))

        def elsewhere(request: Request) -> str:
            return str(revoke(topic="t"))

        self.start({"/a": on_reactor, "/b": in_thread, "/c": elsewhere})
        for path in ("/a", "/b", "/c"):
            client = RawWebSocketClient(self.daemon, "t")
            answer = self.daemon.get(path)
            assert answer is not None
            self.assertEqual(answer.text, "1")
            self.assertEqual(client.closing, PERMISSION_REVOKED)

    def test_mistakes(self) -> None:
        """A request without topic and subject, or with another mistake, ends nothing."""
        client = RawWebSocketClient(self.daemon, "t")
        for query, where in (("", "topic"), ("topic=a//b", "topic"), ("topc=t", "topc")):
            answer = self.control("DELETE", f"/subscriptions?{query}")
            self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, where))
        self.assertEqual(self.control("GET", "/subscriptions").status, 405)
        self.assertIsNone(client.closing)


class TopicListTests(PublishTestCase):
    """``/topics``: list and describe topics."""

    def test_list(self) -> None:
        """Topics with a history or subscribers are listed by name."""
        for topic in ("z", "a", "m/n"):
            self.publish(topic, "x")
        listing = json.loads(self.control("GET", "/topics").body)
        self.assertEqual([one["topic"] for one in listing["topics"]], ["a", "m/n", "t", "z"])
        self.assertEqual(listing["more"], False)
        self.assertEqual(listing["topics"][2], self.describe("t"))

    def test_search(self) -> None:
        """Topics are found by a part of their name, and listed by name or by subscribers."""
        for topic in ("News/a", "news/b", "c"):
            self.publish(topic, "x")
        for topic in ("news/b", "c", "c"):
            RawWebSocketClient(self.daemon, topic)
        for asked, found, total in (
            ("name=news", ["News/a", "news/b"], 2),
            ("name=NEWS&order=subscribers", ["news/b", "News/a"], 2),
            ("order=subscribers", ["c", "news/b", "t", "News/a"], 4),
            ("order=subscribers&limit=1", ["c"], 4),
            ("order=name&limit=2", ["News/a", "c"], 4),
            ("name=nothing", [], 0),
        ):
            listed = json.loads(self.control("GET", f"/topics?{asked}").body)
            self.assertEqual([one["topic"] for one in listed["topics"]], found, asked)
            self.assertEqual((listed["total"], listed["more"]), (total, len(found) < total))
        for asked, where in (("order=size", "order"), ("limit=0", "limit"), ("nme=a", "nme")):
            self.assert_wrong(self.control("GET", f"/topics?{asked}"), 400, where)

    def test_more(self) -> None:
        """A list has at most 1000 topics, and says whether there are more."""
        self.patch(admin, "_MAX_LIST", 2)
        for topic in ("z", "a"):
            self.publish(topic, "x")
        listing = json.loads(self.control("GET", "/topics").body)
        self.assertEqual([one["topic"] for one in listing["topics"]], ["a", "t"])
        self.assertEqual(listing["more"], True)

    def test_method(self) -> None:
        """Another method than GET is 405."""
        answer = self.post("/topics")
        self.assert_wrong(answer, 405, "method")
        self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")

    def test_head(self) -> None:
        """HEAD gets the headers of the answer to a GET, its length as well."""
        for path in ("/topics", "/schedules"):
            got, answer = self.control("GET", path), self.control("HEAD", path)
            self.assertEqual((answer.status, answer.body), (200, b""))
            self.assertEqual(answer.headers["Content-Length"], got.headers["Content-Length"])
        self.assertEqual(self.control("HEAD", "/connections").status, 200)
        self.assertEqual(self.control("HEAD", "/connections/0").status, 404)

    def test_describe(self) -> None:
        """A topic without subscribers and history can be described as well."""
        self.assertEqual(
            self.describe("u"), {"topic": "u", "id": None, "history": 0, "subscribers": {}}
        )
        ids = self.publish_many("t", ["1", "2"])
        self.assertEqual(
            self.describe("t"),
            {"topic": "t", "id": ids[-1], "history": 2, "subscribers": {"websocket": 1}},
        )
