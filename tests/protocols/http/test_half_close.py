"""Clients that close their side of the connection and await the answer."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.protocols.http.channel import HALF_CLOSED_TIMEOUT
from pushd.protocols.proxy_protocol import ProxyProtocolFactory
from tests.support.channel_case import GET, ChannelTestCase
from tests.support.peer import (
    TEXT,
    Peer,
    UnixTransport,
    frame,
    handshake,
    request,
    said,
    serve,
)

SLOW = request("GET /slow/ HTTP/1.1", "Host: localhost:8080")
POLL = request("GET /topics/t?wait=60 HTTP/1.1", "Host: localhost:8080")
STREAM = request("GET /topics/t HTTP/1.1", "Host: a", "Accept: text/event-stream")
PROXY = b"PROXY TCP4 127.0.0.1 127.0.0.1 5000 8080\r\n"


def statuses(peer: Peer) -> list[int]:
    """Return the statuses of the answers that a client has got."""
    received = bytes(peer.received)
    return [int(one[:3]) for one in received.split(b"HTTP/1.1 ")[1:]]


class HalfCloseTests(ChannelTestCase):
    """Over plain connections; subclasses have the same over others."""

    def connect(self) -> Peer:
        """Open a connection."""
        return Peer(self.daemon)

    def finish(self, peer: Peer) -> None:
        """Close the client's side."""
        peer.half_close()

    def send(self, *segments: bytes) -> Peer:
        """Send bytes on a new connection, and close its client's side."""
        peer = self.connect()
        # In one piece with what follows, as the kernel may deliver them.
        for segment in segments:
            peer.transport.write(segment)  # type: ignore[union-attr]  # It is connected.
        self.finish(peer)
        return peer

    def assert_ended(self, peer: Peer) -> None:
        """Assert that a connection was closed in order, and left nothing behind."""
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(len(self.site.policy.admission), 0)
        # The address of a client that was refused is kept for a while.
        addresses = self.site.policy.throttle._recent
        for address in list(addresses):
            addresses.stop(address)
        left = [str(call) for call in self.daemon.pending_calls]
        # The topic's history is kept for a while.
        self.assertEqual([call for call in left if "History._expire" not in call], [])

    @property
    def site(self) -> Any:
        """The site of the public port."""
        return self.daemon.clock.tcpServers[0][1]

    def test_answer_at_once(self) -> None:
        """A view that has answered by then has its answer delivered."""
        peer = self.send(GET)
        self.assertEqual(peer.body, b"hello")
        self.assert_ended(peer)

    def test_idle(self) -> None:
        """A connection on which nothing is under way is closed at once."""
        for sent in ((), (GET,), (GET, b"\r\n")):
            peer = self.connect()
            peer.send(*sent)
            self.finish(peer)
            self.assertEqual(statuses(peer), [200] * (len(sent) > 0))
            self.assert_ended(peer)

    def test_unsent(self) -> None:
        """A client that closes its side before it has read the answer may still read it."""
        peer = self.connect()
        peer.stall()
        peer.send(GET)
        self.finish(peer)
        self.assertIsNone(peer.lost)
        peer.resume()
        self.assertEqual(peer.body, b"hello")
        self.assert_ended(peer)

    def test_later_answer(self) -> None:
        """A view goes on, and its answer arrives."""
        peer = self.send(SLOW)
        self.assertEqual(peer.received, b"")
        peer.advance(HALF_CLOSED_TIMEOUT - 1)
        self.answers[0].callback("slow")
        peer.settle()
        self.assertEqual(peer.body, b"slow")
        self.assert_ended(peer)

    def test_no_answer(self) -> None:
        """A view that writes nothing for a minute is ended: its client may be gone."""
        with capturedLogs() as events:
            peer = self.send(SLOW)
            peer.advance(HALF_CLOSED_TIMEOUT - 1)
            self.assertIsNone(peer.lost)
            peer.advance(2)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.site.policy.admission), 0)
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertIn("GET /slow/ left unanswered after 61.000 s", said(events)[-1])

    def test_pipelined(self) -> None:
        """All requests that arrived are answered, in order."""
        peer = self.send(SLOW, GET, SLOW, GET)
        self.answers[0].callback("one")
        peer.settle()
        self.assertEqual(statuses(peer), [200, 200])
        self.answers[1].callback("two")
        peer.settle()
        self.assertEqual(statuses(peer), [200] * 4)
        self.assert_ended(peer)

    def test_pipelined_time_out(self) -> None:
        """Each of them has a minute of its own."""
        peer = self.send(SLOW, SLOW)
        peer.advance(HALF_CLOSED_TIMEOUT - 1)
        self.answers[0].callback("one")
        peer.advance(HALF_CLOSED_TIMEOUT - 1)
        self.answers[1].callback("two")
        peer.settle()
        self.assertEqual(statuses(peer), [200, 200])
        self.assert_ended(peer)

    def test_incomplete(self) -> None:
        """A request of which a part is missing gets 400; what came before it, its answer."""
        whole = request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 2") + b"ab"
        for length in (1, 20, len(whole) - 3, len(whole) - 1):
            for before in ([], [GET]):
                peer = self.send(*before, whole[:length])
                self.assertEqual(statuses(peer), [*[200 for _ in before], 400])
                self.assertIn(b"the connection ended in the middle of the request", peer.body)
                self.assert_ended(peer)
        self.assertEqual(statuses(self.send(whole)), [200])

    def test_refused(self) -> None:
        """A refusal arrives, and the connection is closed at once."""
        long = request("GET / HTTP/1.1", "Host: a", "X: " + "x" * 20_000)
        large = request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 9999999")
        for sent, status in ((b"GET\r\n\r\n", 400), (long, 431), (large, 413)):
            peer = self.send(sent)
            self.assertEqual(statuses(peer), [status])
            self.assert_ended(peer)

    def test_long_poll(self) -> None:
        """A long poll is answered at once, as its client may be gone."""
        peer = self.send(POLL)
        self.assertEqual(statuses(peer), [200])
        self.assertIn(b'"publications":[]', peer.body)
        self.assert_ended(peer)

    def test_event_stream(self) -> None:
        """An event stream ends at once, in order."""
        peer = self.send(STREAM)
        self.assertIn(b"event: subscribed", peer.body)
        self.assertTrue(peer.body.endswith(b"\r\n0\r\n\r\n"))
        self.assert_ended(peer)

    def test_waiting_behind(self) -> None:
        """So does one that waited behind another request."""
        peer = self.send(SLOW, POLL, STREAM)
        self.answers[0].callback("slow")
        peer.settle()
        self.assertEqual(statuses(peer), [200] * 3)
        self.assert_ended(peer)

    def test_websocket(self) -> None:
        """A WebSocket needs both directions: its connection is lost."""
        peer = self.connect()
        peer.send(handshake("/hello/"), frame(TEXT, b"hi"))
        self.assertEqual(peer.texts, ["hi"])
        with capturedLogs() as events:
            self.finish(peer)
        self.assertIsNotNone(peer.lost)
        self.assertIn("1006", said(events)[-1])
        self.assertEqual(len(self.site.policy.admission), 0)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_handshake(self) -> None:
        """So is that of a handshake which is accepted later."""
        peer = self.send(SLOW, handshake("/hello/"))
        self.answers[0].callback("slow")
        peer.settle()
        peer.advance(0)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.site.policy.admission), 0)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_parts(self) -> None:
        """An answer of which parts keep coming is not cut off, nor is one that is read slowly."""
        parts: list[Any] = []

        class Parts(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                parts.append(request)
                return NOT_DONE_YET

        serve(self.daemon, Parts())
        peer = self.send(GET)
        for _ in range(4):
            parts[0].write(b"part")
            peer.advance(HALF_CLOSED_TIMEOUT - 1)
        self.assertIsNone(peer.lost)
        peer.stall()
        parts[0].write(b"x" * 100_000)
        parts[0].finish()
        peer.settle()
        peer.advance(30)
        peer.resume()
        self.assertTrue(peer.body.endswith(b"x\r\n0\r\n\r\n"))
        self.assert_ended(peer)


class ProxyTests(HalfCloseTests):
    """Behind a proxy that speaks the PROXY protocol."""

    def connect(self) -> Peer:
        """Open a connection, and name its client."""
        return Peer(self.daemon, proxy_header=PROXY)

    def test_no_head(self) -> None:
        """A connection that ends before it has named its client is closed."""
        for sent in (b"", PROXY[:10]):
            peer = Peer(self.daemon, proxy_header=sent)
            peer.half_close()
            self.assert_ended(peer)

    def test_refusal(self) -> None:
        """A refusal closes one direction only, or a reset could destroy it."""
        transport = UnixTransport(self.daemon)
        transport.unregisterProducer()
        factory = ProxyProtocolFactory(self.site, self.site, self.daemon.clock)
        wrapper = factory.buildProtocol(UNIXAddress(None))
        wrapper.makeConnection(transport)
        wrapper.dataReceived(PROXY + b"GET\r\n\r\n")
        self.assertIn(b" 400 ", transport.value())
        self.assertTrue(transport.write_closed)
        self.assertFalse(transport.disconnecting)


class ProxiedTlsTests(HalfCloseTests):
    """Over TLS behind a proxy that speaks the PROXY protocol."""

    def connect(self) -> Peer:
        """Open a connection, and name its client."""
        return Peer(self.daemon, tls=True, proxy_header=PROXY)

    def finish(self, peer: Peer) -> None:
        """Close both sides of TLS and of TCP."""
        peer.close_notify()
        peer.half_close()


class CloseNotifyTests(HalfCloseTests):
    """Over TLS, where the client sends a close_notify only."""

    def connect(self) -> Peer:
        """Open a connection."""
        return Peer(self.daemon, tls=True)

    def finish(self, peer: Peer) -> None:
        """Close the client's side of TLS."""
        peer.close_notify()


class WholeTlsTests(CloseNotifyTests):
    """Over TLS, where the client closes its side of TLS and of TCP."""

    def finish(self, peer: Peer) -> None:
        """Close both."""
        peer.close_notify()
        peer.half_close()


class TruncatedTlsTests(CloseNotifyTests):
    """Over TLS, where the client closes its side of TCP only."""

    def finish(self, peer: Peer) -> None:
        """Close the client's side of TCP."""
        peer.half_close()
