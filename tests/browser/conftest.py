"""Fixtures: the browser, a page in it, and the daemons that serve the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.support.daemon_process import DaemonProcess

# The system's Chromium; without one, Playwright looks for its own. The headless shell, which
# Playwright prefers as well, has no window, not even a hidden one: a page takes a third of the CPU.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")

# The timeout of each step, in milliseconds.
TIMEOUT = 60_000

# Records each text that #status shows.
RECORD_STATUS = """
window.texts = [];
new MutationObserver(() => {
  const text = document.querySelector("#status")?.textContent;
  if (text !== undefined && text !== texts.at(-1)) texts.push(text);
}).observe(document, { childList: true, characterData: true, subtree: true });
"""

# The sandbox needs privileges that a container lacks; the rest prevents Chromium's own requests.
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
    """Start Chromium; the tests fail if there is none."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=TIMEOUT
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open an empty page in a fresh profile."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    yield context.new_page()
    context.close()


def stop_clock(page: Page) -> None:
    """Replace the clock of the pages opened from now on by one that the test advances."""
    page.clock.install(time=0)
    page.clock.pause_at(1_000_000)


@pytest.fixture
def console_errors(page: Page) -> list[str]:
    """Collect the errors and warnings in the page's console, and its uncaught exceptions."""
    errors: list[str] = []

    def on_message(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            errors.append(message.text)

    page.on("console", on_message)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon with the shipped client and demo."""
    with DaemonProcess(directory=tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def start_daemon(directory: Path) -> DaemonProcess:
    """Make a daemon that has a control port as well."""
    return DaemonProcess(["--control", "tcp:0:interface=127.0.0.1"], directory=directory)


@pytest.fixture(scope="module")
def topics_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon with the shipped client and demo, and a control port to publish at."""
    with start_daemon(tmp_path_factory.mktemp("topics")) as daemon:
        yield daemon
    assert_clean_exit(daemon)


# The views in browser_views.py, for a daemon that runs in this folder.
VIEWS = ("--views", "browser_views:views")
HERE = Path(__file__).parent


@pytest.fixture
def endless_daemon() -> Iterator[DaemonProcess]:
    """Run a daemon whose view at ``/test/`` does not end; the test may stop the daemon."""
    with DaemonProcess(VIEWS, directory=HERE) as daemon:
        yield daemon
    assert_clean_exit(daemon)


@pytest.fixture(scope="module")
def echo_daemon() -> Iterator[DaemonProcess]:
    """Run a daemon with an echo view at ``/echo/``."""
    with DaemonProcess(VIEWS, directory=HERE) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def assert_clean_exit(daemon: DaemonProcess) -> None:
    """Check that a daemon shuts down in order, without an error in its log."""
    log = "\n".join(daemon.log)
    assert daemon.stop() == 0, log
    assert "Server Shut Down." in log, log
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log
