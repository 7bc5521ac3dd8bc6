"""Heartbeats: for clients that ask, over every transport on which the server speaks by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.api.keep_alives import KEEP_ALIVE_INTERVAL, KeepAlives
from pushd.protocols.websocket.protocol import PING_INTERVAL
from pushd.testing import Browser, RawConnection
from tests.schedule.test_timeouts import count_in_iterations
from tests.support.topic_clients import TopicTestCase

_EVENT = b"event: heartbeat\ndata: 10\n\n"


class WebSocketHeartbeatTests(TopicTestCase):
    """``?heartbeat=`` over ``pushd.v1``."""

    def connect(
        self, query: str = "?heartbeat=10", subprotocols: Sequence[str] = ("pushd.v1",)
    ) -> Browser:
        """Subscribe to the topic ``t``."""
        return self.daemon.connect(f"/topics/t{query}", subprotocols=subprotocols)

    def kinds(self, browser: Browser) -> list[str]:
        """Return the first key of each message."""
        return [next(iter(json.loads(message))) for message in browser.messages]

    def test_interval(self) -> None:
        """One comes before all other messages, the next ones after the interval that was asked."""
        browser = self.connect()
        self.assertEqual(browser.messages[0], '{"heartbeat":10}')
        self.daemon.advance(9)
        self.publish("t", "x")
        self.assertEqual(self.kinds(browser), ["heartbeat", "subscribed", "id"])
        self.daemon.advance(1, 9, 1)
        self.assertEqual(self.kinds(browser)[3:], ["heartbeat"] * 2)

    def test_not_asked(self) -> None:
        """A client that does not ask gets none, with or without the subprotocol."""
        browsers = [self.connect(""), self.connect("", ())]
        self.daemon.advance(*[1] * 60)
        self.assertEqual([len(browser.messages) for browser in browsers], [1, 0])

    def test_fan_out(self) -> None:
        """Publications and heartbeats keep their order, however they are written."""
        browser = self.connect()
        for number in range(6):
            self.publish("t", str(number))
            self.daemon.advance(5)
        kinds = self.kinds(browser)
        expected = ["id", "id", "heartbeat"] * 3
        self.assertEqual(kinds, ["heartbeat", "subscribed", *expected])

    def test_compressed(self) -> None:
        """The frame is not compressed, which a connection with compression allows."""
        connection = self.daemon.open_connection()
        connection.send(
            b"GET /topics/t?heartbeat=10 HTTP/1.1\r\nHost: localhost:8080\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: pushd.v1\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        head, _, frames = connection.received.partition(b"\r\n\r\n")
        self.assertIn(b"permessage-deflate", head)
        self.assertTrue(frames.startswith(b'\x81\x10{"heartbeat":10}'))
        connection.leave()

    def test_counted(self) -> None:
        """Heartbeats count as bytes of the connection, and not as messages."""
        self.connect()
        before = json.loads(self.control("GET", "/connections/1").body)
        self.daemon.advance(10)
        after = json.loads(self.control("GET", "/connections/1").body)
        self.assertEqual(after["messages_out"], before["messages_out"])
        self.assertEqual(after["bytes_out"], before["bytes_out"] + len('xx{"heartbeat":10}'))

    def test_behind_data(self) -> None:
        """None is added to data that waits for a slow client; it goes on afterwards."""
        self.start(limits=Limits(max_buffered=100_000))
        browser = self.connect()
        browser.stall()
        self.publish("t", "x" * 90_000)
        waiting = browser._transport.other.unsent
        self.daemon.advance(9.5)
        self.publish("t", "y")
        self.daemon.advance(0.4)
        browser._transport.other.take(50_000)
        self.daemon.advance(0.1)
        self.assertLess(browser._transport.other.unsent, waiting)
        browser.resume()
        self.assertEqual(self.kinds(browser), ["heartbeat", "subscribed", "id", "id"])
        self.daemon.advance(10)
        self.assertEqual(self.kinds(browser)[4:], ["heartbeat"])

    def test_end(self) -> None:
        """Nothing is sent after the end, and no timer stays."""
        for end in (Browser.leave, Browser.close):
            browser = self.connect()
            end(browser)
            self.daemon.advance(20)
            self.assertEqual(self.kinds(browser), ["heartbeat", "subscribed"])
        browser = self.connect()
        self.control("DELETE", "/connections/3")
        self.daemon.advance(20)
        self.assertEqual(self.kinds(browser), ["heartbeat", "subscribed"])

    def test_plain(self) -> None:
        """Without ``pushd.v1`` it would look like data, so the handshake is refused."""
        for offered in ((), ("other",)):
            refused = self.connect(subprotocols=offered).refused
            assert refused is not None
            self.assertEqual(refused.status, 400)
            self.assertIn('"error":"heartbeats need the subprotocol pushd.v1"', refused.text)

    def test_wrong(self) -> None:
        """An interval must be a whole number of seconds, not longer than what proxies bear."""
        for given in ("0", "26", "1.5", "x", "", "-1", "1e1", "%D9%A3", "9" * 500):
            refused = self.connect(f"?heartbeat={given}").refused
            assert refused is not None
            self.assertEqual(refused.status, 400, given)
            rule = "heartbeat must be a whole number of seconds from 1 to 25"
            self.assertIn(rule, refused.text)
        self.assertGreaterEqual(PING_INTERVAL, KEEP_ALIVE_INTERVAL)


class EventStreamHeartbeatTests(TopicTestCase):
    """``?heartbeat=`` over Server-Sent Events and long polling."""

    def open(self, query: str = "?heartbeat=10") -> RawConnection:
        """Open an event stream."""
        connection = self.daemon.open_connection()
        connection.send(
            f"GET /topics/t{query} HTTP/1.1\r\nHost: localhost:8080\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        return connection

    def test_interval(self) -> None:
        """One comes before all other events, the next ones after the interval each."""
        connection = self.open()
        body = connection.received.partition(b"\r\n\r\n")[2]
        self.assertTrue(body.partition(b"\r\n")[2].startswith(_EVENT + b"event: subscribed\n"))
        self.daemon.advance(9)
        self.publish("t", "x")
        self.assertEqual(connection.received.count(_EVENT), 1)
        self.daemon.advance(1, 10)
        self.assertEqual(connection.received.count(_EVENT), 3)
        # They take the place of comments.
        self.assertNotIn(b":\n\n", connection.received)
        connection.leave()

    def test_not_asked(self) -> None:
        """A client that does not ask gets comments only."""
        connection = self.open("")
        self.daemon.advance(*[5] * 12)
        self.assertNotIn(b"heartbeat", connection.received)
        self.assertEqual(connection.received.count(b"\r\n:\n\n"), 2)

    def test_poll(self) -> None:
        """A poll ignores it: each response is a sign of life."""
        answer = self.daemon.get("/topics/t?wait=0&heartbeat=10")
        assert answer is not None
        self.assertEqual((answer.status, "heartbeat" in answer.text), (200, False))

    def test_wrong(self) -> None:
        """A wrong interval is refused."""
        connection = self.open("?heartbeat=60")
        self.assertIn(b" 400 ", connection.received)


class KeepAlivesTests(SynchronousTestCase):
    """The queues of connections that are kept alive."""

    def test_spread(self) -> None:
        """Of thousands that are due at the same time, a portion is served in each iteration."""
        clock, served = Clock(), list[Any]()
        keep_alives = KeepAlives(clock)

        class Connection:
            def keep_alive(self) -> None:
                served.append(self)

        for _ in range(2000):
            keep_alives.every(10).start(Connection())
        numbers = count_in_iterations(clock, served, at=10)
        steps = [after - before for before, after in pairwise(numbers)]
        self.assertEqual((len(served), max(steps)), (2000, 64))

    def test_one_timer(self) -> None:
        """All connections with the same interval share a timer."""
        clock = Clock()
        keep_alives = KeepAlives(clock)
        self.assertIs(keep_alives.every(10), keep_alives.every(10))
        self.assertIsNot(keep_alives.every(10), keep_alives.every(11))
        self.assertEqual(clock.getDelayedCalls(), [])
