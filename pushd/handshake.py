"""The opening handshake: what a client asks, checked to the letter."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from twisted.web.http_headers import Headers

# RFC 9110 §5.6.2; a subprotocol's name is a token (RFC 6455 §4.1).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Refused(Exception):
    """A handshake that can't be: the HTTP status and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client's opening handshake says."""

    key: str
    subprotocols: tuple[str, ...]
    extensions: str


def asks_for_websocket(headers: Headers) -> bool:
    """Whether a request wants to go on as a WebSocket (RFC 6455 §4.1, RFC 9110 §7.8)."""
    return "websocket" in _tokens(headers, b"upgrade")


def read_handshake(method: bytes, version: bytes, headers: Headers) -> Handshake:
    """Read an opening handshake. Raises Refused for one that RFC 6455 §4.2.1 does not allow."""
    if method != b"GET":
        raise Refused(400, "a WebSocket handshake is a GET")
    if any(b"\x85" in value for _, values in headers.getAllRawHeaders() for value in values):
        # A line's end to some (NEL), though nobody may parse what we have read a second time.
        raise Refused(400, "a header of a WebSocket handshake holds a control byte")
    if version != b"HTTP/1.1":
        raise Refused(400, "a WebSocket handshake needs HTTP/1.1")
    if len(headers.getRawHeaders(b"host", ())) != 1:
        raise Refused(400, "a WebSocket handshake needs one Host")
    if "upgrade" not in _tokens(headers, b"connection"):
        raise Refused(400, "a WebSocket handshake needs Connection: Upgrade")
    if _has_body(headers):
        raise Refused(400, "a WebSocket handshake has no body")
    versions = headers.getRawHeaders(b"sec-websocket-version", ())
    if [value.strip() for value in versions] != [b"13"]:
        raise Refused(426, "this server speaks WebSocket version 13")
    if len(headers.getRawHeaders(b"origin", ())) > 1:
        raise Refused(400, "a WebSocket handshake has one Origin at most")
    return Handshake(
        key=_read_key(headers),
        subprotocols=_read_subprotocols(headers),
        extensions=_joined(headers, b"sec-websocket-extensions"),
    )


def _read_key(headers: Headers) -> str:
    keys = headers.getRawHeaders(b"sec-websocket-key", ())
    if len(keys) != 1:
        raise Refused(400, "a WebSocket handshake needs one Sec-WebSocket-Key")
    try:
        nonce = binascii.a2b_base64(keys[0], strict_mode=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise Refused(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    return keys[0].decode("ascii")


def _read_subprotocols(headers: Headers) -> tuple[str, ...]:
    if not headers.hasHeader(b"sec-websocket-protocol"):
        return ()
    offered = [name.strip() for name in _joined(headers, b"sec-websocket-protocol").split(",")]
    if len(set(offered)) != len(offered) or not all(map(_TOKEN.fullmatch, offered)):
        raise Refused(400, "Sec-WebSocket-Protocol is not a list of different names")
    return tuple(offered)


def _has_body(headers: Headers) -> bool:
    lengths = headers.getRawHeaders(b"content-length", ())
    return headers.hasHeader(b"transfer-encoding") or any(value != b"0" for value in lengths)


def _tokens(headers: Headers, name: bytes) -> set[str]:
    return {token.strip().lower() for token in _joined(headers, name).split(",")}


def _joined(headers: Headers, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for value in headers.getRawHeaders(name, ()))
