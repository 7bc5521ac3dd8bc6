"""Processes that a fork server starts: a part of the interface of ``subprocess.Popen``."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from select import select
from signal import SIGKILL, SIGTERM
from socket import AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM, send_fds, socket, socketpair
from threading import Lock
from typing import TextIO

from tests.support import fork_server

# A server takes one request at a time.
_lock = Lock()


class ForkedProcess:
    """A daemon that the fork server of this process has started.

    :param command: that of twistd, with its full path.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        #: The exit code, or minus the signal that ended it; None while it runs.
        self.returncode: int | None = None
        request = {"command": list(command), "directory": str(cwd), "environment": dict(env)}
        self._reports, report = socketpair(AF_UNIX, SOCK_STREAM)
        source, output = os.pipe()
        with report:
            try:
                descriptors = [report.fileno(), output]
                with _lock:
                    send_fds(_server(os.getpid()), [json.dumps(request).encode()], descriptors)
            finally:
                os.close(output)
        #: What it writes.
        self.stdout: TextIO = os.fdopen(source, encoding="utf-8", errors="replace")
        self._lines = self._reports.makefile("r")
        #: Its process id.
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        if self.returncode is None and select([self._reports], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended. Raises TimeoutExpired after some seconds."""
        if self.returncode is None:
            if not select([self._reports], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired("twistd", timeout)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self._send(SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._send(SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _end(self) -> None:
        self.returncode = int(self._lines.readline())
        self._lines.close()
        self._reports.close()


@cache
def _server(pid: int) -> socket:
    """Start the fork server of this process, and return a socket for requests.

    It ends with this process, which closes the socket, and then all that it has started end.
    """
    requests, other = socketpair(AF_UNIX, SOCK_SEQPACKET)
    with other:
        # -I, so that pushd is the one that twistd would import: not that of this folder.
        server = subprocess.Popen(
            [sys.executable, "-I", fork_server.__file__, str(other.fileno())],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
        )
    atexit.register(_end_server, requests, server)
    return requests


def _end_server(requests: socket, server: subprocess.Popen[bytes]) -> None:
    requests.close()
    server.wait()
