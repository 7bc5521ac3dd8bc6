"""Topics in a real browser: the three transports, a bad network, and the page that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import assert_ended_in_order
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
    """A program that publishes at a daemon's control door."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._door = daemon.wait_for(r"control door at (http://\S+)")[1]

    def publish(self, topic: str, data: str | bytes) -> str:
        """Publish, and give the id."""
        kind = "application/octet-stream" if isinstance(data, bytes) else "text/plain"
        body = data if isinstance(data, bytes) else data.encode()
        request = Request(f"{self._door}topics/{topic}", body, {"Content-Type": kind})
        with urlopen(request, timeout=10) as answer:
            return str(json.load(answer)["id"])

    def subscribers(self, topic: str) -> dict[str, int]:
        """How many listen, by transport."""
        with urlopen(f"{self._door}topics/{topic}", timeout=10) as answer:
            return dict(json.load(answer)["subscribers"])


def start_daemon(directory: Path) -> DaemonProcess:
    """Make a daemon whose control door is open as well."""
    return DaemonProcess(["--control", "tcp:0:interface=127.0.0.1"], directory=directory)


@pytest.fixture(scope="module")
def topics_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon as it is shipped, with both doors."""
    with start_daemon(tmp_path_factory.mktemp("topics")) as daemon:
        yield daemon
    assert_ended_in_order(daemon)


@pytest.fixture
def publisher(topics_daemon: DaemonProcess) -> Publisher:
    """Give the control door of the daemon."""
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


def wait_for_state(page: Page, *states: str, timeout: float = 15_000) -> Any:
    """Wait until the subscription is in one of the states, and give it."""
    page.wait_for_function(
        "(names) => names.includes(handle.state.state)", arg=states, timeout=timeout
    )
    return page.evaluate("handle.state")


def wait_for_publications(page: Page, expected: list[Any], timeout: float = 30_000) -> None:
    """Wait until so many publications have come, and prove that it is these, in this order."""
    page.wait_for_function(
        "(count) => publications.length >= count", arg=len(expected), timeout=timeout
    )
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
    page.wait_for_timeout(300)
    assert publisher.subscribers(topic) == {}
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
    waiting = wait_for_state(page, "waiting")
    assert 0 <= waiting["seconds"] <= 0.5
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
    assert publisher.subscribers(topic) == {"longpoll": 1}


def test_fallback_ends(page: Page, network: Middleman, publisher: Publisher, topic: str) -> None:
    """After a while a better transport gets a new chance, when a connection is due anyway."""
    page.clock.install()
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
    page.clock.install()
    network.silent = {WEBSOCKET}
    subscribe(page, network.url, topic)
    page.clock.run_for(9000)
    assert page.evaluate("handle.state.transport") == "websocket"
    page.clock.run_for(1500)
    assert wait_for_state(page, "open")["transport"] == "sse"


def test_bad_luck(page: Page, network: Middleman, topic: str) -> None:
    """A WebSocket that worked before is not given up for one that did not."""
    subscribe(page, network.url, topic)
    wait_for_state(page, "open")
    network.refused = {WEBSOCKET: b"503 Service Unavailable"}
    network.cut()
    page.wait_for_function("() => states.filter(({ state }) => state === 'waiting').length === 2")
    network.refused = {}
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


def test_policy_violation(page: Page, topics_daemon: DaemonProcess, topic: str) -> None:
    """A close with 1008 is the end; with any other code, a new beginning."""
    page.add_init_script(
        """
        window.opened = 0;
        const Real = WebSocket;
        window.WebSocket = class extends Real {
          constructor(...given) { super(...given); window.opened += 1; window.last = this; }
        };
        """
    )
    subscribe(page, topics_daemon.url, topic)
    end = "([code, reason]) => last.onclose({ code, reason, wasClean: true })"
    for opened, code in enumerate([1000, 1001, 1011, 1012, 1013, 1006], start=2):
        wait_for_state(page, "open")
        page.evaluate(end, [code, ""])
        page.wait_for_function("(count) => opened === count", arg=opened)
    wait_for_state(page, "open")
    page.evaluate(end, [1008, "the token ran out"])
    assert page.evaluate("handle.state") == {
        "state": "closed",
        "code": 1008,
        "reason": "the token ran out",
    }
    page.wait_for_timeout(1500)
    assert page.evaluate("opened") == 7


def test_policy_violation_of_the_daemon(
    page: Page, topics_daemon: DaemonProcess, topic: str
) -> None:
    """The daemon's own 1008 is understood."""
    page.add_init_script(
        """
        const Real = WebSocket;
        window.WebSocket = class extends Real {
          constructor(...given) { super(...given); window.last = this; }
        };
        """
    )
    subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    page.evaluate("for (let n = 0; n < 20_000; n += 1) last.send('')")
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

    page.evaluate("handle.close()")
    subscribe(page, topics_daemon.url, topic, transports=[transport], after="gone:1")
    assert wait_for_state(page, "open")["recovered"] is False
    publisher.publish(topic, "three")
    wait_for_publications(page, ["three"])


def test_online(page: Page, network: Middleman, publisher: Publisher, topic: str) -> None:
    """When the browser is online again there is no waiting, and no trust in old connections."""
    page.clock.install()
    subscribe(page, network.url, topic)
    wait_for_state(page, "open")
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for_state(page, "open")
    assert names_of(page) == ["connecting", "open"] * 2
    assert publisher.subscribers(topic) == {"websocket": 1}

    network.unreachable = True
    network.cut()
    wait_for_state(page, "waiting")
    network.unreachable = False
    # The clock stands still, so nothing else could end the waiting.
    page.clock.pause_at(page.evaluate("Date.now()") + 10)
    page.evaluate("dispatchEvent(new Event('online'))")
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
