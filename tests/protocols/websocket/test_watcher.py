"""The watcher of a WebSocket: sends what presence tells, if there is room."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.protocols.websocket.watcher import WebSocketWatcher
from pushd.testing import Daemon
from pushd.topics.presence import Presence
from pushd.views import accept_websocket


class WebSocketWatcherTests(SynchronousTestCase):
    """One WebSocket, and the presence of a topic."""

    def setUp(self) -> None:
        """Open a WebSocket that a view gives to the test."""
        self.clock = Clock()
        self.presence = Presence(self.clock, Limits(), "n", None)
        self.addCleanup(self.presence.stop)

        @accept_websocket
        async def view(request: Any) -> None:
            self.websocket = request.websocket
            await request.websocket.wait()

        self.daemon = Daemon({"/": view})
        self.addCleanup(self.daemon.stop)
        self.browser = self.daemon.connect("/")
        self.websocket.accept()
        self.watcher = WebSocketWatcher(self.websocket)

    def test_counted(self) -> None:
        """What is sent counts as messages of the connection."""
        self.watcher.start(self.presence, "t")
        self.presence.join("t", 1)
        self.clock.advance(0)
        self.daemon.settle()
        self.assertEqual(len(self.browser.messages), 1)
        self.assertEqual(self.websocket.wire.traffic.messages_out, 1)

    def test_stop(self) -> None:
        """It can be stopped before it starts, and twice; it then sends nothing."""
        self.watcher.stop()
        self.watcher.resume()
        self.watcher.start(self.presence, "t")
        self.watcher.stop()
        self.watcher.stop()
        self.clock.advance(1)
        self.daemon.settle()
        self.assertEqual(self.browser.messages, [])

    def test_closed(self) -> None:
        """Nothing is sent over a connection that closes, and it is not waited for."""
        self.watcher.start(self.presence, "t")
        self.websocket.close()
        self.clock.advance(1)
        self.daemon.settle()
        self.assertEqual(self.browser.messages, [])

    def test_full(self) -> None:
        """A full connection gets the list once it has room."""
        self.watcher.start(self.presence, "t")
        self.websocket.send_queue.pause()
        self.clock.advance(1)
        self.daemon.settle()
        self.assertEqual(self.browser.messages, [])
        self.websocket.send_queue.resume()
        self.clock.advance(1)
        self.daemon.settle()
        self.assertEqual(len(self.browser.messages), 1)
