"""``--reload``: the Python files of an application, and starting the process anew with them."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from threading import Event
from types import ModuleType
from typing import NoReturn

#: Replaces this process by another, as ``os.execve`` does.
Execute = Callable[[str, list[str], dict[str, str]], NoReturn]

#: Seconds between two looks at the files.
INTERVAL = 0.25

# What supervises a service says so in these: systemd.
_SUPERVISED = ("NOTIFY_SOCKET", "LISTEN_PID")

# How the name of a directory begins that keeps the topics from one start to the next.
_STATE = "pushd-reload-"

# Folders with these names have packages that were installed, which do not change.
_INSTALLED = frozenset({"site-packages", "dist-packages"})

# Python's own modules.
_STANDARD = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))

# The names of the files in a folder, with the time of the last change and the size of each.
_Folder = dict[str, tuple[int, int]]


@dataclass
class CodeFiles:
    """The Python files in all folders that the application has imported modules from.

    Not those of its modules alone: a module whose import has failed is not among these, nor is one
    that does not exist yet. They are looked at again and again, because the kernel does not tell of
    changes in folders that another machine or a virtual machine shares.

    :param modules: all modules, such as ``sys.modules``.
    :param searched: the folders in which modules were looked for, such as
        ``sys.path_importer_cache``.
    """

    modules: Mapping[str, ModuleType] = field(default_factory=lambda: sys.modules)
    searched: Mapping[str, object] = field(default_factory=lambda: sys.path_importer_cache)

    def __post_init__(self) -> None:
        self._known = self._last = self._look()

    @property
    def count(self) -> int:
        """The number of files."""
        return sum(map(len, self._known.values()))

    def changed(self) -> list[str]:
        """Return the paths of files that were changed, made or removed since the last call.

        It waits with them until nothing has changed between two calls: a file that is being written
        is not complete.
        """
        now, before = self._look(), self._last
        self._last = now
        if now != before:
            return []
        changed = [
            os.path.join(folder, name)
            for folder, files in now.items()
            # A folder from which something has just been imported is not a change.
            if (known := self._known.get(folder)) is not None
            for name in sorted(files.keys() | known.keys())
            if files.get(name) != known.get(name)
        ]
        self._known = now
        return changed

    def _look(self) -> dict[str, _Folder]:
        return {folder: _list_folder(folder) for folder in sorted(set(self._folders()))}

    def _folders(self) -> Iterable[str]:
        for module in list(self.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and _is_application(file):
                yield os.path.dirname(os.path.abspath(file))
        for folder in list(self.searched):
            if _is_application(os.path.join(folder, "")) and os.path.isdir(folder):
                yield os.path.abspath(folder)


def _is_application(path: str) -> bool:
    """Whether a path is not one of Python itself, or of a package that was installed."""
    return not path.startswith(_STANDARD) and _INSTALLED.isdisjoint(path.split(os.sep))


def _list_folder(folder: str) -> _Folder:
    files: _Folder = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    files[entry.name] = status.st_mtime_ns, status.st_size
    except OSError:  # It was removed, or a file in it was while this went on.
        return {}
    return files


def find_mistake(path: str) -> str | None:
    """Return the line about a file that is not valid Python: ``PATH, line 3: invalid syntax``."""
    try:
        source = Path(path).read_bytes()
    except OSError:
        return None  # It was removed.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        # Before Python 3.12, a null byte was a ValueError.
        line, message = getattr(error, "lineno", None) or 1, getattr(error, "msg", str(error))
        return f"{path}, line {line}: {message}"
    return None


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """The command that has started this process, and how it can be started again."""

    arguments: list[str]
    folder: str
    environ: dict[str, str]
    pidfile: str | None = None
    execute: Execute = os.execve

    def start_again(self) -> NoReturn:
        """Replace the process by one that begins anew; it keeps its pid."""
        if self.pidfile:
            # twistd would take this pid for that of another daemon.
            Path(self.folder, self.pidfile).unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(self.folder)
        self.execute(self.arguments[0], self.arguments, self.environ)


def find_objection(environ: Mapping[str, str], *, in_foreground: bool) -> str | None:
    """Return why the code of this process must not be reloaded; None if it may be."""
    if not in_foreground:
        return "is for development: start it in the foreground, with twistd -n"
    for name in _SUPERVISED:
        if name in environ:
            return "is for development: it does not go with systemd, which restarts the service"
    return None


def make_state() -> str:
    """Make a directory that keeps the topics until the process ends, however often it starts."""
    folder = mkdtemp(prefix=_STATE)
    remove_state_at_exit(folder)
    return folder


def remove_state_at_exit(folder: str) -> None:
    """Remove a directory of ``make_state`` when the process ends, which starting anew is not."""
    if os.path.dirname(folder) == gettempdir() and os.path.basename(folder).startswith(_STATE):
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def wait_for_change(files: CodeFiles, sleep: Callable[[float], object] | None = None) -> None:
    """Wait until a file has changed. Raises SystemExit after Ctrl-C."""
    sleep = sleep or Event().wait
    try:
        while not files.changed():
            sleep(INTERVAL)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
