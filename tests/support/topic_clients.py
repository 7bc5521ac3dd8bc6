"""Clients of every transport with one interface, for tests that run over all of them."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import Closing
from pushd.access.limits import Limits
from pushd.testing import Answer, Browser, Daemon, RawConnection
from pushd.testing.memory_network import MemoryTransport
from pushd.topics.history import Retention
from pushd.views.request import View

MIB = 1 << 20


class Run(NamedTuple):
    """A sequence of publications that must have no gap."""

    #: The id that it resumed from, and the one that the server began after.
    after: str | None
    begun: str | None
    recovered: bool | None
    got: list[tuple[str | None, str | bytes]]


class TopicClient:
    """A client that subscribes to one topic, and what it has received.

    :param after: the id to resume from.
    """

    #: Whether the transport has ids, and says where the subscription begins.
    has_ids = True

    def __init__(self, daemon: Daemon, topic: str, after: str | None = None) -> None:
        self.daemon = daemon
        self.topic = topic
        self.after = after
        self._begun: str | None = None
        self._recovered: bool | None = None
        self._start()

    @property
    def path(self) -> str:
        """The path and query of its request."""
        query = "" if self.after is None else f"?after={self.after}"
        return f"/topics/{self.topic}{query}"

    @property
    def got(self) -> list[tuple[str | None, str | bytes]]:
        """The id, if the transport has ids, and the data of every publication so far."""
        raise NotImplementedError

    @property
    def begun(self) -> str | None:
        """The id that the first publication follows."""
        self.got  # noqa: B018 - reads what has come
        return self._begun

    @property
    def recovered(self) -> bool | None:
        """Whether the server said that nothing is missing since the id it resumed from."""
        self.got  # noqa: B018 - reads what has come
        return self._recovered

    @property
    def runs(self) -> list[Run]:
        """What it received: one run for each time that the server said where it begins."""
        return [Run(self.after, self.begun, self.recovered, self.got)]

    @property
    def data(self) -> list[str | bytes]:
        """The data of every publication so far."""
        return [data for _, data in self.got]

    @property
    def ids(self) -> list[str | None]:
        """The ids of every publication so far."""
        return [id for id, _ in self.got]

    @property
    def last(self) -> str | None:
        """The id to resume from."""
        got = self.ids
        return got[-1] if got else self.begun

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        raise NotImplementedError

    @property
    def server_side(self) -> MemoryTransport:
        """The daemon's end of the connection."""
        raise NotImplementedError

    def leave(self) -> None:
        """Disconnect without a closing handshake."""
        raise NotImplementedError

    def stall(self) -> None:
        """Stop reading."""
        raise NotImplementedError

    def resume(self) -> None:
        """Continue to read."""
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError


class RawWebSocketClient(TopicClient):
    """A WebSocket without a subprotocol: data, and nothing else."""

    has_ids = False
    subprotocols: tuple[str, ...] = ()

    def _start(self) -> None:
        self.browser: Browser = self.daemon.connect(self.path, subprotocols=self.subprotocols)

    @property
    def got(self) -> list[tuple[str | None, str | bytes]]:
        """Each message is a publication."""
        return [(None, message) for message in self.browser.messages]

    @property
    def closing(self) -> Closing | None:
        """The server's Close frame."""
        return self.browser.closing

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self.browser.gone

    @property
    def server_side(self) -> MemoryTransport:
        """The daemon's end of the connection."""
        return self.browser._transport.other

    def leave(self) -> None:
        """Disconnect without a closing handshake."""
        self.browser.leave()

    def stall(self) -> None:
        """Stop reading."""
        self.browser.stall()

    def resume(self) -> None:
        """Continue to read."""
        self.browser.resume()


class V1WebSocketClient(RawWebSocketClient):
    """A WebSocket that speaks pushd.v1."""

    has_ids = True
    subprotocols = ("pushd.v1",)

    def _start(self) -> None:
        self._heard = 0
        self._got: list[tuple[str | None, str | bytes]] = []
        super()._start()

    @property
    def got(self) -> list[tuple[str | None, str | bytes]]:
        """Each message but the first is a publication."""
        for message in self.browser.messages[self._heard :]:
            value = json.loads(message)
            if self._heard:
                self._got.append(_unwrap(value))
            else:
                assert value.pop("subscribed") == self.topic
                self._begun, self._recovered = value.pop("id"), value.pop("recovered")
                assert not value
            self._heard += 1
        return self._got


class SseClient(TopicClient):
    """Server-Sent Events, parsed from the bytes by the standard."""

    headers: ClassVar[Mapping[str, str]] = {}

    def _start(self) -> None:
        self.connection: RawConnection = self.daemon.open_connection()
        fields = {"Host": "localhost:8080", "Accept": "text/event-stream", **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._read = 0
        self._head = b""
        self._body = bytearray()
        self._got: list[tuple[str | None, str | bytes]] = []
        self.connection.send(f"GET {self.path} HTTP/1.1\r\n{head}\r\n".encode())

    @property
    def head(self) -> str:
        """The head of the response."""
        self._take()
        return self._head.decode()

    @property
    def got(self) -> list[tuple[str | None, str | bytes]]:
        """Each event but the first is a publication."""
        self._take()
        while b"\n\n" in self._body:
            end = self._body.index(b"\n\n")
            event = bytes(self._body[:end])
            del self._body[: end + 2]
            self._hear(event.decode())
        return self._got

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self.connection.received.endswith(b"\r\n0\r\n\r\n")

    @property
    def gone(self) -> bool:
        """Whether the stream is over, complete or not."""
        return self.connection.closed or self.ended

    @property
    def server_side(self) -> MemoryTransport:
        """The daemon's end of the connection."""
        return self.connection._transport.other

    def leave(self) -> None:
        """Disconnect without a closing handshake."""
        self.connection.leave()

    def stall(self) -> None:
        """Stop reading."""
        self.connection.stall()

    def resume(self) -> None:
        """Continue to read."""
        self.connection.resume()

    def _take(self) -> None:
        """Take the complete chunks (RFC 9112 §7.1)."""
        received = self.connection._client.received
        if not self._head:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head, self._read = bytes(received[:end]), end + 4
        while (end := received.find(b"\r\n", self._read)) >= 0:
            size = int(received[self._read : end], 16)
            if len(received) < end + 2 + size + 2:
                return
            self._body += received[end + 2 : end + 2 + size]
            self._read = end + 2 + size + 2

    def _hear(self, event: str) -> None:
        """Parse one event (WHATWG HTML §9.2.6)."""
        kind, id, lines = "message", None, []
        for line in event.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "id":
                id = value
            elif name == "data":
                lines.append(value)
        if not lines:
            assert event == ":", event
            return
        data = "\n".join(lines)
        if kind == "subscribed":
            value = json.loads(data)
            assert value["subscribed"] == self.topic
            assert value["id"] == id
            self._begun, self._recovered = id, value["recovered"]
        elif kind == "base64":
            self._got.append((id, b64decode(data)))
        else:
            self._got.append((id, json.loads(data) if kind == "json" else data))


class LongPollClient(TopicClient):
    """Consecutive long polls: the next request is sent as soon as one is answered."""

    wait = 25.0

    def _start(self) -> None:
        #: Every answer so far.
        self.answers: list[dict[str, Any]] = []
        self._runs: list[Run] = []
        self.asked: str | None = None
        self._left = False
        self._ask(self.after)
        self._pump()

    @property
    def got(self) -> list[tuple[str | None, str | bytes]]:
        """The publications of all responses, in order."""
        self._pump()
        return [one for run in self._runs for one in run.got]

    @property
    def runs(self) -> list[Run]:
        """One run, and another for each gap that the server reported."""
        self._pump()
        return self._runs

    @property
    def last(self) -> str | None:
        """The id to resume from."""
        self._pump()
        return self.asked

    @property
    def gone(self) -> bool:
        """Whether the connection of the pending poll is closed."""
        self._pump()
        return self.connection.closed

    @property
    def server_side(self) -> MemoryTransport:
        """The daemon's end of the pending poll."""
        return self.connection._transport.other

    def leave(self) -> None:
        """Disconnect without a closing handshake."""
        self._pump()
        self._left = True
        self.connection.leave()

    def stall(self) -> None:
        """Stop reading."""
        self.connection.stall()

    def resume(self) -> None:
        """Continue to read."""
        self.connection.resume()
        self._pump()

    def _ask(self, after: str | None) -> None:
        self.asked = after
        self.connection = self.daemon.open_connection()
        query = f"?wait={self.wait:g}" + ("" if after is None else f"&after={after}")
        self.connection.send(
            f"GET /topics/{self.topic}{query} HTTP/1.1\r\n"
            "Host: localhost:8080\r\nConnection: close\r\n\r\n".encode()
        )

    def _pump(self) -> None:
        """Take the responses that have come, and send the next request."""
        while not self._left and (answer := self.connection.answer()) is not None:
            assert answer.status == 200, answer
            said = json.loads(answer.body)
            self.answers.append(said)
            publications = [_unwrap(one) for one in said["publications"]]
            begun = _before(publications[0][0]) if publications else said["id"]
            if not self._runs:
                self._begun, self._recovered = begun, said["recovered"]
            if not (self._runs and said["recovered"]):
                self._runs.append(Run(self.asked, begun, said["recovered"], []))
            self._runs[-1].got.extend(publications)
            self._ask(said["id"])


TRANSPORTS: tuple[type[TopicClient], ...] = (
    RawWebSocketClient,
    V1WebSocketClient,
    SseClient,
    LongPollClient,
)


class TopicTestCase(SynchronousTestCase):
    """A daemon, and requests about topics to its control port."""

    def setUp(self) -> None:
        """Start a daemon; a test may replace it by one with other settings."""
        self.daemon = self.start()

    def start(self, views: Mapping[str, View] | None = None, **settings: Any) -> Daemon:
        """Start a daemon, and check at the end that it leaves no delayed calls."""
        daemon = Daemon(views or {}, **settings)
        self.addCleanup(lambda: self.assertEqual(daemon.pending_calls, []))
        self.addCleanup(daemon.stop)
        self.daemon = daemon
        return daemon

    def keep(
        self, *, size: int = 100, ttl: int = 300, bytes: int = 64 * MIB, **limits: Any
    ) -> None:
        """Start a daemon with another retention."""
        retention = Retention(size=size, ttl=ttl, bytes=bytes)
        self.start(retention=retention, limits=Limits(**limits))

    def control(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request to the control port."""
        answer = self.daemon.request(method, path, headers, body, control=True)
        assert answer is not None
        return answer

    def publish(
        self, topic: str, data: str | bytes, *, event: str | None = None, is_json: bool = False
    ) -> str:
        """Publish, and return the id."""
        kind = "text/plain" if isinstance(data, str) else "application/octet-stream"
        headers = {"Content-Type": "application/json" if is_json else kind}
        body = data.encode() if isinstance(data, str) else data
        query = "" if event is None else f"?event={event}"
        answer = self.control("POST", f"/topics/{topic}{query}", body, headers)
        self.assertEqual(answer.status, 200, answer)
        id = json.loads(answer.body)["id"]
        assert isinstance(id, str)
        return id

    def publish_many(self, topic: str, data: list[str]) -> list[str]:
        """Publish many in one request, and return the ids."""
        body = {"publications": [{"topic": topic, "data": one} for one in data]}
        answer = self.control("POST", "/publish", json.dumps(body).encode())
        self.assertEqual(answer.status, 200, answer)
        return [one["id"] for one in json.loads(answer.body)["published"]]

    def describe(self, topic: str) -> dict[str, Any]:
        """Return what the control port says about a topic."""
        described = json.loads(self.control("GET", f"/topics/{topic}").body)
        assert isinstance(described, dict)
        return described


def split(id: str) -> tuple[str, int]:
    """Split an id into epoch and offset."""
    epoch, _, offset = id.partition(":")
    return epoch, int(offset)


def sequel(id: str, count: int) -> Iterator[str]:
    """Return the next ids after an id."""
    epoch, offset = split(id)
    return (f"{epoch}:{offset + step}" for step in range(1, count + 1))


def _before(id: str) -> str:
    epoch, offset = split(id)
    return f"{epoch}:{offset - 1}"


def _unwrap(value: dict[str, Any]) -> tuple[str, str | bytes]:
    id = value.pop("id")
    data = b64decode(value.pop("base64")) if "base64" in value else value.pop("data")
    for name in ("event", "conflated"):
        value.pop(name, None)
    assert not value
    return id, data
