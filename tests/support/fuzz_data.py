"""Requests, frames and mutations from which tests make what a daemon is sent."""

from __future__ import annotations

import zlib
from itertools import pairwise

from hypothesis import strategies as st

#: The limit on a message of a daemon that gets ``FRAMES``: some of them exceed it.
MAX_MESSAGE = 5000


def frame(
    first: int, payload: bytes = b"", *, length: int | None = None, mask: int = 0x80
) -> bytes:
    """Make a frame with any first byte, and with any length, right or wrong."""
    length = len(payload) if length is None else length
    if length < 126:
        head = bytes([first, mask | length])
    elif length < 1 << 16:
        head = bytes([first, mask | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + length.to_bytes(8, "big")
    return head + (bytes(4) if mask else b"") + payload


def packed(payload: bytes) -> bytes:
    """Deflate a message (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-12)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def head(first: str, *lines: str) -> bytes:
    """Make the head of a request."""
    return "\r\n".join([first, "Host: localhost:8080", *lines, "", ""]).encode("latin-1")


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

FRAMES = [
    frame(0x81, b"hello"),
    frame(0x82, bytes(300)),
    frame(0x81, "café".encode() * 40),
    frame(0x01, b"in ") + frame(0x00, b"three ") + frame(0x89, b"ping") + frame(0x80, b"pieces"),
    frame(0x02) + frame(0x00) * 300 + frame(0x80),
    frame(0x89, b"ping"),
    frame(0x8A, b"pong"),
    frame(0xC1, packed(b"hello " * 100)),
    frame(0xC2, packed(bytes(MAX_MESSAGE * 3))),
    frame(0x41, packed(b"in two")[:3]) + frame(0x80, packed(b"in two")[3:]),
    frame(0x88),
    frame(0x88, b"\x03\xe8bye"),
    frame(0x88, b"\x0f\xa0" + b"x" * 123),
    frame(0x82, bytes(MAX_MESSAGE)),
    frame(0x82, bytes(MAX_MESSAGE + 1)),
    frame(0x82, length=1 << 40),
]

OPENINGS = [
    head("GET /echo/ HTTP/1.1", *HANDSHAKE),
    head("GET /echo/ HTTP/1.1", *HANDSHAKE, DEFLATE),
    head("GET /count/ HTTP/1.1", *HANDSHAKE, "Origin: http://localhost:8080", DEFLATE),
    head("GET /test/ HTTP/1.1", *HANDSHAKE, "Sec-WebSocket-Protocol: demo, other"),
]

REQUESTS = [
    head("GET / HTTP/1.1"),
    head("GET /pushd.js HTTP/1.1", "Range: bytes=10-20"),
    head("GET /pushd.js HTTP/1.1", "If-None-Match: *"),
    head("HEAD /test.html HTTP/1.1", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
    head("GET /echo/?a=1&b=%20 HTTP/1.1", "Cookie: a=b; c=d", "Accept: */*"),
    head("GET /%2e%2e/nothing HTTP/1.0"),
    head("POST /echo/ HTTP/1.1", "Content-Length: 11") + b"hello world",
    head("POST /echo/ HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue")
    + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n",
    head("POST /pushd.js HTTP/1.1", "Content-Type: text/plain", "Content-Length: 7") + b"a=1&b=2",
    head("GET /later/ HTTP/1.1", "Connection: close"),
    head("OPTIONS * HTTP/1.1"),
    head("GET /echo/ HTTP/1.1", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    *OPENINGS,
]

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b"\x0b", b"\x85", b"\xff", b":", b" ", b"\t", b",", b";", b"%",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Upgrade:\r\n",
    b"Range: bytes=-1,0-\r\n", b"Connection: close\r\n", b"GET / HTTP/1.1\r\n", b"0\r\n\r\n",
    b"\x81\xff", b"\x88\x82", b"\xc1", b"\x7f" * 8, b"a" * 20_000, b"999999999999999999999",
]  # fmt: skip

NAMES = [
    "Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin", "Cookie", "Range",
    "If-None-Match", "If-Modified-Since", "Content-Length", "Transfer-Encoding", "Content-Type",
    "Authorization", "X-Forwarded-For", "Forwarded", "Expect",
]  # fmt: skip

#: A mutation: its kind, its position, its size, and bytes to insert.
EDITS = st.tuples(
    st.sampled_from(["flip", "drop", "double", "put", "cut", "move"]),
    st.floats(0, 1),
    st.integers(1, 64),
    st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8)),
)

#: Positions at which a stream of bytes is cut into segments.
CUTS = st.lists(st.floats(0, 1), max_size=6)


def edit(data: bytes, how: str, where: float, size: int, token: bytes) -> bytes:
    """Apply one mutation."""
    start = int(where * len(data))
    before, part, after = data[:start], data[start : start + size], data[start + size :]
    match how:
        case "flip":
            return before + bytes(byte ^ (1 << size % 8) for byte in part[:1]) + part[1:] + after
        case "drop":
            return before + after
        case "double":
            return before + part + part + after
        case "put":
            return before + token + part + after
        case "move":
            return after + before + part
        case _:
            return before


def segments(data: bytes, cuts: list[float]) -> list[bytes]:
    """Cut bytes into segments."""
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]
