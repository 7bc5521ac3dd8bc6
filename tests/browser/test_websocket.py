"""The browser's WebSocket object against pushd, member by member."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.support.daemon_process import DaemonProcess

# Shared by the scripts: functions to connect, and to wait for a message or the close.
TOOLS = """
const url = new URL("/echo/", location.href.replace("http", "ws")).href;
const nextEvent = (socket, type) => new Promise((resolve) => {
  socket.addEventListener(type, resolve, { once: true });
});
const nextMessage = async (socket) => (await nextEvent(socket, "message")).data;
const closed = async (socket) => {
  const { code, reason, wasClean } = await nextEvent(socket, "close");
  return { code, reason, wasClean };
};
const open = async (...protocols) => {
  const socket = new WebSocket(url, protocols);
  await nextEvent(socket, "open");
  return socket;
};
"""


@pytest.fixture
def echo_page(page: Page, echo_daemon: DaemonProcess) -> Page:
    """Open a page of the daemon, for the scripts to run in."""
    page.goto(echo_daemon.url)
    return page


def run(page: Page, script: str, *arguments: Any) -> Any:
    """Run a script in the page, with TOOLS and ``given``, and return its result."""
    return page.evaluate(f"async (given) => {{ {TOOLS} {script} }}", list(arguments))


def test_lifecycle(echo_page: Page) -> None:
    """The handlers are called in order, and readyState goes through its four values."""
    assert run(
        echo_page,
        """
        const events = [];
        const socket = new WebSocket(url);
        const note = (name) => events.push([name, socket.readyState]);
        note("new");
        socket.onopen = () => { note("onopen"); socket.send("hello"); };
        socket.onmessage = () => { note("onmessage"); socket.close(); note("close()"); };
        socket.onerror = () => note("onerror");
        await new Promise((resolve) => {
          socket.onclose = () => { note("onclose"); resolve(); };
        });
        return events;
        """,
    ) == [["new", 0], ["onopen", 1], ["onmessage", 1], ["close()", 2], ["onclose", 3]]


def test_onerror(echo_page: Page) -> None:
    """A refused handshake calls onerror, then onclose with 1006, and never onopen."""
    assert run(
        echo_page,
        """
        const events = [];
        const socket = new WebSocket(new URL("/nowhere/", url));
        socket.onopen = () => events.push("onopen");
        socket.onerror = ({ type }) => events.push("onerror", type, socket.readyState);
        return await new Promise((resolve) => {
          socket.onclose = ({ code, wasClean }) => resolve([...events, "onclose", code, wasClean]);
        });
        """,
    ) == ["onerror", "error", 3, "onclose", 1006, False]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"code": 1005, "reason": "", "wasClean": True}),
        ([1000], {"code": 1000, "reason": "", "wasClean": True}),
        ([3001, "genug für heute"], {"code": 3001, "reason": "genug für heute", "wasClean": True}),
    ],
)
def test_close(echo_page: Page, arguments: Sequence[object], expected: dict[str, object]) -> None:
    """close() closes cleanly, and the server echoes the code and the reason."""
    script = """
        const socket = await open();
        socket.close(...given);
        return await closed(socket);
    """
    assert run(echo_page, script, *arguments) == expected


@pytest.mark.parametrize("code", [1001, 2999, 5000])
def test_close_invalid_code(echo_page: Page, code: int) -> None:
    """close() throws for codes other than 1000 and 3000 to 4999; the socket stays open."""
    assert run(
        echo_page,
        """
        const socket = await open();
        const answer = nextMessage(socket);
        let error;
        try { socket.close(...given); } catch ({ name }) { error = name; }
        socket.send("still open");
        return [error, await answer];
        """,
        code,
    ) == ["InvalidAccessError", "still open"]


@pytest.mark.parametrize("text", ["", "hello", "příliš žluťoučký 🐎", "a\0b", "x" * 100_000])
def test_send_text(echo_page: Page, text: str) -> None:
    """Text makes the round trip unchanged."""
    script = """
        const socket = await open();
        const answer = nextMessage(socket);
        socket.send(given[0]);
        return await answer;
    """
    assert run(echo_page, script, text) == text


@pytest.mark.parametrize("wrap", ["bytes", "bytes.buffer", "new Blob([bytes])"])
@pytest.mark.parametrize("data", [b"", bytes(range(256)), b"\xff" * 100_000])
def test_send_binary(echo_page: Page, wrap: str, data: bytes) -> None:
    """Bytes make the round trip unchanged, sent as a view, an ArrayBuffer or a Blob."""
    answer = run(
        echo_page,
        f"""
        const bytes = Uint8Array.from(atob(given[0]), (letter) => letter.charCodeAt(0));
        const socket = await open();
        socket.binaryType = "arraybuffer";
        const answer = nextMessage(socket);
        socket.send({wrap});
        const letters = Array.from(new Uint8Array(await answer), (n) => String.fromCharCode(n));
        return btoa(letters.join(""));
        """,
        base64.b64encode(data).decode(),
    )
    assert base64.b64decode(answer) == data


def test_send_in_order(echo_page: Page) -> None:
    """Text and binary messages come back in the order in which they were sent."""
    assert run(
        echo_page,
        """
        const socket = await open();
        socket.binaryType = "arraybuffer";
        const answers = [];
        const all = new Promise((resolve) => {
          socket.onmessage = ({ data }) => {
            answers.push(typeof data === "string" ? data : new Uint8Array(data)[0]);
            if (answers.length === 40) resolve();
          };
        });
        for (let n = 0; n < 40; n += 1) socket.send(n % 2 ? Uint8Array.of(n) : String(n));
        await all;
        return answers;
        """,
    ) == [n if n % 2 else str(n) for n in range(40)]


def test_send_too_early(echo_page: Page) -> None:
    """send() before the socket is open throws; the socket opens all the same."""
    assert run(
        echo_page,
        """
        const socket = new WebSocket(url);
        let error;
        try { socket.send("early"); } catch ({ name }) { error = name; }
        await nextEvent(socket, "open");
        const answer = nextMessage(socket);
        socket.send("in time");
        return [error, await answer];
        """,
    ) == ["InvalidStateError", "in time"]


def test_url(echo_page: Page, echo_daemon: DaemonProcess) -> None:
    """The property url is the absolute URL."""
    url = run(echo_page, "return (await open()).url;")
    assert url == f"{echo_daemon.url.replace('http', 'ws')}echo/"


@pytest.mark.parametrize(
    ("offered", "chosen"), [([], ""), (["demo"], "demo"), (["other", "demo"], "demo")]
)
def test_protocol(echo_page: Page, offered: Sequence[str], chosen: str) -> None:
    """The property protocol is the subprotocol that the server chose."""
    assert run(echo_page, "return (await open(...given)).protocol;", *offered) == chosen


def test_binary_type(echo_page: Page) -> None:
    """The property binaryType chooses Blob or ArrayBuffer for bytes; text is always a string."""
    assert run(
        echo_page,
        """
        const socket = await open();
        const kinds = [socket.binaryType];
        const echo = async (data) => {
          const answer = nextMessage(socket);
          socket.send(data);
          kinds.push((await answer).constructor.name);
        };
        await echo(Uint8Array.of(1, 2, 3));
        socket.binaryType = "arraybuffer";
        kinds.push(socket.binaryType);
        await echo(Uint8Array.of(1, 2, 3));
        await echo("text");
        socket.binaryType = "blob";
        await echo(Uint8Array.of(1, 2, 3));
        return kinds;
        """,
    ) == ["blob", "Blob", "arraybuffer", "ArrayBuffer", "String", "Blob"]


def test_buffered_amount(echo_page: Page) -> None:
    """The property bufferedAmount drops to 0 after a send, but not after close()."""
    before, sent, once, twice = run(
        echo_page,
        """
        const socket = await open();
        const amounts = [socket.bufferedAmount];
        const answer = nextMessage(socket);
        socket.send("x".repeat(1000));
        await answer;
        amounts.push(socket.bufferedAmount);
        socket.close();
        for (let n = 0; n < 2; n += 1) {
          socket.send("x".repeat(1000));
          amounts.push(socket.bufferedAmount);
        }
        return amounts;
        """,
    )
    assert before == sent == 0
    # Chromium counts the frame's header as well.
    assert 1000 <= once < 1020
    assert twice == 2 * once


def test_extensions(echo_page: Page) -> None:
    """The property extensions names permessage-deflate, and it works in both directions."""
    extensions, same = run(
        echo_page,
        """
        const socket = await open();
        const text = "again and ".repeat(10_000);
        const answers = [];
        for (let n = 0; n < 3; n += 1) {
          const answer = nextMessage(socket);
          socket.send(text);
          answers.push(await answer === text);
        }
        return [socket.extensions, answers];
        """,
    )
    assert extensions.split(";")[0] == "permessage-deflate"
    assert same == [True, True, True]
