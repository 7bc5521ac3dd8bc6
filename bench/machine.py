"""What was measured on: a benchmark without its machine says nothing."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def find_processor(cpuinfo: str) -> str:
    """Give the model's name from ``/proc/cpuinfo``."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def find_memory(meminfo: str) -> str:
    """Give the size of the memory from ``/proc/meminfo``, in GiB."""
    match = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return f"{int(match[1]) / (1 << 20):.0f} GiB" if match else "memory of unknown size"


def describe_machine() -> str:
    """Give the machine and what it runs, in one line."""
    cores = os.cpu_count()
    return ", ".join(
        [
            f"{find_processor(Path('/proc/cpuinfo').read_text())} with {cores} cores",
            find_memory(Path("/proc/meminfo").read_text()),
            f"Linux {platform.release()}",
            f"{platform.python_implementation()} {platform.python_version()}",
        ]
    )
