"""The fixture ``pushd_daemon``, called directly, and in runs of pytest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.trial.unittest import SynchronousTestCase

from pushd.pytest_plugin import make_daemons, pushd_daemon
from pushd.testing import Daemon
from pushd.views.decorators import require_websocket
from pushd.views.request import Request


@require_websocket
async def echo(request: Request) -> None:
    """Echo every message."""
    async for message in request.websocket:
        request.websocket.send(message)


@require_websocket
async def forgetful(request: Request) -> None:
    """Leave a delayed call behind."""
    request.clock.callLater(3600, print)
    await request.websocket.wait()


VIEWS = {"/echo/": echo, "/forgetful/": forgetful}

# Tests of a user: one passes, one fails, and one leaves a delayed call behind.
TESTS = """
def test_page(pushd_daemon):
    assert pushd_daemon().get("/test/").status == 200

def test_wrong(pushd_daemon):
    assert pushd_daemon().get("/test/").status == 404

def test_forgetful(pushd_daemon):
    pushd_daemon().clock.callLater(3600, print)
"""


class FixtureTests(SynchronousTestCase):
    """The function behind the fixture."""

    def test_daemons(self) -> None:
        """It makes several daemons, each with its views and settings."""
        with _made() as make:
            one, other = make(VIEWS, threads=7), make()
            self.assertEqual(one.settings.threads, 7)
            self.assertTrue(one.connect("/echo/").opened)
            refused = other.connect("/echo/").refused
            assert refused is not None
            self.assertEqual(refused.status, 404)

    def test_stopped(self) -> None:
        """After the test, its daemons are stopped and their browsers closed."""
        with _made() as make:
            browsers = [make(VIEWS).connect("/echo/") for _ in range(2)]
            self.assertEqual([browser.gone for browser in browsers], [False, False])
        self.assertEqual([browser.gone for browser in browsers], [True, True])

    def test_left_behind(self) -> None:
        """A delayed call that outlives its daemon fails the test, and is named."""
        made = _made()
        daemon = made.__enter__()(VIEWS)
        daemon.connect("/forgetful/").leave()
        with self.assertRaises(pytest.fail.Exception) as caught:
            made.__exit__(None, None, None)
        self.assertIn("print", str(caught.exception))
        self.assertIn("left behind", str(caught.exception))

    def test_name(self) -> None:
        """The fixture has the documented name."""
        self.assertEqual(pushd_daemon.name, "pushd_daemon")


class PytestTests(SynchronousTestCase):
    """The fixture in a run of pytest."""

    def test_run(self) -> None:
        """The entry point makes the fixture known, and bad tests fail."""
        with TemporaryDirectory() as folder:
            Path(folder, "test_views.py").write_text(TESTS)
            done = _run(folder, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider")
        self.assertEqual(done.returncode, 1, done.stdout)
        for line in (
            "PASSED test_views.py::test_page",
            "FAILED test_views.py::test_wrong - assert 200 == 404",
            "ERROR test_views.py::test_forgetful - Failed: left behind",
        ):
            self.assertIn(line, done.stdout)

    def test_light(self) -> None:
        """Loading the plugin does not import the daemon, which would slow every run down."""
        script = "import pushd.pytest_plugin, sys; print(*sys.modules, sep='\\n')"
        done = _run(".", "-c", script)
        self.assertEqual(done.returncode, 0, done.stdout)
        modules = done.stdout.split()
        self.assertIn("pushd.pytest_plugin", modules)
        self.assertEqual([name for name in modules if name.startswith(("twisted", "autobahn"))], [])


def _made() -> AbstractContextManager[Callable[..., Daemon]]:
    return contextmanager(make_daemons)()


def _run(folder: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
