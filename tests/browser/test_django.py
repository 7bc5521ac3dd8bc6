"""The pages of the Django example, as somebody who opens them sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import NOTE_TEXTS, assert_ended_in_order
from tests.daemon_process import DaemonProcess

EXAMPLE = Path(__file__).parents[2] / "examples/django"


@pytest.fixture
def site() -> Iterator[DaemonProcess]:
    """Serve the example."""
    with DaemonProcess(["--wsgi", "mysite.wsgi:application"], directory=EXAMPLE) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


def test_pushes(page: Page, site: DaemonProcess, complaints: list[str]) -> None:
    """The page is pushed to ten times, and sees a clean end."""
    page.add_init_script(NOTE_TEXTS)
    page.goto(site.url)
    messages = page.locator("#messages li")
    expect(page.locator("#status")).to_have_text("Closed (1000).")
    expect(messages).to_have_text([f"service message: {number}" for number in range(10)])
    assert page.evaluate("texts") == ["Connecting …", "Connected.", "Closed (1000)."]
    assert complaints == []


def test_chat(page: Page, browser: Browser, site: DaemonProcess, complaints: list[str]) -> None:
    """Two people in a room hear each other, until the server goes."""
    page.goto(site.url)
    page.get_by_role("link", name="Open the chat").click()
    expect(page.get_by_role("heading")).to_have_text("Chat: lobby")
    expect(page.locator("#status")).to_have_text("Connected.")

    other = browser.new_context()
    bob = other.new_page()
    bob.goto(f"{site.url}chat/lobby/?name=Bob%20%26%20co")
    expect(bob.locator("#status")).to_have_text("Connected.")
    bob.get_by_label("Message").fill("<b>hello</b>")
    bob.keyboard.press("Enter")
    expect(page.locator("#said li")).to_have_text(["Bob & co: <b>hello</b>"])
    other.close()

    page.get_by_label("Message").fill("anybody?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#said li").last).to_have_text("anonymous: anybody?")
    assert complaints == []

    site.stop()
    expect(page.locator("#status")).to_have_text("Disconnected (1001).")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
