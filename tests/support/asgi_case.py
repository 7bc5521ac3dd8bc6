"""A test case with an ASGI application behind the public port."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.gateways.asgi.scope import Application, Message, Receive, Scope, Send
from pushd.testing import Answer, Browser, Daemon
from tests.support.peer import Peer


class Recorder:
    """An application that keeps its scopes, and what it receives, and sends what it is told.

    :param events: what it sends to each client, in order.
    """

    def __init__(self, *events: Message) -> None:
        self.events = events
        self.scopes: list[Scope] = []
        self.received: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive one event, then send all."""
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.scopes.append(scope)
        self.received.append(await receive())
        for event in self.events:
            await send(event)


def start(status: int = 200, **headers: str) -> Message:
    """Return the start of a response, with headers named as keywords."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }


def body(data: Any = b"", *, more: bool = False) -> dict[str, Any]:
    """Return a part of the body of a response."""
    return {"type": "http.response.body", "body": data, "more_body": more}


NOTHING = Recorder()


class AsgiTestCase(SynchronousTestCase):
    """Serves an application; no delayed call may be left when the test is over."""

    def serve(self, application: Application, **settings: Any) -> Daemon:
        """Start a daemon that serves it."""
        self.daemon = Daemon(settings.pop("views", {}), asgi=application, **settings)
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def ask(self, path: str = "/", method: str = "GET", **more: Any) -> Answer:
        """Send a request to the daemon."""
        answer = self.daemon.request(method, path, **more)
        assert answer is not None, "there is no answer"
        return answer

    def connect(self, path: str = "/", **more: Any) -> Browser:
        """Ask for a WebSocket."""
        return self.daemon.connect(path, **more)

    def send_raw(self, *parts: bytes) -> Peer:
        """Send a request in parts, over a connection of its own."""
        peer = Peer(self.daemon)
        for part in parts:
            peer.send(part)
        if peer.lost is None:
            self.addCleanup(peer.vanish)
        return peer
