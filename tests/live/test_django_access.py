"""Topics of a Django site with PUSHD_AUTHORIZE, over real sockets: sessions, and revoking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parents[2]

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0


@pytest.fixture(scope="module")
def site() -> Iterator[DaemonProcess]:
    """Serve the site; check that it logs no error."""
    args = ["--wsgi", "tests.support.session_site:application"]
    with DaemonProcess(args, directory=ROOT) as daemon:
        yield daemon
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


def ask(site: DaemonProcess, path: str, **headers: str) -> tuple[int, str, str]:
    """Return status, text and the session cookie of a response."""
    connection = HTTPConnection(urlsplit(site.url).netloc, timeout=TIMEOUT)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    cookies = SimpleCookie(", ".join(response.headers.get_all("Set-Cookie") or []))
    session = cookies.get("sessionid")
    return response.status, text, f"sessionid={session.value}" if session else ""


def listen(site: DaemonProcess, topic: str, cookie: str = "") -> ClientConnection:
    """Subscribe over a WebSocket."""
    url = f"{site.url.replace('http', 'ws', 1)}topics/{topic}"
    return connect(url, additional_headers={"Cookie": cookie}, open_timeout=TIMEOUT)


def refusal(site: DaemonProcess, topic: str, cookie: str = "") -> int:
    """Return the status with which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as caught:
        listen(site, topic, cookie)
    return caught.value.response.status_code


def test_sessions(site: DaemonProcess) -> None:
    """A user gets what is published to the own topic; other sessions may not listen."""
    ann, bob = (ask(site, f"/login/{name}/")[2] for name in ("ann", "bob"))
    assert ann.startswith("sessionid=")
    assert refusal(site, "users/ann") == 403
    assert refusal(site, "users/ann", bob) == 403
    for accept in ("*/*", "text/event-stream"):
        status, text, _ = ask(site, "/topics/users/ann?wait=0", Cookie=bob, Accept=accept)
        assert (status, json.loads(text)["where"]) == (403, "topic")
    with listen(site, "users/ann", ann) as websocket:
        assert ask(site, "/tell/ann/")[1] == "published"
        assert websocket.recv(TIMEOUT) == "hello"
    status, text, _ = ask(site, "/topics/users/ann?wait=0", Cookie=ann)
    assert (status, json.loads(text)["publications"]) == (200, [])


def test_logout(site: DaemonProcess) -> None:
    """A logout ends the subscriptions of the user, who may not come back."""
    ann, bob = (ask(site, f"/login/{name}/")[2] for name in ("ann", "bob"))
    with listen(site, "users/ann", ann) as hers, listen(site, "users/bob", bob) as his:
        assert ask(site, "/logout/", Cookie=ann)[1] == "1"
        with pytest.raises(ConnectionClosed) as caught:
            hers.recv(TIMEOUT)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "permission revoked")
        assert refusal(site, "users/ann", ann) == 403
        ask(site, "/tell/bob/")
        assert his.recv(TIMEOUT) == "hello"
