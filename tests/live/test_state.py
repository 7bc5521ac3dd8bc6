"""``--state`` in real processes: killed and restarted under load, and on a disk that is full."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.support.daemon_process import DaemonProcess

# Time-out of everything, in seconds.
PATIENCE = 120.0

# How many publications there are, how many a request makes, and how often the daemon is killed.
COUNT = 10_000
BATCH = 20
KILLS = 5


class Ports:
    """The listening sockets of a daemon that is restarted: no connection is refused meanwhile.

    Those of a node beside another are at the same ports: the kernel distributes connections.
    """

    def __init__(self, beside: Ports | None = None) -> None:
        self.sockets: dict[str, socket.socket] = {
            name: self._listen(beside.sockets[name].getsockname()[1] if beside else 0)
            for name in ("public", "control")
        }

    def __enter__(self) -> Ports:
        return self

    def __exit__(self, *args: object) -> None:
        for one in self.sockets.values():
            one.close()

    def place(self, name: str) -> str:
        """Return the host and the port of a socket."""
        return f"127.0.0.1:{self.sockets[name].getsockname()[1]}"

    def daemon(self, folder: Path, *args: str) -> DaemonProcess:
        """Make a daemon on them that keeps its state in a folder, to be started."""
        return self.process(folder, "--state", str(folder / "state"), *args)

    def process(self, folder: Path, *args: str) -> DaemonProcess:
        """Make a daemon on them, to be started."""
        places = [f"--{option}=systemd:domain=INET:name={name}" for option, name in OPTIONS.items()]
        return DaemonProcess(
            [*places, "--history-size", f"{2 * COUNT}", *args],
            directory=folder,
            sockets=self.sockets,
            patience=PATIENCE,
        )

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        return listener


OPTIONS = {"listen": "public", "control": "control"}


@contextmanager
def running(worker: Publisher | Reader) -> Iterator[None]:
    """Run a worker in a thread, and stop it."""
    thread = Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stopped.set()
        thread.join(PATIENCE)
    assert not thread.is_alive(), "a thread did not end"


def ask(place: str, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request; return the status and the JSON of the response."""
    connection = HTTPConnection(place, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@dataclass
class Publisher:
    """Publishes numbers in order, and repeats a request with its keys until it is answered."""

    place: str
    #: How many were answered with 200.
    done: int = 0
    stopped: Event = field(default_factory=Event)

    def run(self) -> None:
        """Publish all."""
        while self.done < COUNT and not self.stopped.is_set():
            numbers = range(self.done, self.done + BATCH)
            publications = [
                {"topic": "t", "data": f"{number}", "idempotency_key": f"k{number}"}
                for number in numbers
            ]
            body = json.dumps({"publications": publications}).encode()
            with suppress(OSError, ValueError):
                status, _ = ask(self.place, "POST", "/publish", body)
                if status == 200:
                    self.done += BATCH


@dataclass
class Reader:
    """Reads a topic, with cuts at random, from the last id that it has."""

    place: str
    #: What was received: where a connection began, and each publication.
    events: list[dict[str, Any]] = field(default_factory=list)
    stopped: Event = field(default_factory=Event)
    last: str | None = None
    cuts: int = 0

    def run(self) -> None:
        """Read until the last number has come."""
        random = Random(7)
        while not self.stopped.is_set():
            with suppress(OSError, ConnectionClosed, InvalidHandshake, EOFError):
                self._read(random.randrange(1, 1500))
                self.cuts += 1

    def _read(self, limit: int) -> None:
        """Read over one connection, and cut it after a number of publications."""
        after = "" if self.last is None else f"?after={self.last}"
        url = f"ws://{self.place}/topics/t{after}"
        with connect(
            url, subprotocols=[Subprotocol("pushd.v1")], open_timeout=PATIENCE, close_timeout=0
        ) as websocket:
            for _ in range(limit):
                event = json.loads(websocket.recv(PATIENCE))
                self.events.append(event)
                self.last = event["id"]
                if event.get("data") == f"{COUNT - 1}":
                    self.stopped.set()
                    return


def check(events: list[dict[str, Any]]) -> int:
    """Check that each got each once, in order, or was told; return how often it was told."""
    told = 0
    last: tuple[str, int, int] | None = None
    for event in events:
        epoch, _, text = event["id"].partition(":")
        offset = int(text)
        if "subscribed" in event:
            if not event["recovered"]:
                told += last is not None
                last = None
            else:
                assert last is not None
                assert (epoch, offset) == last[:2], "it does not go on where it was"
        else:
            number = int(event["data"])
            if last is not None:
                assert (epoch, offset, number) == (last[0], last[1] + 1, last[2] + 1)
            last = epoch, offset, number
    return told


@pytest.mark.parametrize("sync", ["always", "second"])
def test_crashes(tmp_path: Path, sync: str) -> None:
    """A client that is cut at random gets each publication once, in order, or is told.

    That holds through five SIGKILLs. With ``always`` nothing is ever missing.
    """
    random = Random(1)
    with Ports() as ports:
        publisher, reader = Publisher(ports.place("control")), Reader(ports.place("public"))
        with running(reader), running(publisher):
            for kill in range(KILLS + 1):
                with ports.daemon(tmp_path, "--state-sync", sync) as daemon:
                    share = (kill + 1) * COUNT // (KILLS + 1)
                    goal = COUNT if kill == KILLS else share - random.randrange(BATCH * 10)
                    wait_until(lambda goal=goal: publisher.done >= goal)
                    if kill < KILLS:
                        sleep(random.random() * 0.05)
                        os.kill(daemon.pid, signal.SIGKILL)
                        assert daemon.wait() == -signal.SIGKILL
                        continue
                    wait_until(reader.stopped.is_set)
                assert not [line for line in daemon.log if "Traceback" in line]
        told = check(reader.events)
        assert reader.cuts > 2
        numbers = [int(event["data"]) for event in reader.events if "data" in event]
        if sync == "always":
            assert (told, numbers) == (0, list(range(numbers[0], COUNT)))
        assert told <= KILLS


def wait_until(condition: Any) -> None:
    """Wait until a condition holds; fail if that takes too long."""
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, "it takes too long"
        sleep(0.005)


def test_full_disk(tmp_path: Path) -> None:
    """While files cannot grow, publishers get 503 with the reason; then all goes on by itself."""
    with Ports() as ports, ports.daemon(tmp_path) as daemon:
        control = ports.place("control")
        before = ask(control, "POST", "/topics/t", b"x" * 1000)[1]["id"]
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        try:
            # Those that are answered with 200 are delivered, and kept until there is room.
            accepted = 0
            while (answer := ask(control, "POST", "/topics/t", b"x" * 9000))[0] == 200:
                accepted += 1
            assert answer[0] == 503
            assert "cannot be written" in answer[1]["error"]
            status, found = ask(control, "GET", "/readyz")
            assert (status, found["reason"]) == (503, answer[1]["error"])
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, limits)
        wait_until(lambda: ask(control, "GET", "/readyz")[0] == 200)
        last = ask(control, "POST", "/topics/t", b"last")[1]["id"]
        assert daemon.stop() == 0
        assert any("can be written again" in line for line in daemon.log)
        with ports.daemon(tmp_path):
            found = ask(control, "GET", "/topics/t")[1]
            assert (found["id"], found["history"]) == (last, accepted + 2)
            assert ask(ports.place("public"), "GET", f"/topics/t?after={before}")[1]["recovered"]


def test_two_processes(tmp_path: Path) -> None:
    """A second process does not start on the directory of another, and says why in one line."""
    with Ports() as ports, ports.daemon(tmp_path):
        second = DaemonProcess(["--state", str(tmp_path / "state")], directory=tmp_path)
        second.start()
        assert second.wait() == 1
        assert any("another process uses pushd.sqlite" in line for line in second.log)
