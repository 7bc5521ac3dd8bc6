"""Fixtures: pushd installed as the documents say, and then configured as they say."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificate import write_certificate
from tests.support.fences import find_fences
from tests.support.keyring import SECRET
from tests.support.systemd_hooks import pytest_sessionstart, pytest_terminal_summary
from tests.support.systemd_machine import ROOT
from tests.support.systemd_unit import PUSHD, Unit, run, wait_until
from tests.systemd.__main__ import commands

# Hooks of pytest.
__all__ = ["pytest_sessionstart", "pytest_terminal_summary"]

# The configuration of these tests.
CONFIG = """\
views = "site_views:views"
log-format = "json"
"""

# What is not for others to read.
ENVIRONMENT = "PUSHD_DRAIN=1\n"

# Also for the sake of the tests: the unit's own watchdog takes 20 seconds.
WATCHDOG = "[Service]\nWatchdogSec=4\n"


def block(document: str, heading: str, language: str) -> str:
    """Return the first block of a language below a heading of a document."""
    fences = find_fences((ROOT / "docs" / document).read_text())
    return next(text for found, kind, text in fences if (found, kind) == (heading, language))


@pytest.fixture(scope="session")
def installed() -> Unit:
    """Install the units, and start them, with the commands of docs/operations.md."""
    run("bash", "-e", "-c", commands("systemd"), cwd=ROOT)
    return PUSHD


@pytest.fixture(scope="session")
def redis() -> Iterator[None]:
    """Run a Redis as Debian does: on a Unix socket that only a group may use."""
    run(
        *("systemd-run", "--unit=tests-redis", "--property=User=redis"),
        *("--property=Type=notify", "--property=RuntimeDirectory=redis", "redis-server"),
        *("--port", "0", "--supervised", "systemd", "--save", ""),
        *("--unixsocket", "/run/redis/redis-server.sock", "--unixsocketperm", "770"),
    )
    yield
    run("systemctl", "stop", "tests-redis")


@pytest.fixture(scope="session")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a certificate, as certbot has it: only root can read its files."""
    folder = tmp_path_factory.mktemp("live")
    renew(folder)
    return folder


def renew(lineage: Path) -> int:
    """Renew the certificate; return its serial number."""
    serial = write_certificate(lineage / "privkey.pem", lineage / "cert.pem")
    shutil.copy(lineage / "cert.pem", lineage / "chain.pem")
    for path in lineage.iterdir():
        path.chmod(0o600)
    return serial


def deploy(lineage: Path) -> subprocess.CompletedProcess[str]:
    """Run certbot's hook of docs/deploying.md."""
    hook = Path("/etc/letsencrypt/renewal-hooks/deploy/pushd")
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(block("deploying.md", "TLS", "sh"))
    hook.chmod(0o755)
    return run(str(hook), environment={"RENEWED_LINEAGE": str(lineage)}, check=False)


@pytest.fixture(scope="session")
def service(installed: Unit, redis: None, lineage: Path) -> Unit:
    """Configure the service with the drop-in of docs/operations.md, and restart it."""
    shutil.copy(Path(__file__).with_name("site_views.py"), "/opt/pushd")
    Path("/etc/pushd/pushd.toml").write_text(CONFIG)
    environment = Path("/etc/pushd/environment")
    environment.write_text(ENVIRONMENT)
    environment.chmod(0o600)
    key = Path("/etc/pushd/token-key")
    key.write_bytes(SECRET)
    key.chmod(0o600)
    run("groupadd", "--system", "pushd-tls")
    assert deploy(lineage).returncode == 0
    drop_ins = Path("/etc/systemd/system/pushd.service.d")
    drop_ins.mkdir()
    (drop_ins / "override.conf").write_text(block("operations.md", "Files in the sandbox", "ini"))
    (drop_ins / "tests.conf").write_text(WATCHDOG)
    run("systemctl", "daemon-reload")
    installed.restart()
    wait_until(lambda: installed.status.startswith("serving"), "the status")
    return installed
