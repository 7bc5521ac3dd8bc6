"""A real Redis in a process of its own, which writes nothing to disk by default."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, socket
from threading import Event, Thread
from types import TracebackType
from typing import Any

import hiredis

# The type stub of hiredis allows only commands of one word.
_pack: Any = hiredis.pack_command

# Timeout of everything that Redis does, in seconds.
_TIMEOUT = 20.0


class RedisServer:
    """A context manager that runs ``redis-server`` on a Unix socket in a new folder.

    :param args: further options, such as ``--appendonly yes``.
    :param port: a TCP port to listen on as well; 0 for none.
    """

    def __init__(self, args: Sequence[str] = (), *, port: int = 0) -> None:
        #: Further options for the next start.
        self.args = args
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self._reader: Thread | None = None
        # A short path: those of Unix sockets are limited to about 100 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="pushd-redis-"))
        self.log: list[str] = []

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    @property
    def path(self) -> Path:
        """The path of its Unix socket."""
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        """The value for ``--broker``."""
        return f"unix://{self.path}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        ready = Event()
        self._process = subprocess.Popen(
            [
                *("redis-server", "--port", str(self._port), "--bind", "127.0.0.1"),
                *("--unixsocket", str(self.path), "--dir", str(self.directory)),
                *("--save", "", "--daemonize", "no", "--enable-debug-command", "yes"),
                *self.args,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        self._reader = Thread(target=self._read, args=(self._process, ready), daemon=True)
        self._reader.start()
        if not ready.wait(_TIMEOUT) or self._process.poll() is not None:
            self.kill()
            raise AssertionError("\n".join(["Redis did not start. Its log:", *self.log]))

    def kill(self) -> None:
        """Kill it, as the kernel does when memory runs out, and the process that writes its files.

        That one has the same output, which ends when both have.
        """
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_TIMEOUT)
            assert self._reader is not None
            self._reader.join(_TIMEOUT)
            self._process = None

    def pause(self) -> None:
        """Suspend the process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *args: str | int | bytes, password: str | None = None) -> Any:
        """Run a command over a new connection."""
        reader = hiredis.Reader()
        with socket(AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(self.path))
            commands = [("AUTH", password)] if password is not None else []
            for command in (*commands, args):
                connection.sendall(_pack(tuple(command)))
                while (answer := reader.gets()) is False:
                    reader.feed(connection.recv(1 << 16))
        return answer

    def _read(self, process: subprocess.Popen[str], ready: Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.log.append(line.rstrip("\n"))
                if "eady to accept connections" in line:
                    ready.set()
        ready.set()
