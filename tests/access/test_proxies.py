"""Tests of trusted proxies, and of the client addresses found in their headers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.proxies import ClientAddress, Proxies, read_address
from pushd.testing import Daemon
from pushd.views.request import Request


class ProxiesTestCase(SynchronousTestCase):
    """Trusted proxies at 10.0.0.0/8 and 2001:db8:aa::/48; 10.0.0.1 sends the request."""

    proxies = Proxies(["10.0.0.0/8", "2001:db8:aa::/48"])

    def find_client(
        self, peer: str | None = "10.0.0.1", **headers: str | list[str]
    ) -> ClientAddress:
        """Find the client of a request from an address, with headers."""
        raw = Headers()
        for name, values in headers.items():
            for value in [values] if isinstance(values, str) else values:
                raw.addRawHeader(name.replace("_", "-"), value)
        return self.proxies.client(peer, raw)

    def assert_client(self, address: str, **headers: str | list[str]) -> None:
        """Check the client address found in the headers."""
        self.assertEqual(self.find_client("10.0.0.1", **headers).address, address)


class TrustTests(ProxiesTestCase):
    def test_networks(self) -> None:
        """Addresses in the networks are trusted, and no others."""
        for address in ("10.0.0.0", "10.255.255.255", "2001:db8:aa::1", "::ffff:10.0.0.1"):
            self.assertTrue(self.proxies.is_trusted(address), address)
        for address in ("11.0.0.0", "127.0.0.1", "::1", "2001:db8:ab::1", "::ffff:11.0.0.1"):
            self.assertFalse(self.proxies.is_trusted(address), address)

    def test_garbage(self) -> None:
        """A text that is not an address is not trusted."""
        for address in ("", "garbage", "unix", "10.0.0", "10.0.0.0/8", "010.0.0.1"):
            self.assertFalse(self.proxies.is_trusted(address), address)

    def test_unix(self) -> None:
        """A proxy at a Unix socket is trusted as soon as there is any trusted proxy."""
        self.assertTrue(self.proxies.is_trusted(None))
        self.assertFalse(Proxies().is_trusted(None))

    def test_no_networks(self) -> None:
        """Without networks no address is trusted."""
        for address in ("10.0.0.1", "127.0.0.1", "::1"):
            self.assertFalse(Proxies().is_trusted(address))

    def test_all_of_ipv4(self) -> None:
        """0.0.0.0/0 makes every IPv4 address trusted, and no IPv6 address."""
        proxies = Proxies(["0.0.0.0/0"])
        self.assertTrue(proxies.is_trusted("192.0.2.1"))
        self.assertFalse(proxies.is_trusted("2001:db8::1"))

    def test_bad(self) -> None:
        """The error about an invalid network gives its value, and says what is valid."""
        for network in ("", "proxy", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "[::1]", "::1/129"):
            with self.assertRaises(ValueError) as caught:
                Proxies(["10.0.0.0/8", network])
            rule, _, reason = str(caught.exception).partition("; ")
            self.assertEqual(rule, "must be an IP network such as 10.0.0.0/8 or ::1")
            self.assertIn(network, reason)


class ForwardedForTests(ProxiesTestCase):
    """The client's address is found in ``X-Forwarded-For``, which most proxies set."""

    def test_none(self) -> None:
        """Without the header the proxy itself is the client."""
        self.assertEqual(self.find_client(), ClientAddress("10.0.0.1", None))
        self.assert_client("10.0.0.1", x_forwarded_for="")
        self.assert_client("10.0.0.1", x_forwarded_for=" , ")

    def test_one(self) -> None:
        """The address that a trusted proxy gives is the client's."""
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1")
        self.assert_client("2001:db8::1", x_forwarded_for="2001:db8::1")
        self.assert_client("2001:db8::1", x_forwarded_for="2001:DB8:0:0::1")

    def test_rightmost(self) -> None:
        """Hops to the left of an untrusted one are ignored: they may be forged."""
        self.assert_client("192.0.2.1", x_forwarded_for="127.0.0.1, 192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="10.0.0.9,192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="198.51.100.1, 10.0.0.9, 192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="garbage, 192.0.2.1")

    def test_chain(self) -> None:
        """Trusted proxies in a chain are skipped, from right to left."""
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1, 10.0.0.3, 10.0.0.2")
        self.assert_client("192.0.2.1", x_forwarded_for="1.2.3.4, 192.0.2.1, 2001:db8:aa::7")
        self.assert_client("10.0.0.3", x_forwarded_for="10.0.0.3, 10.0.0.2")

    def test_repeated(self) -> None:
        """If the header is repeated, the last one is from the last proxy."""
        self.assert_client("192.0.2.1", x_forwarded_for=["198.51.100.1", "192.0.2.1"])
        self.assert_client("198.51.100.1", x_forwarded_for=["198.51.100.1", "10.0.0.2"])

    def test_garbage(self) -> None:
        """A hop that is not an address makes the client unknown: hops to its left may be forged."""
        for hop in ("garbage", "unknown", "_hidden", "192.0.2", "192.0.2.256", "[]", "::g", "\x85"):
            self.assert_client("unknown", x_forwarded_for=f"192.0.2.1, {hop}")
            self.assert_client("unknown", x_forwarded_for=f"192.0.2.1, {hop}, 10.0.0.2")

    def test_port(self) -> None:
        """An address may have a port."""
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1:4711")
        self.assert_client("2001:db8::1", x_forwarded_for="[2001:db8::1]:4711")
        self.assert_client("2001:db8::1", x_forwarded_for="[2001:db8::1]")

    def test_mapped(self) -> None:
        """An IPv4-mapped IPv6 address is an IPv4 address, as a hop and as the peer."""
        self.assert_client("192.0.2.1", x_forwarded_for="::ffff:192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1, ::ffff:10.0.0.2")
        client = self.find_client("::ffff:10.0.0.1", x_forwarded_for="192.0.2.1")
        self.assertEqual(client.address, "192.0.2.1")

    def test_untrusted(self) -> None:
        """The headers of an untrusted peer are ignored."""
        forged = {
            "x_forwarded_for": "192.0.2.1",
            "x_forwarded_proto": "https",
            "forwarded": "for=192.0.2.1;proto=https",
        }
        for peer in ("198.51.100.1", "127.0.0.1", "2001:db8::1", "garbage"):
            self.assertEqual(self.find_client(peer, **forged), ClientAddress(peer, None))

    def test_unix(self) -> None:
        """A proxy may connect through a Unix socket; without trusted proxies it is not believed."""
        self.assertEqual(self.find_client(None), ClientAddress("unix", None))
        self.assertEqual(
            self.find_client(None, x_forwarded_for="192.0.2.1"), ClientAddress("192.0.2.1", None)
        )
        headers = Headers({"x-forwarded-for": ["192.0.2.1"], "x-forwarded-proto": ["https"]})
        self.assertEqual(Proxies().client(None, headers), ClientAddress("unix", None))

    def test_scheme(self) -> None:
        """The first ``X-Forwarded-Proto`` gives the client's scheme, also as that of WebSockets."""
        for value, scheme in (
            ("https", "https"),
            ("HTTPS", "https"),
            ("http", "http"),
            ("https, http", "https"),
            ("http,https", "http"),
            (" , https", "https"),
            (["https", "http"], "https"),
            ("wss", "https"),
            ("WSS", "https"),
            ("wss, ws", "https"),
            ("ws", "http"),
            ("Ws", "http"),
            ("", None),
            ("tcp", None),
            ("wss:", None),
            ("https:", None),
            ("javascript", None),
        ):
            client = self.find_client(x_forwarded_for="192.0.2.1", x_forwarded_proto=value)
            self.assertEqual(client, ClientAddress("192.0.2.1", scheme))
        self.assertEqual(
            self.find_client(x_forwarded_proto="https"), ClientAddress("10.0.0.1", "https")
        )


class ForwardedTests(ProxiesTestCase):
    """The client's address is found in ``Forwarded`` (RFC 7239)."""

    def test_rfc(self) -> None:
        """The examples of RFC 7239 §4 are parsed."""
        self.assert_client("unknown", forwarded='for="_gazonk"')
        self.assert_client("2001:db8:cafe::17", forwarded='For="[2001:db8:cafe::17]:4711"')
        self.assertEqual(
            self.find_client(forwarded="for=192.0.2.60;proto=http;by=203.0.113.43"),
            ClientAddress("192.0.2.60", "http"),
        )
        self.assert_client("198.51.100.17", forwarded="for=192.0.2.43, for=198.51.100.17")

    def test_spelling(self) -> None:
        """Names may be in any case, values quoted or not, with spaces around them."""
        for element in (
            "for=192.0.2.1;proto=https",
            "FOR=192.0.2.1;Proto=HTTPS",
            'for="192.0.2.1";proto="https"',
            'proto=https ; by=10.0.0.1;\tfor = "192.0.2.1:4711"',
            "for=192.0.2.1:4711;proto=https;",
            'for=192.0.2.1;host="example.com;for=1.2.3.4";proto=https',
            'for=192.0.2.1;host="\\";for=1.2.3.4";proto=https',
            "for=192.0.2.1;proto=wss",
            "for=192.0.2.1;proto=WSS",
        ):
            self.assertEqual(
                self.find_client(forwarded=element), ClientAddress("192.0.2.1", "https"), element
            )

    def test_rightmost(self) -> None:
        """Hops to the left of an untrusted one are ignored: they may be forged."""
        self.assert_client("192.0.2.1", forwarded="for=10.0.0.9, for=192.0.2.1")
        self.assert_client("192.0.2.1", forwarded=["for=1.2.3.4", "for=192.0.2.1"])
        self.assert_client("192.0.2.1", forwarded="for=1.2.3.4, for=192.0.2.1, for=10.0.0.2")

    def test_open_quote(self) -> None:
        """An unclosed quote in a forged hop does not hide the hop that our proxy added."""
        self.assert_client("192.0.2.1", forwarded='for="1.2.3.4, for=192.0.2.1')
        self.assert_client("192.0.2.1", forwarded='for="1.2.3.4, for=192.0.2.1;by="[::1]"')
        self.assert_client("192.0.2.1", forwarded='for="1.2.3.4\\, for=192.0.2.1')

    def test_comma_in_quotes(self) -> None:
        """A comma in a client's Host header, quoted by a proxy, does not begin a new hop."""
        self.assert_client("unknown", forwarded='for=192.0.2.1;host="a,for=1.2.3.4"')
        self.assert_client("unknown", forwarded='for=192.0.2.1;host="a,for=1.2.3.4,b"')
        self.assert_client("unknown", forwarded='for=192.0.2.1;host="a\\",for=1.2.3.4;b=\\""')

    def test_garbage(self) -> None:
        """A hop without a valid address makes the client unknown."""
        for hop in (
            "for=unknown",
            'for="_hidden:_port"',
            "for=",
            "for",
            "=192.0.2.1",
            "by=10.0.0.1",
            "x-for=1.2.3.4",
            "garbage for=1.2.3.4",
            "for=1.2.3.4 garbage",
            'for="1.2.3.4',
            "for=1.2.3.4;;by",
        ):
            self.assert_client("unknown", forwarded=f"for=192.0.2.1, {hop}, for=10.0.0.2")

    def test_after_forwarded_for(self) -> None:
        """``X-Forwarded-For`` takes precedence: proxies may pass on a forged ``Forwarded``."""
        old = {"x_forwarded_for": "198.51.100.1", "x_forwarded_proto": "http"}
        for forwarded in ("for=192.0.2.1;proto=https", "for=192.0.2.1", "", "garbage"):
            self.assertEqual(
                self.find_client(forwarded=forwarded, **old),
                ClientAddress("198.51.100.1", "http"),
                forwarded,
            )
        self.assertEqual(
            self.find_client(forwarded="for=192.0.2.1;proto=https"),
            ClientAddress("192.0.2.1", "https"),
        )

    def test_scheme_of_the_client(self) -> None:
        """The scheme is that of the client's hop, not one between our proxies."""
        chain = "for=192.0.2.1;proto=https, for=10.0.0.3;proto=http"
        self.assertEqual(self.find_client(forwarded=chain), ClientAddress("192.0.2.1", "https"))
        # The left hop may be forged.
        chain = "for=1.2.3.4;proto=https, for=192.0.2.1;proto=http"
        self.assertEqual(self.find_client(forwarded=chain), ClientAddress("192.0.2.1", "http"))
        # If the client's hop has no scheme, the next one counts.
        chain = "for=192.0.2.1, for=10.0.0.3;proto=https"
        self.assertEqual(self.find_client(forwarded=chain), ClientAddress("192.0.2.1", "https"))
        self.assertEqual(
            self.find_client(forwarded="for=unknown;proto=https"), ClientAddress("unknown", "https")
        )

    def test_long(self) -> None:
        """A very long header is parsed quickly."""
        for piece in ("for=1.2.3.4,", "for=1.2.3.4;", 'for="', "for = ", ";", "\\", "a=", " "):
            self.find_client(forwarded="for=192.0.2.1," + piece * 20_000)
            self.find_client(x_forwarded_for=piece * 20_000)


class ReadAddressTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """An address is parsed with or without a port; other texts give None."""
        for text, address in (
            ("192.0.2.1", IPv4Address("192.0.2.1")),
            ("192.0.2.1:80", IPv4Address("192.0.2.1")),
            ("::ffff:192.0.2.1", IPv4Address("192.0.2.1")),
            ("[::ffff:192.0.2.1]:80", IPv4Address("192.0.2.1")),
            ("::1", IPv6Address("::1")),
            (" ::1 ", IPv6Address("::1")),
            ('"[::1]:80"', IPv6Address("::1")),
            ("[::1]", IPv6Address("::1")),
            ("localhost", None),
            ("", None),
            (None, None),
        ):
            self.assertEqual(read_address(text), address, text)


class ProxiedRequestTests(SynchronousTestCase):
    """Peer and scheme of a request from 127.0.0.1, as a view sees them."""

    def request(self, proxies: Proxies, **headers: str) -> tuple[str, str]:
        """Send a request, and return the peer and scheme that the view sees."""
        seen: list[tuple[str, str]] = []

        def view(request: Request) -> str:
            seen.append((request.peer, request.scheme))
            return "seen"

        with Daemon({"/": view}, proxies=proxies) as daemon:
            daemon.get("/", {name.replace("_", "-"): value for name, value in headers.items()})
        return seen.pop()

    def test_trusted(self) -> None:
        """Behind a trusted proxy a view sees the client's address and scheme."""
        peer, scheme = self.request(
            Proxies(["127.0.0.1"]), X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="https"
        )
        self.assertEqual((peer, scheme), ("192.0.2.1", "https"))

    def test_no_headers(self) -> None:
        """If the trusted proxy sends no headers, a view sees the proxy's address and scheme."""
        peer, scheme = self.request(Proxies(["127.0.0.1"]))
        self.assertTrue(peer.startswith("127.0.0.1:"))
        self.assertEqual(scheme, "http")

    def test_untrusted(self) -> None:
        """A view does not see an address or scheme that an untrusted peer gives."""
        for proxies in (Proxies(), Proxies(["10.0.0.0/8"])):
            peer, scheme = self.request(
                proxies,
                X_Forwarded_For="192.0.2.1",
                X_Forwarded_Proto="https",
                Forwarded="for=192.0.2.1;proto=https",
            )
            self.assertTrue(peer.startswith("127.0.0.1:"))
            self.assertEqual(scheme, "http")
