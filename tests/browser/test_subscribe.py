"""``subscribe()`` of pushd.js: three transports, also over a bad proxy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import TIMEOUT, assert_clean_exit, start_daemon, stop_clock
from tests.browser.subscribing import (
    TRANSPORTS,
    Publisher,
    state_names,
    subscribe,
    wait_for_publications,
    wait_for_state,
)
from tests.browser.tcp_proxy import EVENT_STREAM, WEBSOCKET, TcpProxy
from tests.support.daemon_process import DaemonProcess


@pytest.fixture
def publisher(topics_daemon: DaemonProcess) -> Publisher:
    """Make a publisher at the daemon's control port."""
    return Publisher(topics_daemon)


@pytest.fixture
def proxy(topics_daemon: DaemonProcess) -> Iterator[TcpProxy]:
    """Run a proxy in front of the daemon."""
    with TcpProxy(topics_daemon.url) as proxy:
        yield proxy


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """Make a topic for each test, from its name."""
    return re.sub(r"[^a-z0-9]+", "-", str(request.node.name).lower())


def open_and_subscribe(page: Page, url: str, topic: str, **options: Any) -> None:
    """Open the start page at this URL, and subscribe in it."""
    page.goto(url)
    subscribe(page, f"/topics/{topic}", **options)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_publications(
    page: Page,
    proxy: TcpProxy,
    publisher: Publisher,
    topic: str,
    transport: str,
    console_errors: list[str],
) -> None:
    """Text and bytes arrive unchanged and in order over each transport; close() ends it."""
    open_and_subscribe(page, proxy.url, topic, transports=[transport])
    state = wait_for_state(page, "open")
    assert (state["transport"], state["recovered"]) == (transport, True)
    texts = [
        "hello",
        "",
        "two\nlines\n",
        "a\r\nb\rc",
        '{"a": "b"}',
        " žluťoučký 🐎\u2028",
        "\0",
        "\ufeffx",
    ]
    for text in texts:
        publisher.publish(topic, text)
    last = publisher.publish(topic, bytes(range(256)))
    wait_for_publications(page, [*texts, list(range(256))])
    assert page.evaluate("handle.id") == last
    assert publisher.subscribers(topic) in ({transport: 1}, {})
    assert state_names(page) == ["connecting", "open"]

    page.evaluate("handle.close()")
    state = page.evaluate("handle.state")
    assert state == {"state": "closed", "code": 1000, "reason": "closed by the page"}
    publisher.publish(topic, "after close()")
    publisher.wait_for_subscriber(topic, None)
    page.wait_for_timeout(300)
    assert page.evaluate("publications.length") == len(texts) + 1
    assert console_errors == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_cut(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str, transport: str) -> None:
    """After an outage a subscription resumes, without losing or repeating publications."""
    open_and_subscribe(page, proxy.url, topic, transports=[transport])
    wait_for_state(page, "open")
    publisher.publish(topic, "before")
    wait_for_publications(page, ["before"])

    proxy.unreachable = True
    proxy.cut()
    wait_for_state(page, "waiting")
    first = page.evaluate("states.find(({ state }) => state === 'waiting').seconds")
    assert 0 <= first <= 0.5
    for number in range(5):
        publisher.publish(topic, f"meanwhile {number}")
    page.wait_for_function("() => states.filter(({ state }) => state === 'waiting').length >= 3")
    proxy.unreachable = False
    state = wait_for_state(page, "open")
    assert state["recovered"] is True
    publisher.publish(topic, "after")
    wait_for_publications(
        page, ["before", *(f"meanwhile {number}" for number in range(5)), "after"]
    )


def test_repeated_cuts(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str) -> None:
    """Repeated cuts, and fallbacks from transport to transport, lose no publication."""
    open_and_subscribe(page, proxy.url, topic)
    wait_for_state(page, "open")
    proxy.refused = {WEBSOCKET: b"400 Bad Request"}
    for number in range(60):
        publisher.publish(topic, str(number))
        if number % 10 == 5:
            proxy.cut()
        if number == 30:
            proxy.refused[EVENT_STREAM] = b"502 Bad Gateway"
        page.wait_for_timeout(40)
    wait_for_publications(page, [str(number) for number in range(60)])
    assert page.evaluate("states.every((state) => state.recovered !== false)")


def test_fallback(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str) -> None:
    """If WebSockets are blocked, Server-Sent Events are used; if these are too, long polling."""
    proxy.refused = {WEBSOCKET: b"400 Bad Request"}
    open_and_subscribe(page, proxy.url, topic)
    assert wait_for_state(page, "open")["transport"] == "sse"
    assert state_names(page) == ["connecting", "connecting", "open"]
    publisher.publish(topic, "by event")
    wait_for_publications(page, ["by event"])

    proxy.refused[EVENT_STREAM] = b"502 Bad Gateway"
    proxy.cut()
    publisher.publish(topic, "by poll")
    wait_for_publications(page, ["by event", "by poll"])
    assert wait_for_state(page, "open")["transport"] == "longpoll"
    # A blocked transport is not tried again at each reconnect.
    assert proxy.count(WEBSOCKET) == 1
    publisher.wait_for_subscriber(topic, "longpoll")


def test_fallback_period(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str) -> None:
    """A reconnect more than 60 s after a fallback tries the preferred transport again."""
    stop_clock(page)
    proxy.refused = {WEBSOCKET: b"400 Bad Request"}
    open_and_subscribe(page, proxy.url, topic)
    assert wait_for_state(page, "open")["transport"] == "sse"
    proxy.refused = {}
    page.clock.fast_forward(30_000)
    proxy.cut()
    wait_for_state(page, "waiting")
    page.clock.run_for(1000)
    assert wait_for_state(page, "open")["transport"] == "sse"
    page.clock.fast_forward(31_000)
    proxy.cut()
    wait_for_state(page, "waiting")
    page.clock.run_for(1000)
    assert wait_for_state(page, "open")["transport"] == "websocket"


def test_better_transport(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str) -> None:
    """While a worse transport is open, better ones are tried at growing intervals, and taken."""
    stop_clock(page)
    proxy.refused = {WEBSOCKET: b"400 Bad Request"}
    page.add_init_script("Math.random = () => 0.5")
    open_and_subscribe(page, proxy.url, topic, heartbeat=0)
    assert wait_for_state(page, "open")["transport"] == "sse"
    page.clock.run_for(59_000)
    assert proxy.count(WEBSOCKET) == 1
    page.clock.run_for(1500)
    expect_requests(proxy, WEBSOCKET, 2)
    proxy.refused = {}
    page.clock.run_for(115_000)
    publisher.publish(topic, "by event")
    wait_for_publications(page, ["by event"])
    # The open connection was not touched.
    assert state_names(page) == ["connecting", "connecting", "open"]
    page.clock.run_for(6000)
    page.wait_for_function("() => handle.state.transport === 'websocket'")
    assert wait_for_state(page, "open")["recovered"] is True
    publisher.publish(topic, "by frame")
    wait_for_publications(page, ["by event", "by frame"])
    publisher.wait_for_subscriber(topic, "websocket")
    assert state_names(page)[3:] == ["connecting", "open"]


def expect_requests(proxy: TcpProxy, part: bytes, number: int) -> None:
    """Wait until as many requests have this in their head."""
    deadline = monotonic() + TIMEOUT / 1000
    while proxy.count(part) != number:
        assert monotonic() < deadline, proxy.count(part)
        sleep(0.02)


def test_open_timeout(page: Page, proxy: TcpProxy, topic: str) -> None:
    """A WebSocket handshake without a response falls back to Server-Sent Events after 10 s."""
    stop_clock(page)
    proxy.silent = {WEBSOCKET}
    open_and_subscribe(page, proxy.url, topic)
    page.clock.run_for(9000)
    assert page.evaluate("handle.state.transport") == "websocket"
    page.clock.run_for(1500)
    assert wait_for_state(page, "open")["transport"] == "sse"


def test_no_fallback_after_success(page: Page, proxy: TcpProxy, topic: str) -> None:
    """A transport that has worked before is kept after a single failure."""
    stop_clock(page)
    open_and_subscribe(page, proxy.url, topic)
    wait_for_state(page, "open")
    proxy.refused = {WEBSOCKET: b"503 Service Unavailable"}
    proxy.cut()
    wait_for_state(page, "waiting")
    page.clock.run_for(1000)
    page.wait_for_function("() => states.filter(({ state }) => state === 'waiting').length === 2")
    proxy.refused = {}
    page.clock.run_for(1000)
    assert wait_for_state(page, "open")["transport"] == "websocket"


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_silence(
    page: Page, proxy: TcpProxy, publisher: Publisher, topic: str, transport: str
) -> None:
    """A connection that dies without a word is replaced after a silence, and nothing is lost."""
    open_and_subscribe(page, proxy.url, topic, transports=[transport], heartbeat=1)
    wait_for_state(page, "open")
    publisher.publish(topic, "before")
    wait_for_publications(page, ["before"])
    # Heartbeats alone keep it open for longer than the silence that would end it.
    page.wait_for_timeout(3500)
    assert state_names(page) == ["connecting", "open"]
    proxy.let_die(WEBSOCKET if transport == "websocket" else EVENT_STREAM)
    publisher.publish(topic, "meanwhile")
    wait_for_publications(page, ["before", "meanwhile"])
    assert state_names(page) == ["connecting", "open", "waiting", "connecting", "open"]
    assert wait_for_state(page, "open")["recovered"] is True


def test_silence_after_opening(
    page: Page, proxy: TcpProxy, publisher: Publisher, topic: str
) -> None:
    """A connection that is silent from its opening gets twice the time after each such one."""
    stop_clock(page)
    publisher.publish(topic, "first")
    open_and_subscribe(page, proxy.url, topic, transports=["sse"])
    wait_for_state(page, "open")
    for number, seconds in enumerate((35, 70, 140, 35), 1):
        if number == 4:  # A publication shows that all is well.
            publisher.publish(topic, "second")
            wait_for_publications(page, ["second"])
        page.clock.run_for((seconds - 3) * 1000)
        assert state_names(page).count("waiting") == number - 1
        page.clock.run_for(5000)
        assert state_names(page).count("waiting") == number
        wait_for_state(page, "open")


def test_no_heartbeat(page: Page, proxy: TcpProxy, topic: str) -> None:
    """With ``heartbeat: 0`` the page asks for none, and waits for ever."""
    stop_clock(page)
    open_and_subscribe(page, proxy.url, topic, heartbeat=0)
    wait_for_state(page, "open")
    page.clock.run_for(600_000)
    assert state_names(page) == ["connecting", "open"]
    assert proxy.count(b"heartbeat=") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_refused(page: Page, topics_daemon: DaemonProcess, transport: str) -> None:
    """A 400 closes the subscription, with the server's reason, and is not retried."""
    open_and_subscribe(page, topics_daemon.url, "no%20topic", transports=[transport])
    state = wait_for_state(page, "closed")
    assert state["code"] == 400
    assert state["reason"] == (
        "topic must be 1 to 255 letters, digits and -_.: in segments separated by /"
    )
    assert state_names(page) == ["connecting", "closed"]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", ["404 Not Found", "403 "])
def test_refused_without_a_body(
    page: Page, proxy: TcpProxy, topic: str, transport: str, status: str
) -> None:
    """If a proxy refuses it with a status alone, the reason is that status."""
    proxy.refused = {topic.encode(): status.encode()}
    open_and_subscribe(page, proxy.url, topic, transports=[transport])
    state = wait_for_state(page, "closed")
    assert state["code"] == int(status[:3])
    assert state["reason"] == f"the server answered {status}".strip()


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_malformed_id(page: Page, topics_daemon: DaemonProcess, topic: str, transport: str) -> None:
    """An id that is none closes the subscription with the reason: it would be refused for ever."""
    open_and_subscribe(page, topics_daemon.url, topic, transports=[transport], after="x")
    state = wait_for_state(page, "closed")
    assert state["code"] == 400
    assert "id must be EPOCH:OFFSET" in state["reason"]


# What Safari lacked at some time since version 14, and browsers of its age.
OLD_BROWSER = """
delete AbortSignal.any;
delete AbortSignal.timeout;
delete window.reportError;
const addListener = EventTarget.prototype.addEventListener;
EventTarget.prototype.addEventListener = function (type, listener, options) {
  const { signal, ...rest } = Object(options);
  addListener.call(this, type, listener, rest);
};
"""


def test_old_browser(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str) -> None:
    """Browsers as old as the documented ones subscribe, fall back, resume and close."""
    page.add_init_script(OLD_BROWSER)
    proxy.refused = {WEBSOCKET: b"400 Bad Request"}
    open_and_subscribe(page, proxy.url, topic)
    assert wait_for_state(page, "open")["transport"] == "sse"
    publisher.publish(topic, "by event")
    wait_for_publications(page, ["by event"])
    proxy.refused[EVENT_STREAM] = b"502 Bad Gateway"
    proxy.cut()
    publisher.publish(topic, "by poll")
    wait_for_publications(page, ["by event", "by poll"])
    assert wait_for_state(page, "open")["transport"] == "longpoll"
    page.evaluate("handle.close()")
    page.evaluate("dispatchEvent(new Event('online'))")
    assert wait_for_state(page, "closed")["code"] == 1000
    assert state_names(page)[-1] == "closed"


def test_missing_transports(page: Page, topics_daemon: DaemonProcess, topic: str) -> None:
    """Transports that the browser lacks are left out; if none is left, the page is told."""
    page.add_init_script("delete window.WebSocket; delete window.EventSource;")
    open_and_subscribe(page, topics_daemon.url, topic)
    assert wait_for_state(page, "open")["transport"] == "longpoll"
    page.evaluate("handle.close()")
    subscribe(page, f"/topics/{topic}", transports=["websocket", "sse"])
    reason = "this browser has none of websocket, sse"
    assert page.evaluate("states") == [{"state": "closed", "code": 0, "reason": reason}]


def test_retry_after(page: Page, proxy: TcpProxy, topic: str) -> None:
    """A Retry-After delays the next attempt, within bounds."""
    stop_clock(page)
    page.add_init_script("Math.random = () => 0")
    page.goto(proxy.url)
    for given, seconds in (("7", 7), ("9" * 400, 300), ("Infinity", 300), ("-5", 0), ("x", 0)):
        proxy.refused = {b"wait=0": f"503 Busy\r\nRetry-After: {given}".encode()}
        subscribe(page, f"/topics/{topic}", transports=["longpoll"])
        assert wait_for_state(page, "waiting")["seconds"] == seconds
        page.evaluate("handle.close()")


def test_too_many_requests(page: Page, proxy: TcpProxy, topic: str) -> None:
    """A 429 is retried."""
    proxy.refused = {b"wait=0": b"429 Too Many Requests"}
    open_and_subscribe(page, proxy.url, topic, transports=["longpoll"])
    wait_for_state(page, "waiting")
    proxy.refused = {}
    wait_for_state(page, "open")


# Makes the page's latest WebSocket available as `last`, and counts them.
KEEP_LAST = """
window.opened = 0;
const Real = WebSocket;
window.WebSocket = class extends Real {
  constructor(...args) { super(...args); window.opened += 1; window.last = this; }
};
"""

CLOSE = "([code, reason]) => last.onclose({ code, reason, wasClean: true })"


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 4000])
def test_close(page: Page, topics_daemon: DaemonProcess, topic: str, code: int) -> None:
    """A close with any code but 1008 is followed by a reconnect."""
    page.add_init_script(KEEP_LAST)
    open_and_subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    page.evaluate(CLOSE, [code, ""])
    page.wait_for_function("() => opened === 2")
    wait_for_state(page, "open")


@pytest.mark.parametrize(
    ("given", "reason"), [("not allowed", "not allowed"), ("", "the server gave no reason")]
)
def test_policy_violation(
    page: Page, topics_daemon: DaemonProcess, topic: str, given: str, reason: str
) -> None:
    """A close with 1008 closes the subscription, with the server's reason."""
    page.add_init_script(KEEP_LAST)
    open_and_subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    page.evaluate(CLOSE, [1008, given])
    assert page.evaluate("handle.state") == {"state": "closed", "code": 1008, "reason": reason}
    page.wait_for_timeout(1500)
    assert page.evaluate("opened") == 1


def test_rate_limit(page: Page, topics_daemon: DaemonProcess, topic: str) -> None:
    """The daemon's 1008 to a client over its message rate closes the subscription."""
    page.add_init_script(KEEP_LAST)
    open_and_subscribe(page, topics_daemon.url, topic)
    wait_for_state(page, "open")
    # Far more than the limit of 1,000 a second, even if sending takes several seconds.
    page.evaluate("for (let n = 0; n < 60_000; n += 1) last.send('')")
    state = wait_for_state(page, "closed")
    assert (state["code"], state["reason"]) == (1008, "too many messages")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_restart(page: Page, tmp_path: Path, topic: str, transport: str) -> None:
    """After a restart of the daemon, the page gets recovered: false, then new publications."""
    with start_daemon(tmp_path) as first, TcpProxy(first.url) as proxy:
        open_and_subscribe(page, proxy.url, topic, transports=[transport])
        wait_for_state(page, "open")
        Publisher(first).publish(topic, "old")
        wait_for_publications(page, ["old"])
        proxy.unreachable = True
        first.stop()
        wait_for_state(page, "waiting")
        with start_daemon(tmp_path) as second:
            proxy.daemon = second.url
            Publisher(second).publish(topic, "lost")
            proxy.unreachable = False
            page.wait_for_function("() => states.some(({ recovered }) => recovered === false)")
            state = wait_for_state(page, "open")
            assert state["recovered"] is False
            Publisher(second).publish(topic, "new")
            wait_for_publications(page, ["old", "new"])
            page.evaluate("handle.close()")
            proxy.cut()
        assert_clean_exit(second)
    assert_clean_exit(first)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_after(
    page: Page, topics_daemon: DaemonProcess, publisher: Publisher, topic: str, transport: str
) -> None:
    """The option ``after`` resumes after an id; for an unknown one, recovered is false."""
    first = publisher.publish(topic, "one")
    publisher.publish(topic, "two")
    open_and_subscribe(page, topics_daemon.url, topic, transports=[transport], after=first)
    assert wait_for_state(page, "open")["recovered"] is True
    wait_for_publications(page, ["two"])
    assert page.evaluate("states.find(({ state }) => state === 'open').id") == first

    page.evaluate("handle.close()")
    open_and_subscribe(page, topics_daemon.url, topic, transports=[transport], after="gone:1")
    assert wait_for_state(page, "open")["recovered"] is False
    publisher.publish(topic, "three")
    wait_for_publications(page, ["three"])


def test_online(page: Page, proxy: TcpProxy, publisher: Publisher, topic: str) -> None:
    """An online event reconnects at once: replaces an open connection, or ends the backoff."""
    stop_clock(page)
    open_and_subscribe(page, proxy.url, topic)
    wait_for_state(page, "open")
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for_state(page, "open")
    assert state_names(page) == ["connecting", "open"] * 2
    publisher.wait_for_subscriber(topic, "websocket")

    proxy.unreachable = True
    proxy.cut()
    wait_for_state(page, "waiting")
    proxy.unreachable = False
    # The clock is stopped, so the backoff cannot have ended on its own.
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for_state(page, "open")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_backoff(
    page: Page, proxy: TcpProxy, publisher: Publisher, topic: str, transport: str
) -> None:
    """The delay doubles up to 20 s, times a random factor; a stable connection resets it."""
    stop_clock(page)
    open_and_subscribe(page, proxy.url, topic, transports=[transport])
    wait_for_state(page, "open")
    page.clock.fast_forward(6000)
    # The maximum of each delay.
    page.evaluate("() => { Math.random = () => 1; }")
    proxy.unreachable = True
    proxy.cut()
    for seconds in (0.5, 1, 2, 4, 8, 16, 20, 20):
        assert wait_for_state(page, "waiting")["seconds"] == seconds
        count = page.evaluate("states.length")
        page.clock.run_for(int(seconds * 1000))
        page.wait_for_function("(count) => states.length > count + 1", arg=count)
    proxy.unreachable = False
    page.evaluate("() => { Math.random = () => 0; }")
    page.clock.run_for(20_000)
    wait_for_state(page, "open")
    # A connection counts as stable after five seconds.
    for open_for, seconds in ((1000, 10), (6000, 0.25)):
        page.evaluate("() => { Math.random = () => 0.5; }")
        page.clock.fast_forward(open_for)
        publisher.wait_for_subscriber(topic, transport)
        # If a GET breaks off on a reused connection, Chromium repeats it: no new connections.
        proxy.unreachable = True
        proxy.cut()
        assert wait_for_state(page, "waiting")["seconds"] == seconds
        proxy.unreachable = False
        page.clock.run_for(10_000)
        wait_for_state(page, "open")


def test_callback_error(
    page: Page,
    topics_daemon: DaemonProcess,
    publisher: Publisher,
    topic: str,
    console_errors: list[str],
) -> None:
    """An error in the page's callback is reported, and the next publication is delivered."""
    page.goto(topics_daemon.url)
    page.evaluate(
        """async (url) => {
          const { subscribe } = await import("/pushd.js");
          window.received = [];
          window.handle = subscribe(url, ({ data }) => {
            received.push(data);
            throw new Error(`cannot handle ${data}`);
          }, { transports: ["longpoll"] });
        }""",
        f"/topics/{topic}",
    )
    wait_for_state(page, "open")
    publisher.publish(topic, "one")
    page.wait_for_function("() => received.length === 1")
    publisher.publish(topic, "two")
    page.wait_for_function("() => received.length === 2")
    assert console_errors == ["cannot handle one", "cannot handle two"]


def test_unknown_transport(page: Page, topics_daemon: DaemonProcess) -> None:
    """An unknown transport, or none, is a TypeError that names the choice."""
    page.goto(topics_daemon.url)
    errors = page.evaluate(
        """async () => {
          const { subscribe } = await import("/pushd.js");
          return [["sse", "pigeon"], []].map((transports) => {
            try {
              subscribe("/topics/a", () => {}, { transports });
            } catch (error) {
              return `${error.name}: ${error.message}`;
            }
          });
        }"""
    )
    rule = "TypeError: transports must list one or more of websocket, sse, longpoll; got"
    assert errors == [f"{rule} [sse, pigeon]", f"{rule} []"]
