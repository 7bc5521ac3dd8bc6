"""The command line: the sources of options, --help, --check and --print-config."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import tempfile
import tomllib
from typing import Any, NoReturn

from pushd import __version__
from pushd.access.limits import Limits
from pushd.api.playground import Playground
from pushd.options import command_line
from pushd.options.command_line import Options
from pushd.options.machine import memory_size
from pushd.options.settings import GROUPS, OPTIONS, Settings
from pushd.views.decorators import Handshakes
from pushd.views.demo import ticker
from pushd.views.request import Request
from pushd.views.routes import Routes
from tests.options.options_case import OptionsTestCase, parse, parse_in

#: Paths of the views behind the playground.
PLAYGROUND = list(Playground().views)


class DefaultsTests(OptionsTestCase):
    def test_defaults(self) -> None:
        """Without options both ports listen on loopback only, and the demo is served."""
        for settings in (parse(), Settings(), Options({}).settings):
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
                Limits(
                    max_message=1 << 20,
                    max_buffered=1 << 20,
                    max_memory=memory_size() // 2,
                    max_rate=1000,
                    compression=True,
                ),
            )
            self.assertFalse(settings.proxies.is_trusted("127.0.0.1"))
            self.assertFalse(settings.origins.allows("http://a", scheme="http", host="b"))

    def test_process_arguments(self) -> None:
        """Without arguments, parseOptions parses the command line of the process."""
        self.patch(sys, "argv", ["pushd", "--threads", "7"])
        options = Options({})
        options.parseOptions()
        self.assertEqual(options.settings.threads, 7)


class CommandLineTests(OptionsTestCase):
    def test_last_wins(self) -> None:
        """If an option that takes one value is given twice, the last value is used."""
        self.assertEqual(parse("--threads", "1", "--threads", "2").threads, 2)

    def test_abbreviation(self) -> None:
        """The start of an option's name will do if no other option starts with it."""
        self.assertEqual(parse("--thr", "3").threads, 3)
        self.assertEqual(
            self.mistake("--max-bu", "1", "--max-c", "1", "--log", "x"),
            "pushd: --log is ambiguous: it is short for --log-format, --log-level",
        )

    def test_misspelt(self) -> None:
        """For a misspelt option, the one that was probably meant is suggested."""
        for given, line in (
            ("--max-mesage=3", "unknown option --max-mesage: did you mean --max-message?"),
            ("--histroy-size", "unknown option --histroy-size: did you mean --history-size?"),
            ("--Threads", "unknown option --Threads: did you mean --threads?"),
            ("--max_rate=1", "unknown option --max_rate: did you mean --max-rate?"),
            ("--print-confg", "unknown option --print-confg: did you mean --print-config?"),
            ("--port", "unknown option --port: did you mean --listen?"),
            ("--colour=red", "unknown option --colour: see twistd pushd --help"),
            ("-t", "unknown option -t: options begin with two dashes, see twistd pushd --help"),
        ):
            self.assertEqual(self.mistake(given), f"pushd: {line}")

    def test_bad_arguments(self) -> None:
        """A missing value, a needless value and a stray argument are one line each."""
        for args, line in (
            (["--listen"], "--listen needs a value: see twistd pushd --help"),
            (["--check=yes"], "--check takes no value"),
            (["stray", "cat"], "unexpected argument 'stray': see twistd pushd --help"),
        ):
            self.assertEqual(self.mistake(*args), f"pushd: {line}")

    def test_help(self) -> None:
        """--help lists every option in its group with its default, and exits with 0."""
        said, code = self.run_and_exit("--help")
        self.assertFalse(code)
        self.assertRegex(said, r"\A\[options\]\n")
        *groups, last = said.split("\n\n")[2:-1]
        self.assertEqual([group.splitlines()[0] for group in groups], [f"{one}:" for one in GROUPS])
        for option in OPTIONS:
            (group,) = [one for one in groups if one.startswith(f"{option.group}:")]
            self.assertIn(f"\n  --{option.name} {option.metavar}", group)
        for name in ("config FILE", "reload", "check", "print-config", "version", "help"):
            self.assertIn(f"\n  --{name} ", last)
        words = " ".join(said.split())
        self.assertNotIn("[default: ]", words)
        for default in ("tcp:8080:interface=127.0.0.1", "tcp:8081:interface=127.0.0.1", "64"):
            self.assertIn(f"[default: {default}]", words)

    def test_help_width(self) -> None:
        """The help is as wide as the terminal, but no wider than 100 columns."""
        for columns, most in (("60", 60), ("80", 80), ("200", 100)):
            self.patch(os, "environ", {**os.environ, "COLUMNS": columns})
            said, _ = self.run_and_exit("--help")
            widest = max(map(len, said.splitlines()))
            self.assertLessEqual(widest, most)
            self.assertGreater(widest, most - 10)

    def test_given_width(self) -> None:
        """A caller, such as twistd, can give the width of the help."""
        widest = max(map(len, Options({}).getUsage(width=70).splitlines()))
        self.assertTrue(60 < widest <= 70, widest)

    def test_version(self) -> None:
        """--version prints the version and exits with 0."""
        self.assertEqual(self.run_and_exit("--version"), (f"pushd {__version__}\n", 0))


class ReloadTests(OptionsTestCase):
    """``--reload``."""

    def setUp(self) -> None:
        """Replace what waits, what replaces the process, and where temporary files are."""
        super().setUp()
        self.patch(tempfile, "tempdir", str(self.folder))
        self.patch(atexit, "register", lambda *args, **options: self.events.append("at exit"))
        self.events: list[str] = []
        self.environ: dict[str, str] = {}
        self.executed: list[Any] = []

    def execute(self, *args: Any) -> NoReturn:
        """Record what takes the place of this process."""
        self.executed += args
        raise SystemExit(0)

    def parse(self, *args: str, parent: dict[str, object] | None = None) -> Options:
        """Parse a command line with --reload, below the options of twistd."""
        options = Options(
            self.environ,
            wait_for_change=lambda files: self.events.append("waited"),
            execute=self.execute,
        )
        options.parent = parent  # type: ignore[assignment] # a dict, as far as it is used
        with contextlib.redirect_stderr(io.StringIO()) as self.stderr:
            options.parseOptions(["--reload", *args])
        return options

    def exit(self, *args: str, parent: dict[str, object] | None = None) -> object:
        """Parse one that ends the process, and return the exit code or the line."""
        with self.assertRaises(SystemExit) as raised:
            self.parse(*args, parent=parent)
        return raised.exception.code

    def test_command(self) -> None:
        """The command of this process is noted, and so is the file with its pid."""
        twistd = {"nodaemon": True, "pidfile": "x.pid"}
        command = self.parse(parent=twistd).command
        assert command is not None
        self.assertEqual(command.arguments, [sys.executable, *sys.orig_argv[1:]])
        self.assertEqual((command.folder, command.pidfile), (os.getcwd(), "x.pid"))
        self.assertIsNone(Options({}).command)

    def test_state(self) -> None:
        """Topics outlive the restarts in a directory that is removed at the end, unless given."""
        options = self.parse()
        assert options.command is not None
        state = options.settings.state
        assert state is not None
        self.assertTrue(state.name.startswith("pushd-reload-"))
        self.environ = dict(options.command.environ)
        self.assertEqual(self.environ, {"PUSHD_STATE": str(state)})
        self.assertEqual(self.parse().settings.state, state)
        self.assertEqual(self.events, ["at exit", "at exit"])
        self.environ = {}
        self.assertEqual(self.parse("--state", "mine").settings.state, self.folder / "mine")
        self.assertIsNone(self.parse("--broker", "redis://localhost").settings.state)

    def test_mistake_in_code(self) -> None:
        """With a mistake in the code it waits for a change, and the process begins anew."""
        (self.folder / "broken.py").write_text("x = = 1\n")
        for args in (("--views", "broken:views"), ("--wsgi", "absent:application")):
            self.assertEqual(self.exit(*args), 0)
            lines = self.stderr.getvalue().splitlines()
            self.assertEqual(len(lines), 2, lines)
            self.assertTrue(lines[0].startswith(f"pushd: {' '.join(args)}: "), lines)
            self.assertEqual(lines[1], "pushd: waiting for a change of the code")
            self.assertEqual(self.executed[0], sys.executable)
        self.assertEqual([one for one in self.events if one == "waited"], ["waited"] * 2)

    def test_other_mistakes(self) -> None:
        """Other mistakes, and --check, end the process as without it."""
        (self.folder / "broken.py").write_text("x = = 1\n")
        self.assertIn("--threads 0", str(self.exit("--threads", "0")))
        self.assertIn("invalid syntax", str(self.exit("--check", "--views", "broken:views")))
        self.assertNotIn("waited", self.events)

    def test_refused(self) -> None:
        """It is refused in the background, unless that is for debugging, and under systemd."""
        self.assertIn("--reload: is for", str(self.exit(parent={"nodaemon": False})))
        self.parse(parent={"nodaemon": False, "debug": True})
        self.environ = {"NOTIFY_SOCKET": "/run/systemd/notify"}
        self.assertIn("systemd", str(self.exit()))


class ApplicationTests(OptionsTestCase):
    def test_application(self) -> None:
        """A WSGI application is imported from the current directory, and replaces the demo."""
        (self.folder / "site_of_mine.py").write_text("def application(environ, start): ...")
        settings = parse("--wsgi", "site_of_mine:application", "--wsgi-threads", "3")
        assert callable(settings.wsgi)
        self.assertEqual(settings.wsgi_threads, 3)
        self.assertEqual(list(settings.routes), [])
        self.assertIsNone(parse().wsgi)

    def test_views_beside(self) -> None:
        """Views can be served beside a WSGI application."""
        (self.folder / "both.py").write_text("def a(*_): ...\nviews = {'/a/': a}")
        settings = parse("--wsgi", "both:a", "--views", "both:views")
        self.assertEqual(list(settings.routes), ["/a/"])


class ViewsTests(OptionsTestCase):
    def test_map(self) -> None:
        """A map of views is imported from the current directory, and the demo is served, too."""
        self.module("some", "urls = {'/a/': view, '/b/<name>/': view}")
        routes = parse("--views", "some:urls").routes
        self.assertEqual(list(routes), ["/a/", "/b/<name>/", "/test/", *PLAYGROUND])
        self.assertIs(routes["/test/"], ticker)
        found = routes.match("/b/x/")
        assert found is not None
        self.assertEqual(found.parameters, {"name": "x"})

    def test_package(self) -> None:
        """The module of a map may be in a package, and the map may be empty."""
        (self.folder / "package").mkdir()
        (self.folder / "package/urls.py").write_text("nothing = {}")
        routes = parse("--views", "package.urls:nothing").routes
        self.assertEqual(list(routes), ["/test/", *PLAYGROUND])

    def test_demo_replaced(self) -> None:
        """A view of the map takes precedence over the demo at the same path."""
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
        """With --demo off only the map is served, or no view at all."""
        self.module("alone", "urls = {'/a/': view}")
        self.assertEqual(list(parse("--demo", "off").routes), [])
        self.assertEqual(list(parse("--demo", "off", "--views", "alone:urls").routes), ["/a/"])
        self.assertIn("/test/", parse("--demo", "on", "--views", "alone:urls").routes)
        for given in ("", "no", "ON"):
            self.assert_mistake("demo", given, "on or off")

    def test_accept_all(self) -> None:
        """What a Routes says about the handshakes of all its views is kept."""
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
        """The views in the settings are the functions of the module."""
        self.module("runs", "urls = {'/a/': view}")
        view = parse("--views", "runs:urls").routes["/a/"]
        request: Request | None = None
        self.assertEqual(view(request), "hello")


class SourcesTests(OptionsTestCase):
    def test_order(self) -> None:
        """The command line takes precedence over the environment, the file and the default."""
        file = self.write("threads = 3", "max-rate = 4", "max-message = 5", 'origin = ["*"]')
        environ = {"PUSHD_THREADS": "6", "PUSHD_MAX_RATE": "7", "PUSHD_CONFIG": file}
        settings = parse_in(environ, "--threads", "8")
        self.assertEqual(settings.threads, 8)
        self.assertEqual(settings.limits.max_rate, 7)
        self.assertEqual(settings.limits.max_message, 5)
        self.assertEqual(settings.limits.max_buffered, 1 << 20)
        self.assertTrue(settings.origins.allows("http://a", scheme="http", host="b"))

    def test_file(self) -> None:
        """The file is named by --config, or else by PUSHD_CONFIG."""
        file = self.write("threads = 3")
        self.assertEqual(parse("--config", file).threads, 3)
        self.assertEqual(parse_in({"PUSHD_CONFIG": file}).threads, 3)
        environ = {"PUSHD_CONFIG": "nowhere.toml"}
        self.assertEqual(parse_in(environ, "--config", file).threads, 3)

    def test_environment(self) -> None:
        """A variable holds one value, or several with spaces between; others are ignored."""
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

    def test_misspelt_variable(self) -> None:
        """A misspelt variable is a mistake, and the right one is suggested."""
        self.assertEqual(
            self.mistake(PUSHD_MAX_MESAGE="1"),
            "pushd: unknown option PUSHD_MAX_MESAGE: did you mean PUSHD_MAX_MESSAGE?",
        )

    def test_process_environment(self) -> None:
        """The environment is that of the process unless another is given."""
        self.patch(os, "environ", {"PUSHD_THREADS": "9"})
        options = Options()
        options.parseOptions([])
        self.assertEqual(options.settings.threads, 9)

    def test_where(self) -> None:
        """A mistake names the source of the value."""
        line = self.mistake("--config", self.write("threads = 0"))
        self.assertEqual(line, "pushd: pushd.toml: threads 0: must be a number from 1 to 100000")
        self.assertEqual(
            self.mistake(PUSHD_THREADS="many"),
            "pushd: PUSHD_THREADS many: must be a number from 1 to 100000",
        )

    def test_no_endpoint(self) -> None:
        """A file may close the control port, but not the public port."""
        self.assertEqual(parse("--config", self.write("control = []")).control, ())
        self.assertEqual(parse("--config", self.write('control = ["none"]')).control, ())
        line = self.mistake("--config", self.write("listen = []"))
        self.assertIn("listen: must be an endpoint", line)

    def test_sizes(self) -> None:
        """A size may have a unit in every source; in the file it may be a number, too."""
        self.assertEqual(parse("--max-message", "10MB").limits.max_message, 10_000_000)
        settings = parse_in({"PUSHD_HISTORY_BYTES": "1 GiB"})
        self.assertEqual(settings.retention.bytes, 1 << 30)
        file = self.write('max-message = "64KiB"', "max-buffered = 2000")
        limits = parse("--config", file).limits
        self.assertEqual((limits.max_message, limits.max_buffered), (65536, 2000))

    def test_file_read_again(self) -> None:
        """The file can be read again; the command line still takes precedence over it."""
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
    def test_valid(self) -> None:
        """--check prints the effective values as a configuration file, with their sources."""
        file = self.write('listen = ["tcp:1"]', 'max-message = "10MB"', "max-buffered = 5")
        said, code = self.run_and_exit(
            "--check", "--config", file, "--control", "tcp:2", PUSHD_COMPRESSION="off"
        )
        self.assertEqual(code, 0)
        lines = said.splitlines()
        self.assertIn('listen = ["tcp:1"]  # pushd.toml: listen', lines)
        self.assertIn('control = ["tcp:2"]  # --control', lines)
        self.assertIn("compression = false  # PUSHD_COMPRESSION", lines)
        self.assertIn("threads = 64  # default", lines)
        self.assertIn('max-message = "10MB"  # pushd.toml: max-message', lines)
        self.assertIn("max-buffered = 5  # pushd.toml: max-buffered", lines)
        self.assertIn('history-bytes = "64MiB"  # default', lines)
        self.assertRegex(said, r'(?m)^max-memory = "auto"  # default: [0-9.]+ [GMK]iB$')
        self.assertIn("# web is not set", lines)
        self.assertEqual(len(lines), len(OPTIONS))
        shown = self.write(said)
        self.assertEqual(parse("--config", shown).listen, ("tcp:1",))
        self.assertEqual(parse("--config", shown).limits.max_message, 10_000_000)

    def test_warning(self) -> None:
        """--check warns of a control port that other machines may reach, on standard error."""
        for endpoint, count in (("tcp:2", 1), ("tcp:2:interface=127.0.0.1", 0)):
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors):
                _, code = self.run_and_exit("--check", "--control", endpoint)
            self.assertEqual(code, 0)
            lines = errors.getvalue().splitlines()
            self.assertEqual(len(lines), count)
            for line in lines:
                self.assertTrue(
                    line.startswith(f"pushd: warning: --control {endpoint}: the "), line
                )

    def test_reader_gone(self) -> None:
        """If the reader of the output has exited, as head does, nothing is said."""
        for option in ("--check", "--help", "--version", "--print-config"):
            read, write = os.pipe()
            os.close(read)
            with (
                open(write, "w") as broken,
                contextlib.redirect_stdout(broken),
                self.assertRaises(SystemExit) as raised,
            ):
                parse(option)
            self.assertEqual(raised.exception.code, 0)

    def test_check_without_redis(self) -> None:
        """--check says what to install if the broker needs it; without one nothing is needed."""
        self.patch(command_line, "find_missing_package", lambda: "pip install it")
        error = self.assertRaises(SystemExit, parse, "--check", "--broker", "redis://host")
        self.assertEqual(str(error), "pushd: --broker redis://host:6379/0: pip install it")
        _, code = self.run_and_exit("--check")
        self.assertEqual(code, 0)

    def test_every_mistake(self) -> None:
        """--check prints all mistakes, not only the first."""
        file = self.write("thread = 3", 'max-rate = "many"', "history-size = -1", "max_message = 1")
        with self.assertRaises(SystemExit) as raised:
            parse("--check", "--config", file, "--web", "nowhere", "--listen", "ssl:1:privateKey=x")
        lines = str(raised.exception.code).splitlines()
        self.assertEqual(
            lines[:3] + lines[4:],
            [
                "pushd: pushd.toml: unknown option thread: did you mean threads?",
                'pushd: pushd.toml: max-rate "many": must be a number, without quotes',
                "pushd: pushd.toml: unknown option max_message: did you mean max-message?",
                "pushd: --web nowhere: must be a directory that exists",
                "pushd: pushd.toml: history-size -1: must be a number from 0 to 1000000",
            ],
        )
        start = "pushd: --listen ssl:1:privateKey=x: "
        self.assertTrue(lines[3].startswith(start), lines[3])
        self.assertTrue(lines[3].endswith("x cannot be read: No such file or directory"), lines[3])

    def test_unknown_tables(self) -> None:
        """For a table of another name, the one that exists is suggested."""
        for head in ("[[topics]]", "[[rule]]", "[rules]", "[a.b]"):
            name = head.strip("[]").partition(".")[0]
            file = self.write(head, 'match = "a"')
            error = self.assertRaises(SystemExit, parse, "--check", "--config", file)
            line = f"pushd: pushd.toml: unknown table {name}: did you mean [[topic]]?"
            self.assertEqual(str(error), line)

    def test_print_config(self) -> None:
        """--print-config prints each option with its description; as a file it changes nothing."""
        said, code = self.run_and_exit("--print-config")
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
        """An option without a default is in the file as a comment."""
        said, _ = self.run_and_exit("--print-config")
        self.assertIn('\n# web = ""\n', said)
