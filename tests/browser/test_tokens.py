"""Tokens and ``subscribe()``: renewal, expiry, refusal, and pages of another origin."""

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
from tests.browser.conftest import TIMEOUT, assert_clean_exit
from tests.browser.subscribing import (
    TRANSPORTS,
    Publisher,
    subscribe,
    wait_for_publications,
    wait_for_state,
)
from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parent.parent.parent

# The lifetime of a token, in seconds, unless the test is about its expiry.
TTL = 600

# The Nth call of the token function, counted from 1, never settles. Records that it hangs, and
# uncaught errors.
HANG = """
(number) => {
  const makeToken = window.makeToken;
  let calls = 0;
  window.hanging = false;
  window.makeToken = () => {
    window.hanging = ++calls === number;
    return window.hanging ? new Promise(() => {}) : makeToken();
  };
  window.errors = [];
  addEventListener("error", ({ error }) => errors.push(error.message));
}
"""

# A token function that throws at once; records unhandled rejections.
THROW = """
async () => {
  const { requestToken } = await import("/requests.js");
  window.unhandled = [];
  addEventListener("unhandledrejection", ({ reason }) => unhandled.push(reason.message));
  const makeToken = () => {
    throw new Error("no token");
  };
  await requestToken(makeToken).catch(({ message }) => (window.caught = message));
}
"""


class TokenIssuer:
    """The page's token function."""

    def __init__(self, key: Path) -> None:
        self._key = read_signing_key(str(key))
        self.ttl = TTL
        self.topics = ["news"]
        #: The number of calls so far.
        self.calls = 0
        #: The calls that fail, counted from 1.
        self.failing: set[int] = set()
        #: The calls that return an expired token, counted from 1.
        self.expired: set[int] = set()
        #: The ``exp`` of all tokens made.
        self.expiries: list[int] = []

    def make(self) -> str:
        """Make a token that is valid for ``ttl`` seconds."""
        self.calls += 1
        if self.calls in self.failing:
            raise RuntimeError("no token")
        # An integer, as most issuers set it.
        self.expiries.append(int(time()) + (-TTL if self.calls in self.expired else self.ttl))
        claims = {"sub": "page", "exp": self.expiries[-1], "subscribe": self.topics}
        return make_token(self._key, claims)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Write a signing key."""
    path = tmp_path / "key"
    path.write_bytes(b"a secret for a test of thirty-two bytes and more")
    return path


@pytest.fixture
def daemon(key: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    """Run a daemon that requires tokens."""
    args = ["--control", "tcp:0:interface=127.0.0.1", "--token-key", str(key)]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        yield daemon
    assert_clean_exit(daemon)


@pytest.fixture
def issuer(page: Page, key: Path) -> TokenIssuer:
    """Make a token issuer, which the page calls as ``makeToken()``."""
    issuer = TokenIssuer(key)
    page.expose_function("makeToken", issuer.make)
    return issuer


def open_and_subscribe(page: Page, daemon: DaemonProcess, transport: str) -> None:
    """Open the start page, and subscribe in it."""
    page.goto(daemon.url)
    subscribe(page, "/topics/news", transports=[transport])


def connections(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """List the open connections."""
    with urlopen(f"{control_url_of(daemon)}connections", timeout=TIMEOUT / 1000) as answer:
        return list(json.load(answer)["connections"])


# A WebSocket renews its token when a fifth of the lifetime is left: that must be some seconds.
@pytest.mark.parametrize(
    ("transport", "ttl", "tokens"), [("websocket", 18, 2), ("sse", 6, 3), ("longpoll", 6, 3)]
)
def test_renewal(
    page: Page, daemon: DaemonProcess, issuer: TokenIssuer, transport: str, ttl: int, tokens: int
) -> None:
    """Tokens are renewed and no publication is lost; a WebSocket stays open meanwhile."""
    issuer.ttl = ttl
    publisher = Publisher(daemon)
    open_and_subscribe(page, daemon, transport)
    wait_for_state(page, "open")
    first = connections(daemon)
    published: list[Any] = []
    while len(issuer.expiries) < tokens or time() < issuer.expiries[tokens - 2] + 1:
        published.append(f"{len(published)}")
        publisher.publish("news", published[-1])
        page.wait_for_timeout(100)
    wait_for_publications(page, published)
    if transport == "websocket":
        assert [one["id"] for one in connections(daemon)] == [one["id"] for one in first]
        assert first[0]["subject"] == "page"
    # No reconnect has lost a publication.
    lost = page.evaluate("states.filter(({ recovered }) => recovered === false).length")
    assert lost == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_forbidden_topic(
    page: Page, daemon: DaemonProcess, issuer: TokenIssuer, transport: str
) -> None:
    """A token without the topic closes the subscription with 403, and is not retried."""
    issuer.topics = ["other"]
    open_and_subscribe(page, daemon, transport)
    state = wait_for_state(page, "closed")
    assert state["code"] == 403
    assert state["reason"] == "token does not permit subscribing to news"


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_token_with_line_end(
    page: Page, daemon: DaemonProcess, issuer: TokenIssuer, transport: str
) -> None:
    """A token as ``(await fetch(…)).text()`` gives it has a line end, which does not count."""
    page.goto(daemon.url)
    page.evaluate(
        "() => { const make = makeToken; makeToken = async () => `${await make()}\\r\\n`; }"
    )
    subscribe(page, "/topics/news", transports=[transport])
    wait_for_state(page, "open")
    # A second long poll, with the token in its header again.
    publisher = Publisher(daemon)
    publisher.publish("news", "one")
    publisher.publish("news", "two")
    wait_for_publications(page, ["one", "two"])
    assert page.evaluate("states.length") == 2


def test_page_in_place_of_token(page: Page, daemon: DaemonProcess) -> None:
    """What no header can hold, such as a page with an error, is refused: that does not go on."""
    page.goto(daemon.url)
    page.evaluate("() => { window.makeToken = () => '<html>\\n“not found”\\n</html>'; }")
    subscribe(page, "/topics/news", transports=["websocket"])
    state = wait_for_state(page, "closed")
    assert (state["code"], state["reason"]) == (
        401,
        "the token has characters that no header can hold",
    )


def test_failing_token_function(page: Page, daemon: DaemonProcess, issuer: TokenIssuer) -> None:
    """If the token function fails, it is called again later."""
    issuer.failing = {1, 2}
    open_and_subscribe(page, daemon, "websocket")
    wait_for_state(page, "open")
    assert page.evaluate("states.filter(({ state }) => state === 'waiting').length") == 2


def test_hanging_token_function(page: Page, daemon: DaemonProcess, issuer: TokenIssuer) -> None:
    """If the token function neither returns nor fails within 10 s, it is called again later."""
    page.clock.install()
    page.goto(daemon.url)
    page.evaluate(HANG, 1)
    subscribe(page, "/topics/news", transports=["websocket"])
    page.wait_for_function("() => hanging")
    page.clock.fast_forward(5000)
    assert page.evaluate("errors") == []
    page.clock.fast_forward(5000)
    wait_for_state(page, "open")
    assert page.evaluate("errors") == ["the token function gave no token within 10 s"]
    assert issuer.calls == 1


def test_hanging_token_function_during_poll(
    page: Page, daemon: DaemonProcess, issuer: TokenIssuer
) -> None:
    """If the token function hangs between two long polls, the subscription resumes without loss."""
    publisher = Publisher(daemon)
    page.clock.install()
    page.goto(daemon.url)
    page.evaluate(HANG, 2)
    subscribe(page, "/topics/news", transports=["longpoll"])
    page.wait_for_function("() => hanging")
    publisher.publish("news", "meanwhile")
    page.clock.fast_forward(10_000)
    wait_for_publications(page, ["meanwhile"])
    assert page.evaluate("states.filter(({ state }) => state === 'open').length") == 2
    assert page.evaluate("states.filter(({ recovered }) => recovered === false).length") == 0


def test_throwing_token_function(page: Page, daemon: DaemonProcess) -> None:
    """A token function that throws at once leaves no unhandled rejection of the timeout."""
    page.clock.install()
    page.goto(daemon.url)
    page.evaluate(THROW)
    page.clock.fast_forward(11_000)
    assert page.evaluate("[caught, unhandled]") == ["no token", []]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_expired_token(
    page: Page, daemon: DaemonProcess, issuer: TokenIssuer, transport: str
) -> None:
    """If the server refuses an expired token, one fresh token is tried, and no more."""
    issuer.expired = {1}
    open_and_subscribe(page, daemon, transport)
    wait_for_state(page, "open")
    page.evaluate("handle.close()")
    calls = issuer.calls
    issuer.expired = set(range(calls + 1, calls + 10))
    open_and_subscribe(page, daemon, transport)
    state = wait_for_state(page, "closed")
    assert state["code"] == 401
    assert "token expired" in state["reason"]
    assert issuer.calls == calls + 2


def test_token_expires(page: Page, daemon: DaemonProcess, issuer: TokenIssuer) -> None:
    """A WebSocket that gets no fresh token in time is closed, reconnects, and resumes."""
    issuer.ttl, issuer.failing = 6, {2}
    publisher = Publisher(daemon)
    open_and_subscribe(page, daemon, "websocket")
    wait_for_state(page, "open")
    (first,) = connections(daemon)
    publisher.publish("news", "1")
    page.wait_for_function("() => states.filter(({ state }) => state === 'open').length === 2")
    publisher.publish("news", "2")
    wait_for_publications(page, ["1", "2"])
    (second,) = connections(daemon)
    assert second["id"] > first["id"]
    daemon.wait_for("closed 1008")


def test_closed_by_operator(page: Page, daemon: DaemonProcess, issuer: TokenIssuer) -> None:
    """A subscription closed by an operator stays closed, although its token is valid."""
    open_and_subscribe(page, daemon, "websocket")
    wait_for_state(page, "open")
    (first,) = connections(daemon)
    request = Request(f"{control_url_of(daemon)}connections/{first['id']}", method="DELETE")
    with urlopen(request, timeout=TIMEOUT / 1000):
        pass
    state = wait_for_state(page, "closed")
    assert (state["code"], state["reason"]) == (1008, "closed by an operator")


class SilentRequestHandler(SimpleHTTPRequestHandler):
    """A file server without a request log."""

    def log_message(self, *args: object) -> None:
        """Discard the line."""


@pytest.fixture
def other_origin() -> Iterator[str]:
    """Serve the client from another origin, and return its URL."""
    handler = partial(SilentRequestHandler, directory=str(ROOT / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def cross_origin_daemon(key: Path, tmp_path: Path, other_origin: str) -> Iterator[DaemonProcess]:
    """Run a daemon that allows the other origin, and requires tokens."""
    control = ("--control", "tcp:0:interface=127.0.0.1")
    args = [*control, "--token-key", str(key), "--origin", other_origin]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        yield daemon
    assert_clean_exit(daemon)


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
    cross_origin_daemon: DaemonProcess,
    other_origin: str,
    key: Path,
    issuer: TokenIssuer,
    transport: str,
) -> None:
    """A page of an allowed origin can subscribe and publish with its tokens."""
    topic = f"{cross_origin_daemon.url}topics/news"
    page.goto(f"{other_origin}/index.html")
    subscribe(page, topic, transports=[transport])
    wait_for_state(page, "open")
    claims = {"exp": int(time()) + 60, "publish": ["news"]}
    token = make_token(read_signing_key(str(key)), claims)
    answers = [page.evaluate(PUBLISH, [topic, token, "hello"]) for _ in range(2)]
    assert [answer[:2] for answer in answers] == [[200, None]] * 2
    assert answers[0][2]["id"] == answers[1][2]["id"]
    wait_for_publications(page, ["hello"])
    # The page can read why it was refused.
    status, challenge, answer = page.evaluate(PUBLISH, [topic, "x", "hello"])
    assert (status, answer["error"]) == (401, "token is malformed")
    assert 'error="invalid_token"' in challenge


CROSS_ORIGIN = """
async ([url, token]) => {
  const { subscribe } = await import(`${url}pushd.js`);
  const topic = `${url}topics/news?token=${token}`;
  const poll = await fetch(`${topic}&wait=0`, { credentials: "include" });
  const stream = new EventSource(topic, { withCredentials: true });
  const opened = await new Promise((resolve) => {
    stream.addEventListener("subscribed", () => resolve(true));
    stream.addEventListener("error", () => resolve(false));
  });
  stream.close();
  return [typeof subscribe, poll.status, opened];
}
"""


def test_credentials(
    page: Page, cross_origin_daemon: DaemonProcess, other_origin: str, key: Path
) -> None:
    """A page of an allowed origin can import the client, and subscribe with its cookies."""
    page.goto(f"{other_origin}/index.html")
    claims = {"exp": int(time()) + 60, "subscribe": ["news"]}
    token = make_token(read_signing_key(str(key)), claims)
    answer = page.evaluate(CROSS_ORIGIN, [cross_origin_daemon.url, token])
    assert answer == ["function", 200, True]


def test_forbidden_origin(
    page: Page, daemon: DaemonProcess, other_origin: str, issuer: TokenIssuer
) -> None:
    """A page of an origin that is not allowed cannot subscribe, although its token is valid."""
    page.goto(f"{other_origin}/index.html")
    subscribe(page, f"{daemon.url}topics/news", transports=["longpoll"])
    wait_for_state(page, "waiting")
    assert connections(daemon) == []
    daemon.wait_for(r"OPTIONS /topics/news 403")
    page.evaluate("handle.close()")
