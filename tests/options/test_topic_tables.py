"""The tables for topics in a configuration file: rules, and the lines for mistakes in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from django.test import override_settings
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import InvalidOptions
from pushd.options.command_line import Options
from pushd.options.settings import OPTIONS, Settings
from pushd.options.topic_tables import KEYS, read_rules, show_rules, write_example
from pushd.topics.rules import Rule
from tests.options.options_case import OptionsTestCase, parse
from tests.support import django_site
from tests.support.keyring import SECRET

DOCUMENT = Path(__file__).parents[2] / "docs/topic-rules.md"

FULL = Rule(
    match="chat/**",
    history_size=1000,
    history_ttl=3600,
    subscribe="anyone",
    publish="nobody",
    presence=True,
    latest=True,
    max_message=64 << 10,
    retain=True,
)


class ReadTests(SynchronousTestCase):
    def read(self, *tables: object) -> tuple[list[Rule], list[str]]:
        """Read some tables."""
        return read_rules("f.toml", list(tables), ["threads", "history-bytes"])

    def mistake(self, **keys: object) -> str:
        """Return the line for a table with one mistake, without its place."""
        _, (line,) = self.read({"match": "a"}, {"match": "b", **keys})
        place, _, rest = line.partition("topic 2: ")
        self.assertEqual(place, "f.toml: ")
        return rest

    def test_all_keys(self) -> None:
        """A table has a key for each attribute of a rule."""
        table = {
            "match": "chat/**",
            "history-size": 1000,
            "history-ttl": 3600,
            "subscribe": "anyone",
            "publish": "nobody",
            "presence": True,
            "latest": True,
            "max-message": "64KiB",
            "retain": True,
        }
        self.assertEqual(self.read(table), ([FULL], []))
        self.assertEqual([key.name for key in KEYS], list(table))

    def test_few_keys(self) -> None:
        """Without a key, the daemon's default holds."""
        self.assertEqual(self.read({"match": "a"}), ([Rule(match="a")], []))
        self.assertEqual(read_rules(None, None, ()), ([], []))
        rules, _ = self.read({"match": "a", "retain": False, "history-size": 0})
        self.assertEqual(rules, [Rule(match="a", history_size=0)])

    def test_no_tables(self) -> None:
        """Something else of that name is a mistake."""
        for value in ("x", {"match": "a"}, [1]):
            self.assertEqual(
                read_rules("f.toml", value, ()),
                ([], ["f.toml: topic: must be tables, each under a line [[topic]]"]),
            )

    def test_values(self) -> None:
        """The line for an invalid value says where it is, what it is, and what is allowed."""
        for keys, line in (
            ({"history-size": "x"}, 'history-size "x": must be a number, without quotes'),
            ({"history-size": -1}, "history-size -1: must be a number from 0 to 1000000"),
            ({"history-ttl": 0}, "history-ttl 0: must be a number from 1 to 604800"),
            ({"retain": "yes"}, 'retain "yes": must be true or false'),
            ({"subscribe": True}, "subscribe true: must be a string, in quotes"),
            ({"max-message": "1 MEGA"}, 'max-message "1 MEGA": must be a size from 1 to 1GiB'),
        ):
            self.assertTrue(self.mistake(**keys).startswith(line), self.mistake(**keys))
        line = self.mistake(publish="all")
        for word in ('publish "all"', "anyone", "token", "authorize", "nobody"):
            self.assertIn(word, line)

    def test_patterns(self) -> None:
        """A pattern is one of those of tokens, and required."""
        for pattern in ("", "a/**/b", "a b", "..", "a/", "x" * 256):
            rule = ". or .." if ".." in pattern else "must be a topic pattern"
            self.assertIn(rule, self.mistake(match=pattern))
        _, (line,) = self.read({"retain": True})
        self.assertTrue(line.startswith("f.toml: topic 1: match is missing: "), line)

    def test_unknown(self) -> None:
        """For a misspelt key, the one that was probably meant is suggested."""
        for name, line in (
            ("histroy-size", "unknown key histroy-size: did you mean history-size?"),
            ("max_message", "unknown key max_message: did you mean max-message?"),
            ("colour", "unknown key colour"),
            (
                "threads",
                "threads is an option, not part of a rule: move it above the first [[topic]]",
            ),
        ):
            self.assertEqual(self.mistake(**{name: 1}), line)

    def test_every_mistake(self) -> None:
        """All mistakes of all tables are returned, and the rules of the other tables."""
        rules, mistakes = self.read({"x": 1, "latest": 2}, {"match": "b"}, {"match": "c", "z": 1})
        self.assertEqual(rules, [Rule(match="b")])
        self.assertEqual(
            [line.partition(":")[2].split(":")[0] for line in mistakes],
            [" topic 1", " topic 1", " topic 1", " topic 3"],
        )


class FileTests(OptionsTestCase):
    def conflict(self, *lines: str, options: tuple[str, ...] = ()) -> str:
        """Return what a file with one conflict between rules is refused with."""
        return self.mistake(*options, "--config", self.write(*lines)).removeprefix("pushd: ")

    def test_settings(self) -> None:
        """The rules of the file are a setting, in the order of the tables."""
        file = self.write(
            *("threads = 3", "[[topic]]", 'match = "a/*"', "retain = true"),
            *("[[topic]]", 'match = "**"', "history-size = 7"),
        )
        settings = parse("--config", file)
        self.assertEqual(settings.threads, 3)
        self.assertEqual(
            list(settings.rules), [Rule(match="a/*", retain=True), Rule(match="**", history_size=7)]
        )
        self.assertEqual(list(parse().rules), [])
        self.assertEqual(list(Settings().rules), [])

    def test_mistakes(self) -> None:
        """Mistakes in tables are reported with those in options."""
        file = self.write("thread = 3", "[[topic]]", "match = 1", "[[topic]]", "threads = 7")
        with self.assertRaises(SystemExit) as raised:
            parse("--config", file, "--max-rate", "x")
        self.assertEqual(
            [line.removeprefix("pushd: ") for line in str(raised.exception.code).splitlines()],
            [
                "pushd.toml: unknown option thread: did you mean threads?",
                "--max-rate x: must be a number from 1 to 10000000",
                "pushd.toml: topic 1: match 1: must be a string, in quotes",
                "pushd.toml: topic 2: threads is an option, not part of a rule: move it above the "
                "first [[topic]]",
                "pushd.toml: topic 2: match is missing: a rule needs a pattern, such as match = "
                '"chat/**"',
            ],
        )

    def test_mistakes_hide_conflicts(self) -> None:
        """Conflicts are looked for once every rule is valid: they depend on each other."""
        tables = ("[[topic]]", 'match = "a"', "[[topic]]", 'match = "a"', "x = 1")
        self.assertEqual(self.conflict(*tables), "pushd.toml: topic 2: unknown key x")

    def test_never_used(self) -> None:
        """A rule is refused if an earlier one matches all of its topics."""
        for first, second in (("a/**", "a/b/*"), ("**", "a"), ("a", "a"), ("*/b/**", "a/b/**")):
            self.assertEqual(
                self.conflict(
                    "[[topic]]", f'match = "{first}"', "[[topic]]", f'match = "{second}"'
                ),
                f'pushd.toml: topic 2: match "{second}": never used, as topic 1 matches the same '
                "topics",
            )
        for first, second in (("a/b/*", "a/**"), ("a/*", "a/**"), ("a", "b"), ("a/**", "a")):
            file = self.write("[[topic]]", f'match = "{first}"', "[[topic]]", f'match = "{second}"')
            self.assertEqual(len(list(parse("--config", file).rules)), 2)

    def test_nothing_to_retain(self) -> None:
        """A rule that needs the newest publication cannot have an empty history."""
        for name in ("retain", "latest"):
            rule = ("[[topic]]", 'match = "a"', f"{name} = true")
            line = f"pushd.toml: topic 1: {name}: needs a history-size of 1 or more"
            self.assertEqual(self.conflict(*rule, "history-size = 0"), line)
            self.assertEqual(self.conflict("history-size = 0", *rule), line)
            parse("--config", self.write("history-size = 0", *rule, "history-size = 1"))

    def test_max_message(self) -> None:
        """A rule's limit on messages can only be lower than that of the daemon."""
        rule = ("[[topic]]", 'match = "a"', 'max-message = "2KiB"')
        self.assertEqual(
            self.conflict(*rule, options=("--max-message", "1KiB")),
            "pushd.toml: topic 1: max-message 2KiB: must be at most --max-message, which is 1KiB",
        )
        parse("--config", self.write(*rule), "--max-message", "2KiB")

    def test_authorizer(self) -> None:
        """A rule that asks the authorizer needs one: of an option, or of a Django site."""
        self.assertTrue(django_site.MIDDLEWARE)  # The import has configured Django.
        self.module("access", "def application(environ, start_response): ...")
        wsgi = ("--wsgi", "access:application")
        for name in ("subscribe", "publish"):
            rule = ("[[topic]]", 'match = "a"', f'{name} = "authorize"')
            expected = f'pushd.toml: topic 1: {name} "authorize": needs --authorize'
            self.assertEqual(self.conflict(*rule), expected)
            given = ("--config", self.write(*rule))
            parse(*given, "--authorize", "access:view")
            self.assertEqual(self.mistake(*given, *wsgi), f"pushd: {expected}")
            with override_settings(PUSHD_AUTHORIZE="tests.support.django_site.plain"):
                parse(*given, *wsgi)
            with override_settings(PUSHD_AUTHORIZE="nowhere.may"):
                self.assertIn("nowhere", self.mistake(*given, *wsgi))

    def test_tokens(self) -> None:
        """A rule that requires tokens needs a key to verify them with."""
        for name in ("subscribe", "publish"):
            rule = ("[[topic]]", 'match = "a"', f'{name} = "token"')
            self.assertEqual(
                self.conflict(*rule), f'pushd.toml: topic 1: {name} "token": needs --token-key'
            )
            (self.folder / "key").write_bytes(SECRET)
            parse("--config", self.write(*rule), "--token-key", "key")
            parse("--config", self.write(*rule), "--centrifuge-secret", "key")

    def test_check(self) -> None:
        """--check prints the rules as tables, below the options; as a file they are the same."""
        file = self.write(
            *("[[topic]]", 'match = "chat/**"', "history-size = 1000", "history-ttl = 3600"),
            *('subscribe = "anyone"', 'publish = "nobody"', "presence = true", "latest = true"),
            *('max-message = "64KiB"', "retain = true", "[[topic]]", 'match = "b"'),
            *("retain = false", "history-size = 0", "max-message = 1500"),
        )
        said, code = self.run_and_exit("--check", "--config", file)
        self.assertEqual(code, 0)
        lines = said.splitlines()
        self.assertEqual(
            lines[len(OPTIONS) :],
            [
                "",
                "[[topic]]  # pushd.toml: topic 1",
                'match = "chat/**"',
                "history-size = 1000",
                "history-ttl = 3600",
                'subscribe = "anyone"',
                'publish = "nobody"',
                "presence = true",
                "latest = true",
                'max-message = "64KiB"',
                "retain = true",
                "",
                "[[topic]]  # pushd.toml: topic 2",
                'match = "b"',
                "history-size = 0",
                "max-message = 1500",
            ],
        )
        rules = parse("--config", self.write(said)).rules
        self.assertEqual(list(rules), [FULL, Rule(match="b", history_size=0, max_message=1500)])

    def test_print_config(self) -> None:
        """--print-config shows a table as a comment, with the description of each key."""
        said, _ = self.run_and_exit("--print-config")
        self.assertTrue(said.endswith(write_example()), said)
        for key in KEYS:
            self.assertIn(f"\n# {key.name} = ", said)
        self.assertNotIn("topic", tomllib.loads(said))
        # With the marks of the comment removed, it is a table.
        _, _, table = said.partition("# [[topic]]\n")
        text = "".join(line.removeprefix("# ") for line in table.splitlines(keepends=True))
        options = Options({})
        options.parseOptions(["--config", self.write("[[topic]]", text)])
        self.assertEqual(
            list(options.settings.rules),
            [
                Rule(
                    match="chat/**",
                    history_size=100,
                    history_ttl=300,
                    subscribe="anyone",
                    publish="nobody",
                    max_message=1 << 20,
                )
            ],
        )

    def test_read_again(self) -> None:
        """The rules can be read again, for a reload."""
        options = Options({})
        options.parseOptions(["--config", self.write("[[topic]]", 'match = "a"')])
        self.write("[[topic]]", 'match = "b"')
        settings, _ = options.resolve()
        self.assertEqual(list(settings.rules), [Rule(match="b")])
        self.write("[[topic]]")
        with self.assertRaises(InvalidOptions):
            options.resolve()


class DocumentTests(OptionsTestCase):
    """docs/topic-rules.md."""

    def test_example(self) -> None:
        """The example is a valid configuration file."""
        _, _, rest = DOCUMENT.read_text().partition("```toml\n")
        rules = parse("--config", self.write(rest.partition("```")[0])).rules
        self.assertEqual([one.match for one in rules], ["chat/**", "prices/*", "internal/**"])

    def test_keys(self) -> None:
        """The table lists every key."""
        rows = re.findall(r"(?m)^\| `([a-z-]+)` \|", DOCUMENT.read_text())
        self.assertEqual(rows, [key.name for key in KEYS])


class ShowTests(SynchronousTestCase):
    def test_one_line(self) -> None:
        """The log has rules on one line."""
        self.assertEqual(
            show_rules([Rule(match="a", retain=True), Rule(match="b", history_size=0)]),
            '{match = "a", retain = true}, {match = "b", history-size = 0}',
        )
        self.assertEqual(show_rules([]), "")
