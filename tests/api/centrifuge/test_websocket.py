"""The path of the protocol, and its subprotocols."""

from __future__ import annotations

import sys
from unittest.mock import patch

from pushd.api.centrifuge.codec import (
    JSON,
    PROTOBUF,
)
from tests.support.centrifuge_client import PATH, CentrifugeTestCase


class WebSocketTests(CentrifugeTestCase):
    """Handshakes."""

    def test_off(self) -> None:
        """Without the option there is nothing at the path."""
        self.start(centrifuge=False)
        refused = self.daemon.connect("/connection/websocket").refused
        assert refused is not None
        self.assertEqual(refused.status, 404)

    def test_path(self) -> None:
        """The path is an option; a plain request for it is told to upgrade."""
        self.start(centrifuge_path="/live")
        self.assertTrue(self.daemon.connect("/live/websocket").opened)
        answer = self.daemon.get("/live/websocket")
        assert answer is not None
        self.assertEqual(answer.status, 426)

    def test_json_subprotocol(self) -> None:
        """JSON has a subprotocol, too, and needs none."""
        self.assertEqual(self.daemon.connect(PATH, subprotocols=[JSON]).subprotocol, JSON)
        self.assertIsNone(self.daemon.connect(PATH).subprotocol)

    def test_not_installed(self) -> None:
        """Without the package, a client that asks for Protobuf is refused with one line."""
        with patch.dict(sys.modules, {"pushd.api.centrifuge.protobuf": None}):
            refused = self.daemon.connect(PATH, subprotocols=[PROTOBUF]).refused
        assert refused is not None
        self.assertEqual(refused.status, 400)
        self.assertIn("pushd[centrifuge]", refused.text)
        self.assertTrue(self.daemon.connect(PATH).opened)
