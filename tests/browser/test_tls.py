"""The demo over TLS, in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import PATIENCE, assert_ended_in_order
from tests.daemon_process import DaemonProcess
from tests.live.victim import make_tls_endpoint, url_of


@pytest.fixture
def tls_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon as it is shipped, but for TLS."""
    folder = tmp_path_factory.mktemp("tls")
    with DaemonProcess(["--listen", make_tls_endpoint(folder)], directory=folder) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


def test_demo(browser: Browser, tls_daemon: DaemonProcess) -> None:
    """Over ``https:`` the page opens ``wss:``, and shows ten messages and a clean 1000."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(PATIENCE)
    try:
        page = context.new_page()
        heard: list[str] = []
        opened: list[str] = []
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("websocket", lambda socket: opened.append(socket.url))
        page.goto(f"{url_of(tls_daemon)}test/")
        close = page.locator("#close[data-code]")
        close.wait_for()
        texts = page.locator("#messages li").evaluate_all("all => all.map((li) => li.dataset.text)")
        assert texts == [f"service message: {number}" for number in range(10)]
        expect(close).to_have_attribute("data-code", "1000")
        expect(close).to_have_attribute("data-clean", "true")
        assert opened == [f"{url_of(tls_daemon).replace('https:', 'wss:')}test/"]
        assert heard == []
    finally:
        context.close()
