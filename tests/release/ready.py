"""What must hold before a release is built."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

# A version that is released: no suffix.
_RELEASED = re.compile(r"\d+\.\d+\.\d+")

# Files of newsfragments/ that are no fragments.
_NO_FRAGMENTS = {".gitignore", "template.jinja"}

# Where a version stands, beside web/package.json, and the expression that finds it. The first is
# the one that counts.
_VERSIONS = {
    "pushd/__init__.py": r'^__version__ = "(.*)"$',
    "web/index.html": r'<span id="version">(.*)</span>',
    "docs/reference/openapi-public.yaml": r"^  version: (.*)$",
    "docs/reference/openapi-control.yaml": r"^  version: (.*)$",
}


def read_versions(root: Path) -> dict[str, str]:
    """Return the version of pushd, by the file that has it."""
    versions = {}
    for name, pattern in _VERSIONS.items():
        found = re.search(pattern, (root / name).read_text(), re.MULTILINE)
        versions[name] = found[1] if found else "none"
    package = json.loads((root / "web/package.json").read_text())
    return {**versions, "web/package.json": package["version"]}


def find_faults(root: Path) -> list[str]:
    """Return what keeps a checkout from being released, one line each; nothing if all is well."""
    versions = read_versions(root)
    version = versions["pushd/__init__.py"]
    faults = [
        f"{name} has the version {other}, and pushd/__init__.py {version}"
        for name, other in versions.items()
        if other != version
    ]
    if not _RELEASED.fullmatch(version):
        faults.append(f"{version} is not the version of a release, such as 1.2.3")
    fragments = sorted(
        path.name for path in (root / "newsfragments").iterdir() if path.name not in _NO_FRAGMENTS
    )
    if fragments:
        line = f"{len(fragments)} newsfragments are left, such as {fragments[0]}"
        faults.append(f"{line}: run make news, read NEWS.md, and commit")
    if f"\n## {version} (" not in (root / "NEWS.md").read_text():
        faults.append(f"NEWS.md says nothing of {version}")
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if status:
        line = f"the working tree has {len(status)} changes, such as {status[0][3:]}"
        faults.append(f"{line}: commit them, or remove them")
    return faults
