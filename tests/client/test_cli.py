"""The command for people: how it is started, how it ends, and what it says when it can't."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from types import SimpleNamespace
from typing import Any

from pushd import __main__ as script
from pushd.client.cli import run
from pushd.client.commands import World
from tests.keyring import SECRET, FolderTestCase
from tests.listeners import TopicTestCase
from tests.memory_network import Network


class CommandTestCase(FolderTestCase, TopicTestCase):
    def setUp(self) -> None:
        """Start a daemon, and a terminal."""
        FolderTestCase.setUp(self)
        TopicTestCase.setUp(self)
        self.network = Network(self.daemon)
        self.environ: dict[str, str] = {}
        self.now = 0.0
        self.stdout = io.StringIO()
        self.stderr = io.StringIO()

    def run_command(self, *args: str, stdin: bytes = b"") -> int:
        """Run a command; gives its exit code."""
        self.stdout = io.StringIO()
        self.stderr = io.StringIO()
        world = World(
            now=lambda: self.now,
            environ=self.environ,
            stdin=io.BytesIO(stdin),
            stdout=self.stdout,
            stderr=self.stderr,
            connect=self.network.connect,
            pause=self.network.pause,
        )
        with contextlib.redirect_stdout(self.stdout), contextlib.redirect_stderr(self.stderr):
            return run(args, world)

    def good(self, *args: str, stdin: bytes = b"") -> str:
        """Run a command that works; gives what it prints."""
        code = self.run_command(*args, stdin=stdin)
        self.assertEqual((code, self.stderr.getvalue()), (0, ""))
        return self.stdout.getvalue()

    def bad(self, *args: str, stdin: bytes = b"") -> str:
        """Run a command that does not; gives the one line that it says."""
        try:
            code: object = self.run_command(*args, stdin=stdin)
        except SystemExit as error:
            code = error.code
        line = self.stderr.getvalue()
        self.assertEqual((code, self.stdout.getvalue(), line.count("\n")), (1, "", 1), line)
        self.assertTrue(line.startswith("pushd: "), line)
        return line.removeprefix("pushd: ").rstrip("\n")


class UnreachableTests(CommandTestCase):
    """What is said where nobody answers."""

    def test_public(self) -> None:
        """Where the public port is, is said by an option or the surroundings."""
        self.environ["PUSHD_URL"] = "http://127.0.0.1:1"
        self.network.daemon = None
        for args, url in (((), "http://127.0.0.1:1"), (("--url", "http://h:2"), "http://h:2")):
            self.assertEqual(
                self.bad("tail", "t", *args),
                f"{url} does not answer: Connection refused; is the daemon running? "
                "--url or PUSHD_URL says where",
            )

    def test_control(self) -> None:
        """Where the control port is, is said by an option or the surroundings."""
        self.network.daemon = None
        line = self.bad("topics")
        self.assertTrue(line.startswith("http://127.0.0.1:8081 does not answer: "), line)
        self.assertIn("is the daemon running? --control or PUSHD_CONTROL_URL says where", line)
        self.environ["PUSHD_CONTROL_URL"] = "http://h:1"
        for args in (["publish", "t", "x"], ["topics"], ["connections"], ["close", "1"]):
            self.assertIn("http://h:1 ", self.bad(*args))
            self.assertIn("http://i:2 ", self.bad(*args, "--control", "http://i:2"))
        self.assertIn("'nowhere' is no URL", self.bad("topics", "--control", "nowhere"))


class ScriptTests(CommandTestCase):
    """``python -m pushd`` and the console script."""

    def start_script(self, *args: str) -> None:
        """Say what the command line is."""
        self.patch(sys, "argv", ["pushd", *args])

    def test_main(self) -> None:
        """It does what the command line says, with the clock on the wall."""
        self.start_script("token", "--key", self.write(SECRET))
        with contextlib.redirect_stdout(self.stdout):
            self.assertEqual(script.main(), 0)
        self.assertEqual(self.stdout.getvalue().count("."), 2)

    def test_module(self) -> None:
        """The module is a script."""
        self.start_script("--version")
        with contextlib.redirect_stdout(self.stdout), self.assertRaises(SystemExit) as caught:
            runpy.run_path(script.__file__, run_name="__main__")
        self.assertFalse(caught.exception.code)

    def test_broken_pipe(self) -> None:
        """Who reads may have enough, as head does; nothing is said of it."""

        def broken(*args: object) -> int:
            raise BrokenPipeError

        turned: list[tuple[Any, Any]] = []
        self.patch(script, "run", broken)
        fake = SimpleNamespace(
            devnull="/dev/null",
            O_WRONLY=1,
            environ={},
            open=lambda *args: 77,
            dup2=lambda *args: turned.append(args),
        )
        self.patch(script, "os", fake)
        self.patch(sys, "stdout", SimpleNamespace(fileno=lambda: 1))
        self.assertEqual(script.main(), 1)
        self.assertEqual(turned, [(77, 1)])
