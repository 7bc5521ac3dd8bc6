"""The HTTP API of Centrifugo at the control port."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs

from pushd.errors import Unavailable
from pushd.topics.broker import AnswerCall, MemoryBroker
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import CentrifugeTestCase, Client
from tests.support.keyring import secret_keys, sign


class ApiTestCase(CentrifugeTestCase):
    """Requests to the API."""

    def setUp(self) -> None:
        """Start a daemon with presence."""
        rules = Rules([Rule(match="small", max_message=5), Rule(match="**", presence=True)])
        self.start(token_keys=secret_keys(), rules=rules)

    def call(self, method: str, **body: Any) -> dict[str, Any]:
        """Call a method, and return the body of the answer."""
        answer = self.control("POST", f"/api/{method}", json.dumps(body).encode())
        self.assertEqual(answer.status, 200)
        reply: dict[str, Any] = json.loads(answer.body)
        return reply

    def result(self, method: str, **body: Any) -> dict[str, Any]:
        """Call a method, and return its result."""
        result: dict[str, Any] = self.call(method, **body)["result"]
        return result

    def code(self, method: str, **body: Any) -> int:
        """Call a method, and return the code of its error."""
        code: int = self.call(method, **body)["error"]["code"]
        return code

    def enter(self, user: str, *channels: str) -> tuple[Client, str]:
        """Connect a client; return it, and the name of its connection."""
        client = self.open()
        result = client.connect(token=sign({"sub": user, "channels": list(channels)}))
        self.daemon.advance(0.2)
        self.assertTrue(all("join" in push for push in client.pushes))
        return client, result["client"]


class RequestTests(ApiTestCase):
    """What is a request, and what is not."""

    def status(self, path: str, body: bytes = b"{}", **headers: str) -> int:
        """Return the status of the answer to a request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.control("POST", path, body, named).status

    def test_key(self) -> None:
        """With a key, requests must have it, in either header."""
        self.start(api_key=b"secret")
        self.assertEqual(self.status("/api/info"), 401)
        self.assertEqual(self.status("/api/info", X_API_Key="wrong"), 401)
        self.assertEqual(self.status("/api/info", Authorization="Bearer secret"), 401)
        self.assertEqual(self.status("/api/info", X_API_Key="secret"), 200)
        self.assertEqual(self.status("/api/info", Authorization="apikey secret"), 200)

    def test_log(self) -> None:
        """The log says why a request has failed, also where its status is 200."""
        self.start(api_key=b"secret")
        named = {"X-API-Key": "secret"}
        with capturedLogs() as logs:
            self.control("POST", "/api/info", b"{}", {"X-API-Key": "wrong"})
            self.control("POST", "/api/dance", b"{}", named)
            self.control("POST", "/api/publish", b"{", named)
            self.control("POST", "/api/publish", b"{}", named)
            self.control("POST", "/api/batch", b"[]", named)
            self.control("POST", "/api/info", b"{}", named)
        lines = [one for one in logs if one.get("event") == "request"]
        self.assertEqual(
            [one.get("reason", "").partition(" must")[0] for one in lines],
            [
                "X-API-Key is missing or wrong",
                "no such method",
                "the body is not valid JSON",
                "error 107: topic",
                "error 107: batch",
                "",
            ],
        )

    def test_off(self) -> None:
        """Without the option, and for other methods, there is nothing."""
        self.assertEqual(self.status("/api/dance"), 404)
        self.assertEqual(self.control("GET", "/api/info").status, 405)
        self.assertEqual(self.status("/api/info?a=b"), 400)
        self.start(centrifuge=False)
        self.assertEqual(self.status("/api/info"), 404)

    def test_body(self) -> None:
        """A body that is not JSON is a bad request; one that is wrong is an error."""
        for body in (b"x", b"[" * 100_000, b'{"channel":NaN}'):
            self.assertEqual(self.status("/api/publish", body), 400, body[:20])
        self.assertEqual(self.status("/api/info", b""), 200)
        for method, wrong in (
            ("publish", {"channel": 1}),
            ("publish", {"channel": "a b", "data": 1}),
            ("publish", {"channel": "a", "tags": [1]}),
            ("broadcast", {"channels": "a"}),
            ("batch", {"commands": 1}),
            ("disconnect", {}),
            ("disconnect", {"user": "ann", "disconnect": {"code": 1}}),
        ):
            self.assertEqual(self.code(method, **wrong), 107, wrong)


class PublishTests(ApiTestCase):
    """Publishing."""

    def test_publish(self) -> None:
        """The result is the position; a key makes it safe to repeat."""
        client, _ = self.enter("ann", "a")
        first = self.result("publish", channel="a", data={"x": 1}, idempotency_key="k")
        self.assertEqual(first["offset"], 1)
        again = self.result("publish", channel="a", data={"x": 1}, idempotency_key="k")
        self.assertEqual(again, first)
        self.result("publish", channel="a", b64data="AP8=")
        self.assertEqual([one["pub"]["data"] for one in client.pushes], [{"x": 1}, "AP8="])

    def test_keys(self) -> None:
        """A key may be any text; a long one takes no more memory than another."""
        for number, key in enumerate(("k", "a b", "é", "x" * 100_000), 1):
            for _ in range(2):
                result = self.result("publish", channel="a", data=1, idempotency_key=key)
                self.assertEqual(result["offset"], number)
        broker = self.daemon._service._broker
        assert isinstance(broker, MemoryBroker)
        keys = [key for _, key in broker._ids]
        self.assertEqual([len(key) for key in keys], [1, 64, 64, 64])

    def test_tags(self) -> None:
        """Clients get the tags, and so does who reads the history."""
        client, _ = self.enter("ann", "a")
        self.result("publish", channel="a", data=1, tags={"é": "b"})
        self.result("publish", channel="a", b64data="AP8=", tags={"c": "d"})
        tags = [{"é": "b"}, {"c": "d", "encoding": "base64"}]
        self.assertEqual([one["pub"]["tags"] for one in client.pushes], tags)
        page = self.result("history", channel="a", limit=-1)["publications"]
        self.assertEqual([one["tags"] for one in page], tags)

    def test_mistakes(self) -> None:
        """What cannot be published has the code of its kind."""
        self.assertEqual(self.code("publish", channel="a", b64data="?"), 107)
        self.assertEqual(self.code("publish", channel="a", data="\ud800"), 107)
        self.assertEqual(self.code("publish", channel="a", data=1, skip_history=True), 108)
        self.assertEqual(self.code("publish", channel="a", data=1, tags={"a": "b" * 4096}), 106)
        self.assertEqual(self.code("publish", channel="small", data="123456"), 106)
        self.assertEqual(self.code("publish", channel="small", b64data="MTIzNDU2"), 106)

    def test_unavailable(self) -> None:
        """If the broker cannot be reached, that is the error."""

        def refuse(*args: Any, **more: Any) -> Deferred[Any]:
            raise Unavailable("gone")

        self.patch(MemoryBroker, "publish_all", refuse)
        self.assertEqual(self.code("publish", channel="a", data=1), 100)

    def test_broadcast(self) -> None:
        """Each channel has a response of its own."""
        good, bad = self.result("broadcast", channels=["a", "a b"], data=1)["responses"]
        self.assertEqual(good["result"]["offset"], 1)
        self.assertEqual(bad["error"]["code"], 107)
        self.assertEqual(self.code("broadcast", channels=["a"] * 1001, data=1), 106)

    def test_batch(self) -> None:
        """Each command has a reply of its own, in order."""
        commands = [
            {"publish": {"channel": "a", "data": 1}},
            {"history": {"channel": "a", "limit": 1}},
            {"presence": {"channel": "small"}},
            {"dance": {}},
            {},
        ]
        replies = self.call("batch", commands=commands, parallel=True)["replies"]
        self.assertEqual(replies[0]["publish"]["offset"], 1)
        self.assertEqual(replies[1]["history"]["publications"], [{"data": 1, "offset": 1}])
        self.assertEqual([one["error"]["code"] for one in replies[2:]], [108, 104, 104])
        self.assertEqual(self.call("batch"), {"replies": []})
        self.assertEqual(self.code("batch", commands=[{}] * 1001), 106)


class ReadTests(ApiTestCase):
    """Reading."""

    def test_presence(self) -> None:
        """Clients are listed and counted."""
        _, name = self.enter("ann", "a")
        info = {"user": "ann", "client": name}
        self.assertEqual(self.result("presence", channel="a"), {"presence": {name: info}})
        counts = {"num_clients": 1, "num_users": 1}
        self.assertEqual(self.result("presence_stats", channel="a"), counts)
        self.assertEqual(self.code("presence_stats", channel="small"), 108)

    def test_history(self) -> None:
        """Pages are as for clients; what is removed is gone, and offsets go on."""
        self.result("history_remove", channel="a")
        for number in range(3):
            self.result("publish", channel="a", data=number)
        result = self.result("history", channel="a", limit=1, reverse=True)
        self.assertEqual(result["publications"], [{"data": 2, "offset": 3}])
        self.assertEqual(self.result("history_remove", channel="a"), {})
        self.assertEqual(self.result("history", channel="a", limit=-1)["publications"], [])
        self.assertEqual(self.result("publish", channel="a", data=3)["offset"], 4)

    def test_channels(self) -> None:
        """Channels with subscribers are listed, those that match a pattern."""
        self.enter("ann", "chat/1", "chat/2", "news")
        self.enter("bob", "news")
        channels = self.result("channels")["channels"]
        self.assertEqual(channels["news"], {"num_clients": 2})
        self.assertEqual(set(channels), {"chat/1", "chat/2", "news"})
        chats = self.result("channels", pattern="chat/*")["channels"]
        self.assertEqual(set(chats), {"chat/1", "chat/2"})

    def test_info(self) -> None:
        """There is one node."""
        self.enter("ann", "a", "b")
        self.daemon.advance(7)
        [node] = self.result("info")["nodes"]
        counts = [node[f"num_{one}"] for one in ("clients", "users", "subs", "channels")]
        self.assertEqual(counts, [1, 1, 2, 2])
        self.assertEqual(node["uptime"], 7)


class FakeCalls:
    """Takes down what is asked of other nodes, and answers for one."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.reply: Any = None

    def serve(self, answer: AnswerCall) -> None:
        """Keep what answers the calls of other nodes."""
        self.answer = answer

    def call(self, method: str, argument: Any) -> Deferred[list[Any]]:
        """Answer."""
        self.asked.append((method, argument))
        return succeed([self.reply])


class NodesTests(ApiTestCase):
    """Several nodes."""

    def setUp(self) -> None:
        """Start a daemon that has another node beside it."""
        self.calls = FakeCalls()
        self.patch(MemoryBroker, "calls", self.calls)
        super().setUp()

    def test_added(self) -> None:
        """What is at several nodes is added up, or listed."""
        self.enter("ann", "news", "x")
        self.calls.reply = {"news": 2, "y": 1}
        channels = self.result("channels")["channels"]
        counts = {name: one["num_clients"] for name, one in channels.items()}
        self.assertEqual(counts, {"news": 3, "x": 1, "y": 1})
        self.calls.reply = {"name": "other"}
        names = [node["name"] for node in self.result("info")["nodes"]]
        self.assertEqual(names, ["pushd", "other"])

    def test_asked(self) -> None:
        """Other nodes are asked what this one was, unless that is wrong."""
        requests: list[tuple[str, dict[str, Any]]] = [
            ("disconnect", {"user": "ann", "disconnect": {"code": 4000, "reason": "x"}}),
            ("unsubscribe", {"user": "ann", "channel": "x", "client": "c"}),
            ("refresh", {"user": "ann", "expired": True}),
        ]
        for method, request in requests:
            self.assertEqual(self.result(method, **request), {})
            self.assertEqual(self.code(method), 107)
        self.assertEqual(self.calls.asked, requests)

    def test_answers(self) -> None:
        """Other nodes are answered."""
        client, _ = self.enter("ann", "news")
        self.assertEqual(self.calls.answer("channels", {}), {"news": 1})
        self.calls.answer("disconnect", {"user": "ann"})
        self.daemon.settle()
        self.assertIsNotNone(client.browser.closing)


class ClientTests(ApiTestCase):
    """Clients that are disconnected, unsubscribed, and refreshed."""

    def closed(self, client: Client) -> int | None:
        """Return the code with which a client was closed."""
        return None if client.browser.closing is None else client.browser.closing.code

    def ended(self, client: Client) -> list[int]:
        """Return the codes with which a client's subscriptions were ended."""
        return [one["unsubscribe"]["code"] for one in client.pushes if "unsubscribe" in one]

    def test_disconnect(self) -> None:
        """All connections of a user are closed, or one of them, or all but some."""
        (one, first), (two, second), (three, _) = (self.enter("ann") for _ in range(3))
        bob, _ = self.enter("bob")
        self.result("disconnect", user="bob", client=first)
        self.result("disconnect", user="ann", client="unknown")
        self.result("disconnect", user="ann", client=first)
        self.assertEqual([self.closed(client) for client in (one, two)], [3503, None])
        given = {"code": 4000, "reason": "bye"}
        self.result("disconnect", user="ann", whitelist=[second, "unknown"], disconnect=given)
        self.assertEqual([self.closed(client) for client in (two, three)], [None, 4000])
        self.result("disconnect", user="ann")
        self.assertEqual([self.closed(client) for client in (two, bob)], [3503, None])

    def test_unsubscribe(self) -> None:
        """A user is unsubscribed on all connections, or on one."""
        (one, first), (two, _) = self.enter("ann", "a"), self.enter("ann", "a")
        self.result("unsubscribe", user="bob", channel="a", client=first)
        self.result("unsubscribe", user="ann", channel="other", client=first)
        self.result("unsubscribe", user="ann", channel="a", client="unknown")
        self.result("unsubscribe", user="ann", channel="a", client=first)
        self.assertEqual(self.ended(one), [2000])
        self.assertEqual(self.ended(two), [])
        self.result("unsubscribe", user="ann", channel="a")
        self.assertEqual(self.ended(two), [2000])
        self.assertEqual(self.code("unsubscribe", user="ann", channel="a b"), 107)

    def test_refresh(self) -> None:
        """A connection is told when it will expire, or has expired."""
        (one, first), (two, _) = self.enter("ann"), self.enter("ann")
        bob, _ = self.enter("bob")
        self.result("refresh", user="ann", client=first, expire_at=101)
        [push] = one.pushes
        self.assertEqual(push["refresh"], {"expires": True, "ttl": 100})
        self.assertEqual(two.pushes, [])
        self.result("refresh", user="ann", client=first, expire_at=(1 << 63) - 1)
        [push] = one.pushes
        self.assertEqual(push["refresh"]["ttl"], (1 << 32) - 1)
        self.result("refresh", user="ann")
        self.result("refresh", user="ann", expired=True)
        self.assertEqual([self.closed(client) for client in (one, two, bob)], [3005, 3005, None])
