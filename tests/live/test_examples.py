"""The examples, started as their headers say, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.request import ProxyHandler, build_opener

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.daemon_process import DaemonProcess

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def running(example: str, *args: str) -> Iterator[str]:
    """Run an example in its folder; return its address and path, without ``http:``."""
    command = ["--views", f"{example}:views", "--web", "web", *args]
    with DaemonProcess(command, directory=EXAMPLES) as daemon:
        yield daemon.url.removeprefix("http:")
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


@pytest.mark.parametrize("example", ["echo", "chat", "progress"])
def test_header(example: str) -> None:
    """Each header says how to run its example, and which page to open."""
    words = (EXAMPLES / f"{example}.py").read_text().split()
    command = " ".join(words[words.index("twistd") :])
    assert command.startswith(f"twistd -n pushd --views {example}:views --web web and open http")
    path = words[words.index("open") + 1].removeprefix("http://127.0.0.1:8080/")
    with (
        running(example) as address,
        build_opener(ProxyHandler({})).open(f"http:{address}{path}", timeout=TIMEOUT) as answer,
    ):
        assert answer.read() == (EXAMPLES / f"web/{example}.html").read_bytes()


def test_echo() -> None:
    """Messages are echoed, text and binary, small and large."""
    with running("echo") as address, open_socket(f"ws:{address}echo/") as websocket:
        for message in ("hello", b"\x00\xff", "x" * 1_000_000):
            websocket.send(message)
            assert websocket.recv(TIMEOUT) == message


def test_chat() -> None:
    """Two clients in a room receive each other's messages."""
    with (
        running("chat") as address,
        open_socket(f"ws:{address}chat/lobby/?name=ann") as ann,
        open_socket(f"ws:{address}chat/lobby/?name=bob") as bob,
    ):
        bob.send("hello")
        received = [json.loads(ann.recv(TIMEOUT)) for _ in range(3)]
        assert received[2] == {"name": "bob", "text": "hello"}
        ann.close()
        received = [json.loads(bob.recv(TIMEOUT)) for _ in range(3)]
        assert received[2] == {"name": "ann", "event": "leaves"}


def test_progress() -> None:
    """A client that disconnects ends its job, and its thread runs the next one to the end."""
    with running("progress", "--threads", "1") as address:
        with open_socket(f"ws:{address}progress/?word=one") as websocket:
            assert json.loads(websocket.recv(TIMEOUT))["done"] == 1
        with open_when_free(f"ws:{address}progress/?word=two") as websocket:
            news = [json.loads(message) for message in websocket]
    assert [one["done"] for one in news] == list(range(1, 51))
    assert len(news[-1]["key"]) == 64


def open_socket(url: str) -> ClientConnection:
    """Open a WebSocket."""
    return connect(url, open_timeout=TIMEOUT)


def open_when_free(url: str) -> ClientConnection:
    """Connect once a thread is free: the abandoned job finishes its step first."""
    deadline = monotonic() + TIMEOUT
    while True:
        try:
            return open_socket(url)
        except InvalidStatus as refused:
            assert refused.response.status_code == 503
            assert monotonic() < deadline
