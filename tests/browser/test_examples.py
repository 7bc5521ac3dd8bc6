"""The pages of the examples: echo, chat and progress."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import assert_clean_exit
from tests.support.daemon_process import DaemonProcess

EXAMPLES = Path(__file__).parents[2] / "examples"

# Records the status of the job and the position of the bar, at each change.
RECORD_STEPS = """
window.steps = [];
new MutationObserver(() => {
  const text = document.querySelector("#status")?.textContent;
  const bar = document.querySelector("progress");
  if (text && text !== steps.at(-1)?.[0]) steps.push([text, bar.position]);
}).observe(document, { childList: true, characterData: true, subtree: true });
"""

# Stops the job at its first step, and records whether "Start" was disabled meanwhile.
STOP = """
window.stopped = [];
new MutationObserver(() => {
  if (!document.querySelector("#status")?.textContent.startsWith("1 of ")) return;
  stopped.push(document.querySelector("#start").disabled);
  document.querySelector("#stop").click();
}).observe(document, { childList: true, characterData: true, subtree: true });
"""


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """Run the example that the test names, with the command in its docstring."""
    command = ["--views", f"{request.param}:views", "--web", "web"]
    with DaemonProcess(command, directory=EXAMPLES) as daemon:
        yield daemon
    assert_clean_exit(daemon)


@pytest.mark.parametrize("example", ["echo"], indirect=True)
def test_echo(page: Page, example: DaemonProcess, console_errors: list[str]) -> None:
    """Messages come back, shown as text; on shutdown the page shows 1001."""
    page.goto(f"{example.url}echo/")
    expect(page.locator("#status")).to_have_text("Connected. Every message you send comes back.")
    for text in ("hello", "<b>příliš</b>"):
        page.get_by_label("Message", exact=True).fill(text)
        page.get_by_role("button", name="Send").click()
    expect(page.locator("#said li")).to_have_text(["hello", "<b>příliš</b>"])
    assert console_errors == []

    example.stop()
    expect(page.locator("#status")).to_contain_text("Disconnected (1001)")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()


@pytest.mark.parametrize("example", ["chat"], indirect=True)
def test_chat(
    page: Page, browser: Browser, example: DaemonProcess, console_errors: list[str]
) -> None:
    """Messages reach all members of the room, and so does news of those that enter and leave."""
    # The start page redirects to the lobby.
    page.goto(example.url)
    page.wait_for_url(f"{example.url}chat/lobby/")
    expect(page.get_by_role("heading")).to_have_text("Chat: lobby")
    enter(page, "Ann & co")

    bob_context = browser.new_context()
    bob = bob_context.new_page()
    bob.goto(f"{example.url}chat/lobby/")
    enter(bob, "Bob")
    said = page.locator("#said li")
    expect(said).to_have_text(["Ann & co enters", "Bob enters"])

    bob.get_by_label("Message", exact=True).fill("<b>hello</b>")
    bob.keyboard.press("Enter")
    expect(said.last).to_have_text("Bob: <b>hello</b>")
    expect(bob.locator("#said li").last).to_have_text("Bob: <b>hello</b>")
    expect(bob.get_by_label("Message", exact=True)).to_have_value("")

    bob_context.close()
    expect(said.last).to_have_text("Bob leaves")
    assert console_errors == []


@pytest.mark.parametrize("example", ["chat"], indirect=True)
def test_chat_room(page: Page, example: DaemonProcess, console_errors: list[str]) -> None:
    """A room may have any name; on shutdown the page shows 1001, and offers to enter again."""
    page.goto(f"{example.url}chat/café 🐎/")
    expect(page.get_by_role("heading")).to_have_text("Chat: café 🐎")
    enter(page, "Ann")
    assert console_errors == []
    example.stop()
    expect(page.locator("#status")).to_contain_text("Disconnected (1001, server is shutting down)")
    expect(page.get_by_role("button", name="Join")).to_be_visible()


@pytest.mark.parametrize("example", ["progress"], indirect=True)
def test_progress(page: Page, example: DaemonProcess, console_errors: list[str]) -> None:
    """The bar fills step by step, and the page shows the key at the end."""
    page.add_init_script(RECORD_STEPS)
    page.goto(f"{example.url}progress/")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#status")).to_have_text("Done.")
    steps = [[f"{number} of 50 steps", number / 50] for number in range(1, 51)]
    before = [["Not started.", 0], ["Starting …", 0]]
    assert page.evaluate("steps") == [*before, *steps, ["Done.", 1]]
    assert len(page.locator("#key").inner_text()) == 64
    assert console_errors == []


@pytest.mark.parametrize("example", ["progress"], indirect=True)
def test_progress_stopped(page: Page, example: DaemonProcess, console_errors: list[str]) -> None:
    """A stopped job shows its step, and can be started again."""
    page.add_init_script(STOP)
    page.goto(f"{example.url}progress/")
    start = page.get_by_role("button", name="Start")
    for number in range(1, 3):
        start.click()
        page.wait_for_function("(number) => stopped.length === number", arg=number)
        expect(page.locator("#status")).to_have_text("Stopped at 1 of 50 steps")
        expect(page.locator("#key")).to_be_empty()
    # It could not be started twice.
    assert page.evaluate("stopped") == [True, True]
    assert console_errors == []


def enter(page: Page, name: str) -> None:
    """Enter the chat room under this name."""
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(page.locator("#status")).to_have_text("Connected.")
    expect(page.locator("#said li").first).to_have_text(f"{name} enters")
