"""``python -m tests.debian``: install, upgrade and purge the Debian package, under a systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.systemd_machine import ROOT, Suite, give_up, run

#: The packages, in the root: the one that "make deb" has made, and two that are newer.
PACKAGE = Path("/packages/pushd.deb")
NEWER = Path("/packages/pushd-newer.deb")
#: This one has another configuration file as well.
NEWEST = Path("/packages/pushd-newest.deb")

#: The line that it has in its configuration file.
NEW_LINE = "# A new comment.\n"

# Seconds. The tests take a minute on two cores that do nothing else.
_TIME = 600.0


def _prepare(folder: Path, root: Path) -> None:
    """Copy the package to the root, and make newer ones of it."""
    made = list((ROOT / "dist").glob("pushd_*.deb"))
    if len(made) != 1:
        give_up(f"there must be one package in dist/, which make deb makes; there are {len(made)}")
    # Services are started when they are installed, which images of containers do not allow.
    (root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
    # The package brings all that it needs, but for other packages.
    for name in ("opt/pushd", "etc/pushd", "var/lib/pushd"):
        if (root / name).exists():
            give_up(f"this machine has a pushd of its own in /{name}")
    inside = root / "packages"
    inside.mkdir()
    content = folder / "content"
    run("dpkg-deb", "--raw-extract", made[0], content)
    version = subprocess.check_output(
        ["dpkg-deb", "--field", str(made[0]), "Version"], text=True
    ).strip()
    control = content / "DEBIAN/control"
    for target in (PACKAGE, NEWER, NEWEST):
        # dpkg has a lot of files to write. In memory it need not compress them.
        run("dpkg-deb", "-Znone", "--build", content, root / target.relative_to("/"))
        control.write_text(
            control.read_text().replace(f"Version: {version}\n", f"Version: {version}+1\n")
        )
        version += "+1"
        if target == NEWER:
            with (content / "etc/pushd/pushd.toml").open("a") as file:
                file.write(NEW_LINE)


if __name__ == "__main__":
    Suite("tests.debian", _prepare, _TIME).main()
