"""The command line of ``pushdctl``: exit codes, errors, and the program itself."""

from __future__ import annotations

import contextlib
import runpy
import sys
from types import SimpleNamespace
from typing import Any

from pushd import __main__ as script
from tests.client.command_case import CommandTestCase
from tests.support.keyring import SECRET


class UnreachableTests(CommandTestCase):
    """The line about a daemon that cannot be reached."""

    def test_public(self) -> None:
        """For tail, it names the options for the address of the public port."""
        self.environ["PUSHD_URL"] = "http://127.0.0.1:1"
        self.network.daemon = None
        for args, url in (((), "http://127.0.0.1:1"), (("--url", "http://h:2"), "http://h:2")):
            self.assertEqual(
                self.bad("tail", "t", *args),
                f"{url} does not respond: Connection refused; is the daemon running? "
                "Its address is set with --url or PUSHD_URL",
            )

    def test_control(self) -> None:
        """For other commands, it names the options for the address of the control port."""
        self.network.daemon = None
        line = self.bad("topics")
        self.assertTrue(line.startswith("http://127.0.0.1:8081 does not respond: "), line)
        hint = "is the daemon running? Its address is set with --control or PUSHD_CONTROL_URL"
        self.assertIn(hint, line)
        self.environ["PUSHD_CONTROL_URL"] = "http://h:1"
        for args in (["publish", "t", "x"], ["topics"], ["connections"], ["close", "1"]):
            self.assertIn("http://h:1 ", self.bad(*args))
            self.assertIn("http://i:2 ", self.bad(*args, "--control", "http://i:2"))
        self.assertIn("got 'nowhere'", self.bad("topics", "--control", "nowhere"))


class CommonOptionTests(CommandTestCase):
    """Options that several commands have, before the command."""

    def test_before(self) -> None:
        """They mean the same before the command as behind it."""
        self.network.daemon = None
        for args in (
            ["--control", "http://i:2", "topics"],
            ["--control=http://i:2", "--json", "topics"],
            ["--json", "--control", "http://i:2", "publish", "t", "x"],
            ["--token=secret", "--control=http://i:2", "publish", "t", "x"],
            ["--url", "http://i:2", "tail", "t"],
        ):
            self.assertIn("http://i:2 does not respond", self.bad(*args))

    def test_works(self) -> None:
        """They may stand before it and behind it at once; the last one of two wins."""
        url = "http://localhost:8081"
        said = self.good("--json", "--control", "http://h:1", "topics", f"--control={url}")
        self.assertEqual(said, "")

    def test_mistakes(self) -> None:
        """Without a value or a command, or with a command that lacks the option, it is one line."""
        for args, line in (
            (["--control"], "--control: expected one argument (see pushdctl --help)"),
            (["--control", "--json"], "--control: expected one argument (see pushdctl --help)"),
            (["--control", "topics"], "missing argument: COMMAND (see pushdctl --help)"),
            (["--json"], "missing argument: COMMAND (see pushdctl --help)"),
            (
                ["--control", "http://h:1", "shout"],
                "unknown command shout (see pushdctl --help)",
            ),
            (
                ["--url", "http://h:1", "topics"],
                "unknown option --url (see pushdctl topics --help)",
            ),
        ):
            self.assertEqual(self.bad(*args), line)


class ScriptTests(CommandTestCase):
    """``python -m pushd`` and the console script."""

    def set_arguments(self, *args: str) -> None:
        """Set the command line of the process."""
        self.patch(sys, "argv", ["pushd", *args])

    def test_main(self) -> None:
        """The program runs the command line of the process."""
        self.set_arguments("token", "--key", self.write(SECRET))
        with contextlib.redirect_stdout(self.stdout):
            self.assertEqual(script.main(), 0)
        self.assertEqual(self.stdout.getvalue().count("."), 2)

    def test_module(self) -> None:
        """The module can be run as a script."""
        self.set_arguments("--version")
        with contextlib.redirect_stdout(self.stdout), self.assertRaises(SystemExit) as caught:
            runpy.run_path(script.__file__, run_name="__main__")
        self.assertFalse(caught.exception.code)

    def test_broken_pipe(self) -> None:
        """If the reader of its output exits, the program exits with 1 and without a message."""

        def broken(*args: object) -> int:
            raise BrokenPipeError

        duplicated: list[tuple[Any, Any]] = []
        self.patch(script, "run", broken)
        fake = SimpleNamespace(
            devnull="/dev/null",
            O_WRONLY=1,
            environ={},
            open=lambda *args: 77,
            dup2=lambda *args: duplicated.append(args),
        )
        self.patch(script, "os", fake)
        self.patch(sys, "stdout", SimpleNamespace(fileno=lambda: 1, flush=lambda: None))
        self.assertEqual(script.main(), 1)
        self.assertEqual(duplicated, [(77, 1)])
