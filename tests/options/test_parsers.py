"""What each option may be, and what is said when it is something else."""

from __future__ import annotations

from pushd.options.settings import Settings
from tests.options.test_command_line import OptionsTestCase, parse, parse_in
from tests.peer import certificate_file


class EndpointTests(OptionsTestCase):
    def test_listen(self) -> None:
        """Every endpoint that Twisted knows will do, and more than one."""
        (self.folder / "both.pem").write_bytes(certificate_file())
        for endpoint in (
            "tcp:0",
            "tcp:8080:interface=127.0.0.1",
            "tcp6:8080:interface=\\:\\:1",
            "unix:/run/pushd.sock",
            "ssl:8443:privateKey=both.pem:certKey=both.pem",
            "systemd:domain=INET:index=0",
            "systemd:domain=UNIX:name=control.socket",
        ):
            self.assertEqual(parse("--listen", endpoint).listen, (endpoint,))
        self.assertEqual(parse("--listen=tcp:1", "--listen=tcp:2").listen, ("tcp:1", "tcp:2"))
        self.assertEqual(parse("--listen", "tcp:1").control, Settings.control)

    def test_bad(self) -> None:
        """What is no endpoint is told what one looks like."""
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
                "ssl:8443:privateKey=nowhere.pem",
                "systemd:domain=IPX:index=0",
                "systemd:domain=INET",
                "systemd:domain=INET:index=first",
            ):
                self.assert_mistake(option, endpoint, "tcp:8080", "unix:/run/pushd.sock")

    def test_port(self) -> None:
        """A port that no address has is told so before anybody opens it."""
        for endpoint in ("tcp:65536", "tcp6:99999", "tcp:-1"):
            self.assert_mistake("listen", endpoint, "a port from 0 to 65535")
        self.assertEqual(parse("--listen", "tcp:65535").listen, ("tcp:65535",))

    def test_bad_among_good(self) -> None:
        """One that is wrong is wrong among others, too."""
        line = self.mistake("--listen", "tcp:1", "--listen", "nonsense")
        self.assertIn("nonsense", line)

    def test_control(self) -> None:
        """The control port may be elsewhere, at more than one place, or nowhere."""
        self.assertEqual(parse("--control", "tcp:1").control, ("tcp:1",))
        self.assertEqual(
            parse("--control", "tcp:1", "--control", "unix:x").control, ("tcp:1", "unix:x")
        )
        self.assertEqual(parse("--control", "none").control, ())
        self.assertEqual(parse("--control", "none").listen, Settings.listen)

    def test_control_none_and_some(self) -> None:
        """It cannot be nowhere and somewhere."""
        for args in (["none", "tcp:1"], ["tcp:1", "none"], ["none", "none"]):
            line = self.mistake(*(f"--control={endpoint}" for endpoint in args))
            self.assertIn("none goes with no other --control", line)

    def test_listen_nowhere(self) -> None:
        """The public port is somewhere."""
        self.assert_mistake("listen", "none", "tcp:8080")


class ValueTests(OptionsTestCase):
    def test_web(self) -> None:
        """A folder of files is taken as it lies, wherever the process goes later."""
        (self.folder / "files").mkdir()
        for given in ("files", str(self.folder / "files"), "files/../files"):
            self.assertEqual(parse("--web", given).web, self.folder / "files")

    def test_bad_web(self) -> None:
        """What is no folder is refused; so is no name at all, which would be the current one."""
        (self.folder / "file").write_text("")
        for given in ("nowhere", "file", ""):
            self.assert_mistake("web", given, "not a folder")

    def test_numbers(self) -> None:
        """Every number has a range, and its ends belong to it."""
        for option, read, least, most in (
            ("threads", lambda settings: settings.threads, 1, 100_000),
            ("max-connections", lambda settings: settings.limits.max_connections, 1, 10_000_000),
            ("max-per-address", lambda settings: settings.limits.max_per_address, 1, 10_000_000),
            ("max-message", lambda settings: settings.limits.max_message, 1, 1 << 30),
            ("max-buffered", lambda settings: settings.limits.max_buffered, 1, 1 << 30),
            ("max-rate", lambda settings: settings.limits.max_rate, 1, 10_000_000),
        ):
            for number in (least, 7, most):
                self.assertEqual(read(parse(f"--{option}", str(number))), number, option)
            allowed = f"a number from {least} to {most}"
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
        """Compression is on or off."""
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
        self.assert_mistake("log-format", "xml", "text or json")
        for given in ("critical", "INFO", ""):
            self.assert_mistake("log-level", given, "debug, info, warn or error")

    def test_origin(self) -> None:
        """Origins may be named one by one."""
        origins = parse("--origin", "https://a.example", "--origin", "https://*.b.example").origins
        for origin, allowed in (
            ("https://a.example", True),
            ("https://x.b.example", True),
            ("https://c.example", False),
        ):
            self.assertEqual(origins.allows(origin, scheme="http", host="h"), allowed)
        self.assert_mistake("origin", "a.example", "https://example.com")

    def test_trusted_proxy(self) -> None:
        """So may the networks of proxies."""
        proxies = parse("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1").proxies
        self.assertTrue(proxies.is_trusted("10.1.2.3"))
        self.assertTrue(proxies.is_trusted("::1"))
        self.assertFalse(proxies.is_trusted("11.1.2.3"))
        self.assert_mistake("trusted-proxy", "everybody")


class ApplicationTests(OptionsTestCase):
    def test_mistakes(self) -> None:
        """What can't be imported, or called, is one line."""
        (self.folder / "broken.py").write_text("text = 'a'\nraise LookupError('two\\nlines')")
        (self.folder / "other.py").write_text("text = 'a'")
        self.assert_mistake("wsgi", "nowhere:application", "No module named 'nowhere'")
        self.assert_mistake("wsgi", "broken:text", "LookupError: two lines", "broken.py, line 2")
        self.assert_mistake("wsgi", "other:application", "has no attribute 'application'")
        self.assert_mistake("wsgi", "other:text", "no WSGI application but a str")
        self.assert_mistake("wsgi", "other", "MODULE:NAME")
        self.assert_mistake("wsgi-threads", "0", "a number from 1")


class ViewsTests(OptionsTestCase):
    def assert_no_views(self, name: str, *words: str) -> None:
        """Check that what is named is refused, in a line that names it and says why."""
        line = self.mistake("--views", name)
        self.assertTrue(line.startswith(f"pushd: --views {name}".rstrip()), line)
        for word in words:
            self.assertIn(word, line)

    def test_no_name(self) -> None:
        """A map is named by its module and its name."""
        for name in ("views", "views:", ":urls", ":", ""):
            self.assert_no_views(name, "MODULE:NAME")

    def test_no_module(self) -> None:
        """A module that is not there is named."""
        self.assert_no_views("not_there:urls", "ModuleNotFoundError", "not_there")
        self.assert_no_views("not.there.at_all:urls", "ModuleNotFoundError")

    def test_no_attribute(self) -> None:
        """So is a name that the module does not have."""
        self.module("without")
        self.assert_no_views("without:urls", "urls")

    def test_failing_module(self) -> None:
        """Of a module that fails the line says with what, and where."""
        self.module("failing", "1 / 0")
        self.assert_no_views("failing:urls", "ZeroDivisionError", "failing.py, line 4")
        self.module("deeper", "import failing")
        self.assert_no_views("deeper:urls", "ZeroDivisionError", "failing.py, line 4")
        self.module("wrong", "urls = {")
        self.assert_no_views("wrong:urls", "SyntaxError", "wrong.py, line 4")

    def test_failing_at_length(self) -> None:
        """However much a module says when it fails, it is one line."""
        self.module("leaving", "raise SystemExit(3)")
        self.assert_no_views("leaving:urls", "SystemExit: 3", "leaving.py, line 4")
        self.module("wordy", "raise ValueError('first\\n\\n  second\\r\\nthird')")
        self.assert_no_views("wordy:urls", "first second third", "wordy.py, line 4")

    def test_no_map(self) -> None:
        """What is no map is told what it is."""
        self.module("others", "a = [('/a/', view)]", "b = None", "c = view")
        for name, kind in (("a", "list"), ("b", "NoneType"), ("c", "function")):
            self.assert_no_views(
                f"others:{name}", f"must map paths to views, but is of type {kind}"
            )

    def test_bad_maps(self) -> None:
        """A path that is none, has two views or no view is named."""
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
