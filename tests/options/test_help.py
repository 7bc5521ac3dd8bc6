"""The text of --help."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.help import write_help
from pushd.options.option import Option

_OPTIONS = (
    Option("First", "one", "N", int, "An option with a default.", default="1"),
    Option("First", "two", "FILE", str, "An option without a default."),
    Option("Second", "a-rather-long-name", "SECONDS", str, "Short.", default=("a", "b")),
)


class HelpTests(SynchronousTestCase):
    def test_groups(self) -> None:
        """Options stand below the headings of their groups, flags below the last one."""
        said = write_help(_OPTIONS, {"--flag": "A flag."}, "An introduction.", 80)
        before, after = said.split("\n\nEach option can also be set in the environment")
        self.assertIn("64KiB", after)
        self.assertEqual(
            before,
            "\n"
            "An introduction.\n"
            "\n"
            "First:\n"
            "  --one N                 An option with a default. [default: 1]\n"
            "  --two FILE              An option without a default.\n"
            "\n"
            "Second:\n"
            "  --a-rather-long-name SECONDS\n"
            "                          Short. [default: a b]\n"
            "\n"
            "Configuration and help:\n"
            "  --flag                  A flag.",
        )

    def test_wrapped(self) -> None:
        """Descriptions are wrapped to the width, but never at a hyphen."""
        option = Option("G", "o", "N", int, "One two-three four-five six-seven eight nine.")
        said = write_help((option,), {}, "", 50)
        self.assertIn(
            "  --o N                   One two-three four-five\n"
            "                          six-seven eight nine.\n",
            said,
        )

    def test_narrow(self) -> None:
        """In a very narrow terminal descriptions keep 20 columns."""
        option = Option("G", "o", "N", int, "Some twenty columns for some words.")
        said = write_help((option,), {}, "", 10)
        self.assertIn("  --o N                   Some twenty columns\n", said)

    def test_gap(self) -> None:
        """An option that leaves no space before its description stands on a line of its own."""
        option = Option("G", "twenty-character-one", "N", int, "Short.")
        self.assertEqual(len("  --twenty-character-one N"), 26)
        said = write_help((option,), {}, "", 80)
        self.assertIn("  --twenty-character-one N\n                          Short.\n", said)
