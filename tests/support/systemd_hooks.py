"""Hooks of pytest for the tests under a systemd of their own."""

from __future__ import annotations

import pytest

from tests.support.systemd_machine import MARKER
from tests.support.systemd_unit import run


def pytest_sessionstart() -> None:
    """Refuse to run elsewhere: these tests would install units, and stop those of the machine."""
    if not MARKER.exists():
        raise pytest.UsageError("these tests run under a systemd of their own: see the Makefile")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode
) -> None:
    """After a failure, show the end of the journal."""
    if exitstatus:
        journal = run("journalctl", "--no-pager", "--output=short-precise", check=False).stdout
        lines = [line for line in journal.splitlines() if '"event": "request"' not in line]
        terminalreporter.write_line("\n".join(lines[-200:]))
