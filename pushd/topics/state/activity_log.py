"""The activity log: which topics had publications that the last run may not have written.

With ``--state-sync second`` and ``none``, a publication is delivered before it is in the database.
If the daemon is killed in between, the topic has lost it, although clients may have it, and they
must be told. So each publication is noted here first: in memory that the process shares with a file
in memory (tmpfs), which outlives the process, but not the machine. That takes no system call. After
a loss of power, there is no log, and each topic may have lost something.

The file is an array of 64-bit numbers: the last sequence, then a ring with a check sum of the topic
of each of the last ``SIZE`` publications.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from zlib import crc32

#: How many publications it knows, at most.
SIZE = 1 << 16

_MASK = SIZE - 1
_BYTES = 8 * (1 + SIZE)

# Where Linux keeps files in memory, and where it says which folders are in memory.
_SHARED_MEMORY = Path("/dev/shm")
_MOUNTS = Path("/proc/self/mountinfo")


def find_memory(environ: Mapping[str, str], mounts: Path = _MOUNTS) -> list[Path]:
    """Return folders for the log, the best first: those that are in memory (tmpfs).

    systemd removes what a service has in ``/dev/shm`` when it stops, but not its
    ``RuntimeDirectory=`` with ``RuntimeDirectoryPreserve=restart``.
    """
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return [
        folder
        for folder in (Path(given), _SHARED_MEMORY)
        if folder.is_absolute() and _is_in_memory(folder, mounts)
    ]


def _is_in_memory(folder: Path, mounts: Path) -> bool:
    """Return whether what is in a folder is gone after a loss of power (proc_pid_mountinfo(5))."""
    try:
        device = folder.stat().st_dev
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(line.split()[2] == number and " - tmpfs " in line for line in lines)


class ActivityLog:
    """The log of one run.

    :param run: a random name of the run, which nobody can guess.
    :param folders: where its file may be, the best first. Without any, the log is in the memory of
        the process alone, and is lost with it.
    """

    def __init__(self, run: str, folders: Iterable[Path]) -> None:
        self._path: Path | None = None
        memory: mmap.mmap | bytearray = bytearray(_BYTES)
        for folder in folders:
            path = folder / _name(run)
            with suppress(OSError):
                memory, self._path = _create(path), path
                break
        self._numbers = memoryview(memory).cast("Q")

    @property
    def outlives_process(self) -> bool:
        """Whether the next run can read it, if the machine runs on."""
        return self._path is not None

    def note(self, sequence: int, topic: str) -> None:
        """Note a publication, before anybody knows of it."""
        numbers = self._numbers
        numbers[1 + (sequence & _MASK)] = crc32(topic.encode())
        numbers[0] = sequence

    def begin_at(self, sequence: int) -> None:
        """Note the last sequence of the run before."""
        self._numbers[0] = sequence

    def remove(self) -> None:
        """Remove the file: nothing is missing in the database."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()


class Activity:
    """What the log of a run says that has ended.

    :param sequence: of the last publication that anybody may know of.
    :param written: of the last one in the database.
    :param numbers: the ring.
    """

    def __init__(self, sequence: int, written: int, numbers: memoryview) -> None:
        self.sequence = sequence
        #: How many publications are missing in the database.
        self.missing = sequence - written
        known = range(written + 1, sequence + 1) if self.missing <= SIZE else ()
        self._topics = {numbers[1 + (one & _MASK)] for one in known}

    def may_have_lost(self, topic: str) -> bool:
        """Return whether a publication of a topic may be missing in the database."""
        return self.missing > SIZE or crc32(topic.encode()) in self._topics


def read_activity(run: str, folders: Iterable[Path], written: int) -> Activity | None:
    """Read the log of a run that has ended; None if there is none, or it cannot be trusted.

    :param written: the sequence of the last publication in the database.
    """
    for folder in folders:
        with suppress(OSError):
            content = _read(folder / _name(run))
            if len(content) == _BYTES:
                numbers = memoryview(content).cast("Q")
                return Activity(max(numbers[0], written), written, numbers)
    return None


def remove_activity(run: str, folders: Iterable[Path]) -> None:
    """Remove the log of a run that has ended, if there is one."""
    for folder in folders:
        with suppress(OSError):
            (folder / _name(run)).unlink()


def _name(run: str) -> str:
    return f"pushd-{run}"


def _create(path: Path) -> mmap.mmap:
    """Make the file, and share it. Raises OSError."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # All of it, so that a full memory is noticed here.
        os.posix_fallocate(descriptor, 0, _BYTES)
        return mmap.mmap(descriptor, _BYTES)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    """Read a file of this user. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(path)
        return file.read(_BYTES + 1)
