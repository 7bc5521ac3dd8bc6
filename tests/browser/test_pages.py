"""The pages that come with pushd, as somebody who opens them sees them."""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from statistics import median

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from tests.browser.conftest import stop_clock
from tests.daemon_process import DaemonProcess

# Keeps the list of states that the page was in, in the order they came.
WATCH_STATES = """
window.states = [];
new MutationObserver(() => states.push(document.documentElement.dataset.state))
  .observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
"""

# Notes how the page looks each time that there is one line more.
WATCH_LINES = """
window.lines = [];
new MutationObserver(() => {
  const count = document.querySelectorAll("#messages li").length;
  if (!count || count === lines.at(-1)?.count) return;
  const [again, close] = ["#again", "#close"].map((id) => document.querySelector(id));
  const { state } = document.documentElement.dataset;
  lines.push({ count, state, again: !again.disabled, close: !close.hidden });
}).observe(document, { subtree: true, childList: true });
"""

# Presses the button that ends the conversation, once there are two lines.
LEAVE = """
new MutationObserver((_, observer) => {
  if (document.querySelectorAll("#messages li").length < 2) return;
  observer.disconnect();
  document.querySelector("#leave").click();
}).observe(document, { subtree: true, childList: true });
"""

# Sends every WebSocket of the page to an address that has none; and lets an answer take as long as
# it takes.
LEAD_ASTRAY = """
AbortSignal.timeout = () => new AbortController().signal;
const Real = WebSocket;
window.WebSocket = class extends Real {
  constructor(url) { super(new URL("/nowhere/", url)); }
};
"""


def read_messages(page: Page) -> list[tuple[str, float]]:
    """Give the messages on the page, each with the time since the one before, in milliseconds."""
    lines = page.locator("#messages li")
    read = "lines => lines.map(({ dataset }) => [dataset.text, Number(dataset.gap)])"
    return [(text, gap) for text, gap in lines.evaluate_all(read)]


def wait_for_close(page: Page) -> None:
    """Wait until the page shows how the conversation ended."""
    page.locator("#close[data-code]").wait_for()


def assert_demo(page: Page) -> None:
    """Prove that the page shows the whole demo, at its pace, and its clean end.

    Never early, however busy the machine is; and usually not late.
    """
    wait_for_close(page)
    messages = read_messages(page)
    assert [text for text, _ in messages] == [f"service message: {n}" for n in range(10)]
    gaps = [gap for _, gap in messages]
    assert all(moment > 500 * number - 50 for number, moment in enumerate(accumulate(gaps))), gaps
    assert median(gaps[1:]) < 600, gaps
    close = page.locator("#close")
    expect(close).to_have_attribute("data-code", "1000")
    expect(close).to_have_attribute("data-reason", "")
    expect(close).to_have_attribute("data-clean", "true")
    expect(close).to_contain_text("1000, normal")
    expect(page.locator("#state")).to_have_text("Closed")
    expect(page.locator("#trouble")).to_be_hidden()


def test_demo(page: Page, daemon: DaemonProcess, complaints: list[str]) -> None:
    """From the front page to ten pushes and a clean close; and all of it once more."""
    page.add_init_script(WATCH_STATES)
    page.add_init_script(WATCH_LINES)
    page.goto(daemon.url)
    page.get_by_role("link", name="See it happen").click()
    page.wait_for_url(f"{daemon.url}test/")
    assert_demo(page)
    expect(page.locator("#opening")).to_contain_text('["1","2","3"]')

    page.locator("#again").press("Enter")
    page.wait_for_function("() => states.length === 6")
    assert_demo(page)
    # The keyboard is where it was.
    expect(page.locator("#again")).to_be_focused()
    assert page.evaluate("states") == ["connecting", "open", "closed"] * 2
    # Each line was there when it came, not when all had come.
    open_page = {"state": "open", "again": False, "close": False}
    assert page.evaluate("lines") == [{"count": n, **open_page} for n in range(1, 11)] * 2
    assert complaints == []


def test_same_page_as_file(page: Page, daemon: DaemonProcess, complaints: list[str]) -> None:
    """The page works at its file's address too."""
    page.goto(f"{daemon.url}test.html")
    page.locator("#messages li").first.wait_for()
    assert complaints == []


def test_leave(page: Page, daemon: DaemonProcess, complaints: list[str]) -> None:
    """Who leaves in the middle sees it happen, with the code and reason that were given."""
    page.add_init_script(WATCH_STATES)
    page.add_init_script(LEAVE)
    page.goto(f"{daemon.url}test/")
    wait_for_close(page)
    assert len(read_messages(page)) == 2
    assert page.evaluate("states") == ["connecting", "open", "closing", "closed"]
    expect(page.locator("#close")).to_have_attribute("data-clean", "true")
    expect(page.locator("#leave")).to_be_disabled()
    assert complaints == []


def test_server_stops_in_the_middle(page: Page, mortal_daemon: DaemonProcess) -> None:
    """A server that is stopped says so; the page says what to do, and what it finds after."""
    page.goto(f"{mortal_daemon.url}test.html")
    page.locator("#messages li").nth(1).wait_for()
    mortal_daemon.stop()
    wait_for_close(page)
    expect(page.locator("#close")).to_have_attribute("data-code", "1001")
    expect(page.locator("#close")).to_have_attribute("data-clean", "true")
    expect(page.locator("#trouble")).to_contain_text("being stopped or restarted")

    page.locator("#again").click()
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text("The server could not be reached at")
    expect(trouble).to_contain_text(f"{mortal_daemon.url.replace('http', 'ws')}test/")
    expect(page.locator("#close")).to_have_attribute("data-code", "1006")
    expect(page.locator("#close")).to_have_attribute("data-clean", "false")
    expect(page.locator("#opening")).to_be_hidden()
    expect(page.locator("#again")).to_be_enabled()


def test_refused(page: Page, daemon: DaemonProcess) -> None:
    """A server that answers, but opens no WebSocket, is told from one that is not there."""
    page.add_init_script(LEAD_ASTRAY)
    page.goto(f"{daemon.url}test/")
    expect(page.locator("#trouble")).to_contain_text("The server is there, but it did not open")
    expect(page.locator("#state")).to_have_text("Closed")


def test_messages_are_text(page: Page, daemon: DaemonProcess, complaints: list[str]) -> None:
    """What looks like HTML is shown as it is, and bytes are counted."""
    html = "<img src=/nowhere onerror=alert(1)>"

    def talk(socket: WebSocketRoute) -> None:
        def answer(message: str | bytes) -> None:
            socket.send(html)
            socket.send(b"\0\1\2")

        socket.on_message(answer)

    page.route_web_socket(re.compile("/test/$"), talk)
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").nth(1).wait_for()
    assert [text for text, _ in read_messages(page)] == [html, "3 bytes"]
    expect(page.locator("#messages li").first).to_contain_text(html)
    expect(page.locator("#messages img")).to_have_count(0)
    assert complaints == []


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (1001, "going away", "being stopped or restarted"),
        (1008, "against the rules", "the reason given says which"),
        (1011, "error in the server", "Something failed inside the server"),
        (1013, "try again later", "too much to do"),
    ],
)
def test_advice(page: Page, daemon: DaemonProcess, code: int, name: str, advice: str) -> None:
    """Each way in which the server may end a conversation has its words."""

    def talk(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: socket.close(code=code, reason="<b>because</b>"))

    page.route_web_socket(re.compile("/test/$"), talk)
    page.goto(f"{daemon.url}test/")
    wait_for_close(page)
    expect(page.locator("#close")).to_contain_text(f"{code}, {name}")
    expect(page.locator("#reason")).to_have_text("<b>because</b>")
    expect(page.locator("#trouble")).to_contain_text(advice)


def test_long_conversation(page: Page, daemon: DaemonProcess) -> None:
    """The line of seconds makes room for a conversation that outlasts it."""
    stop_clock(page)
    sockets: list[WebSocketRoute] = []

    def talk(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.on_message(lambda _: socket.send("at once"))

    page.route_web_socket(re.compile("/test/$"), talk)
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").first.wait_for()
    page.clock.run_for(12_000)
    sockets[0].send("later")
    page.locator("#messages li").nth(1).wait_for()
    labels = page.locator("#rhythm text").all_text_contents()
    assert labels == ["0 s", "4 s", "8 s", "12 s", "16 s", "20 s"]
    marks = page.locator("#rhythm .mark").evaluate_all(
        "marks => marks.map(mark => Number.parseFloat(mark.getAttribute('cx')))"
    )
    assert marks[0] == pytest.approx(3, abs=2)
    assert marks[1] == pytest.approx(3 + 94 * 12 / 20, abs=2)


def test_web_socket_address(page: Page, daemon: DaemonProcess) -> None:
    """A WebSocket is opened where the page came from, as safely as the page came."""
    page.goto(daemon.url)
    addresses = page.evaluate(
        """async () => {
          const { webSocketURL } = await import("/pushd.js");
          return [
            webSocketURL("/test/"),
            webSocketURL("/test/?a=1", "https://example.org/deep/page#part"),
            webSocketURL("#part", "http://[::1]:8080/test/"),
          ];
        }"""
    )
    assert addresses == [
        f"{daemon.url.replace('http', 'ws')}test/",
        "wss://example.org/test/?a=1",
        "ws://[::1]:8080/test/",
    ]


@pytest.mark.parametrize("path", ["", "test/", "test.html"])
def test_policy(page: Page, daemon: DaemonProcess, complaints: list[str], path: str) -> None:
    """Nothing on a page comes from elsewhere, and no script runs that stands in the page."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    response = page.goto(daemon.url + path)
    assert response is not None
    assert "default-src 'self'" in (response.header_value("content-security-policy") or "")
    assert response.header_value("content-type") == "text/html; charset=utf-8"
    page.wait_for_load_state("networkidle")
    assert asked
    assert [url for url in asked if not url.startswith(daemon.url)] == []
    assert complaints == []

    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
        }"""
    )
    assert page.evaluate("window.ran") is None
    assert "Content Security Policy" in complaints[0]


@pytest.mark.parametrize("path", ["", "test/"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Browser, daemon: DaemonProcess, path: str, scheme: str) -> None:
    """Nothing sticks out on a narrow screen, and what can be pressed is as big as a finger."""
    context = browser.new_context(
        viewport={"width": 360, "height": 640},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(daemon.url + path)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for box in page.locator("a, button").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    ):
        assert box >= 44
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", paper)) / 3
    assert (brightness < 64) if scheme == "dark" else (brightness > 192)
    context.close()


def test_keyboard(page: Page, daemon: DaemonProcess) -> None:
    """Tab goes through the page from the top down, and each stop is seen."""
    page.route_web_socket(re.compile("/test/$"), lambda socket: socket.close(code=1000))
    page.goto(f"{daemon.url}test/")
    wait_for_close(page)
    tops = []
    for name in ("pushd", "Connect again"):
        page.keyboard.press("Tab")
        focused = page.locator(":focus-visible")
        expect(focused).to_have_accessible_name(name)
        assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        tops.append(focused.evaluate("one => one.getBoundingClientRect().top"))
    assert all(above < below for above, below in pairwise(tops))


def test_screen_reader(page: Page, daemon: DaemonProcess) -> None:
    """What changes on the page is announced, and has a name."""

    def talk(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: socket.send("service message: 0"))

    page.route_web_socket(re.compile("/test/$"), talk)
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").first.wait_for()
    expect(page.get_by_role("status")).to_have_text("Connection: Open")
    log = page.get_by_role("log", name="ViewRun")
    expect(log).to_have_attribute("aria-live", "polite")
    expect(log.get_by_role("listitem").first).to_contain_text("service message: 0")
    assert page.locator("html").get_attribute("lang") == "en"


def test_still_motion(browser: Browser, daemon: DaemonProcess) -> None:
    """Nothing moves for who asked for stillness; the dots come all the same."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").nth(1).wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
    expect(page.locator("#rhythm .mark")).not_to_have_count(0)
    context.close()


def test_without_script(browser: Browser, daemon: DaemonProcess) -> None:
    """A browser that runs no scripts says why nothing happens."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{daemon.url}test/")
    # Playwright's search by text passes over noscript.
    expect(page.locator("noscript p")).to_be_visible()
    assert "This page needs JavaScript" in page.locator("noscript p").inner_text()
    context.close()
