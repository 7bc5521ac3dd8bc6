"""The demo in real time, and the process it runs in: how it starts, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.daemon_process import DEFAULTS, TWISTD, DaemonProcess

ROOT = Path(__file__).parents[2]
DOORS = [word for option in DEFAULTS.items() for word in option]

# The ways to start the daemon.
WAYS = ("twistd", "twist", "tac")

HELLO = '["1","2","3"]'
MESSAGES = [f"service message: {number}" for number in range(10)]

# An opening handshake, for those who have no manners afterwards.
HANDSHAKE = (
    b"GET /test/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

# twistd stops in order, and then ends itself by the signal that it got.
IN_ORDER = 0

# How long anything may take that is not to take long, in seconds.
PATIENCE = 60.0


class Timekeeper(WebSocketClientProtocol):
    """A client that notes when each message came, and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[float, str]] = []
        self.ended: Deferred[tuple[float, bool, int | None]] = Deferred()

    def onOpen(self) -> None:
        self.began = reactor.seconds()
        self.sendMessage(HELLO.encode())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.heard.append((reactor.seconds() - self.began, payload.decode()))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.ended.callback((reactor.seconds() - self.began, wasClean, code))


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_pace(tmp_path: Path) -> None:
    """Ten messages come half a second apart, the first at once, then a clean goodbye.

    Never early, however busy the machine is; and usually not late.
    """
    with DaemonProcess(directory=tmp_path) as daemon:
        client = Timekeeper()
        client.factory = WebSocketClientFactory(f"{daemon.url}test/".replace("http:", "ws:"))
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port_of(daemon)), client)
        seconds, clean, code = await client.ended.addTimeout(PATIENCE, reactor)
    assert [message for _, message in client.heard] == MESSAGES
    times = [*(moment for moment, _ in client.heard), seconds]
    assert all(moment > 0.5 * number - 0.05 for number, moment in enumerate(times)), times
    assert median(after - before for before, after in pairwise(times)) < 0.6, times
    assert (clean, code) == (True, 1000)


def test_many_at_once(tmp_path: Path) -> None:
    """Twenty browsers see the demo at the same time as one does."""
    with DaemonProcess(directory=tmp_path) as daemon, ExitStack() as stack:
        clients = [stack.enter_context(open_socket(daemon)) for _ in range(20)]
        for client in clients:
            client.send(HELLO)
        with ThreadPoolExecutor(20) as pool:
            heard = list(pool.map(note_times, clients))
    # The last to hear the first message heard it before anybody heard the last one.
    assert max(begin for begin, _, _ in heard) < min(end for _, end, _ in heard)
    assert [what for _, _, what in heard] == [(MESSAGES, 1000)] * 20


def test_stopped_while_three_listen(tmp_path: Path) -> None:
    """SIGTERM says goodbye to everybody, and ends the process."""
    with DaemonProcess(directory=tmp_path) as daemon:
        with (
            open_socket(daemon) as first,
            open_socket(daemon) as second,
            open_socket(daemon) as third,
        ):
            clients = [first, second, third]
            for client in clients:
                client.send(HELLO)
                assert client.recv(PATIENCE) == MESSAGES[0]
            os.kill(daemon.pid, signal.SIGTERM)
            assert [read_to_the_end(client)[1] for client in clients] == [1001] * 3
            assert daemon.wait() == IN_ORDER
        assert not [line for line in daemon.log if "Traceback" in line]


def test_stopped_by_the_keyboard(tmp_path: Path) -> None:
    """So does Control-C."""
    with DaemonProcess(directory=tmp_path) as daemon, open_socket(daemon) as client:
        os.kill(daemon.pid, signal.SIGINT)
        assert read_to_the_end(client) == ([], 1001)
        assert daemon.wait() == IN_ORDER


def test_stopped_while_one_is_deaf(tmp_path: Path) -> None:
    """Who never answers a Close does not keep the process alive."""
    with DaemonProcess(directory=tmp_path) as daemon, deaf_client(daemon) as client:
        begin = monotonic()
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait() == IN_ORDER
        assert monotonic() - begin > 4
        assert b"\x88" in client.recv(1000)


@pytest.mark.parametrize("way", WAYS)
def test_port_in_use(tmp_path: Path, way: str) -> None:
    """A port that somebody else has is one line, and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        code, lines = run_to_the_end(tmp_path, way, "--listen", endpoint, "--control", "none")
    assert code == 1
    # twistd logs by then, and puts what is said into its log.
    (line,) = [line for line in lines if "pushd: " in line]
    assert line.partition("pushd: ")[2].startswith(f"--listen {endpoint}: ")
    assert "in use" in line
    assert lines[-1] == line
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("way", "args", "words"),
    [
        ("twistd", ["--threads", "many"], ["--threads many", "a number from 1 to"]),
        ("twist", ["--threads", "many"], ["--threads many", "a number from 1 to"]),
        ("tac", ["--threads", "many"], ["--threads many", "a number from 1 to"]),
        ("twistd", ["--listen", "nonsense"], ["--listen nonsense", "tcp:8080"]),
        ("twistd", ["--web", "/nowhere"], ["--web /nowhere", "must be a directory that exists"]),
        ("twistd", ["--views", "nowhere:urls"], ["--views nowhere:urls", "nowhere"]),
        ("twistd", ["--colour"], ["colour"]),
    ],
)
def test_bad_option(tmp_path: Path, way: str, args: list[str], words: list[str]) -> None:
    """A bad option is one line, and exit code 1."""
    code, lines = run_to_the_end(tmp_path, way, *args)
    assert code == 1
    (line,) = [line for line in lines if "Loading " not in line]
    assert line.startswith("pushd: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_question(tmp_path: Path, option: str) -> None:
    """A question is answered, and is no mistake."""
    code, lines = run_to_the_end(tmp_path, "twistd", option)
    assert code == 0
    assert "pushd" in "\n".join(lines)


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_start(tmp_path: Path, way: str) -> None:
    """Each way to start the daemon starts the same one: both languages at one address."""
    with started(tmp_path, way) as url:
        with build_opener(ProxyHandler({})).open(f"{url}test/", timeout=PATIENCE) as page:
            assert page.read() == (ROOT / "web/test.html").read_bytes()
        with open_socket_at(url) as client:
            client.send(HELLO)
            assert [client.recv(PATIENCE) for _ in range(2)] == MESSAGES[:2]


def test_killed_clients_leave_nothing(tmp_path: Path) -> None:
    """Clients that are gone in the middle of the demo leave no descriptor behind."""
    with DaemonProcess(directory=tmp_path) as daemon:
        watch(daemon)
        daemon.wait_for("closed 1000")
        before = count_descriptors(daemon)
        for _ in range(5):
            clients = [deaf_client(daemon) for _ in range(10)]
            for client in clients:
                # A masked text frame of one letter: the demo begins.
                client.sendall(b"\x81\x81\x00\x00\x00\x00x")
                assert client.recv(1000)
            assert count_descriptors(daemon) == before + 10
            for number, client in enumerate(clients):
                if number % 2:
                    # A reset in place of an orderly end.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            wait_until(lambda: count_descriptors(daemon) == before)
        assert not [line for line in daemon.log if "Traceback" in line]


def test_killed_downloads_leave_nothing(tmp_path: Path) -> None:
    """Nor does one that is gone in the middle of a file: neither its socket nor the file."""
    (tmp_path / "big.bin").write_bytes(bytes(50_000_000))
    with DaemonProcess(["--web", str(tmp_path)], directory=tmp_path) as daemon:
        watch(daemon)
        daemon.wait_for("closed 1000")
        before = count_descriptors(daemon)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port_of(daemon)), PATIENCE) as client:
                client.sendall(b"GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
                assert count_descriptors(daemon) == before + 2
            wait_until(lambda: count_descriptors(daemon) == before)


def test_whole_download(tmp_path: Path) -> None:
    """A file that is larger than all buffers arrives whole."""
    content = os.urandom(1 << 20) * 20
    (tmp_path / "big.bin").write_bytes(content)
    with (
        DaemonProcess(["--web", str(tmp_path)], directory=tmp_path) as daemon,
        build_opener(ProxyHandler({})).open(f"{daemon.url}big.bin", timeout=PATIENCE) as answer,
    ):
        sleep(0.5)
        assert answer.read() == content


def open_socket(daemon: DaemonProcess) -> ClientConnection:
    """Open a WebSocket on the demo."""
    return open_socket_at(daemon.url)


def open_socket_at(url: str) -> ClientConnection:
    """Open a WebSocket on the demo of the daemon at an address."""
    address = f"{url}test/".replace("http:", "ws:")
    return connect(address, proxy=None, open_timeout=PATIENCE)


def watch(daemon: DaemonProcess) -> tuple[list[Any], int | None]:
    """Watch the demo to its end; give the messages and the close code."""
    with open_socket(daemon) as client:
        client.send(HELLO)
        return read_to_the_end(client)


def note_times(client: ClientConnection) -> tuple[float, float, tuple[list[Any], int | None]]:
    """Watch the demo to its end; give when the first message came, when the end, and all that."""
    first = client.recv(PATIENCE)
    begin = monotonic()
    rest, code = read_to_the_end(client)
    return begin, monotonic(), ([first, *rest], code)


def read_to_the_end(client: ClientConnection) -> tuple[list[Any], int | None]:
    """Give all messages that still come, and the close code."""
    messages: list[Any] = []
    try:
        while True:
            messages.append(client.recv(PATIENCE))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else None


def deaf_client(daemon: DaemonProcess) -> socket.socket:
    """Open a WebSocket that will do nothing by itself."""
    client = socket.create_connection(("127.0.0.1", port_of(daemon)), PATIENCE)
    client.sendall(HANDSHAKE)
    assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
    return client


def port_of(daemon: DaemonProcess) -> int:
    """Give the port of the public port."""
    return int(daemon.url.rstrip("/").rpartition(":")[2])


def count_descriptors(daemon: DaemonProcess) -> int:
    """How many descriptors the process has open."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < deadline, "it did not come to hold in time"
        sleep(0.02)


def run_to_the_end(directory: Path, way: str, *args: str) -> tuple[int, list[str]]:
    """Run a daemon that ends by itself; give its exit code and all that it says."""
    command, variables = command_for(way, args)
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@contextmanager
def started(directory: Path, way: str) -> Iterator[str]:
    """Start a daemon, give the URL that it names, and stop it in order."""
    command, variables = command_for(way, DOORS)
    log = directory / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "listening on http" in log.read_text() or process.poll() is not None)
        (line,) = [line for line in log.read_text().splitlines() if "listening on http" in line]
        yield line.rpartition("listening on ")[2]
        process.terminate()
        assert process.wait(PATIENCE) == IN_ORDER
    finally:
        process.kill()
        process.wait(PATIENCE)
    assert "Traceback" not in log.read_text()


def command_for(way: str, args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Give the command that starts the daemon in one of the ways, and its environment."""
    if way == "tac":
        command = [str(TWISTD), "--pidfile=", "-ny", str(ROOT / "pushd.tac")]
        return command, {"PUSHD_OPTIONS": shlex.join(args)}
    if way == "twist":
        return [sys.executable, "-m", "twisted", "--log-format=text", "pushd", *args], {}
    return [str(TWISTD), "-n", "--pidfile=", "pushd", *args], {}
