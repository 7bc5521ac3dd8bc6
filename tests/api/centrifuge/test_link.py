"""Links: what clients can be connected by."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.centrifuge.link import Link
from pushd.api.centrifuge.stream import CentrifugeStream
from pushd.protocols.websocket.socket import WebSocket


class LinkTests(SynchronousTestCase):
    """What a link must have."""

    def test_kinds(self) -> None:
        """WebSockets and streams have all methods that a link needs."""
        methods = {name for name in vars(Link) if not name.startswith("_")}
        self.assertIn("close_with", methods)
        for kind in (WebSocket, CentrifugeStream):
            instance_only = {"transport", "send_queue"}
            missing = {name for name in methods - instance_only if not hasattr(kind, name)}
            self.assertEqual(missing, set(), kind)
