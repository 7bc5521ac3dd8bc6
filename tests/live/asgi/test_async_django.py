"""Async views of Django that serve WebSockets, with real threads and a real database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.live.asgi.client import PATIENCE, Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the site."""
    folder = tmp_path_factory.mktemp("async-django")
    with serving("async_django_site:application", folder) as server:
        yield server


def test_many(server: Server) -> None:
    """A hundred views talk, ask the database, and need no thread each."""
    before = server.http.get("/threads/").json()
    with ExitStack() as stack:
        sockets = [stack.enter_context(server.connect("/rooms/lobby/")) for _ in range(100)]
        for socket in sockets:
            socket.send("count")
        assert [socket.recv(PATIENCE) for socket in sockets] == ["nobody: 1"] * 100
        sockets[0].send("hello")
        assert [socket.recv(PATIENCE) for socket in sockets] == ["hello"] * 100
        assert server.http.get("/threads/").json() <= before + 3


def test_users(server: Server) -> None:
    """The user of the cookie is the view's, and PUSHD_AUTHORIZE decides who reads topics."""
    assert server.http.get("/topics/rooms/lobby?wait=0").status_code == 403
    server.http.get("/login/")
    assert server.http.get("/topics/rooms/lobby?wait=0").status_code == 200
    cookie = {"Cookie": f"sessionid={server.http.cookies['sessionid']}"}
    with server.connect("/rooms/lobby/", additional_headers=cookie) as socket:
        socket.send("count")
        assert socket.recv(PATIENCE) == "ada: 1"
