"""``/topics/<topic>`` at the public port: one URL, three transports, one cursor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.authorization import challenge, read_token
from pushd.access.connections import log_closed, log_opened
from pushd.access.tokens import Identity
from pushd.api.longpoll import LongPoll
from pushd.api.publish import PublishResource, read_topic
from pushd.api.resource import ApiContext, refuse
from pushd.api.sse import KEEP_ALIVE, EventStream
from pushd.api.websocket import TopicView
from pushd.errors import BadRequest, Denied
from pushd.protocols.http.guard import is_topic
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import Response, json_refusal, write_response
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.publication import Id
from pushd.views.exchange import ViewContext
from pushd.views.request import Handshakes
from pushd.views.resource import UPGRADE, ViewResource
from pushd.views.routes import Match

# How long a long poll waits unless it says so itself, and how long at most, in seconds.
_WAIT = 25.0
_MAX_WAIT = 60.0

# What a page of an origin that is allowed may send beside the usual.
_PAGE_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
_GOING_AWAY = json_refusal(503, "server is shutting down", None, {"Retry-After": "1"})


class TopicContext:
    """What it takes to serve subscribers.

    :param publish: what it takes to publish, for those whose token allows it.
    """

    def __init__(self, clock: IReactorTime, views: ViewContext, publish: ApiContext) -> None:
        self.clock = clock
        self.views = views
        self.publish = publish
        self.listener = TopicView(views.authorizer, views.connections)
        self.keep_alives: TimeoutQueue[EventStream] = TimeoutQueue(
            clock, timeout=KEEP_ALIVE, expired=EventStream.keep_alive
        )


@dataclass(frozen=True)
class _Question:
    """What a subscriber asks for."""

    topic: str
    after: Id | None
    wait: float


class TopicResource(Resource):
    """One topic, for those who want to hear of it, or to publish to it."""

    isLeaf = True

    def __init__(self, context: TopicContext, name: str) -> None:
        super().__init__()
        self._context = context
        self._name = name

    def render(self, request: Any) -> int:
        """Subscribe by the transport that the request is made for, or publish."""
        self._allow_page(request)
        if self._context.views.connections.closing is not None:
            request.site.count_refusal(503)
            write_response(request, _GOING_AWAY)
            return NOT_DONE_YET
        if request.method == b"OPTIONS" and request.header(b"access-control-request-method"):
            write_response(request, Response(204, self._preflight()))
            return NOT_DONE_YET
        try:
            return self._serve(request)
        except BadRequest as error:
            write_response(request, refuse(error))
        except Denied as denied:
            request.site.count_refusal(denied.status)
            answer = json_refusal(denied.status, str(denied), "token", challenge(denied))
            write_response(request, answer)
        return NOT_DONE_YET

    def _serve(self, request: Any) -> int:
        topic, authorizer = read_topic(self._name, "topic"), self._context.views.authorizer
        websocket = request.wants_websocket
        if request.method == b"POST" and authorizer.keys and not websocket:
            token = read_token(request)
            subject = authorizer.authorize_publish(token, topic).subject
            if not subject and token is not None:
                # Idempotency keys are nobody else's, who has no name either.
                subject = sha256(token.encode()).hexdigest()
            return PublishResource(self._context.publish, topic, subject).render(request)
        identity = authorizer.authorize_subscribe(
            read_token(request) if authorizer.keys else None, topic
        )
        question = self._read(request, topic)
        if websocket:
            after = None if question.after is None else str(question.after)
            parameters = {"topic": topic, "after": after}
            match = Match(self._context.listener, parameters, Handshakes.REQUIRED)
            view = ViewResource(self._context.views, match, f"/topics/{topic}", identity)
            return view.render(request)
        if request.getHeader(b"sec-websocket-key") is not None:
            # Were it taken for a poll, its client would wait as long, and be deaf meanwhile.
            request.site.count_refusal(426)
            error = "a handshake without Upgrade: a proxy on the way lets no WebSocket through"
            raise BadRequest(error, "Upgrade", 426, UPGRADE)
        if request.method != b"GET":
            error = "a topic is subscribed to with GET here; publish at the control port"
            raise BadRequest(error, "method", 405, {"Allow": self._methods})
        if b"text/event-stream" in (request.getHeader(b"accept") or b"").lower():
            max_buffered = self._context.publish.limits.max_buffered
            stream = EventStream(request, self._context.keep_alives, max_buffered)
            self._start(request, stream, question, identity)
        else:
            poll = LongPoll(request, self._context.clock, question.wait)
            self._start(request, poll, question, identity)
        return NOT_DONE_YET

    @property
    def _methods(self) -> str:
        return "GET, POST" if self._context.views.authorizer.keys else "GET"

    def _allow_page(self, request: Any) -> None:
        """Let the browser show a page of another origin what it gets.

        The guard, which knows topics by this test as well, has let it in.
        """
        origin = request.getHeader(b"origin")
        if origin is not None and is_topic(request.path):
            request.setHeader(b"access-control-allow-origin", origin)
            request.setHeader(b"access-control-expose-headers", b"Retry-After, WWW-Authenticate")
            request.setHeader(b"vary", b"origin")

    def _preflight(self) -> dict[str, str]:
        """What a browser asks before it lets a page send such a request (WHATWG Fetch §3.2.2)."""
        return {
            "Access-Control-Allow-Methods": self._methods,
            "Access-Control-Allow-Headers": _PAGE_HEADERS,
            "Access-Control-Max-Age": "600",
        }

    def _start(
        self,
        request: Any,
        subscriber: EventStream | LongPoll,
        question: _Question,
        identity: Identity | None,
    ) -> None:
        connections = self._context.views.connections

        totals, transport = self._context.views.metrics.traffic, subscriber.transport

        def ended(_: object) -> None:
            subscriber.forget()
            connections.remove(subscriber)
            totals.remove(transport, subscriber.traffic)
            if isinstance(subscriber, EventStream):
                log_closed(connections, connection, subscriber.ending)

        subject = None if identity is None else identity.subject
        connection = connections.add(
            subscriber,
            peer=request.peer,
            path=path_of(request),
            subject=subject,
            traffic=subscriber.traffic,
        )
        if identity is not None:
            connections.close_at(
                subscriber, self._context.views.authorizer.end_of_connection(identity)
            )
        totals.add(transport, subscriber.traffic)
        request.connection = connection.id
        if isinstance(subscriber, EventStream):
            request.has_access_line = False
            log_opened(connection)
        request.notifyFinish().addBoth(ended)
        subscriber.start(self._context.views.hub, question.topic, question.after)

    def _read(self, request: Any, topic: str) -> _Question:
        # The header first: a browser that comes back by itself asks at the same URL again.
        where, given = (
            "Last-Event-ID",
            (request.getHeader(b"last-event-id") or b"").decode("latin-1"),
        )
        if not given:
            where, given = "after", _argument(request, b"after") or ""
        try:
            id = Id.parse(given) if given else None
        except ValueError as error:
            raise BadRequest(error, where) from None
        return _Question(topic, id, _seconds(_argument(request, b"wait")))


def _argument(request: Any, name: bytes) -> str | None:
    values = request.args.get(name)
    return values[-1].decode("latin-1") if values else None


def _seconds(given: str | None) -> float:
    if given is None:
        return _WAIT
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", given) or float(given) > _MAX_WAIT:
        raise BadRequest(f"wait is a number of seconds from 0 to {_MAX_WAIT:g}", "wait")
    return float(given)
