"""The file of a Unix socket: taken over if no process listens there, left alone if one does."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import suppress
from errno import EAGAIN, ECONNREFUSED, ELOOP
from socket import AF_UNIX, SOCK_STREAM, socket

from pushd.errors import SocketInUse

_USED = "another process listens there"


class SocketFile:
    """The file at which a daemon is about to listen.

    A daemon that was killed leaves its socket behind, and ``bind`` fails for any file that exists.
    Twisted's lock names a process id: that of the first process of a container is always in use,
    so it is replaced by a lock of the kernel, which ends with its process.

    :param path: of the socket; the lock is beside it, and has ``.lock`` appended to its name.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock_path = f"{path}.lock"
        self._lock: int | None = None

    def claim(self) -> None:
        """Remove a socket at which no process listens, and keep other daemons from the path.

        Raises SocketInUse if a process listens there, or if the file is something else than a
        socket; OSError if the path cannot be used.
        """
        self._lock = self._take_lock()
        try:
            if self._is_stale():
                os.unlink(self._path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other daemons have the path; does nothing when called again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            # The process may have dropped the privileges to do so.
            with suppress(OSError):
                os.unlink(self._lock_path)
            os.close(lock)

    def _take_lock(self) -> int:
        while True:
            try:
                lock = os.open(self._lock_path, os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except OSError as error:
                if error.errno != ELOOP:
                    raise
                # Twisted's lock, of an earlier version or of another program.
                self._is_stale()  # Raises if that still listens.
                os.unlink(self._lock_path)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(self._lock_path)):
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise SocketInUse(_USED) from None
            except FileNotFoundError:
                pass
            # Its owner has released it since it was opened.
            os.close(lock)

    def _is_stale(self) -> bool:
        """Return whether there is a socket at which no process listens."""
        try:
            kind = os.lstat(self._path).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISSOCK(kind):
            raise SocketInUse("there is a file that is not a socket")
        with socket(AF_UNIX, SOCK_STREAM) as probe:
            probe.setblocking(False)
            error = probe.connect_ex(self._path)
        if error in (0, EAGAIN):  # Or its backlog is full.
            raise SocketInUse(_USED)
        if error != ECONNREFUSED:
            raise SocketInUse(f"there is a socket of another program: {os.strerror(error)}")
        return True


def unix_path(endpoint: str) -> str | None:
    """Return the path in the description of a Unix endpoint; None for endpoints of other kinds."""
    kind, *parts = re.split(r"(?<!\\):", endpoint)
    if kind != "unix" or not parts:
        return None
    named = [part for part in parts if part.startswith("address=")]
    path = (named or parts)[0].removeprefix("address=")
    return re.sub(r"\\(.)", r"\1", path)
