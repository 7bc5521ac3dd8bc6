"""A real daemon in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGCHLD
from socket import socket
from threading import Condition, Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from tests.support.forked_process import ForkedProcess

TWISTD = Path(sys.executable).with_name("twistd")

# Options of every daemon, unless a test gives others: a free port, no control port, and a stop that
# closes all connections at once.
DEFAULTS = {"--listen": "tcp:0:interface=127.0.0.1", "--control": "none", "--drain": "0"}

# Passes sockets as systemd does: from descriptor 3 on, and to this process id.
_ACTIVATE = """
import os, sys
descriptors = [int(number) for number in sys.argv[1].split(",")]
high = [os.dup2(one, 100 + at) for at, one in enumerate(descriptors)]
for at, one in enumerate(high):
    os.dup2(one, 3 + at)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class DaemonProcess:
    """Run ``twistd -n pushd``: started on ``with``, stopped in order after it.

    ``args`` are further options, which replace their defaults in ``DEFAULTS``. The daemon runs in
    ``directory``; whatever is waited for may take ``patience`` seconds. ``environment`` is added to
    that of this process; ``sockets`` are passed by their names, as systemd passes them. It is
    forked from a process that has imported pushd, unless it is to be a new program (``is_new``), or
    has something that is read as a program starts: sockets, or certain variables. So is one whose
    ``twistd`` is that of another environment.
    """

    def __init__(
        self,
        args: Sequence[str] = (),
        *,
        directory: Path,
        patience: float = 60.0,
        environment: Mapping[str, str] | None = None,
        sockets: Mapping[str, socket] | None = None,
        is_new: bool = False,
        twistd: Path = TWISTD,
    ) -> None:
        self._environment = dict(environment or {})
        self._sockets = dict(sockets or {})
        self._command = [str(twistd), "-n", "--pidfile=", "pushd"]
        for option, value in DEFAULTS.items():
            if not any(arg == option or arg.startswith(f"{option}=") for arg in args):
                self._command += [option, value]
        self._command += args
        self._directory = directory
        self._patience = patience
        self._is_new = is_new or bool(sockets) or twistd != TWISTD
        self._is_new |= any(map(_is_read_at_start, self._environment))
        self._process: subprocess.Popen[str] | ForkedProcess | None = None
        self._reader = Thread(target=self._read, daemon=True)
        # Guards the next two, and is notified of each change to them.
        self._changed = Condition()
        self._lines: list[str] = []
        self._ended = False

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_for(r"listening on http")
            self._wait_until_running()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of the first port, such as ``http://127.0.0.1:40000/``."""
        return self.wait_for(r"listening on (http://\S+)")[1]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._started.pid

    @property
    def log(self) -> list[str]:
        """The lines of the log until now."""
        with self._changed:
            return list(self._lines)

    def start(self) -> None:
        """Start the process, without waiting until its ports are open."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= self._environment
        command = self._command
        descriptors = [one.fileno() for one in self._sockets.values()]
        if descriptors:
            environment["LISTEN_FDS"] = str(len(descriptors))
            environment["LISTEN_FDNAMES"] = ":".join(self._sockets)
        if self._is_new:
            if descriptors:
                numbers = ",".join(map(str, descriptors))
                command = [sys.executable, "-c", _ACTIVATE, numbers, *command]
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=environment,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        else:
            self._process = ForkedProcess(command, cwd=self._directory, env=environment)
        self._reader.start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Find the first line of the log that matches a pattern; wait until there is one.

        Raises ``AssertionError``, with the log, if it does not come in time, or the daemon ends.
        """
        deadline = monotonic() + self._patience
        seen = 0
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines)
                if self._ended:
                    raise self._failure(f"The daemon ended before it logged {pattern!r}")
                if not self._changed.wait(deadline - monotonic()):
                    raise self._failure(f"The daemon did not log {pattern!r} in time")

    def _wait_until_running(self) -> None:
        """Wait until the reactor runs: it opens more descriptors after the ports have opened."""
        deadline = monotonic() + self._patience
        while not self._handles_children():
            if self._started.poll() is not None:
                raise self._failure("The daemon ended before its reactor ran")
            if monotonic() > deadline:
                raise self._failure("The daemon's reactor did not run in time")
            sleep(0.01)

    def _handles_children(self) -> bool:
        """Whether the process handles SIGCHLD, as Twisted's reactor does when it starts."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return bool(int(fields["SigCgt"], 16) & 1 << SIGCHLD - 1)

    def wait(self) -> int:
        """Wait for the process to end, and return its exit code; kill it after the time-out."""
        try:
            code = self._started.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._kill()
            raise self._failure("The daemon did not end in time") from None
        self._kill()
        return code

    def stop(self) -> int:
        """Terminate the process, wait for it, and return its exit code: 0 after a clean stop.

        For a process that has ended, return its code again.
        """
        if self._started.poll() is None:
            self._started.terminate()
        return self.wait()

    @property
    def _started(self) -> subprocess.Popen[str] | ForkedProcess:
        assert self._process is not None, "The daemon was not started"
        return self._process

    def _read(self) -> None:
        stdout = self._started.stdout
        assert stdout is not None
        for line in stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _kill(self) -> None:
        self._started.kill()
        self._started.wait()
        self._reader.join(self._patience)
        if self._started.stdout is not None and not self._reader.is_alive():
            self._started.stdout.close()

    def _failure(self, words: str) -> AssertionError:
        return AssertionError("\n".join([f"{words}. Its log:", *self._lines]))


def _is_read_at_start(name: str) -> bool:
    """Return whether a variable is read by the interpreter, the dynamic linker or an import."""
    return name.startswith(("PYTHON", "LD_", "AUTOBAHN_", "TZ", "LC_", "LANG"))
