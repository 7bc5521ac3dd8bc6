"""The command line: what is understood, what is not, and what teaches."""

from __future__ import annotations

from pushd import __version__
from tests.client.test_cli import CommandTestCase


class HelpTests(CommandTestCase):
    """What teaches."""

    COMMANDS = ("publish", "tail", "topics", "connections", "close", "token", "check")

    def help(self, *args: str) -> str:
        """What is printed for --help."""
        with self.assertRaises(SystemExit) as caught:
            self.run_command(*args, "--help")
        self.assertFalse(caught.exception.code)
        return self.stdout.getvalue()

    def test_help(self) -> None:
        """Every command is in the help, with examples that it understands."""
        said = self.help()
        for name in self.COMMANDS:
            self.assertIn(f"\n    {name} ", said)
        self.assertIn("examples:", said)
        for name in self.COMMANDS:
            said = self.help(name)
            self.assertIn(f"usage: pushdctl {name} [-h]", said)
            if name != "topics":
                self.assertIn(f"  pushdctl {name} ", said)

    def test_nothing(self) -> None:
        """Who says nothing is helped."""
        self.assertEqual(self.run_command(), 1)
        self.assertIn("examples:", self.stderr.getvalue())

    def test_version(self) -> None:
        """The version is told."""
        with self.assertRaises(SystemExit):
            self.run_command("--version")
        self.assertEqual(self.stdout.getvalue(), f"pushd {__version__}\n")

    def test_mistakes(self) -> None:
        """A mistake is one line that says where to read more."""
        for args, said in (
            (["shout"], "shout"),
            (["publish"], "TOPIC"),
            (["publish", "t", "x", "--colour"], "--colour is not understood"),
            (["publish", "t", "--colour"], "--colour is not understood"),
            (["publish", "t", "--json", "x", "y"], "x is not understood"),
            (["publish", "t", "x", "y"], "y is not understood"),
            (["publish", "t", "x", "--every", "soon"], "--every"),
            (["close", "x"], "ID"),
        ):
            line = self.bad(*args)
            self.assertIn(said, line)
            self.assertIn("--help)", line)
