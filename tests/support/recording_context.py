"""A context manager that records its use."""

from __future__ import annotations


class RecordingContext:
    """Appends ``(`` to a list when entered, and ``)`` when left."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def __enter__(self) -> None:
        self._events.append("(")

    def __exit__(self, *_: object) -> None:
        self._events.append(")")
