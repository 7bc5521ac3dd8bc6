"""Publishing over a WebSocket at the control port."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY
from pushd.errors import Unavailable
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.testing import Daemon
from pushd.topics.broker import Draft
from pushd.topics.publication import Id
from pushd.topics.rules import Rule, Rules
from tests.support.peer import TEXT, close_frame, frame, handshake, read_frames
from tests.support.recording_socket import SocketConnection
from tests.support.topic_clients import V1WebSocketClient


class StreamTestCase(SynchronousTestCase):
    """A publisher's WebSocket."""

    settings: Mapping[str, Any] = MappingProxyType({})

    def setUp(self) -> None:
        """Start a daemon, and connect."""
        # Or answers wait in the transport, as for a slow reader.
        self.patch(FAST_PATHS, "enabled", True)
        self.daemon = Daemon({}, **self.settings)
        self.addCleanup(self.daemon.stop)
        service: Any = self.daemon._service
        self.broker = service._broker
        self.hub = self.broker._deliver.__self__
        self.server = self.connect()

    def connect(self, *lines: str) -> SocketConnection:
        """Open a WebSocket."""
        server = SocketConnection(self.daemon, control=True)
        server.receive(handshake("/publish", *lines))
        self.daemon.settle()
        self.assertIn(b"HTTP/1.1 101 ", server.sent)
        server.forget()
        return server

    def send(self, *messages: object) -> list[Any]:
        """Send messages in one segment, and return their answers."""
        texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in messages]
        self.server.receive(b"".join(frame(TEXT, text) for text in texts))
        self.daemon.settle()
        answers = [json.loads(one.payload) for one in read_frames(self.server.sent)]
        self.server.forget()
        return answers


class StreamTests(StreamTestCase):
    def test_order(self) -> None:
        """Each message is a publication, and is answered in its order, with one write."""
        client = V1WebSocketClient(self.daemon, "t")
        values = [{"topic": "t", "data": f"{number}"} for number in range(10)]
        self.server.receive(b"".join(frame(TEXT, json.dumps(one).encode()) for one in values))
        self.daemon.settle()
        self.assertEqual(client.data, [f"{number}" for number in range(10)])
        self.server.write_out()
        self.assertEqual(len(self.server.fake_socket.given), 1)
        answers = [json.loads(one.payload) for one in read_frames(self.server.sent)]
        self.assertEqual([one["id"] for one in answers], client.ids)
        self.assertEqual({one["subscribers"] for one in answers}, {1})

    def test_forms(self) -> None:
        """It may have what a publication of a batch has; a key is published once."""
        client = V1WebSocketClient(self.daemon, "t")
        answers = self.send(
            {"topic": "t", "json": {"a": "é"}, "event": "e"},
            {"topic": "t", "base64": "AAEC"},
            {"topic": "t", "data": "once", "idempotency_key": "k"},
            {"topic": "t", "data": "once", "idempotency_key": "k"},
        )
        self.assertEqual(client.data, ['{"a":"é"}', b"\x00\x01\x02", "once"])
        self.assertEqual(answers[2], answers[3])

    def test_mistakes(self) -> None:
        """A mistake is answered with an error that names the field; the others are published."""
        self.assertEqual(
            [
                one.get("where", one.get("id", "").partition(":")[2])
                for one in self.send(
                    {"topic": "t", "data": "x"},
                    b"{",
                    b"[1]",
                    {"topic": "a b", "data": "x"},
                    {"data": "x"},
                    {"topic": ["t"], "data": "x"},
                    {"topic": "t"},
                    {"topic": "t", "data": 1},
                    {"topic": "t", "base64": "?"},
                    {"topic": "t", "data": "x", "event": "open"},
                    {"topic": "t", "data": "x", "delay": 1},
                    {"topic": "t", "data": "x", "idempotency_key": ""},
                    b"[" * 100_000,
                    {"topic": "t", "data": "x"},
                    {"\ud800": 1},
                    b' {"topic": "t", "data": "x"}\n',
                    b'{"topic": "t", "data": "x"} {}',
                )
            ],
            [
                *("1", "message", "message", "topic", "topic", "topic", "message", "data"),
                *(
                    "base64",
                    "event",
                    "delay",
                    "idempotency_key",
                    "message",
                    "2",
                    "\\ud800",
                    "3",
                    "message",
                ),
            ],
        )

    def test_at_once(self) -> None:
        """What comes right behind the handshake counts, a Close and an end as well."""
        published = frame(TEXT, json.dumps({"topic": "t", "data": "x"}).encode())
        for number, following in enumerate((published, b"", published)):
            server = SocketConnection(self.daemon, control=True)
            server.receive(handshake("/publish") + following + close_frame(1000))
            self.daemon.settle()
            self.assertFalse(server.connected)
            self.assertEqual(self.broker.published, 1 + number // 2)

    def test_listed(self) -> None:
        """The connection is listed, and its end is logged as that of others."""
        answer = self.daemon.request("GET", "/connections", control=True)
        assert answer is not None
        [listed] = json.loads(answer.body)["connections"]
        self.assertEqual(listed["path"], "/publish")
        self.server.receive(close_frame(1000))
        self.daemon.settle()
        self.assertFalse(self.server.connected)

    def test_many(self) -> None:
        """However much is sent at once, all is answered, in its order and without a rate limit."""
        values = [{"topic": "t", "data": "x"}] * 3000
        self.assertEqual(
            [one["id"].partition(":")[2] for one in self.send(*values)],
            [f"{number}" for number in range(1, 3001)],
        )

    def test_slow_reader(self) -> None:
        """A publisher that does not read its answers is not read from."""
        self.server.fake_socket.room = 0
        data = frame(TEXT, json.dumps({"topic": "t", "data": "x"}).encode()) * 64
        for _ in range(100):
            self.server.receive(data)
            self.daemon.settle()
        published = self.broker.published
        self.assertLess(published, 6400)
        self.server.fake_socket.room = 1 << 30
        self.server.write_out()
        self.daemon.settle()
        self.server.write_out()
        self.assertEqual(self.broker.published, 6400)

    def test_unavailable(self) -> None:
        """If the broker cannot be reached, each publication is answered with an error."""
        self.patch(self.broker, "publish_at_once", lambda draft: None)
        self.patch(self.broker, "publish_all", lambda drafts: fail(Unavailable("no broker")))
        good = {"topic": "t", "data": "x"}
        wheres = [one["where"] for one in self.send(good, {"topic": "t"}, good)]
        self.assertEqual(wheres, ["broker", "message", "broker"])

    def test_unavailable_meanwhile(self) -> None:
        """Those that were published before have their answers, in the order of the messages."""
        at_once, left = self.broker.publish_at_once, [2]

        def publish(draft: Draft) -> Id | None:
            left[0] -= 1
            return at_once(draft) if left[0] >= 0 else None

        self.patch(self.broker, "publish_at_once", publish)
        self.patch(self.broker, "publish_all", lambda drafts: fail(Unavailable("no broker")))
        good = {"topic": "t", "data": "x"}
        wheres = [one.get("where") for one in self.send(good, {"topic": "t"}, good, good, good)]
        self.assertEqual(wheres, [None, "message", None, "broker", "broker"])

    def test_long(self) -> None:
        """Long publications are made over several iterations, in their order."""
        values = [{"topic": "t", "data": "x" * 30_000}] * 9
        ids = [one["id"].partition(":")[2] for one in self.send(*values)]
        self.assertEqual(ids, [f"{number}" for number in range(1, 10)])

    def test_together(self) -> None:
        """What arrives together is published at once, even if a Close comes with it."""
        frames = frame(TEXT, json.dumps({"topic": "t", "data": "x"}).encode()) * 10
        self.server.receive(frames + close_frame(1000))
        self.assertEqual(self.broker.published, 10)

    def test_leaves_at_once(self) -> None:
        """A publisher may leave right behind its handshake."""
        server = SocketConnection(self.daemon, control=True)
        server.receive(handshake("/publish") + close_frame(1000))
        self.daemon.settle()
        head, _, rest = server.sent.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "))
        self.assertEqual([one.code for one in read_frames(rest)], [1000])

    def test_leaves(self) -> None:
        """What a publisher sent before it left is published, even if the broker takes long."""
        done: list[object] = []
        waiting: Deferred[None] = Deferred(done.append)
        self.patch(type(self.hub), "has_room", False)
        self.patch(self.hub, "room", lambda: waiting)
        self.server.receive(frame(TEXT, json.dumps({"topic": "t", "data": "x"}).encode()))
        self.daemon.settle()
        self.server.receive(close_frame(1000))
        self.daemon.advance(100)
        waiting.callback(None)
        self.assertEqual((done, self.broker.published), ([], 1))

    def test_stop(self) -> None:
        """At a shutdown it is closed with 1001."""
        self.daemon.begin_stop()
        self.daemon.settle()
        [close] = read_frames(self.server.sent)
        self.assertEqual(close.code, GOING_AWAY.code)

    def test_refused(self) -> None:
        """The guard of the control port holds for it: no Origin, and no other Host."""
        for data in (
            handshake("/publish", "Origin: http://localhost"),
            handshake("/publish", "Host: example.com", without=["Host"]),
        ):
            server = SocketConnection(self.daemon, control=True)
            server.receive(data)
            self.daemon.settle()
            self.assertTrue(server.sent.startswith(b"HTTP/1.1 403 "))


class LimitTests(StreamTestCase):
    """Limits on what is published."""

    settings = MappingProxyType(
        {
            "max_message": 1000,
            "max_rate": 1,
            "rules": Rules([Rule(match="small", max_message=10)]),
        }
    )

    def test_size(self) -> None:
        """A publication may have --max-message, in base64 too, or what its rule says."""
        answers = self.send(
            {"topic": "t", "data": "x" * 1000},
            {"topic": "t", "data": "x" * 1001},
            json.dumps({"topic": "t", "data": "é" * 501}, ensure_ascii=False).encode(),
            {"topic": "t", "base64": "AAAA" * 333},
            {"topic": "small", "data": "x" * 10},
            {"topic": "small", "data": "x" * 11},
        )
        self.assertEqual(
            [one.get("where") for one in answers],
            [None, "message", "message", None, None, "message"],
        )

    def test_too_long(self) -> None:
        """A message that no publication can need closes the connection with 1009."""
        self.server.receive(frame(TEXT, b"x" * 4000))
        self.daemon.settle()
        self.assertEqual([one.code for one in read_frames(self.server.sent)], [1009])
