"""Requests with commands: for a session of this node, of another, and of none."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs

from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.api.centrifuge.emulation import max_emulation_body
from pushd.errors import Unavailable
from pushd.testing import RawConnection
from pushd.topics.broker import MemoryBroker
from tests.support.centrifuge_streams import EMULATION, StreamTestCase


class FakeRelay:
    """Passes messages to nodes in the same process."""

    def __init__(self, node: str, nodes: dict[str, FakeRelay]) -> None:
        self.node = node
        self._nodes = nodes
        self.receive: Any = None
        #: What ``send`` returns, in place of the result.
        self.answer: Deferred[bool] | None = None
        #: Whether messages get lost that were sent.
        self.loses = False
        nodes[node] = self

    def start(self, receive: Any) -> None:
        """Take down what is to be called."""
        self.receive = receive

    def send(self, node: str, message: bytes) -> Deferred[bool]:
        """Pass a message on at once."""
        if self.answer is not None:
            return self.answer
        relay = self._nodes.get(node)
        if relay is not None and not self.loses:
            relay.receive(message)
        return succeed(relay is not None)


class EmulationTests(StreamTestCase):
    """Requests to one node."""

    def send(
        self, body: bytes | dict[str, Any], kind: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """Send a request; return the status and the error."""
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.daemon.request("POST", EMULATION, {"Content-Type": kind}, given)
        assert answer is not None
        return answer.status, json.loads(answer.body or b"{}")

    def test_commands(self) -> None:
        """Commands are carried out in order; replies come in the stream."""
        for client in self.all():
            client.send(
                {"id": 7, "subscribe": {"channel": "a"}},
                {"id": 8, "ping": {}},
                {"id": 9, "ping": {}},
            )
            self.assertEqual([one["id"] for one in client.heard()], [7, 8, 9])

    def test_bad_commands(self) -> None:
        """Commands that cannot be read end the stream."""
        for client in self.all():
            self.assertEqual(client.post(client.wrap(b"nonsense")).status, 204)
            assert client.disconnected is not None
            self.assertEqual(client.disconnected[0], 3501)

    def test_unknown(self) -> None:
        """A session that is over, that never was, and one of another node are not found."""
        client = self.lines()
        body = client.encode({})
        client.leave()
        session = {**client.session, "data": "{}"}
        for one in (
            json.loads(body),
            {**session, "session": "guess"},
            {**session, "node": "elsewhere"},
            {**session, "session": ""},
            {"data": "{}"},
        ):
            status, error = self.send(one)
            self.assertEqual((status, error["where"]), (404, "session"), one)

    def test_malformed(self) -> None:
        """A body of another form is refused with one line."""
        for body in (
            b"",
            b"nonsense",
            b"[]",
            b"\xff",
            b'{"session":1,"data":"{}"}',
            b'{"session":"a","node":"b"}',
            b'{"session":"a","node":"b","data":{}}',
            b"[" * 100_000,
        ):
            status, error = self.send(body)
            self.assertEqual((status, error["where"]), (400, "body"), body[:30])
            self.assertNotIn("\n", error["error"])
        status, error = self.send(b"\xff\xff", "application/octet-stream")
        self.assertEqual(status, 400)
        self.assertEqual(error["error"], "not a request with commands: malformed Protobuf")

    def test_log(self) -> None:
        """What is refused has an access line; what is taken is counted with its stream."""
        client = self.lines()
        with capturedLogs() as logs:
            client.send({})
            client.send({})
            self.send({"session": "a", "node": "b", "data": "{}"})
            client.leave()
        lines = [log["status"] for log in logs if log.get("path") == EMULATION]
        self.assertEqual(lines, [404])
        [closed] = [log for log in logs if log.get("event") == "closed"]
        size = len('{"id": 1, "connect": {}}' + "{}" + "{}")
        self.assertEqual((closed["messages_in"], closed["bytes_in"]), (3, size))

    def test_content_type(self) -> None:
        """The type of the body may have parameters, in any case."""
        client = self.protobuf()
        status, _ = self.send(client.encode({}), "Application/Octet-Stream; a=b")
        self.assertEqual(status, 204)

    def test_large(self) -> None:
        """Commands may be as long as a message over WebSocket, with all escapes that needs."""
        self.start(limits=Limits(max_message=1000, max_body=100))
        client = self.lines()
        quotes = '"' * 200
        self.assertEqual(client.error("publish", channel="a", data=quotes), 103)
        status, error = self.send({**client.session, "data": " " * 1001})
        self.assertEqual((status, error["where"]), (413, "data"))
        self.assertIn("--max-message", error["error"])
        answer = client.post(b" " * (max_emulation_body(1000) + 1))
        self.assertEqual(answer.status, 413)
        self.assertIn("--max-message", answer.text)
        client.ask("ping")

    def test_rate(self) -> None:
        """Commands come at a limited rate, however many requests bring them."""
        self.start(limits=Limits(max_rate=2))
        one, many, silent = self.lines(), self.lines(), self.lines()
        for _ in range(19):
            one.send({})
        self.assertIsNone(one.disconnected)
        one.send({"id": 2, "ping": {}}, {"id": 3, "ping": {}})
        many.send(*[{}] * 21)
        for _ in range(21):
            silent.post(json.dumps({**silent.session, "data": ""}).encode())
        for client in (one, many, silent):
            self.assertEqual(client.disconnected, (3013, "too many messages"))

    def test_pong(self) -> None:
        """The answer to a ping is a request, too; without it the stream ends."""
        clients, silent = self.all(), self.all()
        for _ in range(2):
            self.daemon.advance(25)
            for client in clients:
                self.assertEqual(client.heard(), [{}])
                client.send({})
        for client in silent:
            self.assertEqual(client.disconnected, (3012, "no pong"))
            self.assertTrue(client.gone)


class NodeTests(StreamTestCase):
    """Two nodes, each with a daemon of its own."""

    def setUp(self) -> None:
        """Start the daemons."""
        nodes: dict[str, FakeRelay] = {}
        self.relays = [FakeRelay(name, nodes) for name in ("one", "two")]
        self.start_nodes()

    def start_nodes(self, **settings: Any) -> None:
        """Start the daemons."""
        self.daemons = []
        for relay in self.relays:
            self.patch(MemoryBroker, "relay", relay)
            self.daemons.append(self.start(**settings))
        self.daemon = self.daemons[0]

    def start_limited(self) -> None:
        """Start daemons behind a proxy, at which an address may fail ten times in a burst."""
        self.start_nodes(proxies=Proxies(["127.0.0.1"]), limits=Limits(max_rate_per_address=1))

    def begin(self, body: bytes, fields: str = "") -> RawConnection:
        """Send a request with commands to the second node; return the connection."""
        connection = self.daemons[1].open_connection()
        head = f"POST {EMULATION} HTTP/1.1\r\nHost: localhost:8080\r\n{fields}"
        connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection

    def test_other_node(self) -> None:
        """Commands reach a session at another node, in each format."""
        for client in self.all():
            self.assertEqual(client.connected["node"], "one")
            answer = client.post(client.encode({"id": 9, "ping": {}}), self.daemons[1])
            self.assertEqual(answer.status, 204)
            self.daemon.settle()
            self.assertIn("ping", client.reply(9))

    def test_over(self) -> None:
        """A session of another node that is over is not found, as at its own node."""
        client = self.lines()
        body = client.encode({})
        client.leave()
        refused = []
        for daemon in self.daemons:
            with capturedLogs() as logs:
                answer = client.post(body, daemon)
            [line] = [log for log in logs if log.get("path") == EMULATION]
            facts = (line["event"], line["status"], line["reason"])
            refused.append((answer.status, answer.body, facts))
        self.assertEqual(refused[0][0], 404)
        self.assertEqual(refused[1], refused[0])

    def test_rate(self) -> None:
        """Commands for sessions that another node does not know slow the address they come from."""
        self.start_limited()
        headers = {"X-Forwarded-For": "192.0.2.1"}
        body = json.dumps({"session": "0", "node": "one", "data": "{}"}).encode()
        for daemon in self.daemons:
            answers = [daemon.request("POST", EMULATION, headers, body) for _ in range(12)]
            self.assertEqual([one is None for one in answers], [False] * 11 + [True])

    def test_busy(self) -> None:
        """A node that does not answer in time is there, so its commands are taken."""
        client = self.lines()
        for relay in self.relays:
            relay.loses = True
            connection = self.begin(client.encode({}))
            self.daemons[1].advance(4.9)
            self.assertEqual(connection.received, b"")
            self.daemons[1].advance(0.1)
            self.assertTrue(connection.received.startswith(b"HTTP/1.1 204 "))
            relay.loses = False

    def test_late(self) -> None:
        """Answers that are late, or that were not asked for, are ignored."""
        client = self.lines()
        passing = self.relays[1].answer = Deferred()
        connection = self.begin(client.encode({}))
        self.daemons[1].advance(5)
        answered = connection.received
        self.relays[1].receive(b"answer 1 0")
        passing.callback(False)
        self.assertEqual(connection.received, answered)
        for message in (b"", b"answer", b"answer 1", b"command one 1 a", b"\xff\xff nonsense"):
            self.relays[0].receive(message)

    def test_no_way_back(self) -> None:
        """Commands are carried out also if the node cannot answer."""
        client = self.lines()
        self.relays[0].answer = fail(Unavailable("Redis is away"))
        connection = self.begin(client.encode({"id": 9, "ping": {}}))
        self.daemon.settle()
        self.assertIn("ping", client.reply(9))
        self.daemons[1].advance(5)
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 204 "))

    def test_names(self) -> None:
        """What cannot be the name of a session is not passed on."""
        client = self.lines()
        received: list[bytes] = []
        self.relays[0].receive = received.append
        for session in ("", "a b", "x" * 65, "é"):
            client.connected["session"] = session
            self.assertEqual(client.post(client.encode({}), self.daemons[1]).status, 404)
        self.assertEqual(received, [])

    def test_no_node(self) -> None:
        """A node that is gone is not found."""
        client = self.lines()
        client.connected["node"] = "three"
        self.assertEqual(client.post(client.encode({}), self.daemons[1]).status, 404)

    def test_unavailable(self) -> None:
        """If nodes cannot be reached, the client is told to come again."""
        client = self.lines()
        self.relays[1].answer = fail(Unavailable("Redis is away"))
        answer = client.post(client.encode({}), self.daemons[1])
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (503, "broker"))
        self.assertIn("Redis is away", answer.text)
        self.assertIn("Retry-After", answer.headers)

    def test_fails(self) -> None:
        """Another error is logged, and answered with 500."""
        client = self.lines()
        self.relays[1].answer = fail(ZeroDivisionError())
        self.assertEqual(client.post(client.encode({}), self.daemons[1]).status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_client_leaves(self) -> None:
        """Nothing is answered once the client has left, and its next requests are delayed."""
        self.start_limited()
        client = self.lines()
        self.relays[1].answer = Deferred()
        for _ in range(11):
            connection = self.begin(client.encode({}), "X-Forwarded-For: 192.0.2.1\r\n")
            connection.leave()
            self.assertEqual(connection.received, b"")
        self.relays[1].answer = None
        connection = self.begin(client.encode({}), "X-Forwarded-For: 192.0.2.1\r\n")
        self.assertEqual(connection.received, b"")
        self.daemons[1].advance(1)
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 204 "))
