"""Which event loop the reactor runs on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

from twisted.internet import asyncioreactor
from twisted.trial.unittest import SynchronousTestCase

from pushd.options import event_loop
from pushd.options.command_line import Options
from pushd.options.event_loop import install_asyncio, make_loop, name_loop

_REACTOR = "twisted.internet.reactor"


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        """A loop is one of uvloop's or of asyncio's; without one, the reactor is Twisted's own."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        other: Any = type("Loop", (), {"__module__": "uvloop"})()
        self.assertEqual(
            [name_loop(one) for one in (None, loop, other)], ["twisted", "asyncio", "uvloop"]
        )


class InstallTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Use a process without a reactor."""
        self.patch(sys, "modules", {**sys.modules})
        sys.modules.pop(_REACTOR, None)
        self.installed: list[Any] = []
        self.patch(event_loop, "installReactor", self.installed.append)
        self.loops: list[Any] = []
        self.patch(asyncio, "set_event_loop", self.loops.append)

    def test_installed(self) -> None:
        """The reactor runs on a new loop, which is also that of the thread."""
        install_asyncio()
        [reactor], [loop] = self.installed, self.loops
        self.addCleanup(loop.close)
        self.addCleanup(reactor.removeAll)
        self.assertIs(type(reactor), asyncioreactor.AsyncioSelectorReactor)

    def test_there_already(self) -> None:
        """An asyncio reactor that twistd has installed is used; any other is refused."""
        ours = asyncioreactor.AsyncioSelectorReactor.__new__(asyncioreactor.AsyncioSelectorReactor)
        sys.modules[_REACTOR] = ours  # type: ignore[assignment] # as Twisted does it
        install_asyncio()
        self.assertEqual(self.installed, [])
        sys.modules[_REACTOR] = SimpleNamespace()  # type: ignore[assignment] # likewise
        with self.assertRaisesRegex(RuntimeError, "SimpleNamespace is installed already: .*--rea"):
            install_asyncio()

    def test_uvloop(self) -> None:
        """The loop of uvloop is used if that is installed, else asyncio's own."""

        def found(name: str) -> ModuleType:
            assert name == "uvloop"
            return SimpleNamespace(new_event_loop=lambda: "uv")  # type: ignore[return-value]

        def missing(name: str) -> ModuleType:
            raise ImportError

        self.assertEqual(make_loop(found), "uv")
        loop = make_loop(missing)
        self.addCleanup(loop.close)
        self.assertIsInstance(loop, asyncio.SelectorEventLoop)


class OptionTests(SynchronousTestCase):
    def parse(self, *args: str, **environ: str) -> int:
        """Parse options; return how often the loop was installed."""
        calls: list[None] = []
        self.options = Options(environ, lambda: calls.append(None))
        self.options.parseOptions([*args, "--control", "none"])
        return len(calls)

    def test_sources(self) -> None:
        """The option may come from the command line or the environment; the default is Twisted."""
        self.assertEqual(self.parse(), 0)
        self.assertEqual(self.options.settings.loop, "twisted")
        self.assertEqual(self.parse("--loop", "asyncio"), 1)
        self.assertEqual(self.options.settings.loop, "asyncio")
        self.assertEqual(self.parse(PUSHD_LOOP="asyncio"), 1)
        self.assertEqual(self.parse("--loop", "twisted", PUSHD_LOOP="asyncio"), 0)

    def test_asgi(self) -> None:
        """--asgi implies it, and cannot be combined with --loop twisted or with --wsgi."""
        application = "tests.support.asgi_case:NOTHING"
        self.assertEqual(self.parse("--asgi", application), 1)
        refused = "needs asyncio's event loop$"
        with self.assertRaisesRegex(SystemExit, f"--loop twisted: --asgi {application} {refused}"):
            self.parse("--asgi", application, "--loop", "twisted")
        with self.assertRaisesRegex(SystemExit, f"PUSHD_LOOP twisted: --asgi .* {refused}"):
            self.parse("--asgi", application, PUSHD_LOOP="twisted")
        with self.assertRaisesRegex(SystemExit, "--wsgi and --asgi: only one application can"):
            self.parse("--asgi", application, "--wsgi", "wsgiref.simple_server:demo_app")

    def test_asgi_in_file(self) -> None:
        """A configuration file may have the default of --loop written out beside --asgi."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "pushd.toml")
            path.write_text('asgi = "tests.support.asgi_case:NOTHING"\nloop = "twisted"\n')
            self.assertEqual(self.parse("--config", str(path)), 1)

    def test_before_views(self) -> None:
        """It is installed before views are imported, which may import the reactor; not reloaded."""
        order: list[str] = []
        self.patch(
            sys.modules["pushd.options.parsers"],
            "load_routes",
            lambda _: order.append("views"),
        )
        options = Options({}, lambda: order.append("loop"))
        options.parseOptions(["--loop", "asyncio", "--views", "x:y", "--control", "none"])
        options.resolve()
        self.assertEqual(order, ["loop", "views", "views"])

    def test_refused(self) -> None:
        """If another reactor is installed, the process ends with one line."""

        def refuse() -> None:
            raise RuntimeError("it is too late")

        with self.assertRaises(SystemExit) as caught:
            Options({}, refuse).parseOptions(["--loop", "asyncio"])
        self.assertEqual(str(caught.exception), "pushd: --loop asyncio: it is too late")
