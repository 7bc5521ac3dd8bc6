"""WebSocket frames as a server writes them (RFC 6455 §5.2)."""

from __future__ import annotations

import zlib

# FIN and the opcodes of RFC 6455 §5.2, and the bit that says "compressed" (RFC 7692 §6).
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
_RSV1 = 0x40

# Compression: no context is kept between messages, so an idle connection holds none of zlib's
# memory (with one it would be 58 KiB or more), and a small window does for what is pushed.
MAX_WINDOW_BITS = 12
MEMORY_LEVEL = 5
# What is shorter gains nothing: deflate's own overhead eats it up.
_COMPRESS_FROM = 128


def frame(head: int, payload: bytes) -> bytes:
    """One whole frame, unmasked (RFC 6455 §5.1)."""
    length = len(payload)
    if length < 126:
        return (head << 8 | length).to_bytes(2, "big") + payload
    if length < 1 << 16:
        return bytes((head, 126)) + length.to_bytes(2, "big") + payload
    return bytes((head, 127)) + length.to_bytes(8, "big") + payload


def message(payload: bytes, *, binary: bool, window_bits: int = 0) -> bytes:
    """One message as one frame, compressed where that makes it shorter.

    :param window_bits: how far back deflate may look, as a power of two; 0: do not compress.
    """
    head = BINARY if binary else TEXT
    if window_bits and len(payload) >= _COMPRESS_FROM:
        compressed = _compress(payload, window_bits)
        if len(compressed) < len(payload):
            head, payload = head | _RSV1, compressed
    return frame(head, payload)


def unmask(mask: bytes, payload: bytes) -> bytes:
    """Undo the masking of a short payload (RFC 6455 §5.3)."""
    pattern = (mask * ((len(payload) + 3) >> 2))[: len(payload)]
    plain = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return plain.to_bytes(len(payload), "big")


def _compress(payload: bytes, window_bits: int) -> bytes:
    """Deflate a message on its own (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-window_bits, memLevel=MEMORY_LEVEL)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
