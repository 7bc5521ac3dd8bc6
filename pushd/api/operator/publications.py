"""``/publications`` of the control port: what a topic has kept, for operators."""

from __future__ import annotations

from typing import Any

from pushd.api.centrifuge.history import read_page
from pushd.api.publish import read_topic
from pushd.api.resource import AsyncResource, read_argument, read_limit, require_known
from pushd.protocols.http.response import JSON_HEADERS, Response
from pushd.protocols.json_format import publication_json, to_json

# Publications in one response unless the request says otherwise, and at most.
_LIMIT = 10
_MAX_LIMIT = 1000


class PublicationListResource(AsyncResource):
    """``/publications?topic=NAME``: the newest publications that a topic has kept.

    To read them changes nothing for its subscribers.
    """

    async def answer(self, request: Any) -> Response:
        """List the newest ``?limit=`` of them, the newest first, about a megabyte at most."""
        require_known(request, "topic", "limit")
        topic = read_topic(read_argument(request, "topic") or "", "topic")
        limit = read_limit(request, _LIMIT, _MAX_LIMIT)
        last, history = await self._state.broker.describe(topic)
        listed: list[str] = []
        # An unknown topic would begin to exist by being read.
        if last is not None and history:
            page = await read_page(self._state.broker, topic, {"limit": limit, "reverse": True})
            listed = [publication_json(one) for one in page.publications]
        head = to_json({"topic": topic, "history": history})
        body = f'{head[:-1]},"publications":[{",".join(listed)}]}}\n'
        return Response(200, JSON_HEADERS, body)
