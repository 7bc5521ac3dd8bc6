"""``--reload``: the daemon starts anew when its code changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from pushd.access.limits import Limits
from pushd.options.code_files import CodeFiles, CommandLine
from pushd.service.lifecycle.code_reload import CodeReload
from tests.support.keyring import FolderTestCase
from tests.support.peer import said


class FakeTimer:
    """Records a timer instead of starting a thread."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self.seconds = seconds
        self.call = call
        self.daemon = False
        self.started = False

    def start(self) -> None:
        """Record it."""
        self.started = True


class CodeReloadTests(FolderTestCase):
    def setUp(self) -> None:
        """Watch an application of one file."""
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        self.file = self.folder / "hello.py"
        self.file.write_text("x = 1\n")
        self.events: list[str] = []
        self.timers: list[FakeTimer] = []
        self.reactor = MemoryReactorClock()
        self.limits = Limits(drain=5)
        self.service = CodeReload(
            self.reactor,
            CodeFiles({}, {str(self.folder): None}),
            CommandLine(
                arguments=["python"], folder=str(self.folder), environ={}, execute=self.execute
            ),
            limits=self.limits,
            stop=lambda: self.events.append("stop"),
            cut=lambda: self.events.append("cut"),
            make_timer=self.make_timer,  # type: ignore[arg-type] # a fake
        )
        with capturedLogs() as logged:
            self.service.startService()
        self.started = said(logged)

    def execute(self, *args: Any) -> Any:
        """Record that the process is replaced."""
        self.events.append("start anew")

    def make_timer(self, seconds: float, call: Callable[[], object]) -> FakeTimer:
        """Make a timer."""
        self.timers.append(FakeTimer(seconds, call))
        return self.timers[-1]

    def change(self, source: str) -> list[str]:
        """Change the file, let it be noticed, and return the lines of the log."""
        self.file.write_text(source)
        with capturedLogs() as logged:
            self.reactor.pump([0.25, 0.25])
        return said(logged)

    def test_start(self) -> None:
        """The log says that it is for development only."""
        (line,) = self.started
        self.assertIn("when one of 1 Python files changes; for development only", line)
        self.reactor.pump([0.25] * 10)
        self.assertEqual(self.events, [])

    def test_change(self) -> None:
        """A change stops the daemon without a drain, and then it starts anew."""
        (line,) = self.change("x = 22\n")
        self.assertRegex(line, r"hello\.py changed: starting anew$")
        self.assertEqual((self.events, self.limits.drain), (["stop"], 0))
        (call, *_) = self.reactor.triggers["after"]["shutdown"][0]
        call()
        self.assertEqual(self.events, ["stop", "start anew"])

    def test_slow_end(self) -> None:
        """What does not end within a second is cut; after five, nothing is waited for any more."""
        self.change("x = 22\n")
        self.reactor.pump([1])
        self.assertEqual(self.events, ["stop", "cut"])
        (timer,) = self.timers
        self.assertEqual((timer.seconds, timer.daemon, timer.started), (5, True, True))
        timer.call()
        self.assertEqual(self.events, ["stop", "cut", "start anew"])

    def test_mistake(self) -> None:
        """A syntax error is a line with file and line; the daemon goes on until it is mended."""
        (line,) = self.change("x = = 2\n")
        self.assertEqual(line, f"{self.file}, line 1: invalid syntax; the code from before goes on")
        (self.folder / "other.py").write_text("y = 1\n")
        self.reactor.pump([0.25, 0.25])
        self.assertEqual(self.events, [])
        self.change("x = 2\n")
        self.assertEqual(self.events, ["stop"])

    def test_stop(self) -> None:
        """After a stop nothing is watched."""
        self.service.stopService()
        self.service.stopService()
        self.change("x = 22\n")
        self.assertEqual((self.events, self.reactor.getDelayedCalls()), ([], []))
