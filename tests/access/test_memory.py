"""The bound on all buffers together: when it is measured, and what is closed beyond it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.access.memory import KINDS, Memory, Usage
from pushd.testing import Daemon, RawConnection
from pushd.topics.history import Retention
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.frame_heads import frame_head
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.peer import (
    BINARY,
    CLOSE,
    Frame,
    Peer,
    frame,
    handshake,
    read_frames,
    request,
    said,
)

LIMIT = 1 << 20

# What a connection may leave behind its end is far less than this.
KIB = 1 << 10

COMPRESSION = "Sec-WebSocket-Extensions: permessage-deflate"

REASON = b"the server's buffers are full"


def compress(data: bytes) -> bytes:
    """Compress a message (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


class FakeHolder:
    """A connection that holds a number of bytes."""

    def __init__(self, size: int, kind: str = "message") -> None:
        self.size = size
        self.kind = kind
        self.measured = 0
        self.fails = False

    def count_memory(self, usage: Usage) -> int:
        """Count it."""
        self.measured += 1
        setattr(usage, self.kind, getattr(usage, self.kind) + self.size)
        return self.size

    def free_memory(self) -> None:
        """Free all of it, or fail."""
        self.size = 0
        if self.fails:
            raise RuntimeError("broken")


class FakeHistory:
    """Histories that hold a number of bytes."""

    history_bytes = 0

    def trim_history(self, size: int) -> None:
        """Free what is asked for, as far as there is that much."""
        self.history_bytes = max(0, self.history_bytes - size)


class MemoryTests(SynchronousTestCase):
    """A limit of 1,600 bytes: in steps of 25, and with 100 freed beyond it."""

    def setUp(self) -> None:
        """Make it, with three connections and histories."""
        self.clock = Clock()
        self.limits = Limits(max_memory=1600)
        self.memory = Memory(self.clock, self.limits)
        self.holders = [FakeHolder(0), FakeHolder(0, "send"), FakeHolder(0)]
        self.history = FakeHistory()
        self.memory.watch(self.holders)

    def set(self, *sizes: int, history: int = 0) -> None:
        """Note that the connections hold numbers of bytes, and let them."""
        self.memory.watch_history(self.history)
        for holder, size in zip(self.holders, sizes, strict=True):
            self.memory.add(max(0, size - holder.size))
            holder.size = size
        self.memory.add(max(0, history - self.history.history_bytes))
        self.history.history_bytes = history

    def assert_sizes(self, *sizes: int, history: int = 0, closed: int = 0) -> None:
        """Check what is held, after all delayed calls, and how many connections were closed."""
        self.clock.advance(0)
        self.assertEqual(tuple(holder.size for holder in self.holders), sizes)
        self.assertEqual(self.history.history_bytes, history)
        self.assertEqual((self.memory.closed, self.memory.exceeded), (closed, False))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_freed_last(self) -> None:
        """Those of a site that is freed last are closed if closing all others is not enough."""
        last = FakeHolder(900)
        self.memory.watch([last], freed_last=True)
        self.memory.add(900)
        self.set(800, 10, 0)
        self.assertEqual(self.memory.measure().total, 1710)
        self.assert_sizes(0, 10, 0, closed=1)
        self.assertEqual(last.size, 900)
        last.size = 1800
        self.memory.add(1800)
        self.assert_sizes(0, 0, 0, closed=3)
        self.assertEqual(last.size, 0)

    def test_when_measured(self) -> None:
        """Nothing is measured until as much was added as there was room."""
        holder = self.holders[0]
        for size, measured in ((1600, 0), (1, 1), (1599, 1), (1, 2)):
            self.memory.add(size)
            self.assertEqual(holder.measured, measured)
        # 700 are held when it is measured again: there is room for 900.
        holder.size = 600
        for size, measured in ((1500, 2), (100, 3), (900, 3), (1, 4)):
            self.memory.add(size)
            self.assertEqual(holder.measured, measured)
        # Near the limit, it is measured again after a 64th of it.
        holder.size = 1590
        for size, measured in ((999, 4), (1, 5), (25, 5), (1, 6)):
            self.memory.add(size)
            self.assertEqual(holder.measured, measured)
        self.assert_sizes(1590, 0, 0)

    def test_usage(self) -> None:
        """The usage has the bytes of each kind; what many hold is counted once."""
        self.set(1, 2, 3, history=4)
        usage = self.memory.measure()
        self.assertEqual(
            dict(usage),
            {"inbox": 0, "message": 4, "compression": 0, "request": 0, "send": 2, "history": 4},
        )
        self.assertEqual((usage.total, tuple(dict(usage))), (10, KINDS))
        shared, other = b"shared", b"other"
        counts = [usage.count_once(one, 6) for one in (shared, other, shared)]
        self.assertEqual(counts, [6, 6, 0])

    def test_closed(self) -> None:
        """The connections that hold most are closed, until a 16th of the limit is free."""
        self.set(500, 600, 500)
        self.assert_sizes(500, 600, 500)
        self.set(510, 600, 500)
        self.assertTrue(self.memory.exceeded)
        self.assert_sizes(510, 0, 500, closed=1)
        self.set(750, 1000, 50)
        self.assert_sizes(750, 0, 50, closed=2)
        self.set(1500, 1400, 50)
        self.assert_sizes(0, 1400, 50, closed=3)

    def test_at_once(self) -> None:
        """``enforce`` closes them before the delayed call, and does nothing without an excess."""
        self.memory.enforce()
        self.set(1700, 0, 0)
        self.memory.enforce()
        self.assertEqual(self.holders[0].size, 0)
        self.assert_sizes(0, 0, 0, closed=1)

    def test_in_the_meantime(self) -> None:
        """Nothing is closed if the memory was freed before the delayed call."""
        self.set(1700, 0, 0)
        self.holders[0].size = 1500
        self.assert_sizes(1500, 0, 0)
        self.memory.add(101)
        self.assertEqual(self.holders[0].measured, 3)

    def test_history_first(self) -> None:
        """If history is the largest kind it is trimmed, down to the next; then connections."""
        self.set(200, 300, 200, history=1000)
        self.assert_sizes(200, 300, 200, history=800)
        self.set(500, 500, 500, history=1200)
        # 1,200 are too much: 200 of history, and two connections.
        self.assert_sizes(0, 0, 500, history=1000, closed=2)

    def test_history_last(self) -> None:
        """If no connection is left to be closed, history is trimmed further."""
        self.set(1000, 0, 0, history=1700)
        self.assert_sizes(0, 0, 0, history=1000, closed=1)
        self.set(900, 0, 0, history=1000)
        self.assert_sizes(0, 0, 0, history=900, closed=2)
        self.limits.change_to(Limits(max_memory=160))
        self.assert_sizes(0, 0, 0, history=150, closed=2)

    def test_history_last_of_all(self) -> None:
        """If all connections are closed and that is not enough, history is trimmed twice."""
        self.set(1550, 0, 0, history=2000)
        self.assert_sizes(0, 0, 0, history=1500, closed=1)

    def test_without_history(self) -> None:
        """Without histories only connections are closed."""
        self.memory.add(1601)
        self.holders[0].size = 2000
        self.memory.add(1601)
        self.assert_sizes(0, 0, 0, closed=1)

    def test_change(self) -> None:
        """A change of the limit is in force at once."""
        self.set(500, 500, 400)
        self.limits.change_to(Limits(max_memory=1000))
        self.assert_sizes(0, 500, 400, closed=1)
        self.limits.change_to(Limits(max_memory=4000))
        self.set(2000, 1500, 400)
        self.assert_sizes(2000, 1500, 400, closed=1)
        self.limits.change_to(Limits(max_memory=16))
        self.assert_sizes(0, 0, 0, closed=4)

    def test_failure(self) -> None:
        """If one connection cannot be closed, that is logged, and the others are closed."""
        self.holders[0].fails = True
        with capturedLogs() as events:
            self.set(900, 800, 0)
            self.set(900, 800, 800)
            self.assert_sizes(0, 0, 800, closed=2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(
            [event["event"] for event in events], ["connection_failed", "memory_exceeded"]
        )

    def test_log(self) -> None:
        """One line says what was too much, and what was closed."""
        with capturedLogs() as events:
            self.set(900, 800, 0, history=10)
            self.clock.advance(0)
        (event,) = events
        self.assertEqual(
            said(events),
            [
                "buffers took 1710 bytes, more than the 1600 of --max-memory: closed the 1 "
                "connections that held most, dropped 0 bytes of history"
            ],
        )
        self.assertEqual(
            (event["message_bytes"], event["send_bytes"], event["history_bytes"]), (900, 800, 10)
        )


class DaemonTestCase(SynchronousTestCase):
    """A daemon in memory whose buffers may take 1 MiB."""

    def setUp(self) -> None:
        """Make it, with views that answer, do nothing, read late, and send much."""
        self.requests: list[Request] = []
        self.waiting: list[Deferred[None]] = []
        self.ends: list[str] = []
        self.page = "done"
        self.daemon = self.make_daemon()

    def make_daemon(self) -> Daemon:
        """Make a daemon with the views."""

        @accept_websocket
        async def idle(request: Request) -> str:
            self.requests.append(request)
            self.waiting.append(Deferred())
            try:
                if request.is_websocket():
                    request.websocket.accept()
                await self.waiting[-1]
                if request.is_websocket():
                    async for message in request.websocket:
                        self.ends.append(str(len(message)))
            finally:
                self.ends.append("ended")
            return self.page

        return Daemon(
            {"/idle/": idle},
            limits=Limits(max_memory=LIMIT),
            retention=Retention(bytes=64 * LIMIT),
        )

    def open(self, path: str = "/idle/", *lines: str) -> RawConnection:
        """Open a WebSocket."""
        client = self.daemon.open_connection()
        client.send(handshake(path, *lines))
        return client

    def post(
        self, path: str, size: int, *, length: int = LIMIT, control: bool = False
    ) -> RawConnection:
        """Send a request with a body of 1 MiB, of which a number of bytes arrives."""
        client = self.daemon.open_connection(control=control)
        host = "Host: localhost:8080"
        client.send(request(f"POST {path} HTTP/1.1", host, f"Content-Length: {length}"))
        client.send(bytes(size))
        return client

    def frames(self, client: RawConnection) -> list[Frame]:
        """Return the frames that a client has received."""
        return read_frames(client.received.partition(b"\r\n\r\n")[2])

    def usage(self) -> dict[str, float]:
        """Return the metrics: the bytes of each kind, the limit, and the number closed."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        return {
            sample.labels.get("kind", sample.name.removeprefix("pushd_buffered_")): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name.startswith("pushd_buffered_") and "created" not in sample.name
        }

    def assert_usage(self, closed: int = 0, **kinds: int) -> None:
        """Check the metrics, to a KiB for each kind."""
        usage = self.usage()
        self.assertEqual((usage.pop("bytes_limit"), usage.pop("closed_total")), (LIMIT, closed))
        self.assertEqual(tuple(usage), KINDS)
        for kind, size in usage.items():
            self.assertLess(abs(size - kinds.get(kind, 0)), 4 * KIB, (kind, usage))


class ConnectionTests(DaemonTestCase):
    """What is counted, and how each kind of connection is closed."""

    def test_unfinished_messages(self) -> None:
        """The WebSocket with the longest unfinished message is closed with 1013."""
        clients = [self.open() for _ in range(3)]
        for client, size in zip(clients, (300, 500, 200), strict=True):
            client.send(frame_head(BINARY, LIMIT, fin=True, rsv=0) + bytes(4) + bytes(size * KIB))
        self.assert_usage(message=1000 * KIB)
        clients[2].send(bytes(100 * KIB))
        self.assert_usage(1, message=600 * KIB)
        self.assertEqual(self.frames(clients[1]), [Frame(CLOSE, b"\x03\xf5" + REASON)])
        self.assertEqual([self.frames(client) for client in clients[::2]], [[], []])
        # What it still sends is dropped, up to its Close.
        clients[1].send(bytes(500 * KIB))
        self.assert_usage(1, message=600 * KIB)
        clients[1].send(bytes(24 * KIB) + frame(CLOSE, b"\x03\xf5"))
        self.assertTrue(clients[1].closed)
        for client in clients[::2]:
            client.leave()
        self.assert_usage(1)

    def test_compressed(self) -> None:
        """An unfinished message that is compressed counts as it was sent."""
        data = compress(bytes(LIMIT))
        clients = [self.open("/idle/", COMPRESSION) for _ in range(5)]
        for client in clients:
            client.send(frame(BINARY, data, fin=False, rsv=4))
        self.assertEqual([self.frames(client) for client in clients], [[]] * 5)
        self.assert_usage(message=5 * len(data))

    def test_context(self) -> None:
        """The end of what a client has compressed counts, as long as it may refer to that."""
        offers = COMPRESSION, COMPRESSION, f"{COMPRESSION}; client_max_window_bits"
        clients = [self.open("/idle/", offer) for offer in offers]
        for client, size in zip(clients, (10, 300, 300), strict=True):
            self.waiting.pop(0).callback(None)
            client.send(frame(BINARY, compress(bytes(size * KIB)), rsv=4))
        self.assertEqual(self.ends, [str(size * KIB) for size in (10, 300, 300)])
        self.assert_usage(compression=(10 + 32 + 4) * KIB)
        clients[0].send(frame(BINARY, compress(bytes(8 * KIB)), rsv=4))
        self.assert_usage(compression=(18 + 32 + 4) * KIB)
        for client in clients:
            client.leave()
        self.assert_usage()

    def test_context_is_dropped(self) -> None:
        """Whatever a closed client has compressed is dropped."""
        client = self.open("/idle/", COMPRESSION)
        self.waiting[0].callback(None)
        client.send(frame(BINARY, compress(bytes(100 * KIB)), rsv=4))
        head = frame_head(BINARY, LIMIT, fin=True, rsv=0) + bytes(4)
        client.send(head + bytes(980 * KIB))
        self.assert_usage(message=980 * KIB, compression=32 * KIB)
        client.send(bytes(20 * KIB))
        self.assert_usage(1)
        self.assertEqual(self.frames(client), [Frame(CLOSE, b"\x03\xf5" + REASON)])

    def test_inbox(self) -> None:
        """Messages that are not read are dropped; the view is told of the end."""
        clients = [self.open() for _ in range(3)]
        for client, count in zip(clients, (4, 6, 3), strict=True):
            client.send(b"".join([frame(BINARY, bytes(60 * KIB))] * count))
        self.assert_usage(inbox=780 * KIB)
        clients[2].send(b"".join([frame(BINARY, bytes(60 * KIB))] * 5))
        self.assertEqual(self.frames(clients[2]), [Frame(CLOSE, b"\x03\xf5" + REASON)])
        self.assert_usage(1, inbox=600 * KIB)
        self.waiting[2].callback(None)
        self.assertEqual(self.ends, ["ended"])
        for client in clients:
            client.leave()
        # The views may still read.
        self.assert_usage(1, inbox=600 * KIB)
        self.waiting[0].callback(None)
        self.assertEqual(self.ends[1:], [str(60 * KIB)] * 4 + ["ended"])
        self.assert_usage(1, inbox=360 * KIB)

    def test_inbox_of_a_lost_connection(self) -> None:
        """Messages of a connection that is lost count until they are read, and can be dropped."""
        client = self.open()
        client.send(b"".join([frame(BINARY, bytes(60 * KIB))] * 10))
        client.leave()
        self.assert_usage(inbox=600 * KIB)
        self.post("/idle/", 500 * KIB)
        self.assert_usage(1, request=500 * KIB)
        self.waiting[0].callback(None)
        self.assertEqual(self.ends, ["ended"])

    def test_paused(self) -> None:
        """Frames behind an inbox that is full count, too."""
        client = self.open()
        client.send(frame(BINARY, b"x") * 5000)
        usage = self.usage()
        self.assertEqual(usage["message"], 7 * (5000 - 64))
        self.assertGreater(usage["inbox"], 64 * 100)
        client.leave()
        self.waiting[0].callback(None)
        self.assert_usage()

    def test_unsent(self) -> None:
        """A WebSocket with much unsent is reset: a Close frame would not arrive."""
        clients = [self.open() for _ in range(3)]
        for client, view in zip(clients, self.requests, strict=True):
            client.stall()
            for _ in range(5 + len(self.ends)):
                view.websocket.send(bytes(60 * KIB), binary=True)
            self.ends.append("sent")
        self.daemon.settle()
        usage = self.usage()
        self.assertLess(usage["send"], LIMIT)
        self.assertEqual(usage["closed_total"], 1)
        self.assertEqual([client.closed for client in clients], [False, False, True])
        self.assertEqual([view.websocket.close_code for view in self.requests], [None, None, 1013])

    def test_answered(self) -> None:
        """A request whose answer has not begun is reset, as a view holds its body."""
        length = 600 * KIB
        clients = [self.post("/idle/", length, length=length)]
        self.assert_usage(request=length)
        clients.append(self.post("/idle/", 500 * KIB))
        self.assertEqual([client.closed for client in clients], [True, False])
        self.assertEqual((clients[0].received, self.ends), (b"", ["ended"]))
        self.assert_usage(1, request=500 * KIB)

    def test_bodies(self) -> None:
        """The request with the longest body is refused with 503."""
        clients = [self.post("/idle/", size * KIB) for size in (300, 400, 200)]
        self.assert_usage(request=900 * KIB)
        clients[0].send(bytes(300 * KIB))
        self.assert_usage(1, request=600 * KIB)
        answer = clients[0].answer()
        assert answer is not None
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"))
        self.assertEqual(answer.body, REASON + b"\n")
        clients[0].send(bytes(300 * KIB))
        self.assert_usage(1, request=600 * KIB)
        for client in clients:
            client.leave()
        self.assert_usage(1)

    def test_publications(self) -> None:
        """At the control port, the refusal is JSON; other requests are answered."""
        clients = [self.post("/topics/t", 600 * KIB, control=True) for _ in range(2)]
        answers = [client.answer() for client in clients]
        self.assertEqual([answer and answer.status for answer in answers].count(503), 1)
        (refused,) = [answer for answer in answers if answer]
        self.assertEqual(
            json.loads(refused.text), {"error": REASON.decode(), "where": "body"}, refused.body
        )
        self.assert_usage(1, request=600 * KIB)

    def test_unread_page(self) -> None:
        """A response that its client does not read counts, and is cut off."""
        clients = [self.daemon.open_connection() for _ in range(3)]
        self.page = "x" * 400 * KIB
        for client in clients:
            client.stall()
            client.send(request("GET /idle/ HTTP/1.1", "Host: localhost:8080"))
            self.waiting.pop().callback(None)
        self.daemon.settle()
        self.assertEqual([client.closed for client in clients].count(True), 1)
        self.assert_usage(1, send=800 * KIB)
        for client in clients:
            client.resume()
        self.assert_usage(1)


class ClosingTests(DaemonTestCase):
    """Connections that are told twice to pause, and those that are closing or closed already."""

    def connect(self, *segments: bytes) -> Peer:
        """Connect, and send bytes."""
        peer = Peer(self.daemon)
        peer.send(*segments)
        return peer

    def protocol(self, peer: Peer) -> Any:
        """Return what serves a connection."""
        return peer.server.protocol

    def test_paused_again(self) -> None:
        """Twisted asks for a pause at each write: what is unsent is added once."""
        page = request("GET /idle/ HTTP/1.1", "Host: localhost:8080")
        for peer in (self.connect(handshake("/idle/")), self.connect(page)):
            protocol = self.protocol(peer)
            added: list[int] = []
            memory = getattr(protocol, "factory", None)
            memory = getattr(memory, "memory", None) or protocol.connections.memory
            self.patch(memory, "add", added.append)
            peer.stall()
            peer.server.write(bytes(70 * KIB))
            protocol.pauseProducing()
            self.assertEqual(added, [70 * KIB])

    def test_full(self) -> None:
        """While the limit is exceeded, nothing more is sent to a client that reads slowly."""
        peer = self.connect(handshake("/idle/"))
        protocol = self.protocol(peer)
        peer.stall()
        protocol.push_frames(bytes(70 * KIB))
        self.assertFalse(protocol.is_full())
        protocol.factory.memory.exceeded = True
        self.assertTrue(protocol.is_full())

    def test_closed_websocket(self) -> None:
        """A WebSocket that is closed, but not sent, is reset; then it holds nothing."""
        peer = self.connect(handshake("/idle/"))
        protocol = self.protocol(peer)
        peer.stall()
        protocol.push_frames(bytes(70 * KIB))
        peer.send(frame(CLOSE))
        self.assertIs(protocol.state, protocol.STATE_CLOSED)
        self.assertGreater(protocol.count_memory(Usage()), 70 * KIB)
        protocol.free_memory()
        self.assertEqual(protocol.count_memory(Usage()), 0)
        peer.settle()
        self.assertIs(peer.lost, ConnectionLost)

    def test_measuring_copies_nothing(self) -> None:
        """A body that is shared with what answers the request is still shared once measured."""
        head = request("POST /idle/ HTTP/1.1", "Host: localhost:8080", f"Content-Length: {2 * KIB}")
        channel = self.protocol(self.connect(head, bytes(KIB), bytes(KIB)))
        content = channel.requests[0].content
        body = content.getvalue()
        self.assertEqual(channel.count_memory(Usage()), 2 * KIB)
        self.assertIs(content.getvalue(), body)

    def test_refused(self) -> None:
        """A request that is refused holds nothing; one that still holds something is reset."""
        head = request("POST /idle/ HTTP/1.1", "Host: localhost:8080", f"Content-Length: {LIMIT}")
        peer = self.connect(head, bytes(70 * KIB))
        channel = self.protocol(peer)
        self.assertEqual(channel.count_memory(Usage()), 70 * KIB)
        channel.free_memory()
        self.assertEqual(channel.count_memory(Usage()), 0)
        channel.free_memory()
        peer.settle()
        self.assertIs(peer.lost, ConnectionLost)

    def test_unfinished_head(self) -> None:
        """A head that is not complete is refused with 503 as well."""
        peer = self.connect(b"GET /topics/t HTTP/1.1\r\nX: ")
        channel = self.protocol(peer)
        channel.requests.clear()
        channel.free_memory()
        peer.settle()
        self.assertTrue(peer.head.startswith("HTTP/1.1 503 "), peer.head)


class StreamTests(DaemonTestCase):
    """Topics: event streams that are not read, and history."""

    def subscribe(self) -> RawConnection:
        """Open an event stream that is not read."""
        client = self.daemon.open_connection()
        accept = "Accept: text/event-stream"
        client.send(request("GET /topics/t HTTP/1.1", "Host: localhost:8080", accept))
        client.stall()
        return client

    def publish(self, size: int) -> None:
        """Publish."""
        self.daemon.request("POST", "/topics/t", body=b"x" * size, control=True)

    def test_streams(self) -> None:
        """Event streams with much unsent are cut off; the log says why."""
        clients = [self.subscribe() for _ in range(3)]
        with capturedLogs() as events:
            self.publish(300 * KIB)
            self.publish(10)
        self.assertEqual([client.closed for client in clients].count(True), 1)
        (closed,) = [event for event in events if event.get("event") == "closed"]
        self.assertEqual((closed["code"], closed["by"]), (1013, "us"))
        self.assertEqual(closed["reason"], REASON.decode())
        self.assert_usage(1, send=600 * KIB, history=300 * KIB)

    def test_held(self) -> None:
        """What is left of a large event counts once, although all streams hold it."""
        self.daemon = Daemon(limits=Limits(max_memory=4 * LIMIT, max_buffered=1))
        clients = [self.subscribe() for _ in range(3)]
        self.publish(LIMIT)
        usage = self.usage()
        self.assertEqual([client.closed for client in clients], [False] * 3)
        self.assertLess(usage["send"], LIMIT + 3 * 300 * KIB)
        self.assertGreater(usage["send"], LIMIT)
        for client in clients:
            client.leave()
        self.assertEqual(self.usage()["send"], 0)

    def test_history(self) -> None:
        """History is trimmed, the oldest first, if it takes most."""
        for _ in range(12):
            self.publish(100 * KIB)
        usage = self.usage()
        self.assertLess(usage["history"], LIMIT)
        self.assertGreater(usage["history"], LIMIT // 2)
        self.assertEqual(usage["closed_total"], 0)
        answer = self.daemon.request("GET", "/topics/t", control=True)
        assert answer is not None
        self.assertLess(json.loads(answer.text)["history"], 11)
        self.daemon.advance(301)
        self.assert_usage()


# What a client does in the test below.
STEPS: dict[str, Callable[[AccountingTests, RawConnection], object]] = {
    "websocket": lambda test, client: client.send(handshake("/idle/", COMPRESSION)),
    "poll": lambda test, client: client.send(
        request("GET /topics/t?wait=1 HTTP/1.1", "Host: localhost:8080")
    ),
    "stream": lambda test, client: client.send(
        request("GET /topics/t HTTP/1.1", "Host: localhost:8080", "Accept: text/event-stream")
    ),
    "body": lambda test, client: client.send(
        request("POST /idle/ HTTP/1.1", "Host: localhost:8080", f"Content-Length: {LIMIT}")
    ),
    "head": lambda test, client: client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 5000),
    "bytes": lambda test, client: client.send(os.urandom(200 * KIB)),
    "message": lambda test, client: client.send(frame(BINARY, bytes(150 * KIB))),
    "messages": lambda test, client: client.send(frame(BINARY, b"xyz") * 3000),
    "compressed": lambda test, client: client.send(
        frame(BINARY, compress(os.urandom(60 * KIB)), rsv=4)
    ),
    "part": lambda test, client: client.send(frame(BINARY, bytes(120 * KIB), fin=False)),
    "stall": lambda test, client: client.stall(),
    "resume": lambda test, client: client.resume(),
    "leave": lambda test, client: client.leave(),
    "publish": lambda test, client: test.daemon.request(
        "POST", "/topics/t", body=b"x" * 130 * KIB, control=True
    ),
    "send": lambda test, client: test.send(),
    "wake": lambda test, client: test.wake(),
    "time": lambda test, client: test.daemon.advance(1),
}


class AccountingTests(DaemonTestCase):
    def send(self) -> None:
        """Send to every WebSocket."""
        for view in self.requests:
            if view.is_websocket():
                view.websocket.send(bytes(90 * KIB), binary=True)
        self.daemon.settle()

    def wake(self) -> None:
        """Let the views go on."""
        while self.waiting:
            waiting = self.waiting.pop()
            if not waiting.called:
                waiting.callback(None)
        self.daemon.settle()

    @settings(NO_DEADLINE, max_examples=40)
    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(sorted(STEPS))), max_size=40))
    def test_any_sequence(self, steps: list[tuple[int, str]]) -> None:
        """The limit holds after each step, and nothing is left when all have gone."""
        self.requests, self.waiting, self.ends = [], [], []
        self.daemon = self.make_daemon()
        with capturedLogs():
            clients = [self.daemon.open_connection() for _ in range(6)]
            for place, step in steps:
                if clients[place].closed:
                    clients[place] = self.daemon.open_connection()
                STEPS[step](self, clients[place])
                usage = self.usage()
                self.assertLessEqual(sum(usage[kind] for kind in KINDS), LIMIT + LIMIT // 64)
            for client in clients:
                client._transport.abortConnection()
            self.wake()
            self.daemon.advance(10, 60, 300)
        self.assert_left()

    def assert_left(self) -> None:
        """Check that nothing is counted, and that no timer runs."""
        usage = self.usage()
        self.assertEqual([usage[kind] for kind in KINDS], [0] * len(KINDS))
        self.assertEqual(self.daemon.pending_calls, [])
