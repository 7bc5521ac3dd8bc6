"""The image that deploy/Dockerfile describes, made of this machine's files.

Its first stage runs in a copy of this machine's root, in place of ``debian:12-slim``. The base of
the second is made of the files of the Debian packages that distroless/python3-debian12 consists of,
which are installed here: so this machine must be a Debian 12.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.containers.dockerfile import Stage, read_stages
from tests.support.systemd_machine import PATH, ROOT, overlay, run

# The packages of distroless/static, base, cc and python3-debian12.
_PACKAGES = (
    *("base-files", "ca-certificates", "media-types", "netbase", "tzdata"),
    *("libc6", "libssl3", "openssl", "libgcc-s1", "libgomp1", "libstdc++6"),
    *("libbz2-1.0", "libcom-err2", "libcrypt1", "libdb5.3", "libexpat1", "libffi8"),
    *("libgssapi-krb5-2", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0"),
    *("liblzma5", "libncursesw6", "libnsl2", "libreadline8", "libsqlite3-0", "libtinfo6"),
    *("libtirpc3", "libuuid1", "zlib1g"),
    *("libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal", "python3-distutils"),
)

# The user of the tag "nonroot".
USER = 65532

_PASSWD = f"""\
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:{USER}:{USER}:nonroot:/home/nonroot:/sbin/nologin
"""


@dataclass(frozen=True)
class Image:
    """An image that is built."""

    root: Path
    stage: Stage


def build(folder: Path, packages: str = "") -> Image:
    """Build the image.

    :param folder: an empty folder in memory, in a namespace of mounts that is the caller's own.
    :param packages: the build argument PACKAGES.
    """
    first, last = read_stages()
    built = _run_first(folder, first, packages)
    root = _make_base(folder / "image")
    for name, argument in last.steps:
        if name == "COPY":
            _, source, target = argument.split()
            place = root / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            run("cp", "--archive", built / source.lstrip("/"), place)
        elif name == "WORKDIR":
            (root / argument.lstrip("/")).mkdir(exist_ok=True)
    return Image(root, last)


def _run_first(folder: Path, stage: Stage, packages: str) -> Path:
    """Run the first stage, and return its root."""
    root = folder / "build"
    overlay(folder, Path("/"), root)
    run("mount", "--rbind", "/dev", root / "dev")
    run("mount", "-t", "proc", "proc", root / "proc")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    folder_inside = "/"
    for name, argument in stage.steps:
        if name == "WORKDIR":
            folder_inside = argument
            (root / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                _copy(ROOT / source, root / folder_inside.lstrip("/") / target, target)
        elif name == "RUN":
            _run_inside(root, folder_inside, argument, packages)
    return root


def _copy(source: Path, target: Path, written: str) -> None:
    """Copy a file, or the contents of a folder; a target that ends with a slash is a folder."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "dropin.cache", "node_modules")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        place = target / source.name if written.endswith("/") else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)


def _run_inside(root: Path, folder: str, command: str, packages: str) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.lower().startswith(("pip_", "http_", "https_", "no_proxy", "ssl_"))
    }
    environment |= {"PATH": PATH, "PACKAGES": packages, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    environment |= {"DEBIAN_FRONTEND": "noninteractive", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        ["chroot", root, "/bin/sh", "-c", f"cd {folder} && {command}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"RUN {command}\n{done.stdout}"


def _make_base(root: Path) -> Path:
    """Make the base of the second stage."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/sbin"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for path in _files(_PACKAGES):
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(target):
            shutil.copy2(path, target, follow_symlinks=False)
    for name in ("python", "python3"):
        (root / "usr/bin" / name).unlink(missing_ok=True)
        (root / "usr/bin" / name).symlink_to("python3.11")
    for name in ("dev", "proc", "run", "sys", "tmp", "home/nonroot", "etc/ssl/certs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text("root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/resolv.conf").write_text("")
    shutil.copy("/etc/ld.so.cache", root / "etc/ld.so.cache")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    return root


def _files(packages: Iterable[str]) -> Iterable[Path]:
    listed = subprocess.run(
        ["dpkg", "--listfiles", *packages], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        if line.startswith(("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/")):
            continue
        path = Path(line)
        if line.startswith("/") and (path.is_symlink() or path.is_file()):
            yield path
