"""The suite of centrifuge-js, run by Jest in Node as the SDK runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.sdk.suites.suite import SuiteDaemon, copy_for, find_suite, left_out, names_but

# Seconds that the suite may take.
_PATIENCE = 600


def test_suite(tmp_path: Path) -> None:
    """All tests that need a server pass, but for those that are left out."""
    suite, without = find_suite("centrifuge-js"), left_out("javascript")
    files = sorted(
        path.name
        for path in (suite / "src").glob("*.test.ts")
        if "localhost:8000" in path.read_text()
    )
    names = [pattern.partition(" > ")[2] for pattern in without.patterns if " > " in pattern]
    copy, report = tmp_path / "suite", tmp_path / "report.json"
    with SuiteDaemon(tmp_path) as daemon:
        copy_for(daemon, suite / "src", copy / "src")
        for name in ("package.json", "tsconfig.json", "jest.config.js"):
            (copy / name).symlink_to(suite / name)
        (copy / "node_modules").symlink_to(suite / "node_modules")
        done = subprocess.run(
            [
                *("node", "node_modules/jest/bin/jest.js", "--runInBand", "--forceExit", "--json"),
                *("--outputFile", str(report), "--testNamePattern", names_but(names)),
                *(f"/{file}$" for file in files if not without.has(file)),
            ],
            cwd=copy,
            # So that no cache is left behind.
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
        )
    assert done.returncode == 0, done.stdout
    outcomes = {
        (Path(result["name"]).name, test["fullName"]): test["status"]
        for result in json.loads(report.read_text())["testResults"]
        for test in result["assertionResults"]
    }
    assert without.unused(files, outcomes) == []
    wrong = {
        name: status
        for name, status in outcomes.items()
        if status != ("pending" if without.has(*name) else "passed")
    }
    assert wrong == {}
