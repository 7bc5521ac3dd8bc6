"""A GraphQL subscription over graphql-transport-ws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import pytest
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from tests.live.asgi.client import PATIENCE, Server, receive_json, serving

PROTOCOL = Subprotocol("graphql-transport-ws")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the application."""
    with serving("graphql_application:application", tmp_path_factory.mktemp("graphql")) as server:
        yield server


def send(websocket: ClientConnection, **message: Any) -> None:
    """Send a message."""
    websocket.send(json.dumps(message))


def begin(websocket: ClientConnection, id: str, to: int) -> None:
    """Begin a subscription."""
    assert websocket.subprotocol == PROTOCOL
    send(websocket, type="connection_init")
    assert receive_json(websocket)["type"] == "connection_ack"
    query = f"subscription {{ count(to: {to}) }}"
    send(websocket, id=id, type="subscribe", payload={"query": query})


def test_query(server: Server) -> None:
    """A query over HTTP is answered."""
    answer = server.http.post("/", json={"query": "{ stopped }"})
    assert answer.json()["data"]["stopped"] is not None


def test_subscription(server: Server) -> None:
    """A subscription sends all its values, and its end."""
    with server.connect("/", subprotocols=[PROTOCOL]) as websocket:
        begin(websocket, "1", 3)
        received = [receive_json(websocket) for _ in range(4)]
    assert [one["payload"]["data"]["count"] for one in received[:3]] == [0, 1, 2]
    assert received[3]["type"] == "complete"


def test_client_leaves(server: Server) -> None:
    """A subscription ends when its client leaves, or when it says so."""
    with server.connect("/", subprotocols=[PROTOCOL]) as websocket:
        begin(websocket, "1", 1_000_001)
        receive_json(websocket)
        send(websocket, id="1", type="complete")
        query = "subscription { count(to: 1000002) }"
        send(websocket, id="2", type="subscribe", payload={"query": query})
        while receive_json(websocket)["id"] != "2":
            pass
    deadline = monotonic() + PATIENCE
    stopped: list[int] = []
    while set(stopped) != {1_000_001, 1_000_002}:
        assert monotonic() < deadline, stopped
        sleep(0.05)
        answer = server.http.post("/", json={"query": "{ stopped }"})
        stopped = answer.json()["data"]["stopped"]
