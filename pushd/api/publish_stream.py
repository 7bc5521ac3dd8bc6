"""Publishing over a WebSocket: the view that ``/publish`` at the control port runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

from twisted.internet.defer import Deferred

from pushd.api.publish import PlainReader, check_size, published_texts, read_draft
from pushd.api.resource import DaemonState
from pushd.errors import BadRequest, Unavailable
from pushd.protocols.json_format import to_json
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.broker import SLICE, Draft
from pushd.topics.publication import Id
from pushd.views.request import Request

# The most messages that are answered together: as many as a connection may have unread.
_TOGETHER = 64

_raw_decode = json.JSONDecoder().raw_decode


class PublisherView:
    """Publishes what a client sends, and answers each message in its order.

    A message is a publication as in a batch: ``{"topic": "a", "data": "…"}``. Its answer is that
    of a POST, ``{"id": "…", "subscribers": 0}``, or an error with ``where``; the connection stays
    open. A client need not wait for an answer before it sends more. What has arrived together is
    published, and answered, together; meanwhile the inbox fills, and TCP holds the client. One that
    does not read its answers is not read from.
    """

    def __init__(self, state: DaemonState) -> None:
        self._state = state

    async def __call__(self, request: Request) -> None:
        """Serve one client."""
        websocket: WebSocket = request.websocket
        websocket.gather()
        # The connection may last for days; the request holds more memory than everything else.
        del request
        async for message in websocket:
            messages = [message, *websocket.read_arrived(_TOGETHER)]
            await websocket.send_together(await self._answer(messages))

    async def _answer(self, messages: Sequence[str | bytes]) -> list[str]:
        """Publish what is valid, and return the answers."""
        plain = PlainReader(self._state.limits.max_message)
        read = [self._read(message, plain) for message in messages]
        drafts = [one for one in read if isinstance(one, Draft)]
        ids = self._publish_at_once(drafts) if sum(map(len, messages)) <= SLICE else []
        published = iter(published_texts(drafts[: len(ids)], ids, self._state.hub.count))
        if len(ids) < len(drafts):
            published = chain(published, await self._publish(drafts[len(ids) :]))
        return [next(published) if isinstance(one, Draft) else one for one in read]

    def _read(self, message: str | bytes, plain: PlainReader) -> Draft | str:
        """Return the draft in a message, or the error that answers it."""
        try:
            value = _parse(message)
            draft = plain.read(value) or read_draft(value, self._state.limits.max_message)
            if self._state.rules:
                check_size(self._state, draft, "message")
        except BadRequest as error:
            return to_json({"error": error.reason, "where": error.where})
        return draft

    def _publish_at_once(self, drafts: Sequence[Draft]) -> list[Id]:
        """Publish without a Deferred; return the ids of those for which that is possible."""
        ids: list[Id] = []
        if self._state.hub.has_room:
            for draft in drafts:
                id = self._state.broker.publish_at_once(draft)
                if id is None:
                    break
                ids.append(id)
        return ids

    async def _publish(self, drafts: Sequence[Draft]) -> Iterator[str]:
        """Publish as soon as there is room, and return the answers."""
        # If the client disconnects, only this Deferred is cancelled: all are still published.
        done: Deferred[list[Id]] = Deferred()
        room = self._state.hub.room()
        room.addCallback(lambda _: self._state.broker.publish_all(drafts)).chainDeferred(done)
        try:
            ids = await done
        except Unavailable as error:
            return repeat(to_json({"error": str(error), "where": "broker"}), len(drafts))
        return published_texts(drafts, ids, self._state.hub.count)


def _parse(message: str | bytes) -> object:
    """Parse the JSON of a message. Raises BadRequest."""
    try:
        if isinstance(message, str) and message[:1] == "{":
            # This is what loads does, but for blanks around it.
            value, end = _raw_decode(message)
            if end == len(message):
                return value
        return json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the message is not valid JSON: {error}", "message") from None
