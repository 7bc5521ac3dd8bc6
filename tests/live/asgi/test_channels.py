"""Django: async views, streams, Channels with both of its layers, and django-eventstream."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.typing import Origin, Subprotocol

from tests.live.asgi.client import PATIENCE, Server, receive_json, serving
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module", params=["memory", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the site, with groups in memory or over Redis."""
    folder = tmp_path_factory.mktemp("django")
    if request.param == "memory":
        with serving("django_site:application", folder) as server:
            yield server
        return
    with RedisServer() as redis:
        environment = {"LAYER": f"unix://{redis.directory / 'redis.sock'}"}
        with serving("django_site:application", folder, environment=environment) as server:
            yield server


def wait_for_end(server: Server, sign: str) -> None:
    """Wait until something has ended."""
    deadline = monotonic() + PATIENCE
    while sign not in server.http.get("/ended/").json():
        assert monotonic() < deadline
        sleep(0.05)


def log_in(server: Server) -> dict[str, str]:
    """Log in; return the header that says who it is."""
    server.http.get("/login/")
    return {"Cookie": f"sessionid={server.http.cookies['sessionid']}"}


def test_pages(server: Server) -> None:
    """Views of both kinds work, with sessions; the site publishes to topics."""
    with server.connect("/topics/visits") as subscriber:
        for visits in (1, 2):
            assert server.http.get("/page/").json() == {"visits": visits}
            assert subscriber.recv(PATIENCE) == str(visits)
    answer = server.http.post("/sync/", content=bytes(900_000))
    assert answer.json() == {"users": 1, "size": 900_000}
    assert server.http.get("/nowhere/").status_code == 404


def test_stream(server: Server) -> None:
    """A streaming response arrives part by part, and ends with its client."""
    assert server.http.get("/stream/?count=3").text == "part 0\npart 1\npart 2\n"
    with server.http.stream("GET", "/stream/?count=1000000") as answer:
        next(answer.iter_raw())
    wait_for_end(server, "stream")


def test_chat(server: Server) -> None:
    """The chat of the tutorial: all in a room get each message, and those in others none."""

    def enter(room: str) -> ClientConnection:
        return server.connect(f"/ws/chat/{room}/")

    with enter("lobby") as one, enter("lobby") as two, enter("attic") as other:
        other.send("quiet")
        assert other.recv(PATIENCE) == "quiet"
        for text in ("hello", "wörld"):
            one.send(text)
            assert [one.recv(PATIENCE), two.recv(PATIENCE)] == [text, text]
        other.send("still")
        assert other.recv(PATIENCE) == "still"
        one.close(4001)
        wait_for_end(server, "chat 4001")
    wait_for_end(server, "chat 1000")


def test_users(server: Server) -> None:
    """A consumer has the user and the session of the cookie, and refuses others."""
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/ws/json/")
    assert raised.value.response.status_code == 403
    cookie = log_in(server)
    visits = server.http.get("/page/").json()["visits"]
    protocols = [Subprotocol("json")]
    with server.connect(
        "/ws/json/", additional_headers=cookie, subprotocols=protocols
    ) as websocket:
        assert websocket.subprotocol == "json"
        websocket.send('"who"')
        assert receive_json(websocket) == {"user": "ada", "visits": visits}


def test_group(server: Server) -> None:
    """All in a group get what is sent to it; a consumer closes with its code."""
    cookie = log_in(server)

    def enter() -> ClientConnection:
        return server.connect("/ws/json/", additional_headers=cookie)

    with enter() as one, enter() as two:
        one.send('{"a": 1}')
        assert [receive_json(one), receive_json(two)] == [{"a": 1}, {"a": 1}]
        one.send('"close"')
        with pytest.raises(ConnectionClosed) as raised:
            one.recv(PATIENCE)
        assert raised.value.rcvd is not None
        assert raised.value.rcvd.code == 4003
    wait_for_end(server, "json 4003")


def test_origin(server: Server) -> None:
    """An origin that the site does not allow is refused."""
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/ws/chat/lobby/", origin=Origin("https://elsewhere.example"))
    assert raised.value.response.status_code == 403


def test_eventstream(server: Server) -> None:
    """Events of django-eventstream arrive."""
    with server.http.stream("GET", "/events/") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        while "stream-open" not in next(lines):
            pass
        assert server.http.get("/send/?text=hello").text == "sent"
        while not (line := next(lines)).startswith("data: {"):
            pass
        assert "hello" in line
