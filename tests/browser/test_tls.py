"""The demo over TLS, in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import TIMEOUT, assert_clean_exit
from tests.live.attacked_daemon import url_of
from tests.support.certificate import make_tls_endpoint
from tests.support.daemon_process import DaemonProcess


@pytest.fixture
def tls_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon with the shipped client and demo, over TLS."""
    folder = tmp_path_factory.mktemp("tls")
    with DaemonProcess(["--listen", make_tls_endpoint(folder)], directory=folder) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def test_demo(browser: Browser, tls_daemon: DaemonProcess) -> None:
    """Over ``https:`` the page opens ``wss:``, and shows ten messages and a clean close."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(TIMEOUT)
    try:
        page = context.new_page()
        errors: list[str] = []
        urls: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("websocket", lambda socket: urls.append(socket.url))
        page.goto(f"{url_of(tls_daemon)}test/")
        closing = page.locator("#closing[data-code]")
        closing.wait_for()
        items = page.locator("#messages li")
        texts = items.evaluate_all("items => items.map((item) => item.dataset.text)")
        assert texts == [f"service message: {number}" for number in range(10)]
        expect(closing).to_have_attribute("data-code", "1000")
        expect(closing).to_have_attribute("data-clean", "true")
        assert urls == [f"{url_of(tls_daemon).replace('https:', 'wss:')}test/"]
        assert errors == []
    finally:
        context.close()
