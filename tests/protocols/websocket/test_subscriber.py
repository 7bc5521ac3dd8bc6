"""Subscribers of a WebSocket: formats, back-pressure and direct writes."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import HISTORY_GAP, Closing
from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.protocols.websocket.send_queue import SendQueue
from pushd.protocols.websocket.subscriber import (
    JsonWebSocketSubscriber,
    WebSocketSubscriber,
)
from pushd.topics import fanout
from pushd.topics.broker import MemoryBroker
from pushd.topics.fanout import Send
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.presence import Presence
from pushd.topics.publication import Id


class FakeWebSocket:
    """A WebSocket and its connection: records what it sends, and has room for some of it."""

    transport = "websocket"

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []
        self.closings: list[Closing] = []
        # The rest of frames of which the socket itself took a part.
        self.rests: list[bytes] = []
        self.send_queue = SendQueue()
        self.window_bits = 0
        self.traffic = Traffic()
        self.sender: Send | None = None
        # A subscriber that is stopped with the last message that there is room for.
        self.stopped_last: WebSocketSubscriber | None = None
        # The largest batch that there is room for, in bytes.
        self.max_more = 1000
        self.make_room(1000)

    @property
    def wire(self) -> Any:
        """The connection."""
        return self

    def make_room(self, room: int) -> None:
        """Have room for a number of messages."""
        self.room = room
        if room:
            self.send_queue.resume()
        else:
            self.send_queue.pause()

    def push_frames(self, frames: bytes) -> None:
        """Record each frame."""
        if frames[0] != 0x81 and frames[0] != 0x82:
            self.rests.append(frames)
            return
        while frames:
            head, length = frames[0], frames[1]
            self.push(frames[2 : 2 + length], binary=head == 0x82)
            frames = frames[2 + length :]

    def push(self, payload: bytes, *, binary: bool) -> None:
        """Record a message."""
        self.sent.append((payload, binary))
        self.room -= 1
        if self.room == 0:
            self.send_queue.pause()
            if self.stopped_last is not None:
                self.stopped_last.stop()

    @property
    def taken(self) -> int:
        """Return that the peer takes nothing."""
        return 0

    def is_full(self, more: int = 0) -> bool:
        """Whether there is no room left, or there would be none."""
        return self.room <= 0 or more > self.max_more

    def close_with(self, closing: Closing) -> Any:
        """Record the closing."""
        self.closings.append(closing)


class SubscriberTests(SynchronousTestCase):
    """Subscribers that send plain frames, and JSON."""

    def setUp(self) -> None:
        """Make a hub, which passes on publications one by one, and a fake WebSocket."""
        self.patch(fanout, "_PIECE_SIZE", 0)
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock, History(self.clock, Retention(), lambda: "e"))
        self.hub = Hub(self.broker, self.clock)
        self.broker.start(self.hub.deliver)
        self.socket = FakeWebSocket()

    def publish(self, data: str | bytes) -> None:
        """Publish, and deliver at once."""
        self.broker.publish("t", data)
        self.hub.flush()

    def test_catch_up(self) -> None:
        """It sends what was published before; nothing once it was stopped."""
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", None)
        self.broker.publish("t", "a")
        subscriber.catch_up()
        self.assertEqual(self.socket.sent, [(b"a", False)])
        self.broker.publish("t", "b")
        subscriber.stop()
        subscriber.catch_up()
        self.assertEqual(len(self.socket.sent), 1)

    def test_attendance(self) -> None:
        """An attendance ends with the subscription, at once if that has ended before."""
        presence = Presence(self.clock, Limits(), "n", None)
        self.addCleanup(presence.stop)
        for stops_first in (False, True):
            subscriber = WebSocketSubscriber(self.socket)
            subscriber.start(self.hub, "t", None)
            if stops_first:
                subscriber.stop()
            subscriber.attend(presence.join("t", 1))
            self.assertEqual(presence.counts("t"), (1, 0 if stops_first else 1))
            subscriber.stop()
            subscriber.stop()
            self.assertEqual(presence.counts("t"), (1, 0))
        subscriber.attend(None)

    def test_plain(self) -> None:
        """Text is a text frame, bytes are a binary one."""
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", None)
        self.publish("é")
        self.publish(b"\xff")
        self.assertEqual(self.socket.sent, [("é".encode(), False), (b"\xff", True)])
        self.assertIs(self.successResultOf(subscriber.recovered), False)

    def test_json(self) -> None:
        """Each frame is JSON; the first has the id that the others follow."""
        self.publish("old")
        subscriber = JsonWebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", Id("e", 0))
        self.publish(b"\xff")
        self.assertEqual(
            self.socket.sent,
            [
                (b'{"subscribed":"t","id":"e:0","recovered":true}', False),
                (b'{"id":"e:1","data":"old"}', False),
                (b'{"id":"e:2","base64":"/w=="}', False),
            ],
        )
        self.assertIs(self.successResultOf(subscriber.recovered), True)

    def test_no_room(self) -> None:
        """Without room it waits in the send queue until it is resumed."""
        for number in range(3):
            self.publish(str(number))
        self.socket.make_room(1)
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.resume()
        subscriber.start(self.hub, "t", Id("e", 0))
        self.assertEqual(len(self.socket.send_queue), 1)
        self.socket.make_room(5)
        self.assertEqual([payload for payload, _ in self.socket.sent], [b"0", b"1", b"2"])

    def test_stop(self) -> None:
        """It can be stopped, also twice; then nothing is sent."""
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", None)
        subscriber.stop()
        subscriber.stop()
        self.publish("x")
        self.assertEqual((self.socket.sent, self.hub.topics()), ([], []))

    def test_stopped_by_its_beginning(self) -> None:
        """If its first messages end the conversation, no subscription is left."""
        for number in range(3):
            self.publish(str(number))
        for room in (1, 2, 3):
            self.socket.make_room(room)
            self.socket.stopped_last = WebSocketSubscriber(self.socket)
            self.socket.stopped_last.start(self.hub, "t", Id("e", 0))
            self.assertEqual(self.hub.topics(), [])
            self.assertEqual(len(self.socket.sent), room)
            self.socket.sent.clear()

    def test_stopped_before_it_began(self) -> None:
        """If it is stopped before it has started, its Deferred gives False."""
        self.publish("x")
        self.socket.make_room(0)
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", Id("e", 0))
        self.assertNoResult(subscriber.recovered)
        subscriber.stop()
        self.assertIs(self.successResultOf(subscriber.recovered), False)
        self.socket.stopped_last = WebSocketSubscriber(self.socket)
        self.socket.stopped_last.stop()
        self.assertIs(self.successResultOf(self.socket.stopped_last.recovered), False)

    def test_does_not_keep_up(self) -> None:
        """Publications that it had no room for are read from the history when there is."""
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", None)
        self.socket.make_room(1)
        for number in range(3):
            self.publish(str(number))
        self.assertEqual([payload for payload, _ in self.socket.sent], [b"0"])
        self.assertEqual(len(self.socket.send_queue), 1)
        self.socket.make_room(5)
        self.publish("3")
        self.assertEqual([payload for payload, _ in self.socket.sent], [b"0", b"1", b"2", b"3"])

    def test_too_large(self) -> None:
        """A publication that is too large, as written, comes when nothing waits before it."""
        subscriber = JsonWebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", None)
        self.socket.send_queue.pause()
        self.socket.max_more = 50
        self.publish("\0" * 10)
        self.assertEqual(len(self.socket.sent), 1)
        self.assertFalse(subscriber.keeps_up())
        self.socket.max_more = 100
        self.assertTrue(subscriber.keeps_up())
        self.socket.send_queue.resume()
        self.assertIn(rb"\u0000", self.socket.sent[1][0])
        self.socket.send_queue.pause()
        self.publish("small")
        self.assertEqual(len(self.socket.sent), 3)

    def test_past_it(self) -> None:
        """With an empty buffer publications are written to the socket directly."""
        taken: list[bytes] = []

        def send(data: bytes) -> int:
            taken.append(data)
            return len(data) - 1

        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", None)
        self.socket.sender = send
        for text in ("a", "b", "c"):
            self.publish(text)
        # The second was the first that the socket was given, and it did not take it all.
        self.assertEqual(taken, [b"\x81\x01b"])
        self.assertEqual(self.socket.rests, [b"b"])
        self.assertEqual(self.socket.sent, [(b"a", False), (b"c", False)])

    def test_leave_group(self) -> None:
        """After leave_group() publications go through the buffer; after stop() nothing is sent."""
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.leave_group()
        self.socket.sender = len
        subscriber.start(self.hub, "t", None)
        for text in ("a", "b"):
            self.publish(text)
        subscriber.leave_group()
        self.socket.sender = None
        self.publish("c")
        self.assertEqual(self.socket.sent, [(b"a", False), (b"c", False)])
        self.assertEqual((self.socket.traffic.messages_out, self.socket.traffic.bytes_out), (3, 9))
        subscriber.stop()
        subscriber.leave_group()
        self.assertIsNone(subscriber.direct_write())

    def test_subscription_lost(self) -> None:
        """One that has missed publications for good closes with 1013: reconnect."""
        for number in range(3):
            self.publish(str(number))
        self.socket.make_room(1)
        subscriber = WebSocketSubscriber(self.socket)
        subscriber.start(self.hub, "t", Id("e", 0))
        self.clock.advance(1000)
        self.socket.make_room(5)
        self.assertEqual(self.socket.closings, [HISTORY_GAP])
        self.assertEqual(len(self.socket.sent), 1)
