"""The suite of centrifuge-python, run by unittest as the SDK runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.sdk.suites.suite import SuiteDaemon, copy_for, find_suite, left_out

# Seconds that the suite may take: most of its tests wait for ever.
_PATIENCE = 120


def test_suite(tmp_path: Path) -> None:
    """All tests that need a server pass, but for those that are left out."""
    suite, without = find_suite("centrifuge-python"), left_out("python")
    # This is what each module calls that needs one.
    files = sorted(
        path.name
        for path in (suite / "tests").glob("test_*.py")
        if "require_centrifugo()" in path.read_text()
    )
    modules = [f"tests.{Path(file).stem}" for file in files if not without.has(file)]
    assert modules
    with SuiteDaemon(tmp_path) as daemon:
        for folder in ("tests", "centrifuge"):
            copy_for(daemon, suite / folder, tmp_path / "suite" / folder)
        done = subprocess.run(
            [sys.executable, "-m", "unittest", "-v", *modules],
            cwd=tmp_path / "suite",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
        )
    assert done.returncode == 0, done.stdout
    assert without.unused(files, ()) == []
    assert re.search(r"^OK$", done.stdout, re.MULTILINE), done.stdout
