"""Tests of the limit on how fast one address opens, resumes and fails connections."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access import throttle as throttle_module
from pushd.access.counters import Counters
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.access.throttle import LONGEST_DELAY, Throttle
from pushd.protocols.http.response import Response
from pushd.testing import Daemon, RawConnection
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.client_from import ClientFrom
from tests.support.fuzz_data import HANDSHAKE, head
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.peer import Peer

CLIENT = "192.0.2.1:5000"
OTHER = "192.0.2.2:5000"


class ThrottleTests(SynchronousTestCase):
    """Two events a second, so 20 in a burst; trusted proxies at 10.0.0.0/8."""

    def setUp(self) -> None:
        """Start without events."""
        self.clock = Clock()
        self.limits = Limits(max_rate_per_address=2)
        self.counters = Counters()
        proxies = Proxies(["10.0.0.0/8"])
        self.throttle = Throttle(self.clock, self.limits, proxies, self.counters.slowed)

    def count(self, times: int, peer: str = CLIENT) -> float:
        """Count events, and return the delay after them."""
        for _ in range(times):
            self.throttle.count(peer)
        return self.throttle.delay(peer)

    def test_burst(self) -> None:
        """Ten times the rate is let pass at once; then each event waits for its turn."""
        self.assertEqual(self.count(20), 0)
        self.assertEqual(self.throttle.delay(OTHER), 0)
        self.assertEqual([self.count(1) for _ in range(3)], [0.5, 1, 1.5])

    def test_rate(self) -> None:
        """Events at the rate never wait, also after a burst."""
        self.count(20)
        for _ in range(100):
            self.clock.advance(0.5)
            self.assertEqual(self.count(1), 0)

    def test_longest(self) -> None:
        """No delay is longer than ten seconds, and the excess is forgotten."""
        self.assertEqual(self.count(1000), LONGEST_DELAY)
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual(self.throttle.delay(CLIENT), 0)
        self.assertEqual(self.count(1), 0.5)

    def test_exempt(self) -> None:
        """Loopback addresses, Unix sockets and trusted proxies are never slowed, nor remembered."""
        for peer in ("unix", "127.0.0.1:80", "[::1]:80", "10.1.2.3:80", "::ffff:10.1.2.3"):
            self.assertEqual(self.count(1000, peer), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_networks(self) -> None:
        """IPv6 addresses count by their /64 prefix, and clients that are not named as one."""
        self.count(20, "[2001:db8::1]:80")
        self.assertEqual(self.count(1, "2001:db8::2"), 0.5)
        self.assertEqual(self.count(1, "2001:db8:0:1::1"), 0)
        self.count(20, "unknown")
        self.assertEqual(self.count(1, "unknown"), 0.5)

    def test_reload(self) -> None:
        """A changed limit applies to the events that follow."""
        self.assertEqual(self.count(21), 0.5)
        self.limits.change_to(Limits(max_rate_per_address=4))
        self.assertEqual(self.count(1), 0.75)

    def test_forgotten(self) -> None:
        """Nothing is kept of an address without an event for 20 s, and no timer."""
        self.count(1000)
        self.count(1, OTHER)
        self.clock.advance(19.9)
        self.assertEqual(len(self.throttle._used), 2)
        self.clock.advance(0.1)
        kept = (self.throttle._used, self.throttle._logged, self.clock.getDelayedCalls())
        self.assertEqual(kept, ({}, set(), []))

    def test_many(self) -> None:
        """The number of addresses is limited: the one without an event for longest is forgotten."""
        self.patch(throttle_module, "_MAX_ADDRESSES", 3)
        self.count(30)
        for number in (2, 3):
            self.count(1, f"192.0.2.{number}")
        self.assertGreater(self.count(1), 0)
        self.count(1, "192.0.2.4")
        self.assertEqual(len(self.throttle._used), 3)
        self.assertGreater(self.throttle.delay(CLIENT), 0)
        for number in (5, 6, 7):
            self.count(1, f"192.0.2.{number}")
        self.assertEqual(self.throttle.delay(CLIENT), 0)
        self.assertEqual(len(self.throttle._logged), 0)

    def test_stopped(self) -> None:
        """When the daemon stops, all is forgotten, and nothing is counted any more."""
        self.count(30)
        self.throttle.stop()
        self.assertEqual(self.count(30), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_told(self) -> None:
        """Each delay is counted, and an address is logged once until it is forgotten."""
        with capturedLogs() as events:
            self.count(20)
            for _ in range(3):
                self.count(1)
        self.assertEqual([event["event"] for event in events], ["slowed"])
        self.assertEqual((events[0]["peer"], events[0]["rate"]), (CLIENT, 2))
        self.assertIn(b"pushd_slowed_total 3.0", self.counters.render())

    @NO_DEADLINE
    @given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5)), max_size=40))
    def test_bounds(self, steps: list[tuple[float, int]]) -> None:
        """Whenever events come: those that waited as told exceed the rate by one burst at most."""
        self.setUp()
        starts: list[float] = []
        for seconds, times in steps:
            self.clock.advance(seconds)
            for _ in range(times):
                delay = self.count(1)
                self.assertLessEqual(delay, LONGEST_DELAY)
                starts.append(self.clock.seconds() + delay)
        for number, start in enumerate(sorted(starts)):
            if start < self.clock.seconds() + LONGEST_DELAY:
                self.assertLessEqual(number + 1, 2 * (start + 10) + 1e-3)


@accept_websocket
async def echo(request: Request) -> str | None:
    """Echo every message."""
    if not request.is_websocket():
        return "a page"
    async for message in request.websocket:
        request.websocket.send(message)
    return None


async def long_refusal(request: Request) -> Response:
    """Answer 404 with more than fits into a transport's buffer."""
    return Response(404, body="x" * 100_000)


PAGE = head("GET /page/ HTTP/1.1")
WRONG = head("GET /nothing HTTP/1.1")
SHAKE = head("GET /page/ HTTP/1.1", *HANDSHAKE)


class DelayTests(SynchronousTestCase):
    """A daemon that allows one event a second, so ten in a burst; and a client without a proxy."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.start()

    def start(self, **settings: Any) -> None:
        """Start a daemon; at its end it has no delayed calls."""
        views = {"/page/": echo, "/long/": long_refusal}
        self.daemon = Daemon(views, max_rate_per_address=1, **settings)
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(lambda: self.daemon.advance(*[25] * 6))
        self.addCleanup(lambda: self.daemon.stop())

    def connect(self, data: bytes = PAGE, address: str = "192.0.2.1") -> RawConnection:
        """Connect, and send something."""
        connection = self.daemon.open_connection(address=address)
        connection.send(data)
        return connection

    def use_up(self, left: int = 0) -> None:
        """Open and close connections until one more would wait, or some more."""
        for _ in range(10 - left):
            self.connect(b"").leave()

    def assert_answered_after(self, connection: RawConnection, seconds: float) -> None:
        """Assert that an answer comes after some seconds, and not before."""
        before = len(connection.received)
        self.daemon.advance(seconds - 0.01)
        self.assertEqual(len(connection.received), before)
        self.daemon.advance(0.02)
        self.assertGreater(len(connection.received), before)

    @property
    def slowed(self) -> str:
        """The number of delays in /metrics."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        return answer.text.partition("\npushd_slowed_total ")[2].partition("\n")[0]

    def test_opened(self) -> None:
        """Beyond the burst connections are accepted, and read one by one at the rate."""
        self.use_up()
        first, second = self.connect(), self.connect(SHAKE)
        self.assertEqual((first.closed, first.received), (False, b""))
        self.assertEqual(self.slowed, "2.0")
        self.assert_answered_after(first, 1)
        self.assert_answered_after(second, 0.99)
        self.assertIn(b" 101 ", second.received)

    def test_others(self) -> None:
        """Other addresses do not wait, nor does loopback, whatever its number."""
        self.use_up()
        self.assertIn(b"a page", self.connect(address="192.0.2.2").received)
        for _ in range(50):
            self.assertIn(b"a page", self.connect(address="127.0.0.1").received)
        self.assertEqual(self.slowed, "0.0")

    def test_addresses(self) -> None:
        """IPv6 clients wait like others; those of a Unix socket do not."""
        for address, waits in (
            (IPv6Address("TCP", "2001:db8::1", 5), True),
            (IPv4Address("TCP", "::ffff:192.0.2.9", 5), True),
            (UNIXAddress(None), False),
        ):
            clients = [ClientFrom(self.daemon, address) for _ in range(11)]
            self.assertEqual(clients[-1].ask() == "", waits)
            for client in clients:
                client.leave()

    def test_tls(self) -> None:
        """Over TLS not even the handshake is read before its time."""
        self.use_up()
        peer = Peer(self.daemon, tls=True, address=IPv4Address("TCP", "192.0.2.1", 5))
        peer.send(PAGE)
        self.assertGreater(peer.server.other.unsent, 0)
        self.assertEqual(peer.received, b"")
        peer.advance(1.01)
        self.assertIn(b"a page", peer.received)
        peer.vanish()

    def test_time_for_the_request(self) -> None:
        """The time for a request begins when it is read."""
        self.use_up()
        for _ in range(9):
            self.connect(b"").leave()
        connection = self.connect(b"GET /page/ HTTP/1.1\r\n")
        self.daemon.advance(10, 19.9)
        self.assertFalse(connection.closed)
        self.daemon.advance(0.1)
        self.assertIn(b" 408 ", connection.received)

    def test_left(self) -> None:
        """A client that leaves while it waits leaves nothing behind."""
        self.use_up()
        self.connect()._transport.abortConnection()
        self.daemon.settle()
        site: Any = self.daemon.clock.tcpServers[0][1]
        self.assertEqual(len(site.connections.delayed), 0)
        self.assertEqual(len(site.policy.admission), 0)

    def test_failed(self) -> None:
        """A request that is refused counts; the next on its connection waits."""
        self.use_up(left=2)
        connection = self.connect(WRONG)
        self.assertIn(b" 404 ", connection.received)
        connection.send(WRONG)
        self.assertEqual(connection.received.count(b" 404 "), 2)
        connection.send(PAGE)
        self.assertEqual(connection.received.count(b"HTTP/1.1 "), 2)
        self.assert_answered_after(connection, 1)
        self.assertIn(b"a page", connection.received)

    def test_idle(self) -> None:
        """A connection that waits between two requests is closed when it is idle for too long."""
        self.use_up(left=1)
        connection = self.connect(WRONG)
        self.assertEqual(self.slowed, "1.0")
        self.daemon.advance(1, self.daemon.settings.limits.keep_alive - 1)
        self.assertFalse(connection.closed)
        self.daemon.advance(1)
        self.assertTrue(connection.closed)

    def test_pipelined(self) -> None:
        """So do the requests that were sent behind it, even to a client that reads slowly."""
        self.use_up(left=1)
        connection = self.connect(b"")
        connection.stall()
        connection.send(WRONG + PAGE * 2)
        connection.resume()
        self.assertEqual(connection.received.count(b"HTTP/1.1 "), 1)
        self.assert_answered_after(connection, 1)
        self.assertEqual(connection.received.count(b"a page"), 2)

    def test_slow_reader(self) -> None:
        """A client that has yet to read its refusal waits all the same."""
        self.use_up(left=1)
        connection = self.connect(b"")
        connection.stall()
        connection.send(head("GET /long/ HTTP/1.1"))
        connection.resume()
        self.assertIn(b" 404 ", connection.received)
        connection.send(PAGE)
        self.assert_answered_after(connection, 1)
        self.assertIn(b"a page", connection.received)

    def test_malformed(self) -> None:
        """A malformed request counts, too, and one that does not come in time."""
        self.use_up(left=2)
        self.assertIn(b" 400 ", self.connect(b"GET\r\n\r\n").received)
        self.assertEqual(self.slowed, "0.0")
        self.assertEqual(self.connect(PAGE).received, b"")

    def test_resumed(self) -> None:
        """A WebSocket and an event stream that resume a topic count twice, a poll does not."""
        stream = "Accept: text/event-stream"
        for data in (
            head("GET /topics/a?after=x:1 HTTP/1.1", *HANDSHAKE),
            head("GET /topics/a?after=x:1 HTTP/1.1", stream),
            head("GET /topics/a HTTP/1.1", stream, "Last-Event-ID: x:1"),
        ):
            self.connect(data).leave()
        for data in (
            head("GET /topics/a HTTP/1.1", *HANDSHAKE),
            head("GET /topics/a HTTP/1.1", stream),
            head("GET /topics/a?after=x:1&wait=0 HTTP/1.1"),
        ):
            self.connect(data).leave()
        self.assertIn(b"a page", self.connect().received)
        self.assertEqual(self.connect().received, b"")

    def test_full(self) -> None:
        """A connection beyond the limit of connections waits for its 503."""
        self.start(max_connections=1)
        self.daemon.open_connection()
        self.use_up()
        connection = self.connect()
        self.assert_answered_after(connection, 1)
        self.assertIn(b" 503 ", connection.received)

    def test_stop(self) -> None:
        """A stop does not wait for connections that wait."""
        self.use_up()
        connection = self.connect(b"")
        self.daemon.stop()
        self.assertTrue(connection.closed)
        self.assertEqual(self.daemon.pending_calls, [])


class ForwardedTests(SynchronousTestCase):
    """The same limit for clients behind a trusted proxy."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.daemon = Daemon(
            {"/page/": echo}, proxies=Proxies(["127.0.0.1"]), max_rate_per_address=1
        )
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(lambda: self.daemon.advance(25))
        self.addCleanup(self.daemon.stop)

    def send(self, path: str, *lines: str, client: str = "192.0.2.1") -> RawConnection:
        """Send a request for a client on a connection of the proxy."""
        connection = self.daemon.open_connection()
        connection.send(head(f"GET {path} HTTP/1.1", f"X-Forwarded-For: {client}", *lines))
        return connection

    def test_opened(self) -> None:
        """Handshakes, streams and refused requests count, and what follows them waits."""
        for _ in range(4):
            self.send("/page/", *HANDSHAKE).leave()
            self.send("/topics/a", "Accept: text/event-stream").leave()
        for _ in range(2):
            self.assertIn(b" 404 ", self.send("/nothing").received)
        for _ in range(20):
            self.assertIn(b"a page", self.send("/page/").received)
        self.send("/nothing")
        page = self.send("/page/")
        self.assertEqual(page.received, b"")
        self.assertIn(b"a page", self.send("/page/", client="192.0.2.2").received)
        self.daemon.advance(1.01)
        self.assertIn(b"a page", page.received)

    def test_left(self) -> None:
        """A request whose client leaves while it waits is not answered, and holds no place."""
        for _ in range(11):
            self.send("/nothing")
        waiting = self.send("/page/")
        self.assertEqual(waiting.received, b"")
        waiting.leave()
        site: Any = self.daemon.clock.tcpServers[0][1]
        self.assertEqual(len(site.policy.admission._addresses), 0)


class ControlPortTests(SynchronousTestCase):
    def test_exempt(self) -> None:
        """No client of the control port is slowed."""
        daemon = Daemon({}, max_rate_per_address=1)
        self.addCleanup(daemon.stop)
        for _ in range(50):
            connection = daemon.open_connection(control=True, address="192.0.2.1")
            connection.send(head("GET /healthz HTTP/1.1").replace(b"localhost:8080", b"localhost"))
            self.assertIn(b"HTTP/1.1 200 ", connection.received)
