"""How much memory there is: that of the machine, or of its cgroup, as of a container or a unit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def memory_size(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process can have.

    They are limited by the machine, by ``memory.max`` of each of its cgroups (version 2; systemd's
    MemoryMax), and by ``memory.limit_in_bytes`` (version 1).

    :param root: below which /proc and /sys are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits_of_cgroups(root)])


def _limits_of_cgroups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # Not Linux.
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        top, name = root / "sys/fs/cgroup", "memory.max"
        if number != "0":
            if "memory" not in controllers.split(","):
                continue
            top, name = top / "memory", "memory.limit_in_bytes"
        # In a container, the folder at the top may be that of the cgroup itself.
        group = top / path.lstrip("/")
        folders = [group, *group.parents]
        for folder in folders[: folders.index(top) + 1]:
            try:
                limit = (folder / name).read_text().strip()
            except OSError:
                limit = ""
            if limit.isdecimal():  # Else "max", or there is no such folder.
                yield int(limit)
