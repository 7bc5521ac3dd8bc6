"""``/topics/<topic>`` at the public port: subscribe by any of three transports, or publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.authorization import challenge, read_token
from pushd.access.tokens import Identity
from pushd.api.keep_alives import KEEP_ALIVE_INTERVAL, KeepAlives, KeptAlive, read_heartbeat
from pushd.api.publish import PublishResource, read_topic
from pushd.api.resource import (
    DaemonState,
    allowed_methods,
    parse_number,
    preflight,
    refuses_all,
    require_known,
)
from pushd.api.response_stream import STREAM_HEADERS, register
from pushd.api.subscribe.longpoll import LongPoll
from pushd.api.subscribe.many_websocket import ManyTopicsView
from pushd.api.subscribe.presence import PresencePoll, read_client, read_presence, require_presence
from pushd.api.subscribe.repeated_polls import PollStart, RepeatedPolls
from pushd.api.subscribe.sse import EventStream
from pushd.api.subscribe.websocket import TopicView
from pushd.api.topic_access import Caller, TopicAccess
from pushd.errors import BadRequest, Denied, RequestRefused, TopicRefused
from pushd.protocols.http.response import JSON_HEADERS, Response, json_refusal, write_response
from pushd.protocols.websocket.handshake import lost_handshake
from pushd.schedule.ticks import JUST_PASSED
from pushd.schedule.timeouts import TimeoutQueue
from pushd.schedule.turns import Turns
from pushd.topics.attendance import Participant
from pushd.topics.presence import Attendance, Presence
from pushd.topics.publication import Id
from pushd.views.authorizer import TopicAuthorizer
from pushd.views.decorators import Handshakes
from pushd.views.exchange import ViewDependencies
from pushd.views.resource import UPGRADE, ViewResource
from pushd.views.routes import Match

# Seconds that a long poll waits, by default and at most.
_WAIT = 25.0
_MAX_WAIT = 60.0

# Query parameters of a subscriber.
_PARAMETERS = (
    "after",
    "wait",
    "token",
    "heartbeat",
    "format",
    "envelope",
    "presence",
    "client",
)


class TopicDependencies:
    """The parts of the daemon that the resources of topics use and share."""

    def __init__(
        self,
        clock: IReactorTime,
        views: ViewDependencies,
        state: DaemonState,
        authorizer: TopicAuthorizer | None = None,
    ) -> None:
        self.clock = clock
        self.views = views
        self.state = state
        self.keep_alives = KeepAlives(clock)
        #: Serves Centrifuge clients, by path; empty if there are to be none.
        self.centrifuge: Mapping[str, IResource] = {}
        #: Long polls that are to be answered.
        self.turns = Turns(clock)
        #: Polls that follow each other.
        self.polls = RepeatedPolls(clock, self.turns, state.hub, state.connections, state.rules)
        self.access = TopicAccess(views.authorizer, state.rules, authorizer)
        self.view = TopicView(
            views.authorizer,
            self.access,
            views.connections,
            self.keep_alives,
            state.attendances,
        )
        self.many_view = ManyTopicsView(
            state, views.authorizer, self.access, self.keep_alives, clock
        )


@dataclass(frozen=True)
class _Query:
    """The topic, position and times that a subscriber asks for."""

    topic: str
    #: The id after which publications are sent.
    after: Id | None
    #: How long a poll waits for them, in seconds.
    wait: float
    #: Seconds from one heartbeat to the next; None for no heartbeats.
    heartbeat: int | None
    #: Whether what was published as JSON is sent as a value.
    format_json: bool
    #: Whether the events of a stream have no names: the data of each says all.
    envelope: bool
    #: Whether it asks who is present: ``1``, or the version that a poll has; None if it does not.
    presence: str | None
    #: How the client names its connection.
    client: str | None


class TopicResource(Resource):
    """One topic, for subscribers and for publishers with a token.

    :param name: the topic, not checked.
    """

    isLeaf = True

    def __init__(self, dependencies: TopicDependencies, name: str) -> None:
        super().__init__()
        self._dependencies = dependencies
        self._access = dependencies.access
        self._authorizer = dependencies.views.authorizer
        self._connections = dependencies.state.connections
        self._name = name
        self._is_half_closed = False

    def render(self, request: Any) -> int:
        """Answer, or refuse the request."""
        if refuses_all(request, self._connections):
            return NOT_DONE_YET
        if request.method == b"OPTIONS" and request.header(b"access-control-request-method"):
            write_response(request, Response(204, preflight(self._methods)))
            return NOT_DONE_YET
        try:
            topic = read_topic(self._name, "topic")
        except BadRequest as error:
            self._refuse(error, request)
            return NOT_DONE_YET
        if request.method == b"OPTIONS":
            write_response(request, Response(204, {"Allow": self._allow}))
            return NOT_DONE_YET
        caller, publishes = self._access.identify(request), self._publishes(request)
        asked = self._access.authorize(caller, "publish" if publishes else "subscribe", topic)
        if not publishes and b"presence" in request.args:
            asked.addCallback(self._authorize_presence, caller, topic)
        if not asked.called or asked.paused:
            request.end_waiting = self._half_closed
            request.notifyFinish().addErrback(lambda _: asked.cancel())
        answer = self._publish if publishes else self._answer
        asked.addCallback(lambda identity: answer(request, topic, caller, identity))
        asked.addErrback(self._failed, request)
        return NOT_DONE_YET

    def _authorize_presence(
        self, identity: Identity | None, caller: Caller, topic: str
    ) -> Deferred[Identity | None]:
        """Check that a subscriber may learn who is present, too; return its identity."""
        asked = self._access.authorize(caller, "presence", topic)
        return asked.addCallback(lambda _: identity)

    def _half_closed(self) -> None:
        """Note that the client has closed its side before it is known what it may do."""
        self._is_half_closed = True

    def _publishes(self, request: Any) -> bool:
        """Whether a request publishes; others subscribe."""
        return bool(request.method == b"POST" and self._takes_post and not request.wants_websocket)

    def _failed(self, failure: Failure, request: Any) -> None:
        """Refuse a request whose client is still there, or log why it could not be answered."""
        if request._disconnected:
            return
        if isinstance(failure.value, RequestRefused):
            self._refuse(failure.value, request)
        else:
            request.processingFailed(failure)

    def _refuse(self, refused: RequestRefused, request: Any) -> None:
        """Answer a request that is refused."""
        request.why_refused = refused.line
        topic = refused.topic if isinstance(refused, TopicRefused) else None
        refused = refused.refused if isinstance(refused, TopicRefused) else refused
        assert isinstance(refused, BadRequest | Denied)
        is_denied = isinstance(refused, Denied)
        if is_denied or refused.status >= 500:
            request.site.count_refusal(refused.status)
        headers = challenge(refused) if isinstance(refused, Denied) else refused.headers
        status, reason, where = refused.status, refused.reason, refused.where
        write_response(request, json_refusal(status, reason, where, headers, topic=topic))

    def _publish(self, request: Any, topic: str, caller: Caller, identity: Identity | None) -> None:
        """Publish; the client may do so."""
        owner = _owner_of_keys(request, identity)
        PublishResource(self._dependencies.state, topic, owner).render(request)

    def _answer(self, request: Any, topic: str, caller: Caller, identity: Identity | None) -> None:
        """Subscribe by the transport that the request is for; the client may do so."""
        if refuses_all(request, self._connections):
            return
        is_websocket = request.wants_websocket
        is_stream = b"text/event-stream" in (request.getHeader(b"accept") or b"").lower()
        query = _read_query(request, topic, is_poll=not (is_websocket or is_stream))
        if query.presence is not None:
            require_presence(self._dependencies.state.attendances, topic, "presence")
        # Polls resume, too, but each waits for the answer to the last.
        if query.after is not None and (is_websocket or is_stream):
            request.site.policy.throttle.count(request.peer)
        if is_websocket:
            self._run_view(request, query, caller, identity)
            return
        if self._answers_head(request, is_stream=is_stream):
            return
        if is_stream:
            stream = EventStream(
                request,
                self._keep_alives(query.heartbeat),
                self._dependencies.views.factory.cork,
                self._dependencies.state.limits.max_buffered,
                query.heartbeat,
                format_json=query.format_json,
                envelope=query.envelope,
            )
            self._subscribe_to_one(request, stream, query, identity)
            if query.presence is not None:
                stream.tell_presence(self._presence, topic)
        else:
            if self._starts_repeated(request, query, identity):
                return
            presence = None
            if query.presence is not None:
                presence = PresencePoll(self._presence, (topic,), query.presence)
            clock, turns = self._dependencies.clock, self._dependencies.turns
            poll = LongPoll(
                request, clock, turns, query.wait, presence, format_json=query.format_json
            )
            self._subscribe_to_one(request, poll, query, identity)

    def _starts_repeated(self, request: Any, query: _Query, identity: Identity | None) -> bool:
        """Start a poll that may be followed by the same again; return whether it is such a one."""
        dependencies = self._dependencies
        if (
            query.after is None
            or query.presence is not None
            or not request.channel.whole
            or self._access.asks_authorizer
            or dependencies.state.attendances.has(query.topic)
        ):
            return False
        start = PollStart(query.topic, query.after, query.wait, query.format_json)
        totals = dependencies.views.counters.traffic
        return dependencies.polls.start(request, start, identity, totals)

    def _keep_alives(self, heartbeat: int | None) -> TimeoutQueue[KeptAlive]:
        """Return the time-outs of streams with the same interval."""
        return self._dependencies.keep_alives.every(heartbeat or KEEP_ALIVE_INTERVAL)

    def _answers_head(self, request: Any, *, is_stream: bool) -> bool:
        """Answer a HEAD; return whether it was one. Raises BadRequest for other than GET."""
        lost = lost_handshake(request.clientproto, request.requestHeaders)
        if lost is not None:
            # Answered as a poll, its client would wait in vain.
            request.site.count_refusal(426)
            raise BadRequest(lost.reason, "Upgrade", 426, UPGRADE, lost.help)
        if request.method == b"HEAD":
            # At once, and without a Content-Length, which only the answer to a GET can have.
            for name, value in (STREAM_HEADERS if is_stream else JSON_HEADERS).items():
                request.setHeader(name, value)
            request.finish()
            return True
        if request.method != b"GET":
            raise self._wrong_method()
        return False

    def _wrong_method(self) -> BadRequest:
        error = "method not allowed; subscribe with GET, and publish at the control port"
        allow = {"Allow": self._allow}
        return BadRequest(error, "method", 405, allow, "see docs/topics.md and docs/tokens.md")

    @property
    def _presence(self) -> Presence:
        return self._dependencies.state.attendances.presence

    @property
    def _takes_post(self) -> bool:
        return self._access.may_publish(self._name)

    @property
    def _methods(self) -> str:
        return "GET, POST" if self._takes_post else "GET"

    @property
    def _allow(self) -> str:
        return allowed_methods(*self._methods.split(", "))

    def _run_view(
        self, request: Any, query: _Query, caller: Caller, identity: Identity | None
    ) -> None:
        """Subscribe over WebSocket."""
        parameters = {
            "topic": query.topic,
            "after": None if query.after is None else str(query.after),
            "heartbeat": query.heartbeat,
            "format": "json" if query.format_json else None,
            "caller": caller,
            "presence": query.presence is not None,
            "client": query.client,
        }
        match = Match(self._dependencies.view, parameters, Handshakes.REQUIRED)
        path = f"/topics/{query.topic}"
        ViewResource(self._dependencies.views, match, path, identity).render(request)

    def _subscribe_to_one(
        self,
        request: Any,
        subscriber: EventStream | LongPoll,
        query: _Query,
        identity: Identity | None,
    ) -> None:
        """Subscribe to the topic over HTTP."""
        participant = Participant(
            self._dependencies.state.attendances, subscriber, identity, query.client
        )
        hub = self._dependencies.state.hub
        self._subscribe(
            request,
            subscriber,
            identity,
            join=lambda: [participant.join(query.topic)],
            start=lambda: subscriber.start(hub, query.topic, query.after),
        )

    def _subscribe(
        self,
        request: Any,
        subscriber: EventStream | LongPoll,
        identity: Identity | None,
        *,
        join: Callable[[], Sequence[Attendance | None]],
        start: Callable[[], object],
    ) -> None:
        """Register a subscriber over HTTP as a connection, and start it.

        :param join: lets it take part in the presence of its topics.
        :param start: starts its subscriptions.
        """
        attendances: list[Attendance | None] = []

        def ended() -> None:
            for attendance in attendances:
                if attendance is not None:
                    attendance.leave()

        register(
            request,
            subscriber,
            identity,
            connections=self._connections,
            authorizer=self._authorizer,
            totals=self._dependencies.views.counters.traffic,
            ended=ended,
        )
        attendances += join()
        start()
        if self._is_half_closed:
            subscriber.end_waiting()


def _owner_of_keys(request: Any, identity: Identity | None) -> str:
    """Return whose idempotency keys a publisher uses, as a hash.

    Those of its subject. A token without a subject has keys of its own; all clients without a token
    share theirs.
    """
    owner = identity.subject if identity is not None else ""
    if not owner and identity is not None:
        owner = read_token(request) or ""
    # Hashed, as it may be long, and hold any character.
    return sha256(owner.encode()).hexdigest()


def _read_query(request: Any, topic: str, *, is_poll: bool) -> _Query:
    """Read what a subscriber asks for. Raises BadRequest."""
    require_known(request, *_PARAMETERS)
    where, given = read_last_id(request)
    try:
        after = Id.parse(given) if given else None
    except ValueError as error:
        raise BadRequest(error, where) from None
    return _Query(
        topic,
        after,
        wait=read_wait(request),
        heartbeat=read_heartbeat(read_argument(request, b"heartbeat")),
        format_json=read_format(request),
        envelope=read_switch(request, "envelope"),
        presence=read_presence(request, is_poll=is_poll),
        client=read_client(request),
    )


def read_last_id(request: Any) -> tuple[str, str]:
    """Return where a subscriber says what it has received, and that; empty if it does not.

    The header wins: a browser that reconnects by itself repeats the URL.
    """
    given = (request.getHeader(b"last-event-id") or b"").decode("latin-1")
    if given:
        return "Last-Event-ID", given
    return "after", read_argument(request, b"after") or ""


def read_format(request: Any) -> bool:
    """Return whether JSON is to be sent as a value. Raises BadRequest."""
    format = read_argument(request, b"format")
    if format not in (None, "json"):
        raise BadRequest("format must be json", "format")
    return format is not None


def read_switch(request: Any, name: str) -> bool:
    """Return whether a parameter is there, which must be 1. Raises BadRequest."""
    given = read_argument(request, name.encode())
    if given not in (None, "1"):
        raise BadRequest(f"{name} must be 1", name)
    return given is not None


def read_wait(request: Any) -> float:
    """Read how long a poll waits, in seconds. Raises BadRequest."""
    given = read_argument(request, b"wait")
    if given is None:
        return _WAIT
    wait = parse_number(given)
    # Time that was left a moment ago may be negative when the request is made.
    if wait is None or not -JUST_PASSED < wait <= _MAX_WAIT:
        raise BadRequest(f"wait must be a number of seconds from 0 to {_MAX_WAIT:g}", "wait")
    return max(0.0, wait)


def read_argument(request: Any, name: bytes) -> str | None:
    """Return the last value of a query parameter; None if it is absent."""
    values = request.args.get(name)
    return values[-1].decode("latin-1") if values else None
