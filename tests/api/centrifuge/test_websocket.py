"""The path of the protocol, and its subprotocols."""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

from pushd.api.centrifuge.codec import (
    JSON,
    PROTOBUF,
)
from pushd.testing import Browser
from tests.support.centrifuge_client import PATH, CentrifugeTestCase
from tests.support.keyring import secret_keys, sign


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


class UnidirectionalTests(CentrifugeTestCase):
    """WebSockets of clients that only listen."""

    path = "/connection/uni_websocket"

    def setUp(self) -> None:
        """Start a daemon that knows a key."""
        self.start(token_keys=secret_keys())

    def heard(self, browser: Browser) -> list[dict[str, Any]]:
        """Return the pushes since the last call; each is a message."""
        heard = [json.loads(message) for message in browser.messages]
        browser.messages.clear()
        return heard

    def test_message(self) -> None:
        """A client connects with its first message; all others are ignored."""
        browser = self.daemon.connect(self.path)
        self.assertEqual(browser.messages, [])
        browser.send(json.dumps({"token": sign({"sub": "ann", "channels": ["news"]})}))
        [push] = self.heard(browser)
        self.assertEqual(set(push["connect"]["subs"]), {"news"})
        self.assertNotIn("pong", push["connect"])
        browser.send("nonsense")
        self.publish("news", "x")
        [push] = self.heard(browser)
        self.assertEqual((push["channel"], push["pub"]["data"]), ("news", "x"))

    def test_query(self) -> None:
        """A client may connect with its query."""
        browser = self.daemon.connect(f"{self.path}?cf_connect={quote('{}')}")
        self.assertIn("connect", self.heard(browser)[0])
        refused = self.daemon.connect(f"{self.path}?cf_connect=nonsense").refused
        assert refused is not None
        self.assertEqual((refused.status, json.loads(refused.text)["where"]), (400, "cf_connect"))

    def test_pings(self) -> None:
        """Pings come, and no answer is expected."""
        browser = self.daemon.connect(f"{self.path}?cf_connect={quote('{}')}")
        self.heard(browser)
        self.daemon.advance(25, 25, 25)
        self.assertEqual(self.heard(browser), [{}] * 3)
        self.assertFalse(browser.gone)

    def test_closed(self) -> None:
        """The Close frame says why, and whether to come back."""
        for message, code in (
            ("nonsense", 3501),
            ("[]", 3501),
            (b"\xff", 3501),
            ('{"token":"nonsense"}', 3500),
        ):
            browser = self.daemon.connect(self.path)
            browser.send(message)
            assert browser.closing is not None
            self.assertEqual(browser.closing.code, code, message)

    def test_stale(self) -> None:
        """A client that says nothing is closed."""
        browser = self.daemon.connect(self.path)
        self.daemon.advance(15.1)
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 3502)

    def test_shutdown(self) -> None:
        """A daemon that stops tells its clients to come back."""
        browser = self.daemon.connect(self.path)
        browser.send("{}")
        self.daemon.stop()
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 3001)
