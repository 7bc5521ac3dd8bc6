"""The end of a conversation, in a browser that leaves the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import assert_clean_exit
from tests.live.test_endings import ARGS, KINDS, PATIENCE, Room
from tests.support.daemon_process import DaemonProcess

JOIN = """(path) => new Promise((resolve) => {
  window.socket = new WebSocket(new URL(path, location.href.replace("http", "ws")).href);
  socket.onmessage = resolve;
}).then((event) => event.data)"""

LEAVE = """(text) => {
  socket.send(text);
  location.href = "about:blank";
}"""


@pytest.fixture(scope="module")
def ending_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run views of each kind."""
    with DaemonProcess(ARGS, directory=tmp_path_factory.mktemp("endings")) as daemon:
        yield daemon
    assert_clean_exit(daemon)


@pytest.mark.parametrize("kind", KINDS)
def test_last_words(page: Page, ending_daemon: DaemonProcess, kind: str) -> None:
    """What a page sends before it is left reaches another client, ten times out of ten."""
    room = Room(ending_daemon, kind)
    with room.join("converse") as other:
        for number in range(10):
            page.goto(f"{ending_daemon.url}report/{kind}/{room.name}/")
            assert page.evaluate(JOIN, f"/{kind}/converse/{room.name}/") == "joined"
            page.evaluate(LEAVE, f"last {number}")
            page.wait_for_url("about:blank")
            assert other.recv(PATIENCE) == f"last {number}"
            assert other.recv(PATIENCE) == "left"
    assert room.wait_for_end()[1] == 0
