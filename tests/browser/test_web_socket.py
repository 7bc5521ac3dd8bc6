"""The browser's WebSocket object, member by member, against pushd."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.daemon_process import DaemonProcess

# What the scripts below share: open() connects, said() waits for one message, closed() for the end.
TOOLS = """
const there = new URL("/echo/", location.href.replace("http", "ws")).href;
const happens = (socket, name) => new Promise((resolve) => {
  socket.addEventListener(name, resolve, { once: true });
});
const said = async (socket) => (await happens(socket, "message")).data;
const closed = async (socket) => {
  const { code, reason, wasClean } = await happens(socket, "close");
  return { code, reason, wasClean };
};
const open = async (...protocols) => {
  const socket = new WebSocket(there, protocols);
  await happens(socket, "open");
  return socket;
};
"""


@pytest.fixture
def here(page: Page, echo_daemon: DaemonProcess) -> Page:
    """Open a page that comes from the daemon, for the scripts to run in."""
    page.goto(echo_daemon.url)
    return page


def run(page: Page, script: str, *arguments: Any) -> Any:
    """Run a script with the tools in a page, and give what it returns."""
    return page.evaluate(f"async (given) => {{ {TOOLS} {script} }}", list(arguments))


def test_life(here: Page) -> None:
    """The four handlers are called in order, and readyState goes through its four values."""
    assert run(
        here,
        """
        const life = [];
        const socket = new WebSocket(there);
        const note = (name) => life.push([name, socket.readyState]);
        note("new");
        socket.onopen = () => { note("onopen"); socket.send("hello"); };
        socket.onmessage = () => { note("onmessage"); socket.close(); note("close()"); };
        socket.onerror = () => note("onerror");
        await new Promise((resolve) => {
          socket.onclose = () => { note("onclose"); resolve(); };
        });
        return life;
        """,
    ) == [["new", 0], ["onopen", 1], ["onmessage", 1], ["close()", 2], ["onclose", 3]]


def test_on_error(here: Page) -> None:
    """A handshake that is refused calls onerror, then onclose with 1006, and never onopen."""
    assert run(
        here,
        """
        const life = [];
        const socket = new WebSocket(new URL("/nowhere/", there));
        socket.onopen = () => life.push("onopen");
        socket.onerror = ({ type }) => life.push("onerror", type, socket.readyState);
        return await new Promise((resolve) => {
          socket.onclose = ({ code, wasClean }) => resolve([...life, "onclose", code, wasClean]);
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
def test_close(here: Page, arguments: Sequence[object], expected: dict[str, object]) -> None:
    """close() ends cleanly, and the server's answer agrees with the code that was given."""
    script = """
        const socket = await open();
        socket.close(...given);
        return await closed(socket);
    """
    assert run(here, script, *arguments) == expected


@pytest.mark.parametrize("code", [1001, 2999, 5000])
def test_close_refuses(here: Page, code: int) -> None:
    """A page may close with 1000 and 3000 to 4999 only; after a refusal the socket works on."""
    assert run(
        here,
        """
        const socket = await open();
        const answer = said(socket);
        let error;
        try { socket.close(...given); } catch ({ name }) { error = name; }
        socket.send("still here");
        return [error, await answer];
        """,
        code,
    ) == ["InvalidAccessError", "still here"]


@pytest.mark.parametrize("text", ["", "hello", "příliš žluťoučký 🐎", "a\0b", "x" * 100_000])
def test_send_text(here: Page, text: str) -> None:
    """send() brings text there and back."""
    script = """
        const socket = await open();
        const answer = said(socket);
        socket.send(given[0]);
        return await answer;
    """
    assert run(here, script, text) == text


@pytest.mark.parametrize("wrap", ["bytes", "bytes.buffer", "new Blob([bytes])"])
@pytest.mark.parametrize("data", [b"", bytes(range(256)), b"\xff" * 100_000])
def test_send_binary(here: Page, wrap: str, data: bytes) -> None:
    """send() brings bytes there and back, whatever they are wrapped in."""
    answer = run(
        here,
        f"""
        const bytes = Uint8Array.from(atob(given[0]), (letter) => letter.charCodeAt(0));
        const socket = await open();
        socket.binaryType = "arraybuffer";
        const answer = said(socket);
        socket.send({wrap});
        const letters = Array.from(new Uint8Array(await answer), (n) => String.fromCharCode(n));
        return btoa(letters.join(""));
        """,
        base64.b64encode(data).decode(),
    )
    assert base64.b64decode(answer) == data


def test_send_in_order(here: Page) -> None:
    """Messages of both kinds come back in the order in which they were sent."""
    assert run(
        here,
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


def test_send_too_early(here: Page) -> None:
    """send() before the socket is open raises, and does not harm it."""
    assert run(
        here,
        """
        const socket = new WebSocket(there);
        let error;
        try { socket.send("too early"); } catch ({ name }) { error = name; }
        await happens(socket, "open");
        const answer = said(socket);
        socket.send("in time");
        return [error, await answer];
        """,
    ) == ["InvalidStateError", "in time"]


def test_url(here: Page, echo_daemon: DaemonProcess) -> None:
    """The property url is the address that was opened, whole."""
    url = run(here, "return (await open()).url;")
    assert url == f"{echo_daemon.url.replace('http', 'ws')}echo/"


@pytest.mark.parametrize(
    ("offered", "chosen"), [([], ""), (["demo"], "demo"), (["other", "demo"], "demo")]
)
def test_protocol(here: Page, offered: Sequence[str], chosen: str) -> None:
    """The property protocol is the subprotocol that the server chose."""
    assert run(here, "return (await open(...given)).protocol;", *offered) == chosen


def test_binary_type(here: Page) -> None:
    """Bytes come as a Blob, or as an ArrayBuffer, as the page likes; text is always a string."""
    assert run(
        here,
        """
        const socket = await open();
        const kinds = [socket.binaryType];
        const ask = async (data) => {
          const answer = said(socket);
          socket.send(data);
          kinds.push((await answer).constructor.name);
        };
        await ask(Uint8Array.of(1, 2, 3));
        socket.binaryType = "arraybuffer";
        kinds.push(socket.binaryType);
        await ask(Uint8Array.of(1, 2, 3));
        await ask("text");
        socket.binaryType = "blob";
        await ask(Uint8Array.of(1, 2, 3));
        return kinds;
        """,
    ) == ["blob", "Blob", "arraybuffer", "ArrayBuffer", "String", "Blob"]


def test_buffered_amount(here: Page) -> None:
    """What is sent leaves bufferedAmount; what is sent after close() stays in it."""
    before, sent, once, twice = run(
        here,
        """
        const socket = await open();
        const amounts = [socket.bufferedAmount];
        const answer = said(socket);
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
    # Chromium counts a few bytes of framing as well.
    assert 1000 <= once < 1020
    assert twice == 2 * once


def test_extensions(here: Page) -> None:
    """The property extensions names the compression that was agreed on, and it works both ways."""
    extensions, same = run(
        here,
        """
        const socket = await open();
        const text = "again and ".repeat(10_000);
        const answers = [];
        for (let n = 0; n < 3; n += 1) {
          const answer = said(socket);
          socket.send(text);
          answers.push(await answer === text);
        }
        return [socket.extensions, answers];
        """,
    )
    assert extensions.split(";")[0] == "permessage-deflate"
    assert same == [True, True, True]
