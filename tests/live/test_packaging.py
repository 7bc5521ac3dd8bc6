"""The release: built, installed into an empty environment, and started from another folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from signal import SIGTERM
from urllib.request import ProxyHandler, build_opener
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0

# What a checkout contains that is not in the repository.
IGNORED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules", "_trial_temp*"
)

# Files of the client's npm package that are not part of the daemon.
NPM_FILES = ("LICENSE", "README.md", "package.json", "pushd.d.ts")

PORTS = ("--listen", "tcp:0:interface=127.0.0.1", "--control", "none")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, made as for a release: from the source package."""
    folder = tmp_path_factory.mktemp("release")
    shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    _run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source")
    [wheel] = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of an environment with pushd and its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", folder)
    _run(folder / "bin/python", "-m", "pip", "install", "-q", wheel)
    return folder / "bin"


def environ_of_a_user() -> dict[str, str]:
    """Return the environment without what ``make test`` tells every ``make`` that it runs."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and name != "MFLAGS"
    }


def test_make_run(tmp_path: Path) -> None:
    """``make run`` says what it does, and ends with one line with the URL of the running demo."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    # As if pushd were installed: that takes long.
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "pip").touch()
    (programs / "twistd").symlink_to(Path(sys.executable).with_name("twistd"))
    (tmp_path / ".venv/.run").touch()
    make = subprocess.Popen(
        ["make", "run", f"ARGS={' '.join(PORTS)}"],
        cwd=tmp_path,
        env=environ_of_a_user(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert make.stdout is not None
        lines = []
        for line in make.stdout:
            lines.append(line)
            if match := re.search(r"open (http://127\.0\.0\.1:\d+/test/) in a browser", line):
                break
        assert lines[0] == (
            "make run: starts pushd; its last line will be the URL to open, Ctrl-C stops it\n"
        )
        assert match, lines
        # Nothing is logged after that line until a browser comes.
        assert not select([make.stdout], [], [], 0.3)[0]
        assert _fetch(match[1]) == (ROOT / "web/test.html").read_bytes()
    finally:
        os.killpg(make.pid, SIGTERM)
        make.communicate(timeout=TIMEOUT)


def test_make_run_first(tmp_path: Path) -> None:
    """The first ``make run`` says at once that it installs pushd, before anything else."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.cfg", "pyproject.toml"):
        (tmp_path / name).touch()
    # With a Python that cannot be used, it goes no further.
    done = subprocess.run(
        ["make", "run", "PYTHON="],
        cwd=tmp_path,
        env=environ_of_a_user(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout.startswith("make run: installs pushd into .venv, which takes about a minute")
    assert "pushd needs Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize(
    ("failures", "said", "code"),
    [
        (["E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"] * 2, 2, 0),
        (["E: Unable to locate package redis-server"], 0, 2),
    ],
)
def test_make_apt_lock(tmp_path: Path, failures: list[str], said: int, code: int) -> None:
    """While another program installs packages, ``make`` waits; other failures end it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    needed = ("bash", "env", "grep", "id", "make", "mktemp", "rm", "sed", "sleep", "tee", "cat")
    for name in needed:
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    (tmp_path / "failures").write_text("".join(f"{line}\n" for line in failures))
    for name, script in (
        ("sudo", 'exec "$@"'),
        # Fails once for each line of the file, and removes it; or installs a program.
        (
            "apt-get",
            'read -r line < failures && sed -i 1d failures && echo "$line" >&2 && exit 100\n'
            'case "$*" in *install*redis-server) echo installed ;; esac',
        ),
    ):
        (programs / name).write_text(f"#!{programs}/bash\n{script}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["make", "redis", "APT_PAUSE=0", "PYTHON=none"],
        cwd=tmp_path,
        env={"PATH": str(programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == code, done
    assert done.stdout.count("Another program is installing packages: waiting") == said
    assert ("installed\n" in done.stdout) == (code == 0), done
    assert ("The live tests need Redis" in done.stderr) == (code != 0)


def test_pages(programs: Path, tmp_path: Path) -> None:
    """The installed daemon serves the files of the checkout, byte for byte."""
    folder = ROOT / "web"
    pages = {
        str(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in NPM_FILES and path.parent.name != "operator"
    }
    pages |= {"": pages["index.html"], "test/": pages["test.html"]}
    with _started(programs / "twistd", "-n", "--pidfile=", "pushd", *PORTS, cwd=tmp_path) as url:
        served = {name: _fetch(url + name) for name in pages}
    assert served == {name: path.read_bytes() for name, path in pages.items()}


def test_twist(programs: Path, tmp_path: Path) -> None:
    """``twist`` starts the same service."""
    command = (programs / "python", "-m", "twisted", "--log-format=text", "pushd", *PORTS)
    with _started(*command, cwd=tmp_path) as url:
        assert _fetch(url + "test/") == (ROOT / "web/test.html").read_bytes()


def test_tac(programs: Path, tmp_path: Path) -> None:
    """``pushd.tac`` starts the same service, with options from the environment."""
    command = (programs / "twistd", "--pidfile=", "-ny", ROOT / "pushd.tac")
    with _started(*command, cwd=tmp_path, PUSHD_OPTIONS=" ".join(PORTS)) as url:
        assert _fetch(url + "test/") == (ROOT / "web/test.html").read_bytes()


def test_tac_bad_option(programs: Path, tmp_path: Path) -> None:
    """An invalid option in the environment gives one line of error, not a traceback."""
    done = subprocess.run(
        [programs / "twistd", "--pidfile=", "-ny", ROOT / "pushd.tac"],
        cwd=tmp_path,
        env=_environment(PUSHD_OPTIONS="--no-such-option"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"pushd: .*no-such-option.*\n", done.stderr)


def test_without_extras(programs: Path, tmp_path: Path) -> None:
    """Without the extra, one line says how to install what ``pushd.aio`` needs."""
    done = subprocess.run(
        [programs / "python", "-c", "import pushd; pushd.publish; import pushd.aio"],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    line = "ImportError: pushd.aio needs httpx: pip install 'pushd[client]'"
    assert done.stderr.splitlines()[-1] == line


def test_contents(wheel: Path) -> None:
    """The wheel has all modules of pushd, its plugin, and no other top-level package."""
    names = set(ZipFile(wheel).namelist())
    assert {"pushd/py.typed", "twisted/plugins/pushd_plugin.py"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "pushd").rglob("*.py")} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"pushd", "twisted"}
    assert {"pushd/web/pushd.js", "pushd/web/demo/test.js"} <= names
    page = {f"pushd/web/operator/{one.name}" for one in (ROOT / "web/operator").iterdir()}
    assert page <= names
    assert not {f"pushd/web/{name}" for name in NPM_FILES} & names
    assert not [name for name in names if re.match(r"twisted/.*__init__\.py$", name)]
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


@contextmanager
def _started(*command: str | Path, cwd: Path, **variables: str) -> Iterator[str]:
    """Start a daemon, return the URL in its log, and stop it in order."""
    log = cwd / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=_environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _wait_for_url(process, log)
        process.terminate()
        process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait(TIMEOUT)
    assert "Traceback" not in log.read_text()


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if named := re.search(r"listening on (http://\S+)\n", log.read_text()):
            return named[1]
        time.sleep(0.05)
    raise AssertionError(f"the daemon did not start:\n{log.read_text()}")


def _fetch(url: str) -> bytes:
    with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT) as response:
        body = response.read()
    assert isinstance(body, bytes)
    return body


def _environment(**variables: str) -> dict[str, str]:
    """Return the environment without variables that make this checkout importable."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return ours | variables


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
