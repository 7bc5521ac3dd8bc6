"""Errors of the Centrifuge protocol for what is refused in the terms of HTTP."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.centrifuge.codes import bad_request, refusal_of
from pushd.errors import BadRequest, Denied


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

    def test_long_reason(self) -> None:
        """A reason fits a Close frame."""
        self.assertLess(len(bad_request("x" * 1000).reason), 124)
