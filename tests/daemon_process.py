"""A real daemon in a process of its own, for the tests that only real sockets can make."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGHUP, SIGTERM
from socket import socket
from threading import Condition, Thread
from time import monotonic, sleep
from types import TracebackType

TWISTD = Path(sys.executable).with_name("twistd")

# Where a daemon listens unless a test says otherwise: a free port, and nothing private. And it
# stops without taking its time.
DEFAULTS = {"--listen": "tcp:0:interface=127.0.0.1", "--control": "none", "--drain": "0"}

# Does what systemd does: the sockets begin at descriptor 3, and are for this process alone.
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

    ``args`` are further options; one of them takes the place of its default in ``DEFAULTS``. The
    daemon runs in ``directory``, and has ``patience`` seconds for each thing that is waited for.
    ``environment`` is what it has beside ours; ``sockets`` are passed to it by their names, as
    systemd passes them.
    """

    def __init__(
        self,
        args: Sequence[str] = (),
        *,
        directory: Path,
        patience: float = 60.0,
        environment: Mapping[str, str] | None = None,
        sockets: Mapping[str, socket] | None = None,
    ) -> None:
        self._environment = dict(environment or {})
        self._sockets = dict(sockets or {})
        self._command = [str(TWISTD), "-n", "--pidfile=", "pushd"]
        for option, value in DEFAULTS.items():
            if not any(arg == option or arg.startswith(f"{option}=") for arg in args):
                self._command += [option, value]
        self._command += args
        self._directory = directory
        self._patience = patience
        self._process: subprocess.Popen[str] | None = None
        self._reader = Thread(target=self._read, daemon=True)
        # Guards the two below, and tells of each change to them.
        self._news = Condition()
        self._lines: list[str] = []
        self._ended = False

    def __enter__(self) -> DaemonProcess:
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
        """The address of the first door that was opened, such as ``http://127.0.0.1:40000/``."""
        return self.wait_for(r"listening on (http://\S+)")[1]

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._started.pid

    @property
    def log(self) -> list[str]:
        """The lines that the daemon has said until now."""
        with self._news:
            return list(self._lines)

    def start(self) -> None:
        """Start the process, without waiting for its doors to open."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= self._environment
        command = self._command
        descriptors = [one.fileno() for one in self._sockets.values()]
        if descriptors:
            environment["LISTEN_FDS"] = str(len(descriptors))
            environment["LISTEN_FDNAMES"] = ":".join(self._sockets)
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
        self._reader.start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Find the first line of the log with this in it, waiting until there is one.

        Raises ``AssertionError``, with the log, when it does not come in time, or cannot any more.
        """
        deadline = monotonic() + self._patience
        seen = 0
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines)
                if self._ended:
                    raise self._complain(f"The daemon ended before it said {pattern!r}")
                if not self._news.wait(deadline - monotonic()):
                    raise self._complain(f"The daemon did not say {pattern!r} in time")

    def _wait_until_running(self) -> None:
        """Wait until the reactor runs: it opens some more descriptors, and then come the signals.

        They are taken over after the doors have opened, SIGHUP the last of them.
        """
        deadline = monotonic() + self._patience
        while not self._heeds_signals():
            if self._started.poll() is not None:
                raise self._complain("The daemon ended before its reactor ran")
            if monotonic() > deadline:
                raise self._complain("The daemon's reactor did not run in time")
            sleep(0.01)

    def _heeds_signals(self) -> bool:
        """Whether the process has answers of its own to them, or ignores SIGHUP: nohup means it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        caught, ignored = (int(fields[name], 16) for name in ("SigCgt", "SigIgn"))
        terminate, hang_up = 1 << SIGTERM - 1, 1 << SIGHUP - 1
        return bool(caught & terminate and (caught | ignored) & hang_up)

    def wait(self) -> int:
        """Wait for the process to end, and give its exit code; it is killed if it does not."""
        try:
            code = self._started.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._kill()
            raise self._complain("The daemon did not end in time") from None
        self._kill()
        return code

    def stop(self) -> int:
        """Ask the process to end, wait for it, and give its exit code.

        That code is 0 when all went well. Stopping what has ended gives its code again.
        """
        if self._started.poll() is None:
            self._started.terminate()
        return self.wait()

    @property
    def _started(self) -> subprocess.Popen[str]:
        assert self._process is not None, "The daemon was not started"
        return self._process

    def _read(self) -> None:
        stdout = self._started.stdout
        assert stdout is not None
        for line in stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _kill(self) -> None:
        self._started.kill()
        self._started.wait()
        self._reader.join(self._patience)
        if self._started.stdout is not None and not self._reader.is_alive():
            self._started.stdout.close()

    def _complain(self, words: str) -> AssertionError:
        return AssertionError("\n".join([f"{words}. Its log:", *self._lines]))
