"""Requests and answers of a soak test's clients, as bytes: HTTP, event streams and WebSockets.

The parsers are as short as they can be: they are fed by pushd alone, whose form is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# The key of every handshake: RFC 6455 §1.3 has the same, with the answer.
_UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_V1 = "Sec-WebSocket-Protocol: pushd.v1\r\n"
_STREAM = "Accept: text/event-stream\r\n"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def get(path: str) -> bytes:
    """Make a request."""
    return _request(path)


def get_stream(path: str) -> bytes:
    """Make a request for an event stream."""
    return _request(path, _STREAM)


def upgrade(path: str, *, v1: bool = False) -> bytes:
    """Make an opening handshake."""
    return _request(path, _UPGRADE + (_V1 if v1 else ""))


def post(path: str, body: str, key: str = "") -> bytes:
    """Make a publication, with an idempotency key if there is one."""
    more = f"Idempotency-Key: {key}\r\n" if key else ""
    data = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{more}\r\n"
    return head.encode() + data


def _request(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """Make a frame, masked with zeros (RFC 6455 §5.3)."""
    if len(payload) < 126:
        head = bytes((0x80 | opcode, 0x80 | len(payload)))
    else:
        head = bytes((0x80 | opcode, 0xFE)) + len(payload).to_bytes(2, "big")
    return head + bytes(4) + payload


def close_frame(code: int) -> bytes:
    """Make a Close frame."""
    return frame(CLOSE, code.to_bytes(2, "big"))


class HeadReader:
    """Reads the head of an answer, and hands over what follows it."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> tuple[int, bytes, bytes] | None:
        """Return status, head and what has come behind it, once the head is complete."""
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return None
        self._data = b""
        return int(head.split(b" ", 2)[1]), head, rest


class AnswerReader:
    """Reads answers that have a Content-Length."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the status and the body of each answer that is complete."""
        self._data += data
        while True:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self._data = rest[length:]
            yield int(head.split(b" ", 2)[1]), rest[:length]


class FrameReader:
    """Reads the frames of a server, which are neither masked nor compressed."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the opcode and the payload of each frame that is complete."""
        data = self._data + data if self._data else data
        place, end = 0, len(data)
        while end - place >= 2:
            length, start = data[place + 1], place + 2
            if length > 125:
                start += 2 if length == 126 else 8
                length = int.from_bytes(data[place + 2 : start], "big")
            if end < start + length:
                break
            opcode = data[place] & 0xF
            place = start + length
            yield opcode, data[start:place]
        self._data = data[place:]


class EventReader:
    """Reads an event stream that comes in chunks: the fields of each event."""

    def __init__(self) -> None:
        #: Whether the stream has ended, although the connection may be open.
        self.ended = False
        self._data = b""
        self._text = b""

    def feed(self, data: bytes) -> Iterator[dict[str, str]]:
        """Yield each event that is complete; its lines of data are joined."""
        self._data += data
        while (end := self._data.find(b"\r\n")) >= 0:
            start, length = end + 2, int(self._data[:end], 16)
            if len(self._data) < start + length + 2:
                break
            self.ended = self.ended or length == 0
            self._text += self._data[start : start + length]
            self._data = self._data[start + length + 2 :]
        *events, self._text = self._text.split(b"\n\n")
        for event in events:
            fields: dict[str, str] = {}
            for line in event.decode().split("\n"):
                name, _, value = line.partition(": ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
            yield fields
