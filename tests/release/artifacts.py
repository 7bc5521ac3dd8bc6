"""The files of a release: built from what is committed, and checked in fresh environments."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from tests.support.daemon_process import DaemonProcess

#: The name of the file with the checksums.
SUMS = "SHA256SUMS"

# Seconds that one command may take: the Debian package brings a whole environment.
_TIMEOUT = 1800.0

_CONTROL = ("--control", "tcp:0:interface=127.0.0.1")

# Prints what a project gets that installs the npm package.
_IMPORT = """
import { subscribe, connect } from "pushd-client";
import manifest from "pushd-client/package.json" with { type: "json" };
console.log(typeof subscribe, typeof connect, manifest.version);
"""


def build(root: Path, folder: Path) -> list[Path]:
    """Build all files of a release into a folder, which is emptied first; return them.

    :param root: the checkout, which must have no changes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with _temporary() as name:
        # What git does not know is not in the release, whatever lies around.
        source = Path(name) / "source"
        source.mkdir()
        archive = Path(name) / "source.tar"
        _run("git", "archive", "--output", archive, "HEAD", cwd=root)
        _run("tar", "--extract", "--file", archive, "--directory", source, cwd=root)
        _run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=root)
        _run("npm", "pack", "--pack-destination", folder, cwd=source / "web")
    if has_target(root, "deb"):
        _run("make", "deb", cwd=root)
    return sorted(folder.iterdir())


def has_target(root: Path, name: str) -> bool:
    """Return whether the Makefile has a target."""
    return re.search(rf"^{name}:", (root / "Makefile").read_text(), re.MULTILINE) is not None


def check(path: Path, version: str) -> None:
    """Check one file of a release. Raises AssertionError."""
    for pattern, check_one in _CHECKS.items():
        if path.match(pattern):
            check_one(path, version)
            return
    raise AssertionError(f"{path.name} is no file of a release")


def write_sums(paths: list[Path]) -> Path:
    """Write the checksums of files beside them, as ``sha256sum --check`` reads them."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    sums = paths[0].with_name(SUMS)
    sums.write_text("".join(lines))
    _run("sha256sum", "--check", "--strict", "--quiet", sums.name, cwd=sums.parent)
    return sums


def _check_python(path: Path, version: str) -> None:
    """Install into an environment of its own, start the daemon, and publish to a subscriber."""
    _run(sys.executable, "-m", "twine", "check", "--strict", path, cwd=path.parent)
    with _temporary() as name:
        folder = Path(name)
        programs = folder / "environment/bin"
        _run(sys.executable, "-m", "venv", folder / "environment", cwd=folder)
        _run(programs / "python", "-m", "pip", "install", "--quiet", path, cwd=folder)
        said = _run(programs / "twistd", "pushd", "--version", cwd=folder)
        assert said.strip().endswith(f"pushd {version}"), said
        with DaemonProcess(_CONTROL, directory=folder, twistd=programs / "twistd") as daemon:
            control = daemon.wait_for(r"control port listening on (http://\S+)/")[1]
            assert version in _fetch(daemon.url)
            before = json.loads(_fetch(f"{control}/last-id?topic=news"))["id"]
            _fetch(f"{control}/topics/news", b"released")
            poll = json.loads(_fetch(f"{daemon.url}topics/news?after={before}&wait=0"))
            assert [one["data"] for one in poll["publications"]] == ["released"], poll
            assert daemon.stop() == 0, daemon.log


def _check_npm(path: Path, version: str) -> None:
    """Install into an empty project, and import it."""
    with _temporary() as name:
        folder = Path(name)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _run("npm", "install", "--no-audit", "--no-fund", path, cwd=folder)
        (folder / "main.js").write_text(_IMPORT)
        said = _run("node", "--no-warnings", "main.js", cwd=folder)
        assert said == f"function function {version}\n", said


def _check_deb(path: Path, version: str) -> None:
    """See what it declares; tests of its own install it (``make deb-test``)."""
    said = _run("dpkg-deb", "--field", path, "Package", "Version", cwd=path.parent)
    found = re.search(r"^Version: (\S+)$", said, re.MULTILINE)
    assert "Package: pushd\n" in said and found, said
    assert re.fullmatch(rf"{re.escape(version)}(-.*)?", found[1]), said


_CHECKS: dict[str, Callable[[Path, str], None]] = {
    "pushd-*.whl": _check_python,
    "pushd-*.tar.gz": _check_python,
    "pushd-client-*.tgz": _check_npm,
    "pushd_*.deb": _check_deb,
}


def _fetch(url: str, body: bytes | None = None) -> str:
    with build_opener(ProxyHandler({})).open(Request(url, body), timeout=60) as response:
        text = response.read().decode()
    assert isinstance(text, str)
    return text


def _temporary() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="pushd-release-")


def _run(*command: str | Path, cwd: Path) -> str:
    """Run a command, and return what it prints. Raises AssertionError if it fails."""
    # Without what makes this checkout importable, and what ``make`` tells every ``make``.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "MFLAGS") and not name.startswith("MAKE")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        line = " ".join(map(str, command))
        raise AssertionError(f"{line}:\n{done.stdout}{done.stderr}")
    return done.stdout
