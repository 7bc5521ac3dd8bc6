"""The extension ``pushd`` of an application's scope: topics for code that answers a request."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from typing import Any

from twisted.internet.defer import Deferred

from pushd.gateways.asgi.scope import Scope
from pushd.views.request import Request

#: The name of the extension in ``scope["extensions"]``.
NAME = "pushd"


def extend(scope: Scope, request: Request, loop: AbstractEventLoop) -> None:
    """Add the extension, and for a WebSocket the standard one for responses that refuse it."""
    topics = Topics(request, loop)
    extension: dict[str, Any] = {
        "publish": topics.publish,
        "last_id": topics.last_id,
        "presence": topics.presence,
        "revoke": topics.revoke,
    }
    scope["extensions"] = {NAME: extension}
    if request.websocket is not None:
        extension["subscribe"] = topics.subscribe
        extension["unsubscribe"] = topics.unsubscribe
        scope["extensions"]["websocket.http.response"] = {}


class Topics:
    """What an application can do with topics; see ``Request`` and ``WebSocket`` of pushd.views."""

    __slots__ = ("_loop", "_request")

    def __init__(self, request: Request, loop: AbstractEventLoop) -> None:
        self._request = request
        self._loop = loop

    async def publish(self, topic: str, data: Any, **options: Any) -> Any:
        """Publish to a topic; see ``Request.publish``."""
        published = self._request.publish(topic, data, **options)
        return await self._await(published) if isinstance(published, Deferred) else published

    async def last_id(self, topic: str) -> str:
        """Return the id with which a page that is made now subscribes to a topic."""
        id: str = await self._await(self._request.last_id(topic))
        return id

    async def presence(self, topic: str) -> Any:
        """Return who is present at a topic."""
        return await self._await(self._request.presence(topic))

    async def subscribe(self, topic: str, after: str | None = None, **options: Any) -> bool:
        """Send the client what is published to a topic, past the application.

        Return whether nothing is missing since ``after``. The WebSocket must have been accepted.
        """
        recovered: bool = await self._await(
            self._request.websocket.subscribe(topic, after, **options)
        )
        return recovered

    async def unsubscribe(self, topic: str) -> None:
        """Send the client no more publications of a topic."""
        self._request.websocket.unsubscribe(topic)

    async def revoke(self, *, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject; return how many."""
        return self._request.revoke(topic=topic, subject=subject)

    async def _await(self, result: Deferred[Any]) -> Any:
        return await result.asFuture(self._loop)
