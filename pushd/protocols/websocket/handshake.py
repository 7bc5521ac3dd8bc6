"""The opening handshake of WebSocket: read and check the request, write the 101."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from hashlib import sha1
from typing import NamedTuple

from pushd.errors import HandshakeRefused
from pushd.protocols.http.headers import RequestHeaders, has_token, split_list

# RFC 9110 §5.6.2; a subprotocol's name is a token (RFC 6455 §4.1).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# RFC 6455 §1.3.
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_OPENING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: "
)


class Handshake(NamedTuple):
    """A client's opening handshake."""

    key: str
    subprotocols: tuple[str, ...]
    extensions: str
    #: What the 101 has beside the headers of every 101.
    headers: Sequence[tuple[bytes, bytes]] = ()


def read_handshake(method: bytes, version: bytes, fields: RequestHeaders) -> Handshake:
    """Read an opening handshake. Raises HandshakeRefused if it violates RFC 6455 §4.2.1."""
    if method != b"GET":
        raise HandshakeRefused(400, "a WebSocket handshake must be a GET request")
    values = fields.raw.get
    if fields.holds(b"\x85"):
        # NEL (0x85): some parsers take it for the end of a line.
        raise HandshakeRefused(400, "headers of a WebSocket handshake must not hold control bytes")
    if version != b"HTTP/1.1":
        raise HandshakeRefused(400, "a WebSocket handshake requires HTTP/1.1")
    if len(values(b"Host", ())) != 1:
        raise HandshakeRefused(400, "a WebSocket handshake must have one Host header")
    if not has_token(values(b"Connection", ()), b"upgrade"):
        reason = "a WebSocket handshake must have Connection: Upgrade"
        raise HandshakeRefused(400, reason, "a proxy in between must set it, see docs/deploying.md")
    lengths = values(b"Content-Length")
    if values(b"Transfer-Encoding") or (lengths and any(length != b"0" for length in lengths)):
        raise HandshakeRefused(400, "a WebSocket handshake must not have a body")
    versions = values(b"Sec-Websocket-Version", ())
    if versions != [b"13"] and [value.strip() for value in versions] != [b"13"]:
        raise HandshakeRefused(426, "Sec-WebSocket-Version must be 13")
    if len(values(b"Origin", ())) > 1:
        raise HandshakeRefused(400, "a WebSocket handshake must have at most one Origin header")
    subprotocols, extensions = (
        values(b"Sec-Websocket-Protocol"),
        values(b"Sec-Websocket-Extensions"),
    )
    return Handshake(
        _read_key(values(b"Sec-Websocket-Key", ())),
        _read_subprotocols(subprotocols) if subprotocols else (),
        b",".join(extensions).decode("latin-1") if extensions else "",
    )


def lost_handshake(version: bytes, fields: RequestHeaders) -> HandshakeRefused | None:
    """Return why a plain request was to be a handshake, if it was: it still has the key of one."""
    if b"Sec-Websocket-Key" not in fields:
        return None
    if version == b"HTTP/1.0":
        reason = "WebSocket handshake in HTTP/1.0: a proxy in between must use HTTP/1.1"
    else:
        reason = "WebSocket handshake without Upgrade: a proxy in between removed the header"
    return HandshakeRefused(426, reason, "see docs/deploying.md")


def opening(
    key: str,
    subprotocol: str | None,
    extensions: str | None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the 101 that opens a WebSocket (RFC 6455 §4.2.2)."""
    # The base64 ends with a line feed.
    answer = _OPENING + b2a_base64(sha1((key + _GUID).encode()).digest())[:-1]
    if subprotocol is not None:
        answer += f"\r\nSec-WebSocket-Protocol: {subprotocol}".encode()
    if extensions is not None:
        answer += f"\r\nSec-WebSocket-Extensions: {extensions}".encode()
    for name, value in headers:
        answer += b"\r\n%b: %b" % (name, value)
    return answer + b"\r\n\r\n"


def _read_key(keys: Sequence[bytes]) -> str:
    if len(keys) != 1:
        raise HandshakeRefused(400, "a WebSocket handshake must have one Sec-WebSocket-Key")
    try:
        nonce = a2b_base64(keys[0], strict_mode=True)
    except Base64Error:
        nonce = b""
    if len(nonce) != 16:
        raise HandshakeRefused(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return keys[0].decode("ascii")


def _read_subprotocols(values: Sequence[bytes]) -> tuple[str, ...]:
    offered = [name.decode("latin-1") for name in split_list(values)]
    if len(set(offered)) != len(offered) or not all(map(_TOKEN.fullmatch, offered)):
        raise HandshakeRefused(400, "Sec-WebSocket-Protocol must be a list of different names")
    return tuple(offered)
