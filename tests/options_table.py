"""The table of options in docs/operations.md; as a command, it brings that up to date."""

from __future__ import annotations

from pathlib import Path

from pushd.options.option import Option
from pushd.options.table import OPTIONS

DOCUMENT = Path(__file__).parent.parent / "docs/operations.md"

_BEGIN = '<!-- options: made by "make options" of the table in pushd/options/table.py -->\n'
_END = "<!-- options end -->\n"


def make_table() -> str:
    """Make the table of the options."""
    head = "| option | default | reload | what it is for |\n|---|---|---|---|\n"
    return head + "".join(map(_row, OPTIONS))


def with_table(document: str) -> str:
    """Give the document with the table in its place."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, "the document has no place for the table"
    return f"{before}{begin}{make_table()}{end}{after}"


def _row(option: Option) -> str:
    default = option.default
    shown = " ".join(default) if isinstance(default, tuple) else default
    what = option.help.replace("|", "\\|")
    cells = (
        f"`--{option.name}`",
        f"`{shown}`" if shown else "",
        "yes" if option.live else "",
        what,
    )
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |")


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
