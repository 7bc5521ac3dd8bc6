"""docs/topics.md: every command in it gives the output that it says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import islice, pairwise
from pathlib import Path
from threading import Timer
from time import sleep
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

from pushd.access.limits import Limits
from pushd.api.publish import max_batch_body
from pushd.topics.history import Retention
from pushd.topics.scheduled import MAX_BYTES, MAX_SCHEDULED, SCHEDULE_GRACE
from pushd.topics.subscription import LAG_TIMEOUT
from tests.support.daemon_process import DaemonProcess

DOCUMENT = Path(__file__).parent.parent.parent / "docs/topics.md"

# The document's epoch and schedule id, which in reality are random strings of the same form.
EPOCH, SCHEDULE = "8f2a6c01d4e79b3052", "c41e07b95ad2f36810"

# Seconds that a command may take.
TIMEOUT = 60.0


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    language: str
    text: str


BLOCKS = [
    Block(*found)
    for found in re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
]


class Shell:
    """Runs the document's commands in one shell."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.public = urlsplit(daemon.url).netloc
        self.control = urlsplit(
            daemon.wait_for(r"control port listening on (http://\S+)")[1]
        ).netloc

    def ask(self, path: str) -> dict[str, object]:
        """Send a request to the control port."""
        connection = HTTPConnection(self.control, timeout=TIMEOUT)
        connection.request("GET", path)
        said = json.loads(connection.getresponse().read())
        connection.close()
        assert isinstance(said, dict)
        return said

    def run(self, command: str, lines: int = 0) -> str:
        """Run a block of shell; return its output with the document's epoch and schedule id.

        Of a stream, only the given number of lines is read.
        """
        streams = "curl -N" in command
        command = command.replace("127.0.0.1:8080", self.public)
        command = command.replace("127.0.0.1:8081", self.control).replace("curl ", "curl -sS ")
        id = str(self.ask("/topics/news")["id"])
        command = command.replace(EPOCH, id.partition(":")[0])
        # The id of the schedule made last, which only the shell knows in time.
        last = """grep -o '[^"]*","topic' | tail -1 | cut -d'"' -f1"""
        listing = f"curl -s http://{self.control}/schedules"
        command = command.replace(SCHEDULE, f"$({listing} | {last})")
        with subprocess.Popen(
            ["sh", "-euc", f"exec 2>&1\n{'exec ' if streams else ''}{command}"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            timer = Timer(TIMEOUT, process.kill)
            timer.start()
            assert process.stdout is not None
            read = list(islice(process.stdout, lines)) if streams else []
            if streams:
                # Lines that came with the last one, and should not be there.
                sleep(0.5)
                process.kill()
            output = "".join([*read, process.stdout.read()])
            timer.cancel()
        assert streams or process.returncode == 0, output
        assert "curl: " not in output, output
        return re.sub(r"[0-9a-f]{18}(?=:\d)", EPOCH, output)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Run a daemon with the options of the document."""
    with DaemonProcess(["--control", "tcp:0:interface=127.0.0.1"], directory=tmp_path) as daemon:
        yield Shell(daemon)


def test_commands(shell: Shell) -> None:
    """Every command, run one after the other, gives the output in the document."""
    commands = 0
    for block, behind in pairwise([*BLOCKS, Block("", "")]):
        if block.language == "sh":
            commands += block.text.count("curl ")
            output = shell.run(block.text, lines=behind.text.count("\n"))
            assert '"error"' not in output, (block.text, output)
            if behind.language == "text":
                assert output.strip() == behind.text.strip(), block.text
    assert commands == 13
    # The one with a delay of an hour is cancelled; of the others, one may still be running.
    left = shell.ask("/schedules")["schedules"]
    assert isinstance(left, list)
    assert [one["every"] for one in left] in ([0.5, 0], [0])


def test_websocket(shell: Shell) -> None:
    """The frames of pushd.v1 are those in the document."""
    first, *others = (
        block for block in BLOCKS if "subscribed" in block.text and '"base64"' in block.text
    )
    assert not others
    for data in ("1", "2", "3"):
        shell.run(f"curl --data {data} http://127.0.0.1:8081/topics/news")
    url = f"ws://{shell.public}/topics/news"
    with connect(url, subprotocols=["pushd.v1"], proxy=None, open_timeout=TIMEOUT) as websocket:  # type: ignore[list-item]
        shell.run("curl --data text http://127.0.0.1:8081/topics/news")
        binary = "-H 'Content-Type: application/octet-stream' --data-binary @-"
        shell.run(f"head -c 3 /dev/zero | curl {binary} http://127.0.0.1:8081/topics/news")
        frames = [str(websocket.recv(TIMEOUT)) for _ in range(3)]
    epoch = str(shell.ask("/topics/news")["id"]).partition(":")[0]
    assert "\n".join(frames).replace(epoch, EPOCH) == first.text.strip()


def test_defaults() -> None:
    """The table of limits has the current defaults."""
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| (\d+) \|", DOCUMENT.read_text(), re.M))
    assert rows == {
        "--history-size": str(Retention.size),
        "--history-ttl": str(Retention.ttl),
        "--history-bytes": str(Retention.bytes),
        "--max-message": str(Limits().max_message),
        "--max-buffered": str(Limits().max_buffered),
        "--max-topics": str(Limits().max_topics),
        "--max-present": str(Limits().max_present),
        "--schedule-grace": str(SCHEDULE_GRACE),
    }


def test_other_limits() -> None:
    """Limits that have no option are those in the document."""
    text = DOCUMENT.read_text()
    assert f"| | {max_batch_body(Limits().max_message)} | bytes of the body of a batch" in text
    assert f"| | {MAX_SCHEDULED}, {MAX_BYTES} | pending schedules, and bytes of their data" in text
    assert LAG_TIMEOUT == 10
