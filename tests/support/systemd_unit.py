"""A unit of systemd, as ``systemctl`` and ``journalctl`` show it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

from tests.live.raw_client import Answer, RawClient

# Seconds within which all that is waited for must come.
PATIENCE = 30.0

PUBLIC = "http://127.0.0.1:8080/"
CONTROL = "http://127.0.0.1:8081/"


def run(
    *command: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command. Raises AssertionError, with its output, if it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command} failed:\n{done.stdout}"
    return done


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds, and return its value. Raises AssertionError after 30 s."""
    deadline = monotonic() + PATIENCE
    while not (value := condition()):
        assert monotonic() < deadline, f"{what} did not come"
        sleep(0.05)
    return value


def fetch(url: str, method: str = "GET", body: bytes = b"", *lines: str) -> Answer:
    """Send a request over a connection of its own."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    with RawClient(origin) as client:
        length = [f"Content-Length: {len(body)}"] if body else []
        return client.request(url.removeprefix(origin), *length, *lines, method=method, body=body)


class Unit:
    """A unit."""

    def __init__(self, name: str) -> None:
        self.name = name

    def show(self, *names: str) -> dict[str, str]:
        """Return properties."""
        options = [f"--property={name}" for name in names]
        lines = run("systemctl", "show", self.name, *options).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def status(self) -> str:
        """What the service has told about itself."""
        return self.show("StatusText")["StatusText"]

    @property
    def pid(self) -> int:
        """The id of the service's process; 0 if it has none."""
        return int(self.show("MainPID")["MainPID"])

    def restart(self) -> None:
        """Restart it. Raises AssertionError, with its log, if that fails."""
        done = run("systemctl", "restart", self.name, check=False)
        assert done.returncode == 0, f"{done.stdout}\n" + "\n".join(self.journal())

    def reload(self) -> None:
        """Reload it."""
        run("systemctl", "reload", self.name)

    def journal(self, *options: str) -> list[str]:
        """Return the messages in the journal: those of the service, and of systemd about it."""
        run("journalctl", "--sync")
        how = ("--output", "json", "--no-pager", "--all")
        done = run("journalctl", "--unit", self.name, *how, *options)
        return [str(json.loads(line)["MESSAGE"]) for line in done.stdout.splitlines()]

    def events(self) -> list[dict[str, Any]]:
        """Return the lines that pushd itself has logged as JSON."""
        return [json.loads(line) for line in self.journal() if line.startswith('{"time"')]

    def logged(self, event: str, text: str = "") -> list[dict[str, Any]]:
        """Return what it has logged of an event with a text in its message."""
        return [one for one in self.events() if one["event"] == event and text in one["message"]]


PUSHD = Unit("pushd.service")
