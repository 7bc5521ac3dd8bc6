"""The benchmark measures real servers with a few connections, and detects faults."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest
from websockets.sync.server import Server as WebSocketsServer
from websockets.sync.server import ServerConnection, serve

from bench.build import build
from bench.catalogue import CATALOGUE
from bench.load import run_load
from bench.server import Server, Trouble

ROOT = Path(__file__).parents[2]
FLOOR = next(rival for rival in CATALOGUE if rival.name == "floor")

# How long the load generator waits for progress, in seconds.
PATIENCE = "60"

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("gcc") is None,
    reason="the load generator needs a compiler: apt-get install g++",
)


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    """Compile the load generator and the floor."""
    build()


def test_driver(tmp_path: Path) -> None:
    """Pushd and the floor are measured, every payload is verified, and a report is written."""
    command = [sys.executable, "-m", "bench", "--rivals", "pushd,floor,picows"]
    command += ["--workloads", "w2,w4,w5,p1,p2,x1,c1", "--rounds", "1", "--scale", "0.02"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "performance.md").read_text()
    for words in ("W2", "W4", "W5", "P1", "P2", "X1", "C1"):
        [row, *_] = [line for line in text.splitlines() if line.startswith(f"| {words}")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert "-" not in cells[:3], row
    missing = "Not installed on this machine: picows (PyPI)" in text
    assert missing == (find_spec("picows") is None)
    assert (tmp_path / "performance.svg").read_text().startswith("<svg")


def compare(new: Path) -> subprocess.CompletedProcess[str]:
    """Compare this checkout with another one, with a few connections."""
    command = [sys.executable, "-m", "bench.compare", str(ROOT), str(new)]
    return subprocess.run(
        [*command, "--workloads", "w4,w5", "--rounds", "1", "--scale", "0.05"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_compare() -> None:
    """This checkout is compared with itself."""
    done = compare(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for key in ("w4.cpu", "w5.cpu"):
        assert re.search(rf"^\| {key}, µs \| \d.* \| 1 \|$", done.stdout, re.MULTILINE), done.stdout


def test_compare_broken(tmp_path: Path) -> None:
    """Each side runs the pushd of its own directory: a broken one fails, by its name."""
    for path, text in {
        "bench/rivals/pushd_views.py": "",
        "pushd/__init__.py": "",
        "pushd/service.py": "raise RuntimeError('another pushd')\n",
        "twisted/plugins/pushd_plugin.py": (
            "from twisted.application.service import ServiceMaker\n"
            "pushd = ServiceMaker('pushd', 'pushd.service', 'Broken', 'pushd')\n"
        ),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    done = compare(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "new ended; its log ends:" in done.stdout
    assert "RuntimeError: another pushd" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "patience", "words"),
    [
        # The first message is wrong, and no other follows.
        ("demo --path /echo/ --browsers 2", "5", r"\d x payload"),
        ("echo --path /subscribe/ --clients 2", "1", "1 x stall"),
        ("handshake --path /nowhere/ --total 2 --warm 0", PATIENCE, "2 x refused"),
        (
            "fanout --path /echo/ --publish /publish/ --subscribers 2",
            "1",
            "1 x delivered, 1 x stall",
        ),
        ("idle --path /subscribe/ --connections 2 --longest 1", PATIENCE, "2 not pinged"),
    ],
)
def test_fault(arguments: str, patience: str, words: str, tmp_path: Path) -> None:
    """A server that does the wrong thing fails the run."""
    with Server(FLOOR, tmp_path) as server, pytest.raises(Trouble, match=words):
        run_load(
            [*arguments.split(), "--port", str(server.port), "--patience", patience],
            at_gate=lambda gate: None,
        )


@pytest.mark.parametrize("fault", ["none", "twice", "order", "changed", "lost"])
def test_payloads(fault: str) -> None:
    """A publication that is lost, repeated, changed or out of order fails the run."""
    subscribers: list[ServerConnection] = []

    def view(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        if websocket.request.path == "/subscribe/":
            subscribers.append(websocket)
        messages: list[str | bytes] = []
        for message in websocket:
            messages.append(message)
            if len(messages) % 4:
                continue
            for subscriber in subscribers:
                for sent in spoil(messages[-4:], fault):
                    subscriber.send(sent)

    with running(serve(view, "127.0.0.1", 0)) as port:
        arguments = ["fanout", "--port", str(port), "--path", "/subscribe/"]
        arguments += ["--publish", "/publish/", "--subscribers", "3"]
        arguments += ["--patience", "1" if fault == "lost" else PATIENCE]
        arguments += ["--burst", "4", "--times", "3", "--warm", "0"]
        if fault == "none":
            assert run_load(arguments, at_gate=lambda gate: None)["units"] == 36
            return
        with pytest.raises(Trouble, match="1 x stall" if fault == "lost" else r"\d x payload"):
            run_load(arguments, at_gate=lambda gate: None)


def spoil(messages: list[str | bytes], fault: str) -> list[str | bytes]:
    """Return four messages with the given fault."""
    first, second, third, fourth = messages
    match fault:
        case "twice":
            return [first, second, second, third, fourth]
        case "order":
            return [first, third, second, fourth]
        case "changed":
            return [first, second, third, str(fourth)[:-1] + "!"]
        case "lost":
            return [first, second, third]
    return messages


@contextmanager
def running(server: WebSocketsServer) -> Iterator[int]:
    """Run a server in a thread; yields its port."""
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(20)
