"""Tokens in a real browser: the page is asked for a fresh one, and nothing is lost meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import time
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from pushd.access.keys import read_signing_key
from pushd.access.tokens import make_token
from tests.browser.conftest import PATIENCE, assert_ended_in_order
from tests.browser.test_topics import (
    TRANSPORTS,
    Publisher,
    wait_for_publications,
    wait_for_state,
)
from tests.daemon_process import DaemonProcess

ROOT = Path(__file__).parent.parent.parent

# For how long a token is good, in seconds, unless a test is about its end.
TTL = 600

SUBSCRIBE = """
async ([url, transport]) => {
  const { subscribe } = await import("/pushd.js");
  window.publications = [];
  window.states = [];
  window.handle = subscribe(url, ({ data }) => publications.push(data), {
    transports: [transport],
    token: window.makeToken,
    onState: (state) => states.push(state),
  });
}
"""

# Where tokens come from, one who asks is forgotten: the first is number 1.
FORGET = """
(number) => {
  const ask = window.makeToken;
  let asked = 0;
  window.makeToken = () => (++asked === number ? new Promise(() => {}) : ask());
  window.errors = [];
  addEventListener("error", ({ error }) => errors.push(error.message));
}
"""

# Where tokens come from, somebody throws; notes that, and what nobody has caught.
THROW = """
async () => {
  const { tokenFrom } = await import("/transports.js");
  window.strays = [];
  addEventListener("unhandledrejection", ({ reason }) => strays.push(reason.message));
  const closed = () => {
    throw new Error("the office is closed");
  };
  await tokenFrom(closed).catch(({ message }) => (window.caught = message));
}
"""


class Office:
    """Where the page gets its tokens."""

    def __init__(self, key: Path) -> None:
        self._key = read_signing_key(str(key))
        self.ttl = TTL
        self.topics = ["news"]
        #: How often it was asked, and when it is closed: by the number of the visit.
        self.visits = 0
        self.closed: set[int] = set()
        #: Those who get a token that has run out, by the number of the visit.
        self.late: set[int] = set()
        #: When the tokens that it made run out.
        self.ends: list[int] = []

    def make(self) -> str:
        """Make a token that is good for a while."""
        self.visits += 1
        if self.visits in self.closed:
            raise RuntimeError("the office is closed")
        # A whole number, as most make it.
        self.ends.append(int(time()) + (-TTL if self.visits in self.late else self.ttl))
        claims = {"sub": "page", "exp": self.ends[-1], "subscribe": self.topics}
        return make_token(self._key, claims)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Write a secret."""
    path = tmp_path / "key"
    path.write_bytes(b"a secret for a test of thirty-two bytes and more")
    return path


@pytest.fixture
def daemon(key: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    """Run a daemon that asks for tokens."""
    args = ["--control", "tcp:0:interface=127.0.0.1", "--token-key", str(key)]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


@pytest.fixture
def office(page: Page, key: Path) -> Office:
    """Open the office to the page."""
    office = Office(key)
    page.expose_function("makeToken", office.make)
    return office


def subscribe(page: Page, daemon: DaemonProcess, transport: str) -> None:
    """Open the front page, and subscribe from it."""
    page.goto(daemon.url)
    page.evaluate(SUBSCRIBE, ["/topics/news", transport])


def connections(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """Who is here."""
    door = daemon.wait_for(r"control port at (http://\S+)")[1]
    with urlopen(f"{door}connections", timeout=PATIENCE / 1000) as answer:
        return list(json.load(answer)["connections"])


# A WebSocket sends a fresh token in the last fifth of its time: that has to be some seconds.
@pytest.mark.parametrize(
    ("transport", "ttl", "tokens"), [("websocket", 18, 2), ("sse", 6, 3), ("longpoll", 6, 3)]
)
def test_fresh(
    page: Page, daemon: DaemonProcess, office: Office, transport: str, ttl: int, tokens: int
) -> None:
    """A page outlives its tokens, and misses nothing; a WebSocket is not even cut."""
    office.ttl = ttl
    publisher = Publisher(daemon)
    subscribe(page, daemon, transport)
    wait_for_state(page, "open")
    first = connections(daemon)
    sent: list[Any] = []
    while len(office.ends) < tokens or time() < office.ends[tokens - 2] + 1:
        sent.append(f"{len(sent)}")
        publisher.publish("news", sent[-1])
        page.wait_for_timeout(100)
    wait_for_publications(page, sent)
    if transport == "websocket":
        assert [one["id"] for one in connections(daemon)] == [one["id"] for one in first]
        assert first[0]["subject"] == "page"
    # None of them has been told that something is lost.
    lost = page.evaluate("states.filter(({ recovered }) => recovered === false).length")
    assert lost == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_token(page: Page, daemon: DaemonProcess, office: Office, transport: str) -> None:
    """A page whose token does not do is told so, and does not ask without end."""
    office.topics = ["other"]
    subscribe(page, daemon, transport)
    state = wait_for_state(page, "closed")
    assert state["code"] == 403
    assert "may not subscribe to news" in state["reason"]


def test_closed_office(page: Page, daemon: DaemonProcess, office: Office) -> None:
    """A page that fails to get a token is asked again."""
    office.closed = {1, 2}
    subscribe(page, daemon, "websocket")
    wait_for_state(page, "open")
    assert page.evaluate("states.filter(({ state }) => state === 'waiting').length") == 2


def test_silent_office(page: Page, daemon: DaemonProcess, office: Office) -> None:
    """A page that gets no answer at all, neither a token nor an error, is asked again as well."""
    page.goto(daemon.url)
    page.evaluate(FORGET, 1)
    page.evaluate(SUBSCRIBE, ["/topics/news", "websocket"])
    wait_for_state(page, "open")
    assert page.evaluate("errors") == ["no token came within 10 s"]
    assert office.visits == 1


def test_silent_office_later(page: Page, daemon: DaemonProcess, office: Office) -> None:
    """So is one that gets none for its next poll, and it misses nothing."""
    publisher = Publisher(daemon)
    page.goto(daemon.url)
    page.evaluate(FORGET, 2)
    page.evaluate(SUBSCRIBE, ["/topics/news", "longpoll"])
    wait_for_state(page, "open")
    publisher.publish("news", "meanwhile")
    wait_for_publications(page, ["meanwhile"])
    assert page.evaluate("states.filter(({ state }) => state === 'open').length") == 2
    assert page.evaluate("states.filter(({ recovered }) => recovered === false).length") == 0


def test_throwing_office(page: Page, daemon: DaemonProcess) -> None:
    """A function that throws at once is one that fails, and no error is left over from it."""
    page.goto(daemon.url)
    page.evaluate(THROW)
    page.wait_for_timeout(11_000)
    assert page.evaluate("[caught, strays]") == ["the office is closed", []]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_late_office(page: Page, daemon: DaemonProcess, office: Office, transport: str) -> None:
    """A page that comes with a token that has run out is asked for one more, and for one only."""
    office.late = {1}
    subscribe(page, daemon, transport)
    wait_for_state(page, "open")
    page.evaluate("handle.close()")
    visits = office.visits
    office.late = set(range(visits + 1, visits + 10))
    subscribe(page, daemon, transport)
    state = wait_for_state(page, "closed")
    assert state["code"] == 401
    assert "the token has run out" in state["reason"]
    assert office.visits == visits + 2


def test_stale(page: Page, daemon: DaemonProcess, office: Office) -> None:
    """A page that gives no fresh token in time is cut, and begins anew where it was."""
    office.ttl, office.closed = 6, {2}
    publisher = Publisher(daemon)
    subscribe(page, daemon, "websocket")
    wait_for_state(page, "open")
    (first,) = connections(daemon)
    publisher.publish("news", "1")
    page.wait_for_function("() => states.filter(({ state }) => state === 'open').length === 2")
    publisher.publish("news", "2")
    wait_for_publications(page, ["1", "2"])
    (second,) = connections(daemon)
    assert second["id"] > first["id"]
    daemon.wait_for("closed 1008")


def test_operator(page: Page, daemon: DaemonProcess, office: Office) -> None:
    """A page that an operator closes stays closed, though it could get a token."""
    subscribe(page, daemon, "websocket")
    wait_for_state(page, "open")
    door = daemon.wait_for(r"control port at (http://\S+)")[1]
    (first,) = connections(daemon)
    request = Request(f"{door}connections/{first['id']}", method="DELETE")
    with urlopen(request, timeout=PATIENCE / 1000):
        pass
    state = wait_for_state(page, "closed")
    assert (state["code"], state["reason"]) == (1008, "closed by an operator")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Serve the client from another origin, as one's own web server does."""
    handler = partial(_Quiet, directory=str(ROOT / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def friendly_daemon(key: Path, tmp_path: Path, elsewhere: str) -> Iterator[DaemonProcess]:
    """Run a daemon that lets in pages from there, and asks for tokens."""
    control = ("--control", "tcp:0:interface=127.0.0.1")
    args = [*control, "--token-key", str(key), "--origin", elsewhere]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


PUBLISH = """
async ([url, token, body]) => {
  const headers = { Authorization: `Bearer ${token}`, "Idempotency-Key": "once" };
  const answer = await fetch(url, { method: "POST", headers, body });
  return [answer.status, answer.headers.get("WWW-Authenticate"), await answer.json()];
}
"""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_other_origin(
    page: Page,
    friendly_daemon: DaemonProcess,
    elsewhere: str,
    key: Path,
    office: Office,
    transport: str,
) -> None:
    """A page of an origin that is allowed listens and publishes with its tokens."""
    topic = f"{friendly_daemon.url}topics/news"
    page.goto(f"{elsewhere}/index.html")
    page.evaluate(SUBSCRIBE, [topic, transport])
    wait_for_state(page, "open")
    claims = {"exp": int(time()) + 60, "publish": ["news"]}
    token = make_token(read_signing_key(str(key)), claims)
    said = [page.evaluate(PUBLISH, [topic, token, "hello"]) for _ in range(2)]
    assert said[0] == said[1]
    assert said[0][0] == 200
    wait_for_publications(page, ["hello"])
    # Why it may not is the page's to know.
    status, challenge, answer = page.evaluate(PUBLISH, [topic, "x", "hello"])
    assert (status, answer["error"]) == (401, "the token is malformed")
    assert 'error="invalid_token"' in challenge


def test_stranger_origin(page: Page, daemon: DaemonProcess, elsewhere: str, office: Office) -> None:
    """A page of another origin gets nothing, though its token is good."""
    page.goto(f"{elsewhere}/index.html")
    page.evaluate(SUBSCRIBE, [f"{daemon.url}topics/news", "longpoll"])
    wait_for_state(page, "waiting")
    assert connections(daemon) == []
    daemon.wait_for(r"OPTIONS /topics/news 403")
    page.evaluate("handle.close()")
