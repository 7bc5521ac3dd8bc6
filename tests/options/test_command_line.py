"""The command line: what each option may be, and what is said when it is something else."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__
from pushd.access.limits import Limits
from pushd.api.playground import Playground
from pushd.options.command_line import Options
from pushd.options.settings import Settings
from pushd.options.table import OPTIONS
from pushd.views.demo import ticker
from pushd.views.request import Handshakes, Request
from pushd.views.routes import Routes


def parse(*args: str) -> Settings:
    """Give the settings that a command line amounts to."""
    return parse_in({}, *args)


def parse_in(environ: Mapping[str, str], *args: str) -> Settings:
    """Give the settings that a command line amounts to in an environment."""
    options = Options(environ)
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

    def ask(self, *args: str, **environ: str) -> tuple[str, object]:
        """Give what a command line prints, and the exit code."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), self.assertRaises(SystemExit) as raised:
            parse_in(environ, *args)
        return output.getvalue(), raised.exception.code

    def module(self, name: str, *lines: str) -> str:
        """Write a module of views into the current folder; ``view`` is one already."""
        source = ["def view(request):", "    return 'hello'", "", *lines]
        (self.folder / f"{name}.py").write_text("\n".join(source))
        return name

    def write(self, *lines: str) -> str:
        """Write a file of options, and give its name."""
        (self.folder / "pushd.toml").write_text("".join(f"{line}\n" for line in lines))
        return "pushd.toml"


class DefaultsTests(OptionsTestCase):
    def test_defaults(self) -> None:
        """Without options both ports open on this machine alone, and the demo is served."""
        for settings in (parse(), Settings(), Options().settings):
            self.assertEqual(settings.listen, ("tcp:8080:interface=127.0.0.1",))
            self.assertEqual(settings.control, ("tcp:8081:interface=127.0.0.1",))
            self.assertIsNone(settings.web)
            self.assertEqual(list(settings.routes), ["/test/", *PLAYGROUND])
            self.assertIs(settings.routes["/test/"], ticker)
            self.assertEqual(settings.threads, 64)
            self.assertEqual(settings.limits.max_connections, 10_000)
            self.assertEqual(settings.limits.max_per_address, 100)
            self.assertEqual(
                settings.limits,
                Limits(max_message=1 << 20, max_buffered=1 << 20, max_rate=1000, compression=True),
            )
            self.assertFalse(settings.proxies.is_trusted("127.0.0.1"))
            self.assertFalse(settings.origins.allows("http://a", scheme="http", host="b"))

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


class CommandLineTests(OptionsTestCase):
    def test_last_wins(self) -> None:
        """Where one value counts, it is the last: a script's may be overruled behind it."""
        self.assertEqual(parse("--threads", "1", "--threads", "2").threads, 2)

    def test_command_line_mistakes(self) -> None:
        """What is no option, lacks its value, or stands alone, is one line as well."""
        self.assertIn("colour", self.mistake("--colour", "red"))
        self.assertIn("listen", self.mistake("--listen"))
        self.assertIn("'stray'", self.mistake("stray", "cat"))

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


class ApplicationTests(OptionsTestCase):
    def test_application(self) -> None:
        """An application of the current folder is found, and its site has no demo in it."""
        (self.folder / "site_of_mine.py").write_text("def application(environ, start): ...")
        settings = parse("--wsgi", "site_of_mine:application", "--wsgi-threads", "3")
        assert callable(settings.wsgi)
        self.assertEqual(settings.wsgi_threads, 3)
        self.assertEqual(list(settings.routes), [])
        self.assertIsNone(parse().wsgi)

    def test_views_beside(self) -> None:
        """Views may stand beside it."""
        (self.folder / "both.py").write_text("def a(*_): ...\nviews = {'/a/': a}")
        settings = parse("--wsgi", "both:a", "--views", "both:views")
        self.assertEqual(list(settings.routes), ["/a/"])


class ViewsTests(OptionsTestCase):
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
            "from pushd.views import Routes",
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


class SourcesTests(OptionsTestCase):
    def test_order(self) -> None:
        """The command line wins over the environment, that over the file, that over the default."""
        file = self.write("threads = 3", "max-rate = 4", "max-message = 5", 'origin = ["*"]')
        environ = {"PUSHD_THREADS": "6", "PUSHD_MAX_RATE": "7", "PUSHD_CONFIG": file}
        settings = parse_in(environ, "--threads", "8")
        self.assertEqual(settings.threads, 8)
        self.assertEqual(settings.limits.max_rate, 7)
        self.assertEqual(settings.limits.max_message, 5)
        self.assertEqual(settings.limits.max_buffered, 1 << 20)
        self.assertTrue(settings.origins.allows("http://a", scheme="http", host="b"))

    def test_file(self) -> None:
        """The command line names the file; the environment may, too, but does not win."""
        file = self.write("threads = 3")
        self.assertEqual(parse("--config", file).threads, 3)
        self.assertEqual(parse_in({"PUSHD_CONFIG": file}).threads, 3)
        environ = {"PUSHD_CONFIG": "nowhere.toml"}
        self.assertEqual(parse_in(environ, "--config", file).threads, 3)

    def test_environment(self) -> None:
        """A variable holds as many values as the option takes; others mean nothing to us."""
        settings = parse_in(
            {
                "PUSHD_LISTEN": "tcp:1 tcp:2",
                "PUSHD_CONTROL": "none",
                "PUSHD_COMPRESSION": "off",
                "PUSHD_PORT": "tcp://10.0.0.1:80",
                "PUSHD_OPTIONS": "--threads 7",
            }
        )
        self.assertEqual(settings.listen, ("tcp:1", "tcp:2"))
        self.assertEqual(settings.control, ())
        self.assertFalse(settings.limits.compression)
        self.assertEqual(settings.threads, 64)

    def test_process_environment(self) -> None:
        """The environment is that of the process where no other is given."""
        self.patch(os, "environ", {"PUSHD_THREADS": "9"})
        options = Options()
        options.parseOptions([])
        self.assertEqual(options.settings.threads, 9)

    def test_where(self) -> None:
        """A mistake is where the value is from."""
        line = self.mistake("--config", self.write("threads = 0"))
        self.assertEqual(line, "pushd: pushd.toml: threads 0: a number from 1 to 100000")
        with self.assertRaises(SystemExit) as raised:
            parse_in({"PUSHD_THREADS": "many"})
        self.assertEqual(
            raised.exception.code, "pushd: PUSHD_THREADS many: a number from 1 to 100000"
        )

    def test_nowhere(self) -> None:
        """A file may say that the control port is nowhere, but not the public one."""
        self.assertEqual(parse("--config", self.write("control = []")).control, ())
        self.assertEqual(parse("--config", self.write('control = ["none"]')).control, ())
        self.assertIn("listen: an endpoint", self.mistake("--config", self.write("listen = []")))

    def test_file_read_again(self) -> None:
        """What the file says can be asked again; what the command line says stays."""
        file = self.write("threads = 3", "max-rate = 3")
        options = Options({})
        options.parseOptions(["--config", file, "--max-rate", "2"])
        self.write("threads = 4", "max-rate = 4")
        settings, given = options.resolve()
        self.assertEqual((settings.threads, settings.limits.max_rate), (4, 2))
        self.assertEqual(given["threads"].where, "pushd.toml: threads")
        self.assertEqual(given["max-rate"].where, "--max-rate")
        self.assertEqual(options.settings.threads, 3)


class CheckTests(OptionsTestCase):
    def test_in_force(self) -> None:
        """What would be in force is printed as a file, with where it comes from."""
        file = self.write('listen = ["tcp:1"]')
        said, code = self.ask(
            "--check", "--config", file, "--control", "tcp:2", PUSHD_COMPRESSION="off"
        )
        self.assertEqual(code, 0)
        lines = said.splitlines()
        self.assertIn('listen = ["tcp:1"]  # pushd.toml: listen', lines)
        self.assertIn('control = ["tcp:2"]  # --control', lines)
        self.assertIn("compression = false  # PUSHD_COMPRESSION", lines)
        self.assertIn("threads = 64  # default", lines)
        self.assertIn("# web is not set", lines)
        self.assertEqual(len(lines), len(OPTIONS))
        shown = self.write(said)
        self.assertEqual(parse("--config", shown).listen, ("tcp:1",))

    def test_every_mistake(self) -> None:
        """Every mistake is told at once, not only the first."""
        file = self.write("thread = 3", 'max-rate = "many"', "history-size = -1", "max_message = 1")
        with self.assertRaises(SystemExit) as raised:
            parse("--check", "--config", file, "--web", "nowhere", "--listen", "ssl:1:privateKey=x")
        lines = str(raised.exception.code).splitlines()
        self.assertEqual(
            lines[:3] + lines[4:],
            [
                "pushd: pushd.toml: thread: no option has this name; did you mean threads?",
                "pushd: pushd.toml: max-rate: a number, without quotes",
                "pushd: pushd.toml: max_message: no option has this name; "
                "did you mean max-message?",
                "pushd: --web nowhere: not a folder",
                "pushd: pushd.toml: history-size -1: a number from 0 to 1000000",
            ],
        )
        self.assertTrue(lines[3].startswith("pushd: --listen ssl:1:privateKey=x: no endpoint"))

    def test_print_config(self) -> None:
        """The file with all defaults says what each option is for, and changes nothing."""
        said, code = self.ask("--print-config")
        self.assertEqual(code, 0)
        for option in OPTIONS:
            self.assertRegex(said, rf"(?m)^(# )?{option.name} = ")
        words = " ".join(said.replace("\n# ", " ").split())
        for option in OPTIONS:
            self.assertIn(option.help, words)
        written = tomllib.loads(said)
        self.assertEqual(set(written), {one.name for one in OPTIONS if one.default is not None})
        options = Options({})
        options.parseOptions(["--config", self.write(said)])
        for option in OPTIONS:
            self.assertEqual(options.given[option.name].text, option.default)

    def test_print_config_uncommented(self) -> None:
        """What has no default stands there to be filled in."""
        said, _ = self.ask("--print-config")
        self.assertIn('\n# web = ""\n', said)
