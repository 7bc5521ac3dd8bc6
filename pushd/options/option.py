"""An option: its name, its description, its parser, and the setting that it makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

#: What an option may be given, as text: once, or as often as one likes; None where it is not.
Text = str | tuple[str, ...] | None

#: Values of options, by the names of the options.
Values = Mapping[str, Any]

# Who and with what password, in something like redis://user:password@host. Either may hold an @.
_CREDENTIALS = re.compile(r"://\S*@")


_T = TypeVar("_T")


@dataclass(frozen=True)
class Option:
    """One option: its name, what it is for, and how its text becomes a value.

    ``parse`` raises ValueError or TypeError that say what is allowed.

    Its default tells how it is written in a file: a tuple as a list, ``"64"`` as a number,
    ``"on"`` as true, and everything else as text.
    """

    name: str
    parse: Callable[[Any], Any]
    help: str
    _: KW_ONLY
    default: Text = None
    #: Whether a reload can change it; everything else needs a restart.
    live: bool = False
    #: Whether its value is for nobody's eyes.
    secret: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be given more than once."""
        return isinstance(self.default, tuple)

    @property
    def variable(self) -> str:
        """The environment variable that stands for it."""
        return f"PUSHD_{self.name.replace('-', '_').upper()}"

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return isinstance(self.default, str) and re.fullmatch(r"[0-9.]+", self.default) is not None

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.default in ("on", "off")

    def join(self, given: Sequence[str]) -> Text:
        """Make one of all that was given; where one value counts, it is the last."""
        return tuple(given) if self.repeatable else given[-1]

    def read(self, value: object) -> Text:
        """Give the text for a value of a file. Raises TypeError that says what it should be."""
        if self.repeatable:
            if isinstance(value, list) and all(isinstance(one, str) for one in value):
                return tuple(value)
            raise TypeError('a list of texts, such as ["a", "b"]')
        if self.is_switch:
            if isinstance(value, bool):
                return "on" if value else "off"
            raise TypeError("true or false")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (self.is_number or self.default is None):
            return str(value)
        if isinstance(value, str) and not self.is_number:
            return value
        raise TypeError("a number, without quotes" if self.is_number else "text, in quotes")

    def write(self, given: Text) -> str:
        """Write a value as a file has it, with nothing in it that is secret."""
        if isinstance(given, tuple):
            return f"[{', '.join(_quote(self.mask(one)) for one in given)}]"
        if self.is_switch and given in ("on", "off"):
            return "true" if given == "on" else "false"
        shown = self.mask(given or "")
        return shown if self.is_number and shown == given else _quote(shown)

    def show(self, given: Text) -> str:
        """Write a value as a command line has it, with nothing in it that is secret."""
        return " ".join(map(self.mask, given)) if isinstance(given, tuple) else self.mask(given)

    def mask(self, text: str | None) -> str:
        """Hide what is secret."""
        return "***" if self.secret and text else _CREDENTIALS.sub("://***@", text or "")


def setting(
    name: str,
    parse: Callable[[Any], _T],
    help: str,
    *,
    default: Text = None,
    value: Any = MISSING,
    live: bool = False,
) -> _T:
    """Declare a field of a dataclass of settings that is the value of one option.

    :param default: what the option is given by default.
    :param value: the value of the default, if it is not to be parsed.
    """
    option = Option(name, parse, help, default=default, live=live)
    made = _Declaration((option,), lambda values: values[name])
    if value is MISSING:
        return field(default_factory=lambda: parse(default), metadata={_KEY: made})
    return cast(_T, field(default=value, metadata={_KEY: made}))


def object_setting(kind: Callable[..., _T], *options: Option, prefix: str = "") -> _T:
    """Declare a field that is an object, each attribute of which is the value of one option.

    The defaults of the options are those of the attributes.

    :param prefix: what the names of the options have in front of the names of the attributes.
    """
    attributes = {
        option.name: option.name.removeprefix(prefix).replace("-", "_") for option in options
    }
    defaults = kind()
    options = tuple(
        replace(option, default=_as_text(getattr(defaults, attributes[option.name])))
        for option in options
    )

    def make(values: Values) -> _T:
        return kind(**{attribute: values[name] for name, attribute in attributes.items()})

    return combined_setting(make, kind, *options)


def combined_setting(
    make: Callable[[Values], _T], default: Callable[[], _T], *options: Option
) -> _T:
    """Declare a field that is made of several options.

    :param make: makes it of the values of all options.
    :param default: makes it if none of its options is given.
    """
    return field(default_factory=default, metadata={_KEY: _Declaration(options, make)})


def declared_options(settings: type) -> Iterator[Option]:
    """Give the options of a dataclass of settings, in the order of its fields."""
    for one in fields(settings):
        yield from one.metadata[_KEY].options


def make_settings(settings: type[_T], values: Values) -> _T:
    """Make the settings of the values of all options."""
    declared = fields(cast(Any, settings))
    return settings(**{one.name: one.metadata[_KEY].make(values) for one in declared})


@dataclass(frozen=True)
class _Declaration:
    """How a field of settings is made of options."""

    options: tuple[Option, ...]
    make: Callable[[Values], Any]


# The key of the declaration in a field's metadata.
_KEY = "pushd"


def _as_text(value: bool | int) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _quote(text: str) -> str:
    # TOML's text is JSON's, but that it wants this one escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
