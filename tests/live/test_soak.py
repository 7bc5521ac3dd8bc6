"""The soak test in short: a daemon that is in order passes, and those that are not fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the soak test with a few clients for twenty seconds."""
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.3", "--clients", "60"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def test_flat() -> None:
    """Nothing grows, and nothing is lost, in a daemon of this checkout."""
    done = soak()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soak: passed: all resources are flat" in done.stdout
    for words in ("Redis killed", "Redis emptied", "Redis suspended", "reloads", "told recovered"):
        assert words in done.stdout


def test_leak() -> None:
    """A daemon whose views leave memory, descriptors, threads and timers behind fails."""
    done = soak("--views", "tests.soak.leaking_views:views")
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("soak: FAILED: ")
    for resource in ("memory", "descriptors beside connections", "threads", "timers"):
        assert f": {resource}" in verdict
    assert "timers beside those of polls: " in done.stdout
    assert "are left after all clients have gone" in done.stdout


def test_loss() -> None:
    """A daemon that loses a publication now and then fails."""
    done = soak("--views", "tests.soak.losing_views:views")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "after a gap" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("soak: FAILED: ")
