"""Compressed messages of real clients, which keep their context from one message to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

from tests.live.attacked_daemon import run_daemon
from tests.live.raw_client import TIMEOUT
from tests.support.daemon_process import DaemonProcess

TEXT = "".join(f"line {number * number}\n" for number in range(3000))


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """Run a daemon."""
    with run_daemon() as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        # As Firefox and Safari offer it, and the clients of Tornado and Mojolicious.
        ({"client_max_window_bits": None}, ""),
        # As Chrome and websockets do.
        ({"client_max_window_bits": True}, "; client_max_window_bits=12"),
        (
            {"client_no_context_takeover": True, "client_max_window_bits": None},
            "; client_no_context_takeover",
        ),
    ],
)
def test_several_messages(daemon: DaemonProcess, offer: dict[str, Any], answer: str) -> None:
    """The second message, which refers to the first, arrives, and so do all after it."""
    url = daemon.url.replace("http", "ws", 1) + "echo/"
    extensions = [ClientPerMessageDeflateFactory(**offer)]
    with connect(url, extensions=extensions, proxy=None, open_timeout=TIMEOUT) as client:
        assert client.response is not None
        answered = client.response.headers["Sec-WebSocket-Extensions"]
        assert answered == f"permessage-deflate{answer}"
        for text in (TEXT, "short", TEXT, TEXT[-300:], TEXT[:300], "", TEXT):
            client.send(text)
            assert client.recv(TIMEOUT) == text
