"""A browser, its pages, and daemons for them to talk with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.daemon_process import DaemonProcess

# The system's; where it has none by that name, Playwright looks for one of its own.
CHROMIUM = shutil.which("chromium")

# How long anything may take that is not to take long, in milliseconds.
PATIENCE = 60_000

# Notes what the page says of its state, at each change.
NOTE_TEXTS = """
window.texts = [];
new MutationObserver(() => {
  const text = document.querySelector("#status")?.textContent;
  if (text !== undefined && text !== texts.at(-1)) texts.push(text);
}).observe(document, { childList: true, characterData: true, subtree: true });
"""

# The sandbox wants more than a container gives; the rest keeps Chromium from talking to others.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium; where there is none, the tests fail."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open an empty page, in a profile of its own."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def stop_clock(page: Page) -> None:
    """Let time pass for what the page opens from now on only as a test has it pass."""
    page.clock.install(time=0)
    page.clock.pause_at(1_000_000)


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """Collect what the browser complains about: errors, broken policies, failed loads."""
    heard: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            heard.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon as it is shipped."""
    with DaemonProcess(directory=tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


# The views in browser_views.py, for a daemon that runs in this folder.
VIEWS = ("--views", "browser_views:views")
HERE = Path(__file__).parent


@pytest.fixture
def mortal_daemon() -> Iterator[DaemonProcess]:
    """Run a daemon whose demo does not end, for one test, which may stop it."""
    with DaemonProcess(VIEWS, directory=HERE) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


@pytest.fixture(scope="module")
def echo_daemon() -> Iterator[DaemonProcess]:
    """Run a daemon that has the view at ``/echo/`` as well."""
    with DaemonProcess(VIEWS, directory=HERE) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


def assert_ended_in_order(daemon: DaemonProcess) -> None:
    """Prove that a daemon was stopped, did not fall, and had nothing to complain about."""
    log = "\n".join(daemon.log)
    # In order, twistd ends itself by the signal that it was asked with.
    assert daemon.stop() == 0, log
    assert "Server Shut Down." in log, log
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log
