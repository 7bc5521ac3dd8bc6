"""SIGHUP to a real process: what it does to those who are connected, and to those who come."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.daemon_process import DaemonProcess

# How long anything may take, in seconds.
PATIENCE = 60.0


def open_socket(daemon: DaemonProcess, origin: str | None = None) -> ClientConnection:
    """Open a WebSocket to a topic, from a page of this origin."""
    url = f"{daemon.url.replace('http', 'ws', 1)}topics/t"
    headers = {"Origin": origin} if origin else None
    return connect(url, additional_headers=headers, open_timeout=PATIENCE)


def test_reload(tmp_path: Path) -> None:
    """A reload changes limits and origins without closing connections, and says what it cannot."""
    file = tmp_path / "pushd.toml"
    file.write_text("max-connections = 50\n")
    other = "https://other.example"
    with (
        DaemonProcess(["--config", str(file)], directory=tmp_path) as daemon,
        open_socket(daemon) as inside,
    ):
        with pytest.raises(InvalidStatus):
            open_socket(daemon, other)
        file.write_text(f'max-connections = 60\nthreads = 3\norigin = ["{other}"]\n')
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("max-connections changed from 50 to 60")
        daemon.wait_for("connection limit is 60")
        daemon.wait_for("threads changed from 64 to 3, which needs a restart; still using 64")
        daemon.wait_for("options reloaded$")
        with open_socket(daemon, other) as page:
            assert page.ping().wait(PATIENCE)
        # A file with mistakes changes nothing: the origin is still allowed.
        file.write_text('origin = ["nowhere"]\nmax-rate = "many"\n')
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("not reloaded: .*pushd.toml: max-rate .many.: must be a number")
        daemon.wait_for("not reloaded: .*pushd.toml: origin nowhere: must be an origin such as")
        with open_socket(daemon, other) as page:
            assert page.ping().wait(PATIENCE)
        assert inside.ping().wait(PATIENCE)
    assert daemon.wait() == 0
    assert not [line for line in daemon.log if "Traceback" in line]


def test_keys_and_log_level(tmp_path: Path) -> None:
    """A reload changes the keys of tokens for new connections, and the level of the log."""
    file, key = tmp_path / "pushd.toml", tmp_path / "secret"
    file.write_text("")
    key.write_text("a secret of thirty-two characters")
    with (
        DaemonProcess(["--config", str(file)], directory=tmp_path) as daemon,
        open_socket(daemon) as inside,
    ):
        file.write_text(f'log-level = "debug"\ntoken-key = ["{key}"]\n')
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("log-level changed from info to debug")
        daemon.wait_for("options reloaded$")
        with pytest.raises(InvalidStatus, match="401"):
            open_socket(daemon)
        url = f"{daemon.url.replace('http', 'ws', 1)}test/"
        with connect(url, open_timeout=PATIENCE) as page:
            page.send("a word that only debug shows")
            daemon.wait_for("a word that only debug shows")
        assert inside.ping().wait(PATIENCE)
    assert daemon.wait() == 0
