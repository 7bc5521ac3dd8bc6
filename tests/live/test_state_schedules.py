"""Schedules with ``--state``: a daemon that is killed and started again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep, time

import pytest

from pushd.topics.timestamp import format_timestamp
from tests.live.control_port import ask, read_topic, wait_until_finished
from tests.support.daemon_process import DaemonProcess

# Timeout of single steps, in seconds.
PATIENCE = 60.0


@contextmanager
def running(directory: Path, sync: str) -> Iterator[DaemonProcess]:
    """Run a daemon with its state in a folder, and kill it."""
    options = ["--state", str(directory / "state"), "--state-sync", sync]
    options += ["--control", "tcp:0:interface=127.0.0.1", "--history-size", "10000"]
    with ExitStack() as stack:
        daemon = stack.enter_context(DaemonProcess(options, directory=directory))
        yield daemon
        os.kill(daemon.pid, SIGKILL)
        daemon.wait()


def test_always(tmp_path: Path) -> None:
    """With "always", each tick is made once, and is kept, through five kills."""
    with running(tmp_path, "always") as daemon:
        first = ask(daemon, "GET", "/last-id?topic=ticks")["id"]
        ask(daemon, "POST", "/topics/ticks?every=0.01&count=800", b"tick")
        sleep(0.7)
    for _ in range(4):
        with running(tmp_path, "always") as daemon:
            sleep(0.7)
    with running(tmp_path, "always") as daemon:
        wait_until_finished(daemon)
        assert read_topic(daemon, "ticks", first) == ["tick"] * 800


@pytest.mark.parametrize("sync", ["always", "second", "none"])
def test_late(tmp_path: Path, sync: str) -> None:
    """What came due while the daemon was down is made at its start; the rest is still there."""
    with running(tmp_path, sync) as daemon:
        first = ask(daemon, "GET", "/last-id?topic=news")["id"]
        at = format_timestamp(time() + 2)
        ask(daemon, "POST", f"/topics/news?at={at}", b"late")
        far = ask(daemon, "POST", "/topics/news?delay=3600", b"far")
        gone = ask(daemon, "POST", "/topics/news?delay=3600", b"gone")
        ask(daemon, "DELETE", f"/schedules/{gone['schedule']}")
        # Until it is written.
        sleep(0.5)
    sleep(2)
    with running(tmp_path, sync) as daemon:
        deadline = monotonic() + PATIENCE
        while not (made := read_topic(daemon, "news", first)):
            assert monotonic() < deadline
            sleep(0.05)
        assert made == ["late"]
        assert ask(daemon, "GET", "/schedules")["schedules"] == [far]
