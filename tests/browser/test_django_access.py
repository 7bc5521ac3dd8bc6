"""Topics of a Django site with PUSHD_AUTHORIZE, in pages with a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import TIMEOUT, assert_clean_exit
from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parents[2]

# Subscribes to a topic by one transport, and records publications and states.
SUBSCRIBE = """
async ([topic, transport]) => {
  const { subscribe } = await import("/pushd/pushd.js");
  window.publications = [];
  window.states = [];
  subscribe(`/topics/${topic}`, ({ data }) => publications.push(data), {
    transports: [transport],
    onState: (state) => states.push(state),
  });
}
"""


@pytest.fixture(scope="module")
def site() -> Iterator[DaemonProcess]:
    """Serve the site."""
    args = ["--wsgi", "tests.support.session_site:application"]
    with DaemonProcess(args, directory=ROOT) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def wait_for(page: Page, state: str) -> str:
    """Wait until a subscription has a state; return the reason that it gives."""
    found = f"states.find((one) => one.state === '{state}')"
    page.wait_for_function(f"() => {found}", timeout=TIMEOUT)
    return str(page.evaluate(f"{found}.reason"))


@pytest.mark.parametrize("transport", ["websocket", "sse", "longpoll"])
def test_session(page: Page, browser: Browser, site: DaemonProcess, transport: str) -> None:
    """A page of Ann gets what is for her; one of Bob is refused, and says why."""
    page.goto(f"{site.url}login/ann/")
    page.evaluate(SUBSCRIBE, ["users/ann", transport])
    wait_for(page, "open")
    context = browser.new_context()
    other = context.new_page()
    other.goto(f"{site.url}login/bob/")
    other.evaluate(SUBSCRIBE, ["users/ann", transport])
    assert "not permitted" in wait_for(other, "closed")
    other.goto(f"{site.url}tell/ann/")
    page.wait_for_function("() => publications.includes('hello')", timeout=TIMEOUT)
    context.close()


def test_logout(page: Page, site: DaemonProcess) -> None:
    """When Ann logs out in another tab, her subscription is closed for good."""
    page.goto(f"{site.url}login/ann/")
    page.evaluate(SUBSCRIBE, ["users/ann", "websocket"])
    wait_for(page, "open")
    page.evaluate("() => fetch('/logout/')")
    assert "permission revoked" in wait_for(page, "closed")
