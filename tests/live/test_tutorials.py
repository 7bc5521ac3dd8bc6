"""The tutorials: every file written and every command run, from an empty folder on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.live.test_packaging import IGNORED, ROOT
from tests.support.tutorial import TIMEOUT, begin


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "./source"]
    subprocess.run(command, cwd=folder, check=True, timeout=TIMEOUT)
    [wheel] = folder.glob("*.whl")
    return wheel


def open_browser(url: str, auth: tuple[str, str] | None = None) -> httpx.Client:
    """Return what asks as a browser does, perhaps with a name and a password."""
    return httpx.Client(
        base_url=url, auth=auth, follow_redirects=True, timeout=TIMEOUT, trust_env=False
    )


def subscribe(url: str, topic: str, **headers: str) -> ClientConnection:
    """Subscribe to a topic; the first message says where the subscription begins."""
    return connect(
        f"{url.replace('http', 'ws', 1)}/topics/{topic}",
        subprotocols=["pushd.v1"],  # type: ignore[list-item] # the library's type for names
        additional_headers=headers,
        open_timeout=TIMEOUT,
        proxy=None,
    )


def test_django(wheel: Path, tmp_path: Path) -> None:
    """Ann is told of her orders, across restarts as well; others are refused."""
    with begin("tutorial-django.md", 8000, tmp_path, wheel=wheel) as (tutorial, url):
        tutorial.do("1. Install", "2. Create the project", "3. Publish when an order is saved")
        tutorial.do("4. Write the page", "5. Let customers read their own topic only")
        tutorial.step()
        with log_in(url, "ann") as ann, log_in(url, "bob") as bob:
            page = ann.get("/").text
            assert "The orders of ann" in page
            assert "<li>" not in page
            topic, after = re.findall(r'data-(?:topic|after)="([^"]+)"', page)
            cookie = f"sessionid={ann.cookies['sessionid']}"
            with subscribe(url, f"{topic}?after={after}&format=json", Cookie=cookie) as websocket:
                assert json.loads(websocket.recv(TIMEOUT))["recovered"] is True
                tutorial.do("6. Run it")
                news = json.loads(websocket.recv(TIMEOUT))["data"]
                assert news == {"order": 1, "status": "received"}
            assert '<strong id="order-1">received</strong>' in ann.get("/").text
            assert ann.get("/pushd/pushd.js").status_code == 200

            tutorial.do("7. Try to read what is not yours")
            assert bob.get(f"/topics/{topic}?wait=0").status_code == 403
            assert "<li>" not in bob.get("/").text

            tutorial.interrupt()
            tutorial.do("8. Restart the daemon")
            resumed = ann.get(f"/topics/{topic}?wait=0&after={after}").json()
            assert resumed["recovered"] is False
            assert '<strong id="order-1">shipped</strong>' in ann.get("/").text

            tutorial.do("9. Write a test", "10. Towards production")
            last = ann.get(f"/topics/{topic}?wait=0").json()["id"]
            tutorial.restart()
            assert ann.get(f"/topics/{topic}?wait=0&after={last}").json()["recovered"] is True
        assert tutorial.left == []
        assert "Traceback" not in tutorial.log, tutorial.log


@contextmanager
def log_in(url: str, name: str) -> Iterator[httpx.Client]:
    """Give a browser in which a customer has logged in."""
    with open_browser(url) as browser:
        form = browser.get("/").text
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
        assert found is not None, form
        data = {"csrfmiddlewaretoken": found[1], "username": name, "password": name}
        said = browser.post("/accounts/login/?next=/", data=data)
        assert said.url.path == "/", said.text
        yield browser


def test_fastapi(wheel: Path, tmp_path: Path) -> None:
    """Ann is told of her orders, across restarts as well; her token is for her topic only."""
    with begin("tutorial-fastapi.md", 8080, tmp_path, wheel=wheel) as (tutorial, url):
        tutorial.do("1. Install", "2. Write the application", "3. Make a key", "4. Write the page")
        tutorial.step()
        topic = "/topics/customers/ann"
        with open_browser(url, auth=("ann", "ann")) as ann:
            assert "/orders.js" in ann.get("/").text
            assert ann.get("/orders.js").text.startswith("// web/orders.js")
            shown = ann.get("/orders").json()
            assert shown["orders"] == []
            bearer = {"Authorization": f"Bearer {ann.get('/token').text}"}
            query = f"customers/ann?after={shown['after']}&format=json"
            with subscribe(url, query, **bearer) as websocket:
                assert json.loads(websocket.recv(TIMEOUT))["recovered"] is True
                tutorial.do("5. Run it")
                frames = (json.loads(websocket.recv(TIMEOUT)) for _ in range(3))
                statuses = [frame["data"]["status"] for frame in frames if "data" in frame]
            assert statuses == ["received", "paid"]
            tutorial.do("6. Try to read what is not yours")

            tutorial.interrupt()
            tutorial.do("7. Restart the daemon")
            query = f"{topic}?wait=0&after={shown['after']}"
            assert ann.get(query, headers=bearer, auth=None).json()["recovered"] is False
            [order] = ann.get("/orders").json()["orders"]
            assert order == {"id": 1, "item": "A lamp", "status": "shipped"}

            tutorial.do("8. Write a test", "10. Towards production")
            last = ann.get(f"{topic}?wait=0", headers=bearer, auth=None).json()["id"]
            tutorial.restart()
            resumed = ann.get(f"{topic}?wait=0&after={last}", headers=bearer, auth=None).json()
            assert resumed["recovered"] is True
        assert tutorial.left == []
        assert "Traceback" not in tutorial.log, tutorial.log
