"""The examples' pages, as somebody who opens them sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import assert_ended_in_order
from tests.daemon_process import DaemonProcess

EXAMPLES = Path(__file__).parents[2] / "examples"

# Notes what is said of a job, and how far the bar is, at each change.
NOTE_STEPS = """
window.steps = [];
new MutationObserver(() => {
  const text = document.querySelector("#status")?.textContent;
  const bar = document.querySelector("progress");
  if (text && text !== steps.at(-1)?.[0]) steps.push([text, bar.position]);
}).observe(document, { childList: true, characterData: true, subtree: true });
"""

# Stops a job at its first step, and notes whether another one could not be started just then.
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
    """Run the example that a test names, in its folder, as its header says."""
    command = ["--views", f"{request.param}:views", "--web", "web"]
    with DaemonProcess(command, directory=EXAMPLES) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


@pytest.mark.parametrize("example", ["echo"], indirect=True)
def test_echo(page: Page, example: DaemonProcess, complaints: list[str]) -> None:
    """What is said comes back, as text, until the server goes."""
    page.goto(f"{example.url}echo/")
    expect(page.locator("#status")).to_have_text("Connected. Every message you send comes back.")
    for text in ("hello", "<b>příliš</b>"):
        page.get_by_label("Message", exact=True).fill(text)
        page.get_by_role("button", name="Send").click()
    expect(page.locator("#said li")).to_have_text(["hello", "<b>příliš</b>"])
    assert complaints == []

    example.stop()
    expect(page.locator("#status")).to_contain_text("Disconnected (1001)")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()


@pytest.mark.parametrize("example", ["chat"], indirect=True)
def test_chat(page: Page, browser: Browser, example: DaemonProcess, complaints: list[str]) -> None:
    """Two people in a room hear each other, and see who comes and goes."""
    # The front door leads to the lobby.
    page.goto(example.url)
    page.wait_for_url(f"{example.url}chat/lobby/")
    expect(page.get_by_role("heading")).to_have_text("Chat: lobby")
    enter(page, "Ann & co")

    other = browser.new_context()
    bob = other.new_page()
    bob.goto(f"{example.url}chat/lobby/")
    enter(bob, "Bob")
    said = page.locator("#said li")
    expect(said).to_have_text(["Ann & co enters", "Bob enters"])

    bob.get_by_label("Message", exact=True).fill("<b>hello</b>")
    bob.keyboard.press("Enter")
    expect(said.last).to_have_text("Bob: <b>hello</b>")
    expect(bob.locator("#said li").last).to_have_text("Bob: <b>hello</b>")
    expect(bob.get_by_label("Message", exact=True)).to_have_value("")

    other.close()
    expect(said.last).to_have_text("Bob leaves")
    assert complaints == []


@pytest.mark.parametrize("example", ["chat"], indirect=True)
def test_chat_room(page: Page, example: DaemonProcess, complaints: list[str]) -> None:
    """A room has any name; who is thrown out by the end of the server may enter again."""
    page.goto(f"{example.url}chat/café 🐎/")
    expect(page.get_by_role("heading")).to_have_text("Chat: café 🐎")
    enter(page, "Ann")
    assert complaints == []
    example.stop()
    expect(page.locator("#status")).to_contain_text("Disconnected (1001, the server is going away)")
    expect(page.get_by_role("button", name="Join")).to_be_visible()


@pytest.mark.parametrize("example", ["progress"], indirect=True)
def test_progress(page: Page, example: DaemonProcess, complaints: list[str]) -> None:
    """The bar fills step by step, and at its end there is the key."""
    page.add_init_script(NOTE_STEPS)
    page.goto(f"{example.url}progress/")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#status")).to_have_text("Done.")
    steps = [[f"{number} of 50 steps", number / 50] for number in range(1, 51)]
    before = [["Not started.", 0], ["Starting …", 0]]
    assert page.evaluate("steps") == [*before, *steps, ["Done.", 1]]
    assert len(page.locator("#key").inner_text()) == 64
    assert complaints == []


@pytest.mark.parametrize("example", ["progress"], indirect=True)
def test_progress_stopped(page: Page, example: DaemonProcess, complaints: list[str]) -> None:
    """A job that is stopped says where, and may be started again."""
    page.add_init_script(STOP)
    page.goto(f"{example.url}progress/")
    start = page.get_by_role("button", name="Start")
    for number in range(1, 3):
        start.click()
        page.wait_for_function("(number) => stopped.length === number", arg=number)
        expect(page.locator("#status")).to_have_text("Stopped at 1 of 50 steps")
        expect(page.locator("#key")).to_be_empty()
    # It could not be started again meanwhile.
    assert page.evaluate("stopped") == [True, True]
    assert complaints == []


def enter(page: Page, name: str) -> None:
    """Go into the room that the page shows."""
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(page.locator("#status")).to_have_text("Connected.")
    expect(page.locator("#said li").first).to_have_text(f"{name} enters")
