"""The values that travel: what may stand in a Close frame, and what may not."""

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
    TOO_BIG,
    TRY_AGAIN_LATER,
    Closing,
)


class ClosingTests(SynchronousTestCase):
    """Closing is what may go on the wire, and nothing else."""

    def test_codes(self) -> None:
        """The registered codes and 3000 to 4999 may go on the wire, and no other number."""
        allowed = []
        for code in range(-1, 6000):
            try:
                allowed.append(Closing(code).code)
            except ValueError:
                continue
        registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
        self.assertEqual(allowed, [*registered, *range(3000, 5000)])

    def test_refused_by_name(self) -> None:
        """Each code that people try in vain is named in the error, with those that may."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1):
            error = self.assertRaises(ValueError, Closing, code)
            self.assertIn(f"close code {code} may not go on the wire", str(error))
            self.assertIn("3000-4999", str(error))

    def test_no_numbers(self) -> None:
        """A code that is no integer is a TypeError, True and False among them."""
        codes: list[Any] = [True, False, "1000", b"1000", None, 1000.0, [1000]]
        for code in codes:
            error = self.assertRaises(TypeError, Closing, code)
            self.assertEqual(str(error), f"a close code is an int, not {type(code).__name__}")

    def test_enum(self) -> None:
        """A project's own enum of codes does as well as a number."""
        codes = IntEnum("codes", {"EXPIRED": 4001})
        self.assertEqual(Closing(codes.EXPIRED).code, 4001)

    def test_reason_length(self) -> None:
        """A reason holds 123 bytes of UTF-8: not a byte more, however few letters that are."""
        for reason in ("x" * 123, "é" * 61 + "x", "€" * 41, "😀" * 30 + "xyz"):
            self.assertEqual(len(reason.encode()), 123)
            self.assertEqual(Closing(1000, reason).reason, reason)
            error = self.assertRaises(ValueError, Closing, 1000, reason + "x")
            self.assertEqual(str(error), "a close reason holds 123 bytes, this one has 124")

    def test_reason_type(self) -> None:
        """A reason that is no text is a TypeError."""
        reasons: list[Any] = [b"bye", None, 7, bytearray(b"bye")]
        for reason in reasons:
            error = self.assertRaises(TypeError, Closing, 1000, reason)
            self.assertEqual(str(error), f"a close reason is a str, not {type(reason).__name__}")

    def test_reason_surrogate(self) -> None:
        """A reason that UTF-8 cannot hold is a ValueError."""
        self.assertRaises(ValueError, Closing, 1000, "half a \ud83d")

    def test_value(self) -> None:
        """It is a value: equal by what it says, fit for a set, and never changed."""
        self.assertEqual(Closing(1000), Closing(1000, ""))
        self.assertEqual(len({Closing(1000), Closing(1000), Closing(1000, "done")}), 2)
        with self.assertRaises(FrozenInstanceError):
            NORMAL.code = 1001  # type: ignore[misc]

    def test_named(self) -> None:
        """The named closings have the codes of RFC 6455, and a reason where one is needed."""
        self.assertEqual(NORMAL, Closing(1000, ""))
        for closing, code in (
            (GOING_AWAY, 1001),
            (TINY_FRAGMENTS, 1008),
            (RATE_EXCEEDED, 1008),
            (TOO_BIG, 1009),
            (INTERNAL_ERROR, 1011),
            (TRY_AGAIN_LATER, 1013),
            (HISTORY_GAP, 1013),
            (BROKER_UNAVAILABLE, 1013),
        ):
            self.assertEqual(closing.code, code)
            self.assertNotEqual(closing.reason, "")
