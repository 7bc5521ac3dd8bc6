"""What makes the protocols."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.protocols.cork import Cork
from pushd.protocols.websocket.factory import PushFactory


class FactoryTests(SynchronousTestCase):
    def test_no_connection_of_its_own(self) -> None:
        """The factory builds nothing for a connection that did not come through HTTP."""
        factory = PushFactory(Clock(), Limits(), Cork())
        with self.assertRaises(RuntimeError):
            factory.buildProtocol(None)
