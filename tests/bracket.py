"""A context manager that records when it is entered and left."""

from __future__ import annotations


class Bracket:
    """Adds ``(`` and ``)`` to a list of notes."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __enter__(self) -> None:
        self._notes.append("(")

    def __exit__(self, *_: object) -> None:
        self._notes.append(")")
