"""The extension ``pushd`` of an application's scope: topics for code that answers a request."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from typing import Any

from twisted.internet.defer import Deferred

from pushd.gateways.asgi.scope import Scope
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.publisher import Publisher

#: The name of the extension in ``scope["extensions"]``.
NAME = "pushd"


class Topics:
    """What an application can do with topics; see ``Request`` and ``WebSocket`` of pushd.views."""

    def __init__(self, publisher: Publisher, loop: AbstractEventLoop) -> None:
        self._publisher = publisher
        self._loop = loop
        # The same functions for all connections: of those that stay open, each has a scope.
        self._functions: dict[str, Any] = {
            "publish": self.publish,
            "last_id": self.last_id,
            "presence": self.presence,
            "revoke": self.revoke,
        }

    def extend(self, scope: Scope, websocket: WebSocket | None = None) -> None:
        """Add the extension, and for a WebSocket the standard one for responses that refuse it."""
        extension = dict(self._functions)
        scope["extensions"] = {NAME: extension}
        if websocket is not None:
            subscriptions = Subscriptions(websocket, self._loop)
            extension["subscribe"] = subscriptions.subscribe
            extension["unsubscribe"] = subscriptions.unsubscribe
            scope["extensions"]["websocket.http.response"] = {}

    async def publish(self, topic: str, data: Any, **options: Any) -> Any:
        """Publish to a topic; see ``Request.publish``."""
        published = self._publisher.publish(topic, data, **options)
        if isinstance(published, Deferred):
            return await published.asFuture(self._loop)
        return published

    async def last_id(self, topic: str) -> str:
        """Return the id with which a page that is made now subscribes to a topic."""
        id: str = await self._publisher.last_id(topic).asFuture(self._loop)
        return id

    async def presence(self, topic: str) -> Any:
        """Return who is present at a topic."""
        return await self._publisher.presence(topic).asFuture(self._loop)

    async def revoke(self, *, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject; return how many."""
        return self._publisher.revoke(topic, subject)


class Subscriptions:
    """The topics that are sent to one WebSocket, past the application."""

    __slots__ = ("_loop", "_websocket")

    def __init__(self, websocket: WebSocket, loop: AbstractEventLoop) -> None:
        self._websocket = websocket
        self._loop = loop

    async def subscribe(self, topic: str, after: str | None = None, **options: Any) -> bool:
        """Send the client what is published to a topic, past the application.

        Return whether nothing is missing since ``after``. The WebSocket must have been accepted.
        """
        subscribed = self._websocket.subscribe(topic, after, **options)
        recovered: bool = await subscribed.asFuture(self._loop)
        return recovered

    async def unsubscribe(self, topic: str) -> None:
        """Send the client no more publications of a topic."""
        self._websocket.unsubscribe(topic)
