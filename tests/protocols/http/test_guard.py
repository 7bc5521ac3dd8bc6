"""The guards of the two ports: one valid Host, and an Origin that is allowed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.origins import Hosts, Origins
from pushd.access.proxies import Proxies
from pushd.protocols.http.guard import control_guard, public_guard
from pushd.protocols.http.headers import RequestHeaders
from pushd.testing import Answer, Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class GuardTestCase(SynchronousTestCase):
    """A daemon with an echo that answers plain HTTP as well."""

    def start(self, **settings: Any) -> None:
        """Start the daemon."""
        self.asked: list[Request] = []

        @accept_websocket
        async def echo(request: Request) -> str | None:
            self.asked.append(request)
            if not request.is_websocket():
                return "a page"
            async for message in request.websocket:
                request.websocket.send(message)
            return None

        self.daemon = Daemon({"/echo/": echo}, **settings)
        self.addCleanup(self.daemon.stop)

    def setUp(self) -> None:
        """Start a daemon with its defaults."""
        self.start()

    def send(self, head: str, *, control: bool = False) -> Answer:
        """Send a request line and headers, and return the answer."""
        connection = self.daemon.open_connection(control=control)
        connection.send(f"{head}\r\n".encode("latin-1"))
        answer = connection.answer(head.partition(" ")[0])
        assert answer is not None, "there is no answer"
        return answer

    def ask(self, *headers: str, control: bool = False) -> Answer:
        """Send a GET with these headers, and return the answer."""
        path = "/metrics" if control else "/echo/"
        lines = "".join(f"{line}\r\n" for line in headers)
        return self.send(f"GET {path} HTTP/1.1\r\n{lines}", control=control)

    def assert_refused(self, answer: Answer | None, status: int, word: str) -> None:
        """Assert that a request was refused with one line of text, and reached no view."""
        assert answer is not None, "there is no refusal"
        self.assertEqual((answer.status, self.asked), (status, []))
        self.assertIn(word, answer.text)
        self.assertEqual(answer.text.count("\n"), 1)
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")

    def count(self, reason: str) -> float:
        """Return how many requests were refused for a reason, as /metrics shows it."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == f'pushd_refused_total{{reason="{reason}"}}':
                return float(value)
        return 0


class HostTests(GuardTestCase):
    """One valid Host, at both ports (RFC 9112 §3.2)."""

    def test_one(self) -> None:
        """The public port takes any valid Host."""
        for host in (
            "localhost",
            "example.com:8080",
            "192.0.2.1",
            "[2001:db8::1]:8080",
            "[::1]",
            "a_b.example",
            "EXAMPLE.com.",
            "example.com:",
            "",
        ):
            self.assertEqual(self.ask(f"Host: {host}").status, 200, host)

    def test_none(self) -> None:
        """A request without a Host is refused in HTTP/1.1, and taken in HTTP/1.0."""
        self.assert_refused(self.ask(), 400, "Host")
        self.assertEqual(self.send("GET /echo/ HTTP/1.0\r\n").status, 200)

    def test_served(self) -> None:
        """With ``--host``, requests for other names reach no view; those without a Host may."""
        self.start(hosts=Hosts(["example.com", "[::1]"]))
        for host in ("evil.example", "localhost", "127.0.0.1:8080", "example.com.evil.example", ""):
            self.assert_refused(self.ask(f"Host: {host}"), 421, "--host")
            self.assert_refused(self.ask(f"Host: {host}\r\n{UPGRADE.rstrip()}"), 421, "--host")
        self.assertEqual(self.count("misdirected"), 10)
        absolute = "GET http://evil.example/echo/ HTTP/1.1\r\nHost: example.com\r\n"
        self.assert_refused(self.send(absolute), 421, "--host")
        for host in ("example.com", "EXAMPLE.com.:8080", "[::1]:80", "[0:0::1]"):
            self.assertEqual(self.ask(f"Host: {host}").status, 200, host)
        self.assertEqual(self.send("GET /echo/ HTTP/1.0\r\n").status, 200)
        # The control port has a rule of its own.
        self.assertEqual(self.ask("Host: localhost", control=True).status, 200)

    def test_two(self) -> None:
        """Two Hosts are refused, even if they are the same, and in HTTP/1.0 as well."""
        for second in ("localhost", "evil.com"):
            two = f"Host: localhost\r\nHost: {second}\r\n"
            self.assert_refused(self.send(f"GET /echo/ HTTP/1.1\r\n{two}"), 400, "Host")
            self.assert_refused(self.send(f"GET /echo/ HTTP/1.0\r\n{two}"), 400, "Host")

    def test_bad(self) -> None:
        """An invalid Host is refused, before a view can make a link of it."""
        for host in (
            "a b",
            "user@example.com",
            "example.com/path",
            "example.com?query",
            "example.com#fragment",
            "example.com:80:80",
            "example.com:x",
            "http://example.com",
            "a\\b",
            '"><script>',
            "[::1",
            "::1]",
            "[::1]x",
            "[]",
            "a, b",
            "caf\xe9",
            "a\x85b",
        ):
            self.assert_refused(self.ask(f"Host: {host}"), 400, "Host")
            self.assert_refused(self.ask(f"Host: {host}", control=True), 400, "Host")

    def test_counted(self) -> None:
        """Each refusal is counted, at either port, and is one line in the log."""
        with capturedLogs() as events:
            self.ask()
            self.ask(control=True)
        lines = [
            formatEvent(event)
            for event in events
            if str(event["log_namespace"]).startswith("pushd.")
        ]
        self.assertEqual(len(lines), 2, lines)
        self.assertRegex(
            lines[0], r"^127\.0\.0\.1:\d+ GET /echo/ 400 \d+ after 0\.000 s: .*Host.*$"
        )
        self.assertRegex(
            lines[1], r"^127\.0\.0\.1:\d+ GET /metrics 400 \d+ after 0\.000 s: .*Host.*$"
        )
        self.assertEqual(self.count("bad_request"), 2)


class OriginTests(GuardTestCase):
    """Pages that open a WebSocket at the public port."""

    def connect(self, origin: str | None, **headers: str) -> Answer | None:
        """Open a WebSocket from a page; return the refusal, or None if it was opened."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        browser = self.daemon.connect("/echo/", origin=origin, headers=fields)
        self.assertNotEqual(browser.opened, browser.refused is not None)
        if browser.opened:
            self.asked.clear()
        return browser.refused

    def test_same(self) -> None:
        """A page of our own origin, and a client without an Origin, may open a WebSocket."""
        for origin in ("http://localhost:8080", "HTTP://LOCALHOST:8080", None):
            self.assertIsNone(self.connect(origin), origin)

    def test_foreign(self) -> None:
        """A page of another origin gets 403, and reaches no view."""
        origins = (
            "http://evil.com",
            "https://localhost:8080",
            "http://localhost",
            "http://localhost:8081",
            "http://127.0.0.1:8080",
            "http://localhost:8080@evil.com",
            "http://localhost:8080.evil.com",
            "null",
        )
        for origin in origins:
            self.assert_refused(self.connect(origin), 403, "origin")
        self.assertEqual(self.count("forbidden"), len(origins))

    def test_logged(self) -> None:
        """The refusal is one line in the log, which names the Origin and what it must be."""
        with capturedLogs() as events:
            self.connect("http://evil.com")
        lines = [
            formatEvent(event)
            for event in events
            if str(event["log_namespace"]).startswith("pushd.")
        ]
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(
            lines[0], r"^127\.0\.0\.1:\d+ GET /echo/ 403 \d+ after 0\.000 s: Origin .*$"
        )

    def test_empty(self) -> None:
        """An empty Origin is refused, as it is not a missing one."""
        for value in ("", " "):
            answer = self.ask("Host: localhost:8080", f"Origin:{value}", UPGRADE.strip())
            self.assert_refused(answer, 403, "origin")

    def test_two(self) -> None:
        """Two Origins are refused, in either order."""
        ours, theirs = "Origin: http://localhost:8080", "Origin: http://evil.com"
        for pair in ((ours, theirs), (theirs, ours)):
            answer = self.ask("Host: localhost:8080", *pair, UPGRADE.strip())
            self.assertIn(answer.status, (400, 403))
            self.assertEqual(self.asked, [])

    def test_host_of_the_attacker(self) -> None:
        """Our own origin is that of the Host: an Origin that names another host is refused."""
        answer = self.ask("Host: evil.com", "Origin: http://localhost:8080", UPGRADE.strip())
        self.assert_refused(answer, 403, "origin")

    def test_plain_http(self) -> None:
        """Plain requests of any origin reach a view: browsers let no page read the answer."""
        self.assertEqual(self.ask("Host: localhost", "Origin: http://evil.com").status, 200)

    def test_no_view(self) -> None:
        """A page of another origin gets 403 even if there is no view: it cannot find views."""
        browser = self.daemon.connect("/nothing/", origin="http://evil.com")
        self.assert_refused(browser.refused, 403, "origin")
        browser = self.daemon.connect("/nothing/")
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 404)

    def test_allowed(self) -> None:
        """``--origin`` allows the origins that it names and no others."""
        self.start(origins=Origins(["https://example.com", "https://*.example.org"]))
        for origin in ("https://example.com", "https://a.example.org", "http://localhost:8080"):
            self.assertIsNone(self.connect(origin), origin)
        for origin in ("http://example.com", "https://example.org", "https://evil-example.org"):
            self.assert_refused(self.connect(origin), 403, "--origin")

    def test_all(self) -> None:
        """``--origin '*'`` allows every origin."""
        self.start(origins=Origins(["*"]))
        for origin in ("http://evil.com", "null", "garbage"):
            self.assertIsNone(self.connect(origin), origin)

    def test_behind_tls(self) -> None:
        """Behind a proxy that terminates TLS, our own origin has https, and http is refused."""
        self.start(proxies=Proxies(["127.0.0.1"]))
        proto = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "192.0.2.1"}
        self.assertIsNone(self.connect("https://localhost:8080", **proto))
        self.assert_refused(self.connect("http://localhost:8080", **proto), 403, "origin")

    def test_behind_traefik(self) -> None:
        """Traefik gives the scheme of a WebSocket's URL, and that of its page is https or http."""
        self.start(proxies=Proxies(["127.0.0.1"]))
        for proto, own, other in (
            ("wss", "https", "http"),
            ("WSS", "https", "http"),
            ("ws", "http", "https"),
        ):
            self.assertIsNone(self.connect(f"{own}://localhost:8080", X_Forwarded_Proto=proto))
            refused = self.connect(f"{other}://localhost:8080", X_Forwarded_Proto=proto)
            self.assert_refused(refused, 403, "origin")

    def test_behind_two_proxies(self) -> None:
        """Of two proxies the first knows the client's scheme, and says it first."""
        self.start(proxies=Proxies(["127.0.0.1"]))
        for proto in ("https, http", "wss,ws", "https,wss, http"):
            self.assertIsNone(self.connect("https://localhost:8080", X_Forwarded_Proto=proto))

    def test_scheme_from_client(self) -> None:
        """X-Forwarded-Proto of a client that is no trusted proxy is ignored."""
        answer = self.connect("https://localhost:8080", X_Forwarded_Proto="https")
        self.assert_refused(answer, 403, "origin")


class ControlTests(GuardTestCase):
    """The control port, which web pages could reach through a browser on its machine."""

    def test_own(self) -> None:
        """A request for the port's own address or localhost, without an Origin, is allowed."""
        for host in ("localhost", "localhost:8081", "127.0.0.1", "127.0.0.1:8081", "LOCALHOST"):
            self.assertEqual(self.ask(f"Host: {host}", control=True).status, 200, host)

    def test_origin(self) -> None:
        """A request with an Origin is refused, unless it is our own."""
        origins = (
            "http://evil.com",
            "http://localhost:8080",
            "http://localhost",
            "http://127.0.0.1:8081",
            "http://localhost:8081.evil.com",
            "http://localhost:8081/",
            "ftp://localhost:8081",
            "localhost:8081",
            "null",
            "",
        )
        for origin in origins:
            answer = self.ask("Host: localhost:8081", f"Origin: {origin}", control=True)
            self.assert_refused(answer, 403, "browsers")
        self.assertEqual(self.count("forbidden"), len(origins))
        for origin in ("http://localhost:8081", "HTTP://LOCALHOST:8081", "https://localhost:8081"):
            answer = self.ask("Host: localhost:8081", f"Origin: {origin}", control=True)
            self.assertEqual(answer.status, 200, origin)

    def test_two_origins(self) -> None:
        """Two Origins are refused, in either order, even if they are the same."""
        ours, theirs = "Origin: http://localhost:8081", "Origin: http://evil.com"
        for two in ([ours, theirs], [theirs, ours], [ours, ours]):
            answer = self.ask("Host: localhost:8081", *two, control=True)
            self.assert_refused(answer, 403, "browsers")

    def post(self, *headers: str) -> int:
        """Publish with these headers; return the status."""
        lines = "".join(f"{line}\r\n" for line in (*headers, "Content-Length: 0"))
        return self.send(f"POST /topics/t HTTP/1.1\r\n{lines}", control=True).status

    def test_page(self) -> None:
        """The operator's page may send everything, with ``view`` what changes nothing only."""
        host, own = "Host: localhost:8081", "Origin: http://localhost:8081"
        statuses = {"on": (200, 200), "view": (200, 403), "off": (403, 403)}
        for page, (read, changed) in statuses.items():
            self.start(control_page=page)
            self.assertEqual(self.ask(host, own, control=True).status, read, page)
            self.assertEqual(self.post(host, own), changed, page)
            # Programs send no Origin, so they may do all that they may without a page.
            self.assertEqual(self.post(host), 200, page)
            for origin in ("http://evil.com", "null"):
                self.assertEqual(self.post(host, f"Origin: {origin}"), 403, page)
            upgrade = f"GET /publish HTTP/1.1\r\n{host}\r\n{own}\r\n{UPGRADE}"
            self.assert_refused(self.send(upgrade, control=True), 403, "browsers")

    def test_page_of_another_name(self) -> None:
        """A page whose name has been rebound to the port is refused, though it is its origin."""
        for method in ("GET", "POST", "DELETE"):
            line = f"{method} /topics/t HTTP/1.1\r\nHost: evil.com\r\nOrigin: http://evil.com\r\n"
            self.assert_refused(self.send(line, control=True), 403, "browsers")

    def test_rebinding(self) -> None:
        """A foreign Host is refused, as with DNS rebinding."""
        hosts = ("evil.com", "evil.com:8081", "127.0.0.1.nip.io", "[::1]", "192.0.2.1", "", ":8081")
        for host in hosts:
            answer = self.ask(f"Host: {host}", control=True)
            self.assert_refused(answer, 403, "localhost")
        self.assertEqual(self.count("forbidden"), len(hosts))

    def test_first(self) -> None:
        """The guard comes before the path, so a page does not learn which paths exist."""
        for path in ("/metrics", "/topics/t", "/publish", "/nothing", "/healthz/", "//healthz"):
            answer = self.send(f"GET {path} HTTP/1.1\r\nHost: evil.com\r\n", control=True)
            self.assert_refused(answer, 403, "localhost")

    def test_without_host(self) -> None:
        """No browser sends a request without a Host: in HTTP/1.0 it is allowed, as of probes."""
        for path in ("/healthz", "/readyz", "/metrics", "/topics"):
            self.assertEqual(self.send(f"GET {path} HTTP/1.0\r\n", control=True).status, 200, path)
        self.assert_refused(self.ask(control=True), 400, "Host")
        answer = self.send("GET /metrics HTTP/1.0\r\nOrigin: null\r\n", control=True)
        self.assert_refused(answer, 403, "browsers")
        answer = self.send("GET /metrics HTTP/1.0\r\nHost: evil.com\r\n", control=True)
        self.assert_refused(answer, 403, "localhost")

    def test_health(self) -> None:
        """Health checks are answered under any name, as a load balancer chooses it."""
        for host in ("pushd:8081", "10.1.2.3:8081", "pushd.default.svc.cluster.local", ""):
            for path in ("/healthz", "/readyz"):
                for method in ("GET", "HEAD"):
                    line = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
                    self.assertEqual(self.send(line, control=True).status, 200, line)
        line = "GET /healthz HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n"
        self.assert_refused(self.send(line, control=True), 403, "browsers")
        self.assert_refused(self.send("GET /healthz HTTP/1.1\r\n", control=True), 400, "Host")
        line = f"GET /healthz HTTP/1.1\r\nHost: a\r\n{UPGRADE}"
        self.assert_refused(self.send(line, control=True), 403, "--control-host")

    def test_named(self) -> None:
        """``--control-host`` allows further names, and no others."""
        self.start(control_hosts=Hosts(["pushd", "*.internal", "192.0.2.1"]))
        for host in ("pushd:8081", "Pushd", "a.b.internal", "192.0.2.1:80", "localhost"):
            self.assertEqual(self.ask(f"Host: {host}", control=True).status, 200, host)
        for host in ("evil.com", "pushd.evil.com", "internal", "192.0.2.2", ""):
            answer = self.ask(f"Host: {host}", control=True)
            self.assert_refused(answer, 403, "--control-host")
        answer = self.ask("Host: pushd:8081", "Origin: https://pushd:8081", control=True)
        self.assertEqual(answer.status, 200)
        answer = self.ask("Host: pushd:8081", "Origin: http://a.internal", control=True)
        self.assert_refused(answer, 403, "browsers")
        # The public port has names of its own.
        self.assertEqual(self.ask("Host: other.example").status, 200)

    def test_flag(self) -> None:
        """``--origin`` does not apply to the control port."""
        self.start(origins=Origins(["*"]))
        answer = self.ask("Host: localhost", "Origin: http://example.com", control=True)
        self.assert_refused(answer, 403, "browsers")

    def test_proxied(self) -> None:
        """``--trust-proxy`` does not apply to the control port."""
        self.start(proxies=Proxies(["127.0.0.1"]), max_per_address=1)
        for _ in range(3):
            answer = self.ask("Host: localhost", "X-Forwarded-For: 192.0.2.1", control=True)
            self.assertEqual(answer.status, 200)


class OtherAddressTests(SynchronousTestCase):
    """Ports at addresses that a daemon in memory does not have."""

    def request(self, address: object, **headers: str) -> SimpleNamespace:
        """Make a request that arrived at an address."""
        fields = RequestHeaders({name: [value] for name, value in headers.items()})

        def header(name: bytes) -> str | None:
            values = list(fields.getRawHeaders(name, []))
            return values[-1].decode() if values else None

        return SimpleNamespace(
            requestHeaders=fields,
            wants_websocket=b"Upgrade" in fields,
            path=b"/",
            clientproto=b"HTTP/1.1",
            scheme="http",
            header=header,
            getHost=lambda: address,
        )

    def status(self, address: object, **headers: str) -> int:
        """Return the status of the control port's guard, 200 if it allows the request."""
        answer = control_guard(Hosts())(self.request(address, **headers))
        return 200 if answer is None else answer.status

    def test_ipv6(self) -> None:
        """The control port's own address may be an IPv6 address."""
        address = IPv6Address("TCP", "::1", 8081)
        self.assertEqual(self.status(address, host="[::1]:8081"), 200)
        self.assertEqual(self.status(address, host="localhost"), 200)
        self.assertEqual(self.status(address, host="127.0.0.1:8081"), 403)

    def test_dual_stack(self) -> None:
        """On a dual-stack socket the local address is mapped to IPv6; the Host is plain IPv4."""
        address = IPv6Address("TCP", "::ffff:127.0.0.1", 8081)
        self.assertEqual(self.status(address, host="127.0.0.1:8081"), 200)

    def test_network(self) -> None:
        """On a network address, the own address is the one at which the request arrived."""
        address = IPv4Address("TCP", "192.0.2.1", 8081)
        self.assertEqual(self.status(address, host="192.0.2.1:8081"), 200)
        self.assertEqual(self.status(address, host="192.0.2.2:8081"), 403)

    def test_unix(self) -> None:
        """A Unix socket has no address, so only localhost is allowed."""
        for name in (b"/run/pushd.sock", None):
            address = UNIXAddress(name)
            self.assertEqual(self.status(address, host="localhost"), 200)
            for host in ("evil.com", "", "127.0.0.1", "None"):
                self.assertEqual(self.status(address, host=host), 403, host)
            self.assertEqual(self.status(address, host="localhost", origin="null"), 403)

    def test_streams(self) -> None:
        """At further paths of topics, the Origin of plain requests is checked as well."""
        guard = public_guard(Origins(), Hosts(), {b"/live/sse"})
        for path, status in ((b"/live/sse", 403), (b"/live/%73se", 403), (b"/live", 200)):
            request = self.request(UNIXAddress(None), host="a", origin="http://b")
            request.path = path
            refused = guard(request)
            self.assertEqual(200 if refused is None else refused.status, status, path)

    def test_public(self) -> None:
        """The public port checks the Origin against the Host, whatever its own address is."""
        guard = public_guard(Origins(), Hosts())
        asked = {"host": "[2001:db8::1]:8080", "upgrade": "websocket"}
        address = UNIXAddress(None)
        self.assertIsNone(guard(self.request(address, **asked)))
        self.assertIsNone(guard(self.request(address, origin="http://[2001:db8::1]:8080", **asked)))
        refused = guard(self.request(address, origin="http://[2001:db8::2]:8080", **asked))
        assert refused is not None
        self.assertEqual(refused.status, 403)
