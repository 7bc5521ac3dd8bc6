"""SIGHUP to a real process: what it does to those who are connected, and to those who come."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.daemon_process import DaemonProcess

# How long anything may take, in seconds.
PATIENCE = 60.0


def open_socket(daemon: DaemonProcess, origin: str | None = None) -> ClientConnection:
    """Open a WebSocket to a topic, from a page of this origin."""
    url = f"{daemon.url.replace('http', 'ws', 1)}topics/t"
    headers = {"Origin": origin} if origin else None
    return connect(url, additional_headers=headers, open_timeout=PATIENCE)


def test_reload(tmp_path: Path) -> None:
    """New limits and origins count without dropping anybody; what needs a restart is said."""
    file = tmp_path / "pushd.toml"
    file.write_text("max-connections = 50\n")
    stranger = "https://other.example"
    with (
        DaemonProcess(["--config", str(file)], directory=tmp_path) as daemon,
        open_socket(daemon) as inside,
    ):
        with pytest.raises(InvalidStatus):
            open_socket(daemon, stranger)
        file.write_text(f'max-connections = 60\nthreads = 3\norigin = ["{stranger}"]\n')
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("reloaded: max-connections is 60 now, not 50")
        daemon.wait_for("60 connections at most")
        daemon.wait_for("reloaded, but threads needs a restart: it stays 64, not 3")
        daemon.wait_for("reloaded$")
        with open_socket(daemon, stranger) as page:
            assert page.ping().wait(PATIENCE)
        # A file that is broken changes nothing: strangers come in still.
        file.write_text('origin = ["nowhere"]\nmax-rate = "many"\n')
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("not reloaded: .*pushd.toml: max-rate .many.: must be a number")
        daemon.wait_for("not reloaded: .*pushd.toml: origin nowhere: no origin like")
        with open_socket(daemon, stranger) as page:
            assert page.ping().wait(PATIENCE)
        assert inside.ping().wait(PATIENCE)
    assert daemon.wait() == 0
    assert not [line for line in daemon.log if "Traceback" in line]


def test_keys_and_log_level(tmp_path: Path) -> None:
    """Keys count for those who come from then on, and the log tells more."""
    file, key = tmp_path / "pushd.toml", tmp_path / "secret"
    file.write_text("")
    key.write_text("a secret of thirty-two characters")
    with (
        DaemonProcess(["--config", str(file)], directory=tmp_path) as daemon,
        open_socket(daemon) as inside,
    ):
        file.write_text(f'log-level = "debug"\ntoken-key = ["{key}"]\n')
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("reloaded: log-level is debug now, not info")
        daemon.wait_for("reloaded$")
        with pytest.raises(InvalidStatus, match="401"):
            open_socket(daemon)
        url = f"{daemon.url.replace('http', 'ws', 1)}test/"
        with connect(url, open_timeout=PATIENCE) as page:
            page.send("a word that only debug shows")
            daemon.wait_for("a word that only debug shows")
        assert inside.ping().wait(PATIENCE)
    assert daemon.wait() == 0
