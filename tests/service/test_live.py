"""New settings in a daemon that runs: what changes, and for whom."""

from __future__ import annotations

import json

from pushd.testing.daemon import Daemon
from pushd.views.request import Request
from tests.echo import echo
from tests.service.test_live_reload import ReloadTestCase


class ChangesTests(ReloadTestCase):
    """What a daemon does with new settings, while everybody stays."""

    def setUp(self) -> None:
        """Have a daemon, and somebody in it."""
        super().setUp()
        self.daemon = Daemon({"/": echo})
        self.browser = self.daemon.connect("/")
        self.assertTrue(self.browser.opened)

    def settings(self, *lines: str) -> None:
        """Let the settings come that a file amounts to."""
        self.write(*lines)
        for apply in self.daemon._service.appliers:
            apply(self.options().settings)

    def assert_closed(self, code: int) -> None:
        """Check that the one who is here was closed with this code."""
        assert self.browser.closing is not None
        self.assertEqual(self.browser.closing.code, code)

    def test_unchanged(self) -> None:
        """Who is here stays, and is served."""
        self.settings()
        self.browser.send("hello")
        self.assertEqual(self.browser.messages, ["hello"])

    def test_origins(self) -> None:
        """Pages of other origins come in, and stay when they would not come in any more."""
        stranger = "https://other.example"
        self.assertFalse(self.daemon.connect("/", origin=stranger).opened)
        self.settings(f'origin = ["{stranger}"]')
        inside = self.daemon.connect("/", origin=stranger)
        self.assertTrue(inside.opened)
        self.settings()
        self.assertFalse(self.daemon.connect("/", origin=stranger).opened)
        inside.send("still here")
        self.assertEqual(inside.messages, ["still here"])

    def test_max_message(self) -> None:
        """Messages may be larger, and smaller, on connections that are open, and bodies as well."""
        self.settings("max-message = 200")
        self.assertEqual(self.post(b"x" * 201), 413)
        self.browser.send("x" * 200)
        self.assertEqual(self.browser.messages, ["x" * 200])
        self.browser.send("x" * 201)
        self.assert_closed(1009)
        self.settings("max-message = 2000000")
        other = self.daemon.connect("/")
        self.settings("max-message = 3000000")
        self.assertEqual(self.post(b"x" * 2_500_000), 200)
        other.send("x" * 2_500_000)
        self.assertEqual(len(other.messages), 1)

    def test_max_message_at_control(self) -> None:
        """So may the bodies that the control port takes, and a batch more than others."""
        self.settings("max-message = 10")
        self.assertEqual(self.post(b"x" * 11, "/topics/t", control=True), 413)
        batch = json.dumps({"publications": [{"topic": "t", "data": "x" * 10}] * 2})
        self.assertEqual(self.post(batch.encode(), "/publish", control=True), 200)
        self.assertEqual(self.post(batch.replace("x", "é").encode(), "/publish", control=True), 413)
        self.settings(f"max-message = {16 << 20}")
        self.assertEqual(self.post(b"x" * (16 << 20), "/topics/t", control=True), 200)
        self.assertEqual(self.post(b" " * (17 << 20), "/publish", control=True), 400)

    def test_max_message_published(self) -> None:
        """So may publications of views."""
        published: list[object] = []

        async def publish(request: Request) -> str:
            try:
                published.append(request.publish("t", "x" * 11))
            except ValueError as error:
                published.append(str(error))
            return ""

        self.daemon = Daemon({"/": publish})
        self.daemon.get("/")
        self.settings("max-message = 10")
        self.daemon.get("/")
        self.assertEqual(published[1], "a publication of 11 bytes: --max-message is 10")
        self.assertNotIsInstance(published[0], str)

    def test_max_rate(self) -> None:
        """Whoever sends too much by the new rate is closed; nobody is for what is past."""
        self.settings("max-rate = 1")
        for _ in range(10):
            self.browser.send("x")
        self.assertIsNone(self.browser.closing)
        self.browser.send("x")
        self.assert_closed(1008)

    def test_compression(self) -> None:
        """Those who come next get no compression, or get it."""
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        heads = []
        for line in ("compression = true", "compression = false", "compression = true"):
            self.settings(line)
            wire = self.daemon.open_connection()
            fields = {
                "Host": "localhost:8080",
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
                **offer,
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            wire.send(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
            heads.append(b"permessage-deflate" in wire.received)
        self.assertEqual(heads, [True, False, True])

    def test_max_connections(self) -> None:
        """Nobody has to leave, but nobody may come."""
        self.settings("max-connections = 1")
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.status, 503)
        self.browser.send("hello")
        self.assertEqual(self.browser.messages, ["hello"])
        self.settings("max-connections = 2")
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_drain(self) -> None:
        """A stop takes as long as was said last."""
        self.settings("drain = 4")
        self.daemon.begin_stop()
        self.assertIsNone(self.browser.closing)
        self.daemon.advance(4)
        self.assert_closed(1001)

    def test_max_buffered(self) -> None:
        """Who is slow by the new measure is closed."""
        self.settings("max-buffered = 1")
        self.browser.stall()
        for _ in range(3):
            self.browser.send("x" * 100_000)
        self.browser.resume()
        self.assert_closed(1013)

    def post(self, body: bytes, path: str = "/", *, control: bool = False) -> int:
        """Post, to the public port unless told otherwise; give the status."""
        answer = self.daemon.request("POST", path, body=body, control=control)
        assert answer is not None
        return answer.status
