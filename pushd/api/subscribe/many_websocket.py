"""Many topics over one WebSocket: the view that ``/topics`` runs for a handshake."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from math import floor
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.access.authorization import Authorizer
from pushd.access.closing import RATE_EXCEEDED, TOKEN_EXPIRED, Closing
from pushd.access.limits import TokenBucket
from pushd.access.tokens import Identity
from pushd.api.keep_alives import KeepAlives, WebSocketHeartbeat
from pushd.api.resource import DaemonState
from pushd.api.subscribe.positions import Position, locate, read_position
from pushd.api.topic_access import Caller, TopicAccess
from pushd.errors import BadRequest, Denied
from pushd.protocols.http.response import Response, json_refusal
from pushd.protocols.json_format import is_encodable, to_json
from pushd.protocols.websocket.socket import WebSocket
from pushd.protocols.websocket.subscriber import V1
from pushd.protocols.websocket.subscriptions import WebSocketSubscriptions
from pushd.protocols.websocket.watcher import WebSocketWatcher
from pushd.schedule.timeouts import TimerHeap
from pushd.topics.attendance import Participant
from pushd.topics.publication import check_topic
from pushd.views.request import Request

_log = Logger(namespace="pushd.api")

# Rate and burst of fresh tokens: checking one takes longer than reading a message.
_RATE = 1.0
_BURST = 10

# Longest message, in characters or bytes: a request's head could not hold a longer token either.
_MAX_LENGTH = 1 << 14

# Longest part of a message that an error repeats, in characters.
_MAX_ECHO = 255

# What a client can ask for, and the further members that each message may have.
_MESSAGES = {"subscribe": ("after", "format", "presence"), "unsubscribe": (), "token": ()}


class ManyTopicsView:
    """Sends the publications of any number of topics, which the client chooses by messages.

    It requires ``pushd.v1``. ``{"subscribe": topic}`` is answered with the ``subscribed`` of that
    topic, ``{"unsubscribe": topic}`` with ``unsubscribed``, and a mistake with ``error``, the topic
    and ``where``. A topic whose permission ends is ``unsubscribed``, with the reason. Tokens and
    heartbeats are as for a single topic.
    """

    def __init__(
        self,
        state: DaemonState,
        authorizer: Authorizer,
        access: TopicAccess,
        keep_alives: KeepAlives,
        clock: IReactorTime,
    ) -> None:
        self.state = state
        self.authorizer = authorizer
        self.access = access
        self._keep_alives = keep_alives
        #: When the permissions for single topics end.
        self.expiries: TimerHeap[_Topic] = TimerHeap(
            clock, now=authorizer.now, expired=lambda topic: topic.expire()
        )

    async def __call__(self, request: Request) -> Response | None:
        """Serve one client."""
        if V1 not in request.subprotocols:
            # In plain frames, publications could not be told apart.
            error = f"many topics need the subprotocol {V1}"
            return json_refusal(400, error, "Sec-WebSocket-Protocol")
        websocket: WebSocket = request.websocket
        websocket.accept(V1)
        parameters = request.parameters
        interval = parameters["heartbeat"]
        bucket = TokenBucket(rate=_RATE, burst=_BURST, now=request.clock.seconds)
        client = _Client(self, websocket, parameters["caller"], parameters["client"], bucket)
        # The connection may last for days; the request holds more memory than everything else.
        del request
        heartbeat = None
        if interval is not None:
            heartbeat = WebSocketHeartbeat(websocket, self._keep_alives, interval)
            heartbeat.keep_alive()
        try:
            client.start(parameters)
            del parameters
            async for message in websocket:
                client.receive(message)
        finally:
            client.stop()
            if heartbeat is not None:
                heartbeat.stop()
        return None


class _Topic:
    """A topic of a connection: asked for, then subscribed to.

    :param end: ends the subscription, and tells the client why.
    """

    __slots__ = ("_end", "asked", "identity", "name", "watcher")

    def __init__(self, name: str, end: Callable[[str, Closing], object]) -> None:
        self.name = name
        self._end = end
        #: What is being found out before the subscription begins, or about a fresh token.
        self.asked: Deferred[None] | None = None
        #: With which identity the client subscribes; None if it has none.
        self.identity: Identity | None = None
        #: Tells who is present, if the client asks for that.
        self.watcher: WebSocketWatcher | None = None

    def expire(self) -> None:
        """End the subscription, as the permission for it has ended."""
        assert self.identity is not None
        self._end(self.name, self.identity.closing)


class _Client:
    """One connection, and what its client may do.

    :param caller: the client as its request identifies it, or its last token.
    :param name: how the client names its connection.
    :param bucket: limits the rate of fresh tokens.
    """

    def __init__(
        self,
        view: ManyTopicsView,
        websocket: WebSocket,
        caller: Caller,
        name: str | None,
        bucket: TokenBucket,
    ) -> None:
        self._view = view
        self._websocket = websocket
        self._caller = caller
        self._name = name
        self._bucket = bucket
        self._subscriptions = WebSocketSubscriptions(websocket, view.state.hub)
        # All topics, those that are asked for among them.
        self._topics: dict[str, _Topic] = {}
        websocket.attach(self._subscriptions, self.end_subscriptions)
        view.state.connections.set_topics(websocket, self._topics)

    def start(self, parameters: Mapping[str, Any]) -> None:
        """Subscribe to the topics of the request, which the client may do."""
        self._tell_expiry()
        for name, after in parameters["query"].items():
            topic = self._topics[name] = _Topic(name, self._end)
            identity = parameters["identities"][name]
            members = {"format_json": parameters["format_json"]}
            watches = name in parameters["presence"]
            self._ask(topic, self._begin(topic, after, identity, watches=watches, **members))

    def receive(self, message: str | bytes) -> None:
        """Do what a message asks for, or answer with an error."""
        name = None
        try:
            kind, members = _read_message(message)
            name = None if kind == "token" else members[kind]
            _require_known(kind, members)
            if name is None:
                self._renew(members["token"].strip())
            elif kind == "subscribe":
                self._subscribe(name, members)
            else:
                self._unsubscribe(name)
        except (BadRequest, Denied) as refused:
            self._refuse(refused, name)

    def stop(self) -> None:
        """Forget all topics: the conversation is over."""
        while self._topics:
            self._forget(next(iter(self._topics)))

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match, as a permission was revoked."""
        ended = [name for name in self._topics if matches(name)]
        for name in ended:
            # All topics are gone if the client was too slow for what it was told.
            if name in self._topics:
                self._end(name, closing)
        return len(ended)

    # What messages ask for

    def _subscribe(self, name: str, members: dict[str, Any]) -> None:
        try:
            check_topic(name)
        except ValueError as error:
            raise BadRequest(error, "subscribe") from None
        after, watches = _read_after(members), members.get("presence", False)
        if members.get("format", "json") != "json":
            raise BadRequest("format must be json", "format")
        if not isinstance(watches, bool):
            raise BadRequest("presence must be true or false", "presence")
        if name in self._topics:
            raise BadRequest("this connection is subscribed to the topic already", "subscribe")
        most = self._view.state.limits.max_topics
        if len(self._topics) >= most:
            line = f"a connection may have {most} topics at most (--max-topics)"
            raise BadRequest(line, "subscribe")
        if watches and not self._view.state.attendances.has(name):
            raise BadRequest("topic has no presence: its rule must say presence = true", "presence")
        topic = self._topics[name] = _Topic(name, self._end)
        asked = self._authorize_and_begin(
            topic, after, watches=watches, format_json="format" in members
        )
        self._ask(topic, asked)

    def _unsubscribe(self, name: str) -> None:
        if name not in self._topics:
            raise BadRequest("this connection is not subscribed to the topic", "unsubscribe")
        self._forget(name)
        self._send({"unsubscribed": name})

    def _renew(self, token: str) -> None:
        """Replace the connection's token by a fresh one, and end what that does not permit."""
        if not self._bucket.take():
            self._websocket.close_with(RATE_EXCEEDED)
            return
        self._caller = self._view.access.renew(self._caller, token)
        self._tell_expiry()
        for topic in tuple(self._topics.values()):
            if topic.asked is None:
                self._ask(topic, self._authorize_again(topic))

    # What takes time

    def _ask(self, topic: _Topic, asking: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine for a topic; if it is refused, the topic is ended with an error."""

        def done(result: object) -> None:
            topic.asked = None
            if isinstance(result, Failure) and self._topics.get(topic.name) is topic:
                self._forget(topic.name)
                self._failed(result, topic.name)

        asked = Deferred.fromCoroutine(asking)
        topic.asked = asked
        asked.addBoth(done)

    async def _authorize_and_begin(
        self, topic: _Topic, after: Position | None, *, watches: bool, format_json: bool
    ) -> None:
        identity = await self._view.access.authorize(self._caller, "subscribe", topic.name)
        if watches:
            await self._view.access.authorize(self._caller, "presence", topic.name)
        await self._begin(topic, after, identity, watches=watches, format_json=format_json)

    async def _begin(
        self,
        topic: _Topic,
        after: Position | None,
        identity: Identity | None,
        *,
        watches: bool,
        format_json: bool,
    ) -> None:
        """Subscribe to a topic, which the client may do."""
        ids = await locate(self._view.state.broker, {topic.name: after})
        if self._websocket.is_closed():
            return
        self._permit(topic, identity)
        attendances = self._view.state.attendances
        subscriber = self._subscriptions.subscribe(
            topic.name, ids[topic.name], format_json=format_json
        )
        if topic.name not in self._topics or self._websocket.is_closed():
            return  # What was sent has ended the connection.
        participant = Participant(attendances, self._websocket, identity, self._name)
        subscriber.attend(participant.join(topic.name))
        if watches:
            topic.watcher = WebSocketWatcher(self._websocket)
            topic.watcher.start(attendances.presence, topic.name)

    async def _authorize_again(self, topic: _Topic) -> None:
        """Ask whether the client may still subscribe to a topic with its fresh token."""
        try:
            identity = await self._view.access.authorize(self._caller, "subscribe", topic.name)
        except (Denied, BadRequest) as refused:
            self._end_with(topic.name, refused.reason, code=refused.status)
        else:
            self._permit(topic, identity)

    def _permit(self, topic: _Topic, identity: Identity | None) -> None:
        """Let a subscription last as long as the permission for it."""
        topic.identity = identity
        connection = self._view.state.connections.find(self._websocket)
        if connection is not None and identity is not None and connection.subject is None:
            connection.subject = identity.subject or None
        if identity is not None and identity.closing is not TOKEN_EXPIRED:
            self._view.expiries.start(topic, self._view.authorizer.end_of_connection(identity))
        else:  # It ends with the connection.
            self._view.expiries.stop(topic)

    def _end(self, name: str, closing: Closing) -> None:
        self._end_with(name, closing.reason)

    def _end_with(self, name: str, reason: str, **more: int) -> None:
        """End a subscription, and tell the client why."""
        self._forget(name)
        self._send({"unsubscribed": name, "reason": reason, **more})

    def _forget(self, name: str) -> None:
        topic = self._topics.pop(name)
        self._view.expiries.stop(topic)
        self._subscriptions.unsubscribe(name)
        asked, topic.asked = topic.asked, None
        watcher, topic.watcher = topic.watcher, None
        if watcher is not None:
            watcher.stop()
        if asked is not None:
            asked.cancel()

    def _failed(self, failure: Failure, name: str) -> None:
        if isinstance(failure.value, BadRequest | Denied):
            self._refuse(failure.value, name)
            return
        _log.failure(
            "failed to subscribe to {topic}",
            failure=failure,
            event="subscriber_failed",
            topic=name,
        )
        self._refuse(BadRequest("internal error", "subscribe", 500), name)

    def _tell_expiry(self) -> None:
        """Close the connection when its token expires, and tell the client when that is."""
        identity = self._caller.identity
        if identity is None:
            return
        ends = self._view.authorizer.end_of_connection(identity)
        self._view.state.connections.close_at(self._websocket, ends, identity.closing)
        self._send({"expires_in": floor(ends - self._view.authorizer.now())})

    def _refuse(self, refused: BadRequest | Denied, name: str | None) -> None:
        value: dict[str, Any] = {
            "error": refused.reason,
            "where": refused.where,
            "code": refused.status,
        }
        if name is not None and len(name) <= _MAX_ECHO and is_encodable(name):
            value["topic"] = name
        self._send(value)

    def _send(self, value: dict[str, Any]) -> None:
        self._websocket.send(to_json(value))


def _read_message(message: str | bytes) -> tuple[str, dict[str, Any]]:
    """Return what a message asks for, and its members. Raises BadRequest."""
    members: Any = None
    if len(message) <= _MAX_LENGTH:
        with suppress(ValueError, RecursionError):
            members = json.loads(message)
    if not isinstance(members, dict):
        rule = f"a message must be a JSON object of at most {_MAX_LENGTH} characters"
        raise BadRequest(rule, "message")
    kinds = [kind for kind in _MESSAGES if kind in members]
    if len(kinds) != 1:
        raise BadRequest(f"a message must have one of {', '.join(_MESSAGES)}", "message")
    kind = kinds[0]
    if not isinstance(members[kind], str):
        raise BadRequest(f"{kind} must be a string", kind)
    return kind, members


def _require_known(kind: str, members: Mapping[str, Any]) -> None:
    """Raise BadRequest for a member that such a message does not have."""
    for name in members:
        if name != kind and name not in _MESSAGES[kind]:
            known = ", ".join(_MESSAGES[kind]) or "no others"
            error = f"unknown member: beside {kind} a message may have {known}"
            raise BadRequest(error, ascii(name)[1:-1][:_MAX_ECHO])


def _read_after(members: dict[str, Any]) -> Position | None:
    after = members.get("after")
    if after is None:
        return None
    if not isinstance(after, str):
        raise BadRequest("after must be a string", "after")
    try:
        return read_position(after)
    except ValueError as error:
        raise BadRequest(error, "after") from None
