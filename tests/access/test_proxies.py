"""Who really asks, when a proxy stands in between: the rightmost hop that is none of ours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.proxies import ClientAddress, Proxies, read_address
from pushd.testing.daemon import Daemon
from pushd.views.request import Request


class ProxiesTestCase(SynchronousTestCase):
    """Proxies at 10.0.0.0/8 and 2001:db8:aa::/48, of which 10.0.0.1 asks."""

    proxies = Proxies(["10.0.0.0/8", "2001:db8:aa::/48"])

    def ask(self, peer: str | None = "10.0.0.1", **headers: str | list[str]) -> ClientAddress:
        """Ask from an address, with headers."""
        fields = Headers()
        for name, values in headers.items():
            for value in [values] if isinstance(values, str) else values:
                fields.addRawHeader(name.replace("_", "-"), value)
        return self.proxies.client(peer, fields)

    def assert_client(self, address: str, **headers: str | list[str]) -> None:
        """Check who is taken for the client, whichever of the two headers says it."""
        self.assertEqual(self.ask("10.0.0.1", **headers).address, address)


class TrustTests(ProxiesTestCase):
    def test_networks(self) -> None:
        """What is in a network is ours, and nothing else."""
        for address in ("10.0.0.0", "10.255.255.255", "2001:db8:aa::1", "::ffff:10.0.0.1"):
            self.assertTrue(self.proxies.is_trusted(address), address)
        for address in ("11.0.0.0", "127.0.0.1", "::1", "2001:db8:ab::1", "::ffff:11.0.0.1"):
            self.assertFalse(self.proxies.is_trusted(address), address)

    def test_garbage(self) -> None:
        """What is no address is not ours."""
        for address in ("", "garbage", "unix", "10.0.0", "10.0.0.0/8", "010.0.0.1"):
            self.assertFalse(self.proxies.is_trusted(address), address)

    def test_unix(self) -> None:
        """A Unix socket is this machine's own; its word counts as soon as any proxy's does."""
        self.assertTrue(self.proxies.is_trusted(None))
        self.assertFalse(Proxies().is_trusted(None))

    def test_nobody(self) -> None:
        """Without networks nobody is trusted."""
        for address in ("10.0.0.1", "127.0.0.1", "::1"):
            self.assertFalse(Proxies().is_trusted(address))

    def test_everybody(self) -> None:
        """The network of all IPv4 addresses is one, and says nothing of IPv6."""
        proxies = Proxies(["0.0.0.0/0"])
        self.assertTrue(proxies.is_trusted("192.0.2.1"))
        self.assertFalse(proxies.is_trusted("2001:db8::1"))

    def test_bad(self) -> None:
        """What is no network is refused at the start."""
        for network in ("", "proxy", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "[::1]", "::1/129"):
            with self.assertRaises(ValueError):
                Proxies(["10.0.0.0/8", network])


class ForwardedForTests(ProxiesTestCase):
    """``X-Forwarded-For``, which most proxies write."""

    def test_none(self) -> None:
        """A proxy that says nothing asks for itself."""
        self.assertEqual(self.ask(), ClientAddress("10.0.0.1", None))
        self.assert_client("10.0.0.1", x_forwarded_for="")
        self.assert_client("10.0.0.1", x_forwarded_for=" , ")

    def test_one(self) -> None:
        """What a proxy of ours says counts."""
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1")
        self.assert_client("2001:db8::1", x_forwarded_for="2001:db8::1")
        self.assert_client("2001:db8::1", x_forwarded_for="2001:DB8:0:0::1")

    def test_rightmost(self) -> None:
        """What stands left of a stranger is the stranger's invention."""
        self.assert_client("192.0.2.1", x_forwarded_for="127.0.0.1, 192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="10.0.0.9,192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="198.51.100.1, 10.0.0.9, 192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="garbage, 192.0.2.1")

    def test_chain(self) -> None:
        """Proxies of ours that stand behind each other are walked through."""
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1, 10.0.0.3, 10.0.0.2")
        self.assert_client("192.0.2.1", x_forwarded_for="1.2.3.4, 192.0.2.1, 2001:db8:aa::7")
        self.assert_client("10.0.0.3", x_forwarded_for="10.0.0.3, 10.0.0.2")

    def test_repeated(self) -> None:
        """The header may be there more than once; the last one is the last proxy's."""
        self.assert_client("192.0.2.1", x_forwarded_for=["198.51.100.1", "192.0.2.1"])
        self.assert_client("198.51.100.1", x_forwarded_for=["198.51.100.1", "10.0.0.2"])

    def test_garbage(self) -> None:
        """A hop that is no address ends the walk: who knows what stands left of it."""
        for hop in ("garbage", "unknown", "_hidden", "192.0.2", "192.0.2.256", "[]", "::g", "\x85"):
            self.assert_client("unknown", x_forwarded_for=f"192.0.2.1, {hop}")
            self.assert_client("unknown", x_forwarded_for=f"192.0.2.1, {hop}, 10.0.0.2")

    def test_port(self) -> None:
        """An address may have a port behind it."""
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1:4711")
        self.assert_client("2001:db8::1", x_forwarded_for="[2001:db8::1]:4711")
        self.assert_client("2001:db8::1", x_forwarded_for="[2001:db8::1]")

    def test_mapped(self) -> None:
        """IPv4 in IPv6's clothes is IPv4, as a hop and as the peer."""
        self.assert_client("192.0.2.1", x_forwarded_for="::ffff:192.0.2.1")
        self.assert_client("192.0.2.1", x_forwarded_for="192.0.2.1, ::ffff:10.0.0.2")
        asked = self.ask("::ffff:10.0.0.1", x_forwarded_for="192.0.2.1")
        self.assertEqual(asked.address, "192.0.2.1")

    def test_stranger(self) -> None:
        """What anybody else says of who asks does not count."""
        lies = {
            "x_forwarded_for": "192.0.2.1",
            "x_forwarded_proto": "https",
            "forwarded": "for=192.0.2.1;proto=https",
        }
        for peer in ("198.51.100.1", "127.0.0.1", "2001:db8::1", "garbage"):
            self.assertEqual(self.ask(peer, **lies), ClientAddress(peer, None))

    def test_unix(self) -> None:
        """A proxy may ask through a Unix socket; if none is trusted, nor is that one."""
        self.assertEqual(self.ask(None), ClientAddress("unix", None))
        self.assertEqual(
            self.ask(None, x_forwarded_for="192.0.2.1"), ClientAddress("192.0.2.1", None)
        )
        headers = Headers({"x-forwarded-for": ["192.0.2.1"], "x-forwarded-proto": ["https"]})
        self.assertEqual(Proxies().client(None, headers), ClientAddress("unix", None))

    def test_scheme(self) -> None:
        """``X-Forwarded-Proto`` says what the client asked for; the last one is our proxy's."""
        for value, scheme in (
            ("https", "https"),
            ("HTTPS", "https"),
            ("http", "http"),
            ("https, http", "http"),
            ("", None),
            ("wss", None),
            ("https:", None),
            ("javascript", None),
        ):
            asked = self.ask(x_forwarded_for="192.0.2.1", x_forwarded_proto=value)
            self.assertEqual(asked, ClientAddress("192.0.2.1", scheme))
        self.assertEqual(self.ask(x_forwarded_proto="https"), ClientAddress("10.0.0.1", "https"))


class ForwardedTests(ProxiesTestCase):
    """``Forwarded``, as RFC 7239 has it."""

    def test_rfc(self) -> None:
        """The examples of RFC 7239 §4 are understood."""
        self.assert_client("unknown", forwarded='for="_gazonk"')
        self.assert_client("2001:db8:cafe::17", forwarded='For="[2001:db8:cafe::17]:4711"')
        self.assertEqual(
            self.ask(forwarded="for=192.0.2.60;proto=http;by=203.0.113.43"),
            ClientAddress("192.0.2.60", "http"),
        )
        self.assert_client("198.51.100.17", forwarded="for=192.0.2.43, for=198.51.100.17")

    def test_spelling(self) -> None:
        """Names are in any case, values quoted or not, with room around them."""
        for element in (
            "for=192.0.2.1;proto=https",
            "FOR=192.0.2.1;Proto=HTTPS",
            'for="192.0.2.1";proto="https"',
            'proto=https ; by=10.0.0.1;\tfor = "192.0.2.1:4711"',
            "for=192.0.2.1:4711;proto=https;",
            'for=192.0.2.1;host="example.com;for=1.2.3.4";proto=https',
            'for=192.0.2.1;host="\\";for=1.2.3.4";proto=https',
        ):
            self.assertEqual(
                self.ask(forwarded=element), ClientAddress("192.0.2.1", "https"), element
            )

    def test_rightmost(self) -> None:
        """What stands left of a stranger is the stranger's invention."""
        self.assert_client("192.0.2.1", forwarded="for=10.0.0.9, for=192.0.2.1")
        self.assert_client("192.0.2.1", forwarded=["for=1.2.3.4", "for=192.0.2.1"])
        self.assert_client("192.0.2.1", forwarded="for=1.2.3.4, for=192.0.2.1, for=10.0.0.2")

    def test_open_quote(self) -> None:
        """A quote that a stranger leaves open does not swallow what our proxy wrote behind it."""
        self.assert_client("192.0.2.1", forwarded='for="1.2.3.4, for=192.0.2.1')
        self.assert_client("192.0.2.1", forwarded='for="1.2.3.4, for=192.0.2.1;by="[::1]"')
        self.assert_client("192.0.2.1", forwarded='for="1.2.3.4\\, for=192.0.2.1')

    def test_comma_in_quotes(self) -> None:
        """A comma that a stranger put into its Host does not make a hop of what follows."""
        self.assert_client("unknown", forwarded='for=192.0.2.1;host="a,for=1.2.3.4"')
        self.assert_client("unknown", forwarded='for=192.0.2.1;host="a,for=1.2.3.4,b"')
        self.assert_client("unknown", forwarded='for=192.0.2.1;host="a\\",for=1.2.3.4;b=\\""')

    def test_garbage(self) -> None:
        """A hop that does not say its address, or not clearly, ends the walk."""
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
        """``X-Forwarded-For`` counts before it: proxies pass on one that a client made up."""
        old = {"x_forwarded_for": "198.51.100.1", "x_forwarded_proto": "http"}
        for forwarded in ("for=192.0.2.1;proto=https", "for=192.0.2.1", "", "garbage"):
            self.assertEqual(
                self.ask(forwarded=forwarded, **old),
                ClientAddress("198.51.100.1", "http"),
                forwarded,
            )
        self.assertEqual(
            self.ask(forwarded="for=192.0.2.1;proto=https"), ClientAddress("192.0.2.1", "https")
        )

    def test_scheme_of_the_client(self) -> None:
        """The scheme is that of the client's own hop, however our proxies speak to each other."""
        chain = "for=192.0.2.1;proto=https, for=10.0.0.3;proto=http"
        self.assertEqual(self.ask(forwarded=chain), ClientAddress("192.0.2.1", "https"))
        # The left one is a stranger's word.
        chain = "for=1.2.3.4;proto=https, for=192.0.2.1;proto=http"
        self.assertEqual(self.ask(forwarded=chain), ClientAddress("192.0.2.1", "http"))
        # Where that hop does not say it, the one that is nearest to it does.
        chain = "for=192.0.2.1, for=10.0.0.3;proto=https"
        self.assertEqual(self.ask(forwarded=chain), ClientAddress("192.0.2.1", "https"))
        self.assertEqual(
            self.ask(forwarded="for=unknown;proto=https"), ClientAddress("unknown", "https")
        )

    def test_long(self) -> None:
        """A very long header costs no time worth mentioning."""
        for piece in ("for=1.2.3.4,", "for=1.2.3.4;", 'for="', "for = ", ";", "\\", "a=", " "):
            self.ask(forwarded="for=192.0.2.1," + piece * 20_000)
            self.ask(x_forwarded_for=piece * 20_000)


class ReadAddressTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """An address is read with and without its port; what is none is None."""
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
    """What a view sees of who asks; the connection itself comes from 127.0.0.1."""

    def see(self, proxies: Proxies, **headers: str) -> tuple[str, str]:
        """Give peer and scheme as a view sees them."""
        seen: list[tuple[str, str]] = []

        def view(request: Request) -> str:
            seen.append((request.peer, request.scheme))
            return "seen"

        with Daemon({"/": view}, proxies=proxies) as daemon:
            daemon.get("/", {name.replace("_", "-"): value for name, value in headers.items()})
        return seen.pop()

    def test_trusted(self) -> None:
        """Behind a proxy of ours a view sees the client, and the scheme it asked for."""
        peer, scheme = self.see(
            Proxies(["127.0.0.1"]), X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="https"
        )
        self.assertEqual((peer, scheme), ("192.0.2.1", "https"))

    def test_silent(self) -> None:
        """Where the proxy says nothing it asks for itself, over what it asked."""
        peer, scheme = self.see(Proxies(["127.0.0.1"]))
        self.assertTrue(peer.startswith("127.0.0.1:"))
        self.assertEqual(scheme, "http")

    def test_untrusted(self) -> None:
        """A stranger can't say who it is, nor that it came over TLS."""
        for proxies in (Proxies(), Proxies(["10.0.0.0/8"])):
            peer, scheme = self.see(
                proxies,
                X_Forwarded_For="192.0.2.1",
                X_Forwarded_Proto="https",
                Forwarded="for=192.0.2.1;proto=https",
            )
            self.assertTrue(peer.startswith("127.0.0.1:"))
            self.assertEqual(scheme, "http")
