"""Requests to a daemon: to its control port, for its schedules, and for what a topic has kept."""

from __future__ import annotations

import json
from time import monotonic, sleep
from typing import Any
from urllib.request import Request, urlopen

from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess

# Timeout of single steps, in seconds.
_PATIENCE = 60.0


def ask(daemon: DaemonProcess, method: str, path: str, data: bytes | None = None) -> Any:
    """Make a request, and return the JSON of the answer; None if it has no body."""
    url = control_url_of(daemon).rstrip("/") + path
    with urlopen(Request(url, data, method=method), timeout=_PATIENCE) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def wait_until_finished(daemon: DaemonProcess) -> None:
    """Wait until no publication is scheduled any more."""
    deadline = monotonic() + _PATIENCE
    while ask(daemon, "GET", "/schedules")["schedules"]:
        assert monotonic() < deadline
        sleep(0.1)


def read_topic(daemon: DaemonProcess, topic: str, after: str) -> list[str]:
    """Return what was published to a topic after an id, of which nothing may be missing.

    One poll may give a part of it only.
    """
    found: list[str] = []
    while True:
        url = f"{daemon.url}topics/{topic}?after={after}&wait=0"
        with urlopen(url, timeout=_PATIENCE) as answer:
            said = json.load(answer)
        assert said["recovered"]
        if not said["publications"]:
            return found
        found += [one["data"] for one in said["publications"]]
        after = said["id"]
