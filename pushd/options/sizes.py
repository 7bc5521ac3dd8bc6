"""Sizes in bytes as operators write them: 1048576, 10MB or 64KiB."""

from __future__ import annotations

import re
from collections.abc import Callable

from pushd.options.machine import memory_size

#: The value of a size that is derived from the machine.
AUTO = "auto"

# Units by how many bytes they are; the first that divides a size is used to write it.
_BINARY = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_DECIMAL = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3}
_UNITS = {unit.upper(): size for unit, size in {**_BINARY, **_DECIMAL, "B": 1, "": 1}.items()}

# A number of at most 15 digits: Python refuses to parse thousands of them.
_SIZE = re.compile(r"([0-9]{1,15})(?: ?((?:[KMGT]I?)?B))?", re.ASCII | re.IGNORECASE)


class Size:
    """A parser of sizes.

    KB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are powers of 1024. Units may be in
    upper or lower case.

    :param least: the smallest size that is allowed, in bytes.
    :param most: the largest.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def __call__(self, given: str) -> int:
        """Return the size in bytes. Raises ValueError that says what is allowed."""
        found = _SIZE.fullmatch(given)
        size = int(found[1]) * _UNITS[(found[2] or "").upper()] if found else -1
        if not self._least <= size <= self._most:
            allowed = f"from {write_size(self._least)} to {write_size(self._most)}"
            raise ValueError(f"must be a size {allowed}, such as 1048576, 10MB or 64KiB")
        return size


class ShareOfMemory(Size):
    """A parser of sizes that may be ``auto``: half of the memory that there is.

    :param memory: returns how many bytes of memory there are.
    """

    def __init__(self, least: int, most: int, memory: Callable[[], int] = memory_size) -> None:
        super().__init__(least, most)
        self._memory = memory

    def __call__(self, given: str) -> int:
        """Return the size in bytes. Raises ValueError that says what is allowed."""
        if given == AUTO:
            return max(self._least, min(self._most, self._memory() // 2))
        try:
            return super().__call__(given)
        except ValueError as error:
            raise ValueError(f"{error}, or {AUTO}") from None


def write_size(size: int) -> str:
    """Write a size with the largest binary unit that divides it."""
    for unit, bytes in _BINARY.items():
        if size and size % bytes == 0:
            return f"{size // bytes}{unit}"
    return str(size)


def round_size(size: int) -> str:
    """Write a size for people, with three digits or so: 11.8 GiB."""
    for unit, bytes in _BINARY.items():
        if size >= bytes:
            return f"{size / bytes:.3g} {unit}"
    return f"{size} bytes"
