"""FastAPI."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus

from tests.live.asgi.client import PATIENCE, Server, receive_json, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the application."""
    folder = tmp_path_factory.mktemp("fastapi")
    args = ("--root-path", "/api", "--trusted-proxy", "127.0.0.1")
    with serving("fastapi_application:application", folder, *args) as server:
        yield server


def test_publish(server: Server) -> None:
    """A handler publishes, and so does its background task; subscribers get both, in order."""
    with server.connect("/topics/orders") as subscriber, server.connect("/feed") as feed:
        assert feed.recv(PATIENCE) == "subscribed"
        answer = server.http.post("/orders", json={"number": 1})
        assert answer.status_code == 201
        for websocket in (subscriber, feed):
            assert receive_json(websocket) == {"number": 1}
            assert receive_json(websocket) == {"packed": 1}
    after = quote(answer.json()["after"])
    missed = server.http.get(f"/topics/orders?after={after}&wait=0").json()
    assert missed["recovered"]
    assert [one["data"] for one in missed["publications"]] == ['{"packed":1}']


def test_pages(server: Server) -> None:
    """Validation, threads, errors, uploads and the schema work."""
    assert server.http.get("/sync/7").json() == {"number": 7}
    assert server.http.get("/sync/-1").status_code == 404
    assert server.http.get("/sync/x").status_code == 422
    assert server.http.post("/orders", json={}).status_code == 422
    file = {"file": ("a", bytes(500_000))}
    assert server.http.post("/file", files=file).json() == {"size": 500_000}
    assert server.http.get("/openapi.json").json()["servers"] == [{"url": "/api"}]
    assert server.http.get("/docs").status_code == 200


def test_behind_proxy(server: Server) -> None:
    """The application is told the client, the scheme and the path that the proxy tells."""
    headers = {
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example",
    }
    told = server.http.get("/where", headers=headers).json()
    assert told["client"] == "192.0.2.7"
    assert told["url"].startswith("https://")
    assert told["base"].endswith("/api/")


def test_websocket(server: Server) -> None:
    """A dependency lets a client in; tasks of the handler send as well."""
    with server.connect("/chat?token=secret") as websocket:
        websocket.send("hello")
        received = [websocket.recv(PATIENCE) for _ in range(3)]
        assert received == [f"count {n}" for n in range(3)]
        assert receive_json(websocket) == {"user": "hello"}


def test_refused(server: Server) -> None:
    """A dependency refuses a client before the WebSocket is open."""
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/chat?token=wrong")
    assert raised.value.response.status_code == 403
