"""One option: what it is called, what it is for, and how it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: What an option may be given, as text: once, or as often as one likes; None where it is not.
Text = str | tuple[str, ...] | None

# Who and with what password, in something like redis://user:password@host. Either may hold an @.
_CREDENTIALS = re.compile(r"://\S*@")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its name, what it is for, and how its text becomes a value.

    ``parse`` raises ValueError or TypeError that say what is allowed.

    Its default tells how it is written in a file: a tuple as a list, ``"64"`` as a number,
    ``"on"`` as true, and everything else as text.
    """

    name: str
    help: str
    parse: Callable[[Any], Any]
    default: str | tuple[str, ...] | None = None
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


def _quote(text: str) -> str:
    # TOML's text is JSON's, but that it wants this one escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
