"""Tests of the limits on connections: in all, and from one address."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from pushd.access.admission import Admission, Slot, client_key
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.protocols.http.response import Response
from pushd.testing import Answer, Browser, Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.client_from import ClientFrom
from tests.support.peer import handshake

PROXY = Proxies(["127.0.0.1"])


class SlotTests(SynchronousTestCase):
    def test_released_once(self) -> None:
        """Releasing a slot again does nothing."""
        admission = Admission(Limits(max_connections=2, max_per_address=2), Proxies())
        slot, other = admission.admit("192.0.2.1"), admission.admit("192.0.2.1")
        assert slot is not None and other is not None
        slot.release()
        slot.release()
        self.assertEqual(len(admission), 1)


class AdmissionTests(SynchronousTestCase):
    """A limit of five connections, and two per address; trusted proxies at 10.0.0.0/8."""

    def setUp(self) -> None:
        """Start without connections."""
        limits = Limits(max_connections=5, max_per_address=2)
        self.admission = Admission(limits, Proxies(["10.0.0.0/8", "2001:db8::/32"]))

    def connect(self, *addresses: str | None) -> list[Slot]:
        """Connect from each address; return the slots of connections that were admitted."""
        slots = [self.admission.admit(address) for address in addresses]
        return [slot for slot in slots if slot is not None]

    def test_limit(self) -> None:
        """No more connections than the limit are admitted, from whatever address."""
        self.assertEqual(len(self.connect("192.0.2.1", "192.0.2.2", None, "10.0.0.1", "::1")), 5)
        self.assertEqual(len(self.admission), 5)
        self.assertEqual(self.connect("192.0.2.3", "127.0.0.1", "10.0.0.1", None), [])
        self.assertEqual(len(self.admission), 5)

    def test_release(self) -> None:
        """After a slot is released one more connection is admitted, from any address."""
        slots = self.connect(*["127.0.0.1"] * 5)
        slots[0].release()
        slots[0].release()
        self.assertEqual(len(self.admission), 4)
        self.assertEqual(len(self.connect("192.0.2.1", "192.0.2.2")), 1)

    def test_per_address(self) -> None:
        """One address may have two connections; other addresses are not affected."""
        first, _ = self.connect(*["192.0.2.1"] * 4)
        self.assertEqual(len(self.admission), 2)
        self.assertEqual(len(self.connect("192.0.2.2")), 1)
        first.release()
        first.release()
        self.assertEqual(len(self.connect(*["192.0.2.1"] * 2)), 1)

    def test_refused_counts_nothing(self) -> None:
        """A connection beyond the limit in all does not count towards its address."""
        full = self.connect(*["::1"] * 5)
        self.connect(*["192.0.2.1"] * 3)
        for slot in full:
            slot.release()
        self.assertEqual(len(self.connect(*["192.0.2.1"] * 3)), 2)

    def test_exempt(self) -> None:
        """Loopback addresses, Unix sockets and trusted proxies have no limit per address."""
        for address in (
            None,
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "::ffff:127.0.0.1",
            "10.1.2.3",
            "::ffff:10.1.2.3",
            "2001:db8::1",
        ):
            slots = self.connect(*[address] * 6)
            self.assertEqual(len(slots), 5, address)
            for slot in slots:
                slot.release()
            self.assertEqual(len(self.admission), 0)

    def test_spellings(self) -> None:
        """An address counts as one however it is written, even as IPv4-mapped IPv6."""
        slots = self.connect("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:c000:201")
        self.assertEqual(len(slots), 2)
        self.assertIsNone(self.admission.admit_client("192.0.2.1"))

    def test_client(self) -> None:
        """Clients behind a proxy and direct connections share the limit of their address."""
        slots = [self.admission.admit_client("192.0.2.1") for _ in range(3)]
        self.assertIsNone(slots[2])
        self.assertEqual(self.connect("192.0.2.1"), [])
        self.assertEqual(len(self.admission), 0)
        assert slots[0] is not None
        slots[0].release()
        slots[0].release()
        self.assertEqual(len(self.connect(*["192.0.2.1"] * 2)), 1)

    def test_client_exempt(self) -> None:
        """A client behind a proxy that is itself a proxy, or on this machine, is exempt, too."""
        for address in ("10.0.0.7", "127.0.0.1", "::1"):
            self.assertNotIn(None, [self.admission.admit_client(address) for _ in range(10)])

    def test_client_when_full(self) -> None:
        """A client is admitted over its proxy's connection even if no further connection is."""
        self.connect(*["10.0.0.1"] * 5)
        self.assertIsNotNone(self.admission.admit_client("192.0.2.1"))

    def test_client_unknown(self) -> None:
        """Clients whose address a proxy does not give share one limit."""
        slots = [self.admission.admit_client("unknown") for _ in range(3)]
        self.assertIsNotNone(slots[1])
        self.assertIsNone(slots[2])

    def test_changed_limits(self) -> None:
        """Changed limits apply to new connections; open connections stay."""
        limits = Limits(max_connections=1, max_per_address=1)
        admission = Admission(limits, Proxies())
        self.assertIsNotNone(admission.admit("10.0.0.1"))
        limits.change_to(Limits(max_connections=3, max_per_address=2))
        self.assertIsNotNone(admission.admit("10.0.0.1"))
        self.assertIsNone(admission.admit("10.0.0.1"))
        self.assertIsNotNone(admission.admit("10.0.0.2"))
        limits.change_to(Limits(max_connections=1, max_per_address=1))
        self.assertEqual(len(admission), 3)
        self.assertIsNone(admission.admit("10.0.0.3"))

    def test_no_memory(self) -> None:
        """Nothing is kept of an address that has no connections any more."""
        for number in range(1000):
            address = f"192.0.{number // 256}.{number % 256}"
            (slot,) = self.connect(address)
            client = self.admission.admit_client(address)
            assert client is not None
            client.release()
            slot.release()
        self.assertEqual((len(self.admission), len(self.admission._addresses)), (0, 0))


class AdmissionTestCase(SynchronousTestCase):
    """A daemon with WebSockets, a page, and a page that responds when the test says so."""

    def setUp(self) -> None:
        """Keep the Deferreds of pending requests."""
        self.pending: list[Deferred[str]] = []

    def start(self, **settings: Any) -> None:
        """Start the daemon."""

        @accept_websocket
        async def echo(request: Request) -> None:
            async for message in request.websocket:
                request.websocket.send(message)

        @accept_websocket
        async def bye(request: Request) -> None:
            await request.websocket.wait()

        @accept_websocket
        async def never(request: Request) -> Response:
            return Response(403, body="no")

        async def slow(request: Request) -> str:
            response: Deferred[str] = Deferred()
            self.pending.append(response)
            return await response

        def page(request: Request) -> str:
            return "a page"

        self.daemon = Daemon(
            {"/echo/": echo, "/bye/": bye, "/never/": never, "/slow/": slow, "/page/": page},
            **settings,
        )
        self.addCleanup(self.daemon.stop)

    def connect(self, client: str | None = None, path: str = "/echo/") -> Browser:
        """Open a WebSocket, for a client behind the proxy."""
        return self.daemon.connect(path, headers={"X-Forwarded-For": client} if client else {})

    def get(self, client: str | None = None, path: str = "/page/") -> Answer:
        """Request a page, for a client behind the proxy."""
        answer = self.daemon.get(path, {"X-Forwarded-For": client} if client else {})
        assert answer is not None, "there is no response"
        return answer

    def assert_busy(self, *answers: Answer | None) -> None:
        """Check that requests were answered with 503 and Retry-After."""
        for answer in answers:
            assert answer is not None, "there is no response"
            self.assertEqual(answer.status, 503)
            self.assertEqual(answer.headers["Retry-After"], "5")
            self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
            self.assertEqual(answer.text.count("\n"), 1)

    def count(self) -> float:
        """Return the number of refusals with the reason ``busy``, from /metrics."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == 'pushd_refused_total{reason="busy"}':
                return float(value)
        return 0


class ConnectionSlotTests(AdmissionTestCase):
    """How long a connection counts towards a limit of one in all."""

    def setUp(self) -> None:
        """Start a daemon with a limit of one connection."""
        super().setUp()
        self.start(max_connections=1)

    def assert_taken(self) -> None:
        """Check that the limit is reached, for HTTP and WebSockets."""
        before = self.count()
        self.assert_busy(self.get(), self.connect().refused)
        self.assertEqual(self.count(), before + 2)

    def assert_free(self) -> None:
        """Check that the limit is not reached."""
        self.assertEqual(self.get().status, 200)

    def test_http(self) -> None:
        """An HTTP connection counts until it closes, not until the response is sent."""
        self.assert_free()
        connection = self.daemon.open_connection()
        self.assert_taken()
        connection.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertIn(b"a page", connection.received)
        self.assert_taken()
        connection.leave()
        self.assert_free()

    def test_refused_request(self) -> None:
        """A connection whose request was refused counts until it closes."""
        connection = self.daemon.open_connection()
        connection.send(b"bad\r\n\r\n")
        connection.leave()
        self.assert_free()

    def test_timed_out(self) -> None:
        """A connection without a request counts until the request times out."""
        self.daemon.open_connection()
        self.daemon.advance(19)
        self.assert_taken()
        self.daemon.advance(1)
        self.assert_free()

    def test_websocket(self) -> None:
        """A WebSocket counts while it is open, even without messages."""
        browser = self.connect()
        self.assertTrue(browser.opened)
        self.assert_taken()
        self.daemon.advance(*[20] * 10)
        self.assert_taken()
        browser.close()
        self.assertTrue(browser.gone)
        self.assert_free()

    def test_websocket_lost(self) -> None:
        """A WebSocket counts until its connection is lost."""
        browser = self.connect()
        self.assert_taken()
        browser.leave()
        self.assert_free()

    def test_websocket_closing(self) -> None:
        """A WebSocket that is closing counts until its connection is gone."""
        browser = self.connect(path="/bye/")
        browser.stall()
        browser.send("go")
        self.assertFalse(browser.gone)
        self.assert_taken()
        self.daemon.advance(4.5)
        self.assert_taken()
        self.daemon.advance(0.5)
        self.assertTrue(browser.gone)
        self.assert_free()

    def test_websocket_refused_by_the_view(self) -> None:
        """The connection of a WebSocket that the view refuses counts until it closes."""
        connection = self.daemon.open_connection()
        connection.send(handshake("/never/"))
        self.assertIn(b" 403 ", connection.received)
        self.assert_taken()
        connection.leave()
        self.assert_free()

    def test_released_once(self) -> None:
        """A connection that closes and is lost releases its slot once."""
        for _ in range(3):
            browser = self.connect()
            browser.close()
            browser.leave()
        self.daemon.open_connection()
        self.assert_taken()

    def test_control_port(self) -> None:
        """The control port has a limit of its own, so operators can connect at any time."""
        self.connect()
        answer = self.daemon.request("GET", "/healthz", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)


class ClientSlotTests(AdmissionTestCase):
    """How long a client behind a proxy counts towards a limit of one per address."""

    def setUp(self) -> None:
        """Start a daemon that trusts a proxy."""
        super().setUp()
        self.start(max_per_address=1, proxies=PROXY)

    def assert_taken(self, client: str = "192.0.2.1") -> None:
        """Check that the client's limit is reached, and another client's is not."""
        before = self.count()
        self.assert_busy(self.get(client), self.connect(client).refused)
        self.assertEqual(self.count(), before + 2)
        self.assertEqual(self.get("192.0.2.2").status, 200)

    def assert_free(self, client: str = "192.0.2.1") -> None:
        """Check that the client's limit is not reached."""
        self.assertEqual(self.get(client).status, 200)

    def test_websocket(self) -> None:
        """A client counts until the connection of its WebSocket is gone."""
        browser = self.connect("192.0.2.1")
        self.assertTrue(browser.opened)
        self.assert_taken()
        browser.close()
        self.assert_free()

    def test_websocket_vanishes(self) -> None:
        """A client counts until the connection of its WebSocket is lost."""
        browser = self.connect("192.0.2.1")
        self.assert_taken()
        browser.leave()
        self.assert_free()

    def test_websocket_closing(self) -> None:
        """A client whose WebSocket is closing counts until the connection is gone."""
        browser = self.connect("192.0.2.1", "/bye/")
        browser.stall()
        browser.send("go")
        self.assert_taken()
        self.daemon.advance(5)
        self.assertTrue(browser.gone)
        self.assert_free()

    def test_websocket_refused_by_the_view(self) -> None:
        """A client does not count once the view has refused its WebSocket."""
        connection = self.daemon.open_connection()
        connection.send(handshake("/never/", "X-Forwarded-For: 192.0.2.1"))
        self.assertIn(b" 403 ", connection.received)
        self.assertFalse(connection.closed)
        self.assert_free()

    def test_http(self) -> None:
        """A client counts until the response to its request is sent."""
        connection = self.daemon.open_connection()
        connection.send(
            b"GET /slow/ HTTP/1.1\r\nHost: localhost:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        )
        self.assert_taken()
        self.pending.pop().callback("at last")
        self.daemon.settle()
        self.assertIn(b"at last", connection.received)
        self.assert_free()

    def test_http_lost(self) -> None:
        """A client counts until the connection of its request is lost."""
        connection = self.daemon.open_connection()
        connection.send(
            b"GET /slow/ HTTP/1.1\r\nHost: localhost:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        )
        self.assert_taken()
        connection.leave()
        self.assert_free()

    def test_keep_alive(self) -> None:
        """One connection of the proxy may carry requests of many clients in turn."""
        connection = self.daemon.open_connection()
        for client in (1, 1, 2, 3, 1):
            connection.send(
                b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n"
                b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % client
            )
        self.assertEqual(connection.received.count(b"200 OK"), 5)

    def test_refused_keeps_the_proxys_connection(self) -> None:
        """The proxy's connection stays open if the request of one client is refused."""
        self.connect("192.0.2.1")
        connection = self.daemon.open_connection()
        for client in (1, 2):
            connection.send(
                b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n"
                b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % client
            )
        self.assertEqual(connection.received.count(b"503 Service Unavailable"), 1)
        self.assertEqual(connection.received.count(b"200 OK"), 1)
        self.assertFalse(connection.closed)

    def test_forged(self) -> None:
        """Forged addresses to the left of its own do not raise a client's limit."""
        self.connect("192.0.2.1")
        for forged in ("198.51.100.1", "127.0.0.1", "garbage", "198.51.100.1, 127.0.0.1"):
            self.assert_busy(self.get(f"{forged}, 192.0.2.1"))

    def test_exempt(self) -> None:
        """A proxy that gives no client, and a client on this machine, have no limit."""
        for client in (None, None, "127.0.0.1", "127.0.0.1", "::1", "::1"):
            self.assertTrue(self.connect(client).opened)

    def test_connection_and_client(self) -> None:
        """A client is refused if the limit of connections in all is reached."""
        self.start(max_connections=1, proxies=PROXY)
        browser = self.connect("192.0.2.1")
        self.assert_busy(self.get("192.0.2.2"))
        browser.leave()
        self.assert_free("192.0.2.2")


class UntrustedProxyTests(AdmissionTestCase):
    def test_ignored(self) -> None:
        """The address that an untrusted proxy gives counts towards no limit."""
        self.start(max_per_address=1)
        for _ in range(3):
            self.assertTrue(self.connect("192.0.2.1").opened)


class AddressTests(AdmissionTestCase):
    """A limit of two connections per address, without a proxy."""

    def setUp(self) -> None:
        """Start the daemon."""
        super().setUp()
        self.start(max_per_address=2)

    def connect_from(self, address: str | None, times: int) -> list[ClientFrom]:
        """Connect from an address several times."""
        kind = IPv6Address if address and ":" in address else IPv4Address
        where = UNIXAddress(None) if address is None else kind("TCP", address, 50_000)
        return [ClientFrom(self.daemon, where) for _ in range(times)]

    def test_limit(self) -> None:
        """The third connection from an address is refused; other addresses are not affected."""
        for address in ("192.0.2.1", "2001:db8::1"):
            answers = [client.ask() for client in self.connect_from(address, 3)]
            self.assertEqual(
                answers, ["HTTP/1.1 200 OK"] * 2 + ["HTTP/1.1 503 Service Unavailable"]
            )
        self.assertEqual(self.count(), 2)

    def test_leave(self) -> None:
        """After a connection has closed, another one from its address is admitted."""
        first, _ = self.connect_from("192.0.2.1", 2)
        first.leave()
        answers = [client.ask() for client in self.connect_from("192.0.2.1", 2)]
        self.assertEqual(answers, ["HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"])

    def test_mapped(self) -> None:
        """An IPv4-mapped IPv6 address counts as the IPv4 address."""
        self.connect_from("192.0.2.1", 2)
        (client,) = self.connect_from("::ffff:192.0.2.1", 1)
        self.assertEqual(client.ask(), "HTTP/1.1 503 Service Unavailable")

    def test_exempt(self) -> None:
        """Loopback addresses and Unix sockets have no limit."""
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", None):
            for client in self.connect_from(address, 5):
                self.assertEqual(client.ask(), "HTTP/1.1 200 OK")

    def test_default(self) -> None:
        """The default limit is a hundred connections per address."""
        self.start()
        answers = [client.ask() for client in self.connect_from("192.0.2.1", 101)]
        self.assertEqual(answers.count("HTTP/1.1 200 OK"), 100)
        self.assertEqual(answers[-1], "HTTP/1.1 503 Service Unavailable")


class RefusalQueueTests(AdmissionTestCase):
    """A daemon at its limit accepts some connections just to answer them with 503."""

    def setUp(self) -> None:
        """Reach the limit of one connection."""
        super().setUp()
        self.start(max_connections=1)
        self.holder = self.connect()

    def test_answer(self) -> None:
        """A connection beyond the limit gets 503 when its request is complete, and is closed."""
        connection = self.daemon.open_connection()
        self.assertEqual(connection.received, b"")
        connection.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n")
        self.assertEqual(connection.received, b"")
        connection.send(b"\r\n")
        self.assert_busy(connection.answer())
        self.assertTrue(connection.closed)
        self.assertEqual(self.count(), 1)

    def test_limit_no_longer_reached(self) -> None:
        """A connection accepted beyond the limit gets 503 even if there is room by then."""
        connection = self.daemon.open_connection()
        self.holder.leave()
        connection.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assert_busy(connection.answer())
        self.assertEqual(self.get().status, 200)

    def test_body(self) -> None:
        """A body or further requests on such a connection are not read."""
        answer = self.daemon.request("POST", "/page/", body=b"x" * 1000)
        self.assert_busy(answer)
        connection = self.daemon.open_connection()
        connection.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n" * 10)
        self.assertEqual(connection.received.count(b"HTTP/1.1 503 "), 1)

    def test_full(self) -> None:
        """With 64 such connections open, another one is closed at once, and counted."""
        waiting = [self.daemon.open_connection() for _ in range(64)]
        factory = self.daemon.clock.tcpServers[0][1]
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50_000))
        self.assertNotIsInstance(protocol, HTTPChannel)
        self.assertTrue(self.daemon.open_connection().closed)
        self.assertEqual(self.count(), 2)
        waiting.pop().leave()
        self.assert_busy(self.get())

    def test_silent(self) -> None:
        """Such a connection is closed if its request does not come in time."""
        waiting = [self.daemon.open_connection() for _ in range(64)]
        self.daemon.advance(20)
        self.assertTrue(all(connection.closed for connection in waiting))
        self.assert_busy(self.get())

    def test_limit(self) -> None:
        """Such connections do not count towards the limit."""
        waiting = [self.daemon.open_connection() for _ in range(64)]
        self.holder.leave()
        self.assertEqual(self.get().status, 200)
        for connection in waiting:
            connection.leave()
        self.assertEqual(self.get().status, 200)
        self.assertTrue(self.connect().opened)


class ClientKeyTests(SynchronousTestCase):
    """What is counted for a client."""

    def test_keys(self) -> None:
        """A client is its address, or its network in IPv6; our own and proxies are not counted."""
        proxies = Proxies(["10.0.0.0/8"])

        def key(peer: str) -> object:
            return client_key(proxies, peer)

        for peer in ("unix", "127.0.0.1:80", "[::1]:80", "10.1.2.3:80", "10.1.2.3"):
            self.assertIsNone(key(peer), peer)
        for one, same, other in (
            ("192.0.2.1:80", "192.0.2.1", "192.0.2.2"),
            ("[2001:db8::1]:80", "2001:db8::2", "2001:db8:0:1::1"),
            ("_hidden", "_hidden", "unknown"),
        ):
            self.assertIsNotNone(key(one))
            self.assertEqual(key(one), key(same))
            self.assertNotEqual(key(one), key(other))
