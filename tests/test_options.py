"""The command line: what each option may be, and what is said when it is something else."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from dataclasses import FrozenInstanceError
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__
from pushd.options import OPTIONS, Options, Settings
from pushd.playground import Playground
from pushd.protocol import Limits
from pushd.routes import Routes
from pushd.ticker import ticker
from pushd.views import Handshakes, Request
from tests.peer import certificate_file


def parse(*args: str) -> Settings:
    """Give the settings that a command line amounts to."""
    options = Options()
    options.parseOptions(list(args))
    return options.settings


#: The addresses of the views behind the page that plays with topics.
PLAYGROUND = list(Playground().views)


class OptionsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Work in a folder of its own, as a daemon that imports from there does."""
        self.folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.patch(sys, "path", list(sys.path))
        self.addCleanup(self.forget_modules)
        self.patch(sys, "dont_write_bytecode", True)

    def forget_modules(self) -> None:
        """Let no test find the modules of another."""
        for name, module in list(sys.modules.items()):
            places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
            if any(place and Path(place).is_relative_to(self.folder) for place in places):
                del sys.modules[name]

    def mistake(self, *args: str) -> str:
        """Give the one line with which a bad command line ends the process, with exit code 1."""
        with self.assertRaises(SystemExit) as raised:
            parse(*args)
        line = raised.exception.code
        # Text as the code of SystemExit goes to stderr, and the process exits with 1.
        assert isinstance(line, str), f"{line!r} is no text"
        self.assertTrue(line.startswith("pushd: "), line)
        self.assertEqual(line.splitlines(), [line])
        return line

    def assert_mistake(self, option: str, given: str, *allowed: str) -> None:
        """Check that a value is refused in a line with the option, the value, what is allowed."""
        line = self.mistake(f"--{option}", given)
        self.assertTrue(line.startswith(f"pushd: --{option} {given}".rstrip()), line)
        for word in allowed:
            self.assertIn(word, line)


class DefaultsTests(OptionsTestCase):
    def test_defaults(self) -> None:
        """Without options both doors open on this machine alone, and the demo is served."""
        for settings in (parse(), Settings(), Options().settings):
            self.assertEqual(settings.listen, ("tcp:8080:interface=127.0.0.1",))
            self.assertEqual(settings.control, ("tcp:8081:interface=127.0.0.1",))
            self.assertIsNone(settings.web)
            self.assertEqual(list(settings.routes), ["/test/", *PLAYGROUND])
            self.assertIs(settings.routes["/test/"], ticker)
            self.assertEqual(settings.threads, 64)
            self.assertEqual(settings.max_connections, 10_000)
            self.assertEqual(settings.max_per_address, 100)
            self.assertEqual(
                settings.limits,
                Limits(max_message=1 << 20, max_buffered=1 << 20, max_rate=1000, compression=True),
            )
            self.assertFalse(settings.proxies.trust("127.0.0.1"))
            self.assertFalse(settings.origins.allow("http://a", scheme="http", host="b"))

    def test_frozen(self) -> None:
        """What was decided does not change."""
        with self.assertRaises(FrozenInstanceError):
            parse().threads = 1  # type: ignore[misc]

    def test_command_line(self) -> None:
        """The options are those of the process, if no others are given."""
        self.patch(sys, "argv", ["pushd", "--threads", "7"])
        options = Options()
        options.parseOptions()
        self.assertEqual(options.settings.threads, 7)


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
                "systemd:domain=INET:index=99",
            ):
                self.assert_mistake(option, endpoint, "tcp:8080", "unix:/run/pushd.sock")

    def test_bad_among_good(self) -> None:
        """One that is wrong is wrong among others, too."""
        line = self.mistake("--listen", "tcp:1", "--listen", "nonsense")
        self.assertIn("nonsense", line)

    def test_control(self) -> None:
        """The private door may be elsewhere, at more than one place, or nowhere."""
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
        """The public door is somewhere."""
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
            ("max-connections", lambda settings: settings.max_connections, 1, 10_000_000),
            ("max-per-address", lambda settings: settings.max_per_address, 1, 10_000_000),
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

    def test_origin(self) -> None:
        """Origins may be named one by one."""
        origins = parse("--origin", "https://a.example", "--origin", "https://*.b.example").origins
        for origin, allowed in (
            ("https://a.example", True),
            ("https://x.b.example", True),
            ("https://c.example", False),
        ):
            self.assertEqual(origins.allow(origin, scheme="http", host="h"), allowed)
        self.assert_mistake("origin", "a.example", "https://example.com")

    def test_trusted_proxy(self) -> None:
        """So may the networks of proxies."""
        proxies = parse("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1").proxies
        self.assertTrue(proxies.trust("10.1.2.3"))
        self.assertTrue(proxies.trust("::1"))
        self.assertFalse(proxies.trust("11.1.2.3"))
        self.assert_mistake("trusted-proxy", "everybody")

    def test_last_wins(self) -> None:
        """Where one value counts, it is the last: a script's may be overruled behind it."""
        self.assertEqual(parse("--threads", "1", "--threads", "2").threads, 2)

    def test_command_line_mistakes(self) -> None:
        """What is no option, lacks its value, or stands alone, is one line as well."""
        self.assertIn("colour", self.mistake("--colour", "red"))
        self.assertIn("listen", self.mistake("--listen"))
        self.assertTrue(self.mistake("stray"))

    def test_help(self) -> None:
        """The help names every option and its default, and is no mistake."""
        said, code = self.ask("--help")
        self.assertFalse(code)
        for option in OPTIONS:
            self.assertIn(f"--{option.name}", said)
        words = " ".join(said.split())
        self.assertNotIn("[default: ]", words)
        for default in ("tcp:8080:interface=127.0.0.1", "tcp:8081:interface=127.0.0.1", "64"):
            self.assertIn(f"[default: {default}]", words)

    def test_version(self) -> None:
        """The version is told, and is no mistake."""
        self.assertEqual(self.ask("--version"), (f"pushd {__version__}\n", 0))

    def ask(self, option: str) -> tuple[str, object]:
        """Give what an option prints, and the exit code."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), self.assertRaises(SystemExit) as raised:
            parse(option)
        return output.getvalue(), raised.exception.code


class ViewsTests(OptionsTestCase):
    def module(self, name: str, *lines: str) -> str:
        """Write a module of views into the current folder; ``view`` is one already."""
        source = ["def view(request):", "    return 'hello'", "", *lines]
        (self.folder / f"{name}.py").write_text("\n".join(source))
        return name

    def assert_no_views(self, name: str, *words: str) -> None:
        """Check that what is named is refused, in a line that names it and says why."""
        line = self.mistake("--views", name)
        self.assertTrue(line.startswith(f"pushd: --views {name}"), line)
        for word in words:
            self.assertIn(word, line)

    def test_map(self) -> None:
        """A map of the current folder is found, and the demo stays beside its views."""
        self.module("some", "urls = {'/a/': view, '/b/<name>/': view}")
        routes = parse("--views", "some:urls").routes
        self.assertEqual(list(routes), ["/a/", "/b/<name>/", "/test/", *PLAYGROUND])
        self.assertIs(routes["/test/"], ticker)
        found = routes.match("/b/x/")
        assert found is not None
        self.assertEqual(found.parameters, {"name": "x"})

    def test_package(self) -> None:
        """A module may lie in a package, and a map may be empty."""
        (self.folder / "package").mkdir()
        (self.folder / "package/urls.py").write_text("nothing = {}")
        routes = parse("--views", "package.urls:nothing").routes
        self.assertEqual(list(routes), ["/test/", *PLAYGROUND])

    def test_demo_replaced(self) -> None:
        """Where the map has a view for the demo's path, that is served."""
        for name, path, kept in (
            ("own", "/test/", PLAYGROUND),
            ("pattern", "/<anything>/", PLAYGROUND),
            ("all", "/<path:all>", []),
        ):
            self.module(name, f"urls = {{'{path}': view}}")
            routes = parse("--views", f"{name}:urls").routes
            self.assertEqual(list(routes), [path, *kept])
            found = routes.match("/test/")
            assert found is not None
            self.assertIsNot(found.view, ticker)

    def test_no_demo(self) -> None:
        """Without the demo there is what the map has, and nothing without a map."""
        self.module("alone", "urls = {'/a/': view}")
        self.assertEqual(list(parse("--demo", "off").routes), [])
        self.assertEqual(list(parse("--demo", "off", "--views", "alone:urls").routes), ["/a/"])
        self.assertIn("/test/", parse("--demo", "on", "--views", "alone:urls").routes)
        for given in ("", "no", "ON"):
            self.assert_mistake("demo", given, "on or off")

    def test_accept_all(self) -> None:
        """What the map says of all its views is kept."""
        self.module(
            "all_views",
            "from pushd.routes import Routes",
            "yes = Routes({'/a/': view}, accept_all=True)",
            "no = Routes({'/a/': view})",
        )
        for name, handshakes in (("yes", Handshakes.ACCEPTED), ("no", Handshakes.REFUSED)):
            routes = parse("--views", f"all_views:{name}").routes
            self.assertIsInstance(routes, Routes)
            found = routes.match("/a/")
            assert found is not None
            self.assertIs(found.handshakes, handshakes)

    def test_view_runs(self) -> None:
        """What was found is the view itself."""
        self.module("runs", "urls = {'/a/': view}")
        view = parse("--views", "runs:urls").routes["/a/"]
        request: Request | None = None
        self.assertEqual(view(request), "hello")

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
        self.module("wordy", "raise ValueError('first\\n\\n  second\\r\\nthird')")
        self.assert_no_views("wordy:urls", "first second third", "wordy.py, line 4")

    def test_no_map(self) -> None:
        """What is no map is told what it is."""
        self.module("others", "a = [('/a/', view)]", "b = None", "c = view")
        for name, kind in (("a", "list"), ("b", "NoneType"), ("c", "function")):
            self.assert_no_views(f"others:{name}", f"no map from path to view but a {kind}")

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
