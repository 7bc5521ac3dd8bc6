"""Errors of the Centrifuge protocol for what is refused in the terms of HTTP."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.centrifuge.codes import ErrorCode, bad_request, closing_of, refusal_of
from pushd.errors import BadRequest, CommandRefused, Denied


class CodeTests(SynchronousTestCase):
    """Codes."""

    def test_refusals(self) -> None:
        """What may succeed later is temporary; all else is not."""
        for refused, code in (
            (BadRequest("x", "topic"), 107),
            (Denied(401, "x"), 103),
            (Denied(403, "x"), 103),
            (BadRequest("x", "topic", 503), 100),
        ):
            error = refusal_of(refused)
            self.assertEqual((error.code, error.message), (code, "x"))
            self.assertEqual(error.temporary, code == 100)

    def test_closings(self) -> None:
        """A client that gets no errors is closed; it comes back if that may help."""
        for refused, code in (
            (CommandRefused(ErrorCode.TOKEN_EXPIRED, "x"), 3005),
            (CommandRefused(ErrorCode.INTERNAL_ERROR, "x", temporary=True), 3004),
            (CommandRefused(ErrorCode.LIMIT_EXCEEDED, "x"), 3501),
        ):
            self.assertEqual(closing_of(refused).code, code)

    def test_long_reason(self) -> None:
        """A reason fits a Close frame."""
        self.assertLess(len(bad_request("x" * 1000).reason), 124)
