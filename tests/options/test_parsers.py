"""Parsers of options: what each accepts, and the error text for everything else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.tokens import TokenKeys
from pushd.options.parsers import parse_asgi, parse_root_path
from pushd.options.settings import Settings
from pushd.topics.history import Retention
from tests.options.options_case import OptionsTestCase, parse, parse_in
from tests.support.keyring import SECRET, private_key, public_pem, sign
from tests.support.peer import certificate_file


class CspTests(OptionsTestCase):
    def test_csp(self) -> None:
        """--csp takes a policy, or none for no such header."""
        for given in (
            "default-src 'self'",
            "default-src 'none'; img-src https://example.com:8443/a data: *;",
            "upgrade-insecure-requests",
            "sandbox allow-scripts; script-src-elem 'self'",
            "script-src 'self' 'sha256-B2yPHKaXnvFWtRChIbabYmUBFZdVfKKXHbWtWidDVF8='",
        ):
            self.assertEqual(parse("--csp", given).csp, given)
        self.assertEqual(parse("--csp", "none").csp, "")
        self.assertEqual(parse().csp, "default-src 'self'; base-uri 'self'; form-action 'self'")

    def test_bad(self) -> None:
        """Text that is no policy is a mistake, and so are keywords without their quotes."""
        for given in ("", ";", "https://example.com", "default-src é", "off", "default 'self'"):
            self.assert_mistake(
                "csp", given, "a Content-Security-Policy such as default-src 'self'"
            )
        self.assertIn("a Content-Security-Policy", self.mistake("--csp", "a b\r\nc: d"))
        for given in ("default-src self", "script-src https://example.com Self; img-src *"):
            self.assert_mistake("csp", given, "in single quotes: '")


class EndpointTests(OptionsTestCase):
    def test_listen(self) -> None:
        """--listen takes every endpoint that Twisted can parse, more than once."""
        (self.folder / "both.pem").write_bytes(certificate_file())
        for endpoint in (
            "tcp:0",
            "tcp:8080:interface=127.0.0.1",
            "tcp6:8080:interface=\\:\\:1",
            "unix:/run/pushd.sock",
            "ssl:8443:privateKey=both.pem:certKey=both.pem",
            "systemd:domain=INET:index=0",
            "systemd:domain=UNIX:name=control.socket",
            "haproxy:tcp:8080",
            "haproxy:systemd:domain=INET:index=0",
        ):
            self.assertEqual(parse("--listen", endpoint).listen, (endpoint,))
        self.assertEqual(parse("--listen=tcp:1", "--listen=tcp:2").listen, ("tcp:1", "tcp:2"))
        self.assertEqual(parse("--listen", "tcp:1").control, Settings.control)

    def test_bad(self) -> None:
        """The error for something else shows valid endpoints."""
        for option in ("listen", "control"):
            for endpoint in (
                "",
                "8080",
                "tcp",
                "tcp:",
                "tcp:web",
                "nonsense:1",
                "tcp:1:2:3:4:5:6",
                "tcp:1:colour=red",
                "systemd:domain=IPX:index=0",
                "systemd:domain=INET",
                "systemd:domain=INET:index=first",
                "haproxy:",
                "haproxy:tcp:web",
            ):
                self.assert_mistake(option, endpoint, "tcp:8080", "unix:/run/pushd.sock")

    def test_certificate(self) -> None:
        """For files that cannot be used the error says what is wrong with them."""
        self.assert_mistake("listen", "ssl:1:privateKey=nowhere.pem", "nowhere.pem cannot be read")
        (self.folder / "empty.pem").write_bytes(b"")
        self.assert_mistake("control", "ssl:1:privateKey=empty.pem", "must hold a certificate and")

    def test_port(self) -> None:
        """A port out of range is refused before anything listens."""
        for endpoint, port in (("tcp:65536", 65536), ("tcp6:99999", 99999), ("tcp:-1", -1)):
            self.assert_mistake("listen", endpoint, f"a port from 0 to 65535; got {port}")
        self.assertEqual(parse("--listen", "tcp:65535").listen, ("tcp:65535",))

    def test_bad_among_good(self) -> None:
        """If one of several endpoints is not valid, the error names it."""
        line = self.mistake("--listen", "tcp:1", "--listen", "nonsense")
        self.assertIn("; got nonsense", line)

    def test_control(self) -> None:
        """--control takes one endpoint or several; none closes the control port."""
        self.assertEqual(parse("--control", "tcp:1").control, ("tcp:1",))
        self.assertEqual(
            parse("--control", "tcp:1", "--control", "unix:x").control, ("tcp:1", "unix:x")
        )
        self.assertEqual(parse("--control", "none").control, ())
        self.assertEqual(parse("--control", "none").listen, Settings.listen)

    def test_control_none_and_some(self) -> None:
        """None cannot be combined with an endpoint."""
        for args in (["none", "tcp:1"], ["tcp:1", "none"], ["none", "none"]):
            line = self.mistake(*(f"--control={endpoint}" for endpoint in args))
            self.assertIn("none cannot be combined with another endpoint", line)

    def test_listen_none(self) -> None:
        """The public port cannot be closed."""
        self.assert_mistake("listen", "none", "tcp:8080")


class ValueTests(OptionsTestCase):
    def test_web(self) -> None:
        """The directory of --web is made absolute: the daemon may change to another one."""
        (self.folder / "files").mkdir()
        for given in ("files", str(self.folder / "files"), "files/../files"):
            self.assertEqual(parse("--web", given).web, self.folder / "files")

    def test_bad_web(self) -> None:
        """A path that is not a directory is refused, and so is an empty one."""
        (self.folder / "file").write_text("")
        for given in ("nowhere", "file", ""):
            self.assert_mistake("web", given, "must be a directory that exists")

    def test_numbers(self) -> None:
        """A number must be in its range, which includes both ends, and have digits only."""
        for option, read, least, most in (
            ("threads", lambda settings: settings.threads, 1, 100_000),
            ("max-stragglers", lambda settings: settings.max_stragglers, 0, 100_000),
            ("view-grace", lambda settings: settings.view_grace, 0, 60),
            ("max-connections", lambda settings: settings.limits.max_connections, 1, 10_000_000),
            ("max-per-address", lambda settings: settings.limits.max_per_address, 1, 10_000_000),
            ("max-rate", lambda settings: settings.limits.max_rate, 1, 10_000_000),
            ("drain", lambda settings: settings.limits.drain, 0, 3600),
        ):
            for number in (least, 7, most):
                self.assertEqual(read(parse(f"--{option}", str(number))), number, option)
            self.assert_out_of_range(option, least, most, f"a number from {least} to {most}")

    def test_sizes(self) -> None:
        """A size must be in its range, and may have a unit."""
        for option, read in (
            ("max-message", lambda settings: settings.limits.max_message),
            ("max-buffered", lambda settings: settings.limits.max_buffered),
        ):
            for size in (1, 7, 1 << 30):
                self.assertEqual(read(parse(f"--{option}", str(size))), size, option)
            self.assertEqual(read(parse(f"--{option}", "1GiB")), 1 << 30)
            self.assert_out_of_range(option, 1, 1 << 30, "a size from 1 to 1GiB, such as 1048576,")
            for given in ("64M", "10XB", "1.5MB", "MB", "2GiB"):
                self.assert_mistake(option, given, "1048576, 10MB or 64KiB")

    def assert_out_of_range(self, option: str, least: int, most: int, allowed: str) -> None:
        """Check that numbers outside a range are refused, and texts that are not numbers."""
        for given in (
            str(least - 1),
            str(most + 1),
            "-1",
            "1.5",
            "1e3",
            "0x10",
            "1_0",
            "+1",
            "many",
            "",
            "\u0663",
            "\u00b2",
            "9" * 5000,
        ):
            self.assert_mistake(option, given, allowed)
        for given in (" 1", "1 ", "1\n", "1 0"):
            self.assertIn(allowed, self.mistake(f"--{option}", given))

    def test_compression(self) -> None:
        """--compression is on or off."""
        self.assertTrue(parse("--compression", "on").limits.compression)
        self.assertFalse(parse("--compression", "off").limits.compression)
        for given in ("yes", "ON", "1", ""):
            self.assert_mistake("compression", given, "on or off")

    def test_fast_paths(self) -> None:
        """Fast paths are on unless the operator turns them off."""
        self.assertTrue(parse().fast_paths)
        self.assertTrue(parse("--fast-paths", "on").fast_paths)
        self.assertFalse(parse("--fast-paths", "off").fast_paths)
        self.assertFalse(parse_in({"PUSHD_FAST_PATHS": "off"}).fast_paths)
        self.assert_mistake("fast-paths", "0", "on or off")

    def test_log(self) -> None:
        """The log has two formats and four levels."""
        settings = parse("--log-format", "json", "--log-level", "debug")
        self.assertEqual((settings.log_format, settings.log_level), ("json", "debug"))
        self.assertEqual((parse().log_format, parse().log_level), ("text", "info"))
        self.assert_mistake("log-format", "xml", "must be text or json")
        for given in ("critical", "INFO", ""):
            self.assert_mistake("log-level", given, "must be debug, info, warn or error")

    def test_origin(self) -> None:
        """--origin may be given more than once."""
        origins = parse("--origin", "https://a.example", "--origin", "https://*.b.example").origins
        for origin, allowed in (
            ("https://a.example", True),
            ("https://x.b.example", True),
            ("https://c.example", False),
        ):
            self.assertEqual(origins.allows(origin, scheme="http", host="h"), allowed)
        self.assert_mistake("origin", "a.example", "https://example.com")

    def test_host(self) -> None:
        """--host may be given more than once."""
        hosts = parse("--host", "a.example", "--host", "*.b.example").hosts
        for host, allowed in (("a.example:80", True), ("x.b.example", True), ("c.example", False)):
            self.assertEqual(hosts.allows(host), allowed)
        self.assert_mistake("host", "https://a.example", "*.example.com")

    def test_control_host(self) -> None:
        """--control-host may be given more than once, and allows nothing by default."""
        self.assertFalse(parse().control_hosts.includes("a.example"))
        hosts = parse("--control-host", "pushd", "--control-host", "*.b.example").control_hosts
        for host, allowed in (("pushd:8081", True), ("x.b.example", True), ("c.example", False)):
            self.assertEqual(hosts.includes(host), allowed)
        for text in ("pushd:8081", "*"):
            self.assert_mistake("control-host", text, "*.example.com")

    def test_trusted_proxy(self) -> None:
        """--trusted-proxy takes networks and addresses, and may be given more than once."""
        proxies = parse("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1").proxies
        self.assertTrue(proxies.is_trusted("10.1.2.3"))
        self.assertTrue(proxies.is_trusted("::1"))
        self.assertFalse(proxies.is_trusted("11.1.2.3"))
        self.assert_mistake("trusted-proxy", "everybody")


class StateTests(OptionsTestCase):
    def test_state(self) -> None:
        """--state takes a directory, or a new one in a directory; its path is made absolute."""
        (self.folder / "file").touch()
        for given in (str(self.folder), str(self.folder / "new")):
            self.assertEqual(parse("--state", given).state, Path(given))
        self.assertIsNone(parse().state)
        for given in ("", str(self.folder / "file"), str(self.folder / "a" / "b")):
            self.assert_mistake("state", given, "must be a directory, or a new one")

    def test_sync(self) -> None:
        """--state-sync is second unless it is always or none."""
        self.assertEqual(parse().state_sync, "second")
        self.assertEqual(parse("--state-sync", "always").state_sync, "always")
        self.assert_mistake("state-sync", "minute", "must be always, second or none")


class RetentionTests(OptionsTestCase):
    """``--history-size``, ``--history-ttl`` and ``--history-bytes``."""

    def test_defaults(self) -> None:
        """The default is 100 publications per topic, five minutes, and 64 MiB in all."""
        self.assertEqual(parse().retention, Retention(size=100, ttl=300, bytes=64 << 20))
        self.assertEqual(Retention(), Retention(size=100, ttl=300, bytes=64 << 20))

    def test_given(self) -> None:
        """Each can be given; a size or bytes of 0 keep nothing."""
        settings = parse("--history-size=0", "--history-ttl=1", "--history-bytes=0")
        self.assertEqual(settings.retention, Retention(size=0, ttl=1, bytes=0))

    def test_bad(self) -> None:
        """A value out of range is refused in a line with the name of the option."""
        for option, given in (
            *(("history-size", given) for given in ("-1", "1000001", "x")),
            *(("history-ttl", given) for given in ("0", "604801", "1.5")),
            *(("history-bytes", given) for given in ("-1", "64M", "2TiB")),
        ):
            self.assert_mistake(option, given, "must be a")


class TokenKeyTests(OptionsTestCase):
    """``--token-key``."""

    def keys(self, *files: bytes) -> TokenKeys:
        """Return the keys for options that name files with these contents."""
        args = []
        for number, data in enumerate(files):
            Path(f"key{number}").write_bytes(data)
            args.append(f"--token-key=key{number}")
        return parse(*args).token_keys

    def test_none(self) -> None:
        """Without a key no token is required."""
        self.assertFalse(self.keys())

    def test_some(self) -> None:
        """A token may be signed with any of several keys."""
        keys = self.keys(SECRET, public_pem("ES256"))
        for token in (
            sign({"exp": 1}, SECRET),
            sign({"exp": 1}, private_key("ES256"), "ES256"),
        ):
            self.assertEqual(keys.verify(token, 0).expires, 1)

    def test_bad(self) -> None:
        """The error for a file that holds no key names the file and gives the reason."""
        error = self.assertRaises(SystemExit, self.keys, SECRET, b"secret\n")
        self.assertEqual(
            str(error),
            "pushd: --token-key key0 key1: key1: secret must have at least 32 bytes; got 6",
        )


class CentrifugeTests(OptionsTestCase):
    """Options for Centrifuge clients."""

    def test_secret(self) -> None:
        """A secret may be short, and is a key beside the others."""
        Path("short").write_bytes(b"secret\n")
        Path("long").write_bytes(SECRET)
        keys = parse("--centrifuge-secret", "short", "--token-key", "long").token_keys
        for secret in (b"secret", SECRET):
            token = sign({"exp": 1}, secret)
            self.assertEqual(keys.verify(token, 0).expires, 1)
        self.assert_mistake("centrifuge-secret", "nowhere", "cannot be read")

    def test_api_key(self) -> None:
        """The key of the API is in a file."""
        self.assertIsNone(parse().api_key)
        Path("key").write_bytes(b"secret\n")
        self.assertEqual(parse("--centrifuge=on", "--api-key", "key").api_key, b"secret")
        self.assert_mistake("api-key", "nowhere", "cannot be read")

    def test_path(self) -> None:
        """The path is one, without a slash at the end."""
        self.assertEqual(parse("--centrifuge-path", "/a/b/").centrifuge_path, "/a/b")
        for given in ("", "/", "a", "/a//b", "/a?b"):
            self.assert_mistake("centrifuge-path", given, "must be a path such as /connection")

    def test_rpc(self) -> None:
        """Procedures are a function in a module."""
        (self.folder / "procedures.py").write_text("text = 'a'\ndef call(*args): pass")
        self.assertIsNone(parse().rpc)
        self.assertTrue(callable(parse("--centrifuge=on", "--rpc", "procedures:call").rpc))
        self.assert_mistake("rpc", "procedures:text", "must be a function; got a str")

    def test_personal(self) -> None:
        """The topic of a user has one star."""
        settings = parse("--centrifuge=on", "--centrifuge-personal", "users/*")
        self.assertEqual(settings.centrifuge_personal, "users/*")
        self.assertEqual(parse().centrifuge_personal, "")
        for given in ("users", "*/*", "a b/*"):
            self.assert_mistake("centrifuge-personal", given, "must be a topic with one *")


class ApplicationTests(OptionsTestCase):
    def test_mistakes(self) -> None:
        """A WSGI application that cannot be imported or called is refused in one line."""
        (self.folder / "broken.py").write_text("text = 'a'\nraise LookupError('two\\nlines')")
        (self.folder / "other.py").write_text("text = 'a'")
        self.assert_mistake("wsgi", "nowhere:application", "No module named 'nowhere'")
        self.assert_mistake("wsgi", "broken:text", "LookupError: two lines", "broken.py, line 2")
        self.assert_mistake("wsgi", "other:application", "has no attribute 'application'")
        self.assert_mistake("wsgi", "other:text", "must be a WSGI application; got a str")
        self.assert_mistake("wsgi", "other", "MODULE:NAME")
        self.assert_mistake("wsgi-threads", "0", "a number from 1")

    def test_authorizer(self) -> None:
        """An authorizer is imported; one that is missing or cannot be called is refused."""
        self.module("access", "text = 'a'")
        self.assertTrue(callable(parse("--authorize", "access:view").authorize))
        self.assertIsNone(parse().authorize)
        self.assert_mistake("authorize", "access:missing", "has no attribute 'missing'")
        self.assert_mistake("authorize", "access:text", "must be an authorizer; got a str")


class ViewsTests(OptionsTestCase):
    def assert_no_views(self, name: str, *words: str) -> None:
        """Check that a map of views is refused, in one line that names it and says why."""
        self.assert_mistake("views", name, *words)

    def test_no_name(self) -> None:
        """A map is given by its module and its name."""
        for name in ("views", "views:", ":urls", ":", ""):
            self.assert_no_views(name, "MODULE:NAME")

    def test_no_module(self) -> None:
        """The error for a module that does not exist names the module."""
        self.assert_no_views("not_there:urls", "ModuleNotFoundError", "not_there")
        self.assert_no_views("not.there.at_all:urls", "ModuleNotFoundError")

    def test_no_attribute(self) -> None:
        """The error for a name that the module does not have shows the name."""
        self.module("without")
        self.assert_no_views("without:urls", "urls")

    def test_failing_module(self) -> None:
        """The error for a module that raises shows the exception and its line."""
        self.module("failing", "1 / 0")
        self.assert_no_views("failing:urls", "ZeroDivisionError", "failing.py, line 4")
        self.module("deeper", "import failing")
        self.assert_no_views("deeper:urls", "ZeroDivisionError", "failing.py, line 4")
        self.module("wrong", "urls = {")
        self.assert_no_views("wrong:urls", "SyntaxError", "wrong.py, line 4")

    def test_failing_at_length(self) -> None:
        """The error is one line even if the text of the exception has several."""
        self.module("leaving", "raise SystemExit(3)")
        self.assert_no_views("leaving:urls", "SystemExit: 3", "leaving.py, line 4")
        self.module("wordy", "raise ValueError('first\\n\\n  second\\r\\nthird')")
        self.assert_no_views("wordy:urls", "first second third", "wordy.py, line 4")

    def test_no_map(self) -> None:
        """The error for an object that is not a map names its type."""
        self.module("others", "a = [('/a/', view)]", "b = None", "c = view")
        for name, kind in (("a", "list"), ("b", "NoneType"), ("c", "function")):
            self.assert_no_views(
                f"others:{name}", f"must map paths to views, but is of type {kind}"
            )

    def test_bad_maps(self) -> None:
        """The error for a bad path, for two views at one path and for no view names the path."""
        self.module(
            "bad",
            "relative = {'a/': view}",
            "number = {5: view}",
            "open_end = {'/a/<name/': view}",
            "unknown = {'/a/<colour:name>/': view}",
            "twice = {'/a/<x>/': view, '/a/<y>/': view}",
            "nothing = {'/a/': None}",
        )
        self.assert_no_views("bad:relative", "'a/'")
        self.assert_no_views("bad:number", "5")
        self.assert_no_views("bad:open_end")
        self.assert_no_views("bad:unknown")
        self.assert_no_views("bad:twice", "two views", "/a/<y>/", "/a/<x>/")
        self.assert_no_views("bad:nothing", "/a/")


class AsgiTests(SynchronousTestCase):
    """--asgi and --root-path."""

    def setUp(self) -> None:
        """Make a module with applications."""
        module: Any = ModuleType("asgi_applications")
        module.application = self.application
        module.make = lambda: self.application
        module.wrong = 5
        sys.modules["asgi_applications"] = module
        self.addCleanup(sys.modules.pop, "asgi_applications")

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an application."""

    def test_application(self) -> None:
        """The application is named, or made by what is named with () at its end."""
        self.assertIsNone(parse_asgi(None))
        self.assertEqual(parse_asgi("asgi_applications:application"), self.application)
        self.assertEqual(parse_asgi("asgi_applications:make()"), self.application)

    def test_wrong(self) -> None:
        """Anything else is no application."""
        for given in ("asgi_applications:wrong", "asgi_applications:wrong()"):
            with self.assertRaisesRegex(TypeError, "must be an ASGI application; got a int"):
                parse_asgi(given)

    def test_root_path(self) -> None:
        """A path begins with a slash, and does not end with one."""
        self.assertEqual(parse_root_path("/shop/"), "/shop")
        self.assertEqual(parse_root_path(""), "")
        with self.assertRaisesRegex(ValueError, "must begin with /"):
            parse_root_path("shop")
