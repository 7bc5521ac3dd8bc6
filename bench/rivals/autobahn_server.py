"""Autobahn and twisted.web as is: a protocol class per path, a Site, a loop over protocols."""

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
    """Ten pushes, half a second apart, then a Close."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._push(0)

    def _push(self, number: int) -> None:
        if number == 10:
            self.sendClose(1000)
            return
        self.sendMessage(f"service message: {number}".encode())
        loop.callLater(0.5, self._push, number + 1)


class Subscribe(WebSocketServerProtocol):
    """Receives every publication."""

    def onOpen(self) -> None:
        subscribers.add(self)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        subscribers.discard(self)


class Publish(WebSocketServerProtocol):
    """Publishes each message to every subscriber."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        for subscriber in subscribers:
            subscriber.sendMessage(payload, isBinary)


class Echo(WebSocketServerProtocol):
    """Sends each message back."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


class WebSocketPath(Resource):
    """Serves a path with or without its trailing slash."""

    def __init__(self, protocol: type[WebSocketServerProtocol]) -> None:
        super().__init__()
        factory = WebSocketServerFactory()
        factory.protocol = protocol
        factory.setProtocolOptions(autoPingInterval=PING_INTERVAL, autoPingTimeout=PING_INTERVAL)
        self._resource = WebSocketResource(factory)

    def getChild(self, path: bytes, request: Any) -> Any:
        return self._resource


# Annotated for mypy, which sees only a module.
loop: Any = reactor
root = Resource()
for name, protocol in {
    b"test": Demo,
    b"subscribe": Subscribe,
    b"publish": Publish,
    b"echo": Echo,
}.items():
    root.putChild(name, WebSocketPath(protocol))
port = loop.listenTCP(0, Site(root), backlog=4096, interface="127.0.0.1")
sys.stdout.write(f"listening on {port.getHost().port}\n")
sys.stdout.flush()
loop.run()
