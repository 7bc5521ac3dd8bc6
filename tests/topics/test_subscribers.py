"""The subscribers of one topic: in fan-out groups if possible, and one by one if not."""

from __future__ import annotations

import json
from errno import ENOSPC
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import TRY_AGAIN_LATER
from pushd.access.counters import Traffic
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.twisted_internals import unsent
from pushd.testing import Daemon
from pushd.topics import fanout, hub
from pushd.topics.fanout import Batch, DirectWrite, Form
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.hub_case import HubTestCase, RecordingSubscriber, iterate
from tests.support.peer import TEXT, close_frame, frame
from tests.support.recording_socket import SocketConnection, open_websocket


@accept_websocket
async def both(request: Request) -> None:
    """Subscribe to two topics, and echo all messages."""
    for topic in "tu":
        request.websocket.subscribe(topic)
    async for message in request.websocket:
        request.websocket.send(message)


def plain(publication: Publication) -> bytes:
    """Render a publication as its data."""
    return str(publication.data).encode()


def loud(publication: Publication) -> bytes:
    """Render a publication in capital letters."""
    return str(publication.data).upper().encode()


class DirectSubscriber(RecordingSubscriber):
    """A subscriber that can be written to directly as long as its socket takes something."""

    def __init__(self, form: Form = plain) -> None:
        super().__init__()
        self.form = form
        self.takes = 100
        self.traffic = Traffic()
        # What was written directly; what was buffered first begins with an ellipsis.
        self.written: list[str] = []

    def direct_write(self) -> DirectWrite | None:
        """Return how to write to its socket, unless that is full."""
        if self.takes <= 0:
            return None
        return DirectWrite(self.form, self._send, self._write_rest, self.traffic)

    def _send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.written.append(taken.decode())
        return len(taken)

    def _write_rest(self, data: bytes, sent: int) -> None:
        self.written.append(f"…{data[sent:].decode()}")


class SubscriberListTests(HubTestCase):
    """How subscribers join groups and leave them."""

    def listen_directly(self, form: Form = plain) -> tuple[DirectSubscriber, Subscription]:
        """Subscribe a subscriber that can be written to directly."""
        subscriber = DirectSubscriber(form)
        return subscriber, self.subscribe(subscriber)

    def test_join(self) -> None:
        """From its second publication on, a subscriber is written to directly, in its own form."""
        (first, _), (second, _) = self.listen_directly(), self.listen_directly(loud)
        other = self.listen()
        for text in ("a", "b", "c"):
            self.publish(text)
        self.assertEqual((first.events[1:], first.written), (["a"], ["b", "c"]))
        self.assertEqual((second.events[1:], second.written), (["a"], ["B", "C"]))
        self.assertEqual(other.events[1:], ["a", "b", "c"])
        self.assertEqual(self.hub.counters.delivered, 9)
        self.assertEqual(self.hub.count("t"), 3)
        self.assertEqual(self.hub.subscribers("t"), [other, first, second])

    def test_late(self) -> None:
        """A subscriber that comes later joins the group with its first publication."""
        first, one = self.listen_directly()
        self.publish("a")
        second, another = self.listen_directly()
        self.publish("b")
        self.publish("c")
        self.assertEqual((first.written, second.written), (["b", "c"], ["c"]))
        self.assertIs(one._group, another._group)

    def test_short_write(self) -> None:
        """If a socket does not take all, the rest is buffered and the subscriber leaves."""
        first, subscription = self.listen_directly()
        second, _ = self.listen_directly()
        self.publish("a")
        first.takes = 1
        self.publish("bcd")
        self.assertEqual((first.written, second.written), (["b", "…cd"], ["bcd"]))
        self.assertIsNone(subscription._group)
        self.assertEqual(subscription.position, Id("e1", 2))
        first.takes = 0
        self.publish("e")
        self.assertEqual(first.events[1:], ["a", "e"])
        first.takes = 100
        self.publish("f")
        self.publish("g")
        self.assertEqual((first.events[1:], first.written[2:]), (["a", "e", "f"], ["g"]))
        self.assertEqual(second.written, ["bcd", "e", "f", "g"])

    def test_long_delivery(self) -> None:
        """Members that a step does not reach get the publication later, and stay in the group."""
        members = [self.listen_directly() for _ in range(3)]
        self.publish("a")
        self.patch(fanout, "_BYTES_PER_LOOK", 0)
        self.patch(hub, "_STEP", 0)
        self.hub.deliver(self.source.history.add("t", "b"))
        (first, one), (second, another), (third, _) = members
        received = []
        for _ in range(3):
            iterate(self.source.clock)
            received.append([list(member.written) for member in (first, second, third)])
        self.assertEqual(received, [[["b"], [], []], [["b"], ["b"], []], [["b"]] * 3])
        self.assertIs(one._group, another._group)
        self.hub.flush()
        self.publish("c")
        self.assertEqual([member.written[-1] for member, _ in members], ["c"] * 3)
        self.assertEqual(self.hub.counters.delivered, 9)

    def test_left_between_steps(self) -> None:
        """Members that leave while others are written to miss nothing, and get nothing twice."""
        members = [self.listen_directly() for _ in range(4)]
        self.publish("a")
        self.patch(fanout, "_BYTES_PER_LOOK", 0)
        self.patch(hub, "_STEP", 0)
        self.hub.deliver(self.source.history.add("t", "b"))
        iterate(self.source.clock)
        (first, _), (second, gone), (third, leaving), (fourth, _) = members
        self.assertEqual((first.written, second.written), (["b"], []))
        gone.cancel()
        leaving.leave_group()
        self.hub.flush()
        self.publish("c")
        self.assertEqual((second.events[1:], second.written), (["a"], []))
        self.assertEqual((third.events[1:], third.written), (["a", "b"], ["c"]))
        for member in (first, fourth):
            self.assertEqual((member.events[1:], member.written), (["a"], ["b", "c"]))

    def test_failed_delivery(self) -> None:
        """After a delivery that failed in the middle, each member finds out what it lacks."""
        (first, one), (second, _) = (self.listen_directly() for _ in range(2))
        self.publish("a")
        assert one._group is not None
        one._group.begin(Batch([self.source.history.add("t", "b")]))
        self.publish("c")
        for member in (first, second):
            self.assertEqual(member.events[1:], ["a", "b", "c"])

    def test_leave_group(self) -> None:
        """A subscriber that leaves its group misses nothing and gets nothing twice."""
        subscriber, subscription = self.listen_directly()
        subscription.leave_group()
        self.publish("a")
        self.publish("b")
        subscription.leave_group()
        subscription.leave_group()
        self.publish("c")
        self.publish("d")
        self.assertEqual((subscriber.events[1:], subscriber.written), (["a", "c"], ["b", "d"]))

    def test_cancel(self) -> None:
        """A cancelled member gets nothing more, and the last one takes the topic with it."""
        first, subscription = self.listen_directly()
        self.publish("a")
        subscription.cancel()
        self.assertEqual(self.hub.count("t"), 0)
        self.assertEqual(self.hub.topics(), [])
        self.publish("b")
        self.assertEqual(first.written, [])

    def test_gap(self) -> None:
        """If a publication is missing, each member reads it from the history, and joins again."""
        first, subscription = self.listen_directly()
        second, _ = self.listen_directly(loud)
        self.publish("a")
        self.publish("b")
        self.source.history.add("t", "missed")
        self.publish("c")
        for subscriber in (first, second):
            self.assertEqual(subscriber.events[1:], ["a", "missed", "c"])
        self.publish("d")
        self.publish("e")
        self.assertEqual(first.written, ["b", "e"])
        self.assertIsNotNone(subscription._group)

    def test_end_at_gap(self) -> None:
        """A gap that cannot be filled ends the subscribers that it concerns, also in a group."""
        (first, _), other = self.listen_directly(), self.listen()
        last = [self.publish(text).id for text in ("a", "b")][-1]
        self.hub.end_at_gap("t", last)
        self.hub.end_at_gap("u", last)
        self.assertNotIn("lost", first.events)
        self.hub.end_at_gap("t", Id("e1", 3))
        self.assertEqual((first.events[-1], other.events[-1]), ("lost", "lost"))
        self.assertEqual(self.hub.topics(), [])

    def test_ahead(self) -> None:
        """A subscriber ahead of the group stays outside of it until the group has caught up."""
        first, _ = self.listen_directly()
        self.publish("a")
        self.hub.deliver(self.source.history.add("t", "b"))
        # It has read "b" from the history by the time that "b" is delivered.
        second = DirectSubscriber()
        subscription = self.subscribe(second, "e1:0")
        self.assertEqual(second.events[1:], ["a", "b"])
        self.hub.flush()
        self.publish("c")
        self.publish("d")
        self.assertEqual(first.written, ["b", "c", "d"])
        self.assertEqual((second.events[1:], second.written), (["a", "b", "c"], ["d"]))
        self.assertIsNotNone(subscription._group)

    def test_cannot_be_rendered(self) -> None:
        """A publication that fails to render ends the subscribers of that form, and no others."""

        def picky(publication: Publication) -> bytes:
            if publication.data == "b":
                raise ValueError
            return plain(publication)

        (first, _), (second, _) = self.listen_directly(picky), self.listen_directly()
        self.patch(first, "deliver", lambda batch: batch.render(picky))
        for text in ("a", "b", "c"):
            self.publish(text)
        self.assertEqual(first.events[1:], ["lost"])
        self.assertEqual(second.written, ["b", "c"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_flush_counters(self) -> None:
        """What was written directly is counted on each connection once that is asked for."""
        subscriber, subscription = self.listen_directly()
        self.listen(topic="u")
        for text in ("a", "bc", "def"):
            self.publish(text)
        self.assertEqual(subscriber.traffic.messages_out, 0)
        self.hub.flush_counters()
        self.assertEqual((subscriber.traffic.messages_out, subscriber.traffic.bytes_out), (2, 5))
        self.publish("g")
        subscription.cancel()
        self.assertEqual((subscriber.traffic.messages_out, subscriber.traffic.bytes_out), (3, 6))


class SocketTests(SynchronousTestCase):
    """Groups over Twisted's own transports, in a whole daemon."""

    def setUp(self) -> None:
        """Connect a WebSocket that has two topics, and another that has one of them."""
        self.patch(FAST_PATHS, "enabled", True)
        self.daemon = Daemon({"/both/": both}, max_per_address=1000)
        self.addCleanup(self.daemon.stop)
        self.first, self.second = (
            open_websocket(self.daemon, "/both/"),
            open_websocket(self.daemon, "/topics/t"),
        )
        for topic in "tu":
            self.publish("begin", topic)
        for server in (self.first, self.second):
            server.fake_socket.given.clear()

    def publish(self, data: str, topic: str = "t") -> None:
        """Publish, and run until it is delivered."""
        self.daemon.request("POST", f"/topics/{topic}", body=data.encode(), control=True)

    def sent_to(self, server: SocketConnection) -> bytes:
        """Return all bytes that were sent to a browser."""
        return b"".join(server.fake_socket.given)

    def traffic(self) -> list[tuple[int, int]]:
        """Return the messages and bytes sent to each connection, as the control port lists them."""
        answer = self.daemon.request("GET", "/connections", control=True)
        assert answer is not None
        listed = json.loads(answer.body)["connections"]
        return [(one["messages_out"], one["bytes_out"]) for one in listed]

    def test_order(self) -> None:
        """What the kernel does not take is sent before everything that comes later."""
        self.first.fake_socket.room = 4
        self.publish("one")
        # There is room again, but the transport has not been notified yet.
        self.first.fake_socket.room = 100
        self.publish("two", "u")
        self.first.receive(frame(TEXT, b"three"))
        self.publish("four")
        self.assertEqual(self.sent_to(self.first), b"\x81\x03on")
        self.assertEqual(self.sent_to(self.second), b"\x81\x03one\x81\x04four")
        self.first.doWrite()
        said = b"\x81\x03one\x81\x03two\x81\x05three\x81\x04four"
        self.assertEqual(self.sent_to(self.first), said)
        for topic in "tutu":
            self.publish("x", topic)
        self.assertEqual(self.sent_to(self.first), said + b"\x81\x01x" * 4)

    def test_order_after_a_view(self) -> None:
        """The rest of a view's message is sent before what is published after it."""
        self.first.fake_socket.room = 3
        self.first.receive(frame(TEXT, b"one"))
        self.first.fake_socket.room = 100
        self.publish("two")
        self.publish("three", "u")
        self.assertEqual(self.sent_to(self.first), b"\x81\x03o")
        self.first.doWrite()
        self.assertEqual(self.sent_to(self.first), b"\x81\x03one\x81\x03two\x81\x05three")

    def test_traffic(self) -> None:
        """Messages written directly are counted for each connection and in the metrics."""
        before = self.traffic()
        self.publish("one")
        self.publish("more", "u")
        after = self.traffic()
        self.assertEqual(after[0], (before[0][0] + 2, before[0][1] + 11))
        self.assertEqual(after[1], (before[1][0] + 1, before[1][1] + 5))
        metrics = self.daemon.request("GET", "/metrics", control=True)
        assert metrics is not None
        said = sum(messages for messages, _ in after)
        self.assertIn(f'pushd_sent_messages_total{{transport="websocket"}} {said}.0', metrics.text)

    def test_failing(self) -> None:
        """A subscriber whose rest cannot be buffered is ended; the others get everything."""
        third = open_websocket(self.daemon, "/topics/t")
        self.publish("begin")
        for server in (self.first, self.second, third):
            server.fake_socket.given.clear()
            server.fake_socket.room = 1
        failing: Any = self.first
        really, errors = (
            failing.startWriting,
            [OSError(ENOSPC, "no room to watch another")],
        )

        def start_writing() -> None:
            if errors:
                raise errors.pop()
            really()

        self.patch(failing, "startWriting", start_writing)
        self.publish("abc")
        for server in (self.second, third):
            server.fake_socket.room = 100
            server.doWrite()
            self.assertEqual(self.sent_to(server), b"\x81\x03abc")
        self.publish("next")
        self.assertEqual(self.sent_to(third), b"\x81\x03abc\x81\x04next")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_gone(self) -> None:
        """A closed connection is written to no more; the other subscriber gets everything."""
        self.first.receive(close_frame(1000))
        self.assertFalse(self.first.connected)
        count = len(self.first.fake_socket.given)
        self.publish("one")
        self.publish("two", "u")
        self.assertEqual(len(self.first.fake_socket.given), count)
        self.assertEqual(self.sent_to(self.second), b"\x81\x03one")

    def test_slow(self) -> None:
        """A member that reads nothing is cut off after the same time as any other subscriber."""
        self.second.fake_socket.room = 0
        for _ in range(20):
            self.publish("x" * 60_000)
        self.daemon.advance(11)
        self.second.fake_socket.room = 1 << 30
        while unsent(self.second):
            self.second.doWrite()
        self.assertIn(TRY_AGAIN_LATER.code.to_bytes(2, "big"), self.second.fake_socket.given[-1])
        self.assertEqual(self.sent_to(self.first).count(b"x"), 20 * 60_000)
