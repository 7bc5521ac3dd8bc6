"""What Autobahn's protocol is spared."""

from __future__ import annotations

import gc
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.lean import LeanProtocol
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket


@accept_websocket
async def quiet(request: Request) -> None:
    """Wait until the browser leaves."""
    async for _ in request.websocket:
        pass


def protocols() -> list[Any]:
    """Every protocol there is now."""
    return [one for one in gc.get_objects() if isinstance(one, LeanProtocol)]


class LeanTests(SynchronousTestCase):
    """An object holds what is its own."""

    def test_attributes(self) -> None:
        """An open connection has a dozen attributes; Autobahn's own has five times as many."""
        with Daemon({"/": quiet}) as daemon:
            before = {id(one) for one in protocols()}
            daemon.connect("/")
            [protocol] = [one for one in protocols() if id(one) not in before]
            self.assertLess(len(vars(protocol)), 16, vars(protocol))
            # What Autobahn looks for, it finds: in the class.
            for name in {*WebSocketServerProtocol.CONFIG_ATTRS} - {"perMessageCompressionAccept"}:
                self.assertNotIn(name, vars(protocol))
                self.assertEqual(getattr(protocol, name), getattr(protocol.factory, name))

    def test_validator(self) -> None:
        """What checks text in pieces is made when the first piece comes, and kept."""
        protocol = LeanProtocol()
        self.assertNotIn("utf8validator", vars(protocol))
        self.assertIs(protocol.utf8validator, protocol.utf8validator)

    def test_no_log(self) -> None:
        """Autobahn's own log lines go nowhere."""
        for write in (LeanProtocol.log.debug, LeanProtocol.log.warn):
            self.assertIsNone(write("{x}", x=1))
