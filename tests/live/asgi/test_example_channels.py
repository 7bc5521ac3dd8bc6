"""The example for Channels, started as its README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.live.asgi.client import EXAMPLES, PATIENCE, Server, receive_json, serving_example
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module", params=["memory", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Serve the example, with groups in memory or in Redis."""
    if request.param == "memory":
        with serving_example("channels") as server:
            yield server
        return
    with RedisServer() as redis:
        environment = {"REDIS_URL": f"unix://{redis.directory / 'redis.sock'}"}
        with serving_example("channels", environment) as server:
            yield server


def say(websocket: ClientConnection, text: str) -> None:
    """Send a message, as the page does."""
    websocket.send(json.dumps({"message": text}))


def test_pages(server: Server) -> None:
    """The pages are those of the site; each opens the WebSocket of its room."""
    assert server.http.get("/", follow_redirects=True).url.path == "/chat/"
    for path, kind in (("/chat/lobby/", "chat"), ("/chat/lobby/topic/", "topic")):
        page = server.http.get(path).text
        assert '<script id="room-name" type="application/json">"lobby"</script>' in page
        assert f'<script id="kind" type="application/json">"{kind}"</script>' in page
    assert server.http.get("/pushd/pushd.css").status_code == 200


@pytest.mark.parametrize("kind", ["chat", "topic"])
def test_chat(server: Server, kind: str) -> None:
    """All in a room get what is said there, in order, and those in other rooms nothing."""

    def enter(room: str) -> ClientConnection:
        return server.connect(f"/ws/{kind}/{room}/")

    with enter("lobby") as ann, enter("lobby") as bob, enter("attic") as eve:
        # Each hears its own words first, so all have joined their rooms.
        for one, text in ((eve, "quiet"), (bob, "here")):
            say(one, text)
            assert receive_json(one) == {"message": text}
        say(ann, "hello")
        say(ann, "wörld")
        heard = [receive_json(ann) for _ in range(2)]
        if heard[0] == {"message": "here"}:
            heard = [heard[1], receive_json(ann)]
        assert heard == [{"message": "hello"}, {"message": "wörld"}]
        assert [receive_json(bob) for _ in range(2)] == heard
        say(eve, "still")
        assert receive_json(eve) == {"message": "still"}


def test_topic(server: Server) -> None:
    """What is said in a room that is a topic can be read after a break."""
    with server.connect("/ws/topic/hall/") as websocket:
        for text in ("one", "two"):
            say(websocket, text)
            assert receive_json(websocket) == {"message": text}
    first = server.http.get("/topics/chat/hall?wait=0").json()["id"]
    missed = server.http.get(f"/topics/chat/hall?wait=0&after={first.partition(':')[0]}:1").json()
    assert [one["data"] for one in missed["publications"]] == ['{"message":"two"}']


def test_refused(server: Server) -> None:
    """Pages of other sites cannot open a WebSocket."""
    with pytest.raises(InvalidStatus) as raised:
        server.connect("/ws/chat/lobby/", origin=Origin("https://elsewhere.example"))
    assert raised.value.response.status_code == 403


def test_runpushd() -> None:
    """``manage.py runpushd`` serves the application that the settings name, and static files."""
    command = [sys.executable, "manage.py", "runpushd", "--noreload", "0", "--", "--control=none"]
    with subprocess.Popen(
        command, cwd=EXAMPLES / "channels", stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            found = (re.search(r"listening on http://(\S+)/", line) for line in process.stdout)
            place = next(match[1] for match in found if match)
            with connect(f"ws://{place}/ws/chat/lobby/", origin=Origin(f"http://{place}")) as one:
                say(one, "hello")
                assert receive_json(one) == {"message": "hello"}
        finally:
            process.terminate()
            process.wait(PATIENCE)
    assert process.returncode == 0
