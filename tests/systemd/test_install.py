"""The installation that docs/operations.md describes, as it is without further changes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.systemd_unit import CONTROL, PUBLIC, Unit, fetch, run
from tests.systemd.__main__ import DOCUMENT
from tests.systemd.load import restart_under_load


def test_enabled(installed: Unit) -> None:
    """The commands of the document enable and start the socket and the service."""
    for name in ("pushd.socket", "pushd.service"):
        assert run("systemctl", "is-enabled", name).stdout.strip() == "enabled"
        assert run("systemctl", "is-active", name).stdout.strip() == "active"


def test_serves(installed: Unit) -> None:
    """The demo is at the public port, and the daemon is ready."""
    assert fetch(PUBLIC).status == 200
    assert fetch(f"{CONTROL}readyz").status == 200


def test_quiet(installed: Unit) -> None:
    """Nothing is missing in the sandbox: no line of the log is a warning, and systemd has none."""
    lines = [line for line in installed.journal() if re.search("warn|error|fail|cannot", line)]
    # The configuration that --check prints has comments with such words.
    assert [line for line in lines if not re.match(r"# |[a-z-]+ = ", line)] == []


def test_watchdog_time(installed: Unit) -> None:
    """The watchdog has the time that the document tells."""
    assert "(`WatchdogSec=`)" in DOCUMENT.read_text()
    assert "for 20 seconds" in DOCUMENT.read_text()
    assert installed.show("WatchdogUSec")["WatchdogUSec"] == "20s"


def test_state(installed: Unit) -> None:
    """Topics outlive a restart, which refuses no request; only the service can read the state."""
    published = json.loads(fetch(f"{CONTROL}topics/kept", "POST", b"one").body)
    restart_under_load(installed)
    assert json.loads(fetch(f"{CONTROL}topics/kept").body)["id"] == published["id"]
    folder = Path("/var/lib/pushd")
    assert list(folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_plugin_cache(installed: Unit) -> None:
    """The plugin cache is written by the installation, as the service could not."""
    assert list(Path("/opt/pushd").glob("lib/python*/site-packages/twisted/plugins/dropin.cache"))
