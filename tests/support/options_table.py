"""The table of options in docs/operations.md. Run as a command, it updates the document."""

from __future__ import annotations

from pathlib import Path

from pushd.options.option import Option, by_group
from pushd.options.settings import OPTIONS

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"

_BEGIN = '<!-- options: made by "make options" from the settings in pushd/options/settings.py -->\n'
_END = "<!-- options end -->\n"


def make_table() -> str:
    """Make the table, in which each group of options has a heading."""
    rows = ["| option | default | reload | description |", "|---|---|---|---|"]
    for group, members in by_group(OPTIONS):
        rows += [f"| **{group}** | | | |", *map(_row, members)]
    return "".join(f"{row}\n" for row in rows)


def with_table(document: str) -> str:
    """Return the document with the present table in its place."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, "the document has no marks around the table"
    return f"{before}{begin}{make_table()}{end}{after}"


def _row(option: Option) -> str:
    default = option.default
    shown = " ".join(default) if isinstance(default, tuple) else default
    cells = (
        f"`--{option.name}`",
        f"`{shown}`" if shown else "",
        "yes" if option.live else "",
        option.help.replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
