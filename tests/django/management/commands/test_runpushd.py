"""``manage.py runpushd``, without a real reactor or reloader."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from errno import EADDRINUSE
from functools import partial
from io import StringIO
from typing import Any

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler, StaticFilesHandler
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command, get_commands
from django.core.management.base import CommandError
from django.test import override_settings
from django.utils import autoreload
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogBeginner
from twisted.trial.unittest import SynchronousTestCase

import tests.support.django_site  # noqa: F401 # which sets Django up
from pushd.django.management.commands import runpushd
from pushd.options.command_line import Options
from pushd.options.settings import Settings
from pushd.service import twistd
from pushd.service.twistd import makeService
from pushd.testing.event_loop import VirtualEventLoop
from tests.support.folder import make_folder

# The applications that the settings name.
application = WSGIHandler()
asgi_application = ASGIHandler()

APPLICATION = "tests.django.management.commands.test_runpushd.application"
ASGI_APPLICATION = "tests.django.management.commands.test_runpushd.asgi_application"


class FakeReactor(MemoryReactorClock):
    """A reactor that records how it is run."""

    busy = False

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[bool] = []

    def listenTCP(self, port: int, *args: Any, **more: Any) -> Any:
        if self.busy:
            raise CannotListenError("127.0.0.1", port, OSError(EADDRINUSE, "in use"))
        return super().listenTCP(port, *args, **more)

    def run(self, installSignalHandlers: bool = True) -> None:
        self.runs.append(installSignalHandlers)


class Command(runpushd.Command):
    """The command with a fake reactor."""

    def __init__(self, reactor: FakeReactor) -> None:
        super().__init__(stderr=StringIO())
        self._reactor = reactor

    def get_reactor(self) -> FakeReactor:
        return self._reactor


class RunPushdTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Replace the log and the reloader."""
        self.reactor = FakeReactor()
        self.reloaded: list[Callable[..., Any]] = []
        self.served: list[Any] = []
        self.loops: list[str] = []
        # What would make asyncio's event loop that of this process.
        self.installed: list[str] = []
        install = partial(self.installed.append, "asyncio")
        self.patch(runpushd, "Options", partial(Options, install_asyncio=install))
        loop = VirtualEventLoop(self.reactor)
        self.addCleanup(loop.close)
        self.patch(twistd, "event_loop_of", lambda reactor: loop if self.installed else None)

        def run_with_reloader(serve: Callable[..., Any], **more: Any) -> None:
            self.reloaded.append(serve)
            serve(**more)

        def make_service(options: Any, reactor: Any, style: Any) -> Any:
            self.served.append(options.settings.wsgi or options.settings.asgi)
            self.loops.append(options.settings.loop)
            self.service: Any = makeService(options, reactor, style)
            return self.service

        self.patch(autoreload, "run_with_reloader", run_with_reloader)
        self.patch(runpushd, "makeService", make_service)
        self.logs: list[Any] = []
        self.patch(globalLogBeginner, "beginLoggingTo", lambda logs, **_: self.logs.extend(logs))

    def run_command(self, *args: str, **settings: Any) -> None:
        """Run the command."""
        with override_settings(WSGI_APPLICATION=APPLICATION, **settings):
            call_command(Command(self.reactor), *args)
        self.addCleanup(self.reactor.triggers["before"]["shutdown"][0][0])

    def addresses(self) -> list[tuple[str, int]]:
        """Return the addresses that it listens on."""
        return [(server[3], server[0]) for server in self.reactor.tcpServers]

    def test_found(self) -> None:
        """Django finds the command if pushd.django is installed."""
        self.assertEqual(get_commands()["runpushd"], "pushd.django")

    def test_reload(self) -> None:
        """The reloader runs it in a thread, where signals cannot be handled."""
        self.run_command("--", "--control", "none")
        self.assertEqual(len(self.reloaded), 1)
        self.assertEqual(self.addresses(), [("127.0.0.1", 8000)])
        self.assertEqual(self.reactor.runs, [False])
        self.assertEqual(self.served, [application])

    def test_no_reload(self) -> None:
        """With --noreload it runs in the main thread."""
        self.run_command("--noreload", "[::1]:9000")
        self.assertEqual(self.reloaded, [])
        self.assertEqual(self.addresses(), [("::1", 9000), ("127.0.0.1", 8081)])
        self.assertEqual(self.reactor.runs, [True])

    def test_command_line(self) -> None:
        """Options of pushd stand behind --, wherever the address and other options stand."""
        for given, port, runs in (
            ("8000 --noreload -- --control none", 8000, True),
            ("--noreload 8000 -- --control none", 8000, True),
            ("8000 -- --control none", 8000, False),
            ("--noreload -- --control none", 8000, True),
            ("9000 --noreload --wsgi --", 9000, True),
            ("-- 9000 --control none", 9000, False),
        ):
            self.reactor.tcpServers.clear()
            self.reactor.runs.clear()
            with override_settings(WSGI_APPLICATION=APPLICATION):
                command = Command(self.reactor)
                command.run_from_argv(["manage.py", "runpushd", *given.split(" ")])
            control = [] if "none" in given else [("127.0.0.1", 8081)]
            self.assertEqual(self.addresses(), [("127.0.0.1", port), *control], given)
            self.assertEqual(self.reactor.runs, [runs], given)
        for stop in self.reactor.triggers["before"]["shutdown"]:
            self.addCleanup(stop[0])

    def test_misplaced(self) -> None:
        """Without --, an option of pushd is a mistake, and the usage says where it belongs."""
        said = StringIO()
        self.patch(sys, "stderr", said)
        command = Command(self.reactor)
        line = ["manage.py", "runpushd", "8000", "--control", "none"]
        self.assertRaises(SystemExit, command.run_from_argv, line)
        self.assertIn("[ADDRESS:]PORT [-- OPTION ...]", said.getvalue())
        self.assertIn("unrecognized arguments: --control none", said.getvalue())

    def test_static_files(self) -> None:
        """With DEBUG it serves static files, as runserver does."""
        self.run_command("0.0.0.0:80", DEBUG=True)
        [served] = self.served
        self.assertIsInstance(served, StaticFilesHandler)
        self.assertIs(served.application, application)

    def test_asgi(self) -> None:
        """ASGI_APPLICATION is served if the settings name one, or with --asgi."""
        self.run_command("--noreload", ASGI_APPLICATION=ASGI_APPLICATION)
        self.run_command("--noreload", "--asgi", ASGI_APPLICATION=ASGI_APPLICATION)
        self.assertEqual(self.served, [asgi_application] * 2)
        self.assertEqual(self.installed, ["asyncio"] * 2)

    def test_wsgi(self) -> None:
        """With --wsgi, WSGI_APPLICATION is served all the same."""
        self.run_command("--noreload", "--wsgi", ASGI_APPLICATION=ASGI_APPLICATION)
        self.assertEqual((self.served, self.installed), ([application], []))

    def test_asgi_static_files(self) -> None:
        """With DEBUG an ASGI application has its static files, too."""
        self.run_command("--noreload", DEBUG=True, ASGI_APPLICATION=ASGI_APPLICATION)
        [served] = self.served
        self.assertIsInstance(served, ASGIStaticFilesHandler)
        self.assertIs(served.application, asgi_application)

    def test_loop(self) -> None:
        """--loop is pushd's option."""
        self.run_command("--noreload", "--loop", "asyncio")
        self.run_command("--noreload", "--loop", "twisted")
        self.assertEqual(self.loops, ["asyncio", "twisted"])

    def test_log(self) -> None:
        """The log has the format and level of its options."""
        self.run_command("--", "--log-level", "warn", "--log-format", "json")
        [log] = self.logs
        event = {"log_format": "hello", "log_level": LogLevel.info}
        self.assertIsNone(log.formatEvent(event))
        said = json.loads(log.formatEvent({**event, "log_level": LogLevel.warn}))
        self.assertEqual(said["message"], "hello")

    def test_log_level(self) -> None:
        """A reload changes the log level."""
        self.run_command()
        [log] = self.logs
        event = {"log_format": "hello", "log_level": LogLevel.debug, "log_time": 0.0}
        self.assertIsNone(log.formatEvent(event))
        for apply in self.service.appliers:
            apply(Settings(log_level="debug"))
        self.assertIn("hello", log.formatEvent(event))

    def test_mistakes(self) -> None:
        """An invalid option, or no application, is a CommandError."""
        for args, application, line in (
            (["--", "--threads", "many"], APPLICATION, "--threads many: must be a number"),
            (["--", "--reload"], APPLICATION, "runpushd reloads the code by itself"),
            (["web"], APPLICATION, "must be an endpoint such as"),
            (["--noreload"], None, "WSGI_APPLICATION"),
            (["--noreload"], "nowhere.application", "No module named 'nowhere'"),
            (["--noreload", "--asgi"], APPLICATION, "the setting ASGI_APPLICATION names no"),
            (["--asgi", "--wsgi"], APPLICATION, "not allowed with argument --asgi"),
        ):
            with (
                override_settings(WSGI_APPLICATION=application),
                self.assertRaisesRegex(CommandError, line),
            ):
                call_command(Command(self.reactor), *args)
        self.assertEqual(self.addresses(), [])

    def test_broken_code(self) -> None:
        """The reloader sees what the site's code raises, and then watches the file."""
        site = make_folder(self)
        (site / "runpushd_broken.py").write_text("def may(:\n")
        (site / "runpushd_needy.py").write_text("import runpushd_absent\n")
        self.patch(sys, "path", [str(site), *sys.path])
        for module, raised in (
            ("runpushd_broken", SyntaxError),
            ("runpushd_needy", ModuleNotFoundError),
        ):
            path = str(site / f"{module}.py")
            for settings in (
                {"WSGI_APPLICATION": f"{module}.application"},
                {"WSGI_APPLICATION": APPLICATION, "PUSHD_AUTHORIZE": f"{module}.may"},
            ):
                with override_settings(**settings):
                    self.patch(autoreload, "_error_files", [])
                    self.patch(autoreload, "_exception", None)
                    serve = autoreload.check_errors(partial(call_command, Command(self.reactor)))
                    self.assertRaises(raised, serve)
                    self.assertEqual(autoreload._error_files, [path])

    def test_no_module(self) -> None:
        """A setting that names no module is a CommandError that names the setting."""
        with (
            override_settings(WSGI_APPLICATION=APPLICATION, PUSHD_AUTHORIZE="tests.absent.may"),
            self.assertRaisesRegex(CommandError, "PUSHD_AUTHORIZE = 'tests.absent.may': No module"),
        ):
            call_command(Command(self.reactor))

    def test_busy(self) -> None:
        """If a port is taken the process exits, in whichever thread."""
        self.reactor.busy = True
        line = self.fail_to_serve()
        self.assertIn("in use", line)
        self.assertIn("choose another endpoint", line)
        self.assertIn("With runpushd: manage.py runpushd [ADDRESS:]PORT -- --control none", line)

    def test_no_daemon(self) -> None:
        """Any other failure to start, such as an unsuitable Redis, ends the process as well."""

        def make_service(options: Any, reactor: Any, style: Any) -> Any:
            raise SystemExit("pushd: --broker redis://a: wrong user or password")

        self.patch(runpushd, "makeService", make_service)
        self.assertIn("wrong user or password", self.fail_to_serve())

    def fail_to_serve(self) -> str:
        """Run the command, which must fail; return its message."""
        command = Command(self.reactor)
        codes: list[int] = []

        def leave(code: int) -> None:
            codes.append(code)
            raise InterruptedError

        self.patch(os, "_exit", leave)
        with override_settings(WSGI_APPLICATION=APPLICATION):
            self.assertRaises(InterruptedError, call_command, command)
        self.assertEqual(codes, [1])
        return str(command.stderr.getvalue())

    def test_reactor(self) -> None:
        """By default it takes the global reactor."""
        self.assertTrue(callable(runpushd.Command().get_reactor().run))
