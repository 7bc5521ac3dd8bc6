"""``connect()`` of pushd.js: many topics on one connection, over each transport."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.connecting import (
    connect,
    follow,
    wait_for_data,
    wait_for_topic,
)
from tests.browser.subscribing import TRANSPORTS, Publisher
from tests.browser.tcp_proxy import TcpProxy
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
