"""Close codes behind nginx and HAProxy, as Chromium sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.support.daemon_process import DaemonProcess
from tests.support.proxies import ECHO_VIEWS, run_proxy

# How often each rule is broken.
TIMES = 3

# Breaks a rule; returns code and reason of the close event, which is never clean for the page while
# some of what it sent is still in the browser.
BREAK_RULE = """
([count, length]) => new Promise(resolve => {
  const socket = new WebSocket(`ws://${location.host}/echo/`);
  socket.onopen = () => { for (let i = 0; i < count; i++) socket.send("x".repeat(length)); };
  socket.onclose = event => resolve([event.code, event.reason]);
})
"""


@pytest.mark.parametrize("proxy", ["nginx", "haproxy", "haproxy with send-proxy"])
def test_code(page: Page, tmp_path: Path, proxy: str) -> None:
    """A page that exceeds the rate or the size of messages sees our code each time."""
    name, _, options = proxy.partition(" with ")
    (tmp_path / "views.py").write_text(ECHO_VIEWS)
    listen = "tcp:0:interface=127.0.0.1"
    args = ["--views", "views:views", "--max-rate", "20", "--max-message", "10000"]
    args += ["--listen", f"haproxy:{listen}" if options else listen]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        upstream = daemon.url.split("/")[2]
        with run_proxy(name, upstream, tmp_path, options) as port:
            page.goto(f"http://localhost:{port}/")
            for _ in range(TIMES):
                flood = page.evaluate(BREAK_RULE, [20_000, 100])
                assert flood == [1008, "too many messages"]
                large = page.evaluate(BREAK_RULE, [1, 4_000_000])
                assert large == [1009, "message too big"]
