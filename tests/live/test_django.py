"""The Django example as its document says to run it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep
from typing import IO
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.daemon_process import DaemonProcess
from tests.redis_server import RedisServer

# How long anything may take that is not to take long, in seconds.
PATIENCE = 60.0

EXAMPLE = Path(__file__).parents[2] / "examples/django"

# What a browser sends with a form of a stranger's, and with one of the site's own.
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
OWN_FORM = {**FORM, "Cookie": f"csrftoken={'x' * 32}", "X-CSRFToken": "x" * 32}

APPLICATION = ["--wsgi", "mysite.wsgi:application"]


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """Run the example with further options; nothing that went wrong may stand in the log."""
    args = [*APPLICATION, *getattr(request, "param", [])]
    with DaemonProcess(args, directory=EXAMPLE) as daemon:
        yield daemon
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


def ask(
    url: str,
    method: str = "GET",
    path: str = "/",
    body: str | None = None,
    headers: Mapping[str, str] = FORM,
) -> tuple[int, str]:
    """Give status and text of a page."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def open_socket(daemon: DaemonProcess, path: str) -> ClientConnection:
    """Open a WebSocket."""
    return open_socket_at(daemon.url, path)


def open_socket_at(url: str, path: str) -> ClientConnection:
    """Open a WebSocket of the site at an address."""
    return connect(f"{url.replace('http', 'ws', 1)}{path}", open_timeout=PATIENCE)


def test_pages(daemon: DaemonProcess) -> None:
    """Django has all paths; the one that only speaks WebSocket says so; CSRF is checked."""
    assert "<h1>Pushed by Django</h1>" in ask(daemon.url)[1]
    assert ask(daemon.url, path="/test/")[0] == 404
    assert ask(daemon.url, path="/ticks/")[0] == 426
    assert ask(daemon.url, path="/pushd/pushd.css")[0] == 200
    assert ask(daemon.url, "POST", "/chat/lobby/", "text=hello")[0] == 403


def test_ticks(daemon: DaemonProcess) -> None:
    """Ten pushes come at the view's own pace, and a clean end."""
    with open_socket(daemon, "ticks/") as websocket:
        start = monotonic()
        websocket.send("go")
        heard = list(websocket)
        assert heard == [f"service message: {number}" for number in range(10)]
        assert websocket.close_code == 1000
    assert monotonic() - start > 4.5


def test_chat(daemon: DaemonProcess) -> None:
    """Two in a room hear each other."""
    with (
        open_socket(daemon, "chat/lobby/?name=ann") as ann,
        open_socket(daemon, "chat/lobby/?name=bob") as bob,
    ):
        ann.send("hello")
        assert json.loads(ann.recv(PATIENCE)) == {"name": "ann", "text": "hello"}
        bob.send("hello, ann")
        assert [json.loads(bob.recv(PATIENCE))["name"] for _ in range(2)] == ["ann", "bob"]


def test_redis_away() -> None:
    """While Redis is away, who speaks in the chat is told, and goes on when it is back."""
    with RedisServer(["--appendonly", "yes", "--appendfsync", "no"]) as server:
        args = [*APPLICATION, "--broker", server.url]
        with (
            DaemonProcess(args, directory=EXAMPLE) as daemon,
            open_socket(daemon, "chat/lobby/?name=ann") as ann,
        ):
            ann.send("hello")
            assert json.loads(ann.recv(PATIENCE)) == {"name": "ann", "text": "hello"}
            server.kill()
            ann.send("anybody?")
            told = json.loads(ann.recv(PATIENCE))
            assert told["name"] == "The chat"
            assert "Try again" in told["text"]
            status, text = ask(daemon.url, "POST", "/chat/lobby/", "text=hello", OWN_FORM)
            assert (status, text) == (503, told["text"])
            server.start()
            deadline = monotonic() + PATIENCE
            while told["name"] != "ann":
                assert monotonic() < deadline, told
                sleep(0.05)
                ann.send("anybody?")
                told = json.loads(ann.recv(PATIENCE))
            assert told["text"] == "anybody?"
            assert ask(daemon.url, "POST", "/chat/lobby/", "text=hi", OWN_FORM)[0] == 204
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


@pytest.mark.parametrize("daemon", [["--threads", "1"]], indirect=True)
def test_leave(daemon: DaemonProcess) -> None:
    """A browser that leaves gives its thread back: where that waits, and where it sleeps."""
    for path in ("chat/lobby/", "ticks/"):
        with open_when_free(daemon, path) as websocket:
            # Both wait for a word, for as long as it takes.
            with pytest.raises(InvalidStatus) as refused:
                open_socket(daemon, "ticks/")
            assert refused.value.response.status_code == 503
            websocket.send("go")
            websocket.recv(PATIENCE)
    with open_when_free(daemon, "ticks/"):
        pass


def open_when_free(daemon: DaemonProcess, path: str) -> ClientConnection:
    """Connect once the thread is free."""
    deadline = monotonic() + PATIENCE
    while True:
        try:
            return open_socket(daemon, path)
        except InvalidStatus as refused:
            assert refused.response.status_code == 503
            assert monotonic() < deadline


def test_stop(daemon: DaemonProcess) -> None:
    """SIGTERM says goodbye to all, and does not wait for a view that sleeps."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(open_socket(daemon, path)) for path in ("ticks/",) * 3]
        for websocket in sockets:
            websocket.send("go")
            websocket.recv(PATIENCE)
        assert daemon.stop() == 0
        for websocket in sockets:
            heard = list(websocket)
            # One that has had all its pushes by now, as the machine had other things to do.
            done = heard[-1:] == ["service message: 9"]
            assert websocket.close_code == (1000 if done else 1001), heard


@pytest.mark.parametrize("daemon", [["--threads", "128"]], indirect=True)
def test_hundred(daemon: DaemonProcess) -> None:
    """A hundred browsers listen at once, and pages are served meanwhile."""

    async def browse() -> tuple[list[list[str]], set[int]]:
        loop = asyncio.get_running_loop()
        sockets = await asyncio.gather(
            *[
                connect_async(f"{daemon.url.replace('http', 'ws', 1)}ticks/", open_timeout=PATIENCE)
                for _ in range(100)
            ]
        )
        for socket in sockets:
            await socket.send("go")
        listening = asyncio.gather(*[_listen(socket) for socket in sockets])
        statuses = set()
        while not listening.done():
            statuses.add((await loop.run_in_executor(None, ask, daemon.url))[0])
        return await listening, statuses

    heard, statuses = asyncio.run(asyncio.wait_for(browse(), 2 * PATIENCE))
    assert heard == [[f"service message: {number}" for number in range(10)]] * 100
    assert statuses == {200}


async def _listen(socket: object) -> list[str]:
    return [message async for message in socket]  # type: ignore[attr-defined] # a union's


def test_reload(tmp_path: Path) -> None:
    """``manage.py runpushd`` serves the site, and serves it anew when its code has changed."""
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE, site, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-u", "manage.py", "runpushd", "0", "--", "--control", "none"]
    process = subprocess.Popen(
        command,
        cwd=site,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said: SimpleQueue[str] = SimpleQueue()
    reader = Thread(target=_read, args=(process.stdout, said))
    reader.start()
    views = site / "mysite/views.py"
    try:
        assert _say_hello(said, _wait) == "hello"
        views.write_text(views.read_text().replace("MAX_TEXT = 1000", "MAX_TEXT = 3"))
        # The reloader looks once a second, and takes what it has not seen before for unchanged.
        assert _say_hello(said, views.touch) == "hel"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        reader.join(PATIENCE)


def _read(lines: IO[str], said: SimpleQueue[str]) -> None:
    with lines:
        for line in lines:
            said.put(line)


def _say_hello(said: SimpleQueue[str], nudge: Callable[[], object]) -> str:
    """Say hello in the lobby of the site that is served next; give what is heard there.

    A nudge that comes too late has it served anew once more: then it is that one.
    """
    while True:
        url = _next_url(said, nudge)
        try:
            with open_socket_at(url, "chat/lobby/") as websocket:
                websocket.send("hello")
                return str(json.loads(websocket.recv(PATIENCE))["text"])
        except (OSError, ConnectionClosed):
            nudge = _wait


def _wait() -> None:
    """Do nothing about it."""


def _next_url(said: SimpleQueue[str], nudge: Callable[[], object]) -> str:
    """Give the URL that comes next in a log; nudge who writes it until it has seen a change."""
    lines: list[str] = []
    deadline = monotonic() + PATIENCE
    while monotonic() < deadline:
        try:
            lines.append(said.get(timeout=2))
        except Empty:
            nudge()
        else:
            if "changed, reloading" in lines[-1]:
                nudge = _wait
            if found := re.search(r"listening on (http://\S+)", lines[-1]):
                return found[1]
    raise AssertionError("".join(lines))
