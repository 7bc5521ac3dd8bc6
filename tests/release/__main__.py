"""``python -m tests.release``: build the files of a release into dist/, and check each of them.

It signs and publishes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pushd import __version__
from tests.release.artifacts import build, check, write_sums
from tests.release.ready import find_faults

ROOT = Path(__file__).parents[2]


def main() -> str | None:
    """Run all steps; return what went wrong."""
    faults = find_faults(ROOT)
    if faults:
        return "".join(f"make release: {fault}\n" for fault in faults).rstrip()
    print(f"Building pushd {__version__} ...", flush=True)
    paths = build(ROOT, ROOT / "dist")
    for path in paths:
        print(f"Checking {path.name} ...", flush=True)
        check(path, __version__)
    sums = write_sums(paths)
    print(f"make release: dist/ has pushd {__version__}, checked; nothing is signed or published")
    print(sums.read_text(), end="")
    return None


if __name__ == "__main__":
    sys.exit(main())
