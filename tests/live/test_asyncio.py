"""``--loop asyncio`` over real sockets, with the libraries that views use there."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.daemon_process import DEFAULTS, TWISTD, DaemonProcess
from tests.support.redis_server import RedisServer

VIEWS = "tests.live.asyncio_views"
ARGS = ["--loop", "asyncio", "--views", f"{VIEWS}:views"]
BROWSERS = 200
PATIENCE = 60.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run the views, beside a Redis."""
    folder = tmp_path_factory.mktemp("asyncio")
    with RedisServer() as server:
        environment = {"REDIS_OF_VIEWS": f"unix://{server.directory / 'redis.sock'}"}
        args = [*ARGS, "--authorize", f"{VIEWS}:authorize", "--view-grace", "1"]
        with DaemonProcess(args, directory=folder, environment=environment) as process:
            yield process


def url(daemon: DaemonProcess, path: str) -> str:
    """Return the URL of a WebSocket."""
    return f"{daemon.url.replace('http', 'ws', 1)}{path}"


def fetch(daemon: DaemonProcess, path: str) -> str:
    """Return a page."""
    with urlopen(f"{daemon.url}{path}", timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
    return text


def wait_until_ended(daemon: DaemonProcess, *names: str) -> None:
    """Wait until conversations have ended."""
    deadline = monotonic() + PATIENCE
    while not set(names) <= set(fetch(daemon, "ended/").split()):
        assert monotonic() < deadline, names
        sleep(0.05)


def together(
    daemon: DaemonProcess, path: str, talk: Callable[[ClientConnection, int], Awaitable[None]]
) -> None:
    """Open 200 WebSockets at once, and let each talk."""

    async def one(number: int) -> None:
        async with connect(
            url(daemon, path.format(number)), open_timeout=PATIENCE, proxy=None
        ) as websocket:
            await talk(websocket, number)

    async def all_together() -> None:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(BROWSERS):
                group.create_task(one(number))

    asyncio.run(all_together())


def test_start_line(daemon: DaemonProcess) -> None:
    """One line says which loop it is: uvloop if that is installed."""
    line = daemon.wait_for("running on asyncio's event loop, (.*): views can await")
    expected = "uvloop's Loop" if importlib.util.find_spec("uvloop") else "asyncio's Unix"
    assert line[1].startswith(expected)


def test_http_clients(daemon: DaemonProcess) -> None:
    """The clients of httpx and aiohttp work, for 200 browsers at once."""

    async def talk(websocket: ClientConnection, number: int) -> None:
        await websocket.send(str(number))
        assert await websocket.recv() == f"page {number} page {number}"

    together(daemon, "fetch/", talk)


def test_database(daemon: DaemonProcess) -> None:
    """The async engine of SQLAlchemy works, on aiosqlite."""

    async def talk(websocket: ClientConnection, number: int) -> None:
        for count in ("1", "2"):
            await websocket.send("line")
            assert await websocket.recv() == count

    together(daemon, "database/", talk)


def test_redis(daemon: DaemonProcess) -> None:
    """The client of Redis works, with a subscription in a task group of anyio."""

    async def talk(websocket: ClientConnection, number: int) -> None:
        assert await websocket.recv() == "ready"
        for message in ("a", "b"):
            await websocket.send(message)
            assert await websocket.recv() == message

    together(daemon, "redis/?channel={}", talk)
    wait_until_ended(daemon, "redis")


def test_everything(daemon: DaemonProcess) -> None:
    """Tasks, queues, threads, schedules, Deferreds and topics, for 200 browsers at once."""

    async def talk(websocket: ClientConnection, number: int) -> None:
        for message in ("a", "b"):
            await websocket.send(message)
            received = [await websocket.recv() for _ in range(3)]
            pushes = [f"push {n} of {number}" for n in range(2)]
            assert received == [*pushes, f"{message * 2} {number}"]

    together(daemon, "everything/?n={}", talk)
    wait_until_ended(daemon, *map(str, range(BROWSERS)))


def test_grace(daemon: DaemonProcess) -> None:
    """A view that waits on after its grace is cancelled, and its tasks with it."""

    async def come_and_leave() -> None:
        async with connect(url(daemon, "stuck/"), proxy=None):
            pass

    asyncio.run(come_and_leave())
    wait_until_ended(daemon, "child", "stuck")
    daemon.wait_for("still running 1 s after the end of its conversation")


def test_authorizer(daemon: DaemonProcess) -> None:
    """An authorizer awaits another server."""
    assert "publications" in fetch(daemon, "topics/news?wait=0")
    with pytest.raises(HTTPError, match="403"):
        fetch(daemon, "topics/secret?wait=0")


def test_failing_task(daemon: DaemonProcess) -> None:
    """A task that fails behind its view is logged, with its traceback."""
    fetch(daemon, "fail/")
    daemon.wait_for("asyncio: Task exception was never retrieved")
    daemon.wait_for("ZeroDivisionError")


def start(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Start a daemon, stop it once its ports are open, and return its log."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            lines = []
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if " open http" in line:
                    process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        finally:
            process.kill()
    return "".join(lines)


OPTIONS = [word for option in DEFAULTS.items() for word in option]
WITH_REACTOR_IMPORTED = "from twisted.internet import reactor\nviews = {}\n"


@pytest.mark.parametrize("way", ["option", "variable", "file", "tac", "reactor", "views"])
def test_ways(way: str, tmp_path: Path) -> None:
    """The loop is installed in time, wherever the option comes from, and twistd can do it."""
    environment: dict[str, str] = {}
    command = [str(TWISTD), "-n", "--pidfile="]
    options: list[str] = []
    if way == "option":
        options = ["--loop", "asyncio"]
    elif way == "variable":
        environment["PUSHD_LOOP"] = "asyncio"
    elif way == "file":
        (tmp_path / "pushd.toml").write_text('loop = "asyncio"\n')
        options = ["--config", "pushd.toml"]
    elif way == "reactor":
        command += ["--reactor", "asyncio"]
    elif way == "views":
        (tmp_path / "imports_reactor.py").write_text(WITH_REACTOR_IMPORTED)
        options = ["--loop", "asyncio", "--views", "imports_reactor:views"]
    if way == "tac":
        tac = Path(__file__).parents[2] / "pushd.tac"
        environment["PUSHD_OPTIONS"] = " ".join([*OPTIONS, "--loop", "asyncio"])
        command += ["-y", str(tac)]
    else:
        command += ["pushd", *OPTIONS, *options]
    log = start(command, tmp_path, environment)
    assert "running on asyncio's event loop" in log
    assert "Server Shut Down" in log
    assert "Traceback" not in log


def test_too_late(tmp_path: Path) -> None:
    """If twistd has installed another reactor, the daemon ends with one line."""
    command = [str(TWISTD), "-n", "--pidfile=", "--reactor", "select", "pushd", *OPTIONS]
    done: Any = subprocess.run(
        [*command, "--loop", "asyncio"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "pushd: --loop asyncio: SelectReactor is installed already: start twistd without "
        "--reactor, or with --reactor asyncio"
    ]


def test_daemonized(tmp_path: Path) -> None:
    """The loop works in the process that twistd forks, too."""
    command = [str(TWISTD), "--pidfile=pid", "--logfile=log", "pushd", *OPTIONS]
    subprocess.run(
        [*command, "--loop", "asyncio", "--views", f"{VIEWS}:views"],
        cwd=tmp_path,
        timeout=PATIENCE,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pid = int((tmp_path / "pid").read_text())
    try:
        log = ""
        deadline = monotonic() + PATIENCE
        while "listening on " not in log:
            assert monotonic() < deadline
            sleep(0.05)
            log = (tmp_path / "log").read_text()
        port = log.partition("listening on ")[2].split()[0]
        with urlopen(f"{port}page/?n=1", timeout=PATIENCE) as answer:
            assert answer.read() == b"page 1"
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = monotonic() + PATIENCE
    while "Server Shut Down" not in (tmp_path / "log").read_text():
        assert monotonic() < deadline
        sleep(0.05)
