"""Where options get their values from, and what is said of those that can't be."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import InvalidOptions
from pushd.options.option import Option
from pushd.options.sources import (
    Clash,
    Given,
    Sources,
    describe_clash,
    parse,
    read_file,
    write_defaults,
    write_values,
)

COUNT = Option("count", int, "How many.", default="1")
NAME = Option("a-name", str, "What it is called.")
MANY = Option("many", list, "Which.", default=())
TABLE = (COUNT, NAME, MANY)


class SourcesTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Each source counts where those before it say nothing."""
        environ = {"PUSHD_COUNT": "3", "PUSHD_MANY": " a  b ", "PUSHD_ELSE": "x"}
        given, mistakes = Sources({"count": ["4", "5"]}, environ).collect(TABLE)
        self.assertEqual(mistakes, [])
        self.assertEqual(
            given,
            {
                "count": Given("5", "--count"),
                "a-name": Given(None, ""),
                "many": Given(("a", "b"), "PUSHD_MANY"),
            },
        )

    def test_empty_variable(self) -> None:
        """A variable that is empty is one, all the same."""
        given, _ = Sources({}, {"PUSHD_A_NAME": "", "PUSHD_MANY": ""}).collect(TABLE)
        self.assertEqual(given["a-name"], Given("", "PUSHD_A_NAME"))
        self.assertEqual(given["many"], Given((), "PUSHD_MANY"))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a folder."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = str(self.folder / "f.toml")

    def read(self, data: bytes) -> tuple[dict[str, Given], list[str]]:
        """Read a file with this in it; its path is left out of what comes back."""
        Path(self.path).write_bytes(data)
        given, mistakes = read_file(TABLE, self.path)
        return given, [line.replace(self.path, "f.toml") for line in mistakes]

    def test_good(self) -> None:
        """What it has is given, and where."""
        given, mistakes = self.read(b"count = 2\n# nothing\nmany = ['x']\n")
        self.assertEqual(mistakes, [])
        where = f"{self.path}: "
        self.assertEqual(
            given,
            {"count": Given("2", f"{where}count"), "many": Given(("x",), f"{where}many")},
        )

    def test_unreadable(self) -> None:
        """A file that can't be read is told by the option that names it."""
        for path, words in (("/nowhere/f.toml", "No such file"), ("/", "directory")):
            given, (line,) = read_file(TABLE, path)
            self.assertEqual(given, {})
            self.assertTrue(line.startswith(f"--config {path}: "), line)
            self.assertIn(words, line)

    def test_not_toml(self) -> None:
        """What is no TOML is told with the place."""
        _, (line,) = self.read(b"count = 2\nmany: 3\n")
        self.assertTrue(line.startswith("f.toml: "), line)
        self.assertIn("line 2", line)
        _, (line,) = self.read(b"a-name = '\xff'\n")
        self.assertIn("utf-8", line)

    def test_unknown(self) -> None:
        """A name that no option has is told, with the one that was meant, perhaps."""
        given, mistakes = self.read(b"cuont = 1\na_name = 'x'\nzzz = 1\n[table]\ncount = 2\n")
        self.assertEqual(given, {})
        self.assertEqual(
            mistakes,
            [
                "f.toml: cuont: no option has this name; did you mean count?",
                "f.toml: a_name: no option has this name; did you mean a-name?",
                "f.toml: zzz: no option has this name",
                "f.toml: table: no option has this name",
            ],
        )

    def test_types(self) -> None:
        """A value of the wrong type is told; the others count."""
        given, mistakes = self.read(b"count = 'two'\nmany = 'x'\na-name = 'n'")
        self.assertEqual(list(given), ["a-name"])
        self.assertEqual(len(mistakes), 2)
        self.assertTrue(mistakes[1].startswith("f.toml: many: a list"), mistakes)

    def test_collected(self) -> None:
        """A mistake counts also where the command line wins."""
        Path(self.path).write_text("count = 'two'\na-name = 'n'")
        given, mistakes = Sources({"count": ["3"]}, {}, self.path).collect(TABLE)
        self.assertEqual(given["count"], Given("3", "--count"))
        self.assertEqual(given["a-name"].text, "n")
        self.assertEqual(len(mistakes), 1)


class ParseTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Each option makes a value of its text; all that can't be are told."""
        given = {
            "count": Given("x", ""),
            "a-name": Given("redis://u:p@h", "PUSHD_A_NAME"),
            "many": Given(("a",), "--many"),
        }
        values, mistakes = parse(TABLE, given)
        self.assertEqual(values, {"a-name": "redis://u:p@h", "many": ["a"]})
        self.assertEqual(len(mistakes), 1)
        self.assertTrue(mistakes[0].startswith("--count x: "))

    def test_secrets(self) -> None:
        """A mistake does not tell a password."""
        table = (Option("count", _refuse, ""),)
        _, (line,) = parse(table, {"count": Given("redis://u:p@h", "PUSHD_COUNT")})
        self.assertEqual(line, "PUSHD_COUNT redis://***@h: refused")

    def test_clash(self) -> None:
        """Options that clash are told where they are."""
        given = {"count": Given("1", ""), "many": Given((), "f.toml: many")}
        self.assertEqual(
            describe_clash(Clash(("count", "many"), "no"), given), "--count and f.toml: many: no"
        )

    def test_mistakes(self) -> None:
        """Mistakes are lines."""
        self.assertEqual(str(InvalidOptions(["a", "b"])), "a\nb")
        self.assertEqual(InvalidOptions(["a", "b"]).lines, ("a", "b"))


class WriteTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """A file for a start has what each is for, and what is not set as a comment."""
        text = write_defaults(TABLE)
        self.assertTrue(text.startswith("# "))
        self.assertTrue(
            text.endswith(
                '\n# How many.\ncount = 1\n\n# What it is called.\n# a-name = ""\n\n'
                "# Which.\nmany = []\n"
            ),
            text,
        )

    def test_values(self) -> None:
        """What is in force says where it is from, and no secret."""
        given = {
            "count": Given("2", "--count"),
            "a-name": Given(None, ""),
            "many": Given(("redis://u:p@h",), "PUSHD_MANY"),
        }
        self.assertEqual(
            write_values(TABLE, given),
            'count = 2  # --count\n# a-name is not set\nmany = ["redis://***@h"]  # PUSHD_MANY',
        )


def _refuse(given: str) -> str:
    raise ValueError("refused")
