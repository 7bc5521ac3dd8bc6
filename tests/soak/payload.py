"""What is published in a soak test: text that is unlike any other, and says when it was sent."""

from __future__ import annotations

from tests.soak.ledger import REPEATED

# The ordinary size of a publication, and of one that fills a buffer.
SMALL, LARGE = 128, 32 * 1024


def make_payload(number: int, now: float, size: int = SMALL) -> str:
    """Make the text of a publication, from its number and the time in seconds."""
    return f"{number} {now:.4f} ".ljust(size, "x")


def make_delayed(number: int) -> str:
    """Make the text of a publication that is to come later."""
    return f"{number} delayed ".ljust(SMALL, "x")


def make_repeated(number: int) -> str:
    """Make the text of a schedule that publishes the same again and again."""
    return f"{REPEATED}{number} ".ljust(SMALL, "x")


def sent_at(data: str) -> float | None:
    """Return when a publication was sent, or None for one that was scheduled."""
    when = data[:40].split(" ", 2)[1]
    return float(when) if when[0].isdigit() and not data.startswith(REPEATED) else None
