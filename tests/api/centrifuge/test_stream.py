"""Streams to clients: fan-out, clients that read slowly, and how streams end."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import capturedLogs

from pushd.access.closing import Closing
from pushd.access.limits import Limits
from pushd.api.centrifuge.stream import (
    delimited,
    delimited_chunk,
    event,
    event_chunk,
    line,
    line_chunk,
)
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.twisted_internals import DONE
from pushd.topics.history import Retention
from pushd.topics.rules import Rule, Rules
from pushd.topics.subscription import LAG_TIMEOUT
from tests.support.centrifuge_streams import LineStreamClient, StreamTestCase
from tests.support.recording_socket import SocketConnection
from tests.support.topic_clients import MIB


class FrameTests(StreamTestCase):
    """How payloads are framed."""

    def test_frames(self) -> None:
        """Events have their data in one line; lines end; messages say their length themselves."""
        self.assertEqual(event(b"{}", 0), b"data: {}\n\n")
        self.assertEqual(line(b"{}", 0), b"{}\n")
        self.assertEqual(delimited(b"\0", 0), b"\0")

    def test_chunks(self) -> None:
        """With HTTP/1.1, each is a chunk."""
        self.assertEqual(event_chunk(b"{}", 0), b"a\r\ndata: {}\n\n\r\n")
        self.assertEqual(line_chunk(b"{}", 0), b"3\r\n{}\n\r\n")
        self.assertEqual(delimited_chunk(b"\0", 0), b"1\r\n\0\r\n")


class DeliveryTests(StreamTestCase):
    """What is published to channels of streams."""

    def test_data(self) -> None:
        """Line ends within data do not end a line or an event."""
        for client in (self.sse(), self.lines()):
            client.ask("subscribe", channel="a")
            self.publish("a", "one\r\ntwo\n\n")
            self.publish("a", '{"x":\r\n[1,\n\n2]}', is_json=True)
            got = [push["pub"]["data"] for push in client.pushes]
            self.assertEqual(got, ["one\r\ntwo\n\n", {"x": [1, 2]}])
            client.leave()

    def test_recovery(self) -> None:
        """A client that comes back gets what it has missed, in order."""
        for kind in (self.sse, self.lines, self.protobuf):
            client = kind()
            result = client.ask("subscribe", channel="a")
            client.leave()
            for number in range(50):
                self.publish("a", f"{number}")
            client = kind()
            result = client.ask(
                "subscribe",
                channel="a",
                recover=True,
                epoch=result["epoch"],
                offset=result.get("offset", 0),
            )
            self.assertTrue(result["recovered"])
            got = [push["pub"]["data"] for push in client.pushes]
            self.assertEqual([int(data) for data in got], list(range(50)))
            client.leave()

    def test_presence(self) -> None:
        """Streams take part in presence, and are told who joins."""
        self.start(rules=Rules([Rule(match="**", presence=True)]))
        one, two = self.sse(), self.protobuf()
        one.ask("subscribe", channel="room")
        two.ask("subscribe", channel="room")
        self.daemon.advance(1)
        joined = {push["join"]["info"]["client"] for push in one.pushes if "join" in push}
        names = {one.connected["client"], two.connected["client"]}
        self.assertEqual(joined, names)
        self.assertEqual(set(two.ask("presence", channel="room")["presence"]), names)
        two.leave()
        self.daemon.advance(1)
        left = [push["leave"]["info"]["client"] for push in one.pushes if "leave" in push]
        self.assertEqual(left, [two.connected["client"]])

    def test_unsubscribe(self) -> None:
        """Subscriptions end by command, by an operator, and with the stream."""
        client = self.lines()
        for channel in "abc":
            client.ask("subscribe", channel=channel)
        client.ask("unsubscribe", channel="a")
        self.control("DELETE", "/subscriptions?topic=b")
        self.assertEqual([push["channel"] for push in client.pushes], ["b"])
        self.assertEqual(self.describe("c")["subscribers"], {"http_stream": 1})
        client.leave()
        self.assertEqual(self.describe("c")["subscribers"], {})


class SlowTests(StreamTestCase):
    """Clients that read slowly or not at all."""

    def setUp(self) -> None:
        """Start a daemon that buffers little."""
        self.start(limits=Limits(max_buffered=MIB), retention=Retention(bytes=64 * MIB))

    def test_catches_up(self) -> None:
        """A client that stalls for a while gets everything from the history."""
        for kind in (self.sse, self.lines, self.protobuf):
            client = kind()
            client.ask("subscribe", channel="a")
            client.stall()
            for number in range(10):
                self.publish("a", f"{number}" * 400_000)
            self.daemon.advance(1)
            client.resume()
            self.daemon.advance(1)
            got = [push["pub"]["data"] for push in client.pushes]
            self.assertEqual([int(data[:1]) for data in got], list(range(10)))
            self.assertFalse(client.gone)
            client.leave()

    def test_cut_off(self) -> None:
        """A client that reads nothing is cut off, and the log says why."""
        for kind in (self.sse, self.lines, self.protobuf):
            client = kind()
            client.ask("subscribe", channel="a")
            client.stall()
            with capturedLogs() as logs:
                for number in range(10):
                    self.publish("a", f"{number}" * 400_000)
                self.daemon.advance(LAG_TIMEOUT + 1)
            self.assertTrue(client.stream.connection.closed)
            [closed] = [log for log in logs if log.get("event") == "closed"]
            self.assertEqual((closed["code"], closed["by"]), (3008, "us"))

    def test_stalled(self) -> None:
        """A client that stops reading with less than the limit before it is cut off after 60 s."""
        for kind in (self.sse, self.lines, self.protobuf):
            client = kind()
            client.ask("subscribe", channel="a")
            client.stall()
            with capturedLogs() as logs:
                self.publish("a", "x" * 100_000)
                self.daemon.advance(60.1)
            self.assertTrue(client.stream.connection.closed)
            [closed] = [log for log in logs if log.get("event") == "closed"]
            facts = (closed["code"], closed["by"], closed["reason"])
            self.assertEqual(facts, (3008, "us", "client reads too slowly"))
            self.assertGreater(closed["bytes_untaken"], 100_000)

    def test_too_many_replies(self) -> None:
        """A client that asks for much, and does not read the replies, is cut off."""
        client = self.lines()
        for _ in range(3):
            self.publish("a", "x" * 900_000)
        client.stall()
        for number in range(2, 12):
            body = client.encode({"id": number, "history": {"channel": "a", "limit": -1}})
            if client.post(body).status == 404:
                break
        else:
            raise AssertionError("not cut off")
        self.assertTrue(client.stream.connection.closed)

    def test_full(self) -> None:
        """One that has much to read when the daemon stops, or as it connects, is cut off."""
        self.start(limits=Limits(max_buffered=100_000))
        client = self.lines()
        client.ask("subscribe", channel="a")
        client.stall()
        self.publish("a", "x" * 900_000)
        before = self.daemon.open_connection()
        before.stall()
        before.send(
            b"GET /topics/a?wait=0&after=%b HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
            % self.start_of("a")
        )
        late = LineStreamClient(self.daemon, "/connection/http_stream", {}, connection=before)
        self.assertTrue(before.closed)
        self.assertEqual(late.connected, {})
        self.daemon.begin_stop()
        self.daemon.advance(5)
        self.assertTrue(client.stream.connection.closed)

    def start_of(self, topic: str) -> bytes:
        """Return the id before the first publication of a topic."""
        epoch: str = self.describe(topic)["id"].partition(":")[0]
        return f"{epoch}:0".encode()

    def test_no_ping(self) -> None:
        """While data waits for a client there is no ping, and no answer is expected."""
        client = self.lines()
        client.ask("subscribe", channel="a")
        client.stall()
        self.publish("a", "x" * 500_000)
        self.daemon.advance(24, 2)
        client.resume()
        self.daemon.advance(0)
        self.assertEqual(len([one for one in client.heard() if "push" in one]), 1)

    def test_joins(self) -> None:
        """Who joins meanwhile is not told."""
        self.start(rules=Rules([Rule(match="**", presence=True)]))
        client = self.lines()
        client.ask("subscribe", channel="a")
        self.daemon.advance(1)
        self.assertEqual(len(client.pushes), 1)
        client.stall()
        self.publish("a", "x" * 500_000)
        self.daemon.advance(1)
        self.sse().ask("subscribe", channel="a")
        self.daemon.advance(1)
        client.resume()
        self.daemon.advance(0)
        self.assertEqual([list(push)[1] for push in client.pushes], ["pub"])

    def test_memory(self) -> None:
        """If all buffers are full, the client that holds most is cut off."""
        self.start(limits=Limits(max_memory=4 * MIB, max_buffered=8 * MIB))
        client = self.lines()
        client.ask("subscribe", channel="a")
        client.stall()
        with capturedLogs() as logs:
            for number in range(8):
                self.publish("a", f"{number}" * 900_000)
            self.daemon.advance(1)
        self.assertTrue(client.stream.connection.closed)
        [closed] = [log for log in logs if log.get("event") == "closed"]
        self.assertEqual(closed["reason"], "the server's buffers are full")


class EndTests(StreamTestCase):
    """How streams end."""

    def test_shutdown(self) -> None:
        """A daemon that stops tells its clients to come back; what was published comes before."""
        clients = self.all()
        for client in clients:
            client.ask("subscribe", channel="a")
        with capturedLogs() as logs:
            self.daemon.begin_stop()
            self.daemon.advance(5)
        for client in clients:
            self.assertEqual(client.disconnected, (3001, "shutdown"))
            self.assertTrue(client.gone)
        closed = [log["code"] for log in logs if log.get("event") == "closed"]
        self.assertEqual(closed, [3001] * 3)

    def test_operator(self) -> None:
        """A code that is not one of the protocol ends the stream without a word."""
        client = self.lines()
        [one] = json.loads(self.control("GET", "/connections").body)["connections"]
        self.control("DELETE", f"/connections/{one['id']}")
        self.assertIsNone(client.disconnected)
        self.assertTrue(client.gone)

    def test_published_before(self) -> None:
        """What was published before the end comes before it."""
        client = self.lines()
        client.ask("subscribe", channel="a")
        body = b"x" * 10
        head = "Host: localhost:8081\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n"
        control = self.daemon.open_connection(control=True)
        publish = f"POST /topics/a HTTP/1.1\r\n{head}".encode() + body
        control.send(publish + b"DELETE /connections/1 HTTP/1.1\r\nHost: localhost:8081\r\n\r\n")
        self.assertIn(b"200 OK", control.received)
        self.assertEqual([push["pub"]["data"] for push in client.pushes], ["x" * 10])
        self.assertTrue(client.gone)

    def stream(self) -> Any:
        """Return the daemon's end of the only stream."""
        [connection] = self.daemon._service.connections
        return connection.closable

    def test_twice(self) -> None:
        """A stream that has ended is not closed again."""
        client = self.lines()
        stream = self.stream()
        stream.close_with(Closing(3500, "one"))
        stream.close_with(Closing(3501, "two"))
        self.daemon.settle()
        self.assertEqual(client.disconnected, (3500, "one"))
        self.assertEqual(stream.end_subscriptions(lambda topic: True, Closing(3500)), 0)
        stream.writing_deferred()

    def test_client_closes(self) -> None:
        """A client that closes its side gets the end of the response."""
        client = self.lines()
        client.leave()
        self.assertEqual(self.control("GET", "/connections").text.count('"id"'), 0)


class SocketTests(StreamTestCase):
    """Streams on Twisted's own transports, with sockets that record what is sent."""

    fast_paths = True

    def setUp(self) -> None:
        """Open two streams that subscribe to a topic."""
        super().setUp()
        self.patch(FAST_PATHS, "enabled", self.fast_paths)
        self.first, self.second = self.subscribe(), self.subscribe()

    def subscribe(self) -> SocketConnection:
        """Open a stream, and subscribe."""
        server = SocketConnection(self.daemon)
        self.addCleanup(server.connectionLost, DONE)
        body = b'{"id":1,"connect":{}}'
        head = f"POST /connection/http_stream HTTP/1.1\r\nHost: localhost\r\n{_length(body)}\r\n"
        server.receive(head.encode() + body)
        self.daemon.settle()
        connected = json.loads(server.sent.split(b"\r\n")[-2])["connect"]
        session = {name: connected[name] for name in ("session", "node")}
        commands = '{"id":2,"subscribe":{"channel":"a"}}'
        answer = self.daemon.request(
            "POST", "/emulation", {}, json.dumps({**session, "data": commands}).encode()
        )
        assert answer is not None
        self.assertEqual(answer.status, 204)
        self.daemon.settle()
        self.assertIn(b'"subscribe"', server.sent)
        server.forget()
        return server

    def groups(self) -> list[int | None]:
        """Return the size of the fan-out group of each stream."""
        links = [one.closable for one in self.daemon._service.connections]
        senders: list[Any] = [getattr(link, "_sender", None) for link in links]
        groups = [sender._topics["a"].subscription._group for sender in senders if sender]
        return [None if group is None else len(group) for group in groups]

    def pub(self, data: str, offset: int) -> bytes:
        """Return the chunk of a publication."""
        text = f'{{"push":{{"channel":"a","pub":{{"data":"{data}","offset":{offset}}}}}}}\n'
        return line_chunk(text[:-1].encode(), 0)

    def test_delivery(self) -> None:
        """Each publication is one chunk."""
        for number in (1, 2, 3):
            self.publish("a", "x" * number)
        expected = b"".join(self.pub("x" * number, number) for number in (1, 2, 3))
        self.assertEqual((self.first.sent, self.second.sent), (expected, expected))

    def test_not_taken(self) -> None:
        """What the kernel does not take of a publication is sent later, ahead of the next."""
        self.publish("a", "begin")
        self.first.forget()
        self.second.forget()
        self.first.fake_socket.room = 10
        self.publish("a", "one")
        self.publish("a", "two")
        self.first.fake_socket.room = 1000
        expected = self.pub("one", 2) + self.pub("two", 3)
        self.assertEqual(self.first.sent, expected)
        self.assertEqual(self.second.sent, expected)

    def test_end(self) -> None:
        """A stream that ends gets nothing more; the others get everything."""
        self.publish("a", "begin")
        self.first.forget()
        self.second.forget()
        self.control("DELETE", "/connections/1")
        self.publish("a", "one")
        self.assertEqual(self.first.sent, b"0\r\n\r\n")
        self.assertEqual(self.second.sent, self.pub("one", 2))

    def test_group(self) -> None:
        """Streams that keep up are in one group; one whose ping is not taken leaves it."""
        self.publish("a", "begin")
        self.assertEqual(self.groups(), [2, 2])
        self.first.fake_socket.room = 2
        self.daemon.advance(25)
        self.assertEqual(self.groups(), [None, 1])


class SlowPathTests(SocketTests):
    """Without fast paths the same is sent."""

    fast_paths = False

    def test_group(self) -> None:
        """There are no groups."""
        self.publish("a", "begin")
        self.assertEqual(self.groups(), [None, None])


def _length(body: bytes) -> str:
    return f"Content-Length: {len(body)}\r\n"
