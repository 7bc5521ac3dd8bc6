"""Views that several tests use."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from pushd.views.decorators import AnyView, accept_websocket
from pushd.views.request import Request


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


def view(request: Request) -> str:
    """Answer with text."""
    return "view"


def decorated_twice(inner: AnyView) -> Callable[[Request], Any]:
    """Wrap a view with functools.wraps."""

    @wraps(inner)
    def outer(request: Request) -> Any:
        return inner(request)

    return outer


class Counter:
    """A view that is a callable object."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: Request) -> str:
        self.calls += 1
        return str(self.calls)

    def method(self, request: Request) -> str:
        """Answer with text."""
        return "method"
