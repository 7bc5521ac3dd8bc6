"""The shipped pages: the start page, and the demo at /test/."""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from statistics import median

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from pushd import __version__
from tests.browser.conftest import stop_clock
from tests.support.daemon_process import DaemonProcess

# Records each state of the page.
RECORD_STATES = """
window.states = [];
new MutationObserver(() => states.push(document.documentElement.dataset.state))
  .observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
"""

# Records what the page shows each time that a message is added.
RECORD_LINES = """
window.lines = [];
new MutationObserver(() => {
  const count = document.querySelectorAll("#messages li").length;
  if (!count || count === lines.at(-1)?.count) return;
  const [reconnect, closing] = ["#reconnect", "#closing"].map((id) => document.querySelector(id));
  const { state } = document.documentElement.dataset;
  lines.push({ count, state, reconnect: !reconnect.disabled, closing: !closing.hidden });
}).observe(document, { subtree: true, childList: true });
"""

# Presses the button "Close now" once there are two messages.
CLOSE = """
new MutationObserver((_, observer) => {
  if (document.querySelectorAll("#messages li").length < 2) return;
  observer.disconnect();
  document.querySelector("#close").click();
}).observe(document, { subtree: true, childList: true });
"""

# Redirects every WebSocket of the page to a URL that has none, and disables fetch timeouts.
MISDIRECT = """
AbortSignal.timeout = () => new AbortController().signal;
const Real = WebSocket;
window.WebSocket = class extends Real {
  constructor(url) { super(new URL("/nowhere/", url)); }
};
"""


def read_messages(page: Page) -> list[tuple[str, float]]:
    """Return the messages, each with the milliseconds since the previous one."""
    lines = page.locator("#messages li")
    read = "lines => lines.map(({ dataset }) => [dataset.text, Number(dataset.gap)])"
    return [(text, gap) for text, gap in lines.evaluate_all(read)]


def wait_for_close(page: Page) -> None:
    """Wait until the page shows the close code."""
    page.locator("#closing[data-code]").wait_for()


def assert_demo(page: Page) -> None:
    """Check that the page shows all ten messages, at the right pace, and a clean close.

    No message may be early, even on a busy machine, and the median must not be late.
    """
    wait_for_close(page)
    messages = read_messages(page)
    assert [text for text, _ in messages] == [f"service message: {n}" for n in range(10)]
    gaps = [gap for _, gap in messages]
    assert all(moment > 500 * number - 50 for number, moment in enumerate(accumulate(gaps))), gaps
    assert median(gaps[1:]) < 600, gaps
    closing = page.locator("#closing")
    expect(closing).to_have_attribute("data-code", "1000")
    expect(closing).to_have_attribute("data-reason", "")
    expect(closing).to_have_attribute("data-clean", "true")
    expect(closing).to_contain_text("1000, normal closure")
    expect(page.locator("#state")).to_have_text("Closed")
    expect(page.locator("#trouble")).to_be_hidden()


def test_demo(page: Page, daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The start page links to the demo: ten pushes and a clean close, and again after Reconnect."""
    page.add_init_script(RECORD_STATES)
    page.add_init_script(RECORD_LINES)
    page.goto(daemon.url)
    page.get_by_role("link", name="Watch ten pushes").click()
    page.wait_for_url(f"{daemon.url}test/")
    assert_demo(page)
    expect(page.locator("#sent")).to_contain_text('["1","2","3"]')

    page.locator("#reconnect").press("Enter")
    page.wait_for_function("() => states.length === 6")
    assert_demo(page)
    # The button has the keyboard focus again.
    expect(page.locator("#reconnect")).to_be_focused()
    assert page.evaluate("states") == ["connecting", "open", "closed"] * 2
    # Each message was shown when it arrived, not all at the end.
    open_page = {"state": "open", "reconnect": False, "closing": False}
    assert page.evaluate("lines") == [{"count": n, **open_page} for n in range(1, 11)] * 2
    assert console_errors == []


def test_start_page(page: Page, daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The start page says which version runs, and each of its links leads to something."""
    page.goto(daemon.url)
    expect(page.locator("#version")).to_have_text(__version__)
    links = page.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert {f"{daemon.url}{path}" for path in ("test/", "topics.html", "pushd.js")} <= {*links}
    for link in links:
        assert link.startswith(daemon.url), link
        assert page.request.get(link).status == 200, link
    assert console_errors == []


def test_html_file(page: Page, daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The demo works at /test.html as well."""
    page.goto(f"{daemon.url}test.html")
    page.locator("#messages li").first.wait_for()
    assert console_errors == []


def test_close_button(page: Page, daemon: DaemonProcess, console_errors: list[str]) -> None:
    """The button Close now closes the WebSocket cleanly in the middle of the demo."""
    page.add_init_script(RECORD_STATES)
    page.add_init_script(CLOSE)
    page.goto(f"{daemon.url}test/")
    wait_for_close(page)
    assert len(read_messages(page)) == 2
    assert page.evaluate("states") == ["connecting", "open", "closing", "closed"]
    expect(page.locator("#closing")).to_have_attribute("data-clean", "true")
    expect(page.locator("#close")).to_be_disabled()
    assert console_errors == []


def test_shutdown(page: Page, endless_daemon: DaemonProcess) -> None:
    """After a shutdown the page shows 1001 and advice; then that the server is unreachable."""
    page.goto(f"{endless_daemon.url}test.html")
    page.locator("#messages li").nth(1).wait_for()
    endless_daemon.stop()
    wait_for_close(page)
    expect(page.locator("#closing")).to_have_attribute("data-code", "1001")
    expect(page.locator("#closing")).to_have_attribute("data-clean", "true")
    expect(page.locator("#trouble")).to_contain_text("being stopped or restarted")

    page.locator("#reconnect").click()
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text("The server could not be reached at")
    expect(trouble).to_contain_text(f"{endless_daemon.url.replace('http', 'ws')}test/")
    expect(page.locator("#closing")).to_have_attribute("data-code", "1006")
    expect(page.locator("#closing")).to_have_attribute("data-clean", "false")
    expect(page.locator("#sent")).to_be_hidden()
    expect(page.locator("#reconnect")).to_be_enabled()


def test_refused(page: Page, daemon: DaemonProcess) -> None:
    """If the server answers HTTP but opens no WebSocket, the page says so."""
    page.add_init_script(MISDIRECT)
    page.goto(f"{daemon.url}test/")
    expect(page.locator("#trouble")).to_contain_text("The server is running, but it did not open")
    expect(page.locator("#state")).to_have_text("Closed")


def test_messages_as_text(page: Page, daemon: DaemonProcess, console_errors: list[str]) -> None:
    """HTML in a message is shown as text; for a binary message the page shows its size."""
    html = "<img src=/nowhere onerror=alert(1)>"

    def serve(socket: WebSocketRoute) -> None:
        def answer(message: str | bytes) -> None:
            socket.send(html)
            socket.send(b"\0\1\2")

        socket.on_message(answer)

    page.route_web_socket(re.compile("/test/$"), serve)
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").nth(1).wait_for()
    assert [text for text, _ in read_messages(page)] == [html, "3 bytes"]
    expect(page.locator("#messages li").first).to_contain_text(html)
    expect(page.locator("#messages img")).to_have_count(0)
    assert console_errors == []


@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [
        (1001, "going away", "being stopped or restarted"),
        (1008, "policy violation", "the close reason says which"),
        (1011, "internal error", "A view failed inside the server"),
        (1013, "try again later", "overloaded"),
    ],
)
def test_advice(page: Page, daemon: DaemonProcess, code: int, name: str, advice: str) -> None:
    """The page names each close code of the server, and gives advice."""

    def serve(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: socket.close(code=code, reason="<b>because</b>"))

    page.route_web_socket(re.compile("/test/$"), serve)
    page.goto(f"{daemon.url}test/")
    wait_for_close(page)
    expect(page.locator("#closing")).to_contain_text(f"{code}, {name}")
    expect(page.locator("#reason")).to_have_text("<b>because</b>")
    expect(page.locator("#trouble")).to_contain_text(advice)


def test_timeline_range(page: Page, daemon: DaemonProcess) -> None:
    """The timeline extends its range if a message comes after its end."""
    stop_clock(page)
    sockets: list[WebSocketRoute] = []

    def serve(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.on_message(lambda _: socket.send("at once"))

    page.route_web_socket(re.compile("/test/$"), serve)
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").first.wait_for()
    page.clock.run_for(12_000)
    sockets[0].send("later")
    page.locator("#messages li").nth(1).wait_for()
    labels = page.locator("#timeline text").all_text_contents()
    assert labels == ["0 s", "4 s", "8 s", "12 s", "16 s", "20 s"]
    marks = page.locator("#timeline .mark").evaluate_all(
        "marks => marks.map(mark => Number.parseFloat(mark.getAttribute('cx')))"
    )
    assert marks[0] == pytest.approx(3, abs=2)
    assert marks[1] == pytest.approx(3 + 94 * 12 / 20, abs=2)


def test_websocket_url(page: Page, daemon: DaemonProcess) -> None:
    """webSocketURL() resolves a path against the page; wss: if the page came over https:."""
    page.goto(daemon.url)
    urls = page.evaluate(
        """async () => {
          const { webSocketURL } = await import("/pushd.js");
          return [
            webSocketURL("/test/"),
            webSocketURL("/test/?a=1", "https://example.org/deep/page#part"),
            webSocketURL("#part", "http://[::1]:8080/test/"),
          ];
        }"""
    )
    assert urls == [
        f"{daemon.url.replace('http', 'ws')}test/",
        "wss://example.org/test/?a=1",
        "ws://[::1]:8080/test/",
    ]


@pytest.mark.parametrize("path", ["", "test/", "test.html"])
def test_policy(page: Page, daemon: DaemonProcess, console_errors: list[str], path: str) -> None:
    """A page loads only from its own origin, and inline scripts are blocked."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    response = page.goto(daemon.url + path)
    assert response is not None
    assert "default-src 'self'" in (response.header_value("content-security-policy") or "")
    assert response.header_value("content-type") == "text/html; charset=utf-8"
    page.wait_for_load_state("networkidle")
    assert urls
    assert [url for url in urls if not url.startswith(daemon.url)] == []
    assert console_errors == []

    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
        }"""
    )
    assert page.evaluate("window.ran") is None
    assert "Content Security Policy" in console_errors[0]


@pytest.mark.parametrize("path", ["", "test/"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Browser, daemon: DaemonProcess, path: str, scheme: str) -> None:
    """On a phone nothing overflows, and links and buttons are at least 44 px high."""
    context = browser.new_context(
        viewport={"width": 360, "height": 640},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(daemon.url + path)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for height in page.locator("a, button").evaluate_all(
        "elements => elements.map(element => element.getBoundingClientRect().height)"
    ):
        assert height >= 44
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)) / 3
    assert (brightness < 64) if scheme == "dark" else (brightness > 192)
    context.close()


def test_keyboard(page: Page, daemon: DaemonProcess) -> None:
    """Tab moves the focus from top to bottom, and the focused element is outlined."""
    page.route_web_socket(re.compile("/test/$"), lambda socket: socket.close(code=1000))
    page.goto(f"{daemon.url}test/")
    wait_for_close(page)
    tops = []
    for name in ("pushd", "Reconnect"):
        page.keyboard.press("Tab")
        focused = page.locator(":focus-visible")
        expect(focused).to_have_accessible_name(name)
        assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        tops.append(focused.evaluate("element => element.getBoundingClientRect().top"))
    assert all(above < below for above, below in pairwise(tops))


def test_screen_reader(page: Page, daemon: DaemonProcess) -> None:
    """The state and the messages are live regions with accessible names."""

    def serve(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: socket.send("service message: 0"))

    page.route_web_socket(re.compile("/test/$"), serve)
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").first.wait_for()
    expect(page.get_by_role("status")).to_have_text("Connection: Open")
    log = page.get_by_role("log", name="Messages")
    expect(log).to_have_attribute("aria-live", "polite")
    expect(log.get_by_role("listitem").first).to_contain_text("service message: 0")
    assert page.locator("html").get_attribute("lang") == "en"


def test_reduced_motion(browser: Browser, daemon: DaemonProcess) -> None:
    """With reduced motion nothing is animated; the timeline still shows its dots."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{daemon.url}test/")
    page.locator("#messages li").nth(1).wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
    expect(page.locator("#timeline .mark")).not_to_have_count(0)
    context.close()


def test_without_script(browser: Browser, daemon: DaemonProcess) -> None:
    """Without scripts, the page says that it needs JavaScript."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{daemon.url}test/")
    # Playwright's text locators ignore noscript.
    expect(page.locator("noscript p")).to_be_visible()
    assert "This page needs JavaScript" in page.locator("noscript p").inner_text()
    context.close()
