"""``pushdctl`` with a real daemon, and the documents that describe it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT
from threading import Thread
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.daemon_process import DaemonProcess
from tests.support.held_port import held_port

ROOT = Path(__file__).parent.parent.parent
PUSHDCTL = Path(sys.executable).with_name("pushdctl")

# Seconds that any step may take.
PATIENCE = 60.0

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")


class Shell:
    """A shell whose environment has the addresses of the daemon."""

    def __init__(self, daemon: DaemonProcess, folder: Path) -> None:
        self.daemon = daemon
        self.folder = folder
        self.public = daemon.url.rstrip("/")
        self.control = daemon.wait_for(r"control port listening on (http://\S+)")[1].rstrip("/")
        path = f"{PUSHDCTL.parent}{os.pathsep}{os.environ['PATH']}"
        self.environ = {
            **os.environ,
            "PATH": path,
            "PUSHD_CONTROL_URL": self.control,
            "PUSHD_URL": self.public,
        }

    def run(self, command: str, code: int = 0) -> str:
        """Run a command, and return its standard output and standard error."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, (command, done.returncode, done.stdout)
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout


class Tail:
    """A running ``pushdctl tail``, and the lines that it has printed so far."""

    def __init__(self, shell: Shell, *args: str) -> None:
        self._process = subprocess.Popen(
            [PUSHDCTL, "tail", *args],
            env=shell.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            Thread(target=self._read, args=(self._process.stdout, self.printed)),
            Thread(target=self._read, args=(self._process.stderr, self.errors)),
        ]
        for reader in self._readers:
            reader.start()

    def wait_for(self, lines: list[str], pattern: str, count: int = 1) -> None:
        """Wait until ``count`` lines match a pattern."""
        deadline = time.monotonic() + PATIENCE
        while sum(bool(re.search(pattern, line)) for line in lines) < count:
            assert time.monotonic() < deadline, (self.printed, self.errors)
            time.sleep(0.02)

    def interrupt(self) -> int:
        """Send SIGINT, as Ctrl-C does, and return the exit code."""
        self._process.send_signal(SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait until it exits, and return the exit code."""
        code = self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    @staticmethod
    def _read(stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Shell]]:
    """Return a function that starts a daemon with options."""
    daemons: list[DaemonProcess] = []

    def run(*args: str) -> Shell:
        daemon = DaemonProcess([*CONTROL, *args], directory=tmp_path, patience=PATIENCE)
        daemons.append(daemon.__enter__())
        return Shell(daemon, tmp_path)

    yield run
    for daemon in daemons:
        daemon.stop()
        assert not [line for line in daemon.log if "Traceback" in line], daemon.log


@pytest.fixture
def tail() -> Iterator[Callable[..., Tail]]:
    """Return a function that starts ``pushdctl tail``."""
    tails: list[Tail] = []

    def listen(shell: Shell, *args: str) -> Tail:
        tails.append(Tail(shell, *args))
        return tails[-1]

    yield listen
    for one in tails:
        one.kill()


def blocks(document: str, language: str) -> list[str]:
    """Return the blocks of a document that are in a language."""
    text = (ROOT / "docs" / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_tail(start: Callable[..., Shell], tail: Callable[..., Tail]) -> None:
    """Tail prints publications, resumes after a break without loss, and exits on Ctrl-C."""
    shell = start()
    listening = tail(shell, "news")
    listening.wait_for(listening.errors, "subscribed, after")
    assert "subscribers: 1" in shell.run("pushdctl publish news one")
    listening.wait_for(listening.printed, r":1\tone$")
    (line,) = shell.run("pushdctl connections --json").splitlines()
    shell.run(f"pushdctl close {json.loads(line)['id']}; pushdctl publish news two")
    listening.wait_for(listening.printed, r":2\ttwo$")
    listening.wait_for(listening.errors, "subscribed, after", 2)
    assert not [line for line in listening.errors if "lost" in line]
    assert listening.interrupt() == 130
    assert len(listening.printed) == 2


def test_tail_to_head(start: Callable[..., Shell]) -> None:
    """If the reader of its output exits, as head does, tail exits without a message."""
    shell = start()
    first = json.loads(shell.run("pushdctl publish news 1 --json"))["id"]
    with subprocess.Popen(
        ["bash", "-c", f"pushdctl tail news --after {first} | head -n 2"],
        env=shell.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE
        # It notices that its reader has exited when it prints the next line.
        while process.poll() is None:
            assert time.monotonic() < deadline
            shell.run("pushdctl publish news more")
        assert process.stdout is not None
        listening, *lines = process.stdout.read().splitlines()
    assert "subscribed, after" in listening
    assert [line.partition("\t")[2] for line in lines] == ["more", "more"]


def test_no_daemon(tmp_path: Path, start: Callable[..., Shell]) -> None:
    """Without a daemon, each command fails with one line that says so."""
    shell = start()
    with held_port() as port:
        shell.environ["PUSHD_CONTROL_URL"] = shell.environ["PUSHD_URL"] = f"http://127.0.0.1:{port}"
        lines = [
            shell.run(f"pushdctl {command}", 1)
            for command in ("publish t x", "tail t", "topics", "connections", "close 1")
        ]
    for line in lines:
        assert line.count("\n") == 1, line
        assert "Connection refused; is the daemon running? Its address is set with --" in line, line


def test_health(tmp_path: Path, start: Callable[..., Shell]) -> None:
    """``health`` asks over a Unix socket; when the daemon has ended, it fails with one line."""
    shell = start("--control", f"unix:{tmp_path}/control.sock")
    url = f"unix:{tmp_path}/control.sock"
    assert shell.run(f"pushdctl health --control {url}") == "ready\n"
    assert shell.run(f"PUSHD_CONTROL_URL={url} pushdctl health --live") == "alive\n"
    assert "subscribers: 0" in shell.run(f"pushdctl publish news x --control {url}")
    shell.daemon.stop()
    line = shell.run(f"pushdctl health --control {url}", 1)
    assert line.startswith(f"pushd: {url} does not respond: No such file"), line
    assert line.count("\n") == 1, line


def test_module(start: Callable[..., Shell]) -> None:
    """``python -m pushd`` and ``pushd`` are the same program as ``pushdctl``."""
    shell = start()
    assert "subscribers: 0" in shell.run("env pushd publish t x")
    assert "subscribers: 0" in shell.run(f"{sys.executable} -m pushd publish t x")
    assert shell.run(f"{sys.executable} -m pushd --version").startswith("pushd ")


def test_command_document(start: Callable[..., Shell], tail: Callable[..., Tail]) -> None:
    """The commands in docs/command.md do what it says."""
    shell = start()
    (shell.folder / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    listening = tail(shell, "news")
    listening.wait_for(listening.errors, "subscribed")
    commands, checks, loads, asked = blocks("command.md", "sh")
    (*_, answer) = blocks("command.md", "text")
    output = shell.run(commands)
    listening.wait_for(listening.printed, r"\tit is noon$")
    listening.wait_for(listening.printed, r"\ttick$", 10)
    listening.wait_for(listening.errors, "reconnecting in")
    checks = checks.replace("http://127.0.0.1:8080", shell.public)
    assert shell.run(checks) == "ready\nalive\nserved\n"
    lines = shell.run(loads).splitlines()
    assert "1000 in " in lines[1]
    assert json.loads(lines[4])["deliveries"] == 1000
    assert "images/7" in output
    assert "/topics/news" in output
    listening.wait_for(listening.errors, "subscribed", 2)
    asked = asked.replace("http://127.0.0.1:8081", shell.control).replace(
        "connections/1", "connections/2"
    )
    said = json.loads(
        shell.run(asked.replace("curl ", "curl -sS --fail-with-body ")).split("\n")[0]
    )
    expected = json.loads(answer)
    assert said.keys() == expected.keys()
    assert said["connections"][0].keys() == expected["connections"][0].keys()
    assert said["connections"][0]["transport"] == "sse"


def test_tokens_document(
    tmp_path: Path, start: Callable[..., Shell], tail: Callable[..., Tail]
) -> None:
    """The commands in docs/tokens.md make a token that permits what it says, and nothing else."""
    make_key, make_token, show = blocks("tokens.md", "sh")
    subprocess.run(make_key.splitlines()[0], shell=True, cwd=tmp_path, check=True)
    shell = start("--token-key", "key")
    shell.environ["PUSHD_TOKEN"] = shell.environ["TOKEN"] = token = shell.run(make_token).strip()
    output = shell.run(
        show.replace("curl ", "curl -sS ").replace("http://127.0.0.1:8080", shell.public)
    ).splitlines()
    assert [sorted(json.loads(line)) for line in output] == [
        ["id", "publications", "recovered"],
        ["id", "subscribers"],
    ]
    listening = tail(shell, "chat/7")
    listening.wait_for(listening.errors, "subscribed")
    shell.run(f"pushdctl publish chat/7 hi --control {shell.public}")
    listening.wait_for(listening.printed, r"\thi$")
    assert "ann" in shell.run("pushdctl connections")
    assert "does not permit publishing to news (403)" in shell.run(
        f"pushdctl publish news x --control {shell.public}", 1
    )
    assert "does not permit subscribing to other (403)" in shell.run("pushdctl tail other", 1)
    bad = shell.run(f"PUSHD_TOKEN={token}x pushdctl tail news", 1)
    assert "(401)" in bad
    # No token is ever in the log.
    assert not [line for line in shell.daemon.log if token[-20:] in line]


def test_expiry(tmp_path: Path, start: Callable[..., Shell], tail: Callable[..., Tail]) -> None:
    """A WebSocket is closed with 1008 when its token expires."""
    (tmp_path / "key").write_bytes(os.urandom(64))
    shell = start("--token-key", "key")
    with open_with_token(shell, ttl=2) as websocket, pytest.raises(ConnectionClosed) as caught:
        websocket.recv(PATIENCE)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "token expired")
    shell.daemon.wait_for("closed 1008 .*: token expired")


def open_with_token(shell: Shell, ttl: int) -> ClientConnection:
    """Open a WebSocket with a token that expires in ``ttl`` seconds.

    On a busy machine the token may expire before the handshake; then it is made to last longer.
    """
    made = shell.run(f"pushdctl token --key key --sub ann --subscribe news --ttl {ttl}")
    url = f"ws://{urlsplit(shell.public).netloc}/topics/news?token={made.strip()}"
    try:
        return connect(url, proxy=None, open_timeout=PATIENCE)
    except InvalidStatus as refused:
        assert refused.response.status_code == 401
        assert ttl < PATIENCE
        return open_with_token(shell, 4 * ttl)


def test_bad_key(tmp_path: Path) -> None:
    """With a file that holds no key, the daemon exits with 1 after one line."""
    (tmp_path / "key").write_text("secret\n")
    daemon = DaemonProcess(["--token-key", "key"], directory=tmp_path, patience=PATIENCE)
    daemon.start()
    assert daemon.wait() == 1
    (line,) = daemon.log
    assert line == "pushd: --token-key key: key: secret must have at least 32 bytes; got 6"
