"""The URL maps of the public port and of the control port."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from pushd.access.counters import Counters
from pushd.api.centrifuge.http_api import PREFIX as API
from pushd.api.centrifuge.http_api import HttpApi, HttpApiResource
from pushd.api.operator.admin import (
    ConnectionListResource,
    ConnectionResource,
    ScheduleListResource,
    ScheduleResource,
    SubscriptionListResource,
    TopicListResource,
)
from pushd.api.operator.health import (
    Readiness,
    health_resource,
    metrics_resource,
    readiness_resource,
)
from pushd.api.operator.operator_page import OperatorPage
from pushd.api.operator.publications import PublicationListResource
from pushd.api.operator.rules import RulesResource
from pushd.api.publish import (
    BatchResource,
    ControlTopicResource,
    LastIdResource,
    publish_at_once,
)
from pushd.api.publish_stream import PublisherView
from pushd.api.resource import DaemonState
from pushd.api.subscribe.many_topics import PATH as MANY_TOPICS
from pushd.api.subscribe.many_topics import ManyTopicsResource
from pushd.api.subscribe.presence import SUFFIX, PresenceResource
from pushd.api.subscribe.topics import TopicDependencies, TopicResource
from pushd.gateways.asgi.gateway import AsgiGateway
from pushd.gateways.wsgi import WsgiGateway
from pushd.protocols.http.at_once import AtOnce
from pushd.protocols.http.guard import is_for_topics, is_topic
from pushd.protocols.http.headers import decode_path, has_token
from pushd.protocols.http.policy import SitePolicy
from pushd.protocols.http.response import NOT_FOUND, AnswerResource, Response, refusal
from pushd.protocols.http.site import PushdSite
from pushd.protocols.http.static import StaticFiles
from pushd.protocols.websocket.subscriber import V1
from pushd.views.decorators import Handshakes
from pushd.views.exchange import ViewDependencies
from pushd.views.resource import ViewResource
from pushd.views.routes import Match, Routes

_TOPICS = "/topics/"
_CONNECTIONS = "/connections/"
_SCHEDULES = "/schedules/"

# The start page of a daemon without the demo.
_PLAIN = "/plain.html"

# One line of text: clients of the control port are programs.
_PLAIN_NOT_FOUND = refusal(404, "not found")


def public_site(
    reactor: IReactorTime,
    policy: SitePolicy,
    routes: Routes,
    topics: TopicDependencies,
    files: StaticFiles,
    application: WsgiGateway | AsgiGateway | None = None,
) -> PushdSite:
    """Make the site of the public port.

    :param files: served at paths that are no view or topic. ``plain.html`` is served at ``/`` if
        there is no start page.
    :param application: serves every path that is no view or topic, in place of static files.
    """
    views = topics.views

    def find(request: Any) -> IResource:
        path = _path(request)
        if path is None:
            # It is no topic either, but for topics the error is JSON.
            if is_topic(request.path):
                return TopicResource(topics, "")
            return AnswerResource(NOT_FOUND)
        match = routes.match(path)
        if match is not None:
            return ViewResource(views, match, path)
        if path.startswith(_TOPICS):
            return TopicResource(topics, path.removeprefix(_TOPICS))
        if path == MANY_TOPICS and _chooses_topics(request):
            return ManyTopicsResource(topics)
        if path in topics.centrifuge:
            return topics.centrifuge[path]
        if application is not None:
            return application.find(request, path)
        file = None
        if not request.wants_websocket:
            file = files.find(path) or (files.find(_PLAIN) if path == "/" else None)
        if file is None and path == MANY_TOPICS:
            return ManyTopicsResource(topics)  # The answer says what is missing.
        if request.wants_websocket:
            request.site.count_refusal(404)
            request.why_refused = "there is no view at this path: see --views"
        return file or AnswerResource(NOT_FOUND)

    def streams_body(raw_path: bytes) -> bool:
        path = _decode(raw_path)
        if path is None or path in topics.centrifuge:
            return False
        return not (routes.match(path) or is_topic(raw_path))

    site = PushdSite(find, policy, reactor)
    if isinstance(application, AsgiGateway):
        site.streams_body = streams_body
    return site


def control_site(
    reactor: IReactorTime,
    policy: SitePolicy,
    counters: Counters,
    readiness: Readiness,
    state: DaemonState,
    views: ViewDependencies,
    page: OperatorPage,
    api: HttpApi | None = None,
) -> PushdSite:
    """Make the site of the control port, for operators and publishers.

    :param views: what the WebSockets of publishers run with.
    :param page: the operator's page.
    :param api: the HTTP API of Centrifugo; None without it.
    """
    publisher = Match(PublisherView(state), {}, Handshakes.REQUIRED)

    def find(request: Any) -> IResource:
        match request.path:
            case b"/" if request.method == b"OPTIONS":
                # A health check of HAProxy, unless it is told another address.
                return AnswerResource(Response(204))
            case b"/healthz":
                return health_resource()
            case b"/readyz":
                return readiness_resource(readiness)
            case b"/metrics":
                return metrics_resource(counters)
            case b"/publish" if request.wants_websocket:
                return ViewResource(views, publisher, "/publish")
            case b"/publish":
                return BatchResource(state)
            case b"/last-id":
                return LastIdResource(state)
            case b"/topics":
                return TopicListResource(state)
            case b"/connections":
                return ConnectionListResource(state)
            case b"/rules":
                return RulesResource(state)
            case b"/subscriptions":
                return SubscriptionListResource(state)
            case b"/schedules":
                return ScheduleListResource(state)
            case b"/presence":
                return PresenceResource(state)
            case b"/publications":
                return PublicationListResource(state)
        path = _path(request) or (_TOPICS if is_topic(request.path) else "")
        if api is not None and path.startswith(API):
            return HttpApiResource(api, path.removeprefix(API))
        if path.startswith(_TOPICS):
            name = path.removeprefix(_TOPICS)
            listed = name.removesuffix(SUFFIX)
            # Unless it is the name of a topic: one that ends so can be published to in any case.
            if listed != name and request.method == b"GET" and state.attendances.has(listed):
                return PresenceResource(state, listed)
            return ControlTopicResource(state, name)
        if path.startswith(_CONNECTIONS):
            return ConnectionResource(state, path.removeprefix(_CONNECTIONS))
        if path.startswith(_SCHEDULES):
            return ScheduleResource(state, path.removeprefix(_SCHEDULES))
        return page.find(path) or AnswerResource(_PLAIN_NOT_FOUND)

    def answer_at_once(request: Any) -> str | IResource | None:
        if request.method != b"POST" or not request.path.startswith(_TOPICS.encode()):
            return None
        return publish_at_once(state, request, request.path[len(_TOPICS) :])

    return PushdSite(find, policy, reactor, AtOnce(answer_at_once, views.factory.cork, policy.wall))


def _chooses_topics(request: Any) -> bool:
    """Return whether a request for ``/topics`` is for topics, not for a page of that name."""
    offered = request.requestHeaders.raw.get(b"Sec-Websocket-Protocol", ())
    return is_for_topics(request) or (request.wants_websocket and has_token(offered, V1.encode()))


def _path(request: Any) -> str | None:
    """Return the decoded path of a request, or None if it is not a path in UTF-8."""
    return _decode(request.path)


def _decode(raw_path: bytes) -> str | None:
    """Return a decoded path, or None if it is not one in UTF-8."""
    try:
        path = decode_path(raw_path).decode()
    except UnicodeDecodeError:
        return None
    return path if path.startswith("/") else None
