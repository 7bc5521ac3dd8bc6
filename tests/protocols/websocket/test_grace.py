"""The calls that are allowed after the end of a conversation."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.grace import MAX_CALLS, TELLING_COST, Grace


class GraceTests(SynchronousTestCase):
    def test_limit(self) -> None:
        """10,000 calls are allowed, or 100 that tell of the end; then none is."""
        for cost, calls in ((1, MAX_CALLS), (TELLING_COST, 100)):
            grace = Grace()
            allowed = [grace.allows(cost) for _ in range(calls + 2)]
            self.assertEqual(allowed, [True] * calls + [False, False])

    def test_message_read(self) -> None:
        """A message that is read starts the count anew, and the time that is over stays so."""
        grace = Grace()
        grace.is_over = grace.has_told_end = True
        grace.allows(MAX_CALLS)
        grace.message_read()
        self.assertTrue(grace.allows(MAX_CALLS))
        self.assertFalse(grace.allows())
        self.assertTrue(grace.is_over and grace.has_told_end)
