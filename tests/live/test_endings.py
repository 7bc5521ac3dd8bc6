"""The end of a conversation over real sockets: it loses nothing, and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.daemon_process import DaemonProcess

PATIENCE = 30.0

KINDS = ("modern", "classic", "blocking", "wsgi")

ARGS = [
    *("--views", "tests.live.ending_views:views", "--wsgi", "tests.live.ending_views:application"),
    *("--threads", "64", "--view-grace", "1"),
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Run the views; no traceback may stand in the log."""
    with DaemonProcess(ARGS, directory=tmp_path) as daemon:
        yield daemon
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


def report(daemon: DaemonProcess) -> dict[str, Any]:
    """Return what was saved, and how many are in each room, by the kind of view."""
    with urlopen(f"{daemon.url}report/", timeout=PATIENCE) as answer:
        return dict(json.load(answer))


def address(daemon: DaemonProcess, kind: str) -> str:
    """Return the URL of a view."""
    return f"{daemon.url.replace('http', 'ws', 1)}{kind}/"


@pytest.mark.parametrize("kind", KINDS)
def test_ten_messages(daemon: DaemonProcess, kind: str) -> None:
    """Ten messages and a Close at once, twenty times: each is saved, and clean-up runs."""
    for _ in range(20):
        with connect(address(daemon, kind)) as client:
            for number in range(10):
                client.send(str(number))
    end = monotonic() + PATIENCE
    while (found := report(daemon)[kind])[1] and monotonic() < end:
        sleep(0.05)
    assert found == [found[0], 0]
    assert sorted(found[0]) == sorted(str(number) for number in range(10) for _ in range(20))


@pytest.mark.parametrize("kind", KINDS)
def test_last_words(daemon: DaemonProcess, kind: str) -> None:
    """The last words of a client that leaves at once reach another, ten times out of ten."""
    with connect(address(daemon, kind)) as other:
        for number in range(10):
            with connect(address(daemon, kind)) as client:
                client.send(f"last {number}")
            assert other.recv(PATIENCE) == f"last {number}"
            assert other.recv(PATIENCE) == "left"


def test_stragglers(daemon: DaemonProcess) -> None:
    """64 views whose threads do not end give up their places, and the log names them once."""
    for _ in range(64):
        with connect(address(daemon, "asleep")) as client:
            assert client.recv(PATIENCE) == "asleep"
    daemon.wait_for(r"asleep is still running in its thread 1 s after the end")
    end = monotonic() + PATIENCE
    while True:
        try:
            with connect(address(daemon, "blocking")) as client:
                client.send("on")
                assert client.recv(PATIENCE) == "on"
            break
        except InvalidStatus:
            assert monotonic() < end
            sleep(0.1)
    assert len([line for line in daemon.log if "asleep is still running" in line]) == 1
