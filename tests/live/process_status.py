"""Memory, descriptors and CPU time of a process, from the kernel."""

from __future__ import annotations

from pathlib import Path
from time import clock_gettime

# The clock of a process has a number made of its id and what it measures: here the CPU time of all
# of its threads, including those that have ended (clock_getcpuclockid(3)).
_COMPUTED = 2


class ProcessStatus:
    """A running process."""

    def __init__(self, pid: int) -> None:
        self._place = Path(f"/proc/{pid}")
        self._clock = ~pid << 3 | _COMPUTED

    @property
    def memory(self) -> int:
        """Resident memory, in bytes."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """The peak of the resident memory since ``reset_peak``, in bytes."""
        return self._status("VmHWM")

    @property
    def descriptors(self) -> int:
        """The number of open descriptors."""
        return len(list((self._place / "fd").iterdir()))

    @property
    def cpu(self) -> float:
        """CPU time used, in seconds."""
        return clock_gettime(self._clock)

    def reset_peak(self) -> None:
        """Start to measure the peak again."""
        (self._place / "clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in (self._place / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")
