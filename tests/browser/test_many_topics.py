"""``connect()`` of pushd.js: many topics on one connection, over each transport."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep, time
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import TIMEOUT, assert_clean_exit
from tests.browser.connecting import (
    connect,
    follow,
    wait_for_data,
    wait_for_topic,
)
from tests.browser.subscribing import TRANSPORTS, Publisher
from tests.browser.tcp_proxy import TcpProxy
from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess
from tests.support.keyring import SECRET, token


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
def topics(request: pytest.FixtureRequest) -> list[str]:
    """Make ten topics for each test, from its name."""
    prefix = re.sub(r"[^a-z0-9]+", "-", str(request.node.name).lower())
    return [f"{prefix}/{number}" for number in range(10)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ten_topics(
    page: Page,
    proxy: TcpProxy,
    publisher: Publisher,
    topics: list[str],
    transport: str,
    console_errors: list[str],
) -> None:
    """Ten topics on one connection lose and repeat nothing through a cut."""
    page.goto(proxy.url)
    before = len(proxy.heads)
    connect(page, transports=[transport])
    assert page.evaluate("connection.state") == {"state": "idle"}
    follow(page, *topics)
    for topic in topics:
        assert wait_for_topic(page, topic)["recovered"] is True
    assert page.evaluate("connection.state") == {"state": "open", "transport": transport}
    # A long poll is asked again for each answer.
    if transport != "longpoll":
        assert proxy.count(b"/topics?") - before <= 1
    for number in range(3):
        for topic in topics:
            publisher.publish(topic, f"{topic} before {number}")
    for topic in topics:
        wait_for_data(page, topic, [f"{topic} before {number}" for number in range(3)])
    proxy.unreachable = True
    proxy.cut()
    page.wait_for_function("() => connection.state.state === 'waiting'")
    for number in range(3):
        for topic in topics:
            publisher.publish(topic, f"{topic} meanwhile {number}")
    proxy.unreachable = False
    for topic in topics:
        expected = [f"{topic} {when} {n}" for when in ("before", "meanwhile") for n in range(3)]
        wait_for_data(page, topic, expected)
        last = publisher.publish(topic, "after")
        wait_for_data(page, topic, [*expected, "after"])
        assert page.evaluate("(topic) => handles[topic].id", topic) == last
        states = page.evaluate("(topic) => opened[topic]", topic)
        assert [state["state"] for state in states] == ["open", "subscribing", "open"]
        assert all(state.get("recovered", True) for state in states)
    page.evaluate("connection.close()")
    closed = {"state": "closed", "code": 1000, "reason": "closed by the page"}
    assert page.evaluate("connection.state") == closed
    assert page.evaluate("(topic) => handles[topic].state", topics[0]) == closed
    errors = [error for error in console_errors if "ERR_" not in error]
    assert errors == []


@pytest.fixture
def guarded_daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Run a daemon whose topics have presence, and need a token."""
    (tmp_path / "key").write_bytes(SECRET)
    rule = '[[topic]]\nmatch = "room/*"\nsubscribe = "token"\npresence = true\n'
    (tmp_path / "pushd.toml").write_text(rule)
    args = [
        "--config",
        "pushd.toml",
        "--token-key",
        "key",
        "--control",
        "tcp:0:interface=127.0.0.1",
    ]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        yield daemon
    assert_clean_exit(daemon)


def open_tab(browser_page: Page, daemon: DaemonProcess, subject: str, transport: str) -> Page:
    """Open another tab of the same browser, in which a person watches who is in the room."""
    tab = browser_page.context.new_page()
    tab.goto(daemon.url)
    made = token(subject, subscribe=["room/*"], exp=time() + 600)
    tab.evaluate("(token) => (window.makeToken = () => token)", made)
    connect(tab, transports=[transport])
    follow(tab, "room/1", presence=True)
    wait_for_topic(tab, "room/1")
    return tab


def present(daemon: DaemonProcess) -> dict[str, int]:
    """Return the number of connections of each subject in the room."""
    url = f"{control_url_of(daemon)}topics/room/1/presence"
    with urlopen(url, timeout=TIMEOUT / 1000) as answer:
        subjects = json.load(answer)["subjects"]
    return {subject["subject"]: len(subject["connections"]) for subject in subjects}


def wait_until_present(daemon: DaemonProcess, expected: dict[str, int]) -> None:
    """Wait until these subjects are in the room, with as many connections each."""
    end = monotonic() + TIMEOUT / 1000
    while (found := present(daemon)) != expected:
        assert monotonic() < end, found
        sleep(0.05)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_three_tabs(page: Page, guarded_daemon: DaemonProcess, transport: str) -> None:
    """One person with three tabs is one subject with three connections; the last one leaves."""
    watcher = open_tab(page, guarded_daemon, "bob", transport)
    tabs = [open_tab(page, guarded_daemon, "ann", transport) for _ in range(3)]
    wait_until_present(guarded_daemon, {"bob": 1, "ann": 3})
    watcher.wait_for_function("() => handles['room/1'].presence()?.count === 2")
    subjects = watcher.evaluate("handles['room/1'].presence().subjects.map((one) => one.subject)")
    assert sorted(subjects) == ["ann", "bob"]
    tabs.pop().close()
    wait_until_present(guarded_daemon, {"bob": 1, "ann": 2})
    for tab in tabs:
        tab.close()
    watcher.wait_for_function("() => noticed['room/1'].at(-1)?.type === 'left'")
    told = watcher.evaluate("noticed['room/1'].map(({ type, subject }) => [type, subject])")
    # The second and the third tab, and the end of the first, are not told.
    assert [one for one in told if one[1] == "ann"] == [["joined", "ann"], ["left", "ann"]]
    assert present(guarded_daemon) == {"bob": 1}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_denied_topic(page: Page, guarded_daemon: DaemonProcess, transport: str) -> None:
    """A topic that the server denies is closed with the reason, and the others go on."""
    tab = open_tab(page, guarded_daemon, "ann", transport)
    # The pattern of the token is room/*, and topics without a rule need a token as well.
    follow(tab, "room/2", "secret", "a b")
    for topic, code in (("secret", 403), ("a b", 400)):
        assert wait_for_topic(tab, topic, "closed")["code"] == code
    wait_for_topic(tab, "room/2")
    last = Publisher(guarded_daemon).publish("room/2", "hello")
    wait_for_data(tab, "room/2", ["hello"])
    assert tab.evaluate("handles['room/2'].id") == last
    assert tab.evaluate("connection.state.state") == "open"
    wait_for_topic(tab, "room/1")
