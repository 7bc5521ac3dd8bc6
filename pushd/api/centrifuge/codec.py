"""Codecs: commands in frames, replies, and publications as pushes, in JSON or in Protobuf.

In both, a command and a reply are a dict with the names of ``schema``. What differs is their data:
any value in JSON, bytes in Protobuf.

A codec also knows how its transport frames what it writes: all connections that share a codec are
sent the same bytes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from typing import Any, NoReturn, Protocol

from pushd.api.centrifuge.schema import read_message
from pushd.protocols.json_format import to_json
from pushd.protocols.websocket.frames import message
from pushd.topics.fanout import Form
from pushd.topics.json_data import check_json, encode_json
from pushd.topics.publication import Publication

#: The subprotocol of a client that sends Protobuf, and the one that stands for JSON.
PROTOBUF, JSON = "centrifuge-protobuf", "centrifuge-json"

#: Returns a payload as it is sent. The number says how far back compression may look, as a power of
#: two; 0 for none.
Frame = Callable[[bytes, int], bytes]

# A tag of a publication in JSON whose data are bytes.
_BASE64 = {"encoding": "base64"}


class Codec(Hashable, Protocol):
    """One of the two formats, over one transport."""

    #: The type of its frames, if they are those of WebSockets.
    binary: bool
    #: The payload of a ping of the server, and of a client's answer to it.
    ping: bytes

    def read(self, frame: str | bytes) -> list[dict[str, Any]]:
        """Return the commands in a frame; an empty one is an answer to a ping.

        Raises ValueError with one line that says what is wrong.
        """

    def write(self, replies: Iterable[Mapping[str, Any]]) -> bytes:
        """Return the payload of a frame with some replies."""

    def frame(self, payload: bytes, window_bits: int = 0) -> bytes:
        """Return a payload as it is sent.

        :param window_bits: how far back its compression may look, as a power of two; 0 for none.
        """

    def publication(self, publication: Publication) -> dict[str, Any]:
        """Return a publication as it stands in a reply."""

    def data(self, value: Any) -> tuple[str | bytes, bool]:
        """Return the data that a client publishes, and whether it is JSON.

        Raises ValueError if it cannot be published.
        """

    def argument(self, value: Any) -> Any:
        """Return the data of a procedure call: a value of JSON, or else bytes."""

    def result(self, value: Any) -> Any:
        """Return what a procedure returned, a value of JSON or bytes, as it stands in a reply.

        Raises ValueError or TypeError if that is impossible.
        """

    def value(self, value: Any) -> Any:
        """Return a value, as for JSON, as it stands in a reply."""

    def form(self, window_bits: int) -> Form:
        """Return the format in which a frame pushes a publication, with its topic as channel."""

    def form_of(self, window_bits: int, channel: str) -> Form:
        """Return the format for a client that knows the topic by another name."""


class JsonText(str):
    """Text that is JSON, and stands in a reply as it is."""

    __slots__ = ()


def text_frame(payload: bytes, window_bits: int) -> bytes:
    """Return a payload as a text frame of a WebSocket."""
    return message(payload, binary=False, window_bits=window_bits)


def binary_frame(payload: bytes, window_bits: int) -> bytes:
    """Return a payload as a binary frame of a WebSocket."""
    return message(payload, binary=True, window_bits=window_bits)


class JsonCodec:
    """Commands and replies in JSON, each in a line of its own.

    :param frame: returns payloads as the transport sends them.
    """

    binary = False
    ping = b"{}"

    def __init__(self, frame: Frame = text_frame) -> None:
        self._frame = frame

    def read(self, frame: str | bytes) -> list[dict[str, Any]]:
        """Return the commands in a frame."""
        text = frame if isinstance(frame, str) else frame.decode()
        return [
            read_message("Command", parse_json(line))
            for line in text.split("\n")
            if line and not line.isspace()
        ]

    def write(self, replies: Iterable[Mapping[str, Any]]) -> bytes:
        """Return the payload of a frame with some replies."""
        return "\n".join(map(to_json_line, replies)).encode()

    def frame(self, payload: bytes, window_bits: int = 0) -> bytes:
        """Return a payload as it is sent."""
        return self._frame(payload, window_bits)

    def publication(self, publication: Publication) -> dict[str, Any]:
        """Return a publication: JSON as it is, text as a string, bytes as a string in base64."""
        data, value = publication.data, _describe(publication, self.value)
        if isinstance(data, bytes):
            tags = {**value.get("tags", {}), **_BASE64}
            return {"data": b64encode(data).decode(), **value, "tags": tags}
        if publication.is_json:
            # Its line ends are only between values; here they would end the reply.
            data = JsonText(data.replace("\r", " ").replace("\n", " "))
        return {"data": data, **value}

    def data(self, value: Any) -> tuple[str | bytes, bool]:
        """Return the JSON text of a value; that of a string is the string itself."""
        if isinstance(value, str):
            value.encode()  # Raises UnicodeEncodeError for half a surrogate pair.
            return value, False
        text = encode_json(value)
        text.encode()
        return text, True

    def argument(self, value: Any) -> Any:
        """Return a value as it is."""
        return value

    def result(self, value: Any) -> Any:
        """Return the JSON of a value; bytes as a string in base64."""
        if isinstance(value, bytes):
            return b64encode(value).decode()
        return JsonText(encode_json(value))

    def value(self, value: Any) -> Any:
        """Return a value as it is."""
        return value

    def form(self, window_bits: int) -> Form:
        """Return the format in which a frame pushes a publication."""
        return _shared_form(self, window_bits)

    def form_of(self, window_bits: int, channel: str) -> Form:
        """Return the format for a client that knows the topic by another name."""
        return _make_form(self, window_bits, channel)


class PushCodec(JsonCodec):
    """What unidirectional clients get, in JSON: pushes, and the result of their only command."""

    def write(self, replies: Iterable[Mapping[str, Any]]) -> bytes:
        """Return the payload of a frame with some replies."""
        return super().write(map(_push_of, replies))


class ProtobufCodec:
    """Commands and replies in Protobuf, each with its length before it.

    :param frame: returns payloads as the transport sends them.

    Raises ImportError if the package protobuf is not installed.
    """

    binary = True
    ping = b"\0"

    def __init__(self, frame: Frame = binary_frame) -> None:
        from pushd.api.centrifuge.protobuf import decode_command, encode_reply

        self._decode = decode_command
        self._encode = encode_reply
        self._frame = frame

    def read(self, frame: str | bytes) -> list[dict[str, Any]]:
        """Return the commands in a frame."""
        if isinstance(frame, str):
            raise ValueError("commands in Protobuf must be in binary frames")
        commands, start = [], 0
        while start < len(frame):
            size, start = _read_varint(frame, start)
            if size > len(frame) - start:
                raise ValueError("command is cut off")
            commands.append(self._decode(frame[start : start + size]))
            start += size
        return commands

    def write(self, replies: Iterable[Mapping[str, Any]]) -> bytes:
        """Return the payload of a frame with some replies."""
        return b"".join(map(_delimit, map(self._encode, replies)))

    def frame(self, payload: bytes, window_bits: int = 0) -> bytes:
        """Return a payload as it is sent."""
        return self._frame(payload, window_bits)

    def publication(self, publication: Publication) -> dict[str, Any]:
        """Return a publication: its bytes, or its text in UTF-8."""
        data = publication.data
        encoded = data if isinstance(data, bytes) else data.encode()
        return {"data": encoded, **_describe(publication, self.value)}

    def data(self, value: Any) -> tuple[str | bytes, bool]:
        """Return bytes as JSON if they are that, else as text if they are, else as they are."""
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return bytes(value), False
        try:
            return check_json(text), True
        except ValueError:
            return text, False

    def argument(self, value: Any) -> Any:
        """Return the value of bytes that are JSON; others as they are."""
        try:
            return _DECODER.decode(value.decode())
        except (ValueError, RecursionError):
            return value

    def result(self, value: Any) -> Any:
        """Return bytes as they are, and a value as JSON in UTF-8."""
        return value if isinstance(value, bytes) else encode_json(value).encode()

    def value(self, value: Any) -> Any:
        """Return a value as JSON in UTF-8."""
        return to_json(value).encode()

    def form(self, window_bits: int) -> Form:
        """Return the format in which a frame pushes a publication."""
        return _shared_form(self, window_bits)

    def form_of(self, window_bits: int, channel: str) -> Form:
        """Return the format for a client that knows the topic by another name."""
        return _make_form(self, window_bits, channel)


@cache
def _shared_form(codec: Codec, window_bits: int) -> Form:
    return _make_form(codec, window_bits, None)


def _make_form(codec: Codec, window_bits: int, channel: str | None) -> Form:
    def form(publication: Publication) -> bytes:
        name = channel or publication.topic
        push = {"channel": name, "pub": codec.publication(publication)}
        return codec.frame(codec.write([{"push": push}]), window_bits)

    return form


def _describe(publication: Publication, value: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what stands beside the data: the offset, the client that published, and tags.

    :param value: returns what is known of the client as the format has it.
    """
    described: dict[str, Any] = {"offset": publication.id.offset}
    if publication.metadata is not None:
        described |= json.loads(publication.metadata)
        if "conn_info" in described.get("info", {}):
            info = described["info"]
            info["conn_info"] = value(info["conn_info"])
    return described


def parse_json(text: str | bytes) -> Any:
    """Return the value of JSON in UTF-8. Raises ValueError."""
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def to_json_line(value: Any) -> str:
    """Return JSON in one line; what is JSON text already stands in it as it is."""
    if isinstance(value, Mapping):
        return (
            f"{{{','.join(f'{to_json(key)}:{to_json_line(one)}' for key, one in value.items())}}}"
        )
    if isinstance(value, list):
        return f"[{','.join(map(to_json_line, value))}]"
    return value if isinstance(value, JsonText) else to_json(value)


def _push_of(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a push without a word on that; of a reply, the result without its number."""
    pushed: Mapping[str, Any] = reply["push"] if "push" in reply else {"connect": reply["connect"]}
    return pushed


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _delimit(encoded: bytes) -> bytes:
    """Return bytes with their length before them, as a varint of Protobuf."""
    size, head = len(encoded), bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + encoded


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Return a varint of four bytes at most, and the position behind it. Raises ValueError."""
    value = 0
    for place, byte in enumerate(data[start : start + 4]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise ValueError("length of a command is malformed")
