"""The opening handshake: what a client asks, checked to the letter."""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

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
    return "websocket" in _tokens(headers.getRawHeaders(b"Upgrade", ()))


def read_handshake(method: bytes, version: bytes, headers: Headers) -> Handshake:
    """Read an opening handshake. Raises Refused for one that RFC 6455 §4.2.1 does not allow."""
    # To ask Headers for each would canonicalize each name once more.
    fields = dict(headers.getAllRawHeaders())
    if method != b"GET":
        raise Refused(400, "a WebSocket handshake is a GET")
    if b"\x85" in b"".join(chain.from_iterable(fields.values())):
        # A line's end to some (NEL), though nobody may parse what we have read a second time.
        raise Refused(400, "a header of a WebSocket handshake holds a control byte")
    if version != b"HTTP/1.1":
        raise Refused(400, "a WebSocket handshake needs HTTP/1.1")
    if len(fields.get(b"Host", ())) != 1:
        raise Refused(400, "a WebSocket handshake needs one Host")
    if "upgrade" not in _tokens(fields.get(b"Connection", ())):
        raise Refused(400, "a WebSocket handshake needs Connection: Upgrade")
    if b"Transfer-Encoding" in fields or any(
        value != b"0" for value in fields.get(b"Content-Length", ())
    ):
        raise Refused(400, "a WebSocket handshake has no body")
    versions = fields.get(b"Sec-Websocket-Version", ())
    if [value.strip() for value in versions] != [b"13"]:
        raise Refused(426, "this server speaks WebSocket version 13")
    if len(fields.get(b"Origin", ())) > 1:
        raise Refused(400, "a WebSocket handshake has one Origin at most")
    return Handshake(
        key=_read_key(fields.get(b"Sec-Websocket-Key", ())),
        subprotocols=_read_subprotocols(fields.get(b"Sec-Websocket-Protocol", ())),
        extensions=_join(fields.get(b"Sec-Websocket-Extensions", ())),
    )


def _read_key(keys: Sequence[bytes]) -> str:
    if len(keys) != 1:
        raise Refused(400, "a WebSocket handshake needs one Sec-WebSocket-Key")
    try:
        nonce = binascii.a2b_base64(keys[0], strict_mode=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise Refused(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    return keys[0].decode("ascii")


def _read_subprotocols(values: Sequence[bytes]) -> tuple[str, ...]:
    if not values:
        return ()
    offered = [name.strip() for name in _join(values).split(",")]
    if len(set(offered)) != len(offered) or not all(map(_TOKEN.fullmatch, offered)):
        raise Refused(400, "Sec-WebSocket-Protocol is not a list of different names")
    return tuple(offered)


def _tokens(values: Sequence[bytes]) -> set[str]:
    return {token.strip().lower() for token in _join(values).split(",")}


def _join(values: Sequence[bytes]) -> str:
    return b",".join(values).decode("latin-1")
