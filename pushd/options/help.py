"""The text of ``twistd pushd --help``: options in groups, wrapped to the width of the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from pushd.options.option import Option, by_group

# Columns in which options stand, before their descriptions.
_LEFT = 26

_NOTES = """\
Each option can also be set in the environment, as PUSHD_THREADS=8, or in the file named by \
--config. The command line takes precedence over the environment, and that over the file. A SIZE \
is a number of bytes, or has a unit: 10MB (10,000,000) or 64KiB (65,536)."""


def write_help(
    options: Sequence[Option], flags: Mapping[str, str], introduction: str, width: int
) -> str:
    """Return the help.

    :param flags: descriptions of what is not a setting, such as ``--config FILE``.
    :param width: the width of the terminal in columns.
    """
    lines = ["", *textwrap.wrap(introduction, width)]
    for group, members in by_group(options):
        entries = {f"--{option.name} {option.metavar}": _describe(option) for option in members}
        lines += ["", f"{group}:", *_columns(entries, width)]
    lines += ["", "Configuration and help:", *_columns(flags, width)]
    return "\n".join([*lines, "", *textwrap.wrap(_NOTES, width)])


def _describe(option: Option) -> str:
    default = option.show(option.default)
    return f"{option.help} [default: {default}]" if default else option.help


def _columns(entries: Mapping[str, str], width: int) -> Iterator[str]:
    for left, right in entries.items():
        start = f"  {left}"
        if len(start) >= _LEFT:
            yield start
            start = ""
        yield from textwrap.wrap(
            right,
            max(width, _LEFT + 20),
            initial_indent=start.ljust(_LEFT),
            subsequent_indent=" " * _LEFT,
            # Neither options nor addresses are broken at a hyphen.
            break_on_hyphens=False,
        )
