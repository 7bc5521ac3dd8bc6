"""The meter behind the page topics.html: every byte counts, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from pushd.api.playground import WAYS, Ledger, Meter, Tally
from pushd.testing.loopback import LoopbackTransport
from tests.api.test_playground import PlaygroundTestCase


class Wire:
    """A transport that takes a part of what it is given, or breaks."""

    def __init__(self) -> None:
        self.written = b""
        self.takes: int | ConnectionLost = 3
        self.room = 1

    def write(self, data: bytes) -> None:
        """Take all."""
        self.written += data

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Take all."""
        self.written += b"".join(pieces)

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        """Take some, or say why not."""
        return self.takes


class MeterTests(SynchronousTestCase):
    """A transport in front of another."""

    def setUp(self) -> None:
        """Stand between."""
        self.wire, self.tally = Wire(), Tally()
        self.meter = Meter(self.wire, self.tally)

    def test_counts(self) -> None:
        """What is written goes on, and counts, whichever way."""
        self.meter.write(b"abc")
        self.meter.writeSequence([b"de", b"", b"f"])
        self.assertEqual((self.wire.written, self.tally.sent), (b"abcdef", 6))

    def test_past_the_buffer(self) -> None:
        """Of what goes straight to the kernel, that counts which it takes."""
        self.assertEqual(self.meter.writeSomeData(b"abcdef"), 3)
        self.assertEqual(self.tally.sent, 3)
        for taken in (-1, ConnectionLost()):
            self.wire.takes = taken
            self.assertIs(self.meter.writeSomeData(b"x"), taken)
        self.assertEqual(self.tally.sent, 3)

    def test_is_the_one_behind(self) -> None:
        """In all else it is the transport behind it, by class as well."""
        self.assertIsInstance(self.meter, Wire)
        self.assertNotIsInstance(self.meter, LoopbackTransport)
        self.assertEqual(self.meter.room, 1)
        self.meter.room = 2
        self.assertEqual(self.wire.room, 2)
        self.assertFalse(hasattr(self.meter, "no such name"))


class LedgerTests(SynchronousTestCase):
    """What is written down for a topic."""

    def test_new(self) -> None:
        """Each way has cost nothing yet, and nobody is connected."""
        ledger = Ledger()
        self.assertEqual(tuple(ledger.tallies), WAYS)
        self.assertEqual(set(map(repr, ledger.tallies.values())), {repr(Tally())})
        self.assertEqual(len(ledger.meters), 0)

    def test_forgets(self) -> None:
        """A meter that nobody holds any more is not held here either."""
        ledger = Ledger()
        meter = Meter(SimpleNamespace(), Tally())
        ledger.meters.add(meter)
        self.assertEqual(len(ledger.meters), 1)
        del meter
        self.assertEqual(len(ledger.meters), 0)


class MeteredTests(PlaygroundTestCase):
    """The topic's own door behind a meter."""

    def test_bytes(self) -> None:
        """Every byte of an answer counts, and of a request as it would be at the topic's door."""
        stream = self.open("/play/topics/sse/play/a", "Accept: text/event-stream", "X: y")
        poll = self.open("/play/topics/longpoll/play/a?wait=5")
        self.publish("play/a")
        stream_head = (
            b"GET /topics/play/a HTTP/1.1\r\nHost: localhost:8080\r\n"
            b"Accept: text/event-stream\r\nX: y\r\n\r\n"
        )
        poll_head = b"GET /topics/play/a?wait=5 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
        costs = self.costs("play/a")
        self.assertEqual(
            costs["sse"],
            {"requests": 1, "received": len(stream_head), "sent": len(stream.received)},
        )
        self.assertEqual(
            costs["longpoll"],
            {"requests": 1, "received": len(poll_head), "sent": len(poll.received)},
        )
        self.assertEqual(costs["poll"]["requests"], 0)

    def test_websocket(self) -> None:
        """A WebSocket's answer counts, and each frame with its head."""
        self.daemon.connect("/play/topics/websocket/play/a")
        before = self.costs("play/a")["websocket"]
        self.assertEqual(before["requests"], 1)
        self.assertGreater(before["received"], 100)
        self.assertGreater(before["sent"], 100)
        self.publish("play/a", b"hello")
        after = self.costs("play/a")["websocket"]
        self.assertEqual(after["sent"] - before["sent"], 2 + len("hello"))
        self.daemon.advance(25)
        self.assertEqual(self.costs("play/a")["websocket"]["sent"], after["sent"] + 2 + 4, "a ping")

    def test_connection_is_kept(self) -> None:
        """What else comes by the same connection is not counted."""
        wire = self.open("/play/topics/poll/play/a?wait=0")
        costs = self.costs("play/a")["poll"]
        size = len(wire.received)
        wire.send(b"GET /test/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertGreater(len(wire.received), size)
        self.assertEqual(self.costs("play/a")["poll"], costs)
        wire.send(b"GET /play/topics/poll/play/a?wait=0 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertEqual(self.costs("play/a")["poll"]["sent"], 2 * costs["sent"])

    def test_right_behind(self) -> None:
        """Requests that come in one piece are counted each for itself."""
        alone = self.open("/play/topics/poll/play/a?wait=0")
        head = b" HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
        wire = self.daemon.open_connection()
        wire.send(
            b"".join(
                b"GET " + path + head
                for path in (
                    b"/play/topics/poll/play/b?wait=0",
                    b"/play/topics/longpoll/play/b?wait=0",
                    b"/test/",
                )
            )
        )
        costs = self.costs("play/b")
        self.assertEqual(costs["poll"]["sent"], len(alone.received))
        self.assertEqual(costs["longpoll"]["sent"], len(alone.received))
