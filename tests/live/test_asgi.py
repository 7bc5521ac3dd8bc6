"""``--asgi`` over real sockets: an application in a real daemon."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.live.asgi_application import DOWNLOAD
from tests.live.process_status import ProcessStatus
from tests.support.daemon_process import DEFAULTS, TWISTD, DaemonProcess

APPLICATION = "tests.live.asgi_application:application"
CONTROL = ("--control", "tcp:0:interface=127.0.0.1")
ROOT = Path(__file__).parents[2]

# Time-out of everything, in seconds.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run the application."""
    folder = tmp_path_factory.mktemp("asgi")
    args = ["--asgi", APPLICATION, "--max-body", "100MB"]
    with DaemonProcess(args, directory=folder) as process:
        yield process


def place_of(daemon: DaemonProcess) -> str:
    """Return host and port of the public port."""
    return urlsplit(daemon.url).netloc


@contextmanager
def asking(place: str, path: str, body: bytes | None = None) -> Iterator[HTTPConnection]:
    """Send a request."""
    connection = HTTPConnection(place, timeout=PATIENCE)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        yield connection
    finally:
        connection.close()


def ask(place: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send a request; return status and body of the response."""
    with asking(place, path, body) as connection, connection.getresponse() as answer:
        return answer.status, answer.read()


def control_of(daemon: DaemonProcess) -> str:
    """Return host and port of the control port."""
    return urlsplit(daemon.wait_for(r"control port listening on (http://\S+)")[1]).netloc


def test_request(daemon: DaemonProcess) -> None:
    """A page is answered with what the application keeps since its start."""
    assert ask(place_of(daemon), "/") == (200, b"hello")


def test_upload(daemon: DaemonProcess) -> None:
    """A large body is read as the application reads, which holds the client, not the memory."""
    status = ProcessStatus(daemon.pid)
    status.reset_peak()
    before = status.memory
    size = 64 << 20
    received, largest = ask(place_of(daemon), "/upload", bytes(size))[1].split()
    assert int(received) == size
    # 64 KiB wait, and what one more read brings.
    assert int(largest) <= 1 << 18
    assert status.peak - before < size // 4


def test_download(daemon: DaemonProcess) -> None:
    """A client that reads nothing holds the application; then it gets everything."""
    status = ProcessStatus(daemon.pid)
    ask(place_of(daemon), "/")
    status.reset_peak()
    before = status.memory
    with asking(place_of(daemon), "/download") as connection:
        # The application would have sent all of it by now.
        assert ask(place_of(daemon), "/slow") == (200, b"slow")
        assert len(connection.getresponse().read()) == DOWNLOAD
    assert status.peak - before < DOWNLOAD // 4


def test_websocket(daemon: DaemonProcess) -> None:
    """Messages go both ways, and the application is told the code of the end."""
    with connect(f"ws://{place_of(daemon)}/any/path", open_timeout=PATIENCE) as websocket:
        for message in ("text", b"bytes", "ü" * 1000):
            websocket.send(message)
            assert websocket.recv(PATIENCE) == message
        websocket.close(4001)
    daemon.wait_for("closed with 4001")


def test_stop(tmp_path: Path) -> None:
    """SIGTERM drains: requests are answered, WebSockets closed with 1001, then comes the end."""
    with DaemonProcess(["--asgi", APPLICATION, "--drain", "2"], directory=tmp_path) as daemon:
        place = place_of(daemon)
        with (
            connect(f"ws://{place}/", open_timeout=PATIENCE) as websocket,
            asking(place, "/slow") as slow,
        ):
            websocket.send("x")
            assert websocket.recv(PATIENCE) == "x"
            os.kill(daemon.pid, signal.SIGTERM)
            assert slow.getresponse().read() == b"slow"
            with pytest.raises(ConnectionClosed) as raised:
                websocket.recv(PATIENCE)
            assert raised.value.rcvd is not None
            assert raised.value.rcvd.code == 1001
        daemon.wait_for("the application stops")
        daemon.stop()
    lines = "\n".join(daemon.log)
    assert lines.index("closed with 1001") < lines.index("the application stops")
    assert "Traceback" not in lines


def test_start(tmp_path: Path) -> None:
    """While the application starts, clients wait, and the daemon says that it is not ready."""
    args = ["--asgi", APPLICATION, *CONTROL]
    daemon = DaemonProcess(args, directory=tmp_path, environment={"START_SECONDS": "3"})
    daemon.start()
    try:
        daemon.wait_for("the application starts")
        with asking(place_of(daemon), "/") as client:
            status, text = ask(control_of(daemon), "/readyz")
            assert (status, b"starting" in text) == (503, True)
            assert ask(control_of(daemon), "/healthz")[0] == 200
            assert client.getresponse().read() == b"hello"
        assert ask(control_of(daemon), "/readyz")[0] == 200
    finally:
        daemon.stop()


def test_stop_while_starting(tmp_path: Path) -> None:
    """SIGTERM ends the start of the application, and the daemon in order."""
    args = ["--asgi", APPLICATION]
    daemon = DaemonProcess(args, directory=tmp_path, environment={"START_SECONDS": "1000"})
    daemon.start()
    daemon.wait_for("the application starts")
    host, _, port = place_of(daemon).partition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        daemon.stop()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    lines = "\n".join(daemon.log)
    assert "its start is over" in lines
    assert "Server Shut Down" in lines
    assert "Traceback" not in lines


def run(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon to its end."""
    defaults = [part for pair in DEFAULTS.items() for part in pair]
    return subprocess.run(
        [str(TWISTD), "-n", "--pidfile=", "pushd", *defaults, *args],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def test_failing_start(tmp_path: Path) -> None:
    """An application that cannot start ends the daemon with status 1 and its reason."""
    ended = run(tmp_path, "--asgi", APPLICATION, START_FAILS="no database")
    assert ended.returncode == 1
    assert ended.stdout.count("no database") + ended.stderr.count("no database") == 1
    assert "pushd: --asgi: the application did not start: no database" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_conflict(tmp_path: Path) -> None:
    """``--loop twisted`` cannot be combined with ``--asgi``: one line says so."""
    ended = run(tmp_path, "--asgi", APPLICATION, "--loop", "twisted")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"pushd: --loop twisted: --asgi {APPLICATION} needs asyncio's event loop"
    ]


def test_tac(tmp_path: Path) -> None:
    """``pushd.tac`` serves an application as well, which may fail to start."""
    options = " ".join([*(part for pair in DEFAULTS.items() for part in pair), "--asgi"])
    ended = subprocess.run(
        [str(TWISTD), "-n", "--pidfile=", "-y", str(ROOT / "pushd.tac")],
        cwd=tmp_path,
        env={**os.environ, "PUSHD_OPTIONS": f"{options} {APPLICATION}", "START_FAILS": "why not"},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    assert "pushd: --asgi: the application did not start: why not" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
