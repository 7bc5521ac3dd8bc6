"""Topics over WebSocket: the view that ``/topics/<topic>`` runs for a handshake."""

from __future__ import annotations

import json
from math import floor
from typing import Any

from pushd.access.authorization import Authorizer
from pushd.access.closing import RATE_EXCEEDED, TOKEN_EXPIRED
from pushd.access.connections import Connections
from pushd.access.limits import TokenBucket
from pushd.api.keep_alives import KeepAlives, WebSocketHeartbeat
from pushd.api.topic_access import Caller, TopicAccess
from pushd.errors import BadRequest, Denied
from pushd.protocols.http.response import Response, json_refusal
from pushd.protocols.json_format import to_json
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import V1
from pushd.protocols.websocket.watcher import WebSocketWatcher
from pushd.topics.attendance import Attendances, Participant
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
        self,
        authorizer: Authorizer,
        access: TopicAccess,
        connections: Connections,
        keep_alives: KeepAlives,
        attendances: Attendances,
    ) -> None:
        self._authorizer = authorizer
        self._access = access
        self._connections = connections
        self._keep_alives = keep_alives
        self._attendances = attendances

    async def __call__(self, request: Request) -> Response | None:
        """Serve one client."""
        interval, speaks_v1 = request.parameters["heartbeat"], V1 in request.subprotocols
        if interval is not None and not speaks_v1:
            # In a plain frame it could not be told from data.
            return json_refusal(400, f"heartbeats need the subprotocol {V1}", "heartbeat")
        watches, client = request.parameters["presence"], request.parameters["client"]
        if watches and not speaks_v1:
            return json_refusal(400, f"presence needs the subprotocol {V1}", "presence")
        format = request.parameters["format"]
        if format is not None and not speaks_v1:
            return json_refusal(400, f"format=json needs the subprotocol {V1}", "format")
        websocket: WebSocket = request.websocket
        websocket.accept(V1 if speaks_v1 else None)
        websocket.serves_topics = True
        topic, after = request.parameters["topic"], request.parameters["after"]
        clock, identity, caller = request.clock, request.identity, request.parameters["caller"]
        # The connection may last for days; the request holds more memory than everything else.
        del request
        heartbeat = watcher = None
        if interval is not None:
            heartbeat = WebSocketHeartbeat(websocket, self._keep_alives, interval)
            heartbeat.keep_alive()
        if client is not None and not websocket.is_closed():
            participant = Participant(self._attendances, websocket, identity, client)
            websocket.participant = participant
        try:
            await websocket.subscribe(topic, after, format=format)
            if watches:
                watcher = WebSocketWatcher(websocket)
                watcher.start(self._attendances.presence, topic)
            if not speaks_v1:
                async for _ in websocket:
                    pass
                return None
            if identity is not None and identity.closing is TOKEN_EXPIRED:
                websocket.send(self._expires_in(self._authorizer.end_of_connection(identity)))
            bucket = TokenBucket(rate=_RATE, burst=_BURST, now=clock.seconds)
            async for message in websocket:
                token = _read_token(message)
                if token is None:
                    continue
                if not bucket.take():
                    websocket.close_with(RATE_EXCEEDED)
                    break
                caller, answer = await self._renew(websocket, caller, token, topic)
                websocket.send(answer)
        finally:
            if heartbeat is not None:
                heartbeat.stop()
            if watcher is not None:
                watcher.stop()
        return None

    async def _renew(
        self, websocket: WebSocket, caller: Caller, token: str, topic: str
    ) -> tuple[Caller, str]:
        """Replace the connection's token by a fresh one; return its caller, and the answer."""
        try:
            fresh = self._access.renew(caller, token)
            identity = await self._access.authorize(fresh, "subscribe", topic)
        except (Denied, BadRequest) as refused:
            return caller, to_json({"error": refused.reason, "where": refused.where})
        assert identity is not None  # It has a token.
        ends = self._authorizer.end_of_connection(identity)
        self._connections.close_at(websocket, ends, identity.closing)
        return fresh, self._expires_in(ends)

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
