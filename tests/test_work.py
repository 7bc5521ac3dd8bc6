"""How much is done for a message: counted, as a stop-watch would only measure the machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pushd.access import connections as visits
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.websocket import frames, protocol
from pushd.protocols.websocket import subscriber as feeds
from pushd.testing.daemon import Daemon
from pushd.topics.fanout import Batch
from pushd.topics.subscribers import SubscriberList
from pushd.views.demo import ticker
from pushd.views.request import Request, accept_websocket
from tests.kernel import Kernel, Server, open_websocket
from tests.peer import TEXT, close_frame, frame, handshake
from tests.work import calls_of, strings_of

SUBSCRIBERS = 50
BURST = 8

# Limits on the function calls that some work takes, those of the test included: a quarter more than
# it takes now, so that they catch a careless loop and leave the code free to be rearranged.
# A handshake and the end of the connection.
MOST_CALLS = 675

# A push of the demo, from its timer to the kernel and the next wait.
PUSH_CALLS = 62

# An echo.
ECHO_CALLS = 90

# How many a delivery takes: the kernel here is a method that calls three more.
DELIVERY_CALLS = 4


@accept_websocket
async def echo(request: Request) -> None:
    """Say everything once more."""
    async for message in request.websocket:
        request.websocket.send(message)


class WorkTestCase(SynchronousTestCase):
    """A daemon on transports that count."""

    def setUp(self) -> None:
        """Let the wires be quiet."""
        self.patch(FAST_PATHS, "enabled", True)
        self.daemon = Daemon({"/echo/": echo, "/test/": ticker}, max_per_address=1000)
        self.addCleanup(self.daemon.stop)

    def connect(self, count: int, path: str, extra: str = "") -> list[Server]:
        """Open WebSockets, and forget what that took."""
        lines = [extra] if extra else []
        servers = [open_websocket(self.daemon, path, *lines) for _ in range(count)]
        for server in servers:
            self.assertIn(b" 101 ", server.kernel.given[0])
            server.kernel.given.clear()
        return servers

    def events_of(self, work: Callable[[], object]) -> int:
        """How many events some work has for the log, on any level."""
        events: list[object] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        try:
            work()
        finally:
            globalLogPublisher.removeObserver(observer)
        return len(events)

    def assert_reactor_left_alone(self) -> None:
        """Nothing waits for the reactor to find a socket writable."""
        self.assertEqual(self.daemon.clock.getWriters(), [])


class DeliveryTests(WorkTestCase):
    """One publication, many subscribers."""

    def publish(self, count: int) -> None:
        """Publish some in one turn of the reactor."""
        publications = [{"topic": "t", "data": f"number {one}"} for one in range(count)]
        body = json.dumps({"publications": publications}).encode()
        answer = self.daemon.request("POST", "/publish", body=body, control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_one(self) -> None:
        """A delivery is one system call, with the very bytes that all others get."""
        servers = self.connect(SUBSCRIBERS, "/topics/t")
        self.publish(1)
        given = [server.kernel.given for server in servers]
        self.assertEqual([len(calls) for calls in given], [1] * SUBSCRIBERS)
        self.assertEqual(len({id(calls[0]) for calls in given}), 1)
        self.assert_reactor_left_alone()

    def test_calls(self) -> None:
        """From the second on, a delivery is one call of a function: the kernel's."""
        # Of the delivery alone: what a request takes beside it differs with the time of day.
        counted: list[int] = []
        deliver = SubscriberList.deliver

        def count(subscribers: SubscriberList, batch: Batch) -> int:
            told: list[int] = []
            counted.append(calls_of(lambda: told.append(deliver(subscribers, batch))))
            return told[0]

        self.patch(SubscriberList, "deliver", count)
        servers = self.connect(SUBSCRIBERS, "/topics/t")
        self.publish(1)
        self.publish(1)
        more = self.connect(SUBSCRIBERS, "/topics/t")
        self.publish(1)
        self.publish(1)
        self.assertEqual(counted[3] - counted[1], SUBSCRIBERS * DELIVERY_CALLS)
        for server in (*servers, *more):
            self.assertEqual(server.kernel.given[-1], b"\x81\x08number 0")
        # All have the very same bytes, of which nobody has made a copy.
        given = {id(server.kernel.given[-1]) for server in (*servers, *more)}
        self.assertEqual(len(given), 1)
        self.assert_reactor_left_alone()

    def test_burst(self) -> None:
        """What is published in one turn is one system call for each subscriber."""
        servers = self.connect(SUBSCRIBERS, "/topics/t")
        self.publish(BURST)
        for server in servers:
            self.assertEqual(len(server.kernel.given), 1)
            self.assertEqual(server.kernel.given[0].count(b"number "), BURST)
        self.assertEqual(len({id(server.kernel.given[0]) for server in servers}), 1)
        self.assert_reactor_left_alone()

    def test_frames(self) -> None:
        """Each publication is framed, and compressed, once for each way to have it."""
        made: list[int] = []

        def count(payload: bytes, *, binary: bool, window_bits: int = 0) -> bytes:
            made.append(window_bits)
            return frames.message(payload, binary=binary, window_bits=window_bits)

        self.patch(feeds, "message", count)
        deflate = "Sec-WebSocket-Extensions: permessage-deflate"
        self.connect(SUBSCRIBERS, "/topics/t")
        self.connect(SUBSCRIBERS, "/topics/t", deflate)
        self.connect(SUBSCRIBERS, "/topics/t", "Sec-WebSocket-Protocol: pushd.v1")
        made.clear()
        self.publish(BURST)
        self.assertEqual(len(made), 3 * BURST)
        self.assertEqual(sorted(set(made)), [0, frames.MAX_WINDOW_BITS])

    def test_log(self) -> None:
        """Nothing is said to the log of a delivery, on any level."""
        self.connect(SUBSCRIBERS, "/topics/t")
        one = self.events_of(lambda: self.publish(1))
        self.assertEqual(self.events_of(lambda: self.publish(BURST)), one)


class EchoTests(WorkTestCase):
    """A message that comes, and one that goes."""

    def test_message(self) -> None:
        """An answer is one system call; the log and the reactor hear nothing of it."""
        [server] = self.connect(1, "/echo/")
        data = frame(TEXT, b"x" * 128)
        self.assertEqual(self.events_of(lambda: server.receive(data)), 0)
        self.assertEqual(len(server.kernel.given), 1)
        self.assert_reactor_left_alone()

    def test_calls(self) -> None:
        """It takes no more calls of functions than it did, and no string is put together for it."""
        [server] = self.connect(1, "/echo/")
        data = frame(TEXT, b"x" * 128)
        server.receive(data)
        self.assertLess(calls_of(lambda: server.receive(data)), ECHO_CALLS)
        self.assertEqual(strings_of(lambda: server.receive(data)), [])


class HandshakeTests(WorkTestCase):
    """A browser that comes and goes."""

    def visit(self) -> None:
        """Open a WebSocket, and close it."""
        server = Server(self.daemon)
        server.receive(handshake("/echo/"))
        server.receive(close_frame(1000))
        self.assertFalse(server.connected)
        self.assertEqual([data[:12] for data in server.kernel.given[:1]], [b"HTTP/1.1 101"])
        self.assertEqual(len(server.kernel.given), 2)

    def test_calls(self) -> None:
        """It is two system calls to write, and no more calls of functions than there were."""
        # What becomes of the log's lines is for those who observe it, and each runner of tests has
        # its own.
        self.patch(visits._log, "observer", lambda event: None)
        self.visit()
        self.assertLess(calls_of(self.visit), MOST_CALLS)

    def test_log(self) -> None:
        """It has two lines in the log."""
        self.assertEqual(self.events_of(self.visit), 2)


class TimeTests(WorkTestCase):
    """Pushes that are due together."""

    def calls_of_a_round(self, browsers: int) -> int:
        """How many calls of functions one push to each of some browsers takes."""
        servers = self.connect(browsers, "/test/")
        for server in servers:
            server.receive(frame(TEXT, b"go"))
        self.daemon.advance(0.5)
        counted = calls_of(lambda: self.daemon.advance(0.5))
        for server in servers:
            self.assertEqual(len(server.kernel.given), 3)
        self.daemon.advance(10)
        return counted

    def test_calls(self) -> None:
        """A push takes no more calls of functions than it did."""
        few, many = self.calls_of_a_round(10), self.calls_of_a_round(10 + SUBSCRIBERS)
        self.assertLess((many - few) / SUBSCRIBERS, PUSH_CALLS)

    def test_strings(self) -> None:
        """Only the view puts a string together for a push."""
        for server in self.connect(2, "/test/"):
            server.receive(frame(TEXT, b"go"))
        self.daemon.advance(0.5)
        self.assertEqual(strings_of(lambda: self.daemon.advance(0.5)), ["ticker", "ticker"])

    def test_together(self) -> None:
        """What many views say in one beat goes to the kernel when all have said it."""
        steps: list[str] = []
        servers = self.connect(3, "/test/")
        for server in servers:
            server.receive(frame(TEXT, b"go"))
        message, send = frames.message, Kernel.send

        def note_message(*args: Any, **named: Any) -> bytes:
            steps.append("said")
            return message(*args, **named)

        def note_send(kernel: Kernel, data: bytes, flags: int = 0) -> int:
            steps.append("sent")
            return send(kernel, data, flags)

        self.patch(protocol, "message", note_message)
        self.patch(Kernel, "send", note_send)
        for server in servers:
            server.kernel.given.clear()
        self.daemon.advance(0.5)
        self.assertEqual(steps, ["said"] * 3 + ["sent"] * 3)

    def test_one_timer(self) -> None:
        """However many views wait for the same moment, the reactor has one call for them."""

        def calls() -> int:
            return len(self.daemon.clock.getDelayedCalls())

        for server in (first := self.connect(1, "/test/")):
            server.receive(frame(TEXT, b"go"))
        alone = calls()
        for server in self.connect(SUBSCRIBERS, "/test/"):
            server.receive(frame(TEXT, b"go"))
        self.assertEqual(calls(), alone)
        self.daemon.advance(0.5)
        self.assertEqual(len(first[0].kernel.given), 2)
