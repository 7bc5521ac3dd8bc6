"""Clients of the Centrifuge protocol over HTTP, in memory, with the interface of ``Client``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pushd.api.centrifuge.codec import _delimit, _read_varint
from pushd.api.centrifuge.protobuf import _COMMAND, _EMULATION, _REPLY, _fill
from pushd.testing import Answer, Daemon, RawConnection
from tests.support.centrifuge_client import CentrifugeTestCase, Commander, read_fields

#: Where commands are sent.
EMULATION = "/emulation"

_HOST = "Host: localhost:8080\r\n"


class Stream:
    """A response that is streamed, and what it has brought.

    :param version: of HTTP.
    """

    def __init__(
        self,
        daemon: Daemon,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        version: str = "1.1",
        connection: RawConnection | None = None,
    ) -> None:
        self.connection = daemon.open_connection() if connection is None else connection
        self._version = version
        self._read = 0
        self._head = b""
        self.body = bytearray()
        method = "GET" if body is None else "POST"
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        if body is not None:
            fields += f"Content-Length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/{version}\r\n{_HOST}{fields}\r\n"
        self.connection.send(head.encode() + (body or b""))

    @property
    def head(self) -> str:
        """The head of the response."""
        self.take()
        return self._head.decode()

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.head.split(" ")[1])

    @property
    def answer(self) -> Answer:
        """The response, which must be complete."""
        answer = self.connection.answer()
        assert answer is not None
        return answer

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        if self._version == "1.0":
            return self.connection.closed
        return self.connection.received.endswith(b"0\r\n\r\n")

    def take(self) -> bytes:
        """Take what has come of the body: with HTTP/1.1, complete chunks (RFC 9112 §7.1)."""
        received = self.connection.received
        if not self._head:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return b""
            self._head, self._read = received[:end], end + 4
        if self._version == "1.0":
            taken, self._read = received[self._read :], len(received)
            self.body += taken
            return taken
        taken = b""
        while (end := received.find(b"\r\n", self._read)) >= 0:
            size = int(received[self._read : end], 16)
            if len(received) < end + 2 + size + 2:
                break
            taken += received[end + 2 : end + 2 + size]
            self._read = end + 2 + size + 2
        self.body += taken
        return taken


class StreamClient(Commander):
    """A client whose replies and pushes come in a stream.

    :param path: of its transport.
    :param request: of its connect command.
    """

    content_type = "application/json"

    def __init__(
        self,
        daemon: Daemon,
        path: str,
        request: Mapping[str, Any],
        *,
        emulation: str = EMULATION,
        **options: Any,
    ) -> None:
        self.daemon = daemon
        self._emulation = emulation
        super().__init__()
        self._id = 1
        self._left = b""
        self.stream = self.open(path, {"id": 1, "connect": dict(request)}, options)
        #: The result of its connect command; empty if it has no such reply.
        self.connected: dict[str, Any] = {}
        reply = self.reply(1)
        #: The code of the error in place of that.
        self.error_code: int | None = reply.get("error", {}).get("code")
        self.connected = reply.get("connect", {})

    def open(self, path: str, command: Mapping[str, Any], options: Mapping[str, Any]) -> Stream:
        """Open the stream."""
        raise NotImplementedError

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """Return the replies that have come, and keep the beginning of another."""
        raise NotImplementedError

    def encode(self, *commands: Mapping[str, Any]) -> bytes:
        """Return the body of a request with commands."""
        return self.wrap("\n".join(map(json.dumps, commands)).encode())

    def wrap(self, commands: bytes) -> bytes:
        """Return the body of a request with commands that are encoded."""
        return json.dumps({**self.session, "data": commands.decode()}).encode()

    @property
    def session(self) -> dict[str, str]:
        """What says which connection its commands are for."""
        return {name: self.connected[name] for name in ("session", "node")}

    @property
    def disconnected(self) -> tuple[int, str] | None:
        """Code and reason of the disconnect push; None if there is none."""
        self.reply(0)
        told = [push["disconnect"] for push in self._pushes if "disconnect" in push]
        return (told[0]["code"], told[0]["reason"]) if told else None

    @property
    def gone(self) -> bool:
        """Whether the stream is over, complete or not."""
        return self.stream.connection.closed or self.stream.ended

    def send(self, *commands: Mapping[str, Any]) -> None:
        """Send commands, which are taken."""
        answer = self.post(self.encode(*commands))
        assert answer.status == 204, answer

    def post(self, body: bytes, daemon: Daemon | None = None) -> Answer:
        """Send a request with commands to a daemon; return the answer."""
        headers = {"Content-Type": self.content_type}
        where = self.daemon if daemon is None else daemon
        answer = where.request("POST", self._emulation, headers, body)
        assert answer is not None
        return answer

    def heard(self) -> list[dict[str, Any]]:
        """Return what was received since the last call."""
        self._left += self.stream.take()
        return self.read(self._left)

    def stall(self) -> None:
        """Stop reading."""
        self.stream.connection.stall()

    def resume(self) -> None:
        """Continue to read."""
        self.stream.connection.resume()

    def leave(self) -> None:
        """Disconnect."""
        self.stream.connection.leave()


class SseStreamClient(StreamClient):
    """A client that gets events."""

    def open(self, path: str, command: Mapping[str, Any], options: Mapping[str, Any]) -> Stream:
        """Open the stream, with the command in the query."""
        return Stream(self.daemon, f"{path}?cf_connect={quote(json.dumps(command))}", **options)

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """Read events, each with one line of data."""
        *events, self._left = data.split(b"\n\n")
        for event in events:
            assert event.startswith(b"data: "), event
            assert b"\n" not in event, event
        return [json.loads(event.removeprefix(b"data: ")) for event in events]


class LineStreamClient(StreamClient):
    """A client that gets lines of JSON."""

    def open(self, path: str, command: Mapping[str, Any], options: Mapping[str, Any]) -> Stream:
        """Open the stream, with the command in the body."""
        return Stream(self.daemon, path, json.dumps(command).encode(), **options)

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """Read lines."""
        *lines, self._left = data.split(b"\n")
        return [json.loads(line) for line in lines]


class ProtobufStreamClient(StreamClient):
    """A client that gets messages in Protobuf."""

    content_type = "application/octet-stream"

    def open(self, path: str, command: Mapping[str, Any], options: Mapping[str, Any]) -> Stream:
        """Open the stream, with the command in the body."""
        headers = {"Content-Type": self.content_type}
        return Stream(self.daemon, path, _encode(command), headers=headers, **options)

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """Read messages, each with its length before it."""
        replies, start = [], 0
        while start < len(data):
            size, begin = _read_varint(data, start)
            if begin + size > len(data):
                break
            message = _REPLY()
            message.ParseFromString(data[begin : begin + size])
            replies.append(read_fields(message))
            start = begin + size
        self._left = data[start:]
        return replies

    def encode(self, *commands: Mapping[str, Any]) -> bytes:
        """Return the body of a request with commands."""
        return self.wrap(b"".join(map(_encode, commands)))

    def wrap(self, commands: bytes) -> bytes:
        """Return the body of a request with commands that are encoded."""
        request = _EMULATION()
        _fill(request, {**self.session, "data": commands})
        encoded: bytes = request.SerializeToString()
        return encoded


def _encode(command: Mapping[str, Any]) -> bytes:
    message = _COMMAND()
    _fill(message, command)
    return _delimit(message.SerializeToString())


#: The clients that can send commands, and their paths.
STREAMS: tuple[tuple[type[StreamClient], str], ...] = (
    (SseStreamClient, "/connection/sse"),
    (LineStreamClient, "/connection/http_stream"),
    (ProtobufStreamClient, "/connection/http_stream"),
)


class StreamTestCase(CentrifugeTestCase):
    """A daemon that serves Centrifuge clients over HTTP."""

    def sse(self, **request: Any) -> SseStreamClient:
        """Connect a client that gets events."""
        return SseStreamClient(self.daemon, "/connection/sse", request)

    def lines(self, **request: Any) -> LineStreamClient:
        """Connect a client that gets lines."""
        return LineStreamClient(self.daemon, "/connection/http_stream", request)

    def protobuf(self, **request: Any) -> ProtobufStreamClient:
        """Connect a client that gets messages in Protobuf."""
        return ProtobufStreamClient(self.daemon, "/connection/http_stream", request)

    def all(self, **request: Any) -> list[StreamClient]:
        """Connect a client of each kind."""
        return [kind(self.daemon, path, request) for kind, path in STREAMS]
