"""What went over connections: counted on each, summed up when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable


class Traffic:
    """Messages and their bytes each way.

    Whoever sends or receives adds to the numbers, which costs far less than to call a counter
    that all share; ``Ledger`` sums them up. What many were told in one go is added to each of them
    later, see ``unison.py``.
    """

    __slots__ = ("bytes_in", "bytes_out", "messages_in", "messages_out")

    def __init__(self) -> None:
        self.messages_in = 0
        self.bytes_in = 0
        self.messages_out = 0
        self.bytes_out = 0

    def add(self, others: Iterable[Traffic]) -> None:
        """Add what others counted."""
        messages_in = bytes_in = messages_out = bytes_out = 0
        # There may be ten thousand of them: one loop over names of its own takes a millisecond.
        for other in others:
            messages_in += other.messages_in
            bytes_in += other.bytes_in
            messages_out += other.messages_out
            bytes_out += other.bytes_out
        self.messages_in += messages_in
        self.bytes_in += bytes_in
        self.messages_out += messages_out
        self.bytes_out += bytes_out


class Ledger:
    """The traffic of all connections, those that have ended included, by transport."""

    def __init__(self) -> None:
        self._open: dict[str, dict[Traffic, None]] = {}
        self._ended: dict[str, Traffic] = {}

    def opened(self, transport: str, traffic: Traffic) -> None:
        """Count what a connection counts, from now on."""
        self._open.setdefault(transport, {})[traffic] = None

    def ended(self, transport: str, traffic: Traffic) -> None:
        """Keep what a connection has counted, which will not count any more."""
        if self._open.get(transport, {}).pop(traffic, self) is None:
            self._ended.setdefault(transport, Traffic()).add([traffic])

    def count(self, transport: str) -> int:
        """How many connections of this transport are open."""
        return len(self._open.get(transport, ()))

    def total(self, transport: str) -> Traffic:
        """What all connections of this transport have counted until now."""
        total = Traffic()
        total.add(self._open.get(transport, ()))
        if transport in self._ended:
            total.add([self._ended[transport]])
        return total
