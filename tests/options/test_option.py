"""One option: how it is written in a file, on a command line, and where nobody may see it."""

from __future__ import annotations

import tomllib

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.option import Option, Text


def option(default: Text = None, *, secret: bool = False) -> Option:
    """Make an option."""
    return Option("one-two", str, "Help.", default=default, secret=secret)


class OptionTests(SynchronousTestCase):
    def test_names(self) -> None:
        """An option has one name, and one of a variable."""
        self.assertEqual(option().variable, "PUSHD_ONE_TWO")

    def test_kinds(self) -> None:
        """The default tells what kind it is."""
        for default, repeatable, is_number, is_switch in (
            (None, False, False, False),
            ("text", False, False, False),
            ("64", False, True, False),
            ("2.5", False, True, False),
            ("on", False, False, True),
            ("off", False, False, True),
            ((), True, False, False),
            (("1",), True, False, False),
        ):
            made = option(default)
            self.assertEqual(
                (made.repeatable, made.is_number, made.is_switch),
                (repeatable, is_number, is_switch),
                default,
            )

    def test_join(self) -> None:
        """All count, or the last does."""
        self.assertEqual(option(()).join(["a", "b"]), ("a", "b"))
        self.assertEqual(option().join(["a", "b"]), "b")


class FileTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Each kind has its own type in a file."""
        for default, value, text in (
            ((), ["a", "b"], ("a", "b")),
            ((), [], ()),
            ("on", True, "on"),
            ("on", False, "off"),
            ("64", 65, "65"),
            ("64", -1, "-1"),
            ("2.5", 0.5, "0.5"),
            ("text", "other", "other"),
            (None, "other", "other"),
            (None, 7, "7"),
        ):
            self.assertEqual(option(default).read(value), text)

    def test_wrong(self) -> None:
        """Another type is refused, with what it should be."""
        for default, values, allowed in (
            ((), ["a", 1, True, {}, [1], ["a", 1]], "a list of texts"),
            ("on", ["on", 1, 0, []], "true or false"),
            ("64", ["64", True, [], {}], "a number, without quotes"),
            ("text", [1, True, [], {}, ["text"]], "text, in quotes"),
            (None, [True, [], {}], "text, in quotes"),
        ):
            for value in values:
                with self.assertRaises(TypeError) as raised:
                    option(default).read(value)
                self.assertIn(allowed, str(raised.exception), (default, value))

    def test_written(self) -> None:
        """What is written can be read, and is what it was."""
        for default, text in (
            ((), ("a", 'b"\\\n\x7f', "ü")),
            ((), ()),
            ("on", "off"),
            ("on", "on"),
            ("64", "65"),
            ("text", 'o"th\\er'),
            (None, "5"),
        ):
            made = option(default)
            value = tomllib.loads(f"x = {made.write(text)}")["x"]
            self.assertEqual(made.read(value), text)

    def test_nothing(self) -> None:
        """Nothing is an empty text."""
        self.assertEqual((option().write(None), option().show(None)), ('""', ""))


class SecretTests(SynchronousTestCase):
    def test_password(self) -> None:
        """Who has a password in an address keeps it."""
        address = "redis://user:p@ss/word@host:6379/0"
        masked = "redis://***@host:6379/0"
        self.assertEqual(option().show(address), masked)
        self.assertEqual(option().write(address), f'"{masked}"')
        self.assertEqual(option(()).show(("a", address)), f"a {masked}")
        self.assertEqual(option(()).write(("a", address)), f'["a", "{masked}"]')

    def test_secret(self) -> None:
        """What is all secret is not shown at all, but that it is there."""
        made = option(secret=True)
        self.assertEqual((made.show("x"), made.write("x"), made.show("")), ("***", '"***"', ""))
        self.assertEqual(option("0", secret=True).write("123"), '"***"')
        self.assertEqual(option((), secret=True).write(("a", "b")), '["***", "***"]')
