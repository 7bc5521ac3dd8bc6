"""pushd under systemd: notifications, passed sockets, and the unit files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, create_connection, socket
from urllib.parse import urlsplit

import pytest

from tests.support.daemon_process import TWISTD, DaemonProcess
from tests.support.held_port import held_port

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "deploy/systemd"

# Time-out of everything, in seconds.
PATIENCE = 60.0

ANALYZE = shutil.which("systemd-analyze")
ACTIVATE = shutil.which("systemd-socket-activate")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
needs_activate = pytest.mark.skipif(
    ACTIVATE is None, reason="systemd-socket-activate is not installed"
)


class Systemd:
    """A notification socket, as systemd has it."""

    def __init__(self, address: str) -> None:
        self._socket = socket(AF_UNIX, SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(PATIENCE)
        #: Lines received so far.
        self.received: list[str] = []

    def wait_for(self, line: str) -> list[str]:
        """Wait for a notification with a matching line; return all its lines."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            self.received += lines
            if any(re.fullmatch(line, one) for one in lines):
                return lines

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Systemd, str]]:
    """Give a notification socket, and its address as in the environment."""
    path = str(tmp_path / "notify")
    abstract = request.param == "abstract"
    listener = Systemd(f"\0{path}" if abstract else path)
    yield listener, f"@{path}" if abstract else path
    listener.close()


def test_notified(tmp_path: Path, systemd: tuple[Systemd, str]) -> None:
    """Notifications: ready, watchdog, the number of connections, and the stop."""
    listener, address = systemd
    # Not so often that notifications fill the socket while the test does not read.
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
    with DaemonProcess(directory=tmp_path, environment=environment) as daemon:
        assert "STATUS=serving 0 connections" in listener.wait_for("READY=1")
        place = urlsplit(daemon.url)
        with create_connection((place.hostname, place.port), PATIENCE) as stream:
            stream.sendall(
                b"GET /topics/t HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
            )
            assert "WATCHDOG=1" in listener.wait_for("STATUS=serving 1 connection")
            os.kill(daemon.pid, signal.SIGTERM)
            listener.wait_for("STOPPING=1")
        assert daemon.wait() == 0


def test_watchdog_of_another(tmp_path: Path, systemd: tuple[Systemd, str]) -> None:
    """The watchdog of another process is not notified."""
    listener, address = systemd
    environment = {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "200000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with DaemonProcess(directory=tmp_path, environment=environment) as daemon:
        listener.wait_for("READY=1")
        os.kill(daemon.pid, signal.SIGTERM)
        listener.wait_for("STOPPING=1")
    assert "WATCHDOG=1" not in listener.received


def test_no_such_socket(tmp_path: Path) -> None:
    """A socket that was not passed ends the process with one line and exit code 1."""
    endpoint = "systemd:domain=INET:index=0"
    daemon = DaemonProcess(["--listen", endpoint], directory=tmp_path)
    daemon.start()
    assert daemon.wait() == 1
    assert f"pushd: --listen {endpoint}: systemd did not pass this socket" in daemon.log[-1]
    assert not [line for line in daemon.log if "Traceback" in line]


@pytest.fixture
def port() -> Iterator[int]:
    """Give a port that no other process gets."""
    with held_port() as port:
        yield port


@needs_activate
def test_socket_activate(tmp_path: Path, port: int) -> None:
    """The sockets that systemd-socket-activate passes are accepted."""
    command = [str(ACTIVATE), "--listen", f"127.0.0.1:{port}", "--fdname=web"]
    command += [str(TWISTD), "-n", "--pidfile=", "pushd", "--control", "none", "--drain", "0"]
    command += ["--listen", "systemd:domain=INET:name=web"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    try:
        assert process.stdout is not None
        assert "Listening on" in process.stdout.readline()
        with create_connection(("127.0.0.1", port), PATIENCE) as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            stream.settimeout(PATIENCE)
            assert stream.recv(12) == b"HTTP/1.1 200"
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Give a folder with the units, adapted to the pushd that is being tested."""
    for path in UNITS.iterdir():
        text = path.read_text()
        for name in (path.name, path.name.replace("@.", "@8082.")):
            (tmp_path / name).write_text(text.replace("/opt/pushd/bin", str(TWISTD.parent)))
    return tmp_path


def test_units() -> None:
    """There are four units, and the two services differ in their names only."""
    names = {path.name for path in UNITS.iterdir()}
    assert names == {"pushd.service", "pushd.socket", "pushd@.service", "pushd@.socket"}
    one, many = (_settings(UNITS / f"pushd{at}.service") for at in ("", "@"))
    named = ("Environment=PUSHD_STATE=", "StateDirectory=", "RuntimeDirectory=")
    changed = [
        f"{line}-%i" if line.startswith(named) else line.replace("pushd.socket", "pushd@%i.socket")
        for line in one
    ]
    assert [line for line in many if not line.startswith("Description=")] == [
        line for line in changed if not line.startswith("Description=")
    ]
    assert "ReusePort=yes" in _settings(UNITS / "pushd@.socket")
    assert {"Type=notify", "LimitNOFILE=65536", "DynamicUser=yes"} <= set(one)
    assert any(line.startswith("WatchdogSec=") for line in one)


@needs_analyze
@pytest.mark.parametrize("instance", ["", "@8082"])
def test_verify(units: Path, instance: str) -> None:
    """``systemd-analyze verify`` finds no fault with the units."""
    paths = [str(units / f"pushd{instance}.{kind}") for kind in ("service", "socket")]
    done = subprocess.run(
        [str(ANALYZE), "verify", *paths],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize("instance", ["", "@8082"])
def test_security(units: Path, instance: str) -> None:
    """``systemd-analyze security`` rates the services 2.0 or better."""
    path = str(units / f"pushd{instance}.service")
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--threshold=20", "--no-pager", path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    rating = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert rating is not None, done.stdout + done.stderr
    assert float(rating[1]) <= 2.0
    assert done.returncode == 0


def test_commands(tmp_path: Path) -> None:
    """The service's ExecStartPre, with its environment, checks the options."""
    lines = _settings(UNITS / "pushd.service")
    (tmp_path / "pushd.toml").write_text("threads = 3\n")
    environment = dict(os.environ)
    for line in lines:
        if line.startswith("Environment="):
            name, _, value = line.removeprefix("Environment=").partition("=")
            environment[name] = value.replace("/etc/pushd", str(tmp_path)).replace(
                "%S", str(tmp_path)
            )
    (command,) = [line for line in lines if line.startswith("ExecStartPre=")]
    words = command.removeprefix("ExecStartPre=").split()
    assert words[0] == "/opt/pushd/bin/twistd"
    done = subprocess.run(
        [sys.executable, str(TWISTD), *words[1:]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"threads = 3  # {tmp_path}/pushd.toml: threads" in done.stdout
    assert 'listen = ["systemd:domain=INET:index=0"]  # PUSHD_LISTEN' in done.stdout
    assert 'control = ["systemd:domain=INET:index=1"]  # PUSHD_CONTROL' in done.stdout


def _settings(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and line[0] not in "#["]
