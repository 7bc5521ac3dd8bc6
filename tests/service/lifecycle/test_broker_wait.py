"""No request is read before the first attempt to connect to Redis."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.lifecycle.broker_wait import BrokerWait


class RecordingPort:
    """Records whether it is held."""

    held = False

    def hold(self) -> None:
        """Accept nothing."""
        self.held = True

    def resume(self) -> None:
        """Accept connections."""
        self.held = False


class BrokerWaitTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start to wait, with two ports."""
        self.clock = Clock()
        self.tried: Deferred[Any] = Deferred()
        self.ports = [RecordingPort(), RecordingPort()]
        self.wait = BrokerWait(self.clock, self.tried, self.ports)
        self.wait.startService()

    def assert_held(self, held: bool) -> None:
        """Both ports are held, or neither is."""
        self.assertEqual([port.held for port in self.ports], [held, held])

    def test_tried(self) -> None:
        """The ports are held until the attempt is over."""
        self.assert_held(True)
        self.tried.callback(None)
        self.assert_held(False)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_takes_long(self) -> None:
        """They are held for a second at most."""
        self.clock.advance(0.9)
        self.assert_held(True)
        self.clock.advance(0.1)
        self.assert_held(False)
        self.tried.callback(None)

    def test_stopped(self) -> None:
        """A daemon that stops waits no longer."""
        self.wait.stopService()
        self.assert_held(False)
        self.assertEqual(self.clock.getDelayedCalls(), [])
