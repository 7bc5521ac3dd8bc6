"""Where options come from: the command line, the environment, a TOML file, the defaults."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pushd.options.option import Option, Text, by_group

_WIDTH = 88

_HEAD = """\
# Configuration of pushd, with the defaults. Start the daemon with: twistd pushd --config FILE
# Check this file with: twistd pushd --check --config FILE
# The command line takes precedence over the environment (PUSHD_THREADS=8), and that over this file.
# Sizes are numbers of bytes, or strings with a unit: "10MB" (10,000,000) or "64KiB" (65,536).
"""

# Variables that begin with PUSHD_ and are not options: of the configuration file, of pushd.tac and
# of pushdctl.
_FILE = "PUSHD_CONFIG"
_NOT_OPTIONS = {_FILE, "PUSHD_OPTIONS", "PUSHD_CONTROL_URL", "PUSHD_URL", "PUSHD_TOKEN"}

# Variables that Kubernetes sets for a service named pushd or pushd-…, with their values. Others set
# PUSHD_PORT=8080, which is a mistake.
_SERVICE_LINK = re.compile(
    r"\w*_(SERVICE_(HOST|PORT)(_\w+)?=.*|PORT(_\d+_[A-Z]+)?=[a-z]+://.*|PORT_\d+_[A-Z]+_[A-Z]+=.*)"
)

#: The name of the tables for topics in the configuration file.
TABLE = "topic"

# How similar a name must be to be suggested, from 0 to 1: less than "allow-origin" is to "origin",
# more than "reload" is to "threads".
_SIMILAR = 0.65

# Options by the names that other servers have for them.
_OTHER_NAMES = {
    "port": "listen",
    "bind": "listen",
    "address": "listen",
    "interface": "listen",
    "redis": "broker",
    "static": "web",
}


class Given(NamedTuple):
    """The text that an option was given, and its source."""

    text: Text
    #: Such as ``--threads``, ``PUSHD_THREADS`` or ``pushd.toml: threads``; empty for the default.
    where: str


class Conflict(NamedTuple):
    """Options whose values cannot be combined, and why."""

    names: tuple[str, ...]
    reason: str


class Collected(NamedTuple):
    """What sources give: to options, and to topics."""

    given: dict[str, Given]
    #: One line for each mistake.
    mistakes: list[str]
    #: What the configuration file has under the name ``topic``, not checked; None for nothing.
    topics: object = None


@dataclass(frozen=True)
class Sources:
    """Everything that can give options a value, apart from their defaults.

    :param command_line: the texts given on the command line, by the names of the options.
    :param environ: the environment.
    :param file: the path of the configuration file, if there is one.
    """

    command_line: Mapping[str, Sequence[str]]
    environ: Mapping[str, str]
    file: str | None = None

    def collect(self, options: Sequence[Option]) -> Collected:
        """Return what each option was given, the tables for topics, and all mistakes."""
        if self.file is None:
            written, mistakes, topics = Collected({}, [])
        else:
            written, mistakes, topics = read_file(options, self.file)
        given = {}
        for option in options:
            texts = self.command_line.get(option.name)
            variable = self.environ.get(option.variable)
            if texts:
                given[option.name] = Given(option.join(texts), f"--{option.name}")
            elif variable is not None:
                text = tuple(variable.split()) if option.repeatable else variable
                given[option.name] = Given(text, option.variable)
            else:
                given[option.name] = written.get(option.name, Given(option.default, ""))
        mistakes = mistakes + list(_unknown_variables(options, self.environ))
        return Collected(given, mistakes, topics)


def unknown_option(name: str, guess: str | None) -> str:
    """Return the line for an option that does not exist.

    :param guess: the option that was probably meant.
    """
    return f"unknown option {name}" + (f": did you mean {guess}?" if guess else "")


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is meant by another, or most similar to it; None if none is similar."""
    name, names = name.replace("_", "-").lower(), list(names)
    meant = _OTHER_NAMES.get(name)
    if meant in names:
        return meant
    near = get_close_matches(name, names, n=1, cutoff=_SIMILAR)
    return near[0] if near else None


def _unknown_variables(options: Sequence[Option], environ: Mapping[str, str]) -> Iterator[str]:
    variables = {option.name: option.variable for option in options} | {"config": _FILE}
    known = {*variables.values(), *_NOT_OPTIONS}
    for variable, value in environ.items():
        name = variable.removeprefix("PUSHD_")
        if name == variable or variable in known:
            continue
        if not _SERVICE_LINK.fullmatch(f"{variable}={value}"):
            guess = closest(name, variables)
            yield unknown_option(variable, variables[guess] if guess else None)


def read_file(options: Sequence[Option], path: str) -> Collected:
    """Return what a configuration file gives, and one line for each mistake in it."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        return Collected({}, [f"--config {path}: cannot be read: {error.strerror}"])
    except ValueError as error:  # From the TOML parser or from the UTF-8 decoder.
        return Collected({}, [f"{path}: not valid TOML: {error}"])
    topics = table.pop(TABLE, None)
    known = {option.name: option for option in options}
    given, mistakes = {}, []
    for name, value in table.items():
        option = known.get(name)
        if option is None:
            mistakes.append(f"{path}: {_unknown(name, value, known)}")
            continue
        where = f"{path}: {name}"
        try:
            given[name] = Given(option.read(value), where)
        except TypeError as error:
            mistakes.append(f"{where} {option.show_value(value)}: {error}")
    return Collected(given, mistakes, topics)


def _unknown(name: str, value: object, known: Iterable[str]) -> str:
    """Return the line for a name in a file that is that of no option."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dict):  # There is one kind of table.
        return f"unknown table {name}: did you mean [[{TABLE}]]?"
    return unknown_option(name, closest(name, known))


def parse(
    options: Sequence[Option], given: Mapping[str, Given]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of options by their names, and one line for each that is not valid."""
    values, mistakes = {}, []
    for option in options:
        text, where = given[option.name]
        try:
            values[option.name] = option.parse(text)
        except (TypeError, ValueError) as error:
            place = f"{where or f'--{option.name}'} {option.show(text)}".rstrip()
            mistakes.append(f"{place}: {error}")
    return values, mistakes


def describe_conflict(conflict: Conflict, given: Mapping[str, Given]) -> str:
    """Return the line for options that cannot be combined."""
    places = [given[name].where or f"--{name}" for name in conflict.names]
    return f"{' and '.join(places)}: {conflict.reason}"


def write_defaults(options: Sequence[Option]) -> str:
    """Return a configuration file with the description and the default of each option."""
    return "\n".join([_HEAD, *_entries(options)])


def write_values(options: Sequence[Option], given: Mapping[str, Given]) -> str:
    """Return a configuration file with the value of each option, and its source as a comment."""
    lines = []
    for option in options:
        text, where = given[option.name]
        if text is None:
            lines.append(f"# {option.name} is not set")
        else:
            meaning = option.explain(text)
            comment = (where or "default") + (f": {meaning}" if meaning else "")
            lines.append(f"{option.name} = {option.write(text)}  # {comment}")
    return "\n".join(lines)


def _entries(options: Sequence[Option]) -> Iterator[str]:
    for group, members in by_group(options):
        yield f"\n## {group}\n"
        for option in members:
            yield from (f"# {line}" for line in textwrap.wrap(option.help, _WIDTH))
            if option.default is None:
                yield f'# {option.name} = ""\n'
            else:
                yield f"{option.name} = {option.write(option.default)}\n"
