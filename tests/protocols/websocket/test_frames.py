"""Frames, as a server writes and reads them."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.frames import (
    BINARY,
    MAX_WINDOW_BITS,
    PING,
    TEXT,
    frame,
    message,
    unmask,
)
from tests.unhurried import UNHURRIED


class FrameTests(SynchronousTestCase):
    """Heads and payloads."""

    def test_lengths(self) -> None:
        """A length is told in the shortest way there is (RFC 6455 §5.2)."""
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
        """Text and bytes are told apart; nothing is compressed for who did not agree to it."""
        text = b"x" * 1000
        self.assertEqual(message(text, binary=False), frame(TEXT, text))
        self.assertEqual(message(text, binary=True), frame(BINARY, text))

    def test_compressed(self) -> None:
        """What is shorter compressed goes out so, and comes back as it was (RFC 7692 §7.2)."""
        text = b"again and " * 100
        sent = message(text, binary=False, window_bits=MAX_WINDOW_BITS)
        self.assertEqual(sent[0], TEXT | 0x40)
        self.assertLess(len(sent), 60)
        inflate = zlib.decompressobj(-MAX_WINDOW_BITS)
        self.assertEqual(inflate.decompress(sent[2:] + b"\x00\x00\xff\xff"), text)

    def test_not_worth_it(self) -> None:
        """What is short, or random, goes out as it is."""
        for payload in (b"x" * 127, bytes(range(256))):
            self.assertEqual(
                message(payload, binary=True, window_bits=MAX_WINDOW_BITS), frame(BINARY, payload)
            )

    @UNHURRIED
    @given(st.binary(min_size=4, max_size=4), st.binary(max_size=5000))
    def test_unmask(self, mask: bytes, payload: bytes) -> None:
        """Masking is undone byte by byte, whatever the length (RFC 6455 §5.3)."""
        expected = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self.assertEqual(unmask(mask, payload), expected)
