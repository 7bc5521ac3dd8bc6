"""The page topics.html: publishing, cuts, errors, and the measurement of costs."""

from __future__ import annotations

import re
from pathlib import Path
from time import monotonic

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import assert_clean_exit, start_daemon
from tests.browser.subscribing import TRANSPORTS
from tests.support.daemon_process import DaemonProcess


def open_page(page: Page, url: str) -> None:
    """Open the page, and wait until it has subscribed."""
    page.goto(f"{url}topics.html")
    expect(page.locator("#state")).to_have_text("Open over WebSocket")


# Records, at each change of the page's state, whether the button "Resume too late" is enabled.
RECORD_BUTTON = """
window.enabled = [];
new MutationObserver(() => {
  const button = document.querySelector("#late");
  if (button) enabled.push([document.documentElement.dataset.state, !button.disabled]);
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
"""


# The distance of the log's first visible line from its top, and of its last line from its bottom.
MEASURE_LOG = """() => {
  const log = document.querySelector("#log").getBoundingClientRect();
  const items = [...document.querySelectorAll("#messages li")];
  const lines = items.map((item) => item.getBoundingClientRect());
  const first = lines.find(({ bottom }) => bottom > log.top + 1);
  return [first.top - log.top, log.bottom - lines.at(-1).bottom];
}"""

# Returns the numbers that the countdown shows until the next attempt.
RECORD_COUNTDOWN = """() => new Promise((resolve) => {
  const numbers = [];
  const record = () => {
    const shown = document.querySelector("#state").textContent.match(/in ([0-9.]+) s/);
    if (shown) numbers.push(Number(shown[1]));
    // The next attempt may have followed at once.
    if (numbers.length > 1 && (!shown || numbers.at(-1) > numbers.at(-2))) {
      const waited = numbers.splice(0, shown ? numbers.length - 1 : numbers.length);
      // Of a wait that was nearly over there is nothing to see.
      if (waited[0] <= 0.1) return;
      clearInterval(timer);
      resolve(waited);
    } else if (!shown) numbers.length = 0;
  };
  const timer = setInterval(record, 20);
})"""


def publish_from(page: Page, text: str) -> None:
    """Publish with the page's form."""
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Publish", exact=True).click()


def read_table(page: Page) -> dict[str, dict[str, float]]:
    """Return the table's numbers: by row, with its heading, then by transport."""
    rows = page.locator("#numbers tr").evaluate_all(
        """rows => rows.map((row) => [
          row.querySelector("th").textContent,
          Array.from(row.querySelectorAll("td"), ({ dataset, textContent }) => {
            return [dataset.transport, textContent];
          }),
        ])"""
    )
    table: dict[str, dict[str, float]] = {}
    heading = ""
    for name, cells in rows:
        if not cells:
            heading = f"{name}: "
        table[f"{heading}{name}"] = {
            transport: float(re.sub(r"[^0-9.]", "", text))
            for transport, text in cells
            if re.search(r"\d", text)
        }
    return table


def test_publish(page: Page, topics_daemon: DaemonProcess, console_errors: list[str]) -> None:
    """Messages published from two windows arrive in both, with HTML shown as text."""
    page.goto(topics_daemon.url)
    page.get_by_role("link", name="Try topics").click()
    expect(page.locator("#state")).to_have_text("Open over WebSocket")
    page.get_by_label("Topic").fill("play/tests")
    page.get_by_role("button", name="Subscribe").click()
    expect(page.locator("#messages li")).to_have_text(["Subscribed over WebSocket"])
    with page.expect_popup() as opened:
        page.get_by_role("link", name="this topic in a second window").click()
    second = opened.value
    expect(second.get_by_label("Topic")).to_have_value("play/tests")
    expect(second.locator("#state")).to_have_text("Open over WebSocket")

    publish_from(page, "<b>one</b>")
    publish_from(second, "two")
    for window in (page, second):
        lines = window.locator("#messages li[data-id]")
        expect(lines).to_contain_text(["<b>one</b>", "two"])
        assert [
            id.split(":")[1]
            for id in lines.evaluate_all("items => items.map(item => item.dataset.id)")
        ] == ["1", "2"]
        expect(window.locator("#count")).to_have_text("2 received, none missing")
    assert console_errors == []


def test_change_transport(
    page: Page, topics_daemon: DaemonProcess, console_errors: list[str]
) -> None:
    """Another transport resumes after the same id."""
    open_page(page, topics_daemon.url)
    publish_from(page, "one")
    expect(page.locator("#messages")).to_contain_text("one")
    for number, (value, name) in enumerate(
        [("sse", "Server-Sent Events"), ("longpoll", "long polling"), ("websocket", "WebSocket")]
    ):
        page.get_by_label("Transport").select_option(value)
        expect(page.locator("#state")).to_have_text(f"Open over {name}")
        expect(page.locator("#messages li").last).to_have_text(
            f"Resumed over {name}, after the same id"
        )
        publish_from(page, f"number {number}")
        expect(page.locator("#messages li").last).to_contain_text(f"number {number}")
    expect(page.locator("#count")).to_have_text("4 received, none missing")
    assert console_errors == []


@pytest.mark.parametrize("transport", ["any", "longpoll"])
def test_cut(page: Page, topics_daemon: DaemonProcess, transport: str) -> None:
    """After a cut the page reconnects, and receives what was published meanwhile."""
    page.add_init_script(RECORD_BUTTON)
    open_page(page, topics_daemon.url)
    page.get_by_label("Transport").select_option(transport)
    publish_from(page, "before")
    expect(page.locator("#messages")).to_contain_text("before")
    page.get_by_role("button", name="Cut for 5 seconds").click()
    expect(page.locator("#messages")).to_contain_text("Connection lost")
    lines = page.locator("#messages li[data-id]")
    expect(lines).to_have_count(4)
    expect(page.locator("#messages")).to_contain_text("Nothing lost: missed messages follow")
    ids = lines.evaluate_all("items => items.map(item => item.dataset.id)")
    assert [id.split(":")[1] for id in ids] == ["1", "2", "3", "4"]
    expect(page.locator("#count")).to_have_text("4 received, none missing")
    # The button is enabled while the subscription is open, and only then.
    recorded = page.evaluate("enabled")
    assert {state for state, _ in recorded} >= {"open", "waiting"}
    assert [enabled for _, enabled in recorded] == [state == "open" for state, _ in recorded]


def test_whole_lines(page: Page, topics_daemon: DaemonProcess) -> None:
    """However tall its lines are, the log begins with a whole one, and shows the last one whole."""
    page.set_viewport_size({"width": 360, "height": 640})
    open_page(page, topics_daemon.url)
    for number in range(12):
        publish_from(page, f"{number} {'word ' * (number % 4 * 9)}")
        expect(page.locator("#messages li")).to_have_count(number + 2)
        top, bottom = page.evaluate(MEASURE_LOG)
        assert top == pytest.approx(0, abs=1)
        assert bottom >= 0


def test_unknown_id(page: Page, topics_daemon: DaemonProcess, console_errors: list[str]) -> None:
    """Resuming after an unknown id says that messages may be lost, and then shows new ones."""
    open_page(page, topics_daemon.url)
    page.get_by_role("button", name="Resume too late").click()
    expect(page.locator("#messages .bad")).to_contain_text("some may be lost")
    publish_from(page, "next")
    expect(page.locator("#messages")).to_contain_text("next")
    expect(page.locator("#count")).to_have_text("1 received, some may be missing")
    assert console_errors == []


def test_errors(page: Page, tmp_path: Path) -> None:
    """The page explains what is wrong if the daemon refuses, or is not running."""
    with start_daemon(tmp_path) as daemon:
        open_page(page, daemon.url)
        page.get_by_label("Topic").fill("news")
        page.get_by_role("button", name="Subscribe").click()
        assert page.locator("#topic:invalid").count() == 1
        page.locator("#text").evaluate("input => { input.value = 'é'.repeat(513); }")
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.locator("#trouble")).to_contain_text("must have at most 1024 bytes")
    assert_clean_exit(daemon)
    expect(page.locator("#state")).to_contain_text("Reconnecting in")
    shown = page.evaluate(RECORD_COUNTDOWN)
    assert shown == sorted(shown, reverse=True)
    assert shown[0] > shown[-1] >= 0
    publish_from(page, "anybody?")
    expect(page.locator("#trouble")).to_contain_text("could not be reached")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#failure")).to_contain_text("The measurement failed")
    expect(page.locator("#progress")).to_have_text("Stopped")


# Delays the daemon's counts after the last message: polling must have stopped by then.
DELAY_LAST_COUNT = """
const { fetch } = window;
window.fetch = async (url, ...options) => {
  const response = await fetch(url, ...options);
  const last = document.querySelector("#progress").textContent.startsWith("10 of 10");
  if (last && String(url).startsWith("/play/costs/")) {
    await new Promise((resolve) => setTimeout(resolve, 1500));
  }
  return response;
};
"""


def test_costs(page: Page, topics_daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The cost of each transport is measured by the daemon and, if it can, by the browser."""
    page.add_init_script(DELAY_LAST_COUNT)
    open_page(page, topics_daemon.url)
    expect(page.locator("#results")).to_be_hidden()
    page.get_by_label("Interval").select_option("1")
    begin = monotonic()
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#progress")).to_have_text(re.compile("([3-9]|10) of 10 messages"))
    expect(page.locator("#bytes .bar")).to_have_count(4)
    expect(page.locator("#progress")).to_have_text("Done")
    seconds = monotonic() - begin
    expect(page.get_by_role("button", name="Measure again")).to_be_visible()
    for chart in ("bytes", "requests"):
        widths = page.locator(f"#{chart} .bar").evaluate_all(
            "bars => bars.map(bar => bar.getBoundingClientRect().width)"
        )
        assert len(widths) == 4
        assert max(widths[:2]) > 3 * max(widths[2:]) > 0
    names = page.locator("#bytes text:not(.value)").all_text_contents()
    assert names == ["Polling every second", "Long polling", "Server-Sent Events", "WebSocket"]
    expect(page.get_by_role("img", name="WebSocket")).to_have_count(2)

    costs = read_table(page)
    assert costs["Messages received"] == dict.fromkeys(["poll", *TRANSPORTS[::-1]], 10.0)
    delays = costs["Mean latency"]
    # A busy machine delays all four; polling adds half a second on average.
    assert delays["poll"] > max(delays[transport] for transport in TRANSPORTS) + 100
    requests = costs["Counted by the daemon: Requests"]
    assert (requests["sse"], requests["websocket"]) == (1, 1)
    # The first one, one for each message, and possibly the one that is still waiting.
    assert requests["longpoll"] in (11, 12)
    assert 5 < requests["poll"] < seconds + 2
    each = costs["Counted by the daemon: Bytes per message"]
    assert each["websocket"] < each["sse"] < 300 < each["poll"] < 3000
    assert 500 < each["longpoll"] < 3000
    by_browser = costs["Counted by the browser: Requests"]
    assert by_browser["poll"] == requests["poll"]
    # The last one was aborted; browsers may or may not report it.
    assert by_browser["longpoll"] in (11, 12)
    # Both count the bodies; for the heads the browser uses an estimate.
    sent = costs["Counted by the daemon: Response bytes"]
    received = costs["Counted by the browser: Response bytes"]
    assert abs(sent["poll"] - received["poll"]) < 150 * requests["poll"]
    assert page.evaluate("document.querySelectorAll('[style]').length") == 0
    assert console_errors == []


def test_costs_stopped(page: Page, topics_daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The button Stop ends a measurement, keeps its results, and leaves no request running."""
    open_page(page, topics_daemon.url)
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#progress")).to_have_text(re.compile("([2-9]|10) of 10 messages"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#progress")).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Measure again")).to_be_visible()
    expect(page.locator("#failure")).to_be_hidden()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(1500)
    assert requests == []
    assert console_errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Browser, topics_daemon: DaemonProcess, scheme: str) -> None:
    """On a phone nothing overflows, and all controls are at least 44 px high."""
    context = browser.new_context(
        viewport={"width": 360, "height": 640},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    open_page(page, topics_daemon.url)
    page.get_by_label("Interval").select_option("0.5")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#numbers tr")).to_have_count(11)
    expect(page.locator("#progress")).to_have_text(re.compile("([3-9]|10) of 10 messages"))
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert (
        page.locator(".scroll").evaluate(
            "({ scrollWidth, clientWidth }) => scrollWidth - clientWidth"
        )
        == 0
    )
    for height in page.locator(".home, button, input, select").evaluate_all(
        "elements => elements.map(element => element.getBoundingClientRect().height)"
    ):
        assert height >= 44
    context.close()


def test_policy(page: Page, topics_daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The page loads only from its own origin, as its Content-Security-Policy says."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    response = page.goto(f"{topics_daemon.url}topics.html")
    assert response is not None
    assert "default-src 'self'" in (response.header_value("content-security-policy") or "")
    expect(page.locator("#state")).to_have_text("Open over WebSocket")
    assert [url for url in urls if not url.startswith(topics_daemon.url)] == []
    assert console_errors == []


def test_without_script(browser: Browser, topics_daemon: DaemonProcess) -> None:
    """Without scripts, the page says that it needs JavaScript."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{topics_daemon.url}topics.html")
    assert "This page needs JavaScript" in page.locator("noscript p").inner_text()
    context.close()
