"""``/topics`` at the control door: what is there."""

from __future__ import annotations

from collections import Counter
from heapq import nsmallest
from typing import Any

from pushd.async_resource import AsyncResource, PublishDoor, allow
from pushd.protocols.http.response import Response, json_response
from pushd.topics.publication import Id
from pushd.topics.subscription import transport_of

# How many topics one answer lists.
_MAX_LIST = 1000


class TopicList(AsyncResource):
    """``/topics``: what is there."""

    async def answer(self, request: Any) -> Response:
        """List the topics that somebody listens to, or that are remembered."""
        allow(request, "GET")
        names = {*self._door.hub.topics(), *await self._door.broker.names()}
        first = nsmallest(_MAX_LIST, names)
        topics = [await describe(self._door, name) for name in first]
        return json_response(200, {"topics": topics, "more": len(names) > _MAX_LIST})


async def describe(door: PublishDoor, topic: str) -> dict[str, Any]:
    """What there is to tell of a topic, as JSON has it."""
    described: tuple[Id | None, int] = await door.broker.describe(topic)
    last, kept = described
    transports = Counter(map(transport_of, door.hub.subscribers(topic)))
    return {
        "topic": topic,
        "id": None if last is None else str(last),
        "history": kept,
        "subscribers": dict(transports),
    }
