"""Frames as a server makes and reads them."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.frames import _MAX_SKIPPED as MAX_SKIPPED
from pushd.protocols.websocket.frames import (
    BINARY,
    CLOSE,
    MAX_WINDOW_BITS,
    PING,
    PONG,
    TEXT,
    FrameSplitter,
    frame,
    frame_length,
    message,
    read_frame,
    unmask,
)
from tests.support import peer
from tests.support.hypothesis_settings import NO_DEADLINE


class FrameTests(SynchronousTestCase):
    """Making frames."""

    def test_lengths(self) -> None:
        """A length has its shortest form (RFC 6455 §5.2)."""
        for length, head in (
            (0, b"\x82\x00"),
            (125, b"\x82\x7d"),
            (126, b"\x82\x7e\x00\x7e"),
            (65535, b"\x82\x7e\xff\xff"),
            (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ):
            payload = b"x" * length
            self.assertEqual(frame(BINARY, payload), head + payload)
        self.assertEqual(frame(PING, b"?"), b"\x89\x01?")

    def test_message(self) -> None:
        """Text and binary have their own opcodes; without negotiation nothing is compressed."""
        text = b"x" * 1000
        self.assertEqual(message(text, binary=False), frame(TEXT, text))
        self.assertEqual(message(text, binary=True), frame(BINARY, text))

    def test_compressed(self) -> None:
        """A message that gets shorter is compressed, and decompresses again (RFC 7692 §7.2)."""
        text = b"again and " * 100
        sent = message(text, binary=False, window_bits=MAX_WINDOW_BITS)
        self.assertEqual(sent[0], TEXT | 0x40)
        self.assertLess(len(sent), 60)
        inflate = zlib.decompressobj(-MAX_WINDOW_BITS)
        self.assertEqual(inflate.decompress(sent[2:] + b"\x00\x00\xff\xff"), text)

    def test_not_worth_it(self) -> None:
        """A short message and a random one are not compressed."""
        for payload in (b"x" * 127, bytes(range(256))):
            self.assertEqual(
                message(payload, binary=True, window_bits=MAX_WINDOW_BITS), frame(BINARY, payload)
            )

    @NO_DEADLINE
    @given(st.binary(min_size=4, max_size=4), st.binary(max_size=5000))
    def test_unmask(self, mask: bytes, payload: bytes) -> None:
        """A payload of any length is unmasked byte by byte (RFC 6455 §5.3)."""
        expected = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self.assertEqual(unmask(mask, payload), expected)


#: A client's frames: opcode and payload.
SIMPLE = st.one_of(
    st.tuples(st.just(peer.TEXT), st.text(max_size=300).map(str.encode)),
    st.tuples(st.just(peer.BINARY), st.binary(max_size=300)),
    st.tuples(st.sampled_from([peer.PING, peer.PONG]), st.binary(max_size=125)),
)


class ReadTests(SynchronousTestCase):
    """Simple frames are read from the start of a buffer; all others are left."""

    def read(self, buffer: bytes, limit: int = 4096) -> list[tuple[int, str | bytes, int, int]]:
        """Read all that can be read."""
        frames, end = [], 0
        while found := read_frame(buffer, end, limit):
            frames.append(found)
            end = found[-1]
        return frames

    def test_kinds(self) -> None:
        """Text is decoded; each frame comes with its first byte, its length and its end."""
        for opcode, head, payload, read in (
            (peer.TEXT, TEXT, "é".encode(), "é"),
            (peer.BINARY, BINARY, b"\xff", b"\xff"),
            (peer.PING, PING, b"?", b"?"),
            (peer.PONG, PONG, b"", b""),
            (peer.CLOSE, CLOSE, b"\x03\xe8why", b"\x03\xe8why"),
            (peer.CLOSE, CLOSE, b"", b""),
        ):
            data = peer.frame(opcode, payload)
            self.assertEqual(self.read(data), [(head, read, len(payload), len(data))])

    def test_lengths(self) -> None:
        """Payloads up to the limit are read, in each form that a length may have."""
        for length in (0, 125, 126, 4096):
            data = peer.frame(peer.BINARY, bytes(length))
            self.assertEqual(self.read(data), [(BINARY, bytes(length), length, len(data))])
        self.assertEqual(self.read(peer.frame(peer.BINARY, bytes(4097))), [])
        self.assertEqual(self.read(peer.frame(peer.TEXT, b"x" * 11), limit=10), [])

    def test_others(self) -> None:
        """A frame that is unusual or invalid is not read, nor is anything behind it."""
        simple = peer.frame(peer.TEXT, b"x")
        for other in (
            peer.frame(peer.TEXT, b"x", fin=False),
            peer.frame(peer.CONTINUATION, b"x"),
            peer.frame(peer.TEXT, b"x", rsv=4),
            peer.frame(peer.TEXT, b"x", masked=False),
            peer.frame(peer.TEXT, b"x" * 126, masked=False),
            peer.frame(peer.TEXT, b"x" * 65536),
            peer.frame(peer.TEXT, b"\xff"),
            peer.frame(3, b"x"),
            peer.frame(peer.PING, b"x" * 126),
            peer.frame(peer.PING, b"x", fin=False),
            peer.frame(peer.CLOSE, b"x"),
            b"\x82\xfe\x00\x05" + bytes(9),  # a length that is not in its shortest form
        ):
            frames = self.read(simple + other + simple)
            self.assertEqual([end for *_, end in frames], [len(simple)], other[:4])

    @NO_DEADLINE
    @given(st.lists(SIMPLE, max_size=8), st.data())
    def test_cut(self, frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
        """However a buffer is cut, exactly the frames that are complete are read."""
        encoded = [peer.frame(opcode, payload) for opcode, payload in frames]
        buffer = b"".join(encoded)
        buffer = buffer[: data.draw(st.integers(0, len(buffer)))]
        read = self.read(buffer)
        start = 0
        for (opcode, payload), (head, got, length, end) in zip(frames, read, strict=False):
            self.assertEqual((head & 0x0F, length), (opcode, len(payload)))
            self.assertEqual(got.encode() if isinstance(got, str) else got, payload)
            start = end
        self.assertEqual(start, sum(map(len, encoded[: len(read)])))
        if len(read) < len(frames):
            self.assertGreater(start + len(encoded[len(read)]), len(buffer))


class SplitterTests(SynchronousTestCase):
    """A stream is split at the boundaries of frames, however it is cut."""

    def test_fragments(self) -> None:
        """From a first fragment to the last one a message is incomplete, control frames aside."""
        splitter = FrameSplitter()
        self.assertTrue(splitter.is_between_messages)
        for data, control, between in (
            (peer.frame(peer.TEXT, b"a", fin=False), False, False),
            (peer.frame(peer.PING), True, False),
            (peer.frame(peer.CONTINUATION, fin=False), False, False),
            (peer.frame(peer.CONTINUATION, b"b"), False, True),
            (peer.frame(peer.TEXT, b"c"), False, True),
        ):
            self.assertEqual(splitter.split(data + b"rest"), (data, b"rest", control))
            self.assertIs(splitter.is_between_messages, between)

    @NO_DEADLINE
    @given(st.lists(SIMPLE, max_size=8), st.lists(st.integers(1, 20), min_size=1))
    def test_cut(self, frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
        """Pieces never cross the end of a frame, and each control frame is reported once."""
        encoded = [peer.frame(opcode, payload) for opcode, payload in frames]
        stream, number = b"".join(encoded), 0
        splitter = FrameSplitter()
        pieces: list[bytes] = []
        controls = 0
        while stream:
            size = sizes[number % len(sizes)]
            number += 1
            buffer, stream = stream[:size], stream[size:]
            while buffer:
                piece, buffer, control = splitter.split(buffer)
                pieces.append(piece)
                controls += control
        self.assertEqual(controls, sum(opcode & 8 > 0 for opcode, _ in frames))
        self.assertTrue(splitter.is_between_messages)
        for data in encoded:
            taken = b""
            while len(taken) < len(data):
                taken += pieces.pop(0)
            self.assertEqual(taken, data)
        self.assertEqual(pieces, [])


class FrameLengthTests(SynchronousTestCase):
    """The length of a frame is known as soon as its head is complete."""

    def test_lengths(self) -> None:
        """It holds for each form of a length, with and without a mask."""
        for length in (0, 125, 126, 65535, 65536):
            for masked in (True, False):
                data = peer.frame(peer.BINARY, bytes(length), masked=masked)
                head = len(data) - length
                self.assertEqual(frame_length(data), len(data))
                self.assertEqual(frame_length(data[:head]), len(data))
                self.assertEqual(frame_length(data[: head - 1]), 0)
        self.assertEqual((frame_length(b""), frame_length(b"\x82")), (0, 0))


class SkipTests(SynchronousTestCase):
    """Skipping all that a peer sends up to its Close frame."""

    def test_any_cut(self) -> None:
        """The Close is found when its last byte arrives, wherever the stream is cut."""
        stream = b"".join(
            (
                peer.frame(peer.TEXT, b"x" * 200),
                peer.frame(peer.BINARY, bytes(70_000), fin=False),
                peer.frame(peer.PING),
                peer.frame(peer.CONTINUATION, b"\x88" * 9),
                peer.frame(peer.TEXT, b"x", masked=False),
                peer.frame(peer.CLOSE, bytes(126)),  # too long to be one
                peer.close_frame(1000, b"bye"),
            )
        )
        for size in (1, 2, 3, 7, 100, 4096, len(stream)):
            splitter = FrameSplitter()
            found = [
                splitter.skip_to_close(stream[start : start + size])
                for start in range(0, len(stream), size)
            ]
            self.assertEqual((found.count(True), found[-1]), (1, True), size)

    def test_from_the_middle(self) -> None:
        """It goes on where the frames before it were split."""
        data = peer.frame(peer.TEXT, b"x" * 1000) + peer.close_frame(1000)
        for start in (1, 3, 500, 1008, 1010):
            splitter = FrameSplitter()
            rest = data[:start]
            while rest:
                _, rest, _ = splitter.split(rest)
            self.assertTrue(splitter.skip_to_close(data[start:]), start)

    def test_flood(self) -> None:
        """After thousands of frames nothing is looked at any more."""
        for count, found in ((MAX_SKIPPED - 1, True), (MAX_SKIPPED, False)):
            splitter = FrameSplitter()
            flood = peer.frame(peer.PING) * count + peer.close_frame(1000)
            self.assertIs(splitter.skip_to_close(flood), found)
        self.assertFalse(splitter.skip_to_close(peer.close_frame(1000)))
