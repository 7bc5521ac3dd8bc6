"""Client of the Centrifuge protocol in memory: sends commands, and collects replies and pushes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pushd.api.centrifuge.codec import PROTOBUF, _delimit, _read_varint
from pushd.api.centrifuge.protobuf import _COMMAND, _REPLY, _fill
from pushd.testing import Browser, Daemon
from tests.support.topic_clients import TopicTestCase

#: The path of the protocol.
PATH = "/connection/websocket"


class Commander:
    """Sends commands, and keeps what comes for whoever asks."""

    _id = 0

    def __init__(self) -> None:
        self._pushes: list[dict[str, Any]] = []

    def send(self, *commands: Mapping[str, Any]) -> None:
        """Send commands together."""
        raise NotImplementedError

    def heard(self) -> list[dict[str, Any]]:
        """Return what was received since the last call."""
        raise NotImplementedError

    def ask(self, kind: str, **request: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        reply = self.tell(kind, **request)
        assert kind in reply, reply
        result: dict[str, Any] = reply[kind]
        return result

    def error(self, kind: str, **request: Any) -> int:
        """Send a command, and return the code of the error that it is answered with."""
        code: int = self.tell(kind, **request)["error"]["code"]
        return code

    def tell(self, kind: str, **request: Any) -> dict[str, Any]:
        """Send a command, and return the reply; an empty one if there is none yet."""
        self._id += 1
        self.send({"id": self._id, kind: request})
        return self.reply(self._id)

    def reply(self, id: int) -> dict[str, Any]:
        """Return the reply to a command, if it has come; keep the pushes for ``pushes``."""
        heard = self.heard()
        self._pushes += [one["push"] for one in heard if "push" in one]
        return next((one for one in heard if one.get("id") == id), {})

    @property
    def pushes(self) -> list[dict[str, Any]]:
        """The pushes since the last call."""
        self.reply(0)
        pushes, self._pushes = self._pushes, []
        return pushes


class Client(Commander):
    """One client that speaks JSON.

    :param browser: its WebSocket.
    """

    def __init__(self, browser: Browser) -> None:
        super().__init__()
        self.browser = browser

    def connect(self, **request: Any) -> dict[str, Any]:
        """Send the first command, and return its result."""
        return self.ask("connect", **request)

    def send(self, *commands: Mapping[str, Any]) -> None:
        """Send commands in one frame."""
        self.browser.send("\n".join(map(json.dumps, commands)))

    def heard(self) -> list[dict[str, Any]]:
        """Return what was received since the last call."""
        frames = self.browser.messages[:]
        self.browser.messages.clear()
        return [one for frame in frames for one in self._read(frame)]

    def _read(self, frame: str | bytes) -> list[dict[str, Any]]:
        assert isinstance(frame, str)
        return [json.loads(line) for line in frame.split("\n")]


class ProtobufClient(Client):
    """One client that speaks Protobuf."""

    def send(self, *commands: Mapping[str, Any]) -> None:
        """Send commands in one frame."""
        frame = b""
        for command in commands:
            message = _COMMAND()
            _fill(message, command)
            frame += _delimit(message.SerializeToString())
        self.browser.send(frame)

    def _read(self, frame: str | bytes) -> list[dict[str, Any]]:
        assert isinstance(frame, bytes)
        replies, start = [], 0
        while start < len(frame):
            size, start = _read_varint(frame, start)
            message = _REPLY()
            message.ParseFromString(frame[start : start + size])
            replies.append(read_fields(message))
            start += size
        return replies


def read_fields(message: Any) -> dict[str, Any]:
    """Return the fields of a message in Protobuf that are set."""
    fields: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            fields[field.name] = value
        elif field.message_type.GetOptions().map_entry:
            is_text = field.message_type.fields_by_name["value"].message_type is None
            fields[field.name] = {
                key: one if is_text else read_fields(one) for key, one in value.items()
            }
        elif hasattr(value, "add"):
            fields[field.name] = [read_fields(one) for one in value]
        else:
            fields[field.name] = read_fields(value)
    return fields


class CentrifugeTestCase(TopicTestCase):
    """A daemon that serves Centrifuge clients."""

    def start(self, views: Any = None, **settings: Any) -> Daemon:
        """Start a daemon."""
        return super().start(views, **{"centrifuge": True, **settings})

    def open(self, query: str = "") -> Client:
        """Open a WebSocket, over which nothing has been sent yet."""
        return Client(self.daemon.connect(f"{PATH}{query}"))

    def connect(self, **request: Any) -> Client:
        """Connect a client that speaks JSON."""
        client = self.open()
        client.connect(**request)
        return client

    def connect_protobuf(self, **request: Any) -> ProtobufClient:
        """Connect a client that speaks Protobuf."""
        client = ProtobufClient(self.daemon.connect(PATH, subprotocols=[PROTOBUF]))
        client.connect(**request)
        return client
