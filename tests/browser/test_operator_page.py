"""The operator's page: its numbers, search, buttons and forms; read-only, off, and by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from pushd.access.keys import read_signing_key
from pushd.access.tokens import make_token
from tests.browser.conftest import assert_clean_exit
from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parent.parent.parent

# What "make browser" has installed.
AXE = ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"

# Seconds for single requests.
PATIENCE = 60

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")

RULES = """
[[topic]]
match = "chat/**"
presence = true
history-size = 3

[[topic]]
match = "prices/*"
latest = true
max-message = "4KiB"
"""

# What is shown for a number that is not known: a dash.
NONE = "\N{EN DASH}"

# Records what the Content-Security-Policy has kept from happening.
RECORD_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
  violations.push(`${violatedDirective} ${blockedURI}`);
});
"""


class Site:
    """A daemon with a control port, tokens and rules, and clients of it."""

    def __init__(self, folder: Path, *args: str) -> None:
        (folder / "key").write_text("k" * 40)
        (folder / "pushd.toml").write_text(RULES)
        self._key = read_signing_key(str(folder / "key"))
        options = ["--config", "pushd.toml", "--token-key", "key", *CONTROL, *args]
        self.daemon = DaemonProcess(options, directory=folder)
        self._clients = ExitStack()

    def __enter__(self) -> Site:
        self.daemon.__enter__()
        self.url = control_url_of(self.daemon)
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.close()
        self.daemon.stop()
        assert_clean_exit(self.daemon)

    def subscribe(self, topic: str, subject: str) -> ClientConnection:
        """Open a WebSocket of a subject."""
        claims = {"sub": subject, "exp": int(time()) + 600, "subscribe": ["**"]}
        token = make_token(self._key, claims)
        url = f"{self.daemon.url.replace('http', 'ws')}topics/{topic}?token={token}"
        return self._clients.enter_context(connect(url))

    def watch_demo(self) -> ClientConnection:
        """Open the demo's WebSocket, and let it push."""
        url = f"{self.daemon.url.replace('http', 'ws')}test/"
        client = self._clients.enter_context(connect(url))
        client.send('["1","2","3"]')
        return client

    def ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Any:
        """Send a request to the control port; return the JSON of the answer, if it has any."""
        request = Request(f"{self.url}{path}", data, headers, method=method)
        with urlopen(request, timeout=PATIENCE) as answer:
            content = answer.read()
        return json.loads(content) if content else None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a daemon whose page has buttons."""
    with Site(tmp_path_factory.mktemp("operator")) as site:
        yield site


@pytest.fixture(autouse=True)
def no_violations(
    request: pytest.FixtureRequest, page: Page, console_errors: list[str]
) -> Iterator[None]:
    """Fail for each violation of the page's policy, and each error in the console."""
    page.add_init_script(RECORD_VIOLATIONS)
    yield
    if page.url != "about:blank":
        assert page.evaluate("violations") == []
    has_refusals = request.function in (test_publish, test_lost, test_view, test_off)
    assert [one for one in console_errors if not (has_refusals and REFUSAL.search(one))] == []


# What browsers log of refusals, and of a daemon that has ended, which some tests cause.
REFUSAL = re.compile("Failed to load resource|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION")


def open_section(page: Page, site: Site, name: str = "Overview") -> None:
    """Open the page, and one of its sections."""
    page.goto(site.url)
    expect(page.locator("#live")).to_have_text("Live")
    if name != "Overview":
        page.get_by_role("navigation").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def fact(page: Page, section: str, term: str) -> Locator:
    """Return the text beside a term, in the section with a title."""
    region = page.get_by_role("region", name=section, exact=True)
    return region.locator("dl > div").filter(has=page.get_by_text(term, exact=True)).locator("dd")


def counts(page: Page, table: str, row: str) -> list[str]:
    """Return the numbers of a row: what is new, and in all."""
    found = page.locator(f"#{table} tr").filter(has_text=row).locator("td")
    found.first.wait_for()
    return found.all_text_contents()


def axe(page: Page) -> list[str]:
    """Return what axe-core finds wrong with the page as it is shown."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {', '.join(node['html'] for node in one['nodes'])}"
        for one in found["violations"]
    ]


def test_numbers(page: Page, site: Site) -> None:
    """Connections, deliveries, percentiles, memory, refusals and closes are up to date."""
    open_section(page, site)
    expect(page.locator("#host")).to_have_text(site.url.removeprefix("http://").rstrip("/"))
    expect(page).to_have_title(re.compile("Overview · 127.0.0.1:[0-9]+ · pushd"))
    expect(fact(page, "Connections", "WebSocket")).to_have_text("0")
    clients = [site.subscribe("prices/a", "ann") for _ in range(3)]
    expect(fact(page, "Connections", "WebSocket")).to_have_text("3")
    expect(fact(page, "Connections", "Limit")).to_have_text("10,000")
    expect(fact(page, "Deliveries", "Subscriptions")).to_have_text("3")
    for _ in range(5):
        site.ask("POST", "topics/prices/a", b"1")
    for client in clients:
        client.recv(PATIENCE)
    expect(fact(page, "Deliveries", "Deliveries in all")).not_to_have_text("0")
    expect(page.locator("#figures .big").nth(1)).not_to_have_text("0")
    expect(fact(page, "Time to publish", "Median")).to_have_text(re.compile(" (ms|s)$"))
    expect(fact(page, "Push lateness", "Median")).to_have_text(NONE)
    site.watch_demo().recv(PATIENCE)
    expect(fact(page, "Push lateness", "Median")).to_have_text(re.compile(" (ms|s)$"))
    expect(fact(page, "Push lateness", "Measurements")).not_to_have_text("0")
    expect(fact(page, "Reactor lag", "Median")).to_have_text(re.compile(" (ms|s)$"))
    expect(fact(page, "Memory", "History")).not_to_have_text("0 B")
    expect(page.locator("#figures .big").nth(5)).to_have_text(re.compile("MiB$"))
    for drawing in page.locator("#figures").get_by_role("img").all():
        expect(drawing).to_have_attribute("aria-label", re.compile("last two minutes, at most"))
        expect(drawing.locator(".line.first")).to_have_attribute("d", re.compile("^M.*L"))

    clients[0].close(1000)
    expect(fact(page, "Connections", "WebSocket")).to_have_text("3")  # One is the demo's.
    assert counts(page, "closed", "1000: normal") == ["1", "1"]
    with pytest.raises(HTTPError, match="403"):
        site.ask("GET", "metrics", Origin="http://evil.example")
    assert counts(page, "refused", "forbidden") == ["1", "1"]
    expect(fact(page, "Health", "Publishing")).to_have_text("possible")
    assert counts(page, "troubles", "Views that failed") == ["0", "0"]


def test_quantiles(page: Page, site: Site) -> None:
    """Rates and quantiles are those of Prometheus, of what was counted in the span."""
    open_section(page, site)
    found = page.evaluate(
        """async () => {
          const { History } = await import("/operator/series.js");
          const history = new History();
          const bucket = (le) => `h_bucket{le="${le}"}`;
          const empty = { [bucket("0.1")]: 5, [bucket("1.0")]: 5, [bucket("+Inf")]: 5, n_total: 7 };
          history.add(100, empty);
          const none = [history.quantile("h", 0.5, 60), history.rate("n_total", 1)];
          history.add(110, { [bucket("0.1")]: 7, [bucket("1.0")]: 9, [bucket("+Inf")]: 10 });
          history.add(120, { n_total: 27 });
          const quantile = (share) => history.quantile("h", share, 60);
          const shares = [0.2, 0.4, 0.5, 0.8, 0.99].map(quantile);
          history.add(300, {});
          return { none, shares, rate: [history.rate("n_total", 60), history.snapshots.length] };
        }"""
    )
    assert found["none"] == [None, None]
    # Two up to 0.1 s, two more up to 1 s, and one above.
    assert found["shares"] == pytest.approx([0.05, 0.1, 0.325, 1, 1])
    # What is older than two minutes is dropped, so there is nothing to compare with.
    assert found["rate"] == [None, 1]


def test_topics(page: Page, site: Site) -> None:
    """Topics are found by name, and show their rule, who is present, and what they have kept."""
    for number in range(4):
        site.ask("POST", "topics/chat/7", f"<b>{number}</b>".encode())
    site.ask("POST", "topics/other", b"x")
    for subject in ("ann", "ann", "<i>bob</i>"):
        site.subscribe("chat/7", subject)
    open_section(page, site, "Topics")
    rows = page.locator("#topic-rows > tr:visible")
    page.get_by_label("Name contains").fill("CHAT")
    expect(rows).to_have_count(1)
    expect(page.locator("#topics-count")).to_have_text("1 topic")
    expect(rows.locator("td").first).to_have_text("3")
    page.get_by_role("button", name="chat/7").click()
    details = page.locator(".details")
    for line in ("Rulechat/**", "Keeps3 for 5 min", "Present2 subjects, 3 connections"):
        expect(details).to_contain_text(line)
    expect(details.get_by_role("listitem")).to_have_text(["<i>bob</i>", "ann (2)"])
    # Their content is not even asked for before that.
    assert page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)") != []
    assert not page.evaluate(
        "performance.getEntriesByType('resource').some(({ name }) => name.includes('publications'))"
    )
    page.get_by_role("button", name="Show the last publications").click()
    expect(details.locator("pre")).to_have_text(["<b>3</b>", "<b>2</b>", "<b>1</b>"])
    expect(details.locator("b, i")).to_have_count(0)
    expect(page.locator("#rule-rows tr")).to_have_count(3)
    expect(page.locator("#rule-rows")).to_contain_text("prices/*")
    # It stays open, and has the focus, while the list is refreshed.
    page.get_by_role("button", name="chat/7").focus()
    site.subscribe("chat/7", "eve")
    expect(rows.first.locator("td").first).to_have_text("4")
    expect(page.get_by_role("button", name="chat/7")).to_be_focused()
    expect(details.locator("pre")).to_have_count(3)
    assert axe(page) == []
    page.get_by_role("link", name="Publish to it").click()
    expect(page.get_by_role("textbox", name="Topic")).to_have_value("chat/7")


def test_connections(page: Page, site: Site) -> None:
    """Connections are found by peer, path and subject; one is closed with a code and a reason."""
    clients = {name: site.subscribe(f"to/{name}", name) for name in ("carl", "dora", "dot")}
    open_section(page, site, "Connections")
    rows = page.locator("#connection-rows tr")
    page.get_by_label("Subject").fill("D")
    page.get_by_label("Path").fill("/to/")
    expect(rows).to_have_count(2)
    expect(page.locator("#connections-count")).to_have_text("2 connections")
    page.get_by_label("Path").fill("/to/dot")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("/topics/to/dot")
    page.get_by_label("Subject").fill("")
    page.get_by_label("Path").fill("")
    port = clients["carl"].socket.getsockname()[1]
    page.get_by_label("Peer").fill(f"127.0.0.1:{port}")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("carl")
    page.get_by_label("Transport").select_option("sse")
    expect(page.locator("#connections-count")).to_have_text("0 connections")
    page.get_by_label("Transport").select_option("")
    expect(rows).to_have_count(1)

    button = rows.get_by_role("button", name=re.compile("Close connection [0-9]+"))
    button.click()
    expect(page.get_by_role("dialog")).to_contain_text("/topics/to/carl, subject carl")
    assert axe(page) == []
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(button).to_be_focused()
    button.click()
    page.get_by_label("Code").select_option("1001")
    page.get_by_label("Reason").fill("moved: <b>")
    page.get_by_role("button", name="Close it").click()
    with pytest.raises(ConnectionClosed) as closed:
        clients["carl"].recv(PATIENCE)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "moved: <b>")
    expect(rows).to_have_count(0)
    # The button is gone: the focus stays in the table.
    expect(
        page.get_by_role("region", name="List of connections").locator(":scope:focus")
    ).to_have_count(1)


def test_many(page: Page, site: Site) -> None:
    """Of ten thousand connections a hundred are shown, and how many there are."""
    listed = [
        {
            "id": number,
            "transport": "websocket",
            "peer": f"192.0.2.1:{number}",
            "path": "/topics/t",
            "since": "2026-01-01T00:00:00.000+00:00",
            "subject": None,
            "messages_in": 0,
            "bytes_in": 0,
            "messages_out": 1,
            "bytes_out": 2048,
            "topics": 3,
        }
        for number in range(1, 101)
    ]
    answer = {"connections": listed, "more": True, "total": 10_000}
    asked: list[str] = []

    def serve(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(json=answer)

    page.route(re.compile(r"/connections\?"), serve)
    open_section(page, site, "Connections")
    status = page.locator("#connections-count")
    expect(status).to_have_text("10,000 connections, the oldest 100 are shown")
    expect(page.locator("#connection-rows tr")).to_have_count(100)
    expect(page.locator("#connection-rows tr").first).to_contain_text("/topics/t (3 topics)")
    assert all(url.endswith("limit=100") for url in asked)


def test_schedules(page: Page, site: Site) -> None:
    """Timed pushes are listed with how far they are, and one is cancelled."""
    name = site.ask("POST", "topics/later?delay=600&every=2.5&count=4", b"x")["schedule"]
    other = site.ask("POST", "topics/later?delay=900", b"x")["schedule"]
    open_section(page, site, "Timed pushes")
    rows = page.locator("#schedule-rows tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(re.compile("later0 of 42.5 s.*" + name))
    expect(rows.last).to_contain_text("0 of 1once")
    page.get_by_role("button", name=f"Cancel {name}").click()
    expect(page.get_by_role("dialog").get_by_label("Code")).to_be_hidden()
    page.get_by_role("button", name="Cancel it").click()
    expect(rows).to_have_count(1)
    expect(page.locator("#schedules-count")).to_have_text("1 timed push")
    assert [one["schedule"] for one in site.ask("GET", "schedules")["schedules"]] == [other]
    site.ask("DELETE", f"schedules/{other}")
    expect(rows).to_have_count(0)


def test_publish(page: Page, site: Site) -> None:
    """The form publishes text and JSON, with an event, at once or later; it shows refusals."""
    client = site.subscribe("form/1", "ann")
    open_section(page, site, "Publish")
    page.get_by_role("textbox", name="Topic").fill("form/1")
    page.get_by_label("Data", exact=True).fill("Grüße\n<b>")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#published")).to_have_text(
        re.compile("^Published as [0-9a-f]+:1 to 1 subscriber$")
    )
    assert client.recv(PATIENCE) == "Grüße\n<b>"

    page.get_by_label("Type").select_option("JSON")
    page.get_by_label("Data", exact=True).fill("{")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#unpublished")).to_contain_text("JSON")
    expect(page.locator("#published")).to_have_text("")
    page.get_by_label("Data", exact=True).fill('{"n": 1}')
    page.get_by_role("textbox", name="Event").fill("changed")
    page.get_by_role("button", name="Publish", exact=True).click()
    assert client.recv(PATIENCE) == '{"n": 1}'
    expect(page.locator("#unpublished")).to_be_hidden()
    [kept, _] = site.ask("GET", "publications?topic=form/1")["publications"]
    assert kept["event"] == "changed"

    page.get_by_text("Later, or repeatedly").click()
    page.get_by_label("After seconds").fill("600")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator("#published")).to_contain_text("Scheduled as")
    [schedule] = site.ask("GET", "schedules")["schedules"]
    assert schedule["topic"] == "form/1"
    site.ask("DELETE", f"schedules/{schedule['schedule']}")
    assert axe(page) == []


def test_keyboard(page: Page, site: Site) -> None:
    """Everything can be reached and used with the keyboard, and the focus is always visible."""
    client = site.subscribe("keys/1", "kim")
    open_section(page, site)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("button", name="Pause").focus()
    for name in ("Overview", "Topics", "Connections"):
        page.keyboard.press("Tab")
        focused = page.get_by_role("navigation").get_by_role("link", name=name)
        expect(focused).to_be_focused()
        assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Connections")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.type("kim")
    expect(page.locator("#connection-rows tr")).to_have_count(1)
    # The transport, the table, which can be scrolled, and the button.
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Close connection")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Code")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(PATIENCE)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "closed by an operator")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_accessible(browser: Browser, site: Site, scheme: Any, width: int) -> None:
    """No section has what axe-core objects to, and none is wider than a phone."""
    site.ask("POST", "topics/a11y?delay=600", b"x")
    client = site.subscribe("a11y", "ann")
    viewport: Any = {"width": width, "height": 800}
    context = browser.new_context(color_scheme=scheme, viewport=viewport)
    page = context.new_page()
    for name in ("Overview", "Topics", "Connections", "Timed pushes", "Publish"):
        open_section(page, site, name)
        if name in ("Topics", "Connections", "Timed pushes"):
            expect(page.locator("main > section:visible tbody tr:visible").first).to_be_visible()
        assert axe(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    context.close()
    client.close()
    for one in site.ask("GET", "schedules")["schedules"]:
        site.ask("DELETE", f"schedules/{one['schedule']}")


def test_pause(page: Page, site: Site) -> None:
    """While it is paused, the page asks for nothing, and its numbers stand still."""
    open_section(page, site)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#live")).to_have_text("Paused")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    shown = fact(page, "Connections", "WebSocket")
    before = int(shown.inner_text())
    client = site.subscribe("pause/1", "ann")
    # The stream is closed, so the daemon measures nothing.
    site.daemon.wait_for(r"GET /snapshots (left|200)")
    expect(shown).to_have_text(f"{before}")
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.locator("#live")).to_have_text("Live")
    expect(shown).not_to_have_text(f"{before}")
    client.close()


def test_lost(page: Page, tmp_path: Path) -> None:
    """The page says that the daemon is gone, and goes on by itself once it is back."""
    port = "--control"
    with Site(tmp_path) as site:
        open_section(page, site)
        address = site.url.removeprefix("http://").rstrip("/").replace("127.0.0.1:", "")
    expect(page.locator("#live")).to_have_text("Connection lost, trying again")
    expect(page.locator("html")).to_have_attribute("data-state", "lost")
    with Site(tmp_path, port, f"tcp:{address}:interface=127.0.0.1") as site:
        expect(page.locator("#live")).to_have_text("Live")
        client = site.subscribe("t", "ann")
        expect(fact(page, "Connections", "WebSocket")).to_have_text("1")
        client.close()
        page.goto("about:blank")


def test_view(page: Page, tmp_path: Path) -> None:
    """With ``view`` there are no buttons, and the port refuses what a page would change."""
    with Site(tmp_path, "--control-page", "view") as site:
        client = site.subscribe("view/1", "ann")
        schedule = site.ask("POST", "topics/view/2?delay=600", b"x")["schedule"]
        open_section(page, site)
        expect(page.get_by_text("Read-only", exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="Publish")).to_have_count(0)
        page.get_by_role("link", name="Connections").click()
        expect(page.locator("#connection-rows")).to_contain_text("view/1")
        expect(page.locator("#connection-rows").get_by_role("button")).to_have_count(0)
        page.get_by_role("link", name="Timed pushes").click()
        expect(page.locator("#schedule-rows")).to_contain_text(schedule)
        expect(page.locator("#schedule-rows").get_by_role("button")).to_have_count(0)
        page.goto(f"{site.url}#publish")
        expect(page.get_by_role("button", name="Publish")).to_have_count(0)
        expect(page.get_by_text("The page is read-only")).to_be_visible()
        statuses = page.evaluate(
            """async (schedule) => {
              const ask = async (method, path) => (await fetch(path, { method })).status;
              return [
                await ask("POST", "/topics/view/1"),
                await ask("DELETE", "/connections/1"),
                await ask("DELETE", `/schedules/${schedule}`),
                await ask("DELETE", "/subscriptions?topic=**"),
                await ask("GET", "/topics"),
              ];
            }""",
            schedule,
        )
        assert statuses == [403, 403, 403, 403, 200]
        # Programs are not concerned.
        assert site.ask("POST", "topics/view/1", b"from a program")["subscribers"] == 1
        assert client.recv(PATIENCE) == "from a program"
        page.goto("about:blank")


def test_off(page: Page, tmp_path: Path) -> None:
    """With ``off`` there is no page: one line says which option it is."""
    with Site(tmp_path, "--control-page", "off") as site:
        answer = page.goto(site.url)
        assert answer is not None
        assert answer.status == 404
        assert "--control-page is off" in answer.text()
        assert site.ask("POST", "topics/t", b"x")["subscribers"] == 0


def test_other_origins(page: Page, site: Site) -> None:
    """A page of another origin, such as the public port's, changes and reads nothing."""
    client = site.subscribe("safe/1", "ann")
    page.goto(site.daemon.url)
    # Without the policy of that page, which would not let it try.
    context = page.context.browser
    assert context is not None
    free = context.new_context(bypass_csp=True)
    other = free.new_page()
    other.goto(site.daemon.url)
    results = other.evaluate(
        """async (url) => {
          const ask = (path, options) => fetch(url + path, options).then(
            ({ status, type }) => `${status} ${type}`,
            () => "failed",
          );
          const stream = new EventSource(`${url}snapshots`);
          const streamed = await new Promise((resolve) => {
            stream.onerror = () => resolve("failed");
            stream.onmessage = () => resolve("open");
            stream.addEventListener("about", () => resolve("open"));
          });
          stream.close();
          return [
            await ask("topics/safe/1", { method: "POST", body: "x" }),
            await ask("topics/safe/1", { method: "POST", body: "x", mode: "no-cors" }),
            await ask("subscriptions?topic=**", { method: "DELETE" }),
            await ask("topics"),
            streamed,
          ];
        }""",
        site.url,
    )
    free.close()
    assert results == ["failed", "0 opaque", "failed", "failed", "failed"]
    assert site.ask("GET", "topics/safe/1")["history"] == 0
    # A frame would let a foreign page have its visitor click on buttons.
    page.goto(site.url)
    assert site.ask("GET", "connections?subject=ann&path=safe")["total"] == 1
    client.close()
