"""The pages of the Django example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import RECORD_STATUS, assert_clean_exit
from tests.support.daemon_process import DaemonProcess

EXAMPLE = Path(__file__).parents[2] / "examples/django"


@pytest.fixture
def site() -> Iterator[DaemonProcess]:
    """Run the example behind ``--wsgi``."""
    with DaemonProcess(["--wsgi", "mysite.wsgi:application"], directory=EXAMPLE) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def test_pushes(page: Page, site: DaemonProcess, console_errors: list[str]) -> None:
    """The page receives ten pushes, then a clean close."""
    page.add_init_script(RECORD_STATUS)
    page.goto(site.url)
    messages = page.locator("#messages li")
    expect(page.locator("#status")).to_have_text("Closed (1000).")
    expect(messages).to_have_text([f"service message: {number}" for number in range(10)])
    assert page.evaluate("texts") == ["Connecting …", "Connected.", "Closed (1000)."]
    assert console_errors == []


def test_chat(page: Page, browser: Browser, site: DaemonProcess, console_errors: list[str]) -> None:
    """Messages reach all members of the room; on shutdown the page shows 1001."""
    page.goto(site.url)
    page.get_by_role("link", name="Open the chat").click()
    expect(page.get_by_role("heading")).to_have_text("Chat: lobby")
    expect(page.locator("#status")).to_have_text("Connected.")

    bob_context = browser.new_context()
    bob = bob_context.new_page()
    bob.goto(f"{site.url}chat/lobby/?name=Bob%20%26%20co")
    expect(bob.locator("#status")).to_have_text("Connected.")
    bob.get_by_label("Message").fill("<b>hello</b>")
    bob.keyboard.press("Enter")
    expect(page.locator("#said li")).to_have_text(["Bob & co: <b>hello</b>"])
    bob_context.close()

    page.get_by_label("Message").fill("anybody?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#said li").last).to_have_text("anonymous: anybody?")
    assert console_errors == []

    site.stop()
    expect(page.locator("#status")).to_have_text("Disconnected (1001).")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
