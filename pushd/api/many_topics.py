"""``/topics`` at the public port: subscribe to many topics over one connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.authorization import challenge, read_token
from pushd.access.closing import GOING_AWAY
from pushd.access.tokens import Identity
from pushd.api.keep_alives import read_heartbeat
from pushd.api.multi_websocket import MultiTopicView
from pushd.api.resource import allowed_methods, refuse, require_known
from pushd.api.topics import PAGE_HEADERS, TopicDependencies
from pushd.errors import BadRequest, Denied
from pushd.protocols.http.response import Response, json_refusal, write_response
from pushd.topics.publication import Id, check_topic
from pushd.views.decorators import Handshakes
from pushd.views.resource import ViewResource
from pushd.views.routes import Match

#: The path of the resource.
PATH = "/topics"

# Query parameters of a subscriber.
_PARAMETERS = ("topic", "token", "heartbeat")

# Before the id of a topic in the query; no topic has one.
_AT = "@"


@dataclass(frozen=True)
class _Query:
    """The topics and times that a subscriber asks for."""

    #: Each with the id after which publications are sent.
    topics: list[tuple[str, Id | None]]
    #: Seconds from one heartbeat to the next; None for no heartbeats.
    heartbeat: int | None


class MultiTopicResource(Resource):
    """The topics that the query names, as ``topic=NAME`` or ``topic=NAME@ID``."""

    isLeaf = True

    def __init__(self, dependencies: TopicDependencies) -> None:
        super().__init__()
        self._dependencies = dependencies
        self._authorizer = dependencies.views.authorizer
        self._connections = dependencies.state.connections

    def render(self, request: Any) -> int:
        """Answer, or refuse the request."""
        if self._connections.closing is not None:
            request.site.count_refusal(503)
            request.why_refused = GOING_AWAY.reason
            retry = {"Retry-After": "1"}
            write_response(request, json_refusal(503, GOING_AWAY.reason, None, retry))
            return NOT_DONE_YET
        if request.method == b"OPTIONS":
            is_preflight = request.header(b"access-control-request-method")
            headers = _PREFLIGHT if is_preflight else _ALLOW
            write_response(request, Response(204, headers))
            return NOT_DONE_YET
        try:
            return self._answer(request)
        except BadRequest as error:
            request.why_refused = error.line
            write_response(request, refuse(error))
        except Denied as denied:
            request.site.count_refusal(denied.status)
            request.why_refused = denied.line
            headers = challenge(denied)
            write_response(request, json_refusal(denied.status, denied.reason, "token", headers))
        return NOT_DONE_YET

    def _answer(self, request: Any) -> int:
        """Subscribe by the transport that the request is for."""
        token = read_token(request) if self._authorizer.keys else None
        identity = self._authorizer.identify(token)
        query = _read_query(request, self._dependencies.state.limits.max_topics)
        for topic, _ in query.topics:
            self._authorizer.authorize_subscribe(token, topic)
        if any(after is not None for _, after in query.topics):
            request.site.policy.throttle.count(request.peer)
        if request.wants_websocket:
            return self._run_view(request, query, identity)
        raise BadRequest("WebSockets only", "method", 405, _ALLOW)

    def _run_view(self, request: Any, query: _Query, identity: Identity | None) -> int:
        """Subscribe over WebSocket."""
        parameters = {"topics": query.topics, "heartbeat": query.heartbeat}
        match = Match(self._dependencies.multi_view, parameters, Handshakes.REQUIRED)
        return ViewResource(self._dependencies.views, match, PATH, identity).render(request)


_ALLOW = {"Allow": allowed_methods("GET")}

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET",
    "Access-Control-Allow-Headers": PAGE_HEADERS,
    "Access-Control-Max-Age": "600",
}




def _read_query(request: Any, most: int) -> _Query:
    """Read what a subscriber asks for. Raises BadRequest.

    :param most: the number of topics that a connection may have.
    """
    require_known(request, *_PARAMETERS)
    topics: dict[str, Id | None] = {}
    for given in request.args.get(b"topic", ()):
        topic, after = _read_topic(given)
        if topic in topics:
            raise BadRequest(f"{topic} is given twice", "topic")
        topics[topic] = after
    if len(topics) > most:
        raise BadRequest(f"a connection may have {most} topics at most", "topic")
    return _Query(list(topics.items()), read_heartbeat(_argument(request, b"heartbeat")))


def _read_topic(given: bytes) -> tuple[str, Id | None]:
    topic, at, id = given.decode(errors="replace").partition(_AT)
    try:
        return check_topic(topic), Id.parse(id) if at else None
    except ValueError as error:
        raise BadRequest(error, "topic") from None


def _argument(request: Any, name: bytes) -> str | None:
    values = request.args.get(name)
    return values[-1].decode("latin-1") if values else None
