"""The view behind ``/topics/<topic>`` for those who ask with a WebSocket."""

from __future__ import annotations

import json
from math import floor
from typing import Any

from pushd.access.authorization import Authorizer
from pushd.access.closing import RATE_EXCEEDED
from pushd.access.connections import Connections
from pushd.access.limits import TokenBucket
from pushd.access.tokens import Identity
from pushd.errors import Denied
from pushd.protocols.http.response import to_json
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import V1
from pushd.views.request import Request

# How many fresh tokens one may send a second in the long run, and how many at once: to check one
# takes longer than to read a message.
_RATE = 1.0
_BURST = 10

# A message that is longer holds no token: the head of a request could not hold it either.
_MAX_LENGTH = 1 << 14


class TopicView:
    """Lets a browser have a topic until it leaves, or until its token runs out.

    Over ``pushd.v1`` it is told for how many seconds its token holds, ``{"expires_in": 3600}``,
    and may send a fresh one, ``{"token": "…"}``, which is answered likewise, or with ``error``.
    What else it says is of no interest.
    """

    def __init__(self, authorizer: Authorizer, connections: Connections) -> None:
        self._authorizer = authorizer
        self._connections = connections

    async def __call__(self, request: Request) -> None:
        """Serve one browser."""
        websocket: WebSocket = request.websocket
        websocket.accept(V1 if V1 in request.subprotocols else None)
        topic, after = request.parameters["topic"], request.parameters["after"]
        clock = request.clock
        identity, speaks = request.identity, websocket.subprotocol == V1
        # It may stay for days, and what it asked with takes more room than all the rest.
        del request
        await websocket.subscribe(topic, after)
        if not speaks:
            async for _ in websocket:
                pass
            return
        if identity is not None:
            websocket.send(self._tell(self._authorizer.end_of_connection(identity)))
        bucket = TokenBucket(rate=_RATE, burst=_BURST, now=clock.seconds)
        async for message in websocket:
            token = _read_token(message)
            if token is None:
                continue
            if not bucket.take():
                websocket.close_with(RATE_EXCEEDED)
                return
            websocket.send(self._renew(websocket, identity, token, topic))

    def _renew(
        self, websocket: WebSocket, identity: Identity | None, token: str, topic: str
    ) -> str:
        """Let a fresh token take the place of the one before."""
        try:
            fresh = self._authorizer.authorize_subscribe(token, topic)
            if fresh is None or identity is None:
                raise Denied(403, "this connection goes without a token")
            if fresh.subject != identity.subject:
                raise Denied(403, "the fresh token is for another subject")
        except Denied as denied:
            return to_json({"error": str(denied), "where": "token"})
        ends = self._authorizer.end_of_connection(fresh)
        self._connections.close_at(websocket, ends)
        return self._tell(ends)

    def _tell(self, ends: float) -> str:
        return to_json({"expires_in": floor(ends - self._authorizer.now())})


def _read_token(message: str | bytes) -> str | None:
    """The token in ``{"token": "…"}``; None for all else."""
    if len(message) > _MAX_LENGTH:
        return None
    try:
        said: Any = json.loads(message)
    except (ValueError, RecursionError):
        return None
    token = said.get("token") if isinstance(said, dict) else None
    return token if isinstance(token, str) else None
