"""Run the Autobahn|Testsuite, 517 cases, against a pushd of its own: ``make conformance``.

The suite is written in Python 2, so a python2.7 is needed: ``PYTHON27``, one on the PATH, or one
of pyenv's. What it needs beside, comes from PyPI into ``.venv/conformance``, once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

from tests.support.daemon_process import DaemonProcess

HERE = Path(__file__).parent
HOME = HERE.parent.parent / ".venv" / "conformance"

# The last releases that run on Python 2.7.
VIRTUALENV = "virtualenv==16.7.10"
SUITE = [
    "setuptools==44.0.0",
    "six==1.16.0",
    "txaio==2.1.0",
    "incremental==16.10.1",
    "zope.interface==4.6.0",
    "Twisted==19.10.0",
    "pyOpenSSL==19.1.0",
    "cryptography==3.3.2",
    "service_identity==18.1.0",
    "jinja2==2.11.3",
    "markupsafe==1.1.1",
    "Werkzeug==1.0.1",
    "klein==17.10.0",
    "unittest2==1.1.0",
    "autobahn==0.10.9",
    # In C, what the suite would do byte by byte in Python: half an hour less.
    "wsaccel==0.6.2",
]

# The longest that the whole run may take, in seconds.
LIMIT = 3600

# The suite has cases of 16 MiB, and sends as fast as it can.
OPTIONS = [
    *("--views", "echo_views:views"),
    *("--max-message", str(16 << 20)),
    *("--max-buffered", str(64 << 20)),
    *("--max-rate", "1000000"),
]

GOOD = {"OK", "INFORMATIONAL"}


def main() -> int:
    """Run the suite and print what came of it; 0 when every case is good."""
    python = install()
    if python is None:
        print("make conformance needs a python2.7: set PYTHON27", file=sys.stderr)
        return 2
    report = Path(mkdtemp(prefix="conformance."))
    with DaemonProcess(OPTIONS, directory=HERE) as daemon:
        run_suite(python, daemon.url.replace("http", "ws") + "echo/", report)
    cases = json.loads((report / "index.json").read_text())["pushd"]
    return tell(cases, report)


def install() -> Path | None:
    """Install the suite where it is not yet; None where there is no Python for it."""
    python = HOME / "bin" / "python"
    if python.exists():
        return python
    old = find_python27()
    if old is None:
        return None
    print(f"installing the suite into {HOME} ...", file=sys.stderr)
    scratch = mkdtemp()
    try:
        subprocess.run(
            [old, "-m", "pip", "install", "-q", "--target", scratch, VIRTUALENV], check=True
        )
        environment = {**os.environ, "PYTHONPATH": scratch}
        subprocess.run([old, "-m", "virtualenv", "-q", str(HOME)], env=environment, check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *SUITE], check=True)
        suite = ["--no-deps", "autobahntestsuite==25.10.1"]
        subprocess.run([python, "-m", "pip", "install", "-q", *suite], check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(HOME, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch)
    return python


def find_python27() -> str | None:
    """Find a Python 2.7."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = [str(path) for path in pyenv.glob("2.7*/bin/python2.7")]
    on_path = shutil.which("python2.7")
    candidates = [os.environ.get("PYTHON27"), *installed, on_path]
    return next((candidate for candidate in candidates if candidate), None)


def run_suite(python: Path, url: str, report: Path) -> None:
    """Run the cases that ``CASES`` names, or all."""
    spec = {
        "outdir": str(report),
        "options": {"failByDrop": False},
        "servers": [{"agent": "pushd", "url": url}],
        "cases": os.environ.get("CASES", "*").split(),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (report / "spec.json").write_text(json.dumps(spec))
    start = "from autobahntestsuite.wstest import run; run()"
    subprocess.run(
        [python, "-c", start, "-m", "fuzzingclient", "-s", "spec.json"],
        cwd=report,
        stdout=(report / "log").open("w"),
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        check=True,
    )


def tell(cases: dict[str, dict[str, str]], report: Path) -> int:
    """Print the cases that are not good, and the counts; the exit code."""
    bad = 0
    for name, case in sorted(cases.items(), key=lambda pair: [*map(int, pair[0].split("."))]):
        if {case["behavior"], case["behaviorClose"]} - GOOD:
            bad += 1
            print(f"{name}: {case['behavior']}, close {case['behaviorClose']}")
    counts = Counter(case["behavior"] for case in cases.values())
    print(
        f"pushd {version('pushd')}, Autobahn {version('autobahn')}: {len(cases)} cases,",
        ", ".join(f"{count} {kind}" for kind, count in counts.most_common()),
        f"({report / 'index.html'})",
    )
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    raise SystemExit(main())
