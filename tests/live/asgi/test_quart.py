"""Quart."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.live.asgi.client import PATIENCE, Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the application."""
    with serving("quart_application:application", tmp_path_factory.mktemp("quart")) as server:
        yield server
    server.daemon.wait_for("the application has stopped")


def wait_for_done(server: Server, sign: str) -> None:
    """Wait until the application has done something."""
    deadline = monotonic() + PATIENCE
    while sign not in server.http.get("/done").json():
        assert monotonic() < deadline
        sleep(0.05)


def test_pages(server: Server) -> None:
    """Pages, threads, sessions and background tasks work."""
    assert server.http.get("/done").json()[0] == "started"
    assert [server.http.get("/count").json()["count"] for _ in range(3)] == [1, 2, 3]
    assert server.http.get("/sync").text == "sync"
    assert server.http.post("/background").text == "soon"
    wait_for_done(server, "background")
    assert server.http.get("/nowhere").status_code == 404


def test_streams(server: Server) -> None:
    """Bodies are streamed in both directions."""
    assert server.http.get("/stream").text == "".join(f"part {n}\n" for n in range(5))
    parts = (bytes(100_000) for _ in range(9))
    assert server.http.put("/upload", content=parts).json() == {"size": 900_000}


def test_websocket(server: Server) -> None:
    """One task receives and another sends; both are cancelled at the end."""
    with server.connect("/echo", subprotocols=[Subprotocol("two")]) as websocket:
        assert websocket.subprotocol == "two"
        assert websocket.response is not None
        assert websocket.response.headers["x-quart"] == "yes"
        for text in ("a", "b", "c"):
            websocket.send(text)
            assert websocket.recv(PATIENCE) == text
    wait_for_done(server, "closed")


def test_close(server: Server) -> None:
    """Code and reason of the application reach the client."""
    with server.connect("/close") as websocket:
        with pytest.raises(ConnectionClosed) as raised:
            websocket.recv(PATIENCE)
        assert raised.value.rcvd is not None
        assert (raised.value.rcvd.code, raised.value.rcvd.reason) == (4002, "enough")


def test_denial(server: Server) -> None:
    """A response that refuses the handshake reaches the client."""
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/deny")
    assert raised.value.response.status_code == 401
