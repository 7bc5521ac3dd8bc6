"""``/topics`` at the public port: subscribe to many topics over one connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from pushd.access.authorization import Action
from pushd.access.tokens import Identity
from pushd.api.keep_alives import read_heartbeat
from pushd.api.resource import allowed_methods, preflight, refuses_all, require_known
from pushd.api.subscribe.many_http import ManyEventStream, ManyLongPoll
from pushd.api.subscribe.positions import Position, locate, read_position
from pushd.api.subscribe.presence import PresencePoll, read_client, read_presence
from pushd.api.subscribe.topics import (
    TopicDependencies,
    TopicResource,
    read_argument,
    read_format,
    read_last_id,
    read_switch,
    read_wait,
)
from pushd.api.topic_access import Caller
from pushd.errors import BadRequest, Denied, TopicRefused
from pushd.protocols.http.response import Response, write_response
from pushd.topics.attendance import Participant
from pushd.topics.cursor import Cursor, CursorTracker
from pushd.topics.presence import Attendance
from pushd.topics.publication import Id, check_topic
from pushd.views.decorators import Handshakes
from pushd.views.resource import ViewResource
from pushd.views.routes import Match

#: The path of the resource.
PATH = "/topics"

# Query parameters of a subscriber.
_PARAMETERS = (
    *("topic", "after", "wait", "token", "heartbeat", "format", "envelope", "presence", "client"),
)

# Longest part of a topic that an error repeats, in characters.
_MAX_ECHO = 255

# Before the position of a topic in the query; no topic has one.
_AT = "@"


@dataclass(frozen=True)
class _Query:
    """The topics and times that a subscriber asks for."""

    #: Each with the position after which publications are sent; None for what comes next.
    topics: Mapping[str, Position | None]
    #: How long a poll waits for publications, in seconds.
    wait: float
    #: Seconds from one heartbeat to the next; None for no heartbeats.
    heartbeat: int | None
    #: Whether what was published as JSON is sent as a value, and whether events have no names.
    format_json: bool
    envelope: bool
    #: Whether it asks who is present: ``1``, or the version that a poll has; None if it does not.
    presence: str | None
    #: How the client names its connection.
    client: str | None


class ManyTopicsResource(TopicResource):
    """The topics that the query names, as ``topic=NAME`` or ``topic=NAME@POSITION``."""

    def __init__(self, dependencies: TopicDependencies) -> None:
        super().__init__(dependencies, "")

    def render(self, request: Any) -> int:
        """Answer, or refuse the request."""
        if refuses_all(request, self._connections):
            return NOT_DONE_YET
        if request.method == b"OPTIONS":
            is_preflight = request.header(b"access-control-request-method")
            write_response(request, Response(204, _PREFLIGHT if is_preflight else _ALLOW))
            return NOT_DONE_YET
        try:
            if request.method not in (b"GET", b"HEAD"):
                raise self._wrong_method()
            query = self._read_query(request)
        except (BadRequest, TopicRefused) as error:
            self._refuse(error, request)
            return NOT_DONE_YET
        caller = self._access.identify(request)
        asked = self._authorize_all(caller, query)
        if not asked.called or asked.paused:
            request.end_waiting = self._half_closed
            request.notifyFinish().addErrback(lambda _: asked.cancel())
        asked.addCallback(lambda identities: self._answer_all(request, query, caller, identities))
        asked.addErrback(self._failed, request)
        return NOT_DONE_YET

    def _read_query(self, request: Any) -> _Query:
        """Read what a subscriber asks for. Raises BadRequest."""
        require_known(request, *_PARAMETERS)
        is_poll = not (request.wants_websocket or _is_stream(request))
        where, given = read_last_id(request)
        # A browser that reconnects by itself repeats the URL: what it has heard last counts.
        after, wins = _read_position(given, where) if given else None, where == "Last-Event-ID"
        topics: dict[str, Position | None] = {}
        for text in request.args.get(b"topic", ()):
            name, at, position = text.decode(errors="replace").partition(_AT)
            try:
                if check_topic(name) in topics:
                    raise ValueError("topic is given twice")
                own = read_position(position) if at else None
            except ValueError as error:
                raise TopicRefused(name[:_MAX_ECHO], BadRequest(error, "topic")) from None
            topics[name] = after if own is None or (wins and after is not None) else own
        if isinstance(after, Id) and len(topics) > 1:
            raise BadRequest("an id belongs to one topic: write topic=NAME@ID", where)
        most = self._dependencies.state.limits.max_topics
        if len(topics) > most:
            line = f"a connection may have {most} topics at most (--max-topics); got {len(topics)}"
            raise TopicRefused([*topics][most], BadRequest(line, "topic"))
        if not topics and not request.wants_websocket:
            raise BadRequest("name one or more topics, as in /topics?topic=a&topic=b", "topic")
        return _Query(
            topics,
            wait=read_wait(request),
            heartbeat=read_heartbeat(read_argument(request, b"heartbeat")),
            format_json=read_format(request),
            envelope=read_switch(request, "envelope"),
            presence=read_presence(request, is_poll=is_poll),
            client=read_client(request),
        )

    def _authorize_all(self, caller: Caller, query: _Query) -> Deferred[list[Identity | None]]:
        """Return a Deferred of the identities for the topics; it fails as soon as one is denied."""
        asked = [self._authorize(caller, "subscribe", topic) for topic in query.topics]
        asked += [self._authorize(caller, "presence", one) for one in self._with_presence(query)]
        gathered = gatherResults(asked, consumeErrors=True)
        gathered.addErrback(_unpack)
        return gathered.addCallback(lambda identities: identities[: len(query.topics)])

    def _authorize(self, caller: Caller, action: Action, topic: str) -> Deferred[Identity | None]:
        """Ask whether a client may act; if not, the failure names the topic."""

        def name(failure: Failure) -> Failure:
            refused = failure.value
            if isinstance(refused, BadRequest | Denied):
                return Failure(TopicRefused(topic, refused))
            return failure

        return self._access.authorize(caller, action, topic).addErrback(name)

    def _with_presence(self, query: _Query) -> list[str]:
        """Return the topics whose presence is asked for: those that have it."""
        if query.presence is None:
            return []
        return [topic for topic in query.topics if self._dependencies.state.attendances.has(topic)]

    def _answer_all(
        self, request: Any, query: _Query, caller: Caller, identities: list[Identity | None]
    ) -> Deferred[None] | None:
        """Subscribe by the transport that the request is for; the client may do so."""
        if refuses_all(request, self._connections):
            return None
        known = [identity for identity in identities if identity is not None]
        # The connection ends with the first of its permissions.
        first = min(known, key=lambda identity: identity.expires, default=caller.identity)
        if first is not None and not first.subject:
            first = replace(first, subject=next(filter(None, (one.subject for one in known)), ""))
        by_topic = dict(zip(query.topics, identities, strict=True))
        is_stream = _is_stream(request)
        resumes = any(after is not None for after in query.topics.values())
        # Polls resume, too, but each waits for the answer to the last.
        if resumes and (request.wants_websocket or is_stream):
            request.site.policy.throttle.count(request.peer)
        if request.wants_websocket:
            self._run_many(request, query, caller, by_topic)
            return None
        if self._answers_head(request, is_stream=is_stream):
            return None
        located = self._locate(query.topics)
        if not located.called:
            request.end_waiting = self._half_closed
            request.notifyFinish().addErrback(lambda _: located.cancel())
        return located.addCallback(
            lambda ids: self._subscribe_to_all(
                request, query, first, by_topic, ids, is_stream=is_stream
            )
        )

    def _run_many(
        self,
        request: Any,
        query: _Query,
        caller: Caller,
        identities: Mapping[str, Identity | None],
    ) -> None:
        """Subscribe over WebSocket."""
        parameters = {
            "query": query.topics,
            "identities": identities,
            "caller": caller,
            "heartbeat": query.heartbeat,
            "format_json": query.format_json,
            "presence": self._with_presence(query),
            "client": query.client,
        }
        match = Match(self._dependencies.many_view, parameters, Handshakes.REQUIRED)
        identity = caller.identity or next(filter(None, identities.values()), None)
        ViewResource(self._dependencies.views, match, PATH, identity).render(request)

    def _locate(self, topics: Mapping[str, Position | None]) -> Deferred[dict[str, Id | None]]:
        """Return a Deferred of the ids after which the topics are resumed."""
        return Deferred.fromCoroutine(locate(self._dependencies.state.broker, topics))

    def _subscribe_to_all(
        self,
        request: Any,
        query: _Query,
        identity: Identity | None,
        identities: Mapping[str, Identity | None],
        ids: Mapping[str, Id | None],
        *,
        is_stream: bool,
    ) -> None:
        """Subscribe over HTTP.

        :param identity: with which the connection is registered, and ends.
        :param identities: of the client, as each topic knows it.
        """
        state, clock = self._dependencies.state, self._dependencies.clock
        cursors = [after for after in query.topics.values() if isinstance(after, Cursor)]
        tracker = CursorTracker(state.hub, cursors[0] if cursors else None)
        # Those first that are furthest behind: a poll may have no room for all of them.
        ids = dict(sorted(ids.items(), key=lambda item: _age(item[0], query.topics[item[0]])))
        for topic, after in query.topics.items():
            tracker.started(topic, after)
        seen = self._with_presence(query)
        subscriber: ManyEventStream | ManyLongPoll
        if is_stream:
            subscriber = stream = ManyEventStream(
                request,
                self._keep_alives(query.heartbeat),
                self._dependencies.views.factory.cork,
                state.limits.max_buffered,
                query.heartbeat,
                format_json=query.format_json,
                envelope=query.envelope,
            )
        else:
            presence = None
            if seen and query.presence is not None:
                presence = PresencePoll(self._presence, seen, query.presence)
            turns = self._dependencies.turns
            subscriber = ManyLongPoll(
                request, clock, turns, query.wait, presence, format_json=query.format_json
            )

        def join(topic: str) -> Attendance | None:
            one = Participant(state.attendances, subscriber, identities[topic], query.client)
            return one.join(topic)

        def start() -> None:
            connections = state.connections
            connections.set_topics(subscriber, subscriber)
            subscriber.start_all(state.hub, ids, tracker)

        self._subscribe(
            request,
            subscriber,
            identity,
            join=lambda: [join(topic) for topic in query.topics],
            start=start,
        )
        if is_stream:
            stream.tell_all_presence(self._presence, seen)


_ALLOW = {"Allow": allowed_methods("GET")}

_PREFLIGHT = preflight("GET")


def _read_position(text: str, where: str) -> Position:
    try:
        return read_position(text)
    except ValueError as error:
        raise BadRequest(error, where) from None


def _age(topic: str, after: Position | None) -> int:
    """Return the sequence at which a topic is resumed; 0 if that is not known."""
    position = after.position(topic) if isinstance(after, Cursor) else 0
    return position if isinstance(position, int) else 0


def _is_stream(request: Any) -> bool:
    return b"text/event-stream" in (request.getHeader(b"accept") or b"").lower()


def _unpack(failure: Failure) -> Failure:
    """Return the failure of the first that failed."""
    error = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure
