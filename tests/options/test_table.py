"""The table of options: names, defaults, groups, and values that conflict."""

from __future__ import annotations

from pushd.options.settings import GROUPS
from pushd.options.table import OPTIONS
from tests.options.options_case import OptionsTestCase, parse


class TableTests(OptionsTestCase):
    def test_names(self) -> None:
        """Each option has a name of its own, and its default is valid."""
        names = [option.name for option in OPTIONS]
        self.assertEqual(len(names), len({*names}))
        for option in OPTIONS:
            option.parse(option.default)

    def test_groups(self) -> None:
        """Options are in the order of their groups, and no group is empty."""
        found = [option.group for option in OPTIONS]
        self.assertEqual(list(dict.fromkeys(found)), list(GROUPS))
        self.assertEqual(found, sorted(found, key=GROUPS.index))

    def test_descriptions(self) -> None:
        """Each description is made of sentences, and says if an option may be repeated."""
        for option in OPTIONS:
            self.assertRegex(option.help, r"\A[A-Z].*\.\Z")
            self.assertEqual("May be given more than once." in option.help, option.repeatable)


class CombinationTests(OptionsTestCase):
    def test_shared_endpoint(self) -> None:
        """An endpoint cannot be given twice."""
        self.assertEqual(
            self.mistake("--listen", "tcp:1", "--control", "tcp:1"),
            "pushd: --listen and --control: the endpoint tcp:1 is given 2 times",
        )
        self.assertEqual(
            self.mistake("--listen=tcp:1", "--listen=tcp:2", "--listen=tcp:1"),
            "pushd: --listen: the endpoint tcp:1 is given 2 times",
        )
        file = self.write('listen = ["tcp:1"]')
        self.assertEqual(
            self.mistake("--config", file, "--control", "tcp:1"),
            "pushd: pushd.toml: listen and --control: the endpoint tcp:1 is given 2 times",
        )

    def test_any_port(self) -> None:
        """An endpoint with port 0 may be given twice: the system picks different ports."""
        for endpoint in ("tcp:0", "tcp:0:interface=127.0.0.1", "tcp6:0"):
            self.assertEqual(
                parse("--listen", endpoint, "--control", endpoint).control, (endpoint,)
            )
        self.mistake("--listen", "tcp:01", "--control", "tcp:01")
