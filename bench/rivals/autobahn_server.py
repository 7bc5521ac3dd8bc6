"""Autobahn and twisted.web as they come: a protocol class a path, a Site, a loop over protocols."""

from __future__ import annotations

import sys
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site

PING_INTERVAL = 25

subscribers: set[WebSocketServerProtocol] = set()


class Demo(WebSocketServerProtocol):
    """Ten pushes, half a second apart, then goodbye."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._push(0)

    def _push(self, number: int) -> None:
        if number == 10:
            self.sendClose(1000)
            return
        self.sendMessage(f"service message: {number}".encode())
        loop.callLater(0.5, self._push, number + 1)


class Subscribe(WebSocketServerProtocol):
    """Gets every publication."""

    def onOpen(self) -> None:
        subscribers.add(self)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        subscribers.discard(self)


class Publish(WebSocketServerProtocol):
    """What it says goes to every subscriber."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        for subscriber in subscribers:
            subscriber.sendMessage(payload, isBinary)


class Echo(WebSocketServerProtocol):
    """Says what it is told."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


class Door(Resource):
    """A path, with or without the slash at its end."""

    def __init__(self, protocol: type[WebSocketServerProtocol]) -> None:
        super().__init__()
        factory = WebSocketServerFactory()
        factory.protocol = protocol
        factory.setProtocolOptions(autoPingInterval=PING_INTERVAL, autoPingTimeout=PING_INTERVAL)
        self._resource = WebSocketResource(factory)

    def getChild(self, path: bytes, request: Any) -> Any:
        return self._resource


# mypy does not know which reactor this is.
loop: Any = reactor
root = Resource()
for name, protocol in {
    b"test": Demo,
    b"subscribe": Subscribe,
    b"publish": Publish,
    b"echo": Echo,
}.items():
    root.putChild(name, Door(protocol))
port = loop.listenTCP(0, Site(root), backlog=4096, interface="127.0.0.1")
sys.stdout.write(f"listening on {port.getHost().port}\n")
sys.stdout.flush()
loop.run()
