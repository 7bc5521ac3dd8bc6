"""The demo's views below ``/play/``: publish, cut connections off, and count what they cost."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import directlyProvides, providedBy

from pushd.access.limits import TokenBucket
from pushd.access.origins import Origins
from pushd.protocols.http.response import Response, json_refusal, json_response
from pushd.topics.publication import check_topic
from pushd.views.decorators import accept_websocket, heed_tokens
from pushd.views.request import Request, View

# Any client may publish here unless pushd asks for tokens, so all of it has limits: the first
# segment of topics, bytes of a publication, requests a second (and at once), topics with costs.
FIRST_SEGMENT = "play/"
MAX_BODY = 1024
RATE, BURST = 20, 60
MAX_TOPICS = 256

# Seconds for which a topic's connections can be refused, at most.
MAX_CUT = 10.0

# Ways to follow a topic: plain polling, each of the transports, or the one that pushd.js chooses.
WAYS = ("poll", "longpoll", "sse", "websocket", "any")

_SECONDS = re.compile(r"\d{1,2}(\.\d{1,3})?")

# Only our own pages may publish and cut: others would do it in the name of their visitors.
_OWN_ORIGIN = Origins()


@dataclass
class Cost:
    """Requests, and their bytes as HTTP and WebSocket have them."""

    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass(eq=False)
class TopicCosts:
    """Costs of one topic, and its open connections."""

    by_way: dict[str, Cost] = field(default_factory=lambda: {way: Cost() for way in WAYS})
    #: Keeps track of the connections.
    connections: WrappingFactory[CountingTransport] = field(
        default_factory=lambda: WrappingFactory(None)
    )
    #: New connections are refused until then, in seconds of the daemon's clock.
    cut_until: float = 0.0


class Playground:
    """The views below ``/play/``, and the state that they share."""

    def __init__(self) -> None:
        # Costs by topic, the topic that was used last at the end.
        self._costs: OrderedDict[str, TopicCosts] = OrderedDict()
        self._bucket: TokenBucket | None = None

    @property
    def views(self) -> dict[str, View]:
        """The views, by their URLs."""
        return {
            "/play/publish/": self.publish,
            "/play/cut/": self.cut,
            "/play/costs/": self.costs,
            "/play/topics/<way>/<path:topic>": self.follow,
        }

    @heed_tokens
    async def publish(self, request: Request) -> Response:
        """Publish the body of a POST to the topic in the query."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        size = len(request.body)
        if size > MAX_BODY:
            error = f"a publication of the demo must have at most {MAX_BODY} bytes; got {size}"
            return json_refusal(413, error, "body")
        try:
            text = request.body.decode()
        except UnicodeDecodeError:
            return json_refusal(400, "the body is not valid UTF-8", "body")
        try:
            id = await request.publish(request.query["topic"], text)
        except ValueError as error:  # Too long for the rule of its topic.
            return json_refusal(413, str(error), "body")
        return json_response(200, {"id": str(id)})

    @heed_tokens
    async def cut(self, request: Request) -> Response:
        """Abort the counted connections of a topic, and refuse new ones for some seconds."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        seconds = request.query.get("seconds", "")
        if not _SECONDS.fullmatch(seconds) or float(seconds) > MAX_CUT:
            error = f"seconds must be a number from 0 to {MAX_CUT:g}"
            return json_refusal(400, error, "seconds")
        costs = self._costs_of(request.query["topic"])
        costs.cut_until = request.clock.seconds() + float(seconds)
        connections = list(costs.connections.protocols)
        for connection in connections:
            connection.abortConnection()
        return json_response(200, {"cut": len(connections)})

    async def costs(self, request: Request) -> Response:
        """Return what each way to follow a topic has cost so far."""
        topic = request.query.get("topic", "")
        costs = self._costs.get(topic, TopicCosts())
        by_way = {way: asdict(cost) for way, cost in costs.by_way.items()}
        return json_response(200, {"topic": topic, "costs": by_way})

    @accept_websocket
    async def follow(self, request: Request) -> Response | CountedTopicResource:
        """Subscribe as ``/topics/<topic>`` does, and count the bytes."""
        way, topic = request.parameters["way"], request.parameters["topic"]
        if way not in WAYS:
            return json_refusal(404, f"must be one of {', '.join(WAYS)}", "way")
        error = _find_fault(topic)
        if error is not None:
            return json_refusal(400, error, "topic")
        costs = self._costs_of(topic)
        return CountedTopicResource(topic, costs, costs.by_way[way], request.clock.seconds)

    def _costs_of(self, topic: str) -> TopicCosts:
        """Return the costs of a topic; forget the topic that was not used for the longest time."""
        costs = self._costs.setdefault(topic, TopicCosts())
        self._costs.move_to_end(topic)
        if len(self._costs) > MAX_TOPICS:
            self._costs.popitem(last=False)
        return costs

    def _refuse(self, request: Request) -> Response | None:
        """Refuse anything but a POST of our own page to a topic of the demo, within the rate."""
        if request.method != "POST":
            return json_refusal(405, "method not allowed; use POST", "method", {"Allow": "POST"})
        origin = request.headers.get("origin")
        if not _OWN_ORIGIN.allows(origin, scheme=request.scheme, host=request.host):
            return json_refusal(403, "only pages of this origin may do this", "Origin")
        topic = request.query.get("topic", "")
        error = _find_fault(topic)
        if error is not None:
            return json_refusal(400, error, "topic")
        if request.identity is not None and not request.identity.may_publish(topic):
            return json_refusal(403, f"token does not permit publishing to {topic}", "token")
        if self._bucket is None:
            self._bucket = TokenBucket(rate=RATE, burst=BURST, now=request.clock.seconds)
        if not self._bucket.take():
            error = f"too many requests; the demo accepts {RATE} per second"
            return json_refusal(429, error, None, {"Retry-After": "1"})
        return None


class CountedTopicResource(Resource):
    """``/topics/<topic>``, with the bytes of its requests and responses counted.

    :param costs: of the topic.
    :param cost: of the way in which this request follows it.
    :param now: the time in seconds.
    """

    isLeaf = True

    def __init__(self, topic: str, costs: TopicCosts, cost: Cost, now: Callable[[], float]) -> None:
        super().__init__()
        self._topic = topic
        self._costs = costs
        self._cost = cost
        self._now = now

    def render(self, request: Any) -> int:
        """Count the request, let the topic's own resource answer it, and count the response."""
        channel = request.channel
        if self._now() < self._costs.cut_until:
            channel.transport.abortConnection()
            return NOT_DONE_YET
        request.path = f"/topics/{self._topic}".encode()
        request.uri = b"?".join([request.path, *request.uri.split(b"?", 1)[1:]])
        self._cost.requests += 1
        self._cost.received += _head_size(request)
        transport = CountingTransport(self._costs.connections, channel, self._cost)
        transport.insert()
        request.notifyFinish().addBoth(lambda _: transport.remove())
        request.render(channel.site.getResourceFor(request))
        return NOT_DONE_YET


class CountingTransport(ProtocolWrapper):
    """Counts the bytes that a connection sends, from between its protocol and its transport.

    :param connections: keeps track of the connections that are counted.
    :param channel: the HTTP connection, which a WebSocket may take over.
    """

    def __init__(
        self, connections: WrappingFactory[CountingTransport], channel: Any, cost: Cost
    ) -> None:
        super().__init__(connections, channel)
        self._channel = channel
        self._cost = cost

    def insert(self) -> None:
        """Step between the channel and its transport."""
        self.transport: Any = self._channel.transport
        # Autobahn takes whatever provides ISSLTransport for Twisted's own class.
        directlyProvides(self, providedBy(self.transport) - ISSLTransport)
        self._connect(self)
        self._channel.transport = self
        self.factory.registerProtocol(self)

    def remove(self) -> None:
        """Undo ``insert``, unless a WebSocket has taken over or the connection is lost."""
        is_http = self.wrappedProtocol is self._channel
        if is_http and self in self.factory.protocols:
            self.factory.unregisterProtocol(self)
            self._connect(self._channel)
            self._channel.transport = self.transport

    def write(self, data: bytes) -> None:
        """Write and count."""
        self._cost.sent += len(data)
        super().write(data)

    def writeSequence(self, data: list[bytes]) -> None:
        """Write and count."""
        self._cost.sent += sum(map(len, data))
        super().writeSequence(data)

    def _connect(self, protocol: Any) -> None:
        """Let the transport deliver to a protocol."""
        if isinstance(self.transport, ProtocolWrapper):  # TLS
            self.transport.wrappedProtocol = protocol
        else:
            self.transport.protocol = protocol


def _find_fault(topic: str) -> str | None:
    """Return why a topic is not one of the demo's, or None if it is."""
    try:
        check_topic(topic)
    except ValueError as error:
        return str(error)
    return None if topic.startswith(FIRST_SEGMENT) else f"topic must begin with {FIRST_SEGMENT}"


def _head_size(request: Any) -> int:
    """Return the size of a request's head, in bytes (RFC 9112 §3, §5)."""
    line = len(request.method) + len(request.uri) + len(request.clientproto) + 4
    headers = request.requestHeaders.getAllRawHeaders()
    return line + sum(len(name) + len(v) + 4 for name, values in headers for v in values) + 2
