"""What is agreed on with a client that offers compression."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.deflate import decompressor, negotiate

Offers = list[tuple[str, dict[str, Any]]]


class NegotiationTests(SynchronousTestCase):
    """Which offer is taken."""

    def answer(self, offers: Offers) -> str | None:
        """What the client is told; None when nothing is agreed on."""
        accepted = negotiate(offers)
        return None if accepted is None else accepted.get_extension_string()

    def test_nothing_kept(self) -> None:
        """The client keeps no context, nor do we; and the window is small where it may be."""
        answer = self.answer([("permessage-deflate", {"client_max_window_bits": [True]})])
        assert answer is not None
        self.assertIn("client_no_context_takeover", answer)
        accepted = negotiate([("permessage-deflate", {"server_max_window_bits": ["9"]})])
        assert accepted is not None
        self.assertEqual(decompressor(accepted).server_max_window_bits, 9)

    def test_first_that_can_be(self) -> None:
        """Unknown extensions and parameters are declined; what stands behind is looked at."""
        bad: Offers = [
            ("x-webkit-deflate-frame", {}),
            ("permessage-deflate", {"unheard-of": ["1"]}),
        ]
        self.assertIsNone(self.answer(bad))
        self.assertIsNone(self.answer([]))
        self.assertIsNotNone(self.answer([*bad, ("permessage-deflate", {})]))
