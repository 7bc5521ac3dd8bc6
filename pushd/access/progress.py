"""Progress: whether a slow peer takes enough of what is sent to it."""

from __future__ import annotations

#: Bytes that a slow peer must take in each ``PERIOD``, in seconds, to be waited for.
ENOUGH = 1 << 16
PERIOD = 60.0


class Progress:
    """Judges a slow peer by what it takes, not by how much waits for it.

    It must have taken something at each look, and ``ENOUGH`` in each ``PERIOD``: a peer that takes
    a byte a second would hold its memory for ever.

    :param taken: the number of bytes that the peer has taken until now, from any start.
    :param now: the time in seconds, from any start.
    """

    __slots__ = ("_mark", "_taken", "_until")

    def __init__(self, taken: int, now: float) -> None:
        self._taken = taken
        # What it had taken when the current period began, and when that ends.
        self._mark, self._until = taken, now + PERIOD

    def look(self, taken: int, now: float) -> bool:
        """Return whether the peer has taken enough since the last look."""
        before, self._taken = self._taken, taken
        if now >= self._until:
            if taken < self._mark + ENOUGH:
                return False
            self._mark, self._until = taken, now + PERIOD
        return taken > before
