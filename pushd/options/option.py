"""An option: its name, its description, its parser, and the setting that it makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from itertools import groupby
from typing import Any, TypeVar, cast

from pushd.options.sizes import AUTO, Size, round_size, write_size

#: What an option was given: one text, or several if it may be given more than once, or None.
Text = str | tuple[str, ...] | None

#: Values of options, by the names of the options.
Values = Mapping[str, Any]

# The user and the password of a URL such as redis://user:password@host; both may contain an @.
_CREDENTIALS = re.compile(r"://\S*@")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Option:
    """One option: its name, its description, and its parser.

    Its default and its parser decide how it is written in a configuration file: a list if the
    default is a tuple, a Boolean if it is ``on`` or ``off`` and nothing else, a number if it is
    digits, a number or a string such as ``"64KiB"`` if the parser is a Size, else a string.
    """

    #: The heading that it is listed under.
    group: str
    name: str
    #: The placeholder for its value in the help.
    metavar: str
    #: Makes the value of the text; raises ValueError or TypeError that says what is allowed.
    parse: Callable[[Any], Any]
    #: One sentence or two that can be understood without those of other options.
    help: str
    _: KW_ONLY
    default: Text = None
    #: Whether a reload can change it; other options need a restart.
    live: bool = False
    #: Whether its value is masked wherever it is shown.
    secret: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be given more than once."""
        return isinstance(self.default, tuple)

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return f"PUSHD_{self.name.replace('-', '_').upper()}"

    @property
    def is_size(self) -> bool:
        """Whether it is a size in bytes."""
        return isinstance(self.parse, Size)

    @property
    def is_number(self) -> bool:
        """Whether it is a number without a unit."""
        digits = isinstance(self.default, str) and re.fullmatch(r"[0-9.]+", self.default)
        return bool(digits) and not self.is_size

    @property
    def is_switch(self) -> bool:
        """Whether it can only be ``on`` or ``off``."""
        has_more = "|" in self.metavar and self.metavar != "on|off"
        return self.default in ("on", "off") and not has_more

    def join(self, given: Sequence[str]) -> Text:
        """Join all values that were given; the last one wins if only one may be given."""
        return tuple(given) if self.repeatable else given[-1]

    def read(self, value: object) -> Text:
        """Return the text for a value of a configuration file.

        Raises TypeError that says which type the value must have.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.repeatable:
            if isinstance(value, list) and all(isinstance(one, str) for one in value):
                return tuple(value)
            raise TypeError('must be a list of strings, such as ["a", "b"]')
        if self.is_switch:
            if isinstance(value, bool):
                return "on" if value else "off"
            raise TypeError("must be true or false")
        if self.is_number:
            if number:
                return str(value)
            raise TypeError("must be a number, without quotes")
        if isinstance(value, str):
            return value
        if self.is_size:
            if number:
                return str(value)
            raise TypeError('must be a number, or a string such as "64KiB"')
        if number and self.default is None:
            return str(value)
        raise TypeError("must be a string, in quotes")

    def write(self, given: Text) -> str:
        """Write a value as in a configuration file, without secrets."""
        if isinstance(given, tuple):
            return f"[{', '.join(_quote(self.mask(one)) for one in given)}]"
        if self.is_switch and given in ("on", "off"):
            return "true" if given == "on" else "false"
        shown = self.mask(given or "")
        bare = self.is_number or (self.is_size and shown.isdecimal())
        return shown if bare and shown == given else _quote(shown)

    def show(self, given: Text) -> str:
        """Write a value as on a command line, without secrets."""
        return " ".join(map(self.mask, given)) if isinstance(given, tuple) else self.mask(given)

    def show_value(self, value: object) -> str:
        """Write a value of a configuration file that has a wrong type, without secrets."""
        if isinstance(value, str):
            return _quote(self.mask(value))
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | dict):
            return "[…]" if isinstance(value, list) else "{…}"
        return self.mask(str(value))

    def explain(self, given: Text) -> str | None:
        """Return the size that ``auto`` stands for; None for all other values."""
        return round_size(self.parse(given)) if self.is_size and given == AUTO else None

    def mask(self, text: str | None) -> str:
        """Mask the parts of a text that are secret."""
        return "***" if self.secret and text else _CREDENTIALS.sub("://***@", text or "")

    def equal(self, one: Text, other: Text) -> bool:
        """Whether two valid texts mean the same value, as ``1MiB`` and ``1048576`` do."""
        return one == other or (self.is_size and bool(self.parse(one) == self.parse(other)))


def setting(
    group: str,
    name: str,
    metavar: str,
    parse: Callable[[Any], _T],
    help: str,
    *,
    default: Text = None,
    value: Any = MISSING,
    live: bool = False,
) -> _T:
    """Declare a field of a dataclass of settings that is the value of one option.

    :param default: the text that the option has by default.
    :param value: the value of the default, if it must not be parsed.
    """
    option = Option(group, name, metavar, parse, help, default=default, live=live)
    made = _Declaration((option,), lambda values: values[name])
    if value is MISSING:
        return field(default_factory=lambda: parse(default), metadata={_KEY: made})
    return cast(_T, field(default=value, metadata={_KEY: made}))


def object_setting(kind: Callable[..., _T], *options: Option, prefix: str = "") -> _T:
    """Declare a field that is an object, each attribute of which is the value of one option.

    The defaults of the options are those of the attributes, unless they have others.

    :param prefix: prefix of the options' names that the attributes' names do not have.
    """
    attributes = {
        option.name: option.name.removeprefix(prefix).replace("-", "_") for option in options
    }
    defaults = kind()

    def complete(option: Option) -> Option:
        if option.default is not None:
            return option
        return replace(option, default=_as_text(option, getattr(defaults, attributes[option.name])))

    options = tuple(map(complete, options))

    def make(values: Values) -> _T:
        return kind(**{attribute: values[name] for name, attribute in attributes.items()})

    def make_default() -> _T:
        return make({option.name: option.parse(option.default) for option in options})

    return combined_setting(make, make_default, *options)


def combined_setting(
    make: Callable[[Values], _T], default: Callable[[], _T], *options: Option
) -> _T:
    """Declare a field that is made from several options.

    :param make: makes it from the values of all options.
    :param default: makes it if none of its options is given.
    """
    return field(default_factory=default, metadata={_KEY: _Declaration(options, make)})


def declared_options(settings: type) -> Iterator[Option]:
    """Return the options of a dataclass of settings, in the order of its fields."""
    for one in fields(settings):
        yield from one.metadata[_KEY].options


def make_settings(settings: type[_T], values: Values) -> _T:
    """Make settings from the values of all options."""
    declared = fields(cast(Any, settings))
    return settings(**{one.name: one.metadata[_KEY].make(values) for one in declared})


def by_group(options: Iterable[Option]) -> Iterator[tuple[str, list[Option]]]:
    """Return options group by group, each with its heading."""
    for group, members in groupby(options, key=lambda option: option.group):
        yield group, list(members)


@dataclass(frozen=True)
class _Declaration:
    """How a field of settings is made from options."""

    options: tuple[Option, ...]
    make: Callable[[Values], Any]


# The key of the declaration in a field's metadata.
_KEY = "pushd"


def _as_text(option: Option, value: bool | int) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return write_size(value) if option.is_size else str(value)


def _quote(text: str) -> str:
    # A string in TOML is one in JSON, except that DEL must be escaped, too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
