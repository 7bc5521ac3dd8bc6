"""The workload of very many connections to one process: memory, idling, a publication, a restart.

The server of the runner only says how pushd is started. The one that is measured is passed its
socket, as by systemd, so that connections wait while it is restarted.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from bench.descriptors import raise_descriptors
from bench.load import run_load
from bench.readings import Readings, scaled
from bench.rival import Rival, Start
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

CONNECTIONS = 50_000

# Descriptors of the server and of the load generator for all but these connections.
_RESERVED = 300

# Source addresses, as one has too few ports.
_SOURCES = 16

# Seconds without publications, in which each connection is pinged; over which connections are
# closed before the restart; that a stop may take beyond these; and that all may take.
_IDLE, _DRAIN, _STOP, _LIMIT = 30, 15, 60, 600

# Publications to all; and the scale from which on the times are whole.
_TIMES, _WHOLE = 5, 0.1


def run_capacity(server: Server, scale: float) -> Mapping[str, float]:
    """C1: hold 50,000 subscribers, publish to all, restart, and wait until all are back."""
    count = scaled(CONNECTIONS, scale)
    # A quick look does not wait until all have been pinged.
    idle, drain = (_IDLE, _DRAIN) if scale >= _WHOLE else (1, 1)
    allow_connections(count)
    with (
        TemporaryDirectory(prefix="pushd-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=65535) as port,
        _Nodes(_with_socket(server.rival, port, count, drain), Path(folder)) as nodes,
    ):
        result = run_load(
            [
                *("restart", "--port", str(port.getsockname()[1]), "--subscribers", f"{count}"),
                *("--path", server.rival.paths["subscribe"]),
                *("--publish", server.rival.paths["publish"]),
                *("--sources", f"{_SOURCES}", "--rate", "4000", "--patience", "90"),
                *("--idle", f"{idle}", "--times", f"{_TIMES}"),
            ],
            nodes.look,
            limit=_LIMIT,
        )
    before = nodes.before
    return {
        "c1.memory": before.memory("empty", "full") / count,
        "c1.open": before.cpu("empty", "connected") / count,
        "c1.idle": before.cpu("connected", "full") / idle / 1e4,
        "c1.all": result["seconds_to_all"],
        "c1.cpu": before.cpu("start", "end") / result["deliveries"],
        "c1.back": result["back"],
        "c1.return": nodes.returned / count,
        "busy": result["busy"],
    }


def allow_connections(count: int) -> None:
    """Raise the limit of open files as far as necessary; raises ``Trouble`` if that fails."""
    needed = count + _RESERVED
    limit = raise_descriptors(needed)
    if limit < needed:
        most = floor((limit - _RESERVED) / CONNECTIONS * 100) / 100
        raise Trouble(
            f"{count:,} connections need {needed:,} open files, and the limit is {limit:,}: raise "
            f"it (ulimit -Hn, as root), or measure fewer with --scale {most:g}"
        )


def _with_socket(rival: Rival, port: socket.socket, count: int, drain: int) -> Rival:
    """Return the rival with a socket that is passed to it, as systemd does."""

    def start(folder: Path) -> Start:
        given = rival.start(folder)
        number = port.fileno()
        pass_it = f'export LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$; exec "$@" 3<&{number}'
        more = ["--listen", "systemd:domain=INET:index=0", "--drain", f"{drain}"]
        more += ["--max-connections", f"{count + 200}", "--log-level", "info"]
        command = ["sh", "-c", pass_it, "sh", *_without(given.command, "--listen"), *more]
        return replace(given, command=command, descriptors=(number,))

    return replace(rival, name=f"{rival.name}-capacity", start=start)


def _without(command: list[str], option: str) -> list[str]:
    """Return a command without an option and its value."""
    place = command.index(option)
    return command[:place] + command[place + 2 :]


class _Nodes:
    """The server before and after its restart, for a ``with`` block."""

    def __init__(self, rival: Rival, folder: Path) -> None:
        self._rival, self._folder = rival, folder
        self._server = Server(rival, folder)
        self.before = Readings(self._server)
        #: CPU time of the new server until all are back, in microseconds.
        self.returned = 0.0
        self._started = 0.0
        self._restart = Thread(target=self._run_restart)
        self._trouble: Exception | None = None

    def __enter__(self) -> _Nodes:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._restart.is_alive():
            self._restart.join()
        self._server.stop()

    def look(self, gate: str) -> None:
        """Measure the server at a gate; restart it while the load generator goes on."""
        if gate == "restart":
            self._restart.start()
        elif gate == "back":
            self._restart.join()
            if self._trouble is not None:
                raise self._trouble
            self.returned = self._server.cpu() - self._started
        else:
            self.before.look(gate)

    def _run_restart(self) -> None:
        try:
            self._server.stop(_DRAIN + _STOP)
            self._server = Server(self._rival, self._folder)
            self._server.__enter__()
            self._started = self._server.cpu()
        except (Trouble, OSError) as trouble:
            self._trouble = trouble


CAPACITY: tuple[Workload, ...] = (
    Workload(
        "c1",
        "50,000 connections to one process",
        run_capacity,
        (
            Measure("c1.memory", "C1 50,000 subscribers: memory per connection", "KiB"),
            Measure("c1.open", "C1 CPU to open a connection", "µs"),
            Measure("c1.idle", "C1 CPU while all are idle", "% of a core"),
            Measure("c1.all", "C1 until all have a publication", "s"),
            Measure("c1.cpu", "C1 CPU per delivery", "µs"),
            Measure("c1.back", "C1 from the restart until all are back", "s"),
            Measure("c1.return", "C1 CPU of the new process per connection", "µs"),
        ),
        rivals=frozenset({"pushd"}),
        family="Very many connections",
        slow=True,
    ),
)
