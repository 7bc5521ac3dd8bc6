"""What a second process adds: ``python -m bench.scaling``, on a machine with nothing else to do.

Runs one pushd that keeps its topics in memory, then one and two with a Redis between them, on one
port. Subscribers sit on raw WebSockets and count bytes; publications go to the control ports, one
at a time, so that a burst is nobody's advantage. Processor time is that of the daemons, or of the
Redis; the rate is by the clock on the wall, with the client's own work in it.
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

# How long anything may take, in seconds.
_PATIENCE = 60.0

_DATA = b"x" * 128
# As one text frame: RFC 6455 §5.2 spells a length above 125 in two more bytes.
_FRAME = len(_DATA) + 4


class Program:
    """A process that says in its log when it is ready; ended with its ``with``."""

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
        """Wait for a line of the log; gives what the pattern's group holds."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            if match := re.search(pattern, self._log.read_text(errors="replace")):
                return match[match.lastindex or 0]
            time.sleep(0.02)
        raise SystemExit(f"{self._command[0]} is not ready: {self._log.read_text()[-2000:]}")

    @property
    def cpu(self) -> float:
        """Microseconds of processor time that it has spent."""
        return measure_cpu([self._process.pid])


class Audience:
    """Subscribers of one topic, who count bytes."""

    def __init__(self, port: int, number: int) -> None:
        # A 101 is no word that it has begun; whoever names an id misses nothing behind it.
        door = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        door.request("GET", "/topics/bench?wait=0")
        self._id = json.loads(door.getresponse().read())["id"]
        door.close()
        self._selector = selectors.DefaultSelector()
        self._sockets = [self._connect(port) for _ in range(number)]

    def hear(self, total: int) -> None:
        """Read until all together have heard so many bytes."""
        deadline = time.monotonic() + _PATIENCE
        while total > 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"{total} bytes did not come")
            for key, _ in self._selector.select(1):
                total -= len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]  # a socket
        assert total == 0

    def close(self) -> None:
        """Leave."""
        for one in self._sockets:
            one.close()

    def _connect(self, port: int) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        one.sendall(
            f"GET /topics/bench?after={self._id} HTTP/1.1\r\n".encode()
            + b"Host: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += one.recv(1)
        assert b" 101 " in head, head
        self._selector.register(one, selectors.EVENT_READ)
        return one


def measure(processes: int, redis: bool, subscribers: int, publications: int) -> str:
    """One line of the table."""
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
            ready = "answers" if redis else "control port at"
            daemons.append(stack.enter_context(Program(command, ready, folder)))
        doors = [
            HTTPConnection(daemon.find(r"control port at http://([0-9.:]+)"), timeout=_PATIENCE)
            for daemon in daemons
        ]
        for door in doors:
            stack.callback(door.close)
        audience = Audience(port, subscribers)
        stack.callback(audience.close)
        for number in range(publications // 10):
            _publish(doors[number % processes], audience, subscribers)
        before = [one.cpu for one in daemons], server.cpu if server else 0.0
        began = time.monotonic()
        for number in range(publications):
            _publish(doors[number % processes], audience, subscribers)
        seconds = time.monotonic() - began
        spent = sum(one.cpu for one in daemons) - sum(before[0])
        asked = (server.cpu if server else 0.0) - before[1]
        heard = publications * subscribers
        return (
            f"| {processes} | {'Redis' if redis else 'memory'} | {subscribers} "
            f"| {spent / publications:.0f} | {spent / heard:.1f} "
            f"| {asked / publications:.0f} | {heard / seconds:,.0f} |"
        )


def _publish(door: HTTPConnection, audience: Audience, subscribers: int) -> None:
    door.request("POST", "/topics/bench", _DATA)
    answer = door.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    audience.hear(subscribers * _FRAME)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    """Measure all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--publications", type=int, default=500)
    args = parser.parse_args()
    print("| processes | topics in | subscribers | daemons' µs per publication ", end="")
    print("| µs per delivery | Redis' µs per publication | deliveries a second |")
    print("|---|---|---|---|---|---|---|")
    for subscribers in args.subscribers:
        for processes, redis in ((1, False), (1, True), (2, True)):
            print(measure(processes, redis, subscribers, args.publications), flush=True)


if __name__ == "__main__":
    main()
