"""The fenced blocks of a document."""

from __future__ import annotations

from collections.abc import Iterator


def find_fences(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the heading above, the language and the text of every fenced block."""
    heading = ""
    lines = iter(text.splitlines(keepends=True))
    for line in lines:
        if line.startswith("#"):
            heading = line.strip("# \n")
        elif line.startswith("```"):
            language = line.strip("` \n")
            # Taken from the same iterator, so that comments in the block do not count as headings.
            body = "".join(iter(lambda: next(lines), "```\n"))
            yield heading, language, body
