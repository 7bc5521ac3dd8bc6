"""Read WebSocket frames from a buffer, and make frames (RFC 6455 §5.2); no connection is needed."""

from __future__ import annotations

import zlib

# First bytes of frames: FIN and an opcode (RFC 6455 §5.2); RSV1 means "compressed" (RFC 7692 §6).
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
_RSV1 = 0x40

# The longest head of a frame, in bytes.
_MAX_HEAD = 14

# The longest control frame of a client, with its head.
_MAX_CONTROL = 6 + 125

# The most frames that are skipped in search of a Close frame.
_MAX_SKIPPED = 1 << 15

_SIMPLE = frozenset({TEXT, BINARY, CLOSE, PING, PONG})

# Compression. No context is kept between messages sent, so an idle connection takes none of zlib's
# memory (a context takes 58 KiB or more). A small window is enough for the messages of a push.
MAX_WINDOW_BITS = 12
MEMORY_LEVEL = 5
# Shorter messages do not get any shorter.
_COMPRESS_FROM = 128


def read_frame(buffer: bytes, start: int, limit: int) -> tuple[int, str | bytes, int, int] | None:
    """Read a simple frame from a buffer; return None if there is anything else.

    A frame is simple if it is complete, masked, final, uncompressed, valid and short. All others
    are left to Autobahn, which is five times slower, and knows every rule for what is invalid.

    Returns the frame's first byte, its payload (text decoded), the payload's length in bytes, and
    the position in the buffer behind it.

    :param start: the frame's position in the buffer.
    :param limit: the longest payload that is read here, in bytes; less than 64 KiB.
    """
    available = len(buffer)
    if available - start < 6:
        return None
    head, length, body = buffer[start], buffer[start + 1] - 0x80, start + 6
    # Unmasked frames have a negative length here.
    if length == 126 and available - start >= 8:
        length, body = int.from_bytes(buffer[start + 2 : start + 4], "big"), start + 8
        if length < 126:  # RFC 6455 §5.2: the shortest form must be used.
            return None
    elif not 0 <= length < 126:
        return None
    end = body + length
    if length > limit or end > available or head not in _SIMPLE:
        return None
    if head >= CLOSE and (length > 125 or (head == CLOSE and length == 1)):
        return None
    payload = unmask(buffer[body - 4 : body], buffer[body:end])
    if head == TEXT:
        try:
            return head, payload.decode(), length, end
        except UnicodeDecodeError:
            return None
    return head, payload, length, end


def frame_length(buffer: bytes) -> int:
    """Return the length in bytes of the frame at the start of a buffer, its head included.

    0 means that the head has not arrived completely.
    """
    if len(buffer) < 2:
        return 0
    length, head = buffer[1] & 0x7F, 2
    if length > 125:
        head = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:head], "big")
    if buffer[1] & 0x80:
        head += 4
    return head + length if len(buffer) >= head else 0


class FrameSplitter:
    """Splits a stream of bytes at the boundaries of frames, for a reader that gets one at a time.

    The reader gets the bytes of a frame as they arrive, so that it can object early.
    """

    __slots__ = ("_head", "_in_message", "_missing", "_skipped")

    def __init__(self) -> None:
        # The head of the current frame, as long as it is incomplete.
        self._head = b""
        # Bytes of the current frame that have not arrived.
        self._missing = 0
        self._in_message = False
        # Frames that were skipped.
        self._skipped = 0

    @property
    def is_between_messages(self) -> bool:
        """Whether a new message or control frame comes next."""
        return not (self._missing or self._in_message or self._head)

    @property
    def missing(self) -> int:
        """Bytes of the current frame that have not arrived; negative for parts of its head."""
        return self._missing or -len(self._head)

    def split(self, buffer: bytes) -> tuple[bytes, bytes, bool]:
        """Take what a buffer has of one frame.

        Returns that, the rest of the buffer, and whether it completes the head of a control frame.
        """
        size, control = self._missing, False
        if not size:
            head = self._head + buffer[:_MAX_HEAD]
            size = frame_length(head) - len(self._head)
            if size <= 0:
                size, self._head = len(buffer), head
            else:
                self._head = b""
                control = bool(head[0] & 0x08)
                if not control:
                    self._in_message = not head[0] & 0x80
        piece = buffer[:size]
        self._missing = size - len(piece)
        return piece, buffer[size:], control

    def skip_to_close(self, data: bytes) -> bool:
        """Skip frames, up to the end of a Close frame; return whether it has arrived.

        After 32,768 frames, at up to 1 µs each, it looks at nothing any more: a flood must not
        cost time.
        """
        if self._missing >= len(data):
            self._missing -= len(data)
            return False
        data = self._head + data[self._missing :]
        self._head, self._missing = b"", 0
        start = 0
        while self._skipped < _MAX_SKIPPED:
            head = data[start : start + _MAX_HEAD]
            size = frame_length(head)
            end = start + size
            is_close = size and head[0] & 0x0F == CLOSE & 0x0F and size <= _MAX_CONTROL
            if not size or (is_close and end > len(data)):
                self._head = data[start:]
                return False
            if is_close:
                return True
            self._skipped += 1
            if end >= len(data):
                self._missing = end - len(data)
                return False
            start = end
        return False


def frame(head: int, payload: bytes) -> bytes:
    """Return a frame, unmasked, as a server sends it (RFC 6455 §5.1)."""
    length = len(payload)
    if length < 126:
        return (head << 8 | length).to_bytes(2, "big") + payload
    if length < 1 << 16:
        return bytes((head, 126)) + length.to_bytes(2, "big") + payload
    return bytes((head, 127)) + length.to_bytes(8, "big") + payload


def message(payload: bytes, *, binary: bool, window_bits: int = 0) -> bytes:
    """Return a message as one frame, compressed if that makes it shorter.

    :param window_bits: how far back deflate may look, as a power of two; 0 for no compression.
    """
    head, length = BINARY if binary else TEXT, len(payload)
    if length < 126:
        # As frame does, but most messages are as short.
        return (head << 8 | length).to_bytes(2, "big") + payload
    if window_bits and length >= _COMPRESS_FROM:
        compressed = _compress(payload, window_bits)
        if len(compressed) < length:
            head, payload = head | _RSV1, compressed
    return frame(head, payload)


def unmask(mask: bytes, payload: bytes) -> bytes:
    """Unmask a short payload (RFC 6455 §5.3)."""
    length = len(payload)
    pattern = (mask * ((length + 3) >> 2))[:length]
    plain = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return plain.to_bytes(length, "big")


def _compress(payload: bytes, window_bits: int) -> bytes:
    """Deflate a message without a context (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-window_bits, memLevel=MEMORY_LEVEL)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
