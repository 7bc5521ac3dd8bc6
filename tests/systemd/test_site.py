"""A Django project, served with the drop-in of docs/django.md. Runs after the other tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.systemd_unit import PUBLIC, Unit, fetch, run, wait_until
from tests.systemd.conftest import block

PROJECT = Path("/srv/shop")

DROP_IN = Path("/etc/systemd/system/pushd.service.d/override.conf")

# Tells what a view of the project sees.
URLS = """
import os
from pathlib import Path

from django.http import JsonResponse
from django.urls import path


def can_write(folder):
    try:
        Path(folder, "upload").write_text("")
    except OSError:
        return False
    return True


def facts(request):
    return JsonResponse({
        "secure": request.is_secure(),
        "client": request.META["REMOTE_ADDR"],
        "secret": os.environ["SHOP_SECRET"],
        "writable": [name for name in ("/srv/shop", "/var/lib/shop") if can_write(name)],
    })


urlpatterns = [path("", facts)]
"""


@contextmanager
def replaced(path: Path, text: str) -> Iterator[None]:
    """Give a file another text; then put back what it had."""
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    yield
    if before is None:
        path.unlink()
    else:
        path.write_text(before)


@pytest.fixture
def site(installed: Unit) -> Iterator[Unit]:
    """Serve a project with the drop-in of the document, and no other options."""
    PROJECT.mkdir()
    run("/opt/pushd/bin/python", "-m", "django", "startproject", "mysite", str(PROJECT))
    (PROJECT / "mysite/urls.py").write_text(URLS)
    with (
        replaced(DROP_IN, block("django.md", "In production", "ini")),
        replaced(Path("/etc/pushd/environment"), "SHOP_SECRET=secret\n"),
        replaced(Path("/etc/pushd/pushd.toml"), ""),
    ):
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "pushd.socket")
        installed.restart()
        yield installed
        run("systemctl", "stop", "pushd.socket", installed.name)
    run("systemctl", "daemon-reload")


def test_site(site: Unit) -> None:
    """The project is served, trusts nginx, has its secrets, and writes to its own folder only."""
    wait_until(lambda: site.status.startswith("serving"), "the status")
    headers = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
    answer = fetch(PUBLIC, "GET", b"", *headers)
    assert answer.status == 200, answer.body
    assert json.loads(answer.body) == {
        "secure": True,
        "client": "192.0.2.1",
        "secret": "secret",
        "writable": ["/var/lib/shop"],
    }
