"""Tests of Closing, the code and reason of a Close frame."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from enum import IntEnum
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import (
    BROKER_UNAVAILABLE,
    GOING_AWAY,
    HISTORY_GAP,
    INTERNAL_ERROR,
    NORMAL,
    RATE_EXCEEDED,
    TINY_FRAGMENTS,
    TOKEN_EXPIRED,
    TOO_BIG,
    TRY_AGAIN_LATER,
    Closing,
)


class ClosingTests(SynchronousTestCase):
    """Closing accepts only what a Close frame may hold."""

    def test_codes(self) -> None:
        """Only the registered codes and 3000 to 4999 are accepted."""
        allowed = []
        for code in range(-1, 6000):
            try:
                allowed.append(Closing(code).code)
            except ValueError:
                continue
        registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
        self.assertEqual(allowed, [*registered, *range(3000, 5000)])

    def test_refused_codes(self) -> None:
        """The error about a code gives the code and the range."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1):
            error = self.assertRaises(ValueError, Closing, code)
            self.assertEqual(
                str(error), f"close code must be 1000-1003, 1007-1014 or 3000-4999; got {code}"
            )

    def test_code_type(self) -> None:
        """A code that is not an int, or is a bool, raises TypeError."""
        codes: list[Any] = [True, False, "1000", b"1000", None, 1000.0, [1000]]
        for code in codes:
            error = self.assertRaises(TypeError, Closing, code)
            self.assertEqual(str(error), f"close code must be an int; got {type(code).__name__}")

    def test_enum(self) -> None:
        """A code may be a member of an IntEnum."""
        codes = IntEnum("codes", {"EXPIRED": 4001})
        self.assertEqual(Closing(codes.EXPIRED).code, 4001)

    def test_reason_length(self) -> None:
        """A reason holds up to 123 bytes of UTF-8, whatever its number of characters."""
        for reason in ("x" * 123, "é" * 61 + "x", "€" * 41, "😀" * 30 + "xyz"):
            self.assertEqual(len(reason.encode()), 123)
            self.assertEqual(Closing(1000, reason).reason, reason)
            error = self.assertRaises(ValueError, Closing, 1000, reason + "x")
            self.assertEqual(str(error), "close reason must be 123 bytes at most; got 124")

    def test_reason_type(self) -> None:
        """A reason that is not a str raises TypeError."""
        reasons: list[Any] = [b"bye", None, 7, bytearray(b"bye")]
        for reason in reasons:
            error = self.assertRaises(TypeError, Closing, 1000, reason)
            self.assertEqual(str(error), f"close reason must be a str; got {type(reason).__name__}")

    def test_reason_surrogate(self) -> None:
        """A reason that UTF-8 cannot encode raises ValueError."""
        self.assertRaises(ValueError, Closing, 1000, "half a \ud83d")

    def test_value(self) -> None:
        """A Closing is frozen, hashable, and compared by its code and reason."""
        self.assertEqual(Closing(1000), Closing(1000, ""))
        self.assertEqual(len({Closing(1000), Closing(1000), Closing(1000, "done")}), 2)
        with self.assertRaises(FrozenInstanceError):
            NORMAL.code = 1001  # type: ignore[misc]

    def test_named(self) -> None:
        """Each named closing has its code, and all but NORMAL have a reason."""
        self.assertEqual(NORMAL, Closing(1000, ""))
        for closing, code in (
            (GOING_AWAY, 1001),
            (TINY_FRAGMENTS, 1008),
            (TOKEN_EXPIRED, 1008),
            (RATE_EXCEEDED, 1008),
            (TOO_BIG, 1009),
            (INTERNAL_ERROR, 1011),
            (TRY_AGAIN_LATER, 1013),
            (HISTORY_GAP, 1013),
            (BROKER_UNAVAILABLE, 1013),
        ):
            self.assertEqual(closing.code, code)
            self.assertNotEqual(closing.reason, "")
