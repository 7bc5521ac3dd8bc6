"""Topics over WebSocket: the view that ``/topics/<topic>`` runs for a handshake."""

from __future__ import annotations

import json
from math import floor
from typing import Any

from pushd.access.authorization import Authorizer
from pushd.access.closing import RATE_EXCEEDED
from pushd.access.connections import Connections
from pushd.access.limits import TokenBucket
from pushd.access.tokens import Identity
from pushd.api.keep_alives import KeepAlives, WebSocketHeartbeat
from pushd.errors import Denied
from pushd.protocols.http.response import Response, json_refusal
from pushd.protocols.json_format import to_json
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import V1
from pushd.views.request import Request

# Rate and burst of fresh tokens: checking one takes longer than reading a message.
_RATE = 1.0
_BURST = 10

# Length of a message that can hold a token: a request's head could not hold a longer one either.
_MAX_LENGTH = 1 << 14


class TopicView:
    """Sends a topic's publications until the client closes, or until its token expires.

    With ``pushd.v1`` a client that has a token receives the remaining lifetime in seconds,
    ``{"expires_in": 3600}``. It may send a fresh token, ``{"token": "…"}``, which is answered
    likewise, or with ``error``. Other messages are ignored. A client that asks for heartbeats
    receives ``{"heartbeat": 25}`` at once, before ``subscribed``, and then after each interval.
    """

    def __init__(
        self, authorizer: Authorizer, connections: Connections, keep_alives: KeepAlives
    ) -> None:
        self._authorizer = authorizer
        self._connections = connections
        self._keep_alives = keep_alives

    async def __call__(self, request: Request) -> Response | None:
        """Serve one client."""
        interval, speaks_v1 = request.parameters["heartbeat"], V1 in request.subprotocols
        if interval is not None and not speaks_v1:
            # In a plain frame it could not be told from data.
            return json_refusal(400, f"heartbeats need the subprotocol {V1}", "heartbeat")
        format = request.parameters["format"]
        if format is not None and not speaks_v1:
            return json_refusal(400, f"format=json needs the subprotocol {V1}", "format")
        websocket: WebSocket = request.websocket
        websocket.accept(V1 if speaks_v1 else None)
        topic, after = request.parameters["topic"], request.parameters["after"]
        clock, identity = request.clock, request.identity
        # The connection may last for days; the request holds more memory than everything else.
        del request
        heartbeat = None
        if interval is not None:
            heartbeat = WebSocketHeartbeat(websocket, self._keep_alives, interval)
            heartbeat.keep_alive()
        try:
            await websocket.subscribe(topic, after, format=format)
            if not speaks_v1:
                async for _ in websocket:
                    pass
                return None
            if identity is not None:
                websocket.send(self._expires_in(self._authorizer.end_of_connection(identity)))
            bucket = TokenBucket(rate=_RATE, burst=_BURST, now=clock.seconds)
            async for message in websocket:
                token = _read_token(message)
                if token is None:
                    continue
                if not bucket.take():
                    websocket.close_with(RATE_EXCEEDED)
                    break
                websocket.send(self._renew(websocket, identity, token, topic))
        finally:
            if heartbeat is not None:
                heartbeat.stop()
        return None

    def _renew(
        self, websocket: WebSocket, identity: Identity | None, token: str, topic: str
    ) -> str:
        """Replace the connection's token by a fresh one; return the answer."""
        try:
            fresh = self._authorizer.authorize_subscribe(token, topic)
            if fresh is None or identity is None:
                raise Denied(
                    403, "this connection was opened without a token; a token cannot be added"
                )
            if fresh.subject != identity.subject:
                raise Denied(403, "the fresh token is for another subject")
        except Denied as denied:
            return to_json({"error": str(denied), "where": "token"})
        ends = self._authorizer.end_of_connection(fresh)
        self._connections.close_at(websocket, ends)
        return self._expires_in(ends)

    def _expires_in(self, ends: float) -> str:
        return to_json({"expires_in": floor(ends - self._authorizer.now())})


def _read_token(message: str | bytes) -> str | None:
    """Return the token in ``{"token": "…"}``, without blanks around it; None for other messages."""
    if len(message) > _MAX_LENGTH:
        return None
    try:
        value: Any = json.loads(message)
    except (ValueError, RecursionError):
        return None
    token = value.get("token") if isinstance(value, dict) else None
    return token.strip() if isinstance(token, str) else None
