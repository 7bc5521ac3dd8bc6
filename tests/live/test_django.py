"""The Django example, started as its document says, over real sockets."""

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

from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0

EXAMPLE = Path(__file__).parents[2] / "examples/django"

# Headers that a browser sends with a form of another site, and with one of the site's own.
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
OWN_FORM = {**FORM, "Cookie": f"csrftoken={'x' * 32}", "X-CSRFToken": "x" * 32}

APPLICATION = ["--wsgi", "mysite.wsgi:application"]


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """Run the example with further options; check that it logs no error."""
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
    """Return status and text of a page."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def open_socket(daemon: DaemonProcess, path: str) -> ClientConnection:
    """Open a WebSocket."""
    return open_socket_at(daemon.url, path)


def open_socket_at(url: str, path: str) -> ClientConnection:
    """Open a WebSocket of the site at a URL."""
    return connect(f"{url.replace('http', 'ws', 1)}{path}", open_timeout=TIMEOUT)


def test_pages(daemon: DaemonProcess) -> None:
    """Django serves all paths; the WebSocket-only one answers 426; CSRF is checked."""
    assert "<h1>Pushed by Django</h1>" in ask(daemon.url)[1]
    assert ask(daemon.url, path="/test/")[0] == 404
    assert ask(daemon.url, path="/ticks/")[0] == 426
    assert ask(daemon.url, path="/pushd/pushd.css")[0] == 200
    assert ask(daemon.url, "POST", "/chat/lobby/", "text=hello")[0] == 403


def test_ticks(daemon: DaemonProcess) -> None:
    """Ten messages come at the view's pace, then a clean close."""
    with open_socket(daemon, "ticks/") as websocket:
        start = monotonic()
        websocket.send("go")
        received = list(websocket)
        assert received == [f"service message: {number}" for number in range(10)]
        assert websocket.close_code == 1000
    assert monotonic() - start > 4.5


def test_chat(daemon: DaemonProcess) -> None:
    """Two clients in a room receive each other's messages."""
    with (
        open_socket(daemon, "chat/lobby/?name=ann") as ann,
        open_socket(daemon, "chat/lobby/?name=bob") as bob,
    ):
        # The view subscribes after the handshake; a client that receives its own message is in.
        bob.send("hello")
        assert json.loads(bob.recv(TIMEOUT)) == {"name": "bob", "text": "hello"}
        ann.send("hello, bob")
        assert json.loads(bob.recv(TIMEOUT)) == {"name": "ann", "text": "hello, bob"}
        received = [json.loads(ann.recv(TIMEOUT))]
        if received[0]["name"] == "bob":
            received.append(json.loads(ann.recv(TIMEOUT)))
        bob.send("hello, ann")
        received.append(json.loads(ann.recv(TIMEOUT)))
        assert [message["text"] for message in received[-2:]] == ["hello, bob", "hello, ann"]


def test_redis_away() -> None:
    """While Redis is unavailable, chat clients get an error, and continue when it is back."""
    with RedisServer(["--appendonly", "yes", "--appendfsync", "no"]) as server:
        args = [*APPLICATION, "--broker", server.url]
        with (
            DaemonProcess(args, directory=EXAMPLE) as daemon,
            open_socket(daemon, "chat/lobby/?name=ann") as ann,
        ):
            ann.send("hello")
            assert json.loads(ann.recv(TIMEOUT)) == {"name": "ann", "text": "hello"}
            server.kill()
            ann.send("anybody?")
            error = json.loads(ann.recv(TIMEOUT))
            assert error["name"] == "The chat"
            assert "Try again" in error["text"]
            status, text = ask(daemon.url, "POST", "/chat/lobby/", "text=hello", OWN_FORM)
            assert (status, text) == (503, error["text"])
            server.start()
            deadline = monotonic() + TIMEOUT
            while error["name"] != "ann":
                assert monotonic() < deadline, error
                sleep(0.05)
                ann.send("anybody?")
                error = json.loads(ann.recv(TIMEOUT))
            assert error["text"] == "anybody?"
            assert ask(daemon.url, "POST", "/chat/lobby/", "text=hi", OWN_FORM)[0] == 204
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


@pytest.mark.parametrize("daemon", [["--threads", "1"]], indirect=True)
def test_leave(daemon: DaemonProcess) -> None:
    """A client that disconnects frees its thread, whether the view waits or sleeps."""
    for path in ("chat/lobby/", "ticks/"):
        with open_when_free(daemon, path) as websocket:
            # Both views wait for a message without a timeout.
            with pytest.raises(InvalidStatus) as refused:
                open_socket(daemon, "ticks/")
            assert refused.value.response.status_code == 503
            websocket.send("go")
            websocket.recv(TIMEOUT)
    with open_when_free(daemon, "ticks/"):
        pass


def open_when_free(daemon: DaemonProcess, path: str) -> ClientConnection:
    """Connect once the thread is free."""
    deadline = monotonic() + TIMEOUT
    while True:
        try:
            return open_socket(daemon, path)
        except InvalidStatus as refused:
            assert refused.response.status_code == 503
            assert monotonic() < deadline


def test_stop(daemon: DaemonProcess) -> None:
    """SIGTERM closes all connections, and does not wait for a view that sleeps."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(open_socket(daemon, path)) for path in ("ticks/",) * 3]
        for websocket in sockets:
            websocket.send("go")
            websocket.recv(TIMEOUT)
        assert daemon.stop() == 0
        for websocket in sockets:
            received = list(websocket)
            # On a slow machine, one may have received all its messages by now.
            done = received[-1:] == ["service message: 9"]
            assert websocket.close_code == (1000 if done else 1001), received


@pytest.mark.parametrize("daemon", [["--threads", "128"]], indirect=True)
def test_hundred(daemon: DaemonProcess) -> None:
    """A hundred clients subscribe at once, and pages are served meanwhile."""

    async def browse() -> tuple[list[list[str]], set[int]]:
        loop = asyncio.get_running_loop()
        sockets = await asyncio.gather(
            *[
                connect_async(f"{daemon.url.replace('http', 'ws', 1)}ticks/", open_timeout=TIMEOUT)
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

    received, statuses = asyncio.run(asyncio.wait_for(browse(), 2 * TIMEOUT))
    assert received == [[f"service message: {number}" for number in range(10)]] * 100
    assert statuses == {200}


async def _listen(socket: object) -> list[str]:
    return [message async for message in socket]  # type: ignore[attr-defined] # a union's


def test_reload(tmp_path: Path) -> None:
    """``manage.py runpushd`` serves the site, and reloads it when its code changes."""
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
    output: SimpleQueue[str] = SimpleQueue()
    reader = Thread(target=_read, args=(process.stdout, output))
    reader.start()
    views = site / "mysite/views.py"
    try:
        assert _say_hello(output, _do_nothing) == "hello"
        views.write_text(views.read_text().replace("MAX_TEXT = 1000", "MAX_TEXT = 3"))
        # The reloader looks once a second, and takes what is new to it as unchanged.
        assert _say_hello(output, views.touch) == "hel"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT)
        reader.join(TIMEOUT)


def _read(lines: IO[str], output: SimpleQueue[str]) -> None:
    with lines:
        for line in lines:
            output.put(line)


def _say_hello(output: SimpleQueue[str], touch: Callable[[], object]) -> str:
    """Send a message in the lobby of the reloaded site; return what is received.

    A touch that comes too late reloads the site once more; then the message goes to that one.
    """
    while True:
        url = _next_url(output, touch)
        try:
            with open_socket_at(url, "chat/lobby/") as websocket:
                websocket.send("hello")
                return str(json.loads(websocket.recv(TIMEOUT))["text"])
        except (OSError, ConnectionClosed):
            touch = _do_nothing


def _do_nothing() -> None:
    """Do nothing."""


def _next_url(output: SimpleQueue[str], touch: Callable[[], object]) -> str:
    """Return the next URL in a log; touch the file until the reloader has seen the change."""
    lines: list[str] = []
    deadline = monotonic() + TIMEOUT
    while monotonic() < deadline:
        try:
            lines.append(output.get(timeout=2))
        except Empty:
            touch()
        else:
            if "changed, reloading" in lines[-1]:
                touch = _do_nothing
            if found := re.search(r"listening on (http://\S+)", lines[-1]):
                return found[1]
    raise AssertionError("".join(lines))
