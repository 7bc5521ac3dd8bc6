"""An option: its names, how it is read and written, its secrets, and the settings it makes."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.option import (
    Option,
    Text,
    by_group,
    combined_setting,
    declared_options,
    make_settings,
    object_setting,
    setting,
)
from pushd.options.sizes import Size

_SIZE = Size(0, 1 << 40)


def option(
    default: Text = None, parse: Any = str, *, secret: bool = False, metavar: str = "X"
) -> Option:
    """Make an option."""
    return Option("Group", "one-two", metavar, parse, "Help.", default=default, secret=secret)


class OptionTests(SynchronousTestCase):
    def test_variable(self) -> None:
        """The environment variable has the name of the option."""
        self.assertEqual(option().variable, "PUSHD_ONE_TWO")

    def test_kinds(self) -> None:
        """The default and the parser decide of which kind an option is."""
        for default, parse, kind in (
            (None, str, ""),
            ("text", str, ""),
            ("64", int, "is_number"),
            ("2.5", float, "is_number"),
            ("64", _SIZE, "is_size"),
            ("1MiB", _SIZE, "is_size"),
            ("on", str, "is_switch"),
            ("off", str, "is_switch"),
            ((), list, "repeatable"),
            (("1",), list, "repeatable"),
        ):
            made = option(default, parse)
            for name in ("repeatable", "is_number", "is_size", "is_switch"):
                self.assertEqual(getattr(made, name), name == kind, (default, name))

    def test_more_than_on_and_off(self) -> None:
        """An option that can be something else beside ``on`` and ``off`` is no switch."""
        self.assertTrue(option("on", metavar="on|off").is_switch)
        three = option("on", metavar="on|view|off")
        self.assertFalse(three.is_switch)
        self.assertEqual((three.read("view"), three.write("on")), ("view", '"on"'))

    def test_join(self) -> None:
        """All values of a repeatable option are used, and the last one of any other."""
        self.assertEqual(option(()).join(["a", "b"]), ("a", "b"))
        self.assertEqual(option().join(["a", "b"]), "b")

    def test_equal(self) -> None:
        """Texts are equal if they mean the same size."""
        size = option("1MiB", _SIZE)
        self.assertTrue(size.equal("1048576", "1MiB"))
        self.assertFalse(size.equal("1MB", "1MiB"))
        self.assertTrue(option("a").equal("b", "b"))
        self.assertFalse(option("1").equal("1", "01"))

    def test_groups(self) -> None:
        """Options can be listed group by group."""
        options = [Option(group, "a", "X", str, "") for group in "aabb"]
        self.assertEqual(list(by_group(options)), [("a", options[:2]), ("b", options[2:])])


class FileTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Each kind of option has a type of its own in a configuration file."""
        for default, parse, value, text in (
            ((), list, ["a", "b"], ("a", "b")),
            ((), list, [], ()),
            ("on", str, True, "on"),
            ("on", str, False, "off"),
            ("64", int, 65, "65"),
            ("64", int, -1, "-1"),
            ("2.5", float, 0.5, "0.5"),
            ("1MiB", _SIZE, 65, "65"),
            ("1MiB", _SIZE, "64KiB", "64KiB"),
            ("text", str, "other", "other"),
            (None, str, "other", "other"),
            (None, str, 7, "7"),
        ):
            self.assertEqual(option(default, parse).read(value), text)

    def test_wrong(self) -> None:
        """The error for a value of another type says which type is required."""
        for default, parse, values, allowed in (
            ((), list, ["a", 1, True, {}, [1], ["a", 1]], "must be a list of strings"),
            ("on", str, ["on", 1, 0, []], "must be true or false"),
            ("64", int, ["64", True, [], {}], "must be a number, without quotes"),
            ("64KiB", _SIZE, [True, [], {}], 'must be a number, or a string such as "64KiB"'),
            ("text", str, [1, True, [], {}, ["text"]], "must be a string, in quotes"),
            (None, str, [True, [], {}], "must be a string, in quotes"),
        ):
            for value in values:
                with self.assertRaises(TypeError) as raised:
                    option(default, parse).read(value)
                self.assertIn(allowed, str(raised.exception), (default, value))

    def test_written(self) -> None:
        """A value that is written to a file can be read back."""
        for default, parse, text in (
            ((), list, ("a", 'b"\\\n\x7f', "ü")),
            ((), list, ()),
            ("on", str, "off"),
            ("on", str, "on"),
            ("64", int, "65"),
            ("1MiB", _SIZE, "65"),
            ("1MiB", _SIZE, "64KiB"),
            ("text", str, 'o"th\\er'),
            (None, str, "5"),
        ):
            made = option(default, parse)
            value = tomllib.loads(f"x = {made.write(text)}")["x"]
            self.assertEqual(made.read(value), text)

    def test_size_written(self) -> None:
        """A size without a unit is a number in the file, one with a unit a string."""
        made = option("1MiB", _SIZE)
        self.assertEqual((made.write("65"), made.write("64KiB")), ("65", '"64KiB"'))

    def test_nothing(self) -> None:
        """The absence of a value is written as an empty string."""
        self.assertEqual((option().write(None), option().show(None)), ('""', ""))

    def test_show_value(self) -> None:
        """A value of a wrong type is shown as in the file, in short and without secrets."""
        for value, shown in (
            ("a", '"a"'),
            ("redis://u:p@h", '"redis://***@h"'),
            (True, "true"),
            (False, "false"),
            (5, "5"),
            ([1], "[…]"),
            ({}, "{…}"),
        ):
            self.assertEqual(option().show_value(value), shown)
        self.assertEqual(option(secret=True).show_value(5), "***")


class SecretTests(SynchronousTestCase):
    def test_password(self) -> None:
        """The user and the password of a URL are masked."""
        address = "redis://user:p@ss/word@host:6379/0"
        masked = "redis://***@host:6379/0"
        self.assertEqual(option().show(address), masked)
        self.assertEqual(option().write(address), f'"{masked}"')
        self.assertEqual(option(()).show(("a", address)), f"a {masked}")
        self.assertEqual(option(()).write(("a", address)), f'["a", "{masked}"]')

    def test_secret(self) -> None:
        """The whole value of a secret option is masked, unless it is empty."""
        made = option(secret=True)
        self.assertEqual((made.show("x"), made.write("x"), made.show("")), ("***", '"***"', ""))
        self.assertEqual(option("0", secret=True).write("123"), '"***"')
        self.assertEqual(option((), secret=True).write(("a", "b")), '["***", "***"]')


@dataclass(kw_only=True)
class _Size:
    width: int = 3
    deep: bool = True
    bytes: int = 2048


@dataclass(frozen=True, kw_only=True)
class _Settings:
    count: int = setting("Group", "count", "N", int, "Help.", default="2", live=True)
    fixed: str = setting("Group", "fixed", "X", str.upper, "Help.", default="a", value="b")
    size: _Size = object_setting(
        _Size,
        Option("Group", "the-width", "N", int, "Help."),
        Option("Group", "the-deep", "on|off", bool, "Help."),
        Option("Group", "the-bytes", "SIZE", _SIZE, "Help."),
        prefix="the-",
    )
    total: int = combined_setting(
        lambda values: values["first"] + values["second"],
        lambda: 7,
        Option("Group", "first", "N", int, "Help.", default="3"),
        Option("Group", "second", "N", int, "Help.", default="4"),
    )


class SettingTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """A field has the parsed default of its option, or the value that stands for it."""
        settings = _Settings()
        self.assertEqual((settings.count, settings.fixed, settings.total), (2, "b", 7))
        self.assertEqual(settings.size, _Size())
        self.assertIsNot(settings.size, _Settings().size)

    def test_options(self) -> None:
        """The options of all fields can be listed; those of an object have its defaults."""
        options = list(declared_options(_Settings))
        self.assertEqual(
            [(one.name, one.default) for one in options],
            [
                ("count", "2"),
                ("fixed", "a"),
                ("the-width", "3"),
                ("the-deep", "on"),
                ("the-bytes", "2KiB"),
                ("first", "3"),
                ("second", "4"),
            ],
        )
        self.assertEqual([one.name for one in options if one.live], ["count"])

    def test_made(self) -> None:
        """Settings are made from the values of all options."""
        values = {
            "count": 1,
            "fixed": "x",
            "the-width": 8,
            "the-deep": False,
            "the-bytes": 0,
            "first": 2,
            "second": 5,
        }
        self.assertEqual(
            make_settings(_Settings, values),
            _Settings(count=1, fixed="x", total=7, size=_Size(width=8, deep=False, bytes=0)),
        )
