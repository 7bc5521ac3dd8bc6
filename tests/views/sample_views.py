"""Views that several tests use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from pushd.views.request import Request, accept_websocket


@accept_websocket
async def echo(request: Request) -> str | None:
    """Serve a page over HTTP, and echo messages."""
    if not request.is_websocket():
        return "a page"
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


class WaitingView:
    """A view that waits until the test lets it continue, and records how it ends."""

    def __init__(self, then: Callable[[Request], Any] = lambda request: None) -> None:
        self.go: Deferred[None] = Deferred()
        self.requests: list[Request] = []
        self.ends: list[str] = []
        self._then = then

    async def __call__(self, request: Request) -> Any:
        """Wait, then return what the test asked for."""
        self.requests.append(request)
        try:
            await self.go
        except CancelledError:
            self.ends.append("cancelled")
            raise
        try:
            return self._then(request)
        finally:
            self.ends.append("returned")
