"""Measure what a second process adds: ``python -m bench.scaling``, on an idle machine.

Runs one pushd with topics in memory, then one and two that share topics through Redis, on one
port. Subscribers are plain sockets that count bytes. Publications go to the control ports one at a
time, so that joining publications into one write saves nothing. CPU time is that of the daemons
and of Redis; the rate is measured in wall-clock time, including the client's own work.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

from bench.processes import measure_cpu

#: Time limit of each step, in seconds.
PATIENCE = 60.0

_DATA = b"x" * 128
# The size of a text frame: a length above 125 takes two more bytes (RFC 6455 §5.2).
_FRAME = len(_DATA) + 4

# The address in the log line about the control port.
_CONTROL = r"control .*http://([0-9.:]+)"


class Program:
    """Run a process for the duration of a ``with`` block; its log says when it is ready."""

    def __init__(self, command: list[str], ready: str, folder: Path) -> None:
        self._command = command
        self._ready = ready
        self._log = folder / f"{len(list(folder.iterdir()))}.log"

    def __enter__(self) -> Program:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.find(self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def find(self, pattern: str) -> str:
        """Wait until the log matches a pattern; returns its group, or the whole match."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            if match := re.search(pattern, self._log.read_text(errors="replace")):
                return match[match.lastindex or 0]
            time.sleep(0.02)
        raise SystemExit(f"{self._command[0]} did not get ready: {self._log.read_text()[-2000:]}")

    @property
    def cpu(self) -> float:
        """CPU time spent so far, in microseconds."""
        return measure_cpu([self._process.pid])


class Subscribers:
    """Subscribers of one topic, which count the bytes that they receive."""

    def __init__(self, port: int, number: int) -> None:
        # A subscription may begin after its 101; one from a known id misses nothing.
        public = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        public.request("GET", "/topics/bench?wait=0")
        self._id = json.loads(public.getresponse().read())["id"]
        public.close()
        self._selector = selectors.DefaultSelector()
        self._sockets = [open_subscriber(port, self._id) for _ in range(number)]
        for one in self._sockets:
            self._selector.register(one, selectors.EVENT_READ)

    def receive(self, total: int) -> None:
        """Read until the subscribers together have received this many bytes."""
        deadline = time.monotonic() + PATIENCE
        while total > 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"{total} bytes have not been delivered in {PATIENCE:g} s")
            for key, _ in self._selector.select(1):
                total -= len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]  # a socket
        assert total == 0

    def close(self) -> None:
        """Close all connections."""
        for one in self._sockets:
            one.close()


def open_subscriber(port: int, after: str) -> socket.socket:
    """Subscribe to the topic of the benchmark, from an id on."""
    one = socket.create_connection(("127.0.0.1", port), PATIENCE)
    one.sendall(
        f"GET /topics/bench?after={after} HTTP/1.1\r\n".encode()
        + b"Host: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += one.recv(1)
    assert b" 101 " in head, head
    return one


def measure(processes: int, redis: bool, subscribers: int, publications: int) -> str:
    """Measure one configuration, and format its row of the table."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pushd-"))
        stack.callback(shutil.rmtree, folder)
        broker: list[str] = []
        server = None
        if redis:
            path = str(folder / "redis.sock")
            command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""]
            command += ["--dir", str(folder)]
            server = stack.enter_context(Program(command, "eady to accept", folder))
            broker = ["--broker", f"unix://{path}"]
        port = _free_port()
        twistd = str(Path(sys.executable).with_name("twistd"))
        daemons = []
        for _ in range(processes):
            command = [twistd, "-n", "--pidfile=", "pushd", *broker]
            command += ["--listen", f"reuseport:{port}:interface=127.0.0.1"]
            command += ["--control", "tcp:0:interface=127.0.0.1", "--max-per-address", "1000000"]
            daemons.append(stack.enter_context(Program(command, _CONTROL, folder)))
        controls = [HTTPConnection(one.find(_CONTROL), timeout=PATIENCE) for one in daemons]
        for control in controls:
            stack.callback(control.close)
            wait_until_ready(control)
        clients = Subscribers(port, subscribers)
        stack.callback(clients.close)
        for number in range(publications // 10):
            _publish(controls[number % processes], clients, subscribers)
        before = [one.cpu for one in daemons], server.cpu if server else 0.0
        began = time.monotonic()
        for number in range(publications):
            _publish(controls[number % processes], clients, subscribers)
        seconds = time.monotonic() - began
        spent = sum(one.cpu for one in daemons) - sum(before[0])
        redis_spent = (server.cpu if server else 0.0) - before[1]
        deliveries = publications * subscribers
        return (
            f"| {processes} | {'Redis' if redis else 'memory'} | {subscribers} "
            f"| {spent / publications:.0f} | {spent / deliveries:.1f} "
            f"| {redis_spent / publications:.0f} | {deliveries / seconds:,.0f} |"
        )


def wait_until_ready(control: HTTPConnection) -> None:
    """Wait until a daemon, which is asked at its control port, may have traffic."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        control.request("GET", "/readyz")
        response = control.getresponse()
        response.read()
        if response.status == 200:
            return
        time.sleep(0.02)
    raise SystemExit(f"the daemon at {control.host}:{control.port} did not get ready")


def _publish(control: HTTPConnection, clients: Subscribers, subscribers: int) -> None:
    control.request("POST", "/topics/bench", _DATA)
    response = control.getresponse()
    text = response.read()
    assert response.status == 200, text
    clients.receive(subscribers * _FRAME)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    """Measure every configuration, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--subscribers",
        type=int,
        nargs="+",
        default=[1, 1000],
        help="numbers of subscribers (default: 1 1000)",
    )
    parser.add_argument(
        "--publications",
        type=int,
        default=500,
        help="number of publications (default: %(default)s)",
    )
    args = parser.parse_args()
    print("| processes | topics in | subscribers | daemons: µs per publication ", end="")
    print("| µs per delivery | Redis: µs per publication | deliveries per second |")
    print("|---|---|---|---|---|---|---|")
    for subscribers in args.subscribers:
        for processes, redis in ((1, False), (1, True), (2, True)):
            print(measure(processes, redis, subscribers, args.publications), flush=True)


if __name__ == "__main__":
    main()
