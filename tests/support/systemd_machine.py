"""A systemd in namespaces of its own, on a copy of this machine's root, that runs tests.

A suite of such tests is a package whose ``__main__`` calls ``main``. It runs as root in three
steps, of which the first two are the same process:

1. in a mount namespace of its own, it makes a root out of this machine's (an overlay, so nothing
   that is written there outlasts the run), and prepares it as the suite wants;
2. it starts the third in all other namespaces, and prints what the tests have written;
3. the first process of these mounts what is the namespaces' own, and becomes systemd, which runs
   the tests as a service and ends with their exit status.

There is no network but the loopback from step 3 on. Devices, kernel settings and control groups of
the machine are out of reach.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent

#: Exists where these tests may run: they install units and change the configuration.
MARKER = Path("/run/pushd-tests")

_SYSTEMD = Path("/lib/systemd/systemd")

_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child")

# What the first process cannot do, though it is root: load modules, set the clock, reboot.
_NOT_ALLOWED = "-sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog"

#: Where commands are found: not a Python in a home directory, which a service cannot use.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}

# Units that concern the machine.
_MASKED = (
    *("systemd-udevd.service", "systemd-udev-trigger.service"),
    *("systemd-modules-load.service", "systemd-sysctl.service"),
)

_TARGET = """
[Unit]
Description=The tests
Requires=basic.target tests.service
After=basic.target
AllowIsolate=yes
"""

_SERVICE = """
[Unit]
Description=Run the tests, and end with their exit status
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
TimeoutStartSec=infinity
WorkingDirectory={root}
Environment=HOME=/root PATH={path} PYTHONPATH={pythonpath}
ExecStart={command}
StandardOutput=append:/results/output
StandardError=inherit
"""


@dataclass(frozen=True)
class Suite:
    """Tests that run under such a systemd."""

    #: The package they are in, such as ``tests.systemd``.
    package: str
    #: Prepares the root while there is a network; it is given a folder in memory, and the root.
    prepare: Callable[[Path, Path], None]
    #: Seconds for the tests, with the boot.
    time: float

    def main(self) -> None:
        """Go on to the next step. The command line may name single tests."""
        step = os.environ.get("TESTS_SYSTEMD_STEP")
        if step is None:
            _check_machine()
            environment = {**os.environ, "TESTS_SYSTEMD_STEP": "build"}
            command = ["unshare", "--mount", "--propagation", "private", *self._myself()]
            os.execvpe(command[0], command, environment)
        elif step == "build":
            sys.exit(self._boot())
        else:
            _become_systemd(Path(step))

    def _myself(self) -> list[str]:
        return [sys.executable, "-m", self.package, *sys.argv[1:]]

    def _boot(self) -> int:
        """Make the root, run the tests there, and return their exit status."""
        folder = Path(tempfile.mkdtemp(prefix="pushd-systemd-"))
        run("mount", "-t", "tmpfs", "tmpfs", folder)
        try:
            root = _make_root(folder)
            _add_tests(root, sys.argv[1:] or [self.package.replace(".", "/")])
            self.prepare(folder, root)
            with _cgroup(folder / "cgroup") as join:
                return self._wait(
                    subprocess.Popen(
                        ["unshare", *_NAMESPACES, *self._myself()],
                        env={**os.environ, "TESTS_SYSTEMD_STEP": str(folder)},
                        stdin=subprocess.DEVNULL,
                        stdout=(folder / "console").open("wb"),
                        stderr=subprocess.STDOUT,
                        preexec_fn=join,
                    ),
                    folder,
                )
        finally:
            run("umount", "--recursive", "--lazy", folder)
            folder.rmdir()

    def _wait(self, process: subprocess.Popen[bytes], folder: Path) -> int:
        """Wait until systemd has ended, print what the tests have written; return their status."""
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            return process.wait(self.time)
        except subprocess.TimeoutExpired:
            give_up(f"the tests did not end within {self.time:.0f} seconds")
        finally:
            process.kill()
            process.wait()
            output = folder / "results/output"
            written = output.read_text(errors="replace") if output.exists() else ""
            sys.stdout.write(written)
            if " in " not in written.rpartition("\n=")[2]:  # The last line of pytest.
                sys.stdout.write((folder / "console").read_text(errors="replace")[-4000:])


def _check_machine() -> None:
    """End with one line if this machine cannot run the tests."""
    if os.geteuid() != 0:
        give_up("it must be run as root, as it makes namespaces")
    if not _SYSTEMD.exists():
        give_up("systemd is not installed: apt-get install systemd")
    done = subprocess.run(
        ["unshare", *_NAMESPACES, "true"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().removeprefix("unshare: ")
        give_up(f"this machine does not allow namespaces, not even to root ({reason})")


def give_up(reason: str) -> NoReturn:
    """End with one line."""
    raise SystemExit(f"tests under systemd: {reason}")


def run(*command: str | Path) -> None:
    """Run a command; end with one line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        give_up(f"{shlex.join(map(str, command))}: {done.stderr.strip()}")


def overlay(folder: Path, lower: Path, target: Path) -> None:
    """Mount a copy of a file system: what is written to it goes to memory.

    :param folder: a folder in memory.
    """
    layers = Path(tempfile.mkdtemp(dir=folder))
    (layers / "upper").mkdir()
    (layers / "work").mkdir()
    target.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", target)


def _make_root(folder: Path) -> Path:
    """Mount a root that is a copy of this machine's, as far as it concerns the tests."""
    root = folder / "root"
    overlay(folder, Path("/"), root)
    # Other file systems are not a part of the root's.
    for needed in {ROOT, Path(sys.prefix), Path(sys.base_prefix).resolve()}:
        if needed.stat().st_dev != Path("/").stat().st_dev:
            overlay(folder, needed, root / needed.relative_to("/"))
    for name, options in (
        ("dev", "mode=755"),
        ("dev/shm", "mode=1777"),
        ("run", "mode=755"),
        ("etc/systemd/system", "mode=755"),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", root / name)
    for name, numbers in _DEVICES.items():
        os.mknod(root / "dev" / name, 0o20666, os.makedev(*numbers))
        (root / "dev" / name).chmod(0o666)
    (root / "dev/fd").symlink_to("/proc/self/fd")
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    # It may be a link to a file in /run.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / "etc/fstab").write_text("")
    # Only the journal of this run is read.
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")
    # Nothing cleans /tmp: this checkout may be there.
    (root / "etc/tmpfiles.d/tmp.conf").symlink_to("/dev/null")
    (root / "etc/systemd/journald.conf.d").mkdir(exist_ok=True)
    (root / "etc/systemd/journald.conf.d/tests.conf").write_text("[Journal]\nStorage=volatile\n")
    # For the sandbox to hide.
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    (folder / "results").mkdir()
    (root / "results").mkdir()
    run("mount", "--bind", folder / "results", root / "results")
    return root


def _add_tests(root: Path, tests: Sequence[str]) -> None:
    """Add the unit that runs the tests."""
    units = root / "run/systemd/system"
    units.mkdir(parents=True)
    (root / MARKER.relative_to("/")).touch()
    command = [sys.executable, "-m", "pytest", "-v", "--no-header", "-p", "no:cacheprovider"]
    command += ["--maxfail=3", "--durations=12", *tests]
    (units / "tests.target").write_text(_TARGET)
    (units / "tests.service").write_text(
        _SERVICE.format(
            root=ROOT,
            path=PATH,
            pythonpath=os.environ.get("PYTHONPATH", ""),
            command=shlex.join(command),
        )
    )


@contextmanager
def _cgroup(folder: Path) -> Iterator[Callable[[], object]]:
    """Make a control group, give what moves the calling process there, and end all that is in it.

    With a namespace of control groups, this one is the root of systemd's own.
    """
    folder.mkdir()
    run("mount", "-t", "cgroup2", "cgroup2", folder)
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (own,) = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    group = folder / own / f"pushd-systemd-{os.getpid()}"
    group.mkdir()
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        with suppress(FileNotFoundError):  # Before Linux 5.14; killing "unshare" does it, too.
            (group / "cgroup.kill").write_text("1")
        while "populated 1" in (group / "cgroup.events").read_text():
            sleep(0.01)
        for path, _, _ in os.walk(group, topdown=False):
            os.rmdir(path)


def _become_systemd(folder: Path) -> None:
    """As the first process of the namespaces: mount what is their own, and run systemd."""
    root = folder / "root"
    run("mount", "-t", "proc", "proc", root / "proc")
    # Of the kernel's settings only those of the network are the namespaces' own.
    Path(root / "proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("443")
    run("mount", "--bind", root / "proc/sys", root / "proc/sys")
    run("mount", "-o", "remount,bind,ro", root / "proc/sys")
    run("mount", "-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    run("mount", "-t", "cgroup2", "cgroup2", root / "sys/fs/cgroup")
    # Not chroot: the kernel refuses user namespaces to what runs in one.
    old = root / "mnt"
    run("pivot_root", root, old)
    os.chdir("/")
    run("umount", "--lazy", "/mnt")
    # systemd mounts credentials from another namespace. In a container it leaves this to others.
    run("mount", "--make-rshared", "/")
    command = ["setpriv", "--bounding-set", _NOT_ALLOWED, str(_SYSTEMD), "--system"]
    command += ["--unit=tests.target", "--show-status=no"]
    # "container" tells systemd where it runs.
    os.execvpe(command[0], command, {"container": "other", "PATH": PATH})
