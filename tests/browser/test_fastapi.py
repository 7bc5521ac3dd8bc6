"""The page of the FastAPI example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import assert_clean_exit
from tests.support.daemon_process import DaemonProcess

EXAMPLE = Path(__file__).parents[2] / "examples/fastapi"

STEPS = ["received", "paid", "packed", "shipped", "delivered"]


@pytest.fixture
def shop() -> Iterator[DaemonProcess]:
    """Run the example behind ``--asgi``."""
    with DaemonProcess(["--asgi", "orders:app", "--web", "web"], directory=EXAMPLE) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def test_order(page: Page, shop: DaemonProcess, console_errors: list[str]) -> None:
    """The page shows each step of an order once; a page that is opened later shows the last."""
    page.goto(shop.url)
    expect(page.locator("#status")).to_have_text("Nothing is ordered yet.")
    page.get_by_label("Item").fill("A <b>lamp</b>")
    page.get_by_role("button", name="Order").click()
    expect(page.locator("#steps li")).to_have_text(STEPS)
    expect(page.locator("#status")).to_have_text("Your order is delivered.")

    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#steps li")).to_have_text(["delivered"])
    expect(other.get_by_label("Item")).to_have_value("A <b>lamp</b>")
    assert console_errors == []
