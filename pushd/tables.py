"""What commands print: a table for people, or JSON, one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TextIO


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO) -> None:
    """Print rows below a head, each column as wide as its widest cell."""
    table = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), file=file)


def print_json(values: Iterable[object], file: TextIO) -> None:
    """Print values, each on a line."""
    for value in values:
        print(json.dumps(value, ensure_ascii=False), file=file)


def printable(text: str) -> str:
    """The text on one line, and without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
