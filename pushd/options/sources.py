"""Where options get their values from: the command line, the environment, a file, the default."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pushd.options.option import Option, Text

_WIDTH = 88

_HEAD = """\
# The options of pushd, with their defaults: twistd pushd --config FILE. What stands on the command
# line wins over the environment (PUSHD_THREADS=8), that over this file. "twistd pushd --check
# --config FILE" says what is wrong with it.
"""


class Given(NamedTuple):
    """What an option was given."""

    text: Text
    #: Where: ``--threads``, ``PUSHD_THREADS`` or ``pushd.toml: threads``; empty for the default.
    where: str


class Clash(NamedTuple):
    """Options that can't go together, and why."""

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Sources:
    """All that options can be given by, but for their defaults.

    :param command_line: what was given there, by the options' names.
    :param environ: the environment. Its other variables are of no interest: an orchestrator may
        have put a ``PUSHD_PORT`` there.
    :param file: the file of options, if there is one.
    """

    command_line: Mapping[str, Sequence[str]]
    environ: Mapping[str, str]
    file: str | None = None

    def collect(self, options: Sequence[Option]) -> tuple[dict[str, Given], list[str]]:
        """Give what each option was given, and a line for each mistake in how."""
        written, mistakes = read_file(options, self.file) if self.file is not None else ({}, [])
        given = {}
        for option in options:
            told = self.command_line.get(option.name)
            variable = self.environ.get(option.variable)
            if told:
                given[option.name] = Given(option.join(told), f"--{option.name}")
            elif variable is not None:
                text = tuple(variable.split()) if option.repeatable else variable
                given[option.name] = Given(text, option.variable)
            else:
                given[option.name] = written.get(option.name, Given(option.default, ""))
        return given, mistakes


def read_file(options: Sequence[Option], path: str) -> tuple[dict[str, Given], list[str]]:
    """Give what a file of options has, by their names, and a line for each mistake in it."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"--config {path}: {error.strerror}"]
    except ValueError as error:  # No TOML, or not even UTF-8.
        return {}, [f"{path}: {error}"]
    known = {option.name: option for option in options}
    given, mistakes = {}, []
    for name, value in table.items():
        where = f"{path}: {name}"
        if name not in known:
            near = get_close_matches(name.replace("_", "-").lower(), known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            mistakes.append(f"{where}: no option has this name{guess}")
            continue
        try:
            given[name] = Given(known[name].read(value), where)
        except TypeError as error:
            mistakes.append(f"{where}: {error}")
    return given, mistakes


def parse(
    options: Sequence[Option], given: Mapping[str, Given]
) -> tuple[dict[str, Any], list[str]]:
    """Give the values of what was given, by the options' names, and a line for each mistake."""
    values, mistakes = {}, []
    for option in options:
        text, where = given[option.name]
        try:
            values[option.name] = option.parse(text)
        except (TypeError, ValueError) as error:
            place = f"{where or f'--{option.name}'} {option.show(text)}".rstrip()
            mistakes.append(f"{place}: {error}")
    return values, mistakes


def describe_clash(clash: Clash, given: Mapping[str, Given]) -> str:
    """The line for options that can't go together."""
    return (
        f"{' and '.join(given[name].where or f'--{name}' for name in clash.names)}: {clash.reason}"
    )


def write_defaults(options: Sequence[Option]) -> str:
    """Write a file of options: what each is for, and its default."""
    return "\n".join([_HEAD, *_entries(options)])


def write_values(options: Sequence[Option], given: Mapping[str, Given]) -> str:
    """Write what is in force as a file of options, and where each value comes from."""
    lines = []
    for option in options:
        text, where = given[option.name]
        if text is None:
            lines.append(f"# {option.name} is not set")
        else:
            lines.append(f"{option.name} = {option.write(text)}  # {where or 'default'}")
    return "\n".join(lines)


def _entries(options: Sequence[Option]) -> Iterator[str]:
    for option in options:
        yield from (f"# {line}" for line in textwrap.wrap(option.help, _WIDTH))
        if option.default is None:
            yield f'# {option.name} = ""\n'
        else:
            yield f"{option.name} = {option.write(option.default)}\n"
