"""Readings of a server at the load generator's gates, and the size of a workload."""

from __future__ import annotations

from bench.server import Server


class Readings:
    """The CPU time and the memory of a server at each gate."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cpu: dict[str, float] = {}
        self._memory: dict[str, int] = {}

    def look(self, gate: str) -> None:
        """Read what the server has taken by now."""
        # Memory is slow to read, so not at the gates between which CPU is measured.
        if gate in ("empty", "connected", "full"):
            self._memory[gate] = self._server.memory()
        self._cpu[gate] = self._server.cpu()

    def cpu(self, first: str, last: str) -> float:
        """Return the CPU time between two gates, in microseconds."""
        return self._cpu[last] - self._cpu[first]

    def memory(self, first: str, last: str) -> float:
        """Return how much the memory has grown between two gates, in KiB."""
        return self._memory[last] - self._memory[first]


def scaled(full: int, scale: float) -> int:
    """Return a part of a number of connections or messages, but at least one."""
    return max(1, round(full * scale))
