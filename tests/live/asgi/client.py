"""What the tests of all applications use: a daemon, HTTP requests and WebSockets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.daemon_process import DaemonProcess

# Time-out of everything, in seconds.
PATIENCE = 60.0


class Server:
    """A daemon that serves an application.

    :param daemon: its process.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self._place = urlsplit(daemon.url).netloc
        #: For HTTP requests; it keeps cookies.
        self.http = httpx.Client(base_url=f"http://{self._place}", timeout=PATIENCE)

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """Open a WebSocket, as a page of the same origin does."""
        options.setdefault("origin", f"http://{self._place}")
        return connect(f"ws://{self._place}{path}", open_timeout=PATIENCE, **options)


EXAMPLES = Path(__file__).parents[3] / "examples"


@contextmanager
def serving(
    name: str, folder: Path, *args: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Serve an application of this folder; its log must have no traceback at the end."""
    application = ["--asgi", f"tests.live.asgi.{name}"]
    with running([*application, *args], folder, environment) as server:
        yield server


@contextmanager
def serving_example(name: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve an example with the command of its README; its log must have no traceback either."""
    folder = EXAMPLES / name
    lines = (folder / "README.md").read_text().splitlines()
    [command] = [line for line in lines if line.startswith("twistd -n pushd ")]
    with running(command.split()[3:], folder, environment) as server:
        yield server


@contextmanager
def running(
    args: Sequence[str], folder: Path, environment: Mapping[str, str] | None
) -> Iterator[Server]:
    """Run a daemon in a folder."""
    with DaemonProcess(args, directory=folder, environment=environment) as daemon:
        server = Server(daemon)
        with server.http:
            yield server
        assert daemon.stop() == 0
    assert not [line for line in daemon.log if "Traceback" in line], "\n".join(daemon.log)


def receive_json(websocket: ClientConnection) -> Any:
    """Return the next message of a WebSocket."""
    return json.loads(websocket.recv(PATIENCE))
