"""Server-Sent Events: the bytes of the stream, and how it ends."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.task import Clock

from pushd.access.closing import Closing
from pushd.access.limits import Limits
from pushd.api.keep_alives import KEEP_ALIVE_INTERVAL, KeptAlive
from pushd.api.subscribe.sse import EventStream
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.twisted_internals import DONE
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.subscription import LAG_TIMEOUT
from tests.support.recording_socket import SocketConnection, open_stream
from tests.support.topic_clients import MIB, SseClient, TopicTestCase


class Returning(SseClient):
    """A browser that reconnects by itself: same URL, last id in a header."""


class Formatted(SseClient):
    """A client that asks for JSON."""

    path = "/topics/t?format=json"


class Enveloped(SseClient):
    """A client that asks for publications without event names."""

    path = "/topics/t?envelope=1"


class EnvelopedJson(SseClient):
    """A client that asks for both."""

    path = "/topics/t?envelope=1&format=json"


class EventStreamTests(TopicTestCase):
    """One client's stream."""

    def body(self, client: SseClient) -> bytes:
        """Return the body of a response as it came."""
        client._take()
        return bytes(client._body)

    def test_head(self) -> None:
        """The headers forbid caching, buffering and guessing the type."""
        head = SseClient(self.daemon, "t").head.lower()
        self.assertTrue(head.startswith("http/1.1 200"))
        for line in (
            "content-type: text/event-stream; charset=utf-8",
            "cache-control: no-cache, no-transform",
            "x-accel-buffering: no",
        ):
            self.assertIn(line, head)

    def test_events(self) -> None:
        """The first event says where the stream begins; each publication has its id."""
        id = self.publish("t", "old")
        epoch = id.partition(":")[0]
        client = SseClient(self.daemon, "t")
        for data in ("a", "b\nc", "", b"\xff", "d\r\n"):
            self.publish("t", data)
        self.assertEqual(
            self.body(client).decode(),
            f'event: subscribed\nid: {id}\ndata: {{"subscribed":"t","id":"{id}",'
            f'"recovered":false}}\n\n'
            f"id: {epoch}:2\ndata: a\n\n"
            f"id: {epoch}:3\ndata: b\ndata: c\n\n"
            f"id: {epoch}:4\ndata: \n\n"
            f"event: base64\nid: {epoch}:5\ndata: /w==\n\n"
            f'event: json\nid: {epoch}:6\ndata: "d\\r\\n"\n\n',
        )

    def test_named_events(self) -> None:
        """An event has the name that was published; what it cannot carry is in a json event."""
        client = SseClient(self.daemon, "t")
        id = self.publish("t", "a\nb", event="paid")
        epoch = id.partition(":")[0]
        self.publish("t", '{"a": 1}', event="paid", is_json=True)
        self.publish("t", b"\xff", event="paid")
        self.publish("t", "c\r", event="paid")
        self.assertTrue(
            self.body(client).endswith(
                (
                    f"event: paid\nid: {epoch}:1\ndata: a\ndata: b\n\n"
                    f'event: paid\nid: {epoch}:2\ndata: {{"a": 1}}\n\n'
                    f"event: json\nid: {epoch}:3\n"
                    f'data: {{"id":"{epoch}:3","event":"paid","base64":"/w=="}}\n\n'
                    f"event: json\nid: {epoch}:4\n"
                    f'data: {{"id":"{epoch}:4","event":"paid","data":"c\\r"}}\n\n'
                ).encode()
            )
        )

    def test_format_json(self) -> None:
        """With format=json, the data of each event is the object of pushd.v1."""
        client = Formatted(self.daemon, "t")
        browser = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        self.publish("t", "a\r\nb")
        self.publish("t", b"\xff", event="paid")
        self.publish("t", '{"a":\r\n[1.50]}', event="paid", is_json=True)
        events = self.body(client).decode().split("\n\n")
        got = [dict(line.split(": ", 1) for line in one.split("\n")) for one in events[1:-1]]
        self.assertEqual([one["data"] for one in got], browser.messages[1:])
        self.assertEqual([one.get("event") for one in got], [None, "paid", "paid"])
        self.assertEqual(json.loads(got[2]["data"])["data"], {"a": [1.5]})
        for one in got:
            self.assertEqual(json.loads(one["data"])["id"], one["id"])

    def test_envelope(self) -> None:
        """With envelope=1, all publications are events without a name, whose data says all."""
        for kind in (Enveloped, EnvelopedJson):
            client = kind(self.daemon, "t")
            browser = self.daemon.connect(kind.path, subprotocols=("pushd.v1",))
            self.publish("t", "a\r\nb")
            self.publish("t", b"\xff", event="paid")
            self.publish("t", "[1]", event="paid", is_json=True)
            events = self.body(client).decode().split("\n\n")
            got = [dict(line.split(": ", 1) for line in one.split("\n")) for one in events[1:-1]]
            self.assertEqual([one["data"] for one in got], browser.messages[1:])
            self.assertEqual([set(one) for one in got], [{"id", "data"}] * 3)
            self.assertEqual(json.loads(got[2]["data"])["event"], "paid")
        answer = self.daemon.get("/topics/t?envelope=yes")
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, "envelope"))

    def test_keep_alive(self) -> None:
        """A comment is sent every 25 seconds."""
        client = SseClient(self.daemon, "t")
        begun = len(self.body(client))
        self.daemon.advance(KEEP_ALIVE_INTERVAL - 1)
        self.assertEqual(len(self.body(client)), begun)
        self.daemon.advance(1)
        self.assertEqual(self.body(client)[begun:], b":\n\n")
        self.daemon.advance(KEEP_ALIVE_INTERVAL - 1)
        self.publish("t", "x")
        said = len(self.body(client))
        self.daemon.advance(1)
        self.assertEqual(self.body(client)[said:], b":\n\n")
        client.leave()

    def test_one_timer(self) -> None:
        """A hundred silent streams share one timer."""
        before = len(self.daemon.pending_calls)
        clients = [SseClient(self.daemon, f"t{number}") for number in range(100)]
        self.assertEqual(len(self.daemon.pending_calls), before + 1)
        for client in clients:
            client.leave()
        self.daemon.advance(301)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_last_event_id(self) -> None:
        """Last-Event-ID takes precedence over ``?after=``."""
        ids = self.publish_many("t", ["1", "2", "3"])
        self.patch(Returning, "headers", {"Last-Event-ID": ids[1]})
        for after in (None, ids[0]):
            client = Returning(self.daemon, "t", after)
            self.assertEqual(client.data, ["3"])
            self.assertEqual((client.begun, client.recovered), (ids[1], True))

    def test_empty_last_event_id(self) -> None:
        """An empty Last-Event-ID is ignored."""
        ids = self.publish_many("t", ["1", "2"])
        self.patch(Returning, "headers", {"Last-Event-ID": ""})
        self.assertEqual(Returning(self.daemon, "t", ids[0]).data, ["2"])

    def test_stop(self) -> None:
        """When the daemon stops, the response ends in order, so that the browser reconnects."""
        client = SseClient(self.daemon, "t")
        self.daemon.begin_stop()
        self.assertTrue(client.ended)

    def test_no_comment_behind_data(self) -> None:
        """No comment is written while an event waits for a slow client."""
        client = SseClient(self.daemon, "t")
        client.stall()
        self.publish("t", "x" * 100_000)
        for _ in range(2):
            self.daemon.advance(KEEP_ALIVE_INTERVAL)
            client.server_side.take(40_000)
        client.resume()
        self.assertNotIn(b"\n:\n\n", self.body(client))
        self.daemon.advance(KEEP_ALIVE_INTERVAL)
        self.assertTrue(self.body(client).endswith(b":\n\n"))

    def test_too_slow(self) -> None:
        """The connection of a client that is too slow is aborted; what it has not read is lost."""
        self.start(limits=Limits(max_buffered=100_000))
        client = SseClient(self.daemon, "t")
        client.stall()
        for number in range(5):
            self.publish("t", f"{number}{'x' * 60_000}")
        self.daemon.advance(LAG_TIMEOUT)
        self.assertEqual(self.describe("t")["subscribers"], {})
        self.assertEqual(client.server_side.unsent, 0)
        client.resume()
        self.assertEqual(client.data, [])
        self.assertTrue(client.connection.closed)
        self.assertFalse(client.ended)

    def test_too_slow_from_the_start(self) -> None:
        """A stream that breaks off while it starts leaves no subscription."""
        self.start(limits=Limits(max_buffered=1))
        ids = self.publish_many("t", ["1", "2", "3"])
        epoch = ids[0].partition(":")[0]
        client = SseClient(self.daemon, "t", f"{epoch}:0")
        self.assertTrue(client.gone)
        self.assertEqual(self.describe("t")["subscribers"], {})
        self.publish("t", "4")

    def test_pauses(self) -> None:
        """Publications are written while the connection's buffer is full, up to --max-buffered."""
        client = SseClient(self.daemon, "t")
        client.stall()
        for _ in range(3):
            self.publish("t", "x" * 100_000)
        self.assertLess(client.server_side.unsent, MIB)
        client.resume()
        self.publish("t", "last")
        self.assertEqual(len(client.data), 4)

    def test_counted_as_written(self) -> None:
        """Line feeds, each of which becomes a line, count before they are written."""
        listener = SseClient(self.daemon, "t")
        listener.stall()
        self.publish("t", "x" * 900_000)
        self.publish("t", "\n" * 100_000)
        self.publish("t", "after")
        self.assertLess(listener.server_side.unsent, MIB)
        listener.resume()
        self.assertEqual([len(data) for data in listener.data], [900_000, 100_000, 5])

    def test_large_event(self) -> None:
        """A large event is given to the connection in pieces, and what follows comes behind it."""
        listener = SseClient(self.daemon, "t")
        listener.stall()
        self.publish("t", "\n" * 900_000)
        self.assertLess(listener.server_side.unsent, 500_000)
        for data in ("a", "b" * 300_000):
            self.publish("t", data)
        self.daemon.advance(LAG_TIMEOUT - 1)
        listener.resume()
        self.assertEqual([len(data) for data in listener.data], [900_000, 1, 300_000])

    def test_end_behind_a_large_event(self) -> None:
        """A stream that is closed ends behind all of a large event, or when its client leaves."""
        for leaves in (False, True):
            listener = SseClient(self.daemon, "t")
            listener.stall()
            self.publish("t", "\n" * 300_000)
            self.control("DELETE", f"/connections/{2 if leaves else 1}")
            self.assertFalse(listener.ended)
            if leaves:
                listener.leave()
            else:
                listener.resume()
                self.assertEqual([len(data) for data in listener.data], [300_000])
                self.assertTrue(listener.ended)
            self.assertEqual(self.describe("t")["subscribers"], {})

    def test_early_resume(self) -> None:
        """Resuming a stream that has not started does nothing."""
        request: Any = SimpleNamespace(channel=Mock(), clientproto=b"HTTP/1.1")
        keep_alives: TimeoutQueue[KeptAlive] = TimeoutQueue(Clock(), timeout=1, expired=str)
        stream = EventStream(request, keep_alives, Cork(), 1)
        stream.pauseProducing()
        stream.resumeProducing()
        self.assertTrue(stream.has_room())

    def test_http_1_0(self) -> None:
        """For HTTP/1.0 the stream is not chunked, and ends with the connection."""
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics/t HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
        self.publish("t", "x")
        self.assertIn(b"data: x\n\n", connection.received)
        self.assertNotIn(b"chunked", connection.received)
        connection.leave()

    def test_next_request(self) -> None:
        """A pipelined request waits until the stream has ended."""
        connection = self.daemon.open_connection()
        head = b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n"
        connection.send(head + b"Accept: text/event-stream\r\n\r\n")
        connection.send(head.replace(b"/t", b"/u", 1) + b"\r\n")
        self.assertEqual(connection.received.count(b"HTTP/1.1 200"), 1)
        connection.leave()
        self.assertEqual(self.describe("t")["subscribers"], {})

    def test_two_closings(self) -> None:
        """Closing a closed stream does nothing, nor does delivering to it."""
        client = SseClient(self.daemon, "t")
        (connection,) = self.daemon._service.connections
        stream = connection.closable
        assert isinstance(stream, EventStream)
        stream.close_with(Closing(1001))
        stream.close_with(Closing(1001))
        self.daemon.settle()
        self.assertTrue(client.ended)
        self.assertFalse(stream.has_room())
        self.publish("t", "x")
        self.assertEqual(client.data, [])


class DirectStreamTests(TopicTestCase):
    """Streams over Twisted's own transports: written to directly, and in a fan-out group."""

    def setUp(self) -> None:
        """Open two streams, and let them join a group."""
        super().setUp()
        self.patch(FAST_PATHS, "enabled", True)
        self.first, self.second = self.open(), self.open()
        self.begin()

    def open(self, version: str = "1.1") -> SocketConnection:
        """Open a stream, whose client leaves at the end of the test."""
        server = open_stream(self.daemon, "/topics/t", version)
        self.addCleanup(server.connectionLost, DONE)
        return server

    def begin(self) -> None:
        """Publish something, so that the streams join their group, and forget it."""
        self.last = self.publish("t", "begin")
        for server in (self.first, self.second):
            self.assertIn(b"begin", server.sent)
            server.forget()

    def chunks(self, *data: str) -> bytes:
        """Return the events of what was published next, as they are written."""
        epoch, _, offset = self.last.partition(":")
        events = [
            f"id: {epoch}:{number}\ndata: {one}\n\n".encode()
            for number, one in enumerate(data, int(offset) + 1)
        ]
        return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)

    def written(self, server: SocketConnection) -> bytes:
        """Return what was written directly."""
        return b"".join(server.fake_socket.given)

    def test_before_the_start(self) -> None:
        """A stream whose head waits, and which has no subscription yet, has no group to leave."""
        stream: Any = SimpleNamespace(_subscription=None)
        EventStream.writing_deferred(stream)

    def test_order(self) -> None:
        """What the kernel does not take is sent before everything that comes later."""
        self.first.fake_socket.room = 10
        self.publish("t", "one")
        # There is room again, but the transport has not been notified yet.
        self.first.fake_socket.room = 1000
        self.publish("t", "two")
        self.daemon.advance(KEEP_ALIVE_INTERVAL)
        self.assertEqual(self.written(self.first), self.chunks("one")[:10])
        self.assertEqual(self.written(self.second), self.chunks("one", "two") + b"3\r\n:\n\n\r\n")
        self.assertEqual(self.first.sent, self.written(self.second))
        for data in ("three", "four"):
            self.publish("t", data)
        self.assertEqual(self.first.sent, self.second.sent)
        self.assertEqual(len(self.second.fake_socket.given), 5)

    def test_comment_in_the_group(self) -> None:
        """A comment is written in between, and the stream stays in its group."""
        self.daemon.advance(KEEP_ALIVE_INTERVAL)
        self.publish("t", "one")
        self.assertEqual([len(group) for group in self.groups()], [2, 2])
        for server in (self.first, self.second):
            self.assertEqual(self.written(server), b"3\r\n:\n\n\r\n" + self.chunks("one"))

    def groups(self) -> list[Any]:
        """Return the fan-out group of each stream."""
        return [stream._subscription._group for stream in self.streams()]

    def streams(self) -> list[Any]:
        """Return the daemon's ends of the streams."""
        return [connection.closable for connection in self.daemon._service.connections]

    def test_comment_not_taken(self) -> None:
        """A stream whose comment the kernel does not take leaves its group."""
        self.first.fake_socket.room = 2
        self.daemon.advance(KEEP_ALIVE_INTERVAL)
        group, another = self.groups()
        self.assertEqual((group, len(another)), (None, 1))
        self.first.fake_socket.room = 1000
        self.publish("t", "one")
        self.assertEqual(self.first.sent, b"3\r\n:\n\n\r\n" + self.chunks("one"))
        self.assertEqual(self.second.sent, self.first.sent)

    def test_traffic(self) -> None:
        """What is written directly is counted for each connection and in the metrics."""
        before = self.traffic()
        self.publish("t", "one")
        after = self.traffic()
        size = len(self.chunks("one"))
        for (messages, written), now in zip(before, after, strict=True):
            self.assertEqual(now, (messages + 1, written + size))
        said = sum(messages for messages, _ in after)
        metrics = self.control("GET", "/metrics").text
        self.assertIn(f'pushd_sent_messages_total{{transport="sse"}} {said}.0', metrics)

    def traffic(self) -> list[tuple[int, int]]:
        """Return the messages and bytes sent to each connection, as the control port lists them."""
        listed = json.loads(self.control("GET", "/connections").body)["connections"]
        return [(one["messages_out"], one["bytes_out"]) for one in listed]

    def test_large_rest(self) -> None:
        """What many slow clients did not take of a large event is kept only once."""
        for server in (self.first, self.second):
            server.fake_socket.room = 100_000
        self.publish("t", "\n" * 300_000)
        self.publish("t", "behind it")
        first, second = (stream._held[0] for stream in self.streams())
        self.assertIs(first.obj, second.obj)
        for server in (self.first, self.second):
            server.fake_socket.room = 9_000_000
            self.assertEqual(server.sent, self.chunks("\ndata: " * 300_000, "behind it"))

    def test_end(self) -> None:
        """A stream that ends in a group is written to no more; the others get everything."""
        self.control("DELETE", "/connections/1")
        self.publish("t", "one")
        self.assertEqual(self.first.sent, b"0\r\n\r\n")
        self.assertEqual(self.second.sent, self.chunks("one"))

    def test_http_1_0(self) -> None:
        """A client of HTTP/1.0 has a group of its own, without chunks."""
        old = self.open("1.0")
        self.begin()
        old.forget()
        self.publish("t", "one")
        self.assertEqual([len(group) for group in self.groups()], [2, 2, 1])
        self.assertEqual(self.written(old), self.chunks("one")[4:-2])

    def test_public_way(self) -> None:
        """Without fast paths, all is written by the transports, in the same order."""
        self.patch(FAST_PATHS, "enabled", False)
        third = self.open()
        for data in ("one", "two"):
            self.publish("t", data)
        self.assertEqual(self.written(third), b"")
        self.assertEqual(third.sent, self.chunks("one", "two"))
