"""The arguments of ``pushdctl``: --help, --version, and the lines about mistakes."""

from __future__ import annotations

from pushd import __version__
from tests.client.command_case import CommandTestCase


class HelpTests(CommandTestCase):
    COMMANDS = ("publish", "tail", "last-id", "topics", "connections", "close", "token", "check")

    def help(self, *args: str) -> str:
        """Return the output of --help."""
        with self.assertRaises(SystemExit) as caught:
            self.run_command(*args, "--help")
        self.assertFalse(caught.exception.code)
        return self.stdout.getvalue()

    def test_help(self) -> None:
        """--help lists the commands; that of a command has examples."""
        said = self.help()
        for name in self.COMMANDS:
            self.assertIn(f"\n    {name} ", said)
        self.assertIn("examples:", said)
        for name in self.COMMANDS:
            said = self.help(name)
            self.assertIn(f"usage: pushdctl {name} [-h]", said)
            if name != "topics":
                self.assertIn(f"  pushdctl {name} ", said)

    def test_width(self) -> None:
        """Examples fit into a line of 100 columns."""
        for name in self.COMMANDS:
            self.assertLessEqual(max(map(len, self.help(name).splitlines())), 100)

    def test_nothing(self) -> None:
        """Without a command, the help is printed to standard error, and the exit code is 1."""
        self.assertEqual(self.run_command(), 1)
        self.assertIn("examples:", self.stderr.getvalue())

    def test_version(self) -> None:
        """--version prints the version."""
        with self.assertRaises(SystemExit):
            self.run_command("--version")
        self.assertEqual(self.stdout.getvalue(), f"pushd {__version__}\n")


class MistakeTests(CommandTestCase):
    def test_mistakes(self) -> None:
        """A mistake is one line that names the help of the command."""
        for args, line in (
            (["shout"], "unknown command shout (see pushdctl --help)"),
            (
                ["publsh", "t"],
                "unknown command publsh: did you mean publish? (see pushdctl --help)",
            ),
            (
                ["--vrsion"],
                "unknown option --vrsion: did you mean --version? (see pushdctl --help)",
            ),
            (["publish"], "missing argument: TOPIC (see pushdctl publish --help)"),
            (["token"], "missing argument: --key (see pushdctl token --help)"),
            (["publish", "t", "x", "y"], "unexpected argument y (see pushdctl publish --help)"),
            (
                ["publish", "t", "--json", "x", "y"],
                "unexpected argument x (see pushdctl publish --help)",
            ),
            (["publish", "t", "x", "--colour"], "unknown option --colour (see pushdctl publish"),
            (["publish", "t", "--colour"], "unknown option --colour (see pushdctl publish"),
            (["publish", "t", "x", "--dealy=1"], "unknown option --dealy: did you mean --delay?"),
            (["tail", "t", "--afer", "x"], "unknown option --afer: did you mean --after?"),
            (["publish", "t", "--every"], "--every: expected one argument"),
            (["publish", "t", "x", "--every", "soon"], "--every: must be a number of seconds; got"),
            (["publish", "t", "x", "--count", "1.5"], "--count: must be a whole number; got '1.5'"),
            (["close", "x"], "ID: must be a whole number; got 'x' (see pushdctl close --help)"),
        ):
            self.assertTrue(self.bad(*args).startswith(line), (args, self.bad(*args)))
            self.assertTrue(self.bad(*args).endswith(" --help)"))
