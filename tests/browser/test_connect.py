"""``connect()`` of pushd.js, with a fake of the server in the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.connecting import (
    connect,
    follow,
    topic_states,
    unfollow,
    wait_for_connection,
    wait_for_data,
    wait_for_topic,
)
from tests.browser.subscribing import TRANSPORTS
from tests.support.daemon_process import DaemonProcess

FAKE = Path(__file__).with_name("fake_topics.js")

TOPICS = [f"room/{number}" for number in range(10)]

CLOSED_BY_PAGE = {"state": "closed", "code": 1000, "reason": "closed by the page"}


@pytest.fixture
def fake(page: Page, daemon: DaemonProcess) -> Fake:
    """Open a page with a fake server."""
    page.add_init_script(path=FAKE)
    page.goto(daemon.url)
    return Fake(page)


class Fake:
    """The fake server in the page."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def publish(self, topic: str, data: object, **message: object) -> str:
        """Publish, and return the id."""
        given = {"data": data, **message}
        return str(
            self._page.evaluate("([t, message]) => fake.publish(t, message)", [topic, given])
        )

    def say(self, **message: object) -> None:
        """Send a message over all connections."""
        self._page.evaluate("(message) => fake.say(message)", message)

    def go_down(self) -> None:
        """Cut all connections, and refuse others."""
        self._page.evaluate("() => { fake.isUp = false; fake.cut(); }")

    def come_back(self) -> None:
        """Accept connections again."""
        self._page.evaluate("() => { fake.isUp = true; }")

    def block(self, *transports: str) -> None:
        """Cut all connections, and let only other transports work."""
        self._page.evaluate("(names) => { fake.blocked = new Set(names); fake.cut(); }", transports)

    def refuse(self, topic: str, reason: str) -> None:
        """Refuse subscriptions to a topic."""
        self._page.evaluate("([topic, reason]) => fake.refused.set(topic, reason)", [topic, reason])

    @property
    def asked(self) -> list[Any]:
        """What the page has asked for: URLs, and messages over WebSocket."""
        return list(self._page.evaluate("fake.asked"))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ten_topics(page: Page, fake: Fake, transport: str, console_errors: list[str]) -> None:
    """Ten topics on one connection lose and repeat nothing through a cut."""
    connect(page, transports=[transport])
    assert page.evaluate("connection.state") == {"state": "idle"}
    follow(page, *TOPICS)
    for topic in TOPICS:
        assert wait_for_topic(page, topic)["recovered"] is True
    assert page.evaluate("connection.state") == {"state": "open", "transport": transport}
    urls = [one for one in fake.asked if isinstance(one, str)]
    assert len(urls) == (2 if transport == "longpoll" else 1)  # The first poll waits for nothing.

    for topic in TOPICS:
        fake.publish(topic, f"{topic} before")
    for topic in TOPICS:
        wait_for_data(page, topic, [f"{topic} before"])
    fake.go_down()
    wait_for_connection(page, "waiting")
    for topic in TOPICS[:5]:
        fake.publish(topic, f"{topic} meanwhile")
    fake.come_back()
    wait_for_connection(page, "open")
    for topic in TOPICS:
        last = fake.publish(topic, "after")
        meanwhile = [f"{topic} meanwhile"] if topic in TOPICS[:5] else []
        wait_for_data(page, topic, [f"{topic} before", *meanwhile, "after"])
        assert page.evaluate("(topic) => handles[topic].id", topic) == last
        assert topic_states(page, topic) == [["open", True], "subscribing", ["open", True]]

    page.evaluate("connection.close()")
    assert page.evaluate("connection.state") == CLOSED_BY_PAGE
    assert page.evaluate("(topic) => handles[topic].state", TOPICS[0]) == CLOSED_BY_PAGE
    assert console_errors == []


def test_fallback(page: Page, fake: Fake) -> None:
    """All topics change the transport together, there and back, and lose nothing."""
    page.evaluate("() => { Math.random = () => 0; }")
    connect(page)
    follow(page, *TOPICS)
    for topic in TOPICS:
        wait_for_topic(page, topic)
    count = 0
    for blocked, expected in (
        ([], "websocket"),
        (["websocket"], "sse"),
        (["websocket", "sse"], "longpoll"),
    ):
        fake.block(*blocked)
        for _ in range(3):
            for topic in TOPICS:
                fake.publish(topic, count)
            count += 1
            page.wait_for_timeout(20)
        page.wait_for_function(
            "(name) => connection.state.state === 'open' && connection.state.transport === name",
            arg=expected,
        )
    fake.block()
    for topic in TOPICS:
        fake.publish(topic, count)
    # The network is back: the page reconnects, and to the same transport.
    page.evaluate("dispatchEvent(new Event('online'))")
    for topic in TOPICS:
        wait_for_data(page, topic, list(range(count + 1)))
        assert all(state[1] for state in topic_states(page, topic) if state[0] == "open")


def test_cursor(page: Page, fake: Fake) -> None:
    """After an event, or an answer to a poll, one short cursor stands for all topics."""
    for transport in ("sse", "longpoll"):
        connect(page, transports=[transport])
        follow(page, *TOPICS)
        wait_for_topic(page, TOPICS[-1])
        fake.publish(TOPICS[0], transport)
        wait_for_data(page, TOPICS[0], [transport])
        fake.go_down()
        wait_for_connection(page, "waiting")
        fake.come_back()
        wait_for_connection(page, "open")
        url = [one for one in fake.asked if isinstance(one, str)][-1]
        assert re.search(r"[?&]after=G\.\d+&", url), url
        assert "@" not in url
        page.evaluate("connection.close()")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_shared_topic(page: Page, fake: Fake, transport: str) -> None:
    """Two parts of a page share a topic; the later one gets what comes next, the last ends it."""
    connect(page, transports=[transport])
    follow(page, "a")
    wait_for_topic(page, "a")
    fake.publish("a", 1)
    wait_for_data(page, "a", [1])
    asked = len(fake.asked)
    follow(page, "a", key="later")
    follow(page, "a", key="current", after="E:1")
    follow(page, "a", key="behind", after="E:0")
    for key, recovered in (("later", True), ("current", True), ("behind", False)):
        state = wait_for_topic(page, key)
        assert (state["id"], state["recovered"]) == ("E:1", recovered)
    assert len(fake.asked) == asked
    fake.publish("a", 2)
    for key, data in (("a", [1, 2]), ("later", [2]), ("current", [2])):
        wait_for_data(page, key, data)
    unfollow(page, "a", "current", "behind")
    assert page.evaluate("handles.a.state") == CLOSED_BY_PAGE
    fake.publish("a", 3)
    wait_for_data(page, "later", [2, 3])
    wait_for_data(page, "a", [1, 2])
    unfollow(page, "later")
    wait_for_connection(page, "idle")
    fake.publish("a", 4)
    # It can begin again, with what comes then.
    follow(page, "a")
    wait_for_topic(page, "a")
    fake.publish("a", 5)
    wait_for_data(page, "a", [5])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_topics_come_and_go(page: Page, fake: Fake, transport: str) -> None:
    """Topics come and go while others receive everything; a new one can resume after an id."""
    connect(page, transports=[transport])
    follow(page, "a", "b")
    wait_for_topic(page, "a")
    first = fake.publish("c", "c1")
    fake.publish("c", "c2")
    fake.publish("d", "d1")
    fake.publish("a", "a1")
    unfollow(page, "b")
    follow(page, "c", after=first)
    follow(page, "d")
    fake.publish("a", "a2")
    wait_for_data(page, "c", ["c2"])
    wait_for_topic(page, "d")
    follow(page, "e", after="X:1")
    assert wait_for_topic(page, "e")["recovered"] is False
    for topic in "abcde":
        fake.publish(topic, topic)
    wait_for_data(page, "a", ["a1", "a2", "a"])
    wait_for_data(page, "c", ["c2", "c"])
    wait_for_data(page, "d", ["d"])
    wait_for_data(page, "e", ["e"])
    wait_for_data(page, "b", [])
    for key in "acd":
        assert topic_states(page, key) == [["open", True]]


def change(page: Page, gone: Sequence[str], come: Sequence[str]) -> None:
    """End subscriptions, and subscribe to others, in the same tick."""
    page.evaluate(
        "([gone, come]) => {"
        " gone.forEach((key) => handles[key].close()); come.forEach((topic) => follow(topic, {}));"
        " }",
        [list(gone), list(come)],
    )


def test_one_change_for_many(page: Page, fake: Fake) -> None:
    """Topics that come and go in one tick replace an event stream once, or not at all."""
    connect(page, transports=["sse"])
    follow(page, *TOPICS)
    wait_for_topic(page, TOPICS[-1])
    assert len(fake.asked) == 1
    change(page, TOPICS, TOPICS)
    page.wait_for_timeout(200)
    assert len(fake.asked) == 1
    change(page, TOPICS[5:], ("x", "y"))
    wait_for_topic(page, "y")
    assert len(fake.asked) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_refused_topic(page: Page, fake: Fake, transport: str) -> None:
    """A topic that is refused is closed, with the reason; the others go on."""
    fake.refuse("secret", "not for you")
    connect(page, transports=[transport])
    follow(page, "a", "secret", "b")
    state = wait_for_topic(page, "secret", "closed")
    assert (state["code"], state["reason"]) == (403, "not for you")
    wait_for_topic(page, "b")
    follow(page, "secret", key="again")
    wait_for_topic(page, "again", "closed")
    wait_for_connection(page, "open")
    fake.publish("a", 1)
    wait_for_data(page, "a", [1])
    unfollow(page, "a", "b")
    wait_for_connection(page, "idle")
    follow(page, "secret", key="alone")
    wait_for_topic(page, "alone", "closed")
    wait_for_connection(page, "idle")


@pytest.mark.parametrize(
    ("given", "reason"), [("revoked", "revoked"), ("", "the server gave no reason")]
)
@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_ended_topic(page: Page, fake: Fake, transport: str, given: str, reason: str) -> None:
    """A topic that the server ends is closed, with the reason; the others go on."""
    connect(page, transports=[transport])
    follow(page, "a", "b")
    wait_for_topic(page, "b")
    fake.say(unsubscribed="a", reason=given)
    assert wait_for_topic(page, "a", "closed")["reason"] == reason
    wait_for_connection(page, "open")
    fake.publish("b", 1)
    wait_for_data(page, "b", [1])


def test_unavailable_topic(page: Page, fake: Fake) -> None:
    """A topic that the server cannot subscribe to at the moment is asked for again."""
    page.evaluate("fake.busy.set('a', 2)")
    connect(page)
    follow(page, "a", "b")
    wait_for_topic(page, "b")
    assert page.evaluate("handles.a.state") == {"state": "subscribing"}
    wait_for_topic(page, "a")
    assert [one.get("subscribe") for one in fake.asked[1:]] == ["a", "b", "a", "a"]


def test_subscribed_again(page: Page, fake: Fake) -> None:
    """What still arrives of a subscription that has ended is not taken for the next one."""
    connect(page)
    follow(page, "a", "b")
    wait_for_topic(page, "a")
    # A part that wants to know who is present has the topic subscribed to again.
    page.evaluate(
        """async () => {
          follow("a", { key: "c", presence: true });
          for (let number = 0; number < 50; number += 1) {
            fake.publish("a", { data: number });
            await new Promise((resolve) => setTimeout(resolve, 1));
          }
        }"""
    )
    wait_for_data(page, "a", list(range(50)))
    assert topic_states(page, "a") == [["open", True]]
    messages = [one for one in fake.asked if not isinstance(one, str)]
    assert messages[2] == {"unsubscribe": "a"}
    assert messages[3]["presence"] is True


def test_publication(page: Page, fake: Fake) -> None:
    """A publication has its topic, event, JSON or bytes, and how many others it replaces."""
    connect(page, format="json")
    follow(page, "a")
    wait_for_topic(page, "a")
    fake.publish("a", {"order": 66}, event="paid", conflated=3)
    page.evaluate("fake.publish('a', { base64: 'AAH/' })")
    wait_for_data(page, "a", [{"order": 66}, [0, 1, 255]])
    assert page.evaluate("heard.a") == [
        {"topic": "a", "id": "E:1", "event": "paid", "conflated": 3, "data": {"order": 66}},
        {"topic": "a", "id": "E:2", "data": [0, 1, 255]},
    ]
    assert fake.asked[1]["format"] == "json"


ANN = {"subject": "ann", "connection": "1.1", "info": {"name": "Ann"}}
BOB = {"subject": None, "connection": "tab", "info": None}


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_presence(page: Page, fake: Fake, transport: str) -> None:
    """A page is told who is present, joins and leaves; a later list is told as changes."""
    connect(page, transports=[transport])
    follow(page, "a", presence=True)
    wait_for_topic(page, "a")
    assert page.evaluate("handles.a.presence()") is None
    listed = {**ANN, "connections": ["1.1", "1.2"]}
    fake.say(presence="a", subjects=[listed], count=1, connections=2)
    fake.say(joined="a", **BOB)
    page.wait_for_function("() => noticed.a.length === 2")
    assert page.evaluate("handles.a.presence()") == {"count": 2, "subjects": [ANN, BOB]}
    # A part that comes later is told as well, and what is known already is no news.
    follow(page, "a", key="b", presence=True)
    wait_for_topic(page, "b")
    fake.say(joined="a", **BOB)
    fake.say(left="a", **ANN)
    fake.say(left="a", **ANN)
    fake.say(presence="a", subjects=[{**ANN, "connections": []}], count=1, connections=0)
    page.wait_for_function("() => noticed.a.length === 5")
    news = [{"type": "left", **ANN}, {"type": "left", **BOB}, {"type": "joined", **ANN}]
    assert page.evaluate("noticed.a") == [
        {"type": "present", "count": 1, "subjects": [ANN]},
        {"type": "joined", **BOB},
        *news,
    ]
    present = {"type": "present", "count": 2, "subjects": [ANN, BOB]}
    assert page.evaluate("noticed.b") == [present, *news]
    # So many that they are only counted.
    fake.say(presence="a", subjects=None, count=2000, connections=2500)
    fake.say(joined="a", **BOB)
    page.wait_for_function("() => noticed.a.length === 6")
    counted = {"count": 2000, "subjects": None}
    assert page.evaluate("noticed.a.at(-1)") == {"type": "present", **counted}
    assert page.evaluate("handles.a.presence()") == counted


def test_presence_in_polls(page: Page, fake: Fake) -> None:
    """Over long polling, the whole lists of the server are told as changes."""
    connect(page, transports=["longpoll"])
    follow(page, "a", presence=True)
    wait_for_topic(page, "a")
    lists: list[list[dict[str, Any]]] = [[ANN], [ANN, BOB], [BOB]]
    for subjects in lists:
        fake.say(presence="a", subjects=subjects, count=len(subjects), connections=1)
        page.wait_for_function(
            "(count) => handles.a.presence()?.count === count", arg=len(subjects)
        )
        page.wait_for_function(
            "(subject) => handles.a.presence().subjects.at(-1).subject === subject",
            arg=subjects[-1]["subject"],
        )
    assert page.evaluate("noticed.a") == [
        {"type": "present", "count": 1, "subjects": [ANN]},
        {"type": "joined", **BOB},
        {"type": "left", **ANN},
    ]
    asked = "\n".join(map(str, fake.asked))
    versions = re.findall(r"presence=(\d+)", asked)
    assert versions[0] == "1"
    # Of no list, of nobody, and of the first two; the poll after the last may be still to come.
    assert len(set(versions)) in (4, 5)


def test_after_close(page: Page, fake: Fake) -> None:
    """A connection that is closed stays closed, as do subscriptions that come after that."""
    connect(page)
    page.evaluate("connection.close()")
    follow(page, "a")
    assert page.evaluate("[handles.a.state, opened.a]") == [CLOSED_BY_PAGE, [CLOSED_BY_PAGE]]
    unfollow(page, "a")
    page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_for_timeout(100)
    assert fake.asked == []


def test_callback_errors(page: Page, fake: Fake, console_errors: list[str]) -> None:
    """An error in one part's callback is reported, and the other parts get everything."""
    connect(page)
    page.evaluate(
        """() => {
          connection.subscribe("a", ({ data }) => { throw new Error(`bad ${data}`); });
          follow("a");
        }"""
    )
    wait_for_topic(page, "a")
    fake.publish("a", 1)
    fake.publish("a", 2)
    wait_for_data(page, "a", [1, 2])
    assert console_errors == ["bad 1", "bad 2"]
