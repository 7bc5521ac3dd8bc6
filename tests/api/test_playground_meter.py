"""The meter behind the page topics.html: every byte counts, and nothing else changes."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.api.playground import WAYS, Cost, CountingTransport, TopicCosts
from tests.api.test_playground import PlaygroundTestCase
from tests.peer import Peer, close_frame, handshake, request


class FakeChannel(Protocol):
    """An HTTP channel that keeps what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class FakeTransport(StringTransport):
    """A transport that delivers to a protocol."""

    protocol: Any = None


class CountingTransportTests(SynchronousTestCase):
    """A meter between a transport and its channel."""

    def setUp(self) -> None:
        self.channel: Any = FakeChannel()
        self.transport = FakeTransport()
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)
        self.cost = Cost()
        self.connections: WrappingFactory[CountingTransport] = WrappingFactory(None)
        self.counting = CountingTransport(self.connections, self.channel, self.cost)
        self.counting.insert()

    def test_sending(self) -> None:
        """What the channel sends reaches the transport, and counts."""
        self.channel.transport.write(b"abc")
        self.channel.transport.writeSequence([b"de", b"", b"f"])
        self.assertEqual((self.transport.value(), self.cost.sent), (b"abcdef", 6))

    def test_receiving(self) -> None:
        """What the transport receives reaches the channel, and does not count."""
        self.transport.protocol.dataReceived(b"abc")
        self.assertEqual((self.channel.received, self.cost.sent), (b"abc", 0))

    def test_is_a_transport(self) -> None:
        """The channel finds every method and interface of its transport at the meter."""
        self.assertEqual(self.counting.getPeer(), self.transport.getPeer())
        self.assertTrue(ITransport.providedBy(self.counting))
        self.channel.transport.abortConnection()
        self.assertTrue(self.transport.disconnected)

    def test_removed(self) -> None:
        """A removed meter leaves the connection as it was."""
        self.assertIn(self.counting, self.connections.protocols)
        self.counting.remove()
        self.assertIs(self.channel.transport, self.transport)
        self.assertIs(self.transport.protocol, self.channel)
        self.assertEqual(self.connections.protocols, {})

    def test_taken_over(self) -> None:
        """A meter stays in place for the WebSocket that took the connection over."""
        websocket = FakeChannel()
        self.channel.transport = None
        self.counting.wrappedProtocol = websocket
        self.counting.remove()
        self.transport.protocol.dataReceived(b"abc")
        self.assertEqual(websocket.received, b"abc")
        self.assertIn(self.counting, self.connections.protocols)

    def test_lost(self) -> None:
        """The channel is told that its connection is lost, and may remove the meter then."""
        lost: list[bool] = []

        def remove(reason: Failure) -> None:
            self.counting.remove()
            lost.append(self.counting in self.connections.protocols)

        self.channel.connectionLost = remove
        self.transport.protocol.connectionLost(connectionDone)
        self.assertEqual(lost, [False])
        self.assertIs(self.transport.protocol, self.counting)


class TopicCostsTests(SynchronousTestCase):
    """What is written down for a topic."""

    def test_new(self) -> None:
        """Each way has cost nothing yet, and there are no connections."""
        costs = TopicCosts()
        self.assertEqual(tuple(costs.by_way), WAYS)
        self.assertEqual(set(map(repr, costs.by_way.values())), {repr(Cost())})
        self.assertEqual(costs.connections.protocols, {})


class CountedTopicTests(PlaygroundTestCase):
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

    def test_tls(self) -> None:
        """Over TLS the plain bytes count, of answers and of frames."""
        peer = Peer(self.daemon, tls=True)
        peer.send(request("GET /play/topics/poll/play/a?wait=0 HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(self.costs("play/a")["poll"]["sent"], len(peer.received))
        del peer.received[:]
        peer.send(handshake("/play/topics/websocket/play/a"))
        self.publish("play/a", b"hello")
        peer.settle()
        self.assertEqual(peer.texts, ["hello"])
        self.assertEqual(self.costs("play/a")["websocket"]["sent"], len(peer.received))
        peer.send(close_frame(1000))
        self.assertEqual((peer.code, peer.lost), (1000, ConnectionDone))

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
