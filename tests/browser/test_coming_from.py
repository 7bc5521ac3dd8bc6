"""docs/from-polling.md: the page after the change, with the server after the change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import assert_clean_exit
from tests.support.daemon_process import DaemonProcess
from tests.support.fences import find_fences

DOCUMENT = Path(__file__).parents[2] / "docs/from-polling.md"

# What the document leaves to the reader's framework, and to the rest of the page.
VIEWS = """
import json

from pushd.views import Response


def order(request):
    body = json.dumps(read_order(7))
    return Response(headers={"Content-Type": "application/json"}, body=body)


def change(request):
    set_status(7, request.query["status"])
    return "changed"


views = {"/orders/7": order, "/change": change}
"""
PAGE = """<!doctype html>
<title>An order</title>
<p id="status"></p>
<script src="/show.js"></script>
<script type="module" src="/after.js"></script>
"""
SHOW = """
function show({ status }) {
  document.getElementById("status").textContent = status;
}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Serve the document's code."""
    blocks = {language: body for _, language, body in find_fences(DOCUMENT.read_text())}
    (tmp_path / "shop.py").write_text(blocks["python"] + VIEWS)
    web = tmp_path / "web"
    web.mkdir()
    for name, text in (("index.html", PAGE), ("show.js", SHOW), ("after.js", blocks["js"])):
        (web / name).write_text(text)
    args = ["--views", "shop:views", "--web", "web"]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def test_from_polling(page: Page, shop: DaemonProcess) -> None:
    """The page shows the status that there was, and each change."""
    page.goto(shop.url)
    expect(page.locator("#status")).to_have_text("received")
    for status in ("paid", "shipped"):
        page.request.get(f"{shop.url}change?status={status}")
        expect(page.locator("#status")).to_have_text(status)
