"""Topics in a real browser: the three transports, a bad network, and the page that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE, assert_ended_in_order, stop_clock
from tests.browser.middleman import EVENT_STREAM, WEBSOCKET, Middleman
from tests.daemon_process import DaemonProcess

TRANSPORTS = ["websocket", "sse", "longpoll"]

# Subscribes in the page: what came, and the states that were told, are to be had by these names.
SUBSCRIBE = """
async ([url, options]) => {
  const { subscribe } = await import("/pushd.js");
  window.publications = [];
  window.states = [];
  window.handle = subscribe(url, ({ id, data }) => {
    publications.push(typeof data === "string" ? data : Array.from(data));
  }, { ...options, onState: (state) => states.push(state) });
}
"""


class Publisher:
    """A program that publishes at a daemon's control port."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._door = daemon.wait_for(r"control port at (http://\S+)")[1]

    def publish(self, topic: str, data: str | bytes) -> str:
        """Publish, and give the id."""
        kind = "application/octet-stream" if isinstance(data, bytes) else "text/plain"
        body = data if isinstance(data, bytes) else data.encode()
        request = Request(f"{self._door}topics/{topic}", body, {"Content-Type": kind})
        with urlopen(request, timeout=PATIENCE / 1000) as answer:
            return str(json.load(answer)["id"])

    def subscribers(self, topic: str) -> dict[str, int]:
        """How many listen, by transport."""
        with urlopen(f"{self._door}topics/{topic}", timeout=PATIENCE / 1000) as answer:
            return dict(json.load(answer)["subscribers"])

    def wait_for(self, topic: str, transport: str | None) -> None:
        """Wait until one listens, by this transport, and nobody else; or nobody at all."""
        expected = {transport: 1} if transport else {}
        deadline = monotonic() + PATIENCE / 1000
        while (listening := self.subscribers(topic)) != expected:
            assert monotonic() < deadline, listening
            sleep(0.02)


def start_daemon(directory: Path) -> DaemonProcess:
    """Make a daemon whose control port is open as well."""
    return DaemonProcess(["--control", "tcp:0:interface=127.0.0.1"], directory=directory)


@pytest.fixture(scope="module")
def topics_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon as it is shipped, with both ports."""
    with start_daemon(tmp_path_factory.mktemp("topics")) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


@pytest.fixture
def publisher(topics_daemon: DaemonProcess) -> Publisher:
    """Give the control port of the daemon."""
    return Publisher(topics_daemon)


@pytest.fixture
def network(topics_daemon: DaemonProcess) -> Iterator[Middleman]:
    """Put a network in front of the daemon."""
    with Middleman(topics_daemon.url) as network:
        yield network


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """Give each test a topic of its own."""
    return re.sub(r"[^a-z0-9]+", "-", str(request.node.name).lower())


def subscribe(page: Page, url: str, topic: str, **options: Any) -> None:
    """Open the front page there, and subscribe from it."""
    page.goto(url)
    page.evaluate(SUBSCRIBE, [f"/topics/{topic}", options])


def wait_for_state(page: Page, *states: str) -> Any:
    """Wait until the subscription is in one of the states, and give it."""
    state = page.wait_for_function(
        "(names) => names.includes(handle.state.state) && handle.state", arg=states
    )
    return state.json_value()


def wait_for_publications(page: Page, expected: list[Any]) -> None:
    """Wait until so many publications have come, and prove that it is these, in this order."""
    page.wait_for_function("(count) => publications.length >= count", arg=len(expected))
    assert page.evaluate("publications") == expected


def names_of(page: Page) -> list[str]:
    """Give the names of the states that were told."""
    return list(page.evaluate("states.map(({ state }) => state)"))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_publications(
    page: Page,
    network: Middleman,
    publisher: Publisher,
    topic: str,
    transport: str,
    complaints: list[str],
) -> None:
    """Over each transport text and bytes come as they were published, whatever is in them."""
    subscribe(page, network.url, topic, transports=[transport])
    state = wait_for_state(page, "open")
    assert (state["transport"], state["recovered"]) == (transport, True)
    said = [
        "hello",
        "",
        "two\nlines\n",
        "a\r\nb\rc",
        '{"a": "b"}',
        " žluťoučký 🐎\u2028",
        "\0",
        "\ufeffx",
    ]
    for text in said:
        publisher.publish(topic, text)
    last = publisher.publish(topic, bytes(range(256)))
    wait_for_publications(page, [*said, list(range(256))])
    assert page.evaluate("handle.id") == last
    assert publisher.subscribers(topic) in ({transport: 1}, {})
    assert names_of(page) == ["connecting", "open"]

    page.evaluate("handle.close()")
    state = page.evaluate("handle.state")
    assert state == {"state": "closed", "code": 1000, "reason": "the page left"}
    publisher.publish(topic, "unheard")
    publisher.wait_for(topic, None)
    page.wait_for_timeout(300)
    assert page.evaluate("publications.length") == len(said) + 1
    assert complaints == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_cut(
    page: Page, network: Middleman, publisher: Publisher, topic: str, transport: str
) -> None:
    """Whoever is cut off, and finds nobody for a while, comes back without loss or repeat."""
    subscribe(page, network.url, topic, transports=[transport])
    wait_for_state(page, "open")
    publisher.publish(topic, "before")
    wait_for_publications(page, ["before"])

    network.unreachable = True
    network.cut()
    wait_for_state(page, "waiting")
    first = page.evaluate("states.find(({ state }) => state === 'waiting').seconds")
    assert 0 <= first <= 0.5
    for number in range(5):
        publisher.publish(topic, f"meanwhile {number}")
    page.wait_for_function("() => states.filter(({ state }) => state === 'waiting').length >= 3")
    network.unreachable = False
    state = wait_for_state(page, "open")
    assert state["recovered"] is True
    publisher.publish(topic, "after")
    wait_for_publications(
        page, ["before", *(f"meanwhile {number}" for number in range(5)), "after"]
    )


def test_many_cuts(page: Page, network: Middleman, publisher: Publisher, topic: str) -> None:
    """A connection that breaks again and again, over one transport and another, loses nothing."""
    subscribe(page, network.url, topic)
    wait_for_state(page, "open")
    network.refused = {WEBSOCKET: b"400 Bad Request"}
    for number in range(60):
        publisher.publish(topic, str(number))
        if number % 10 == 5:
            network.cut()
        if number == 30:
            network.refused[EVENT_STREAM] = b"502 Bad Gateway"
        page.wait_for_timeout(40)
    wait_for_publications(page, [str(number) for number in range(60)])
    assert page.evaluate("states.every((state) => state.recovered !== false)")


def test_fallback(page: Page, network: Middleman, publisher: Publisher, topic: str) -> None:
    """Where WebSockets do not get through it is events, and long polling where these do not."""
    network.refused = {WEBSOCKET: b"400 Bad Request"}
    subscribe(page, network.url, topic)
    assert wait_for_state(page, "open")["transport"] == "sse"
    assert names_of(page) == ["connecting", "connecting", "open"]
    publisher.publish(topic, "by event")
    wait_for_publications(page, ["by event"])

    network.refused[EVENT_STREAM] = b"502 Bad Gateway"
    network.cut()
    publisher.publish(topic, "by poll")
    wait_for_publications(page, ["by event", "by poll"])
    assert wait_for_state(page, "open")["transport"] == "longpoll"
    # What was found out is not tried again at each turn.
    assert network.count(WEBSOCKET) == 1
    publisher.wait_for(topic, "longpoll")


def test_fallback_ends(page: Page, network: Middleman, publisher: Publisher, topic: str) -> None:
    """After a while a better transport gets a new chance, when a connection is due anyway."""
    stop_clock(page)
    network.refused = {WEBSOCKET: b"400 Bad Request"}
    subscribe(page, network.url, topic)
    assert wait_for_state(page, "open")["transport"] == "sse"
    network.refused = {}
    page.clock.fast_forward(30_000)
    network.cut()
    wait_for_state(page, "waiting")
    page.clock.run_for(1000)
    assert wait_for_state(page, "open")["transport"] == "sse"
    page.clock.fast_forward(31_000)
    network.cut()
    wait_for_state(page, "waiting")
    page.clock.run_for(1000)
    assert wait_for_state(page, "open")["transport"] == "websocket"


def test_silent_network(page: Page, network: Middleman, topic: str) -> None:
    """Where WebSockets are swallowed without a word, it is events after ten seconds."""
    stop_clock(page)
    network.silent = {WEBSOCKET}
    subscribe(page, network.url, topic)
    page.clock.run_for(9000)
    assert page.evaluate("handle.state.transport") == "websocket"
    page.clock.run_for(1500)
    assert wait_for_state(page, "open")["transport"] == "sse"


def test_bad_luck(page: Page, network: Middleman, topic: str) -> None:
    """A WebSocket that worked before is not given up for one that did not."""
    stop_clock(page)
    subscribe(page, network.url, topic)
    wait_for_state(page, "open")
    network.refused = {WEBSOCKET: b"503 Service Unavailable"}
    network.cut()
    wait_for_state(page, "waiting")
    page.clock.run_for(1000)
    page.wait_for_function("() => states.filter(({ state }) => state === 'waiting').length === 2")
    network.refused = {}
    page.clock.run_for(1000)
    assert wait_for_state(page, "open")["transport"] == "websocket"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_refused(page: Page, topics_daemon: DaemonProcess, transport: str) -> None:
    """What is refused for good is not asked for again, and the page hears why."""
    subscribe(page, topics_daemon.url, "no%20topic", transports=[transport])
    state = wait_for_state(page, "closed")
    assert state["code"] == 400
    assert "a topic has 1 to 255 letters" in state["reason"]
    assert names_of(page) == ["connecting", "closed"]


def test_busy(page: Page, network: Middleman, topic: str) -> None:
    """A server that is busy is asked again."""
    network.refused = {b"wait=0": b"429 Too Many Requests"}
    subscribe(page, network.url, topic, transports=["longpoll"])
    wait_for_state(page, "waiting")
    network.refused = {}
    wait_for_state(page, "open")


# Lets a test reach the page's latest WebSocket as `last`.
KEEP_LAST = """
window.opened = 0;
const Real = WebSocket;
window.WebSocket = class extends Real {
  constructor(...given) { super(...given); window.opened += 1; window.last = this; }
};
"""

END = "([code, reason]) => last.onclose({ code, reason, wasClean: true })"


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 4000])
def test_close(page: Page, topics_daemon: DaemonProcess, topic: str, code: int) -> None:
    """A close with any code but one is a reason to come back."""
    page.add_init_script(KEEP_LAST)
    subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    page.evaluate(END, [code, ""])
    page.wait_for_function("() => opened === 2")
    wait_for_state(page, "open")


def test_policy_violation(page: Page, topics_daemon: DaemonProcess, topic: str) -> None:
    """A close with 1008 is the end, and the page hears why."""
    page.add_init_script(KEEP_LAST)
    subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    page.evaluate(END, [1008, "the token ran out"])
    assert page.evaluate("handle.state") == {
        "state": "closed",
        "code": 1008,
        "reason": "the token ran out",
    }
    page.wait_for_timeout(1500)
    assert page.evaluate("opened") == 1


def test_policy_violation_of_the_daemon(
    page: Page, topics_daemon: DaemonProcess, topic: str
) -> None:
    """The daemon's own 1008 is understood."""
    page.add_init_script(KEEP_LAST)
    subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    # A thousand more may come for each second that it takes.
    page.evaluate("for (let n = 0; n < 60_000; n += 1) last.send('')")
    state = wait_for_state(page, "closed")
    assert (state["code"], state["reason"]) == (1008, "too many messages")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_restart(page: Page, tmp_path: Path, topic: str, transport: str) -> None:
    """A daemon that was started anew has forgotten: the page is told, and hears what comes."""
    with start_daemon(tmp_path) as first, Middleman(first.url) as network:
        subscribe(page, network.url, topic, transports=[transport])
        wait_for_state(page, "open")
        Publisher(first).publish(topic, "old")
        wait_for_publications(page, ["old"])
        network.unreachable = True
        first.stop()
        wait_for_state(page, "waiting")
        with start_daemon(tmp_path) as second:
            network.daemon = second.url
            Publisher(second).publish(topic, "lost")
            network.unreachable = False
            page.wait_for_function("() => states.some(({ recovered }) => recovered === false)")
            state = wait_for_state(page, "open")
            assert state["recovered"] is False
            Publisher(second).publish(topic, "new")
            wait_for_publications(page, ["old", "new"])
            page.evaluate("handle.close()")
            network.cut()
        assert_ended_in_order(second)
    assert_ended_in_order(first)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_after(
    page: Page, topics_daemon: DaemonProcess, publisher: Publisher, topic: str, transport: str
) -> None:
    """A page that knows an id begins there, and hears when that is not possible any more."""
    first = publisher.publish(topic, "one")
    publisher.publish(topic, "two")
    subscribe(page, topics_daemon.url, topic, transports=[transport], after=first)
    assert wait_for_state(page, "open")["recovered"] is True
    wait_for_publications(page, ["two"])
    assert page.evaluate("states.find(({ state }) => state === 'open').id") == first

    page.evaluate("handle.close()")
    subscribe(page, topics_daemon.url, topic, transports=[transport], after="gone:1")
    assert wait_for_state(page, "open")["recovered"] is False
    publisher.publish(topic, "three")
    wait_for_publications(page, ["three"])


def test_online(page: Page, network: Middleman, publisher: Publisher, topic: str) -> None:
    """When the browser is online again there is no waiting, and no trust in old connections."""
    stop_clock(page)
    subscribe(page, network.url, topic)
    wait_for_state(page, "open")
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for_state(page, "open")
    assert names_of(page) == ["connecting", "open"] * 2
    publisher.wait_for(topic, "websocket")

    network.unreachable = True
    network.cut()
    wait_for_state(page, "waiting")
    network.unreachable = False
    # The clock stands still, so nothing else could end the waiting.
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for_state(page, "open")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_backoff(
    page: Page, network: Middleman, publisher: Publisher, topic: str, transport: str
) -> None:
    """The waits grow to 20 seconds and no more, at random below; a good connection forgives."""
    stop_clock(page)
    subscribe(page, network.url, topic, transports=[transport])
    wait_for_state(page, "open")
    page.clock.fast_forward(6000)
    # As long as it can get.
    page.evaluate("() => { Math.random = () => 1; }")
    network.unreachable = True
    network.cut()
    for seconds in (0.5, 1, 2, 4, 8, 16, 20, 20):
        assert wait_for_state(page, "waiting")["seconds"] == seconds
        count = page.evaluate("states.length")
        page.clock.run_for(int(seconds * 1000))
        page.wait_for_function("(count) => states.length > count + 1", arg=count)
    network.unreachable = False
    page.evaluate("() => { Math.random = () => 0; }")
    page.clock.run_for(20_000)
    wait_for_state(page, "open")
    # Lost at once, it was no good one; after five seconds it was.
    for passed, most in ((1000, 10), (6000, 0.25)):
        page.evaluate("() => { Math.random = () => 0.5; }")
        page.clock.fast_forward(passed)
        publisher.wait_for(topic, transport)
        # Chromium itself repeats a GET that breaks off on a connection that had others before.
        network.unreachable = True
        network.cut()
        assert wait_for_state(page, "waiting")["seconds"] == most
        network.unreachable = False
        page.clock.run_for(10_000)
        wait_for_state(page, "open")


def test_page_mistakes(
    page: Page,
    topics_daemon: DaemonProcess,
    publisher: Publisher,
    topic: str,
    complaints: list[str],
) -> None:
    """What the page's own function raises is reported, and the next publication comes."""
    page.goto(topics_daemon.url)
    page.evaluate(
        """async (url) => {
          const { subscribe } = await import("/pushd.js");
          window.heard = [];
          window.handle = subscribe(url, ({ data }) => {
            heard.push(data);
            throw new Error(`no use for ${data}`);
          }, { transports: ["longpoll"] });
        }""",
        f"/topics/{topic}",
    )
    wait_for_state(page, "open")
    publisher.publish(topic, "one")
    page.wait_for_function("() => heard.length === 1")
    publisher.publish(topic, "two")
    page.wait_for_function("() => heard.length === 2")
    assert complaints == ["no use for one", "no use for two"]
    assert page.evaluate(
        """async () => {
          const { subscribe } = await import("/pushd.js");
          return ["pigeon", undefined].map((name) => {
            try {
              subscribe("/topics/a", () => {}, { transports: name ? [name] : [] });
            } catch (error) {
              return `${error.name}: ${error.message}`;
            }
          });
        }"""
    ) == ["TypeError: no transport: pigeon", "TypeError: no transport: "]


def open_page(page: Page, url: str) -> None:
    """Open the page, and wait until it listens."""
    page.goto(f"{url}topics.html")
    expect(page.locator("#state")).to_have_text("Open over WebSocket")


# Notes whether the button "Come back too late" can be pressed, in each state of the page.
WATCH_BUTTON = """
window.pressable = [];
new MutationObserver(() => {
  const button = document.querySelector("#late");
  if (button) pressable.push([document.documentElement.dataset.state, !button.disabled]);
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-state"] });
"""


def publish_from(page: Page, text: str) -> None:
    """Publish as somebody does who uses the page."""
    page.get_by_label("Publish to it").fill(text)
    page.get_by_role("button", name="Publish", exact=True).click()


def read_costs(page: Page) -> dict[str, dict[str, float]]:
    """Give the numbers of the table, by what they are of and the way."""
    rows = page.locator("#numbers tr").evaluate_all(
        """rows => rows.map((row) => [
          row.querySelector("th").textContent,
          Array.from(row.querySelectorAll("td"), (cell) => [cell.dataset.way, cell.textContent]),
        ])"""
    )
    costs: dict[str, dict[str, float]] = {}
    heading = ""
    for name, cells in rows:
        if not cells:
            heading = f"{name}: "
        costs[f"{heading}{name}"] = {
            way: float(re.sub(r"[^0-9.]", "", text))
            for way, text in cells
            if re.search(r"\d", text)
        }
    return costs


def test_page(page: Page, topics_daemon: DaemonProcess, complaints: list[str]) -> None:
    """What is published is heard, here and in a second window, whatever it looks like."""
    page.goto(topics_daemon.url)
    page.get_by_role("link", name="See nothing get lost").click()
    expect(page.locator("#state")).to_have_text("Open over WebSocket")
    page.get_by_label("Topic").fill("play/tests")
    page.get_by_role("button", name="Listen").click()
    expect(page.locator("#messages li")).to_have_text(["Listening over WebSocket"])
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
            id.split(":")[1] for id in lines.evaluate_all("all => all.map(one => one.dataset.id)")
        ] == ["1", "2"]
        expect(window.locator("#count")).to_have_text("2 heard, none missing")
    assert complaints == []


def test_page_transports(page: Page, topics_daemon: DaemonProcess, complaints: list[str]) -> None:
    """Who changes the transport in the middle goes on from the same id."""
    open_page(page, topics_daemon.url)
    publish_from(page, "one")
    expect(page.locator("#messages")).to_contain_text("one")
    for number, (value, name) in enumerate(
        [("sse", "Server-Sent Events"), ("longpoll", "long polling"), ("websocket", "WebSocket")]
    ):
        page.get_by_label("Transport").select_option(value)
        expect(page.locator("#state")).to_have_text(f"Open over {name}")
        expect(page.locator("#messages li").last).to_have_text(
            f"Going on over {name}, from the same id"
        )
        publish_from(page, f"number {number}")
        expect(page.locator("#messages li").last).to_contain_text(f"number {number}")
    expect(page.locator("#count")).to_have_text("4 heard, none missing")
    assert complaints == []


@pytest.mark.parametrize("transport", ["any", "longpoll"])
def test_page_cut(page: Page, topics_daemon: DaemonProcess, transport: str) -> None:
    """The page has itself cut off, comes back, and has what was published meanwhile."""
    page.add_init_script(WATCH_BUTTON)
    open_page(page, topics_daemon.url)
    page.get_by_label("Transport").select_option(transport)
    publish_from(page, "before")
    expect(page.locator("#messages")).to_contain_text("before")
    page.get_by_role("button", name="Cut for 5 seconds").click()
    expect(page.locator("#messages")).to_contain_text("The connection is gone")
    lines = page.locator("#messages li[data-id]")
    expect(lines).to_have_count(4)
    expect(page.locator("#messages")).to_contain_text("Nothing lost: what was missed follows")
    ids = lines.evaluate_all("all => all.map(one => one.dataset.id)")
    assert [id.split(":")[1] for id in ids] == ["1", "2", "3", "4"]
    expect(page.locator("#count")).to_have_text("4 heard, none missing")
    # Only who is here can come back too late.
    pressable = page.evaluate("pressable")
    assert {state for state, _ in pressable} >= {"open", "waiting"}
    assert [able for _, able in pressable] == [state == "open" for state, _ in pressable]


def test_page_too_late(page: Page, topics_daemon: DaemonProcess, complaints: list[str]) -> None:
    """Who comes back too late is told, and hears what comes."""
    open_page(page, topics_daemon.url)
    page.get_by_role("button", name="Come back too late").click()
    expect(page.locator("#messages .bad")).to_contain_text("recovered: false")
    publish_from(page, "and on it goes")
    expect(page.locator("#messages")).to_contain_text("and on it goes")
    expect(page.locator("#count")).to_have_text("1 heard, some may be missing")
    assert complaints == []


def test_page_trouble(page: Page, tmp_path: Path) -> None:
    """What the daemon refuses, and that it is gone, is said in words."""
    with start_daemon(tmp_path) as daemon:
        open_page(page, daemon.url)
        page.get_by_label("Topic").fill("news")
        page.get_by_role("button", name="Listen").click()
        assert page.locator("#topic:invalid").count() == 1
        page.locator("#text").evaluate("input => { input.value = 'é'.repeat(513); }")
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.locator("#trouble")).to_contain_text("has 1024 bytes at most")
    assert_ended_in_order(daemon)
    expect(page.locator("#state")).to_contain_text("Waiting")
    publish_from(page, "anybody?")
    expect(page.locator("#trouble")).to_contain_text("could not be reached")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#failure")).to_contain_text("The measurement failed")
    expect(page.locator("#progress")).to_have_text("Stopped")


# The daemon's counts after the last message are a while on the way: who polls must not ask on then.
SLOW_LAST_COUNT = """
const { fetch } = window;
window.fetch = async (asked, ...options) => {
  const answer = await fetch(asked, ...options);
  const last = document.querySelector("#progress").textContent.startsWith("10 of 10");
  if (last && String(asked).startsWith("/play/costs/")) {
    await new Promise((resolve) => setTimeout(resolve, 1500));
  }
  return answer;
};
"""


def test_page_costs(page: Page, topics_daemon: DaemonProcess, complaints: list[str]) -> None:
    """The cost of each way is measured: by the daemon, and as far as it can by the browser."""
    page.add_init_script(SLOW_LAST_COUNT)
    open_page(page, topics_daemon.url)
    expect(page.locator("#results")).to_be_hidden()
    page.get_by_label("A message every").select_option("1")
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
    assert names == ["Polling each second", "Long polling", "Server-Sent Events", "WebSocket"]
    expect(page.get_by_role("img", name="WebSocket")).to_have_count(2)

    costs = read_costs(page)
    assert costs["Messages heard"] == dict.fromkeys(["poll", *TRANSPORTS[::-1]], 10.0)
    delays = costs["Time on the way, mean"]
    # What holds up the machine holds up all; who polls is half a second later on the average.
    assert delays["poll"] > max(delays[way] for way in TRANSPORTS) + 100
    requests = costs["Counted by the daemon: Requests"]
    assert (requests["sse"], requests["websocket"]) == (1, 1)
    # One to begin with, one for each message, and maybe the one that still waits.
    assert requests["longpoll"] in (11, 12)
    assert 5 < requests["poll"] < seconds + 2
    each = costs["Counted by the daemon: Bytes per message"]
    assert each["websocket"] < each["sse"] < 300 < each["poll"] < 3000
    assert 500 < each["longpoll"] < 3000
    by_browser = costs["Counted by the browser: Requests"]
    assert by_browser["poll"] == requests["poll"]
    # The last one was broken off, of which a browser may or may not tell.
    assert by_browser["longpoll"] in (11, 12)
    # Both count the data; of the heads a browser knows no more than that they are about so big.
    answers = costs["Counted by the daemon: Bytes of answers"]
    received = costs["Counted by the browser: Bytes of answers"]
    assert abs(answers["poll"] - received["poll"]) < 150 * requests["poll"]
    assert page.evaluate("document.querySelectorAll('[style]').length") == 0
    assert complaints == []


def test_page_costs_stopped(
    page: Page, topics_daemon: DaemonProcess, complaints: list[str]
) -> None:
    """Who stops a measurement keeps what it has found so far, and leaves nothing running."""
    open_page(page, topics_daemon.url)
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#progress")).to_have_text(re.compile("([2-9]|10) of 10 messages"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#progress")).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Measure again")).to_be_visible()
    expect(page.locator("#failure")).to_be_hidden()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert asked == []
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_on_a_phone(browser: Browser, topics_daemon: DaemonProcess, scheme: str) -> None:
    """Nothing sticks out on a narrow screen, and what can be pressed is as big as a finger."""
    context = browser.new_context(
        viewport={"width": 360, "height": 640},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    open_page(page, topics_daemon.url)
    page.get_by_label("A message every").select_option("0.5")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#numbers tr")).to_have_count(11)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for box in page.locator(".home, button, input, select").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    ):
        assert box >= 44
    context.close()


def test_page_policy(page: Page, topics_daemon: DaemonProcess, complaints: list[str]) -> None:
    """Nothing on the page comes from elsewhere."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    response = page.goto(f"{topics_daemon.url}topics.html")
    assert response is not None
    assert "default-src 'self'" in (response.header_value("content-security-policy") or "")
    expect(page.locator("#state")).to_have_text("Open over WebSocket")
    assert [url for url in asked if not url.startswith(topics_daemon.url)] == []
    assert complaints == []


def test_page_without_script(browser: Browser, topics_daemon: DaemonProcess) -> None:
    """A browser that runs no scripts says why nothing happens."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{topics_daemon.url}topics.html")
    assert "This page needs JavaScript" in page.locator("noscript p").inner_text()
    context.close()
