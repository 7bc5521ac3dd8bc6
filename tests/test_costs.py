"""What a message, a delivery, a push and a connection cost: system calls, copies, log events.

A stop-watch would only measure the machine, so these are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

import pushd
from pushd.access import connections
from pushd.api import response_stream
from pushd.api.subscribe import sse
from pushd.gateways.asgi.scope import Receive, Scope, Send
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.http import access_log
from pushd.protocols.websocket import frames, protocol, subscriber
from pushd.testing import Daemon
from pushd.topics.fanout import Batch
from pushd.topics.subscribers import SubscriberList
from pushd.views.decorators import accept_websocket
from pushd.views.demo import ticker
from pushd.views.request import Request
from tests.support.call_counts import calls_of
from tests.support.peer import TEXT, close_frame, frame, handshake, request
from tests.support.recording_socket import (
    RecordingSocket,
    SocketConnection,
    open_stream,
    open_websocket,
)

# The folder of pushd's own modules.
PACKAGE = str(Path(pushd.__file__).parent)

SUBSCRIBERS = 50
BURST = 8

# The lines of a handshake behind its host.
UPGRADE = handshake(without=["Host"]).decode().split("\r\n")[1:-2]

# The most function calls that some work may take, those of the test included: an eighth more than
# it takes now. They catch a careless loop, and leave the code free to be rearranged.
MOST_CALLS = {
    # A connection, from its handshake to its end.
    "connection": 500,
    # A message that is sent back.
    "echo": 55,
    # A push of the demo, from its timer to the kernel and the next wait.
    "push": 50,
    # An answer to one more long poll, and the next poll, which waits again.
    "poll": 136,
    # A POST to a topic at the control port.
    "post": 155,
    # A publication of a batch; one that is not kept, as many follow for its topic; and one of a
    # publisher's WebSocket.
    "batch": 35,
    "batch that is not kept": 14,
    "stream": 72,
    # A page of an ASGI application that need not wait.
    "page": 235,
    # A publication to one more subscriber. The sockets of these tests make four of them.
    "delivery": 5,
    # The same, to one more connection with many topics, each of which is published to in turn.
    "delivery of another topic": 47,
}


@accept_websocket
async def echo(request: Request) -> None:
    """Send each message back."""
    async for message in request.websocket:
        request.websocket.send(message)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request alike: an ASGI application."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})


class CostTestCase(SynchronousTestCase):
    """A daemon whose connections record their system calls."""

    def setUp(self) -> None:
        """Start it, with fast paths."""
        self.patch(FAST_PATHS, "enabled", True)
        self.start()

    def start(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/echo/": echo, "/test/": ticker}, max_per_address=1000)
        self.addCleanup(self.daemon.stop)

    def connect(self, count: int, path: str, extra: str = "") -> list[SocketConnection]:
        """Open WebSockets, and forget the system calls of their handshakes."""
        lines = [extra] if extra else []
        servers = [open_websocket(self.daemon, path, *lines) for _ in range(count)]
        for server in servers:
            self.assertIn(b" 101 ", server.fake_socket.given[0])
            server.fake_socket.given.clear()
        return servers

    def listen(self, count: int, query: str = "") -> list[SocketConnection]:
        """Open event streams."""
        return [open_stream(self.daemon, f"/topics/t{query}") for _ in range(count)]

    def start_pushes(self, count: int) -> list[SocketConnection]:
        """Open WebSockets to the demo, and let it begin to push."""
        servers = self.connect(count, "/test/")
        for server in servers:
            server.receive(frame(TEXT, b"go"))
        return servers

    def publish(self, count: int) -> None:
        """Publish some publications at once."""
        publications = [{"topic": "t", "data": f"number {one}"} for one in range(count)]
        body = json.dumps({"publications": publications}).encode()
        answer = self.daemon.request("POST", "/publish", body=body, control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def visit(self) -> None:
        """Open a WebSocket, and close it: two system calls that write."""
        server = SocketConnection(self.daemon)
        server.receive(handshake("/echo/"))
        server.receive(close_frame(1000))
        self.assertFalse(server.connected)
        self.assertEqual([data[:12] for data in server.fake_socket.given[:1]], [b"HTTP/1.1 101"])
        self.assertEqual(len(server.fake_socket.given), 2)

    def events_of(self, work: Callable[[], object]) -> int:
        """Return the number of log events, on any level, that some work makes."""
        events: list[object] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        try:
            work()
        finally:
            globalLogPublisher.removeObserver(observer)
        return len(events)

    def assert_no_writers(self) -> None:
        """Check that no transport waits until the reactor finds its socket writable."""
        self.assertEqual(self.daemon.clock.getWriters(), [])


class CallTests(CostTestCase):
    """Function calls stay within an eighth of what they are."""

    def test_connection(self) -> None:
        """A connection, from its handshake to its end."""
        # Each test runner has observers of its own for the log.
        self.patch(connections._log, "observer", lambda event: None)
        self.visit()
        self.assertLess(calls_of(self.visit), MOST_CALLS["connection"])

    def test_echo(self) -> None:
        """A message that is sent back."""
        [server] = self.connect(1, "/echo/")
        data = frame(TEXT, b"x" * 128)
        server.receive(data)
        self.assertLess(calls_of(lambda: server.receive(data)), MOST_CALLS["echo"])

    def test_push(self) -> None:
        """A push of the demo to one more browser."""
        few, many = self.calls_of_a_push(10), self.calls_of_a_push(10 + SUBSCRIBERS)
        self.assertLess((many - few) / SUBSCRIBERS, MOST_CALLS["push"])

    def calls_of_a_push(self, browsers: int) -> int:
        """Return the number of calls that one push to each of some browsers takes."""
        servers = self.start_pushes(browsers)
        self.daemon.advance(0.5)
        counted = calls_of(lambda: self.daemon.advance(0.5))
        for server in servers:
            self.assertEqual(len(server.fake_socket.given), 3)
        self.daemon.advance(10)
        return counted

    def test_delivery(self) -> None:
        """A publication to one more subscriber, from the second publication on."""
        self.check_delivery(lambda: self.connect(SUBSCRIBERS, "/topics/t"))

    def test_event(self) -> None:
        """A publication to one more event stream costs the same."""
        self.check_delivery(lambda: self.listen(SUBSCRIBERS))

    def check_delivery(self, subscribe: Callable[[], list[SocketConnection]]) -> None:
        """Count what a delivery to some more subscribers takes."""
        # Of the delivery alone: what the request takes differs with the time of day.
        counted: list[int] = []
        deliver = SubscriberList.deliver

        def count(
            subscribers: SubscriberList, batch: Batch, is_late: Callable[[], bool]
        ) -> Generator[None, None, int]:
            counted.append(calls_of(lambda: list(deliver(subscribers, batch, is_late))))
            yield from ()
            return 0

        self.patch(SubscriberList, "deliver", count)
        servers = []
        for _ in range(2):
            servers += subscribe()
            self.publish(1)
            self.publish(1)
        self.assertEqual(len({id(server.fake_socket.given[-1]) for server in servers}), 1)
        calls = (counted[3] - counted[1]) / SUBSCRIBERS
        self.assertLessEqual(calls, MOST_CALLS["delivery"])

    def connect_to_many(self, connections: int, topics: int) -> None:
        """Open WebSockets with many topics, and publish to each, as the first time costs more."""
        names = "&".join(f"topic=t{number}" for number in range(topics))
        self.connect(connections, f"/topics?{names}", "Sec-WebSocket-Protocol: pushd.v1")
        self.publish_to_each(topics)

    def publish_to_each(self, topics: int) -> None:
        """Publish to each of some topics, one after the other."""
        for number in range(topics):
            self.daemon.publish(f"t{number}", "x")

    def test_many_topics(self) -> None:
        """A publication costs the same however many topics its connections have."""
        counted = []
        for topics in (2, 100):
            for count in (1, SUBSCRIBERS):
                self.connect_to_many(count, topics)
                self.daemon.publish("t1", "x")
                counted.append(calls_of(lambda: self.daemon.publish("t1", "x")))
                self.start()
        self.assertEqual(counted[:2], counted[2:])
        calls = (counted[1] - counted[0]) / (SUBSCRIBERS - 1)
        self.assertLessEqual(calls, MOST_CALLS["delivery"])

    def test_each_of_many_topics(self) -> None:
        """A publication to another topic than the last one, to one more connection."""
        counted, topics = [], 20
        for count in (1, SUBSCRIBERS):
            self.connect_to_many(count, topics)
            counted.append(calls_of(lambda: self.publish_to_each(topics)))
            self.start()
        calls = (counted[1] - counted[0]) / (SUBSCRIBERS - 1) / topics
        self.assertLessEqual(calls, MOST_CALLS["delivery of another topic"])


class PublishingTests(CostTestCase):
    """Publications to which nobody listens."""

    DATA = "x" * 128

    def connect_publisher(self) -> SocketConnection:
        """Open a connection to the control port."""
        return SocketConnection(self.daemon, control=True)

    def test_post(self) -> None:
        """A POST takes few calls, makes one log event, and is answered with one system call."""
        # Each test runner has observers of its own for the log.
        self.patch(access_log._log, "observer", lambda event: None)
        server = self.connect_publisher()
        lines = ("Host: localhost", f"Content-Length: {len(self.DATA)}", "User-Agent: a")
        data = request("POST /topics/t HTTP/1.1", *lines) + self.DATA.encode()
        server.receive(data)
        server.fake_socket.given.clear()
        self.assertLess(calls_of(lambda: server.receive(data)), MOST_CALLS["post"])
        self.assertEqual(len(server.fake_socket.given), 1)
        self.assertIn(b" 200 OK", server.fake_socket.given[0])
        self.assert_no_writers()

    def test_post_log(self) -> None:
        """A POST makes one log event."""
        server = self.connect_publisher()
        data = request("POST /topics/t HTTP/1.1", "Host: localhost", "Content-Length: 1") + b"x"
        self.assertEqual(self.events_of(lambda: server.receive(data)), 1)

    def test_batch(self) -> None:
        """One more publication of a batch takes few calls, and fewer if it is not even kept."""
        server = self.connect_publisher()
        for name, topics in (("batch", ["a", "b"]), ("batch that is not kept", ["t"])):
            few, many = (self.calls_of_a_batch(server, topics, count) for count in (200, 400))
            self.assertLess((many - few) / 200, MOST_CALLS[name])

    def calls_of_a_batch(self, server: SocketConnection, topics: Sequence[str], count: int) -> int:
        """Return the number of calls that a batch takes, for some topics in turn."""
        publications = [{"topic": one, "data": self.DATA} for one in topics]
        many = publications * (count // len(topics))
        body = json.dumps({"publications": many}).encode()
        lines = ("Host: localhost", f"Content-Length: {len(body)}")
        data = request("POST /publish HTTP/1.1", *lines) + body

        def publish() -> None:
            server.receive(data)
            self.daemon.settle()
            server.forget()

        publish()
        return calls_of(publish)

    def test_stream(self) -> None:
        """One more message takes few calls; what arrives together is answered with one write."""
        server = self.connect_publisher()
        server.receive(handshake("/publish"))
        self.daemon.settle()
        text = json.dumps({"topic": "t", "data": self.DATA}).encode()
        counted = []
        for count in (10, 10, 30):
            data = frame(TEXT, text) * count

            def publish(data: bytes = data) -> None:
                server.receive(data)
                self.daemon.settle()

            server.forget()
            counted.append(calls_of(publish))
            self.assertEqual(len(server.fake_socket.given), 1)
        self.assertLess((counted[2] - counted[1]) / 20, MOST_CALLS["stream"])
        self.assert_no_writers()


class PageTests(CostTestCase):
    """Pages of an ASGI application."""

    def start(self) -> None:
        """Start a daemon that serves one."""
        self.daemon = Daemon({}, asgi=hello)
        self.addCleanup(self.daemon.stop)

    def test_page(self) -> None:
        """A page takes few calls, in one iteration of the event loop, and one system call."""
        self.patch(access_log._log, "observer", lambda event: None)
        server = SocketConnection(self.daemon)
        self.addCleanup(lambda: server.connectionLost(Failure(ConnectionDone())))
        loop: Any = self.daemon._loop
        data = request("GET / HTTP/1.1", "Host: localhost:8080", "User-Agent: a")
        get = partial(loop.run, partial(server.receive, data))
        get()
        server.fake_socket.given.clear()
        self.assertLess(calls_of(get, PACKAGE), MOST_CALLS["page"])
        self.assertEqual(len(server.fake_socket.given), 1)
        self.assertIn(b"hello", server.fake_socket.given[0])
        self.assert_no_writers()


class DeliveryTests(CostTestCase):
    """One publication, many subscribers."""

    def test_one(self) -> None:
        """A delivery is one system call, and all subscribers get the same bytes, not copies."""
        servers = self.connect(SUBSCRIBERS, "/topics/t")
        for _ in range(2):  # The first is delivered to each subscriber, the second to their group.
            self.publish(1)
            given = [server.fake_socket.given for server in servers]
            self.assertEqual(given, [[b"\x81\x08number 0"]] * SUBSCRIBERS)
            self.assertEqual(len({id(calls[0]) for calls in given}), 1)
            for calls in given:
                calls.clear()
        self.assert_no_writers()

    def test_burst(self) -> None:
        """Publications that are published at once are one system call for each subscriber."""
        servers = self.connect(SUBSCRIBERS, "/topics/t")
        self.publish(BURST)
        for server in servers:
            self.assertEqual(len(server.fake_socket.given), 1)
            self.assertEqual(server.fake_socket.given[0].count(b"number "), BURST)
        self.assertEqual(len({id(server.fake_socket.given[0]) for server in servers}), 1)
        self.assert_no_writers()

    def test_frames(self) -> None:
        """A publication is framed, and compressed, once for all subscribers of one format."""
        made: list[int] = []

        def count(payload: bytes, *, binary: bool, window_bits: int = 0) -> bytes:
            made.append(window_bits)
            return frames.message(payload, binary=binary, window_bits=window_bits)

        self.patch(subscriber, "message", count)
        deflate = "Sec-WebSocket-Extensions: permessage-deflate"
        self.connect(SUBSCRIBERS, "/topics/t")
        self.connect(SUBSCRIBERS, "/topics/t", deflate)
        self.connect(SUBSCRIBERS, "/topics/t", "Sec-WebSocket-Protocol: pushd.v1")
        made.clear()
        self.publish(BURST)
        self.assertEqual(len(made), 3 * BURST)
        self.assertEqual(sorted(set(made)), [0, frames.MAX_WINDOW_BITS])

    def test_log(self) -> None:
        """A delivery makes no log event, on any level."""
        self.connect(SUBSCRIBERS, "/topics/t")
        one = self.events_of(lambda: self.publish(1))
        self.assertEqual(self.events_of(lambda: self.publish(BURST)), one)


class PollTests(CostTestCase):
    """Long polls that are answered by one publication, and come again."""

    def wait(self, servers: list[SocketConnection]) -> None:
        """Send the same poll on each connection, with the last id."""
        id = self.daemon.last_id("t")
        head = request(f"GET /topics/t?after={id} HTTP/1.1", "Host: localhost:8080")
        for server in servers:
            server.receive(head)

    def round(self, servers: list[SocketConnection]) -> None:
        """Publish, and poll again."""
        self.publish(1)
        self.wait(servers)

    def open(self, count: int) -> list[SocketConnection]:
        """Let some clients poll, so that all have polled before."""
        servers = [SocketConnection(self.daemon) for _ in range(count)]
        self.wait(servers)
        self.round(servers)
        for server in servers:
            server.fake_socket.given.clear()
        return servers

    def test_calls(self) -> None:
        """An answer and the next poll of one more client."""
        self.patch(access_log._log, "observer", lambda event: None)
        counted = []
        for count in (SUBSCRIBERS, 2 * SUBSCRIBERS):
            servers = self.open(count)
            counted.append(calls_of(partial(self.round, servers), PACKAGE))
            for server in servers:
                server.connectionLost(Failure(ConnectionDone()))
        self.assertLess((counted[1] - counted[0]) / SUBSCRIBERS, MOST_CALLS["poll"])

    def test_writes(self) -> None:
        """An answer is one system call, and all clients get the same bytes, not copies."""
        servers = self.open(SUBSCRIBERS)
        self.round(servers)
        self.assertEqual([len(server.fake_socket.given) for server in servers], [1] * SUBSCRIBERS)
        self.assertEqual(len({id(server.fake_socket.given[0]) for server in servers}), 1)
        self.assert_no_writers()


class EventTests(CostTestCase):
    """One publication, many event streams: as cheap as for WebSockets."""

    def test_one(self) -> None:
        """A delivery is one system call, and all streams get the same bytes, not copies."""
        servers = self.listen(SUBSCRIBERS)
        for number in (1, 2):  # The first is delivered to each stream, the second to their group.
            self.publish(1)
            given = [server.fake_socket.given for server in servers]
            self.assertEqual(given, [given[0]] * SUBSCRIBERS)
            [written] = given[0]
            self.assertRegex(written, rb"\A[0-9a-f]{2}\r\nid: \w+:%d\n" % number)
            self.assertTrue(written.endswith(b"\ndata: number 0\n\n\r\n"))
            self.assertEqual(len({id(calls[0]) for calls in given}), 1)
            for calls in given:
                calls.clear()
        self.assert_no_writers()

    def test_burst(self) -> None:
        """Publications that are published at once are one system call for each stream."""
        servers = self.listen(SUBSCRIBERS)
        self.publish(BURST)
        for server in servers:
            self.assertEqual(len(server.fake_socket.given), 1)
            self.assertEqual(server.fake_socket.given[0].count(b"number "), BURST)
        self.assertEqual(len({id(server.fake_socket.given[0]) for server in servers}), 1)
        self.assert_no_writers()

    def test_chunks(self) -> None:
        """A publication is framed as a chunk once for all streams of one format."""
        made: list[bytes] = []

        def count(data: bytes) -> bytes:
            made.append(data)
            return chunk(data)

        chunk = response_stream.chunk
        sse._framed.cache_clear()
        self.addCleanup(sse._framed.cache_clear)
        self.patch(sse, "chunk", count)
        self.listen(SUBSCRIBERS)
        self.listen(SUBSCRIBERS, "?format=json")
        made.clear()
        self.publish(BURST)
        self.assertEqual(len(made), 2 * BURST)

    def test_log(self) -> None:
        """A delivery makes no log event, on any level."""
        self.listen(SUBSCRIBERS)
        one = self.events_of(lambda: self.publish(1))
        self.assertEqual(self.events_of(lambda: self.publish(BURST)), one)


class ResumeTests(CostTestCase):
    """Clients that come back together, and have all missed the same."""

    def setUp(self) -> None:
        """Publish what they missed."""
        super().setUp()
        open_stream(self.daemon, "/topics/t")
        [connection] = self.daemon._service.connections
        stream: Any = connection.closable
        self.cork = stream._cork
        self.publish(SUBSCRIBERS)

    def resume(self, *lines: str) -> list[list[bytes]]:
        """Let two resume in one iteration of the reactor; return the system calls of each."""
        answer = self.daemon.request("GET", "/topics/t", control=True)
        assert answer is not None
        epoch = json.loads(answer.body)["id"].partition(":")[0]
        head = "\r\n".join([f"GET /topics/t?after={epoch}:0 HTTP/1.1", "Host: localhost", *lines])
        servers = [SocketConnection(self.daemon) for _ in range(2)]
        with self.cork:
            for server in servers:
                server.receive(f"{head}\r\n\r\n".encode())
        return [server.fake_socket.given for server in servers]

    def test_stream(self) -> None:
        """The head of an event stream, its first event and all that was missed are one write."""
        for [written] in self.resume("Accept: text/event-stream"):
            self.assertTrue(written.startswith(b"HTTP/1.1 200 "))
            self.assertIn(b"event: subscribed\n", written)
            self.assertEqual(written.count(b"number "), SUBSCRIBERS)
        self.assert_no_writers()

    def test_websocket(self) -> None:
        """The 101, the first message and all that was missed are one write."""
        for [written] in self.resume(*UPGRADE, "Sec-WebSocket-Protocol: pushd.v1"):
            self.assertTrue(written.startswith(b"HTTP/1.1 101 "))
            self.assertIn(b'{"subscribed":"t",', written)
            self.assertEqual(written.count(b"number "), SUBSCRIBERS)
        self.assert_no_writers()

    def test_rendered_once(self) -> None:
        """What they missed is read and rendered once for all that take the same form."""
        made: list[bytes] = []

        def count(payload: bytes, *, binary: bool, window_bits: int = 0) -> bytes:
            made.append(payload)
            return frames.message(payload, binary=binary, window_bits=window_bits)

        self.patch(subscriber, "message", count)
        self.resume(*UPGRADE)
        self.assertEqual(len(made), SUBSCRIBERS)


class EchoTests(CostTestCase):
    def test_message(self) -> None:
        """A message that is sent back is one system call and no log event."""
        [server] = self.connect(1, "/echo/")
        data = frame(TEXT, b"x" * 128)
        self.assertEqual(self.events_of(lambda: server.receive(data)), 0)
        self.assertEqual(len(server.fake_socket.given), 1)
        self.assert_no_writers()


class ConnectionTests(CostTestCase):
    def test_log(self) -> None:
        """A connection makes two log events."""
        self.assertEqual(self.events_of(self.visit), 2)


class PushTests(CostTestCase):
    """Pushes that are due at the same time."""

    def test_log(self) -> None:
        """A push makes no log event."""
        self.start_pushes(2)
        self.daemon.advance(0.5)
        self.assertEqual(self.events_of(lambda: self.daemon.advance(0.5)), 0)

    def test_together(self) -> None:
        """They are written to the kernel after all views have sent theirs."""
        steps: list[str] = []
        servers = self.start_pushes(3)
        message, send = frames.message, RecordingSocket.send

        def note_message(*args: Any, **named: Any) -> bytes:
            steps.append("sent")
            return message(*args, **named)

        def note_send(socket: RecordingSocket, data: bytes, flags: int = 0) -> int:
            steps.append("written")
            return send(socket, data, flags)

        self.patch(protocol, "message", note_message)
        self.patch(RecordingSocket, "send", note_send)
        for server in servers:
            server.fake_socket.given.clear()
        self.daemon.advance(0.5)
        self.assertEqual(steps, ["sent"] * 3 + ["written"] * 3)

    def test_one_timer(self) -> None:
        """However many views wait for the same moment, the reactor has one timer for them."""

        def timers() -> int:
            return len(self.daemon.clock.getDelayedCalls())

        [first] = self.start_pushes(1)
        before = timers()
        self.start_pushes(SUBSCRIBERS)
        self.assertEqual(timers(), before)
        self.daemon.advance(0.5)
        self.assertEqual(len(first.fake_socket.given), 2)
