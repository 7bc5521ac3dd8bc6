"""The heads of WebSocket frames (RFC 6455 §5.2), without use of pushd's own code."""

from __future__ import annotations

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def frame_head(opcode: int, length: int, *, fin: bool, rsv: int, masked: bool = True) -> bytes:
    """Return the head of a frame up to its mask."""
    if length < 126:
        short, extended = length, b""
    elif length < 1 << 16:
        short, extended = 126, length.to_bytes(2, "big")
    else:
        short, extended = 127, length.to_bytes(8, "big")
    return bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | short]) + extended
