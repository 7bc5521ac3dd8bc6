"""Tests of allowed origins, and of the hosts that are our own."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.origins import Hosts, Origins, is_own_host


class SameOriginTests(SynchronousTestCase):
    """Without ``--origin`` only pages of our own origin may connect."""

    def assert_same(self, origin: str, host: str, scheme: str = "http") -> None:
        """Check that the origin is the same as the host's."""
        self.assertTrue(Origins().allows(origin, scheme=scheme, host=host), (origin, scheme, host))

    def assert_foreign(self, origin: str, host: str = "example.com", scheme: str = "http") -> None:
        """Check that the origin is refused, but for ``*``."""
        where = (origin[:80], scheme, host)
        self.assertFalse(Origins().allows(origin, scheme=scheme, host=host), where)
        self.assertTrue(Origins(["*"]).allows(origin, scheme=scheme, host=host), where)

    def test_same(self) -> None:
        """A page with the same scheme, host and port may connect."""
        self.assert_same("http://example.com", "example.com")
        self.assert_same("http://example.com:8080", "example.com:8080")
        self.assert_same("https://example.com:8443", "example.com:8443", "https")
        self.assert_same("http://192.0.2.1:8080", "192.0.2.1:8080")
        self.assert_same("http://a_b.xn--mnchen-3ya.de", "a_b.xn--mnchen-3ya.de")

    def test_none(self) -> None:
        """A request without an origin, which no browser sends, is allowed."""
        self.assertTrue(Origins().allows(None, scheme="http", host="example.com"))
        self.assertTrue(Origins(["*"]).allows(None, scheme="http", host=""))

    def test_replace(self) -> None:
        """After ``replace`` only the new origins are allowed."""
        origins = Origins(["https://a.example", "https://*.b.example", "*"])
        origins.replace(Origins(["https://c.example", "https://*.d.example"]))
        allowed = [
            name
            for name in ("a.example", "x.b.example", "c.example", "x.d.example", "e.example")
            if origins.allows(f"https://{name}", scheme="https", host="pushd.example")
        ]
        self.assertEqual(allowed, ["c.example", "x.d.example"])

    def test_default_ports(self) -> None:
        """The default port may be given or left out on either side."""
        self.assert_same("http://example.com", "example.com:80")
        self.assert_same("http://example.com:80", "example.com")
        self.assert_same("https://example.com", "example.com:443", "https")
        self.assert_same("https://example.com:443", "example.com", "https")
        self.assert_foreign("http://example.com:443", "example.com")
        self.assert_foreign("http://example.com", "example.com:443")
        self.assert_foreign("https://example.com:80", "example.com", "https")

    def test_upper_case(self) -> None:
        """Case does not matter."""
        self.assert_same("http://EXAMPLE.com", "example.COM")
        self.assert_same("HTTP://example.com", "example.com")
        self.assert_same("http://[2001:DB8::A]", "[2001:db8::a]")
        # The Kelvin sign, whose lower case is a plain k.
        self.assert_foreign("http://\u212aey.com", "key.com")

    def test_ipv6(self) -> None:
        """An IPv6 address must be in brackets, with or without a port."""
        self.assert_same("http://[::1]", "[::1]")
        self.assert_same("http://[::1]:80", "[::1]")
        self.assert_same("http://[::1]:8080", "[::1]:8080")
        self.assert_foreign("http://[::1]:8080", "[::1]:8081")
        self.assert_foreign("http://[::2]", "[::1]")
        for bad in ("http://[::1", "http://::1", "http://[::1]x", "http://[::1]:", "http://[]"):
            self.assert_foreign(bad, "[::1]")

    def test_scheme(self) -> None:
        """The scheme must be the same: a page over http may have been forged on the way."""
        self.assert_foreign("http://example.com", "example.com", "https")
        self.assert_foreign("https://example.com", "example.com", "http")
        for scheme in ("ws", "wss", "ftp", "file", "chrome-extension", "data", ""):
            self.assert_foreign(f"{scheme}://example.com")

    def test_port(self) -> None:
        """The port must be the same."""
        self.assert_foreign("http://example.com:8080", "example.com")
        self.assert_foreign("http://example.com", "example.com:8080")
        for port in (
            "",
            "x",
            "-80",
            "+80",
            "0x50",
            "65616",
            "99999",
            "000080",
            "8 0",
            "\u0668\u0660",
        ):
            self.assert_foreign(f"http://example.com:{port}")

    def test_other_host(self) -> None:
        """A host that only resembles ours is refused."""
        for host in (
            "evil.com",
            "www.example.com",
            "com",
            "example.com.evil.com",
            "evil-example.com",
            "example.com.",
            "example.com%00",
            "example.com%2eevil.com",
            "examp1e.com",
            "\u0435xample.com",
        ):
            self.assert_foreign(f"http://{host}")

    def test_null(self) -> None:
        """The origin ``null``, of sandboxed frames and files, is never ours."""
        self.assert_foreign("null")
        self.assert_foreign("NULL")
        self.assert_foreign("null", "null")

    def test_userinfo(self) -> None:
        """An origin with a user is refused: what precedes an @ is not taken for the host."""
        for origin in (
            "http://example.com@evil.com",
            "http://example.com:80@evil.com",
            "http://evil.com@example.com",
            "http://evil.com:x@example.com",
            "http://@example.com",
            "http://example.com\\@evil.com",
            "http://example.com#@evil.com",
            "https://good@evil",
        ):
            self.assert_foreign(origin)

    def test_more_than_an_origin(self) -> None:
        """An origin with a path, query, fragment or anything else after it is refused."""
        for rest in (
            "/",
            "/path",
            "?query",
            "#fragment",
            "\\",
            " ",
            "\t",
            "\n",
            "\x00",
            ", http://evil.com",
            " http://evil.com",
        ):
            self.assert_foreign(f"http://example.com{rest}")
        for origin in (" http://example.com", "http://exam\tple.com", "http:/example.com"):
            self.assert_foreign(origin)

    def test_garbage(self) -> None:
        """A header that is not an origin is refused without an exception."""
        for origin in ("", " ", "*", "garbage", "example.com", "//example.com", "http://", "://"):
            self.assert_foreign(origin)
            self.assert_foreign(origin, host="")

    def test_long(self) -> None:
        """A very long origin is refused quickly."""
        self.assert_foreign("http://" + "a" * 100_000)
        self.assert_foreign("http://" + "a." * 100_000 + "!")
        self.assert_foreign("http://example.com:" + "8" * 100_000)
        self.assert_foreign("[" * 100_000)
        self.assert_foreign("http://[" + ":" * 100_000)

    def test_bad_host(self) -> None:
        """With an invalid Host header every origin is refused."""
        for host in ("", "@", "a@example.com", "example.com/", "example.com:x", "[::1", "*", "é"):
            self.assert_foreign("http://example.com", host)
            self.assert_foreign(f"http://{host}", host)


class AllowedOriginTests(SynchronousTestCase):
    """``--origin`` allows origins besides our own."""

    def allows(self, origin: str, *allowed: str) -> bool:
        """Whether a page of an origin may connect to pushd.example."""
        return Origins(allowed).allows(origin, scheme="https", host="pushd.example")

    def test_exact(self) -> None:
        """A listed origin is allowed; other ones, and subdomains of it, are not."""
        self.assertTrue(self.allows("https://example.com", "https://example.com"))
        self.assertTrue(self.allows("https://example.com", "https://example.com:443"))
        self.assertTrue(self.allows("https://example.com:443", "https://example.com"))
        self.assertTrue(self.allows("https://example.com", "HTTPS://EXAMPLE.com"))
        self.assertTrue(self.allows("http://[::1]:3000", "http://[::1]:3000"))
        for origin in (
            "http://example.com",
            "http://example.com:443",
            "https://example.com:8443",
            "https://www.example.com",
            "https://evil.com",
            "null",
        ):
            self.assertFalse(self.allows(origin, "https://example.com"), origin)

    def test_several(self) -> None:
        """Our own origin and every listed one are allowed."""
        allowed = ("https://a.example", "http://b.example:3000", "https://*.c.example")
        for origin in (
            "https://pushd.example",
            "https://a.example",
            "http://b.example:3000",
            "https://x.c.example",
        ):
            self.assertTrue(self.allows(origin, *allowed), origin)
        self.assertFalse(self.allows("https://d.example", *allowed))

    def test_wildcard(self) -> None:
        """A wildcard allows all subdomains of a domain, at any depth."""
        for origin in (
            "https://a.example.com",
            "https://A.EXAMPLE.COM",
            "https://a.b.example.com",
            "https://a.example.com:443",
        ):
            self.assertTrue(self.allows(origin, "https://*.example.com"), origin)
        self.assertTrue(self.allows("https://a.example.com:8443", "https://*.example.com:8443"))

    def test_wildcard_limits(self) -> None:
        """A wildcard does not allow the domain itself, nor what only ends like it."""
        for origin in (
            "https://example.com",
            "https://.example.com",
            "https://evil-example.com",
            "https://evilexample.com",
            "https://example.com.evil.com",
            "https://a.example.com.evil.com",
            "https://a.example.com.",
            "http://a.example.com",
            "http://a.example.com:443",
            "https://a.example.com:8443",
            "https://evil.com\\.example.com",
            "https://evil.com/.example.com",
            "https://evil.com#.example.com",
            "https://evil.com?.example.com",
            "https://evil.com:.example.com",
            "https://evil.com%2f.example.com",
            "https://evil.com@a.example.com",
            "https://evil.com\x00.example.com",
            "null",
            "",
        ):
            self.assertFalse(self.allows(origin, "https://*.example.com"), origin)

    def test_all(self) -> None:
        """``*`` allows every origin, whatever else is listed."""
        for origin in ("https://evil.com", "null", "garbage", ""):
            self.assertTrue(self.allows(origin, "https://example.com", "*"), origin)

    def test_bad(self) -> None:
        """The error about an invalid origin gives its value, and says what is valid."""
        for text in (
            "",
            "example.com",
            "//example.com",
            "NULL",
            "**",
            "http://",
            "http://*",
            "http://*.",
            "http://*..",
            "http://.",
            "http://.com",
            "https://a.*.com",
            "https://*.*.com",
            "https://*example.com",
            "https://*.[::1]",
            "*://example.com",
            "http*://example.com",
            "http://example.com/",
            "http://example.com:",
            "http://example.com:x",
            "http://example.com:99999",
            "http://example.com:*",
            "http://example.com:\u0668\u0660",
            "http://user@example.com",
            "http://[zz]",
            "http://[::1",
            "ftp://example.com",
            "ws://example.com",
            "wss://example.com",
            "capacitor://localhost/",
            "capacitor://*.localhost",
            "capacitor:localhost",
            "capacitor://a@b",
            "capacitor://local host",
            "capacitor://localhost:x",
            "*://*",
            "https://*",
            "file:///",
            "file:",
            "://localhost",
            "http://example.com ",
            " http://example.com",
            "http://example.com\n",
            "http://münchen.de",
            "https://a.example https://b.example",
        ):
            with self.assertRaises(ValueError) as raised:
                Origins(["https://good.example", text])
            self.assertEqual(
                str(raised.exception),
                "must be an origin such as https://example.com, https://*.example.com, "
                f"capacitor://localhost or null, or * for all; got {text!r}",
            )


class AppOriginTests(SynchronousTestCase):
    """``--origin`` allows apps and browser extensions, whose schemes are not http."""

    APPS = (
        *("capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://localhost"),
        *("app://-", "app://.", "app://", "file://", "null", "vscode-webview://1b2c3d"),
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://0d0c1e5a-5b5a-4b0e-9c9c-4a5d6e7f8091",
        "capacitor://localhost:8080",
    )

    def allows(self, origin: str, *allowed: str) -> bool:
        """Whether a page of an origin may connect to localhost."""
        return Origins(allowed).allows(origin, scheme="http", host="localhost")

    def test_by_name(self) -> None:
        """Each is allowed by its name, which allows no other, and is not allowed otherwise."""
        for one in self.APPS:
            self.assertFalse(self.allows(one), one)
            self.assertFalse(self.allows(one, "https://example.com", "https://*.localhost"), one)
            for other in (*self.APPS, "http://localhost:8080", "capacitor://localhost:80", ""):
                self.assertEqual(self.allows(other, one), other == one, (other, one))
            # Our own origin stays allowed.
            self.assertTrue(self.allows("http://localhost", one))

    def test_case(self) -> None:
        """The case of a scheme and host does not matter, that of ``null`` does."""
        self.assertTrue(self.allows("Capacitor://Localhost", "CAPACITOR://localhost"))
        self.assertFalse(self.allows("NULL", "null"))

    def test_any_host_of_a_scheme(self) -> None:
        """``moz-extension://*`` allows all extensions: Firefox makes a host for each profile."""
        allowed = "moz-extension://*"
        self.assertTrue(
            self.allows("moz-extension://0d0c1e5a-5b5a-4b0e-9c9c-4a5d6e7f8091", allowed)
        )
        for other in (
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension2://a",
            "x-moz-extension://a",
            "moz-extension://a/b",
            "moz-extension:a",
            "https://moz-extension",
            "null",
        ):
            self.assertFalse(self.allows(other, allowed), other)

    def test_garbage(self) -> None:
        """What only resembles an allowed one is refused."""
        for origin in (
            *("capacitor://localhost/", "capacitor://localhost ", "capacitor://localhost\n"),
            *(
                "capacitor://localhost.evil.com",
                "capacitor://evil@localhost",
                "capacitor:/localhost",
            ),
            *("null ", "null, null", "capacitor://localhost, https://evil.com", "x" * 100_000),
            *("capacitor://" + "a" * 100_000, "a" * 100_000 + "://localhost"),
        ):
            self.assertFalse(self.allows(origin, "capacitor://localhost", "null"), origin[:80])

    def test_replaced(self) -> None:
        """A reload allows and forbids them."""
        origins = Origins(["null"])
        origins.replace(Origins(["file://"]))
        allowed = [one for one in self.APPS if origins.allows(one, scheme="http", host="localhost")]
        self.assertEqual(allowed, ["file://"])


class OwnHostTests(SynchronousTestCase):
    """``is_own_host`` says which Host headers the control port accepts."""

    def test_localhost(self) -> None:
        """``localhost`` is our own host, at every address and port."""
        for host in ("localhost", "localhost:8081", "LOCALHOST", "localhost:80"):
            for address in ("127.0.0.1", "::1", "192.0.2.1", None):
                self.assertTrue(is_own_host(host, address), (host, address))

    def test_address(self) -> None:
        """The address that the client connected to is our own host, however it is written."""
        for host, address in (
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1:8081", "127.0.0.1"),
            ("192.0.2.1:8081", "192.0.2.1"),
            ("[::1]", "::1"),
            ("[::1]:8081", "::1"),
            ("[0:0:0:0:0:0:0:1]:8081", "::1"),
            ("[2001:DB8::A]", "2001:db8::a"),
            # How a dual-stack socket writes an IPv4 address.
            ("127.0.0.1:8081", "::ffff:127.0.0.1"),
        ):
            self.assertTrue(is_own_host(host, address), (host, address))

    def test_other_address(self) -> None:
        """Another address, even one of this machine, is not our own host."""
        for host, address in (
            ("127.0.0.2", "127.0.0.1"),
            ("127.0.0.1", "::1"),
            ("[::1]", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.0.0.1", "127.0.0.1"),
            ("127.0.0.1", None),
        ):
            self.assertFalse(is_own_host(host, address), (host, address))

    def test_name(self) -> None:
        """A name that others control is not our own host."""
        for host in (
            "evil.com",
            "evil.com:8081",
            "localhost.evil.com",
            "localhost.",
            "127.0.0.1.evil.com",
            "127.0.0.1.nip.io",
            "notlocalhost",
            "localhost@evil.com",
            "evil.com@localhost",
            "evil.com#localhost",
        ):
            for address in ("127.0.0.1", "::1", None):
                self.assertFalse(is_own_host(host, address), (host, address))

    def test_garbage(self) -> None:
        """An invalid or empty Host header is not our own host."""
        for host in (
            "",
            ":",
            ":8081",
            "/",
            "@",
            "[",
            "[::1",
            "::1",
            "[]",
            "localhost:x",
            "localhost:99999",
            "localhost/",
            "localhost ",
            "http://localhost",
            "None",
            "unix",
            "a" * 100_000,
        ):
            for address in ("127.0.0.1", "::1", "", None):
                self.assertFalse(is_own_host(host, address), (host[:80], address))


class HostsTests(SynchronousTestCase):
    """Names under which a port is served."""

    def test_all(self) -> None:
        """Without any, all names are served, and what is not a name as well."""
        for host in ("example.com", "localhost:8080", "192.0.2.1", "", None):
            self.assertTrue(Hosts().allows(host), host)

    def test_names(self) -> None:
        """A name is served on any port, and in any spelling."""
        hosts = Hosts(["Example.com", "*.wild.example", "192.0.2.1", "[2001:DB8:0::1]", "a_b."])
        for host in (
            *("example.com", "EXAMPLE.COM:8080", "example.com.", "example.com.:1", "example.com:"),
            *("a.wild.example", "a.b.wild.example:80", "192.0.2.1:80", "[2001:db8::1]:80", "a_b"),
        ):
            self.assertTrue(hosts.allows(host), host)
        for host in (
            *("", ":80", ".", "localhost", "127.0.0.1", "[::1]", "example.com.evil.example"),
            *("wild.example", "xwild.example", "example.com:x", "example.com@evil.example"),
            *("evil.example/example.com", "192.0.2.10", "3221225985", "[::ffff:192.0.2.2]"),
        ):
            self.assertFalse(hosts.allows(host), host)
        self.assertTrue(hosts.allows(None))

    def test_included(self) -> None:
        """What is not one of the names is not included, also if there are none."""
        hosts = Hosts(["pushd", "*.internal"])
        for host in ("pushd:8081", "PUSHD", "pushd.", "a.internal:80"):
            self.assertTrue(hosts.includes(host), host)
        for host in ("", "pushd.evil.example", "internal", "localhost", "/"):
            self.assertFalse(hosts.includes(host), host)
            self.assertFalse(Hosts().includes(host), host)

    def test_replaced(self) -> None:
        """Names can be replaced, by none at all as well."""
        hosts = Hosts(["a.example"])
        hosts.replace(Hosts(["*.b.example"]))
        self.assertFalse(hosts.allows("a.example"))
        self.assertTrue(hosts.allows("x.b.example"))
        hosts.replace(Hosts())
        self.assertTrue(hosts.allows("a.example"))

    def test_all_addresses(self) -> None:
        """0.0.0.0, with which other servers listen on all addresses, is a mistake."""
        for text in ("0.0.0.0", "[::]"):
            with self.assertRaisesRegex(ValueError, "to listen on them, use an endpoint such as"):
                Hosts([text])

    def test_invalid(self) -> None:
        """What is not a name, or has a port, is a mistake."""
        for text in ("", "*", "https://a.example", "a.example:80", "a b", "::1", "[::1]:80", "a/b"):
            with self.assertRaisesRegex(ValueError, r"must be a name such as .* got"):
                Hosts([text])
