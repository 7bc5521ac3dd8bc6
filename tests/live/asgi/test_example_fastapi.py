"""The FastAPI example, started as its README says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.live.asgi.client import EXAMPLES, Server, receive_json, serving_example

STEPS = ["paid", "packed", "shipped", "delivered"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Serve the example."""
    with serving_example("fastapi") as server:
        yield server


def order(server: Server, item: str = "a book") -> Any:
    """Order something; return what the page shows."""
    answer = server.http.post("/orders", json={"item": item})
    assert answer.status_code == 201
    return answer.json()


def test_page(server: Server) -> None:
    """The page and its script are served, and the schema by FastAPI."""
    web = EXAMPLES / "fastapi" / "web"
    assert server.http.get("/").content == (web / "index.html").read_bytes()
    assert server.http.get("/orders.js").content == (web / "orders.js").read_bytes()
    assert "subscribe" in server.http.get("/pushd/pushd.js").text
    assert server.http.get("/openapi.json").json()["info"]["title"] == "Orders"


def test_status(server: Server) -> None:
    """A page that subscribes after its last id gets each change once, and no other order's."""
    shown, _ = order(server), order(server, "another one")
    id, after = shown["order"]["id"], quote(shown["after"])
    assert shown["order"]["status"] == "received"
    with server.connect(f"/topics/orders/{id}?after={after}") as websocket:
        received = [receive_json(websocket)["status"] for _ in STEPS]
    assert received == STEPS
    later = server.http.get(f"/orders/{id}").json()
    assert later["order"]["status"] == "delivered"
    # A page that comes now has missed nothing; one that went early gets all at once.
    path = f"/topics/orders/{id}?wait=0&after="
    assert server.http.get(f"{path}{quote(later['after'])}").json()["publications"] == []
    missed = server.http.get(f"{path}{after}").json()
    assert missed["recovered"]
    assert [one["data"] for one in missed["publications"]] == [
        f'{{"status":"{step}"}}' for step in STEPS
    ]


def test_stream(server: Server) -> None:
    """The topic of an order is an event stream as well."""
    shown = order(server)
    path = f"/topics/orders/{shown['order']['id']}"
    headers = {"Accept": "text/event-stream", "Last-Event-ID": shown["after"]}
    with server.http.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        wanted = (f'data: {{"status":"{step}"}}' for step in STEPS)
        lines = answer.iter_lines()
        # "in" reads lines until it has found one.
        assert all(line in lines for line in wanted)


def test_mistakes(server: Server) -> None:
    """What FastAPI refuses is refused."""
    assert server.http.post("/orders", json={"item": ""}).status_code == 422
    assert server.http.get("/orders/none").status_code == 404
