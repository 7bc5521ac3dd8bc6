"""Tools to subscribe in a page, to watch the subscription, and to publish."""

from __future__ import annotations

import json
from time import monotonic, sleep
from typing import Any
from urllib.request import Request, urlopen

from playwright.sync_api import Page

from tests.browser.conftest import TIMEOUT
from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess

TRANSPORTS = ["websocket", "sse", "longpoll"]

# Subscribes in the page; the globals hold the subscription, its publications and its states.
_SUBSCRIBE = """
async ([url, options]) => {
  const { subscribe } = await import("/pushd.js");
  window.publications = [];
  window.states = [];
  window.handle = subscribe(url, ({ id, data }) => {
    publications.push(typeof data === "string" ? data : Array.from(data));
  }, { token: window.makeToken, ...options, onState: (state) => states.push(state) });
}
"""


class Publisher:
    """Publishes at a daemon's control port."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._control = control_url_of(daemon)

    def publish(self, topic: str, data: str | bytes) -> str:
        """Publish, and return the id."""
        kind = "application/octet-stream" if isinstance(data, bytes) else "text/plain"
        body = data if isinstance(data, bytes) else data.encode()
        request = Request(f"{self._control}topics/{topic}", body, {"Content-Type": kind})
        with urlopen(request, timeout=TIMEOUT / 1000) as answer:
            return str(json.load(answer)["id"])

    def subscribers(self, topic: str) -> dict[str, int]:
        """Count the topic's subscribers by transport."""
        with urlopen(f"{self._control}topics/{topic}", timeout=TIMEOUT / 1000) as answer:
            return dict(json.load(answer)["subscribers"])

    def wait_for_subscriber(self, topic: str, transport: str | None) -> None:
        """Wait until the only subscriber uses this transport; None waits for no subscriber."""
        expected = {transport: 1} if transport else {}
        deadline = monotonic() + TIMEOUT / 1000
        while (subscribers := self.subscribers(topic)) != expected:
            assert monotonic() < deadline, subscribers
            sleep(0.02)


def subscribe(page: Page, url: str, **options: Any) -> None:
    """Subscribe in the page, which was loaded from a server that has the client.

    Tokens come from the page's global ``makeToken``, if it has one.
    """
    page.evaluate(_SUBSCRIBE, [url, options])


def wait_for_state(page: Page, *states: str) -> Any:
    """Wait until the subscription is in one of these states, and return the state."""
    state = page.wait_for_function(
        "(names) => names.includes(handle.state.state) && handle.state", arg=states
    )
    return state.json_value()


def wait_for_publications(page: Page, expected: list[Any]) -> None:
    """Wait for N publications, and check that they are the expected ones, in this order."""
    page.wait_for_function("(count) => publications.length >= count", arg=len(expected))
    assert page.evaluate("publications") == expected


def state_names(page: Page) -> list[str]:
    """Return the names of all states that ``onState`` was called with."""
    return list(page.evaluate("states.map(({ state }) => state)"))
