"""Revoking over a real Redis: at all nodes, also at one that was without Redis meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer

# Timeout of single steps, in seconds.
PATIENCE = 60.0


class Nodes:
    """Two daemons over one Redis."""

    def __init__(self, server: RedisServer, daemons: list[DaemonProcess], stack: ExitStack) -> None:
        self.server = server
        self.daemons = daemons
        self._stack = stack

    def subscribe(self) -> list[ClientConnection]:
        """Subscribe at each node; return the connections."""
        clients: list[ClientConnection] = []
        subprotocols: Any = ["pushd.v1"]
        for daemon in self.daemons:
            url = f"ws://{urlsplit(daemon.url).netloc}/topics/rooms/1"
            connecting: Any = connect(
                url, subprotocols=subprotocols, proxy=None, open_timeout=PATIENCE
            )
            clients.append(self._stack.enter_context(connecting))
            assert "subscribed" in clients[-1].recv(PATIENCE)
        return clients

    def revoke(self) -> dict[str, Any]:
        """Revoke at the first node, as soon as Redis can be reached."""
        url = f"{control_url_of(self.daemons[0])}subscriptions?topic=rooms/*"
        deadline = monotonic() + PATIENCE
        while True:
            try:
                with urlopen(Request(url, method="DELETE"), timeout=PATIENCE) as answer:
                    return dict(json.load(answer))
            except HTTPError as error:
                assert error.code == 503
                error.close()
                assert monotonic() < deadline
                sleep(0.1)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Run a Redis and two daemons."""
    with RedisServer() as server, ExitStack() as stack:
        options = ["--broker", server.url, "--control", "tcp:0:interface=127.0.0.1"]
        daemons = [DaemonProcess(options, directory=tmp_path) for _ in range(2)]
        for daemon in daemons:
            stack.enter_context(daemon)
            daemon.wait_for("connected to Redis at")
        yield Nodes(server, daemons, stack)


def test_revoke(nodes: Nodes) -> None:
    """What is revoked at one node ends at all of them, and is counted where it was asked."""
    clients = nodes.subscribe()
    assert nodes.revoke() == {"ended": 1}
    for client in clients:
        assert_revoked(client)


def test_lost_connections(nodes: Nodes) -> None:
    """A node that has lost its connections to Redis learns what was revoked meanwhile."""
    for _ in range(3):
        clients = nodes.subscribe()
        for kind in ("pubsub", "normal"):
            nodes.server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        nodes.revoke()
        for client in clients:
            assert_revoked(client)


def assert_revoked(client: ClientConnection) -> None:
    """Check that a connection is closed, as its permission was revoked."""
    with pytest.raises(ConnectionClosed) as raised:
        client.recv(PATIENCE)
    assert raised.value.rcvd is not None
    assert (raised.value.rcvd.code, raised.value.rcvd.reason) == (1008, "permission revoked")
