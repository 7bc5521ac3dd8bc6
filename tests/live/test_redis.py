"""Three daemons over one Redis, through restarts, lost connections and lost data."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from socket import SHUT_RDWR
from threading import Thread, Timer
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer

PUBLICATIONS = 2000

# The data of the last publication.
END = "the end"

# Timeout of single steps, in seconds.
PATIENCE = 60.0

# The id that a run follows, whether it is recovered, and its publications.
Start = tuple[str, bool]
Received = tuple[str, str]


class Broken(Exception):
    """The daemon has closed a connection, or refused it."""


class Node:
    """A daemon, and the addresses of its two ports."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.public = urlsplit(daemon.url).netloc
        self.control = urlsplit(
            daemon.wait_for(r"control port listening on (http://\S+)")[1]
        ).netloc

    def publish(self, topic: str, data: str, key: str) -> tuple[int, dict[str, Any]]:
        """Publish, and return the status and the answer."""
        connection = HTTPConnection(self.control, timeout=PATIENCE)
        try:
            headers = {"Idempotency-Key": key}
            connection.request("POST", f"/topics/{topic}", data.encode(), headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            assert answer.status in (200, 503), said
            assert (answer.status == 503) == (answer.getheader("Retry-After") is not None)
            return answer.status, said
        finally:
            connection.close()

    def ready(self) -> tuple[int, str | None]:
        """Return the status of /readyz, and the reason if it is not ready."""
        connection = HTTPConnection(self.control, timeout=PATIENCE)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()).get("reason")
        finally:
            connection.close()


def by_websocket(node: Node, after: str) -> Iterator[Start | Received]:
    """Subscribe with pushd.v1."""
    url = f"ws://{node.public}/topics/news?after={after}"
    with connect(url, subprotocols=["pushd.v1"], proxy=None, open_timeout=PATIENCE) as websocket:  # type: ignore[list-item]  # any text
        first = json.loads(websocket.recv(PATIENCE))
        try:
            yield first["id"], first["recovered"]
            while True:
                said = json.loads(websocket.recv(PATIENCE))
                yield said["id"], said["data"]
        finally:
            # No closing handshake, as if the cable was cut.
            websocket.socket.shutdown(SHUT_RDWR)


def by_events(node: Node, after: str) -> Iterator[Start | Received]:
    """Subscribe with Server-Sent Events."""
    with asking(node, after, {"Accept": "text/event-stream"}) as answer:
        fields: dict[str, str] = {}
        while line := answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif fields.get("event") == "subscribed":
                yield fields["id"], json.loads(fields["data"])["recovered"]
            elif "id" in fields:
                yield fields["id"], fields["data"]
            fields = fields if name else {}
    raise Broken


def by_polling(node: Node, after: str) -> Iterator[Start | Received]:
    """Subscribe with consecutive polls."""
    began = False
    while True:
        with asking(node, after, {}) as answer:
            said = json.loads(answer.read())
        if answer.status == 503:
            assert answer.getheader("Retry-After") is not None
            raise Broken
        publications = said["publications"]
        if not began or not said["recovered"]:
            begun = after if said["recovered"] else before(publications, said["id"])
            yield begun, said["recovered"]
            began = True
        for one in publications:
            yield one["id"], one["data"]
        after = said["id"]


def before(publications: list[dict[str, str]], last: str) -> str:
    """Return the id that the publications of an answer follow."""
    epoch, _, offset = last.partition(":")
    return f"{epoch}:{int(offset) - len(publications)}"


class asking(ExitStack):  # noqa: N801 - it is used like a function
    """Request the topic; the connection is cut at the end."""

    def __init__(self, node: Node, after: str, headers: dict[str, str]) -> None:
        super().__init__()
        connection = HTTPConnection(node.public, timeout=PATIENCE)
        self.callback(connection.close)
        connection.request("GET", f"/topics/news?after={after}&wait=5", headers=headers)
        self._answer = connection.getresponse()

    def __enter__(self) -> HTTPResponse:  # type: ignore[override]  # the answer, not the stack
        return self._answer


TRANSPORTS = (by_websocket, by_events, by_polling)


class Client(Thread):
    """A client that is cut repeatedly, and resumes at another node over another transport."""

    def __init__(self, number: int, nodes: list[Node], begin: str) -> None:
        super().__init__(daemon=True)
        self._random = random.Random(number)
        self._nodes = nodes
        self.last = begin
        #: Where each run begins, and what was received in it; a gap begins a new run.
        self.runs: list[tuple[str, list[Received]]] = [(begin, [])]
        self.ended = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Subscribe until the last publication has come."""
        deadline = monotonic() + 4 * PATIENCE
        try:
            while not self.ended:
                assert monotonic() < deadline, "the last publication has not come"
                try:
                    self._listen()
                except (Broken, OSError, HTTPException, WebSocketException):
                    sleep(0.05)
        except BaseException as error:
            self.error = error

    def _listen(self) -> None:
        transport = self._random.choice(TRANSPORTS)
        patience = self._random.randint(1, 120)
        for number, (id, what) in enumerate(transport(self._random.choice(self._nodes), self.last)):
            if isinstance(what, str):
                self.runs[-1][1].append((id, what))
            elif what:
                assert id == self.last
            else:
                self.runs.append((id, []))
            self.last = id
            self.ended = what == END
            if number >= patience or self.ended:
                return


def publish_all(nodes: list[Node], happens: dict[int, Callable[[], None]]) -> dict[str, str]:
    """Publish through all nodes, each until it is accepted, and return the ids."""
    published: dict[str, str] = {}
    for number in range(PUBLICATIONS):
        if number in happens:
            happens[number]()
        deadline = monotonic() + PATIENCE
        place = number
        while True:
            status, said = nodes[place % 3].publish("news", f"{number}", f"key-{number}")
            if status == 200:
                published[said["id"]] = f"{number}"
                break
            assert monotonic() < deadline, said
            place += 1
            sleep(0.05)
    return published


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Run a Redis with an append-only file."""
    with RedisServer(["--appendonly", "yes", "--appendfsync", "no"]) as server:
        yield server


@pytest.fixture
def nodes(server: RedisServer, tmp_path: Path) -> Iterator[list[Node]]:
    """Run three daemons over it."""
    control = ("--control", "tcp:0:interface=127.0.0.1")
    options = ("--broker", server.url, "--history-size", "10000", *control)
    with ExitStack() as stack:
        daemons = [DaemonProcess(options, directory=tmp_path, patience=PATIENCE) for _ in range(3)]
        for daemon in daemons:
            stack.enter_context(daemon)
            daemon.wait_for("connected to Redis at")
        yield [Node(daemon) for daemon in daemons]


def test_everything_happens(server: RedisServer, nodes: list[Node]) -> None:
    """Publications stay in order, without loss or repeats; the only gap is reported."""
    assert [node.ready() for node in nodes] == [(200, None)] * 3
    status, said = nodes[0].publish("news", "the first", "first")
    assert status == 200
    begin = said["id"]
    clients = [Client(number, nodes, begin) for number in range(6)]
    for client in clients:
        client.start()

    def pause() -> None:
        server.pause()
        Timer(3, server.resume).start()

    def restart() -> None:
        server.kill()
        # Unavailable for a moment: a node must notice.
        assert nodes[1].publish("news", "not accepted", "lost")[0] == 503
        status, reason = nodes[1].ready()
        assert (status, "Redis at unix://" in str(reason)) == (503, True)
        server.start()

    def restart_empty() -> None:
        server.kill()
        shutil.rmtree(server.directory / "appendonlydir")
        server.start()

    happens: dict[int, Callable[[], None]] = {
        300: lambda: server.ask("CLIENT", "KILL", "TYPE", "pubsub"),
        500: pause,
        800: restart,
        1100: lambda: server.ask("CLIENT", "KILL", "TYPE", "normal"),
        1400: restart_empty,
        1700: lambda: server.ask("CLIENT", "KILL", "TYPE", "pubsub"),
    }
    published = publish_all(nodes, happens)
    status, said = nodes[0].publish("news", END, "end")
    assert status == 200
    last = said["id"]
    published[last] = END
    for client in clients:
        client.join(4 * PATIENCE)
        assert client.error is None
        assert client.last == last
    # Two epochs without gaps: every accepted publication has an id of its own.
    epochs = [begin.partition(":")[0], last.partition(":")[0]]
    assert {id.partition(":")[0] for id in published} == set(epochs)
    assert "not accepted" not in published.values()
    for client in clients:
        check(client, published, epochs)
    for node in nodes:
        # No client may have connected to it since it last reconnected.
        deadline = monotonic() + PATIENCE
        while node.ready() != (200, None):
            assert monotonic() < deadline, node.ready()
            sleep(0.05)
        log = node.daemon.log
        assert not [line for line in log if "Traceback" in line], "\n".join(log)


def check(client: Client, published: dict[str, str], epochs: list[str]) -> None:
    """Check that a client has received everything in order, with one gap reported."""
    assert [begun.partition(":")[0] for begun, _ in client.runs] == epochs
    for begun, received in client.runs:
        epoch, _, offset = begun.partition(":")
        ids = [f"{epoch}:{int(offset) + number}" for number in range(1, len(received) + 1)]
        assert [id for id, _ in received] == ids
        for id, data in received:
            # What Redis lost before it had answered was published again.
            assert published.get(id, data) == data
        assert len({data for _, data in received}) == len(received)
    # Of the second epoch, everything after the id at which the run begins.
    assert client.runs[1][1][-1] == (client.last, END)
