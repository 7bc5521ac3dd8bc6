"""Opening streams over HTTP: requests, answers, and what clients get over each transport."""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

from twisted.logger import capturedLogs

from pushd.access.limits import Limits
from pushd.access.origins import Origins
from pushd.access.proxies import Proxies
from pushd.errors import Unavailable
from pushd.topics.broker import MemoryBroker
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_streams import STREAMS, LineStreamClient, Stream, StreamTestCase
from tests.support.keyring import secret_keys, sign

_JSON = {"Content-Type": "application/json"}


def ann(**claims: Any) -> str:
    """Return a token of a user."""
    return sign({"sub": "ann", **claims})


_CONNECT = b'{"id":1,"connect":{}}'

#: The transports of clients that only listen.
UNIDIRECTIONAL = ("uni_sse", "uni_http_stream")


class OpenTests(StreamTestCase):
    """Requests that open streams."""

    def refused(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a request that is refused; return its status and error."""
        answer = self.daemon.request(method, path, headers, body)
        assert answer is not None
        return answer.status, json.loads(answer.body)

    def test_connect(self) -> None:
        """The stream begins with the reply to connect, which says where commands are sent."""
        for client in self.all():
            self.assertRegex(client.connected["session"], "[0-9a-f]{18}")
            self.assertRegex(client.connected["node"], "[0-9a-f]{18}")
            self.assertNotEqual(client.connected["session"], client.connected["client"])
            self.assertTrue(client.connected["pong"])
            self.assertIn("200 OK", client.stream.head)
            self.assertIn("X-Accel-Buffering: no", client.stream.head)
            self.assertIn("Cache-Control: no-cache, no-transform", client.stream.head)

    def test_types(self) -> None:
        """Each transport has its content type."""
        types = ["text/event-stream; charset=utf-8", "application/x-ndjson"]
        for client, kind in zip(self.all(), [*types, "application/octet-stream"], strict=True):
            self.assertIn(f"Content-Type: {kind}\r\n", client.stream.head)
        head = self.daemon.request("HEAD", "/connection/sse")
        assert head is not None
        self.assertEqual((head.status, head.headers["Content-Type"]), (200, types[0]))

    def test_post(self) -> None:
        """Events can be asked for with the command in the body as well."""
        for path in ("/connection/sse", "/connection/http_stream"):
            stream = Stream(self.daemon, path, _CONNECT, headers=_JSON)
            self.assertIn(b'"session"', stream.take())

    def test_old_http(self) -> None:
        """With HTTP/1.0 nothing is chunked."""
        for kind, path in STREAMS:
            client = kind(self.daemon, path, {}, version="1.0")
            client.ask("subscribe", channel="a")
            self.publish("a", "x")
            self.assertEqual(len(client.pushes), 1)
            self.assertNotIn("Transfer-Encoding", client.stream.head)
            client.leave()

    def test_nothing(self) -> None:
        """A request without a command is refused."""
        for method, path, where in (
            ("GET", "sse", "cf_connect"),
            ("POST", "sse", "body"),
            ("POST", "http_stream", "body"),
        ):
            status, error = self.refused(method, f"/connection/{path}")
            self.assertEqual((status, error["where"]), (400, where))
            self.assertEqual(error["error"], "the command connect is required")

    def test_methods(self) -> None:
        """Other methods are refused; OPTIONS says which there are."""
        for path, methods in (
            ("sse", "GET, HEAD, POST, OPTIONS"),
            ("uni_sse", "GET, HEAD, POST, OPTIONS"),
            ("http_stream", "POST, OPTIONS"),
            ("uni_http_stream", "POST, OPTIONS"),
        ):
            options = self.daemon.request("OPTIONS", f"/connection/{path}")
            put = self.daemon.request("PUT", f"/connection/{path}", body=b"{}")
            assert options is not None and put is not None
            self.assertEqual((options.status, options.headers["Allow"]), (204, methods))
            self.assertEqual((put.status, put.headers["Allow"]), (405, methods))
        self.assertEqual(self.refused("GET", "/connection/http_stream")[0], 405)

    def test_bad_command(self) -> None:
        """A command that cannot be read ends the stream, and the client does not come back."""
        for body in (b"nonsense", b'{"id":1,"subscribe":{"channel":"a"}}', b"\xff"):
            stream = Stream(self.daemon, "/connection/http_stream", body)
            [line] = stream.take().splitlines()
            self.assertEqual(json.loads(line)["push"]["disconnect"]["code"], 3501)
            self.assertTrue(stream.ended)

    def test_path(self) -> None:
        """The prefix is an option; commands are sent to the path beside it."""
        self.start(centrifuge_path="/push/live")
        client = LineStreamClient(
            self.daemon, "/push/live/http_stream", {}, emulation="/push/emulation"
        )
        client.ask("ping")
        for path in ("/connection/sse", "/emulation", "/push/live/emulation"):
            answer = self.daemon.get(path)
            assert answer is not None
            self.assertEqual(answer.status, 404, path)

    def test_off(self) -> None:
        """Without the option there is nothing at the paths."""
        self.start(centrifuge=False)
        for path in ("/connection/sse", "/connection/uni_sse", "/emulation"):
            answer = self.daemon.get(path)
            assert answer is not None
            self.assertEqual(answer.status, 404, path)

    def test_not_installed(self) -> None:
        """Without the package, a client that speaks Protobuf is refused, now and later."""
        headers = {"Content-Type": "application/octet-stream"}
        with patch.dict(sys.modules, {"pushd.api.centrifuge.protobuf": None}):
            for path in ("/connection/http_stream", "/emulation"):
                status, error = self.refused("POST", path, b"x", **headers)
                self.assertEqual((status, error["where"]), (400, "Content-Type"))
                self.assertIn("pushd[centrifuge]", error["error"])
        self.assertIn("session", self.protobuf().connected)

    def test_stopping(self) -> None:
        """A daemon that is stopping opens no streams; those that are open take commands."""
        self.start(drain=5)
        client = self.lines()
        body = client.encode({"id": 9, "ping": {}})
        connections = [self.daemon.open_connection() for _ in range(2)]
        self.daemon.begin_stop()
        for connection, path, status in zip(
            connections, ("/connection/http_stream", "/emulation"), (503, 204), strict=True
        ):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost:8080\r\n"
            connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = connection.answer()
            assert answer is not None
            self.assertEqual(answer.status, status)
        self.assertIn("ping", client.reply(9))
        self.daemon.advance(5)
        self.assertEqual(client.disconnected, (3001, "shutdown"))

    def test_procedures(self) -> None:
        """Procedures get the request that opened the stream."""

        async def call(request: Any, method: str | None, data: Any) -> Any:
            return {"path": request.path, "data": data}

        self.start(rpc=call)
        for client in self.all():
            data: Any = b"2" if client.content_type == "application/octet-stream" else 2
            result = client.ask("rpc", method="m", data=data)["data"]
            value = json.loads(result) if isinstance(result, bytes) else result
            self.assertTrue(value["path"].startswith("/connection/"))
            self.assertEqual(value["data"], 2)

    def test_log(self) -> None:
        """The log says when a stream opened and closed, without its query."""
        with capturedLogs() as logs:
            client = self.sse(token="secret-token")
            client.leave()
        lines = [log for log in logs if log.get("event") in ("opened", "closed")]
        self.assertEqual([line["transport"] for line in lines], ["sse", "sse"])
        self.assertEqual([line["path"] for line in lines], ["/connection/sse"] * 2)
        self.assertEqual((lines[1]["code"], lines[1]["messages_in"]), (1006, 1))
        self.assertNotIn("secret-token", str(logs))

    def test_metrics(self) -> None:
        """Connections, subscribers and traffic are counted by transport."""
        sse, lines = self.sse(), self.lines()
        for client in (sse, lines):
            client.ask("subscribe", channel="a")
        for client, transport in ((sse, "sse"), (lines, "http_stream")):
            text = self.control("GET", "/metrics").text
            for line in (
                f'pushd_connections{{state="open",transport="{transport}"}} 1.0',
                f'pushd_subscribers{{transport="{transport}"}} 1.0',
            ):
                self.assertIn(line, text)
            client.leave()
        text = self.control("GET", "/metrics").text
        self.assertIn('pushd_connections{state="open",transport="http_stream"} 0.0', text)
        self.assertIn('pushd_sent_messages_total{transport="http_stream"} 2.0', text)
        self.assertIn("pushd_received_messages_total 4.0", text)

    def test_memory(self) -> None:
        """What a client has sent to open its stream is not kept."""
        clients = [self.lines(data="x" * 100_000), self.sse()]
        self.assertIn('kind="request"} 0.0', self.control("GET", "/metrics").text)
        for client in clients:
            client.leave()

    def test_throttle(self) -> None:
        """Opening a stream counts for --max-rate-per-address, also behind a proxy."""
        self.start(proxies=Proxies(["127.0.0.1"]), limits=Limits(max_rate_per_address=1))
        headers = {"X-Forwarded-For": "192.0.2.1"}
        streams = [
            Stream(self.daemon, "/connection/http_stream", _CONNECT, headers=headers)
            for _ in range(12)
        ]
        self.assertEqual(streams[-1].connection.received, b"")
        self.daemon.advance(10)
        self.assertEqual(streams[-1].status, 200)


class OriginTests(StreamTestCase):
    """Pages of other origins."""

    def test_refused(self) -> None:
        """A page of another origin can neither open a stream nor send commands."""
        client = self.lines()
        headers = {"Origin": "https://evil.example", **_JSON}
        for path, body in (
            ("/connection/http_stream", _CONNECT),
            ("/connection/uni_http_stream", b"{}"),
            ("/connection/uni_sse", b"{}"),
            ("/emulation", client.encode({})),
        ):
            answer = self.daemon.request("POST", path, headers, body)
            assert answer is not None
            self.assertEqual(answer.status, 403, path)
        answer = self.daemon.get("/connection/sse?cf_connect={}", headers)
        assert answer is not None
        self.assertEqual(answer.status, 403)

    def test_allowed(self) -> None:
        """A page of an allowed origin may do both, and read what is refused."""
        self.start(origins=Origins(["https://app.example"]))
        headers = {"Origin": "https://app.example", **_JSON}
        client = self.lines()
        stream = Stream(self.daemon, "/connection/http_stream", _CONNECT, headers=headers)
        self.assertIn("Access-Control-Allow-Origin: https://app.example", stream.head)
        for body, status in ((client.encode({}), 204), (b"x", 400)):
            answer = self.daemon.request("POST", "/emulation", headers, body)
            assert answer is not None
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], headers["Origin"])

    def test_preflight(self) -> None:
        """Browsers ask first, as the requests have JSON or bytes."""
        self.start(origins=Origins(["https://app.example"]))
        headers = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        for path in ("/connection/http_stream", "/emulation"):
            answer = self.daemon.request("OPTIONS", path, headers)
            assert answer is not None
            self.assertEqual(answer.status, 204)
            self.assertEqual(answer.headers["Access-Control-Allow-Methods"], "POST")
            self.assertIn("Content-Type", answer.headers["Access-Control-Allow-Headers"])
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], headers["Origin"])


class TokenTests(StreamTestCase):
    """Tokens of clients over HTTP."""

    def setUp(self) -> None:
        """Start a daemon that knows a key."""
        self.start(token_keys=secret_keys(), centrifuge_personal="users/*")

    def test_expired(self) -> None:
        """A client whose token has expired is told by an error, and fetches another."""
        self.daemon.advance(200)
        client = self.lines(token=ann(exp=100))
        self.assertEqual(client.error_code, 109)
        self.assertFalse(client.gone)

    def test_bad(self) -> None:
        """A token that is not valid ends the stream for good."""
        for client in self.all(token="nonsense"):
            self.assertEqual(client.disconnected, (3500, "invalid token"))
            self.assertTrue(client.gone)

    def test_expires(self) -> None:
        """A stream ends when the token of its client has expired, unless that is refreshed."""
        [kept, late] = [self.lines(token=ann(exp=60)) for _ in range(2)]
        self.daemon.advance(59)
        kept.ask("refresh", token=ann(exp=self.daemon.clock.seconds() + 600))
        late.send({})
        self.daemon.advance(32)
        self.assertEqual(late.disconnected, (3005, "connection expired"))
        self.assertIsNone(kept.disconnected)

    def test_header(self) -> None:
        """The token of the request counts until the client sends one."""
        headers = {"Authorization": f"Bearer {ann(subscribe=['a'], exp=60)}"}
        client = LineStreamClient(self.daemon, "/connection/http_stream", {}, headers=headers)
        client.ask("subscribe", channel="a")
        self.daemon.advance(61)
        self.assertEqual(client.disconnected, (3005, "connection expired"))

    def test_server_side(self) -> None:
        """Channels of the token and of the user are subscribed to, and resumed."""
        first = self.lines(token=ann(channels=["news"]))
        self.assertEqual(set(first.connected["subs"]), {"news", "#ann"})
        self.publish("news", "1")
        self.assertEqual(len(first.pushes), 1)
        first.leave()
        self.publish("news", "2")
        position = {**first.connected["subs"]["news"], "recover": True, "offset": 1}
        position = {key: position[key] for key in ("recover", "epoch", "offset")}
        again = self.lines(token=ann(channels=["news"]), subs={"news": position})
        self.assertTrue(again.connected["subs"]["news"]["recovered"])
        self.assertEqual([push["pub"]["data"] for push in again.pushes], ["2"])


class UnidirectionalTests(StreamTestCase):
    """Clients that only listen."""

    def setUp(self) -> None:
        """Start a daemon that knows a key."""
        self.start(token_keys=secret_keys())

    def listen(self, transport: str, **request: Any) -> Stream:
        """Open a stream."""
        path, text = f"/connection/{transport}", json.dumps(request)
        if transport == "uni_sse":
            return Stream(self.daemon, f"{path}?cf_connect={quote(text)}")
        return Stream(self.daemon, path, text.encode())

    def heard(self, stream: Stream) -> list[dict[str, Any]]:
        """Return the pushes since the last call."""
        text = stream.take().decode().replace("data: ", "")
        return [json.loads(line) for line in text.split("\n") if line]

    def test_pushes(self) -> None:
        """A client gets bare pushes: how it is connected, and then publications."""
        for transport in UNIDIRECTIONAL:
            stream = self.listen(transport, token=ann(channels=["news"]))
            [push] = self.heard(stream)
            self.assertEqual(list(push), ["connect"])
            connected = push["connect"]
            self.assertEqual((connected["ping"], set(connected["subs"])), (25, {"news"}))
            for absent in ("pong", "session", "node"):
                self.assertNotIn(absent, connected)
            self.publish("news", "x")
            [push] = self.heard(stream)
            self.assertEqual((push["channel"], push["pub"]["data"]), ("news", "x"))

    def test_events(self) -> None:
        """Over SSE, each push is an event; over HTTP, a line."""
        stream = self.listen("uni_sse")
        self.assertTrue(stream.take().startswith(b'data: {"connect":'))
        self.assertTrue(bytes(stream.body).endswith(b"\n\n"))
        stream = self.listen("uni_http_stream")
        self.assertTrue(stream.take().startswith(b'{"connect":'))
        self.assertTrue(bytes(stream.body).endswith(b"}\n"))

    def test_pings(self) -> None:
        """Pings come, and no answer is expected."""
        for transport in UNIDIRECTIONAL:
            stream = self.listen(transport)
            self.heard(stream)
            self.daemon.advance(25, 25, 25)
            self.assertEqual(self.heard(stream), [{}] * 3)
            stream.connection.leave()

    def test_nothing(self) -> None:
        """What the client says is optional."""
        for stream in (
            Stream(self.daemon, "/connection/uni_sse"),
            Stream(self.daemon, "/connection/uni_sse", b""),
            Stream(self.daemon, "/connection/uni_http_stream", b"null"),
        ):
            [push] = self.heard(stream)
            self.assertIn("client", push["connect"])

    def test_bad_request(self) -> None:
        """What cannot be read is refused before anything is streamed."""
        deep = b"[" * 100_000
        for body in (b"nonsense", b"[]", b'{"token":1}', b"\xff", deep, b'{"data":NaN}'):
            for transport in UNIDIRECTIONAL:
                answer = self.daemon.request("POST", f"/connection/{transport}", _JSON, body)
                assert answer is not None
                self.assertEqual(answer.status, 400, body[:20])
                self.assertEqual(json.loads(answer.body)["where"], "body")
        answer = self.daemon.get("/connection/uni_sse?cf_connect=nonsense")
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, "cf_connect"))

    def test_refused(self) -> None:
        """A client that cannot be connected is told why, and whether to come back."""
        self.daemon.advance(200)
        for request, code in (
            ({"token": "nonsense"}, 3500),
            ({"token": ann(exp=100)}, 3005),
            ({"token": ann(channels=[f"c{n}" for n in range(200)])}, 3501),
        ):
            for transport in UNIDIRECTIONAL:
                stream = self.listen(transport, **request)
                [push] = self.heard(stream)
                self.assertEqual(push["disconnect"]["code"], code)
                self.assertTrue(stream.ended)

    def test_unavailable(self) -> None:
        """If the broker cannot be asked, the client comes back."""
        self.patch(MemoryBroker, "replay", _raise_unavailable)
        stream = self.listen("uni_sse", token=ann(channels=["news"]))
        [push] = self.heard(stream)
        self.assertEqual(push["disconnect"], {"code": 3004, "reason": "internal error"})

    def test_revoked(self) -> None:
        """A subscription that is revoked ends with a push; the stream goes on."""
        stream = self.listen("uni_sse", token=ann(channels=["news"]))
        self.heard(stream)
        self.control("DELETE", "/subscriptions?subject=ann")
        [push] = self.heard(stream)
        self.assertEqual((push["channel"], push["unsubscribe"]["code"]), ("news", 2000))
        self.assertFalse(stream.ended)

    def test_expired(self) -> None:
        """A stream ends when the token of its client has expired."""
        stream = self.listen("uni_http_stream", token=ann(exp=20))
        self.assertTrue(self.heard(stream)[0]["connect"]["expires"])
        self.daemon.advance(51)
        self.assertEqual(self.heard(stream)[-1]["disconnect"]["code"], 3005)

    def test_no_commands(self) -> None:
        """Nobody can send commands for such a client."""
        self.listen("uni_sse")
        body = json.dumps({"session": "", "node": "", "data": "{}"}).encode()
        answer = self.daemon.request("POST", "/emulation", _JSON, body)
        assert answer is not None
        self.assertEqual(answer.status, 404)

    def test_presence(self) -> None:
        """Joins and leaves are pushed where the topic has presence."""
        self.start(token_keys=secret_keys(), rules=Rules([Rule(match="**", presence=True)]))
        stream = self.listen("uni_http_stream", token=ann(channels=["room"]))
        _, push = self.heard(stream)
        self.assertEqual(push["join"]["info"]["user"], "ann")


def _raise_unavailable(*_: object) -> Any:
    raise Unavailable("no broker")
