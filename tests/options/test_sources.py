"""The sources of options: their precedence, and the lines for mistakes in them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import InvalidOptions
from pushd.options.option import Option
from pushd.options.sources import (
    Conflict,
    Given,
    Sources,
    closest,
    describe_conflict,
    parse,
    read_file,
    write_defaults,
    write_values,
)

COUNT = Option("First", "count", "N", int, "A number.", default="1")
NAME = Option("First", "a-name", "NAME", str, "A name.")
MANY = Option("Second", "many", "X", list, "Several.", default=())
TABLE = (COUNT, NAME, MANY)


class SourcesTests(SynchronousTestCase):
    def test_order(self) -> None:
        """The command line takes precedence over the environment, and that over the default."""
        environ = {"PUSHD_COUNT": "3", "PUSHD_MANY": " a  b ", "OTHER": "y"}
        given, mistakes, _ = Sources({"count": ["4", "5"]}, environ).collect(TABLE)
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
        """A variable that is set to an empty string is a value."""
        given, *_ = Sources({}, {"PUSHD_A_NAME": "", "PUSHD_MANY": ""}).collect(TABLE)
        self.assertEqual(given["a-name"], Given("", "PUSHD_A_NAME"))
        self.assertEqual(given["many"], Given((), "PUSHD_MANY"))


class UnknownVariableTests(SynchronousTestCase):
    def mistakes(self, *names: str, **environ: str) -> list[str]:
        """Return the lines for variables in the environment."""
        return Sources({}, dict.fromkeys(names, "1") | environ).collect(TABLE)[1]

    def test_unknown(self) -> None:
        """A variable that is none of an option is a mistake, as an unknown key of a file is."""
        self.assertEqual(
            self.mistakes(
                *("PUSHD_CUONT", "PUSHD_NAME", "PUSHD_MANYY", "PUSHD_CONFG"),
                *("PUSHD_HOME", "PUSHD_", "PUSHD_PORTS"),
            ),
            [
                "unknown option PUSHD_CUONT: did you mean PUSHD_COUNT?",
                "unknown option PUSHD_NAME: did you mean PUSHD_A_NAME?",
                "unknown option PUSHD_MANYY: did you mean PUSHD_MANY?",
                "unknown option PUSHD_CONFG: did you mean PUSHD_CONFIG?",
                "unknown option PUSHD_HOME",
                "unknown option PUSHD_",
                "unknown option PUSHD_PORTS",
            ],
        )

    def test_others(self) -> None:
        """Variables of other programs, and those that are set without asking, are left alone."""
        self.assertEqual(
            self.mistakes(
                *("COUNTT", "pushd_count", "XPUSHD_COUNT"),
                # Of pushd.tac and pushdctl.
                *("PUSHD_OPTIONS", "PUSHD_URL", "PUSHD_CONTROL_URL", "PUSHD_TOKEN"),
                # Of Kubernetes, for services named pushd, pushd-count and pushd-many.
                *("PUSHD_SERVICE_HOST", "PUSHD_SERVICE_PORT", "PUSHD_COUNT_SERVICE_PORT_HTTP"),
                *("PUSHD_PORT_80_TCP_ADDR", "PUSHD_PORT_80_TCP_PORT", "PUSHD_PORT_80_TCP_PROTO"),
                PUSHD_PORT="tcp://10.0.0.1:80",
                PUSHD_COUNT_PORT="udp://10.0.0.1:53",
                PUSHD_MANY_PORT_80_TCP="tcp://10.0.0.1:80",
            ),
            [],
        )

    def test_port(self) -> None:
        """A port in place of what Kubernetes sets is a mistake: it belongs into PUSHD_LISTEN."""
        table = [*TABLE, Option("First", "listen", "X", str, "An endpoint.", default="x")]
        for name in ("PUSHD_PORT", "PUSHD_HTTP_PORT", "PUSHD_PORT_80_TCP"):
            [mistake] = Sources({}, {name: "8080"}).collect(table)[1]
            self.assertIn(f"unknown option {name}", mistake)
        [mistake] = Sources({}, {"PUSHD_PORT": "8080"}).collect(table)[1]
        self.assertEqual(mistake, "unknown option PUSHD_PORT: did you mean PUSHD_LISTEN?")

    def test_closest(self) -> None:
        """The most similar name is found, whatever its case and with _ for -."""
        self.assertEqual(closest("MAX_RAT", ["max-rate", "max-message"]), "max-rate")
        self.assertEqual(closest("allow-origin", ["threads", "origin"]), "origin")
        self.assertIsNone(closest("colour", ["max-rate", "max-message"]))
        self.assertIsNone(closest("reload", ["threads", "broker"]))
        self.assertIsNone(closest("workers", ["threads", "broker"]))

    def test_other_names(self) -> None:
        """The names of other servers' options are known."""
        self.assertEqual(closest("port", ["ports", "listen"]), "listen")
        self.assertEqual(closest("port", ["ports"]), "ports")


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a directory."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = str(self.folder / "f.toml")

    def read(self, data: bytes) -> tuple[dict[str, Given], list[str]]:
        """Read a file with these contents; in the lines, only the name is left of its path."""
        Path(self.path).write_bytes(data)
        given, mistakes, _ = read_file(TABLE, self.path)
        return given, [line.replace(self.path, "f.toml") for line in mistakes]

    def test_good(self) -> None:
        """The values of a file have the file and the key as their source."""
        given, mistakes = self.read(b"count = 2\n# nothing\nmany = ['x']\n")
        self.assertEqual(mistakes, [])
        where = f"{self.path}: "
        self.assertEqual(
            given,
            {"count": Given("2", f"{where}count"), "many": Given(("x",), f"{where}many")},
        )

    def test_unreadable(self) -> None:
        """The line for a file that cannot be read starts with the option that names the file."""
        for path, words in (("/nowhere/f.toml", "No such file"), ("/", "directory")):
            given, (line,), _ = read_file(TABLE, path)
            self.assertEqual(given, {})
            self.assertTrue(line.startswith(f"--config {path}: cannot be read: "), line)
            self.assertIn(words, line)

    def test_not_toml(self) -> None:
        """The line for a file that is not valid TOML says where the mistake is."""
        _, (line,) = self.read(b"count = 2\nmany: 3\n")
        self.assertTrue(line.startswith("f.toml: not valid TOML: "), line)
        self.assertIn("line 2", line)
        _, (line,) = self.read(b"a-name = '\xff'\n")
        self.assertIn("utf-8", line)

    def test_unknown(self) -> None:
        """An unknown key is a mistake; the option that was probably meant is suggested."""
        given, mistakes = self.read(b"cuont = 1\na_name = 'x'\nzzz = 1\n[table]\ncount = 2\n")
        self.assertEqual(given, {})
        self.assertEqual(
            mistakes,
            [
                "f.toml: unknown option cuont: did you mean count?",
                "f.toml: unknown option a_name: did you mean a-name?",
                "f.toml: unknown option zzz",
                "f.toml: unknown table table: did you mean [[topic]]?",
            ],
        )

    def test_topics(self) -> None:
        """Tables for topics are no options, and are returned as they are, not checked."""
        Path(self.path).write_text("count = 2\n[[topic]]\nmatch = 'a'\n[[topic]]\nx = 1\n")
        given, mistakes, topics = Sources({}, {}, self.path).collect(TABLE)
        self.assertEqual((given["count"].text, mistakes), ("2", []))
        self.assertEqual(topics, [{"match": "a"}, {"x": 1}])
        self.assertIsNone(Sources({}, {}).collect(TABLE).topics)

    def test_types(self) -> None:
        """A value of the wrong type is a mistake; the other values are used."""
        given, mistakes = self.read(b"count = 'two'\nmany = 'x'\na-name = 'n'")
        self.assertEqual(list(given), ["a-name"])
        self.assertEqual(
            mistakes,
            [
                'f.toml: count "two": must be a number, without quotes',
                'f.toml: many "x": must be a list of strings, such as ["a", "b"]',
            ],
        )

    def test_collected(self) -> None:
        """A mistake in the file is reported even if the command line sets the option."""
        Path(self.path).write_text("count = 'two'\na-name = 'n'")
        given, mistakes, _ = Sources({"count": ["3"]}, {}, self.path).collect(TABLE)
        self.assertEqual(given["count"], Given("3", "--count"))
        self.assertEqual(given["a-name"].text, "n")
        self.assertEqual(len(mistakes), 1)


class ParseTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Each text becomes a value; every text that is not valid becomes a line."""
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
        """The line for a mistake does not show passwords."""
        table = (Option("", "count", "N", _refuse, ""),)
        _, (line,) = parse(table, {"count": Given("redis://u:p@h", "PUSHD_COUNT")})
        self.assertEqual(line, "PUSHD_COUNT redis://***@h: refused")

    def test_clash(self) -> None:
        """The line for options that conflict names their sources."""
        given = {"count": Given("1", ""), "many": Given((), "f.toml: many")}
        self.assertEqual(
            describe_conflict(Conflict(("count", "many"), "no"), given),
            "--count and f.toml: many: no",
        )

    def test_mistakes(self) -> None:
        """InvalidOptions has one line for each mistake."""
        self.assertEqual(str(InvalidOptions(["a", "b"])), "a\nb")
        self.assertEqual(InvalidOptions(["a", "b"]).lines, ("a", "b"))


class WriteTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """A file with the defaults has headings and descriptions; no default is a comment."""
        text = write_defaults(TABLE)
        self.assertTrue(text.startswith("# "))
        self.assertTrue(
            text.endswith(
                '\n## First\n\n# A number.\ncount = 1\n\n# A name.\n# a-name = ""\n\n\n'
                "## Second\n\n# Several.\nmany = []\n"
            ),
            text,
        )

    def test_values(self) -> None:
        """A file with the effective values has their sources as comments, and no secrets."""
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
