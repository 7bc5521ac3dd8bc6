"""Many topics over one WebSocket: the view that ``/topics`` runs for a handshake."""

from __future__ import annotations

import json
from math import floor
from typing import Any

from pushd.access.authorization import Authorizer
from pushd.access.closing import RATE_EXCEEDED
from pushd.access.connections import Connections
from pushd.access.limits import Limits, TokenBucket
from pushd.access.tokens import Identity
from pushd.api.keep_alives import KeepAlives, WebSocketHeartbeat
from pushd.errors import BadRequest, Denied
from pushd.protocols.http.response import Response, json_refusal
from pushd.protocols.json_format import is_encodable, to_json
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import V1
from pushd.protocols.websocket.subscriptions import WebSocketSubscriptions
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, check_topic
from pushd.views.request import Request

# Rate and burst of fresh tokens: checking one takes longer than reading a message.
_RATE = 1.0
_BURST = 10

# Longest message, in characters or bytes: a request's head could not hold a longer token either.
_MAX_LENGTH = 1 << 14

# Longest part of a message that an error repeats, in characters.
_MAX_ECHO = 255

# What a client can ask for, and the further members that each message may have.
_MESSAGES = {"subscribe": ("after", "format"), "unsubscribe": (), "token": ()}


class MultiTopicView:
    """Sends the publications of any number of topics, which the client chooses by messages.

    It requires ``pushd.v1``. ``{"subscribe": topic}`` is answered with the ``subscribed`` of that
    topic, ``{"unsubscribe": topic}`` with ``unsubscribed``, and a mistake with ``error``, the topic
    and ``where``. Tokens and heartbeats are as for a single topic.
    """

    def __init__(
        self,
        authorizer: Authorizer,
        connections: Connections,
        keep_alives: KeepAlives,
        limits: Limits,
        hub: Hub,
    ) -> None:
        self.authorizer = authorizer
        self.connections = connections
        self.limits = limits
        self._keep_alives = keep_alives
        self._hub = hub

    async def __call__(self, request: Request) -> Response | None:
        """Serve one client."""
        if V1 not in request.subprotocols:
            # In plain frames, publications could not be told apart.
            error = f"many topics need the subprotocol {V1}"
            return json_refusal(400, error, "Sec-WebSocket-Protocol")
        websocket: WebSocket = request.websocket
        websocket.accept(V1)
        interval, topics = request.parameters["heartbeat"], request.parameters["topics"]
        subscriptions = WebSocketSubscriptions(websocket, self._hub)
        websocket.attach(subscriptions)
        bucket = TokenBucket(rate=_RATE, burst=_BURST, now=request.clock.seconds)
        client = _Client(self, websocket, subscriptions, request.identity, bucket)
        # The connection may last for days; the request holds more memory than everything else.
        del request
        heartbeat = None
        if interval is not None:
            heartbeat = WebSocketHeartbeat(websocket, self._keep_alives, interval)
            heartbeat.keep_alive()
        try:
            client.start(topics)
            del topics
            async for message in websocket:
                client.receive(message)
        finally:
            if heartbeat is not None:
                heartbeat.stop()
        return None


class _Client:
    """One connection, and what its client may do.

    :param identity: the identity in the client's token; None without a token.
    :param bucket: limits the rate of fresh tokens.
    """

    __slots__ = ("_bucket", "_identity", "_subscriptions", "_view", "_websocket")

    def __init__(
        self,
        view: MultiTopicView,
        websocket: WebSocket,
        subscriptions: WebSocketSubscriptions,
        identity: Identity | None,
        bucket: TokenBucket,
    ) -> None:
        self._view = view
        self._websocket = websocket
        self._subscriptions = subscriptions
        self._identity = identity
        self._bucket = bucket
        view.connections.set_topics(websocket, subscriptions)

    def start(self, topics: list[tuple[str, Id | None]]) -> None:
        """Subscribe to the topics of the request, which have been checked."""
        if self._identity is not None:
            self._say_expiry(self._view.authorizer.end_of_connection(self._identity))
        for topic, after in topics:
            if self._websocket.is_closed():
                return
            self._subscriptions.subscribe(topic, after)

    def receive(self, message: str | bytes) -> None:
        """Do what a message asks for, or answer with an error."""
        topic = None
        try:
            kind, members = _read_message(message)
            if kind == "token":
                self._renew(members["token"])
                return
            topic = members[kind]
            if kind == "subscribe":
                self._subscribe(topic, members)
            else:
                self._unsubscribe(topic)
        except BadRequest as error:
            self._refuse(error.reason, topic, error.where)
        except Denied as denied:
            self._refuse(denied.reason, topic, "token")

    def _subscribe(self, topic: str, members: dict[str, Any]) -> None:
        try:
            check_topic(topic)
        except ValueError as error:
            raise BadRequest(error, "subscribe") from None
        after, as_json = _read_after(members), _read_format(members)
        if topic in self._subscriptions:
            raise BadRequest("this connection is subscribed to the topic already", "subscribe")
        most = self._view.limits.max_topics
        if len(self._subscriptions) >= most:
            raise BadRequest(f"a connection may have {most} topics at most", "subscribe")
        self._authorize(topic)
        self._subscriptions.subscribe(topic, after, as_json=as_json)

    def _authorize(self, topic: str) -> None:
        """Raise Denied if the client may not subscribe to a topic."""
        if not self._view.authorizer.keys:
            return
        if self._identity is None:
            raise Denied(401, "a token is required")
        if not self._identity.may_subscribe(topic):
            reason = f"token does not permit subscribing to {topic}"
            raise Denied(403, reason, "insufficient_scope")

    def _unsubscribe(self, topic: str) -> None:
        if topic not in self._subscriptions:
            raise BadRequest("this connection is not subscribed to the topic", "unsubscribe")
        self._subscriptions.unsubscribe(topic)
        self._send({"unsubscribed": topic})

    def _renew(self, token: str) -> None:
        """Replace the connection's token by a fresh one, and end what that does not permit."""
        if not self._bucket.take():
            self._websocket.close_with(RATE_EXCEEDED)
            return
        authorizer = self._view.authorizer
        fresh = authorizer.identify(token.strip())
        if fresh is None or self._identity is None:
            raise Denied(
                403, "this connection was opened without a token; a token cannot be added"
            )
        if fresh.subject != self._identity.subject:
            raise Denied(403, "the fresh token is for another subject")
        self._identity = fresh
        ends = authorizer.end_of_connection(fresh)
        self._view.connections.close_at(self._websocket, ends)
        self._say_expiry(ends)
        for topic in self._subscriptions:
            try:
                self._authorize(topic)
            except Denied as denied:
                self._subscriptions.unsubscribe(topic)
                self._send({"unsubscribed": topic, "reason": denied.reason})

    def _say_expiry(self, ends: float) -> None:
        self._send({"expires_in": floor(ends - self._view.authorizer.now())})

    def _refuse(self, reason: str, topic: str | None, where: str) -> None:
        value = {"error": reason, "topic": topic, "where": where}
        if topic is None or not is_encodable(topic) or len(topic) > _MAX_ECHO:
            del value["topic"]
        self._send(value)

    def _send(self, value: dict[str, Any]) -> None:
        if not self._websocket.is_closed():
            self._websocket.send(to_json(value))


def _read_message(message: str | bytes) -> tuple[str, dict[str, Any]]:
    """Return what a message asks for, and its members. Raises BadRequest."""
    members: Any = None
    if len(message) <= _MAX_LENGTH:
        try:
            members = json.loads(message)
        except (ValueError, RecursionError):
            pass
    if not isinstance(members, dict):
        rule = f"a message must be a JSON object of at most {_MAX_LENGTH} characters"
        raise BadRequest(rule, "message")
    kinds = [kind for kind in _MESSAGES if kind in members]
    if len(kinds) != 1:
        raise BadRequest(f"a message must have one of {', '.join(_MESSAGES)}", "message")
    kind = kinds[0]
    if not isinstance(members[kind], str):
        raise BadRequest(f"{kind} must be a string", kind)
    for name in members:
        if name != kind and name not in _MESSAGES[kind]:
            known = ", ".join(_MESSAGES[kind]) or "no others"
            error = f"unknown member: beside {kind} a message may have {known}"
            raise BadRequest(error, ascii(name)[1:-1][:_MAX_ECHO])
    return kind, members


def _read_after(members: dict[str, Any]) -> Id | None:
    after = members.get("after")
    if after is None:
        return None
    if not isinstance(after, str):
        raise BadRequest("after must be a string", "after")
    try:
        return Id.parse(after)
    except ValueError as error:
        raise BadRequest(error, "after") from None


def _read_format(members: dict[str, Any]) -> bool:
    if members.get("format", "json") != "json":
        raise BadRequest("format must be json", "format")
    return "format" in members
