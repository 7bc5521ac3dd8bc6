"""The log of a real daemon, in both formats and to each destination."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.live.test_demo import OPTIONS, TIMEOUT, command_for, wait_until

VIEWS = """
from pushd.views import accept_websocket

async def fail(request):
    print("about to fail")
    raise ValueError("on purpose")

views = {"/fail/": fail}
"""


@pytest.mark.parametrize("way", ["twistd", "tac"])
@pytest.mark.parametrize("to_file", [False, True])
def test_json(tmp_path: Path, way: str, to_file: bool) -> None:
    """Every line, from the first to the last, is one JSON object, and no event is written twice."""
    (tmp_path / "shop.py").write_text(VIEWS)
    args = [*OPTIONS, "--views", "shop:views", "--log-format", "json"]
    lines = run(tmp_path, way, args, to_file=to_file)
    read: list[dict[str, Any]] = [json.loads(line) for line in lines]
    messages = Counter(line["message"] for line in read)
    assert [message for message, times in messages.items() if times > 1] == []
    assert sum("starting up" in message for message in messages) == 1
    assert "Server Shut Down." in messages
    # From before the log began, from a view's print(), and of its exception.
    assert {"allowed", "listening", "request", "view_failed"} <= {line["event"] for line in read}
    assert messages["about to fail"] == 1
    (failure,) = [line for line in read if "traceback" in line]
    assert failure["event"] == "view_failed"
    assert "ValueError: on purpose" in failure["traceback"]
    (answered,) = [line for line in read if line["event"] == "request"]
    assert (answered["status"], answered["path"]) == (500, "/fail/")


@pytest.mark.parametrize("way", ["twistd", "tac"])
def test_level(tmp_path: Path, way: str) -> None:
    """Lines below the level are not written."""
    args = [*OPTIONS, "--log-level", "error"]
    assert run(tmp_path, way, args, to_file=False, watch=False) == []


def run(
    directory: Path, way: str, args: list[str], *, to_file: bool, watch: bool = True
) -> list[str]:
    """Run a daemon, request a view that fails, stop it, and return the lines of its log."""
    command, variables = command_for(way, args)
    log = directory / "daemon.log"
    if to_file:
        command[1:1] = ["--logfile", str(log)]
    pidfile = directory / "daemon.pid"
    command[command.index("--pidfile=")] = f"--pidfile={pidfile}"
    output = directory / "output.log"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | variables | {"PYTHONPATH": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    place = log if to_file else output
    try:
        if watch:
            wait_until(lambda: place.exists() and "listening on http" in place.read_text())
            (line,) = [line for line in place.read_text().splitlines() if "listening on" in line]
            url = json.loads(line)["url"]
            connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
            connection.request("GET", "/fail/?token=secret")
            assert connection.getresponse().status == 500
            connection.close()
        else:
            # twistd writes this file just before the reactor runs.
            wait_until(pidfile.exists)
        process.terminate()
        process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait(TIMEOUT)
    assert "secret" not in place.read_text()
    if to_file:
        assert output.read_bytes() == b""
    return place.read_text().splitlines()
