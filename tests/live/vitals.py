"""What the kernel says of a process."""

from __future__ import annotations

from pathlib import Path
from time import clock_gettime

# The clock of a process is named by its number and by what it counts: here what was computed, in
# all of its threads, those that have ended included (clock_getcpuclockid(3)).
_COMPUTED = 2


class Vitals:
    """One process, seen from outside."""

    def __init__(self, pid: int) -> None:
        self._place = Path(f"/proc/{pid}")
        self._clock = ~pid << 3 | _COMPUTED

    @property
    def memory(self) -> int:
        """Bytes of memory that it holds."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """The most that it has held since ``forget_peak``, in bytes."""
        return self._status("VmHWM")

    @property
    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list((self._place / "fd").iterdir()))

    @property
    def cpu(self) -> float:
        """Seconds that it has computed."""
        return clock_gettime(self._clock)

    def forget_peak(self) -> None:
        """Begin anew to note how much memory it holds at most."""
        (self._place / "clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in (self._place / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")
