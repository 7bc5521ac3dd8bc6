"""Start a server, find its port, measure it, and stop it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bench.processes import find_family, measure_cpu, measure_memory
from bench.rival import Rival

# How long a server may take until it listens, in seconds.
PATIENCE = 20


class Trouble(Exception):
    """A server or the load generator failed; the message says how."""


class Server:
    """Run a rival for the duration of a ``with`` block; its output goes to a log file."""

    def __init__(self, rival: Rival, folder: Path) -> None:
        self.rival = rival
        self.port = 0
        #: Where publishers post: another port, if the server has one for them.
        self.control_port = 0
        self._folder = folder
        self._log = folder / f"{rival.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        start = self.rival.start(self._folder)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                start.command,
                cwd=start.directory,
                env={**os.environ, **start.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=start.descriptors,
            )
        try:
            self.port = self._find_port(start.ready, start.port)
            self.control_port = self._find_port(start.control) if start.control else self.port
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self, patience: float = 1) -> None:
        """End it, and kill it if that takes more than ``patience`` seconds.

        Some servers take long to close thousands of connections; that is not measured.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            for pid in reversed(find_family(self._process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def cpu(self) -> float:
        """Return the CPU time spent so far, in microseconds."""
        return measure_cpu(self._family())

    def memory(self) -> int:
        """Return the current resident memory, in KiB."""
        return measure_memory(self._family())

    def _family(self) -> list[int]:
        assert self._process is not None
        if self._process.poll() is not None:
            raise self._complain("ended")
        return find_family(self._process.pid)

    def _find_port(self, line: str, port: int | None = None) -> int:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if match := re.search(line, self._log.read_text(errors="replace")):
                return port or int(match[1])
            self._family()
            time.sleep(0.02)
        raise self._complain("did not listen in time")

    def _complain(self, words: str) -> Trouble:
        log = self._log.read_text(errors="replace").splitlines()[-8:]
        return Trouble("\n    ".join([f"{self.rival.name} {words}; its log ends:", *log]))
