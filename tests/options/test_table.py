"""The table of options: that it is whole, and what does not go together."""

from __future__ import annotations

from pushd.options.table import OPTIONS
from tests.options.test_command_line import OptionsTestCase, parse


class TableTests(OptionsTestCase):
    def test_names(self) -> None:
        """Each option has a name of its own, and a default that is one."""
        names = [option.name for option in OPTIONS]
        self.assertEqual(len(names), len({*names}))
        for option in OPTIONS:
            option.parse(option.default)


class CombinationTests(OptionsTestCase):
    def test_shared_door(self) -> None:
        """No two doors are at one place."""
        self.assertEqual(
            self.mistake("--listen", "tcp:1", "--control", "tcp:1"),
            "pushd: --listen and --control: tcp:1 is named 2 times",
        )
        self.assertEqual(
            self.mistake("--listen=tcp:1", "--listen=tcp:2", "--listen=tcp:1"),
            "pushd: --listen: tcp:1 is named 2 times",
        )
        file = self.write('listen = ["tcp:1"]')
        self.assertEqual(
            self.mistake("--config", file, "--control", "tcp:1"),
            "pushd: pushd.toml: listen and --control: tcp:1 is named 2 times",
        )

    def test_any_port(self) -> None:
        """Where the system finds the port, each is another."""
        for endpoint in ("tcp:0", "tcp:0:interface=127.0.0.1", "tcp6:0"):
            self.assertEqual(
                parse("--listen", endpoint, "--control", endpoint).control, (endpoint,)
            )
        self.mistake("--listen", "tcp:01", "--control", "tcp:01")
