"""Starlette."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.live.asgi.client import PATIENCE, Server, receive_json, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the application."""
    folder = tmp_path_factory.mktemp("starlette")
    (folder / "big.txt").write_text("0123456789" * 30_000)
    with serving(
        "starlette_application:application", folder, environment={"STATIC": str(folder)}
    ) as server:
        yield server
    server.daemon.wait_for("the application has stopped")


def wait_for_done(server: Server, sign: str) -> None:
    """Wait until the application has done something."""
    deadline = monotonic() + PATIENCE
    while sign not in server.http.get("/done").json():
        assert monotonic() < deadline
        sleep(0.05)


def test_state(server: Server) -> None:
    """Requests have what the lifespan keeps, through the middleware."""
    answer = server.http.get("/state")
    assert answer.json() == {"number": 7}
    assert answer.headers["x-middleware"] == "yes"


def test_static_files(server: Server) -> None:
    """Files are sent whole, compressed, in ranges, and not again if they have not changed."""
    whole = server.http.get("/static/big.txt", headers={"Accept-Encoding": "identity"})
    assert len(whole.content) == 300_000
    assert server.http.get("/static/big.txt").headers["content-encoding"] == "gzip"
    part = server.http.get(
        "/static/big.txt", headers={"Range": "bytes=5-9", "Accept-Encoding": "identity"}
    )
    assert (part.status_code, part.text) == (206, "56789")
    tag = {"If-None-Match": whole.headers["etag"]}
    assert server.http.get("/static/big.txt", headers=tag).status_code == 304
    assert server.http.head("/static/big.txt").content == b""
    assert server.http.get("/static/none.txt").status_code == 404


def test_stream(server: Server) -> None:
    """A response without a length arrives part by part."""
    with server.http.stream("GET", "/stream") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert "".join(answer.iter_text()) == "".join(f"part {n}\n" for n in range(5))


def test_client_leaves(server: Server) -> None:
    """A stream ends when its client leaves."""
    with server.http.stream("GET", "/endless") as answer:
        next(answer.iter_raw())
    wait_for_done(server, "left")


def test_background(server: Server) -> None:
    """What follows the response runs."""
    assert server.http.get("/background").text == "soon"
    wait_for_done(server, "background")


def test_uploads(server: Server) -> None:
    """Forms with files and streamed bodies are read."""
    answer = server.http.post("/upload", files={"file": ("a.bin", bytes(900_000))})
    assert answer.json() == {"name": "a.bin", "size": 900_000}
    parts = (bytes(100_000) for _ in range(9))
    assert server.http.put("/streamed", content=parts).json() == {"size": 900_000}


def test_errors(server: Server) -> None:
    """Exception handlers answer, and so do wrong methods and paths."""
    assert server.http.get("/failing").text == "nothing here"
    assert server.http.post("/state").status_code == 405
    assert server.http.get("/nowhere").status_code == 404


def test_redirect(server: Server) -> None:
    """URLs that the application makes lead back to it."""
    assert server.http.get("/redirect", follow_redirects=True).json() == {"number": 7}


def test_websocket(server: Server) -> None:
    """An endpoint gets its events; headers and subprotocol are in the 101."""
    with server.connect("/echo", subprotocols=[Subprotocol("one")]) as websocket:
        assert websocket.subprotocol == "one"
        assert websocket.response is not None
        assert websocket.response.headers["x-number"] == "7"
        websocket.send('{"a": 1}')
        assert receive_json(websocket) == {"you": {"a": 1}}
        websocket.close(4321)
    wait_for_done(server, "closed with 4321")


def test_denial(server: Server) -> None:
    """A response that refuses the handshake reaches the client; so does a path that is none."""
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/deny")
    assert raised.value.response.status_code == 401
    assert raised.value.response.body == b'{"error":"no"}'
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/nowhere")
    assert raised.value.response.status_code == 403
