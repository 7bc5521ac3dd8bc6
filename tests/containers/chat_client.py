"""Two browsers of the site behind nginx; run as a program in the network of the services.

It prints what each has heard from the other, and at which process each was, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from socket import create_connection
from time import monotonic, sleep
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

# Seconds after which it gives up.
_TIMEOUT = 30.0

# What a browser sends that has http://localhost:8000/ open, as the compose file maps the port.
_HOST = "localhost:8000"


def ask(
    address: str, method: str, path: str, host: str, body: str | None = None
) -> tuple[int, str]:
    """Send a request to a host and port; return the status and the body of the answer."""
    connection = HTTPConnection(address, timeout=_TIMEOUT)
    connection.request(method, path, body, {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + _TIMEOUT
    while not condition():
        assert monotonic() < deadline
        sleep(0.1)


def _answers(proxy: str) -> bool:
    try:
        return ask(proxy, "GET", "/", _HOST)[0] == 200
    except OSError:
        return False


def chat(proxy: str, nodes: Sequence[str]) -> dict[str, Any]:
    """Let two browsers talk; then publish at each process, and read the topic behind nginx."""
    _wait_for(lambda: _answers(proxy))
    page = ask(proxy, "GET", "/chat/lobby/", _HOST)
    with ExitStack() as browsers:
        ann, bob = (browsers.enter_context(_join(proxy, name)) for name in ("ann", "bob"))
        # The view subscribes to the room after the handshake.
        _wait_for(lambda: all(_has_subscriber(node) for node in nodes))
        ann.send("hello")
        heard = [json.loads(one.recv(_TIMEOUT)) for one in (ann, bob)]
        connected = [json.loads(_control(node, "GET", "/connections")[1]) for node in nodes]
    published = [_control(node, "POST", "/topics/news", "news") for node in nodes]
    after = json.loads(published[0][1])["id"]
    read = ask(proxy, "GET", f"/topics/news?wait=0&after={after}", _HOST)
    return {
        "page": page,
        "heard": heard,
        "websockets": [
            [one["peer"] for one in found["connections"] if one["transport"] == "websocket"]
            for found in connected
        ],
        "published": published,
        "read": read,
    }


def _join(proxy: str, name: str) -> ClientConnection:
    host, _, port = proxy.partition(":")
    return connect(
        f"ws://{_HOST}/chat/lobby/?name={name}",
        sock=create_connection((host, int(port)), _TIMEOUT),
        origin=Origin(f"http://{_HOST}"),
        proxy=None,
    )


def _has_subscriber(node: str) -> bool:
    """Whether a process has a subscriber of the room."""
    status, body = _control(node, "GET", "/topics/chat/lobby")
    return status == 200 and bool(json.loads(body)["subscribers"])


def _control(node: str, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    # By the name of the service, as other services do.
    return ask(f"{node}:8081", method, path, "pushd:8081", body)


if __name__ == "__main__":
    json.dump(chat(sys.argv[1], sys.argv[2:]), sys.stdout)
