"""Stopping a real process: those inside, those outside, and those who restart it at noon."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.daemon_process import DaemonProcess
from tests.held_port import held_port

# How long anything may take, in seconds.
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
    """Give host and port of a daemon's control port."""
    return urlsplit(daemon.wait_for(r"control port listening on (http://\S+)")[1]).netloc


@contextmanager
def asking(place: str, method: str, path: str, body: bytes | None = None) -> Iterator[HTTPResponse]:
    """Send a request; gives the answer once its head is here."""
    connection = HTTPConnection(place, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        yield connection.getresponse()
    finally:
        connection.close()


def ask(place: str, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request; gives status and JSON of the answer."""
    with asking(place, method, path, body) as answer:
        return answer.status, json.loads(answer.read())


def open_connection(place: str) -> socket.socket:
    """Connect, and no more."""
    host, _, port = place.partition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def listen(place: str, path: str) -> ClientConnection:
    """Open a WebSocket."""
    protocols = [Subprotocol("pushd.v1")]
    return connect(f"ws://{place}{path}", subprotocols=protocols, open_timeout=PATIENCE)


def code_of(websocket: ClientConnection) -> int | None:
    """Read to the end; gives the code of the server's Close."""
    with pytest.raises(ConnectionClosed) as raised:
        while True:
            websocket.recv(PATIENCE)
    return None if raised.value.rcvd is None else raised.value.rcvd.code


def test_drain(tmp_path: Path) -> None:
    """A daemon that drains is not ready and lets nobody in; a second signal ends it now."""
    with ExitStack() as stack:
        # A port that nobody else gets when the daemon has closed it.
        door = f"tcp:{stack.enter_context(held_port())}:interface=127.0.0.1"
        args = [*CONTROL, "--listen", door, "--drain", "600"]
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
        # What is published now is heard by those who are here still; each has 200 seconds.
        with asking(control, "POST", "/topics/t", b"late") as answer:
            assert answer.status == 200
        os.kill(daemon.pid, signal.SIGINT)
        heard = [each.recv(PATIENCE) for each in sockets]
        assert {json.loads(one)["data"] for one in heard} == {"late"}
        assert [code_of(each) for each in sockets] == [1001] * 3
        assert daemon.wait() == 0
        assert any("SIGINT again" in line for line in daemon.log)


def test_everybody_hears_of_it(tmp_path: Path) -> None:
    """Within the seconds of the drain WebSockets are closed, streams end, polls are answered."""
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
    """Nobody waits for views that sleep in threads."""
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
    """Through a restart with sockets that stay open nobody is refused, and a gap is told.

    This is what systemd does on ``systemctl restart``: the sockets are its own.
    """
    doors = {
        "index": ("systemd:domain=INET:index=0", "systemd:domain=INET:index=1"),
        "name": ("systemd:domain=INET:name=web", "systemd:domain=INET:name=control"),
    }
    args = ["--listen", doors[way][0], "--control", doors[way][1], "--drain", "1"]
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
            status, said = ask(control, "POST", "/topics/t", data.encode())
            assert status == 200
            return str(said["id"])

        first = start()
        assert urlsplit(first.url).netloc == public
        visitor = stack.enter_context(Visitor(public))
        with listen(public, "/topics/t") as websocket:
            assert json.loads(websocket.recv(PATIENCE))["recovered"] is False
            last = publish("one")
            assert json.loads(websocket.recv(PATIENCE)) == {"id": last, "data": "one"}
        # A connection that breaks on its own is made up for.
        missed = publish("two")
        with listen(public, f"/topics/t?after={last}") as websocket:
            assert json.loads(websocket.recv(PATIENCE))["recovered"] is True
            assert json.loads(websocket.recv(PATIENCE)) == {"id": missed, "data": "two"}
            visitor.wait_for_more()
            os.kill(first.pid, signal.SIGTERM)
            assert code_of(websocket) == 1001
        assert first.wait() == 0
        # Nobody is there to answer now, but the kernel, which keeps those who come.
        with open_connection(public) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            start()
            assert read_all(early).startswith(b"HTTP/1.1 200 ")
        with listen(public, f"/topics/t?after={missed}") as websocket:
            # The history was in the memory of the first process: what was lost is not hidden.
            assert json.loads(websocket.recv(PATIENCE))["recovered"] is False
            again = publish("three")
            assert json.loads(websocket.recv(PATIENCE)) == {"id": again, "data": "three"}
        visitor.wait_for_more()
        visitor.leave()
        assert visitor.trouble == []


def wait_for_subscribers(control: str, count: int) -> None:
    """Wait until so many listen to the topic t."""
    for _ in range(1000):
        _, said = ask(control, "GET", "/topics/t")
        if sum(said["subscribers"].values()) == count:
            return
    raise AssertionError(f"{said} never has {count} subscribers")


def read_all(stream: socket.socket) -> bytes:
    """Read until the server closes."""
    return b"".join(iter(lambda: stream.recv(1 << 16), b""))


class Visitor:
    """Somebody who keeps coming, each time anew, and wants a page."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._enough = Event()
        self._more = Event()
        self._thread = Thread(target=self._visit, daemon=True)
        #: What went wrong.
        self.trouble: list[object] = []

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Come no more."""
        self._enough.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_for_more(self) -> None:
        """Wait until they have come once more, or have had trouble."""
        self._more.clear()
        assert self._more.wait(PATIENCE)

    def _visit(self) -> None:
        while not self._enough.is_set():
            try:
                with asking(self._place, "GET", "/test/") as answer:
                    answer.read()
                    if answer.status != 200:
                        self.trouble.append(answer.status)
            except OSError as error:
                self.trouble.append(error)
            self._more.set()
