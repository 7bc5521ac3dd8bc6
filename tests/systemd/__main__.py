"""``python -m tests.systemd``: install pushd as docs/operations.md says, under a systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.fences import find_fences
from tests.support.systemd_machine import PATH, ROOT, Suite, give_up, overlay

#: The document whose commands install pushd.
DOCUMENT = ROOT / "docs/operations.md"

# Seconds. The tests take less than half of it on two busy cores.
_TIME = 180.0


def commands(heading: str) -> str:
    """Return the commands of the first block of shell commands below a heading of the document."""
    fences = find_fences(DOCUMENT.read_text())
    return next(body for found, kind, body in fences if (found, kind) == (heading, "sh"))


def _install(folder: Path, root: Path) -> None:
    """Install pushd into the root as the document says, while there is a network.

    What pushd depends on is there already if the system's Python can use that of these tests; that
    an installation brings it along is tested elsewhere.
    """
    packages = Path(sysconfig.get_path("purelib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    script = f"set -x\ncd {ROOT}\n{commands('Install')}"
    if Path(f"/usr/bin/{version}").exists():
        target = root / f"opt/pushd/lib/{version}/site-packages"
        overlay(folder, packages, target)
        # Their commands must be installed in the new place.
        for package in ("pip", "twisted"):
            for path in (target / package, *target.glob(f"{package}-*.dist-info")):
                shutil.rmtree(path)
    else:
        # As docs/scaling.md says for Redis, and docs/django.md for a project.
        script += "/opt/pushd/bin/pip install hiredis django"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["chroot", root, "/bin/bash", "-e", "-c", script],
        env={**environment, "PATH": PATH, "PIP_ROOT_USER_ACTION": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stdout.write(done.stdout)
        give_up(f"the commands that {DOCUMENT.name} gives for the installation have failed")


if __name__ == "__main__":
    Suite("tests.systemd", _install, _TIME).main()
