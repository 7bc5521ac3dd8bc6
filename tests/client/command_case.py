"""A test case that runs ``pushdctl`` against a daemon in memory."""

from __future__ import annotations

import contextlib
import io

from pushd.client.cli import run
from pushd.client.commands import CommandRuntime
from tests.support.fake_network import FakeNetwork, FakeSelector
from tests.support.keyring import FolderTestCase
from tests.support.topic_clients import TopicTestCase


class CommandTestCase(FolderTestCase, TopicTestCase):
    def setUp(self) -> None:
        """Start a daemon, and make a network to reach it."""
        FolderTestCase.setUp(self)
        TopicTestCase.setUp(self)
        self.network = FakeNetwork(self.daemon)
        self.environ: dict[str, str] = {}
        self.now = 0.0
        self.selector = FakeSelector(lambda seconds: self.daemon.advance(seconds))
        self.stdout = io.StringIO()
        self.stderr = io.StringIO()

    def run_command(self, *args: str, stdin: bytes = b"") -> int:
        """Run a command, and return its exit code."""
        self.stdout = io.StringIO()
        self.stderr = io.StringIO()
        runtime = CommandRuntime(
            now=lambda: self.now,
            environ=self.environ,
            stdin=io.BytesIO(stdin),
            stdout=self.stdout,
            stderr=self.stderr,
            connect=self.network.connect,
            pause=self.network.pause,
            monotonic=lambda: self.daemon.clock.seconds(),
            processor=lambda: self.daemon.clock.seconds() / 2,
            make_selector=lambda: self.selector,
        )
        with contextlib.redirect_stdout(self.stdout), contextlib.redirect_stderr(self.stderr):
            return run(args, runtime)

    def good(self, *args: str, stdin: bytes = b"") -> str:
        """Run a command that succeeds, and return its output."""
        code = self.run_command(*args, stdin=stdin)
        self.assertEqual((code, self.stderr.getvalue()), (0, ""))
        return self.stdout.getvalue()

    def bad(self, *args: str, stdin: bytes = b"") -> str:
        """Run a command that fails, and return the one line about its error."""
        try:
            code: object = self.run_command(*args, stdin=stdin)
        except SystemExit as error:
            code = error.code
        line = self.stderr.getvalue()
        self.assertEqual((code, self.stdout.getvalue(), line.count("\n")), (1, "", 1), line)
        self.assertTrue(line.startswith("pushd: "), line)
        return line.removeprefix("pushd: ").rstrip("\n")
