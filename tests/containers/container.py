"""A container: the image's entry point as the first process of namespaces of its own.

Run as a program, this file is the last step before that process: it mounts what belongs to the
container, gives up root, and becomes the entry point.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from tests.containers.image import USER, Image
from tests.support.systemd_machine import run

#: Seconds within which all that is waited for must come.
PATIENCE = 60.0

_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")

_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass
class Container:
    """A container that runs on ``with``; its root cannot be written, but for some folders."""

    image: Image
    #: A folder for the log; the container does not see it.
    folder: Path
    #: What follows the entry point.
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: int = USER
    group: int = USER
    #: Folders of this machine, by the paths at which the container has them.
    volumes: Mapping[str, Path] = field(default_factory=dict)
    #: Another process, whose network it has; None for a network of its own.
    network: int | None = None
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_healthy()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it."""
        stage = self.image.stage
        self.folder.mkdir(exist_ok=True)
        settings = {
            "root": str(self.image.root),
            "mount": str(self.folder / "mount"),
            "workdir": stage.workdir,
            "user": self.user,
            "group": self.group,
            "volumes": {place: str(path) for place, path in self.volumes.items()},
            "command": [*stage.entrypoint, *self.command],
            "env": self._environment,
        }
        (self.folder / "mount").mkdir(exist_ok=True)
        network = ["unshare", "--net"]
        if self.network is not None:
            network = ["nsenter", "--target", str(self.network), "--net"]
        command = ["unshare", *_NAMESPACES, sys.executable, "-m", __name__, json.dumps(settings)]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*network, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def _environment(self) -> dict[str, str]:
        return {"LANG": "C.UTF-8", "HOME": "/home/nonroot", **self.image.stage.env, **self.env}

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the container was not started"
        return self._process

    @property
    def log(self) -> str:
        """What it has written until now."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The id, in this machine, of its first process."""
        parent = self._started.pid
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(child)

    def wait_until_healthy(self) -> None:
        """Wait until the health check of the image says so. Raises AssertionError."""
        deadline = monotonic() + PATIENCE
        while self._started.poll() is None and monotonic() < deadline:
            if "listening on" in self.log and self.check_health() == 0:
                return
            sleep(0.1)
        raise AssertionError(f"the container is not healthy:\n{self.log}")

    def check_health(self) -> int:
        """Run the health check of the image, and return its exit code."""
        return self.run(*self.image.stage.healthcheck).returncode

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user."""
        user = ("--setuid", str(self.user), "--setgid", str(self.group))
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), *_ENTERED, *user, *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def python(self, source: str, *arguments: str) -> str:
        """Run Python in the container, and return what it prints. Raises AssertionError."""
        done = self.run("/opt/pushd/bin/python", "-c", source, *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def signal(self, number: int) -> None:
        """Send a signal to its first process."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return self._started.wait(PATIENCE)

    def kill(self) -> None:
        """Kill all its processes, if it has not ended."""
        if self._started.poll() is None:
            self.signal(SIGKILL)
        self.wait()


_ENTERED = ("--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd=/")


def main(settings: dict[str, Any]) -> None:
    """As the first process of the namespaces, become the entry point."""
    root = Path(settings["mount"])
    run("mount", "--make-rprivate", "/")
    run("mount", "--bind", settings["root"], root)
    run("mount", "-o", "remount,bind,ro", root)
    for name, options in (("dev", "mode=755"), ("run", "mode=755"), ("tmp", "mode=1777")):
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", root / name)
    for name in _DEVICES:
        (root / "dev" / name).touch()
        run("mount", "--bind", f"/dev/{name}", root / "dev" / name)
    (root / "dev/shm").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "dev/shm")
    run("mount", "-t", "proc", "proc", root / "proc")
    for place, path in settings["volumes"].items():
        target = root / place.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", path, target)
    run("ip", "link", "set", "lo", "up")
    os.chdir(root)
    run("pivot_root", ".", "tmp")
    os.chdir("/")
    # By itself, as the new root has no programs for it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(b"/tmp", _MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount2")
    os.setgroups([])
    os.setgid(settings["group"])
    os.setuid(settings["user"])
    os.chdir(settings["workdir"])
    command = settings["command"]
    os.execve(command[0], command, settings["env"])


# umount2(2): the old root is in use by this process until it becomes another.
_MNT_DETACH = 2

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
