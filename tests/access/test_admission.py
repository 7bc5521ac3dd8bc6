"""How many may be here at once: in all, and from one address."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from pushd.access.admission import Admission, Slot
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.protocols.http.response import Response
from pushd.testing.daemon import Answer, Browser, Daemon
from pushd.testing.loopback import Loopback
from pushd.views.request import Request, accept_websocket
from tests.peer import handshake

PROXY = Proxies(["127.0.0.1"])


class TicketTests(SynchronousTestCase):
    def test_once(self) -> None:
        """A place is given back once, however often its holder says goodbye."""
        admission = Admission(Limits(max_connections=2, max_per_address=2), Proxies())
        ticket, other = (
            admission.admit("192.0.2.1"),
            admission.admit("192.0.2.1"),
        )
        assert ticket is not None and other is not None
        ticket.release()
        ticket.release()
        self.assertEqual(len(admission), 1)


class AdmissionTests(SynchronousTestCase):
    """Five places, two of them for each address; proxies at 10.0.0.0/8."""

    def setUp(self) -> None:
        """Open."""
        limits = Limits(max_connections=5, max_per_address=2)
        self.admission = Admission(limits, Proxies(["10.0.0.0/8", "2001:db8::/32"]))

    def connect(self, *addresses: str | None) -> list[Slot]:
        """Take a place for each address, and give those that there were."""
        tickets = [self.admission.admit(address) for address in addresses]
        return [ticket for ticket in tickets if ticket is not None]

    def test_limit(self) -> None:
        """There are as many places as there are, whoever asks."""
        self.assertEqual(len(self.connect("192.0.2.1", "192.0.2.2", None, "10.0.0.1", "::1")), 5)
        self.assertEqual(len(self.admission), 5)
        self.assertEqual(self.connect("192.0.2.3", "127.0.0.1", "10.0.0.1", None), [])
        self.assertEqual(len(self.admission), 5)

    def test_leave(self) -> None:
        """A place that is given back is there for anybody, and once only."""
        tickets = self.connect(*["127.0.0.1"] * 5)
        tickets[0].release()
        tickets[0].release()
        self.assertEqual(len(self.admission), 4)
        self.assertEqual(len(self.connect("192.0.2.1", "192.0.2.2")), 1)

    def test_per_address(self) -> None:
        """One address has two places; the others do not notice."""
        first, _ = self.connect(*["192.0.2.1"] * 4)
        self.assertEqual(len(self.admission), 2)
        self.assertEqual(len(self.connect("192.0.2.2")), 1)
        first.release()
        first.release()
        self.assertEqual(len(self.connect(*["192.0.2.1"] * 2)), 1)

    def test_refused_takes_nothing(self) -> None:
        """Who was refused for want of a place has not taken one of its address."""
        full = self.connect(*["::1"] * 5)
        self.connect(*["192.0.2.1"] * 3)
        for ticket in full:
            ticket.release()
        self.assertEqual(len(self.connect(*["192.0.2.1"] * 3)), 2)

    def test_exempt(self) -> None:
        """This machine, its Unix sockets and our proxies may take all places there are."""
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
            tickets = self.connect(*[address] * 6)
            self.assertEqual(len(tickets), 5, address)
            for ticket in tickets:
                ticket.release()
            self.assertEqual(len(self.admission), 0)

    def test_spellings(self) -> None:
        """An address is one however it is written, be it IPv4 on a socket for both."""
        tickets = self.connect("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:c000:201")
        self.assertEqual(len(tickets), 2)
        self.assertIsNone(self.admission.admit_client("192.0.2.1"))

    def test_visit(self) -> None:
        """A client behind a proxy shares its address's places with all who come from there."""
        visits = [self.admission.admit_client("192.0.2.1") for _ in range(3)]
        self.assertIsNone(visits[2])
        self.assertEqual(self.connect("192.0.2.1"), [])
        self.assertEqual(len(self.admission), 0)
        assert visits[0] is not None
        visits[0].release()
        visits[0].release()
        self.assertEqual(len(self.connect(*["192.0.2.1"] * 2)), 1)

    def test_visit_exempt(self) -> None:
        """A proxy behind a proxy, and this machine behind one, are exempt as well."""
        for address in ("10.0.0.7", "127.0.0.1", "::1"):
            self.assertNotIn(None, [self.admission.admit_client(address) for _ in range(10)])

    def test_visit_when_full(self) -> None:
        """A client whose proxy has a connection already needs no other."""
        self.connect(*["10.0.0.1"] * 5)
        self.assertIsNotNone(self.admission.admit_client("192.0.2.1"))

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
        """Nothing is kept of an address that has left, or that was turned away."""
        for number in range(1000):
            address = f"192.0.{number // 256}.{number % 256}"
            (ticket,) = self.connect(address)
            visit = self.admission.admit_client(address)
            assert visit is not None
            visit.release()
            ticket.release()
        self.assertEqual((len(self.admission), len(self.admission._addresses)), (0, 0))


class AdmissionTestCase(SynchronousTestCase):
    """A daemon with an echo, a page, and a page that takes as long as the test wants."""

    def setUp(self) -> None:
        """Note the requests that wait."""
        self.waiting: list[Deferred[str]] = []

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
            waiting: Deferred[str] = Deferred()
            self.waiting.append(waiting)
            return await waiting

        def page(request: Request) -> str:
            return "a page"

        self.daemon = Daemon(
            {"/echo/": echo, "/bye/": bye, "/never/": never, "/slow/": slow, "/page/": page},
            **settings,
        )
        self.addCleanup(self.daemon.stop)

    def connect(self, client: str | None = None, path: str = "/echo/") -> Browser:
        """Ask for a WebSocket, for a client behind the proxy."""
        return self.daemon.connect(path, headers={"X-Forwarded-For": client} if client else {})

    def get(self, client: str | None = None, path: str = "/page/") -> Answer:
        """Ask for a page, for a client behind the proxy."""
        answer = self.daemon.get(path, {"X-Forwarded-For": client} if client else {})
        assert answer is not None, "there is no answer"
        return answer

    def assert_busy(self, *answers: Answer | None) -> None:
        """Check that somebody was told to come back later."""
        for answer in answers:
            assert answer is not None, "there is no refusal"
            self.assertEqual(answer.status, 503)
            self.assertEqual(answer.headers["Retry-After"], "5")
            self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
            self.assertEqual(answer.text.count("\n"), 1)

    def count(self) -> float:
        """How many were refused for want of a place, as the control port tells it."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == 'pushd_refused_total{reason="busy"}':
                return float(value)
        return 0


class ConnectionPlaceTests(AdmissionTestCase):
    """One place for a connection, and who holds it for how long."""

    def setUp(self) -> None:
        """Start a daemon with one place."""
        super().setUp()
        self.start(max_connections=1)

    def assert_taken(self) -> None:
        """Check that the place is taken, for HTTP and WebSockets alike."""
        before = self.count()
        self.assert_busy(self.get(), self.connect().refused)
        self.assertEqual(self.count(), before + 2)

    def assert_free(self) -> None:
        """Check that the place is free."""
        self.assertEqual(self.get().status, 200)

    def test_http(self) -> None:
        """An HTTP connection gives its place back when it closes, not when it is answered."""
        self.assert_free()
        wire = self.daemon.open_connection()
        self.assert_taken()
        wire.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertIn(b"a page", wire.received)
        self.assert_taken()
        wire.leave()
        self.assert_free()

    def test_refused_request(self) -> None:
        """A connection whose request was refused gives its place back."""
        wire = self.daemon.open_connection()
        wire.send(b"bad\r\n\r\n")
        wire.leave()
        self.assert_free()

    def test_timed_out(self) -> None:
        """A connection that never asks does not keep its place for longer than a request may."""
        self.daemon.open_connection()
        self.daemon.advance(19)
        self.assert_taken()
        self.daemon.advance(1)
        self.assert_free()

    def test_websocket(self) -> None:
        """A WebSocket holds its place as long as it is open, however quiet."""
        browser = self.connect()
        self.assertTrue(browser.opened)
        self.assert_taken()
        self.daemon.advance(*[20] * 10)
        self.assert_taken()
        browser.close()
        self.assertTrue(browser.gone)
        self.assert_free()

    def test_websocket_vanishes(self) -> None:
        """A WebSocket that breaks off gives its place back."""
        browser = self.connect()
        self.assert_taken()
        browser.leave()
        self.assert_free()

    def test_websocket_closing(self) -> None:
        """A WebSocket that is being closed holds its place until its connection is gone."""
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
        """A WebSocket that the view does not want holds a place as any HTTP connection does."""
        wire = self.daemon.open_connection()
        wire.send(handshake("/never/"))
        self.assertIn(b" 403 ", wire.received)
        self.assert_taken()
        wire.leave()
        self.assert_free()

    def test_given_back_once(self) -> None:
        """However a connection ends, it gives back one place and not two."""
        for _ in range(3):
            browser = self.connect()
            browser.close()
            browser.leave()
        self.daemon.open_connection()
        self.assert_taken()

    def test_control_door(self) -> None:
        """The control port has places of its own, so that operators get in when all is full."""
        self.connect()
        answer = self.daemon.request("GET", "/healthz", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)


class ProxiedPlaceTests(AdmissionTestCase):
    """One place for each client behind a proxy, and who holds it for how long."""

    def setUp(self) -> None:
        """Start a daemon behind a proxy."""
        super().setUp()
        self.start(max_per_address=1, proxies=PROXY)

    def assert_taken(self, client: str = "192.0.2.1") -> None:
        """Check that the client's place is taken, and that others have theirs."""
        before = self.count()
        self.assert_busy(self.get(client), self.connect(client).refused)
        self.assertEqual(self.count(), before + 2)
        self.assertEqual(self.get("192.0.2.2").status, 200)

    def assert_free(self, client: str = "192.0.2.1") -> None:
        """Check that the client's place is free."""
        self.assertEqual(self.get(client).status, 200)

    def test_websocket(self) -> None:
        """A WebSocket holds its client's place until its connection is gone."""
        browser = self.connect("192.0.2.1")
        self.assertTrue(browser.opened)
        self.assert_taken()
        browser.close()
        self.assert_free()

    def test_websocket_vanishes(self) -> None:
        """A WebSocket that breaks off gives its client's place back."""
        browser = self.connect("192.0.2.1")
        self.assert_taken()
        browser.leave()
        self.assert_free()

    def test_websocket_closing(self) -> None:
        """A WebSocket that is being closed holds its client's place to the end."""
        browser = self.connect("192.0.2.1", "/bye/")
        browser.stall()
        browser.send("go")
        self.assert_taken()
        self.daemon.advance(5)
        self.assertTrue(browser.gone)
        self.assert_free()

    def test_websocket_refused_by_the_view(self) -> None:
        """A WebSocket that the view does not want holds nothing once it is told so."""
        wire = self.daemon.open_connection()
        wire.send(handshake("/never/", "X-Forwarded-For: 192.0.2.1"))
        self.assertIn(b" 403 ", wire.received)
        self.assertFalse(wire.closed)
        self.assert_free()

    def test_http(self) -> None:
        """A request holds its client's place until it is answered."""
        wire = self.daemon.open_connection()
        wire.send(
            b"GET /slow/ HTTP/1.1\r\nHost: localhost:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        )
        self.assert_taken()
        self.waiting.pop().callback("at last")
        self.daemon.settle()
        self.assertIn(b"at last", wire.received)
        self.assert_free()

    def test_http_gone(self) -> None:
        """A request whose client does not wait for the answer gives the place back."""
        wire = self.daemon.open_connection()
        wire.send(
            b"GET /slow/ HTTP/1.1\r\nHost: localhost:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        )
        self.assert_taken()
        wire.leave()
        self.assert_free()

    def test_keep_alive(self) -> None:
        """One connection of the proxy carries requests of many clients, one after the other."""
        wire = self.daemon.open_connection()
        for client in (1, 1, 2, 3, 1):
            wire.send(
                b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n"
                b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % client
            )
        self.assertEqual(wire.received.count(b"200 OK"), 5)

    def test_refused_keeps_the_proxys_connection(self) -> None:
        """A client that has no place does not cost its proxy a connection."""
        self.connect("192.0.2.1")
        wire = self.daemon.open_connection()
        for client in (1, 2):
            wire.send(
                b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n"
                b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % client
            )
        self.assertEqual(wire.received.count(b"503 Service Unavailable"), 1)
        self.assertEqual(wire.received.count(b"200 OK"), 1)
        self.assertFalse(wire.closed)

    def test_spoofed(self) -> None:
        """A client gets no place more by what it invents to the left of its address."""
        self.connect("192.0.2.1")
        for lie in ("198.51.100.1", "127.0.0.1", "garbage", "198.51.100.1, 127.0.0.1"):
            self.assert_busy(self.get(f"{lie}, 192.0.2.1"))

    def test_silent_proxy(self) -> None:
        """A proxy that says nothing, and a client on this machine, are not counted."""
        for client in (None, None, "127.0.0.1", "127.0.0.1", "::1", "::1"):
            self.assertTrue(self.connect(client).opened)

    def test_connection_and_client(self) -> None:
        """Where the proxies' connections are all taken, no client of theirs gets in."""
        self.start(max_connections=1, proxies=PROXY)
        browser = self.connect("192.0.2.1")
        self.assert_busy(self.get("192.0.2.2"))
        browser.leave()
        self.assert_free("192.0.2.2")


class UntrustedProxyTests(AdmissionTestCase):
    def test_ignored(self) -> None:
        """What a stranger says of who it is neither fills nor frees anybody's place."""
        self.start(max_per_address=1)
        for _ in range(3):
            self.assertTrue(self.connect("192.0.2.1").opened)


class _Stranger(Protocol):
    """A client that comes from an address of its own."""

    def __init__(self, daemon: Daemon, address: Any) -> None:
        self.daemon = daemon
        self.address = address
        self.received = b""
        self.gone = False
        self.loopback = Loopback()
        self.end = self.loopback.connect(self, self)
        self.settle()

    def buildProtocol(self, address: IPv4Address) -> Any:
        """Let the door believe that the connection comes from elsewhere."""
        return self.daemon.clock.tcpServers[0][1].buildProtocol(self.address)

    def ask(self) -> str:
        """Ask for a page, and give the status line."""
        self.end.write(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.settle()
        return self.received.partition(b"\r\n")[0].decode()

    def leave(self) -> None:
        """Go."""
        self.end.abortConnection()
        self.settle()

    def settle(self) -> None:
        """Let everything arrive."""
        self.loopback.run()
        self.daemon.settle()
        self.loopback.run()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True


class AddressTests(AdmissionTestCase):
    """Two places for each address, without a proxy."""

    def setUp(self) -> None:
        """Start the daemon."""
        super().setUp()
        self.start(max_per_address=2)

    def come(self, address: str | None, times: int) -> list[_Stranger]:
        """Connect from an address, some times."""
        kind = IPv6Address if address and ":" in address else IPv4Address
        where = UNIXAddress(None) if address is None else kind("TCP", address, 50_000)
        return [_Stranger(self.daemon, where) for _ in range(times)]

    def test_limit(self) -> None:
        """The third from one address is told to come back later; others are served."""
        for address in ("192.0.2.1", "2001:db8::1"):
            answers = [stranger.ask() for stranger in self.come(address, 3)]
            self.assertEqual(
                answers, ["HTTP/1.1 200 OK"] * 2 + ["HTTP/1.1 503 Service Unavailable"]
            )
        self.assertEqual(self.count(), 2)

    def test_leave(self) -> None:
        """Who leaves makes room for another from there."""
        first, _ = self.come("192.0.2.1", 2)
        first.leave()
        answers = [stranger.ask() for stranger in self.come("192.0.2.1", 2)]
        self.assertEqual(answers, ["HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"])

    def test_mapped(self) -> None:
        """IPv4 on a socket for both is counted with IPv4."""
        self.come("192.0.2.1", 2)
        (stranger,) = self.come("::ffff:192.0.2.1", 1)
        self.assertEqual(stranger.ask(), "HTTP/1.1 503 Service Unavailable")

    def test_exempt(self) -> None:
        """This machine is exempt, in each of its addresses and through a Unix socket."""
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", None):
            for stranger in self.come(address, 5):
                self.assertEqual(stranger.ask(), "HTTP/1.1 200 OK")

    def test_default(self) -> None:
        """A hundred from one address may be here at once."""
        self.start()
        answers = [stranger.ask() for stranger in self.come("192.0.2.1", 101)]
        self.assertEqual(answers.count("HTTP/1.1 200 OK"), 100)
        self.assertEqual(answers[-1], "HTTP/1.1 503 Service Unavailable")


class WaitingRoomTests(AdmissionTestCase):
    """A daemon that is full, and those who wait to hear so."""

    def setUp(self) -> None:
        """Take the only place."""
        super().setUp()
        self.start(max_connections=1)
        self.holder = self.connect()

    def test_told(self) -> None:
        """Who comes is told so, as soon as it has asked, and let go."""
        wire = self.daemon.open_connection()
        self.assertEqual(wire.received, b"")
        wire.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n")
        self.assertEqual(wire.received, b"")
        wire.send(b"\r\n")
        self.assert_busy(wire.answer())
        self.assertTrue(wire.closed)
        self.assertEqual(self.count(), 1)

    def test_no_place_in_the_meantime(self) -> None:
        """Who was let in without a place is not served, though there may be one by now."""
        wire = self.daemon.open_connection()
        self.holder.leave()
        wire.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assert_busy(wire.answer())
        self.assertEqual(self.get().status, 200)

    def test_body(self) -> None:
        """Nobody reads what is sent with the request, or behind it."""
        answer = self.daemon.request("POST", "/page/", body=b"x" * 1000)
        self.assert_busy(answer)
        wire = self.daemon.open_connection()
        wire.send(b"GET /page/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n" * 10)
        self.assertEqual(wire.received.count(b"HTTP/1.1 503 "), 1)

    def test_full(self) -> None:
        """64 wait for it; who comes then is closed unheard, and counted."""
        waiting = [self.daemon.open_connection() for _ in range(64)]
        door = self.daemon.clock.tcpServers[0][1]
        nobody = door.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50_000))
        self.assertNotIsInstance(nobody, HTTPChannel)
        self.assertTrue(self.daemon.open_connection().closed)
        self.assertEqual(self.count(), 2)
        waiting.pop().leave()
        self.assert_busy(self.get())

    def test_silent(self) -> None:
        """Who waits without asking is let go when a request's time is over."""
        waiting = [self.daemon.open_connection() for _ in range(64)]
        self.daemon.advance(20)
        self.assertTrue(all(wire.closed for wire in waiting))
        self.assert_busy(self.get())

    def test_places(self) -> None:
        """Those who wait take no place from those who are served."""
        waiting = [self.daemon.open_connection() for _ in range(64)]
        self.holder.leave()
        self.assertEqual(self.get().status, 200)
        for wire in waiting:
            wire.leave()
        self.assertEqual(self.get().status, 200)
        self.assertTrue(self.connect().opened)
