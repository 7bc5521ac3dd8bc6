"""The demo in real time, and the process it runs in: start and stop."""

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

from tests.support.daemon_process import DEFAULTS, TWISTD, DaemonProcess

ROOT = Path(__file__).parents[2]
OPTIONS = [word for option in DEFAULTS.items() for word in option]

# Ways to start the daemon.
WAYS = ("twistd", "twist", "tac")

HELLO = '["1","2","3"]'
MESSAGES = [f"service message: {number}" for number in range(10)]

# An opening handshake, for clients that break off afterwards.
HANDSHAKE = (
    b"GET /test/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

# After a clean stop, twistd ends itself by the signal it received.
CLEAN_EXIT = 0

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0


class TimingClient(WebSocketClientProtocol):
    """A client that records when each message came, and how the connection ended."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[tuple[float, str]] = []
        self.ended: Deferred[tuple[float, bool, int | None]] = Deferred()

    def onOpen(self) -> None:
        self.began = reactor.seconds()
        self.sendMessage(HELLO.encode())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.received.append((reactor.seconds() - self.began, payload.decode()))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.ended.callback((reactor.seconds() - self.began, wasClean, code))


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_pace(tmp_path: Path) -> None:
    """Ten messages come half a second apart, the first at once, then a clean close.

    None comes early, however busy the machine is, and usually none late.
    """
    with DaemonProcess(directory=tmp_path) as daemon:
        client = TimingClient()
        client.factory = WebSocketClientFactory(f"{daemon.url}test/".replace("http:", "ws:"))
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port_of(daemon)), client)
        seconds, clean, code = await client.ended.addTimeout(TIMEOUT, reactor)
    assert [message for _, message in client.received] == MESSAGES
    times = [*(moment for moment, _ in client.received), seconds]
    assert all(moment > 0.5 * number - 0.05 for number, moment in enumerate(times)), times
    assert median(after - before for before, after in pairwise(times)) < 0.6, times
    assert (clean, code) == (True, 1000)


def test_many_at_once(tmp_path: Path) -> None:
    """Twenty clients receive the demo's messages at the same time."""
    with DaemonProcess(directory=tmp_path) as daemon, ExitStack() as stack:
        clients = [stack.enter_context(open_socket(daemon)) for _ in range(20)]
        for client in clients:
            client.send(HELLO)
        with ThreadPoolExecutor(20) as pool:
            received = list(pool.map(note_times, clients))
    # The last client received its first message before any client received its last one.
    assert max(begin for begin, _, _ in received) < min(end for _, end, _ in received)
    assert [what for _, _, what in received] == [(MESSAGES, 1000)] * 20


def test_sigterm(tmp_path: Path) -> None:
    """SIGTERM closes all connections with 1001, and ends the process."""
    with DaemonProcess(directory=tmp_path) as daemon:
        with (
            open_socket(daemon) as first,
            open_socket(daemon) as second,
            open_socket(daemon) as third,
        ):
            clients = [first, second, third]
            for client in clients:
                client.send(HELLO)
                assert client.recv(TIMEOUT) == MESSAGES[0]
            os.kill(daemon.pid, signal.SIGTERM)
            assert [read_to_the_end(client)[1] for client in clients] == [1001] * 3
            assert daemon.wait() == CLEAN_EXIT
        assert not [line for line in daemon.log if "Traceback" in line]


def test_sigint(tmp_path: Path) -> None:
    """Control-C closes all connections with 1001, and ends the process."""
    with DaemonProcess(directory=tmp_path) as daemon, open_socket(daemon) as client:
        os.kill(daemon.pid, signal.SIGINT)
        assert read_to_the_end(client) == ([], 1001)
        assert daemon.wait() == CLEAN_EXIT


def test_stop_with_a_silent_client(tmp_path: Path) -> None:
    """A client that never answers a Close does not keep the process alive."""
    with DaemonProcess(directory=tmp_path) as daemon, silent_client(daemon) as client:
        begin = monotonic()
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait() == CLEAN_EXIT
        assert monotonic() - begin > 4
        assert b"\x88" in client.recv(1000)


@pytest.mark.parametrize("way", WAYS)
def test_port_in_use(tmp_path: Path, way: str) -> None:
    """A port that is in use gives one line of error, and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        code, lines = run_to_the_end(tmp_path, way, "--listen", endpoint, "--control", "none")
    assert code == 1
    # twistd logs by then, so stderr goes to its log.
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
    """An invalid option gives one line of error, and exit code 1."""
    code, lines = run_to_the_end(tmp_path, way, *args)
    assert code == 1
    (line,) = [line for line in lines if "Loading " not in line]
    assert line.startswith("pushd: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help(tmp_path: Path, option: str) -> None:
    """--help prints the help, with exit code 0."""
    code, lines = run_to_the_end(tmp_path, "twistd", option)
    assert code == 0
    assert "pushd" in "\n".join(lines)


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_start(tmp_path: Path, way: str) -> None:
    """Each way to start the daemon serves HTTP and WebSocket at one URL."""
    with started(tmp_path, way) as url:
        with build_opener(ProxyHandler({})).open(f"{url}test/", timeout=TIMEOUT) as page:
            assert page.read() == (ROOT / "web/test.html").read_bytes()
        with open_socket_at(url) as client:
            client.send(HELLO)
            assert [client.recv(TIMEOUT) for _ in range(2)] == MESSAGES[:2]


def test_killed_clients_leave_nothing(tmp_path: Path) -> None:
    """Clients that break off during the demo leave no descriptor behind."""
    with DaemonProcess(directory=tmp_path) as daemon:
        watch(daemon)
        daemon.wait_for("closed 1000")
        before = count_descriptors(daemon)
        for _ in range(5):
            clients = [silent_client(daemon) for _ in range(10)]
            for client in clients:
                # A masked text frame of one letter, which starts the demo.
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
    """Clients that break off during a download leave neither a socket nor a file open."""
    (tmp_path / "big.bin").write_bytes(bytes(50_000_000))
    with DaemonProcess(["--web", str(tmp_path)], directory=tmp_path) as daemon:
        watch(daemon)
        daemon.wait_for("closed 1000")
        before = count_descriptors(daemon)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port_of(daemon)), TIMEOUT) as client:
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
        build_opener(ProxyHandler({})).open(f"{daemon.url}big.bin", timeout=TIMEOUT) as answer,
    ):
        sleep(0.5)
        assert answer.read() == content


def open_socket(daemon: DaemonProcess) -> ClientConnection:
    """Open a WebSocket to the demo."""
    return open_socket_at(daemon.url)


def open_socket_at(url: str) -> ClientConnection:
    """Open a WebSocket to the demo at a URL."""
    address = f"{url}test/".replace("http:", "ws:")
    return connect(address, proxy=None, open_timeout=TIMEOUT)


def watch(daemon: DaemonProcess) -> tuple[list[Any], int | None]:
    """Receive the demo to its end; return the messages and the close code."""
    with open_socket(daemon) as client:
        client.send(HELLO)
        return read_to_the_end(client)


def note_times(client: ClientConnection) -> tuple[float, float, tuple[list[Any], int | None]]:
    """Receive the demo; return the times of its first message and its end, and all messages."""
    first = client.recv(TIMEOUT)
    begin = monotonic()
    rest, code = read_to_the_end(client)
    return begin, monotonic(), ([first, *rest], code)


def read_to_the_end(client: ClientConnection) -> tuple[list[Any], int | None]:
    """Return all further messages, and the close code."""
    messages: list[Any] = []
    try:
        while True:
            messages.append(client.recv(TIMEOUT))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else None


def silent_client(daemon: DaemonProcess) -> socket.socket:
    """Open a WebSocket that sends nothing by itself."""
    client = socket.create_connection(("127.0.0.1", port_of(daemon)), TIMEOUT)
    client.sendall(HANDSHAKE)
    assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
    return client


def port_of(daemon: DaemonProcess) -> int:
    """Return the number of the public port."""
    return int(daemon.url.rstrip("/").rpartition(":")[2])


def count_descriptors(daemon: DaemonProcess) -> int:
    """Return the number of open descriptors of a process."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = monotonic() + TIMEOUT
    while not holds():
        assert monotonic() < deadline, "it did not come to hold in time"
        sleep(0.02)


def run_to_the_end(directory: Path, way: str, *args: str) -> tuple[int, list[str]]:
    """Run a daemon that ends by itself; return its exit code and its output."""
    command, variables = command_for(way, args)
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@contextmanager
def started(directory: Path, way: str) -> Iterator[str]:
    """Start a daemon, return its URL, and stop it in order."""
    command, variables = command_for(way, OPTIONS)
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
        assert process.wait(TIMEOUT) == CLEAN_EXIT
    finally:
        process.kill()
        process.wait(TIMEOUT)
    assert "Traceback" not in log.read_text()


def command_for(way: str, args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that start the daemon in one of the ways."""
    if way == "tac":
        command = [str(TWISTD), "--pidfile=", "-ny", str(ROOT / "pushd.tac")]
        return command, {"PUSHD_OPTIONS": shlex.join(args)}
    if way == "twist":
        return [sys.executable, "-m", "twisted", "--log-format=text", "pushd", *args], {}
    return [str(TWISTD), "-n", "--pidfile=", "pushd", *args], {}
