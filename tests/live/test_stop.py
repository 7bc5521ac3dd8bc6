"""Stopping and restarting a real process, with real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.daemon_process import TWISTD, DaemonProcess
from tests.support.held_port import held_port

ROOT = Path(__file__).parents[2]

# Time-out of everything, in seconds.
PATIENCE = 60.0

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")

VIEWS = """
import time
from pushd.views import require_websocket

@require_websocket
def sleepy(request):
    request.websocket.send("good night")
    time.sleep(3600)

views = {"/sleepy/": sleepy}
"""


def control_of(daemon: DaemonProcess) -> str:
    """Return host and port of a daemon's control port."""
    return urlsplit(daemon.wait_for(r"control port listening on (http://\S+)")[1]).netloc


@contextmanager
def asking(place: str, method: str, path: str, body: bytes | None = None) -> Iterator[HTTPResponse]:
    """Send a request; give the response once its head has arrived."""
    connection = HTTPConnection(place, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        yield connection.getresponse()
    finally:
        connection.close()


def ask(place: str, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request; return status and JSON of the response."""
    with asking(place, method, path, body) as answer:
        return answer.status, json.loads(answer.read())


def open_connection(place: str) -> socket.socket:
    """Open a TCP connection."""
    host, _, port = place.partition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def listen(place: str, path: str) -> ClientConnection:
    """Open a WebSocket."""
    protocols = [Subprotocol("pushd.v1")]
    return connect(f"ws://{place}{path}", subprotocols=protocols, open_timeout=PATIENCE)


def code_of(websocket: ClientConnection) -> int | None:
    """Read to the end, and return the code of the server's Close frame."""
    with pytest.raises(ConnectionClosed) as raised:
        while True:
            websocket.recv(PATIENCE)
    return None if raised.value.rcvd is None else raised.value.rcvd.code


def test_drain(tmp_path: Path) -> None:
    """A draining daemon is not ready and refuses connections; a second signal ends it at once."""
    with ExitStack() as stack:
        # No other process gets this port when the daemon has closed it.
        endpoint = f"tcp:{stack.enter_context(held_port())}:interface=127.0.0.1"
        args = [*CONTROL, "--listen", endpoint, "--drain", "600"]
        daemon = stack.enter_context(DaemonProcess(args, directory=tmp_path))
        public, control = urlsplit(daemon.url).netloc, control_of(daemon)
        assert ask(control, "GET", "/readyz") == (200, {"status": "ready"})
        sockets = [stack.enter_context(listen(public, "/topics/t")) for _ in range(3)]
        for each in sockets:
            assert json.loads(each.recv(PATIENCE))["subscribed"] == "t"
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait_for("SIGTERM: shutting down")
        status = ask(control, "GET", "/readyz")
        assert status == (503, {"status": "not ready", "reason": "draining"})
        with pytest.raises(ConnectionRefusedError):
            open_connection(public)
        # Open connections, each of which has 200 seconds, still get publications.
        with asking(control, "POST", "/topics/t", b"late") as answer:
            assert answer.status == 200
        os.kill(daemon.pid, signal.SIGINT)
        received = [each.recv(PATIENCE) for each in sockets]
        assert {json.loads(one)["data"] for one in received} == {"late"}
        assert [code_of(each) for each in sockets] == [1001] * 3
        assert daemon.wait() == 0
        assert any("SIGINT again" in line for line in daemon.log)


def test_transports(tmp_path: Path) -> None:
    """During the drain, WebSockets are closed, event streams end, and long polls are answered."""
    with DaemonProcess([*CONTROL, "--drain", "1"], directory=tmp_path) as daemon:
        public, control = urlsplit(daemon.url).netloc, control_of(daemon)
        with (
            listen(public, "/topics/t") as websocket,
            open_connection(public) as stream,
            open_connection(public) as poll,
        ):
            get = b"GET /topics/t HTTP/1.1\r\nHost: localhost\r\n"
            stream.sendall(get + b"Accept: text/event-stream\r\n\r\n")
            poll.sendall(get + b"\r\n")
            wait_for_subscribers(control, 3)
            os.kill(daemon.pid, signal.SIGTERM)
            assert code_of(websocket) == 1001
            assert read_all(stream).endswith(b"\r\n0\r\n\r\n")
            assert b'"publications":[]' in read_all(poll)
        assert daemon.wait() == 0
        assert not [line for line in daemon.log if "Traceback" in line]


def test_sleeping_threads(tmp_path: Path) -> None:
    """A stop does not wait for views that sleep in threads."""
    (tmp_path / "views.py").write_text(VIEWS)
    args = ["--views", "views:views"]
    environment = {"PYTHONPATH": str(tmp_path)}
    with (
        DaemonProcess(args, directory=tmp_path, environment=environment) as daemon,
        listen(urlsplit(daemon.url).netloc, "/sleepy/") as websocket,
    ):
        assert websocket.recv(PATIENCE) == "good night"
        os.kill(daemon.pid, signal.SIGTERM)
        assert code_of(websocket) == 1001
        assert daemon.wait() == 0


@pytest.mark.parametrize("way", ["index", "name"])
def test_restart(tmp_path: Path, way: str) -> None:
    """With sockets passed by systemd, a restart refuses no connection, and reports a history gap.

    The test does what systemd does on ``systemctl restart``: it keeps the sockets open.
    """
    endpoints = {
        "index": ("systemd:domain=INET:index=0", "systemd:domain=INET:index=1"),
        "name": ("systemd:domain=INET:name=web", "systemd:domain=INET:name=control"),
    }
    args = ["--listen", endpoints[way][0], "--control", endpoints[way][1], "--drain", "1"]
    with (
        socket.create_server(("127.0.0.1", 0), backlog=512) as web,
        socket.create_server(("127.0.0.1", 0)) as private,
        ExitStack() as stack,
    ):
        public = f"127.0.0.1:{web.getsockname()[1]}"
        control = f"127.0.0.1:{private.getsockname()[1]}"
        sockets = {"web": web, "control": private}

        def start() -> DaemonProcess:
            daemon = DaemonProcess(args, directory=tmp_path, sockets=sockets)
            return stack.enter_context(daemon)

        def publish(data: str) -> str:
            status, answer = ask(control, "POST", "/topics/t", data.encode())
            assert status == 200
            return str(answer["id"])

        first = start()
        assert urlsplit(first.url).netloc == public
        client = stack.enter_context(RepeatingClient(public))
        with listen(public, "/topics/t") as websocket:
            assert json.loads(websocket.recv(PATIENCE))["recovered"] is False
            last = publish("one")
            assert json.loads(websocket.recv(PATIENCE)) == {"id": last, "data": "one"}
        # A subscriber that lost its connection gets what it missed.
        missed = publish("two")
        with listen(public, f"/topics/t?after={last}") as websocket:
            assert json.loads(websocket.recv(PATIENCE))["recovered"] is True
            assert json.loads(websocket.recv(PATIENCE)) == {"id": missed, "data": "two"}
            client.wait_for_more()
            os.kill(first.pid, signal.SIGTERM)
            assert code_of(websocket) == 1001
        assert first.wait() == 0
        # No process accepts connections now; the kernel queues them.
        with open_connection(public) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            start()
            assert read_all(early).startswith(b"HTTP/1.1 200 ")
        with listen(public, f"/topics/t?after={missed}") as websocket:
            # The history was in the memory of the first process: the gap is reported.
            assert json.loads(websocket.recv(PATIENCE))["recovered"] is False
            again = publish("three")
            assert json.loads(websocket.recv(PATIENCE)) == {"id": again, "data": "three"}
        client.wait_for_more()
        client.stop()
        assert client.failures == []


# How the daemon can be started.
OPTIONS = ["--listen", "tcp:0:interface=127.0.0.1", "--control", "none"]
# Runs a command as the first process of a container.
CONTAINER = ["unshare", "-Urpf", "--mount-proc", "--kill-child"]
COMMANDS = {
    "twistd": [str(TWISTD), "-n", "--pidfile=", "pushd", *OPTIONS],
    "tac": [str(TWISTD), "-n", "--pidfile=", "-y", str(ROOT / "pushd.tac")],
    "runpushd": [
        sys.executable,
        "examples/django/manage.py",
        "runpushd",
        "--noreload",
        "0",
        "--",
        *OPTIONS[2:],
    ],
    "pid 1": [*CONTAINER, str(TWISTD), "-n", "--pidfile=", "pushd", *OPTIONS],
}


@contextmanager
def started(way: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a daemon in one of these ways; give it and its process id once its port is open."""
    process = subprocess.Popen(
        COMMANDS[way],
        cwd=ROOT,
        env={**os.environ, "PUSHD_OPTIONS": " ".join(OPTIONS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            read_until(process, "listening on")
            pid = process.pid
            if way == "pid 1":
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
            yield process, pid
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read the log until a line has these words."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if words in line:
            return
        lines.append(line)
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("way", COMMANDS)
def test_early_signal(way: str) -> None:
    """A signal that comes as soon as the port is open stops or reloads the daemon in order."""
    if way == "pid 1" and not may_make_containers():
        return  # Most containers permit none inside.
    for number in (signal.SIGTERM, signal.SIGINT):
        with started(way) as (process, pid):
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, number)
            read_until(process, "options reloaded")
            read_until(process, "shutting down")
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("way", COMMANDS)
def test_late_signal(way: str) -> None:
    """A second signal after the reactor has stopped changes nothing."""
    if way == "pid 1" and not may_make_containers():
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with started(way) as (process, pid):
            os.kill(pid, signal.SIGTERM)
            read_until(process, "Main loop terminated")
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_reader_gone(tmp_path: Path, style: str) -> None:
    """A daemon whose log has lost its reader serves on, and stops in order."""
    path = tmp_path / "web"
    command = [str(TWISTD), "-n", "--pidfile=", "pushd", "--control", "none"]
    command += ["--listen", f"unix:{path}", "--log-format", style]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        read_until(process, "listening on")
        assert process.stdout is not None
        process.stdout.close()
        # Each is a line in the log.
        assert [status_of(path) for _ in range(5)] == [200] * 5
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()


def test_stale_socket(tmp_path: Path) -> None:
    """The socket of a daemon that was killed is taken over; that of a running one is not.

    In a container, a daemon that was killed had the process id that its successor has: 1.
    """
    path = tmp_path / "web"
    command = [*(CONTAINER if may_make_containers() else []), str(TWISTD), "-n", "--pidfile="]
    command += ["pushd", "--control", "none", "--listen", f"unix:{path}:mode=640"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with start() as first:
        read_until(first, "listening on")
        with start() as second:
            read_until(second, f"pushd: --listen unix:{path}:mode=640: another process listens")
            assert second.wait(PATIENCE) == 1
        assert status_of(path) == 200
        first.kill()
    assert path.is_socket()
    path.chmod(0o777)
    with start() as third:
        read_until(third, "listening on")
        assert status_of(path) == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        third.kill()


def status_of(path: Path) -> int:
    """Ask for a page at a Unix socket, and return the status."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return int(client.recv(12).split()[1])


def may_make_containers() -> bool:
    """Whether this user may make a process with process ids of its own."""
    done = subprocess.run(
        ["unshare", "-Urpf", "--mount-proc", "true"], capture_output=True, check=False
    )
    return done.returncode == 0


def wait_for_subscribers(control: str, count: int) -> None:
    """Wait until the topic t has a number of subscribers."""
    for _ in range(1000):
        _, said = ask(control, "GET", "/topics/t")
        if sum(said["subscribers"].values()) == count:
            return
    raise AssertionError(f"{said} never has {count} subscribers")


def read_all(stream: socket.socket) -> bytes:
    """Read until the server closes."""
    return b"".join(iter(lambda: stream.recv(1 << 16), b""))


class RepeatingClient:
    """A client that requests a page again and again, each time on a new connection."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._stopped = Event()
        self._more = Event()
        self._thread = Thread(target=self._run, daemon=True)
        #: Statuses other than 200, and exceptions.
        self.failures: list[object] = []

    def __enter__(self) -> RepeatingClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop requesting."""
        self._stopped.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_for_more(self) -> None:
        """Wait until one more request has succeeded or failed."""
        self._more.clear()
        assert self._more.wait(PATIENCE)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with asking(self._place, "GET", "/test/") as answer:
                    answer.read()
                    if answer.status != 200:
                        self.failures.append(answer.status)
            except OSError as error:
                self.failures.append(error)
            self._more.set()
