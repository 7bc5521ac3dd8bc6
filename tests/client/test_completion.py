"""``pushdctl completion``: what the scripts hold; ``tests/live`` runs them."""

from __future__ import annotations

from pushd.options.settings import OPTIONS
from tests.client.command_case import CommandTestCase


class CompletionTests(CommandTestCase):
    def test_all(self) -> None:
        """Each script has each command and each option, those of the daemon for check."""
        for shell, mark in (("bash", "--"), ("zsh", "--"), ("fish", "-l ")):
            script = self.good("completion", shell)
            for command in ("publish", "tail", "health", "completion", "check"):
                self.assertIn(command, script)
            for name in ("content-type", "binary", "json", "ttl", *(one.name for one in OPTIONS)):
                self.assertIn(f"{mark}{name}", script)
            self.assertIn("application/json", script)

    def test_quoting(self) -> None:
        """What has a meaning in a shell is quoted in descriptions."""
        self.assertIn("-d 'Origin other than pushd\\'s own", self.good("completion", "fish"))
        zsh = self.good("completion", "zsh")
        self.assertIn("--origin[Origin other than pushd'\\''s own", zsh)
        self.assertIn("capacitor\\://localhost", zsh)

    def test_mistake(self) -> None:
        """Another shell is a mistake."""
        self.assertIn("invalid choice: 'tcsh'", self.bad("completion", "tcsh"))
        self.assertIn("missing argument: SHELL", self.bad("completion"))
