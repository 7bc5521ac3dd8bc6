"""A ``with`` that notes when it is entered and left."""

from __future__ import annotations


class Bracket:
    """Notes ``(`` and ``)`` among what else is noted."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __enter__(self) -> None:
        self._notes.append("(")

    def __exit__(self, *_: object) -> None:
        self._notes.append(")")
