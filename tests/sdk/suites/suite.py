"""A suite of an SDK: where it is, which of its tests are left out, and a copy for one daemon."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parents[3]

# Where "make sdk-suites" puts the suites.
_SUITES = ROOT / ".venv/sdk"

# The server that the suites expect, and its HTTP API.
_SERVER = "localhost:8000"
_API = f"{_SERVER}/api"


class SuiteDaemon(DaemonProcess):
    """The sample configuration, but for its ports: the system picks them."""

    def __init__(self, folder: Path) -> None:
        (folder / "secret").write_text("secret")
        any_port = "tcp:0:interface=127.0.0.1"
        sample = str(ROOT / "deploy/centrifuge.toml")
        args = ("--config", sample, "--listen", any_port, "--control", any_port)
        super().__init__(args, directory=folder)

    @property
    def server(self) -> str:
        """Host and port of the public port."""
        return self.url.removeprefix("http://").rstrip("/")

    @property
    def api(self) -> str:
        """Host, port and path of the HTTP API."""
        return f"{self.wait_for(r'control port listening on http://([^ ]+)')[1]}api"


def find_suite(name: str) -> Path:
    """Return the folder of a suite. Raises AssertionError with what to do if it is missing."""
    folder = _SUITES / name
    assert any(folder.glob(".ready-*")), f"{folder} is missing: make sdk-suites"
    return folder


def copy_for(daemon: SuiteDaemon, source: Path, target: Path) -> None:
    """Copy a folder of a suite, in which the server is to be a daemon."""
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        if path.suffix in {".py", ".ts"}:
            text = path.read_text().replace(_API, daemon.api).replace(_SERVER, daemon.server)
            path.write_text(text)


class LeftOut:
    """The tests of an SDK that are not run: names of files, or ``FILE > TEST``, with ``*``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)

    def has(self, file: str, test: str | None = None) -> bool:
        """Whether a file, or a test in it, is left out."""
        return self._matching(file, test) is not None

    def unused(self, files: Iterable[str], tests: Iterable[tuple[str, str]]) -> list[str]:
        """Return the patterns that match none of some files, or of some tests in files."""
        used = {self._matching(file) for file in files}
        used |= {self._matching(file, test) for file, test in tests}
        return [one for one in self.patterns if one not in used]

    def _matching(self, file: str, test: str | None = None) -> str | None:
        name = file if test is None else f"{file} > {test}"
        return next((one for one in self.patterns if fnmatchcase(name, one)), None)


@cache
def left_out(sdk: str) -> LeftOut:
    """Return what is left out of the suite of an SDK."""
    text = Path(__file__).with_name("left_out.toml").read_text()
    return LeftOut(tomllib.loads(text)[sdk])


def names_but(patterns: Iterable[str]) -> str:
    """Return a regular expression of JavaScript for all names that match none of these."""
    alternatives = (re.escape(one).replace(r"\*", ".*") for one in patterns)
    return f"^(?!({'|'.join(alternatives)})$)"
