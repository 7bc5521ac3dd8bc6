"""Describe the machine: a figure means nothing without it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def find_processor(cpuinfo: str) -> str:
    """Return the processor's model name from ``/proc/cpuinfo``."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def find_memory(meminfo: str) -> str:
    """Return the size of the memory from ``/proc/meminfo``, in GiB."""
    match = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return f"{int(match[1]) / (1 << 20):.0f} GiB" if match else "unknown memory size"


def describe_machine() -> str:
    """Describe the hardware, the kernel and Python in one line."""
    cores = os.cpu_count()
    return ", ".join(
        [
            f"{find_processor(Path('/proc/cpuinfo').read_text())} with {cores} cores",
            find_memory(Path("/proc/meminfo").read_text()),
            f"Linux {platform.release()}",
            f"{platform.python_implementation()} {platform.python_version()}",
        ]
    )
