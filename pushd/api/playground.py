"""The playground behind ``topics.html``: publishing, cutting off, counting."""

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
from pushd.views.request import Request, View, accept_websocket, heed_tokens

# Strangers may publish here, unless tokens are asked for, so it is kept small: a topic's first
# segment, the bytes of one publication, how many of them a second and at once, and how many topics
# are counted for.
FIRST_SEGMENT = "play/"
MAX_BODY = 1024
RATE, BURST = 20, 60
MAX_LEDGERS = 256

# How long a page may have itself cut off, in seconds.
MAX_CUT = 10.0

_SECONDS = re.compile(r"\d{1,2}(\.\d{1,3})?")

# Only our own pages publish here and cut: a stranger's could do it to its visitors.
_OWN = Origins()


class Playground:
    """The views below ``/play/``, and what they share."""

    def __init__(self) -> None:
        self._ledgers: OrderedDict[str, Ledger] = OrderedDict()
        self._bucket: TokenBucket | None = None

    @property
    def views(self) -> dict[str, View]:
        """The map of them."""
        return {
            "/play/publish/": self.publish,
            "/play/cut/": self.cut,
            "/play/costs/": self.costs,
            "/play/topics/<way>/<path:topic>": self.listen,
        }

    @heed_tokens
    async def publish(self, request: Request) -> Response:
        """Publish the body of a POST to the topic in the query."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        if len(request.body) > MAX_BODY:
            return json_refusal(413, f"here a publication has {MAX_BODY} bytes at most", "body")
        try:
            text = request.body.decode()
        except UnicodeDecodeError:
            return json_refusal(400, "the body is not UTF-8", "body")
        id = await request.publish(request.query["topic"], text)
        return json_response(200, {"id": str(id)})

    @heed_tokens
    async def cut(self, request: Request) -> Response:
        """Break off all metered connections to a topic, and let nobody in for some seconds."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        seconds = request.query.get("seconds", "")
        if not _SECONDS.fullmatch(seconds) or float(seconds) > MAX_CUT:
            error = f"seconds is a number from 0 to {MAX_CUT:g}"
            return json_refusal(400, error, "seconds")
        ledger = self._ledger(request.query["topic"])
        ledger.cut_until = request.clock.seconds() + float(seconds)
        meters = list(ledger.meters.protocols)
        for meter in meters:
            meter.abortConnection()
        return json_response(200, {"cut": len(meters)})

    async def costs(self, request: Request) -> Response:
        """Tell what the ways to listen to a topic have cost so far."""
        topic = request.query.get("topic", "")
        ledger = self._ledgers.get(topic, Ledger())
        tallies = {way: asdict(tally) for way, tally in ledger.tallies.items()}
        return json_response(200, {"topic": topic, "costs": tallies})

    @accept_websocket
    async def listen(self, request: Request) -> Response | MeteredTopicResource:
        """Subscribe as ``/topics/<topic>`` does, with a count of the bytes."""
        way, topic = request.parameters["way"], request.parameters["topic"]
        if way not in WAYS:
            return json_refusal(404, f"there is {', '.join(WAYS)}", "way")
        error = _find_fault(topic)
        if error is not None:
            return json_refusal(400, error, "topic")
        ledger = self._ledger(topic)
        return MeteredTopicResource(topic, ledger, ledger.tallies[way], request.clock.seconds)

    def _ledger(self, topic: str) -> Ledger:
        """The ledger of a topic; those that nobody has asked for longest are thrown away."""
        ledger = self._ledgers.setdefault(topic, Ledger())
        self._ledgers.move_to_end(topic)
        if len(self._ledgers) > MAX_LEDGERS:
            self._ledgers.popitem(last=False)
        return ledger

    def _refuse(self, request: Request) -> Response | None:
        """Turn away what is no POST of our own page to a topic of the playground, or too much."""
        if request.method != "POST":
            return json_refusal(405, "this address takes POST", "method", {"Allow": "POST"})
        origin = request.headers.get("origin")
        if not _OWN.allows(origin, scheme=request.scheme, host=request.host):
            return json_refusal(403, "only pages of this very origin may do this", "Origin")
        topic = request.query.get("topic", "")
        error = _find_fault(topic)
        if error is not None:
            return json_refusal(400, error, "topic")
        if request.identity is not None and not request.identity.may_publish(topic):
            return json_refusal(403, f"this token may not publish to {topic}", "token")
        if self._bucket is None:
            self._bucket = TokenBucket(rate=RATE, burst=BURST, now=request.clock.seconds)
        if not self._bucket.take():
            error = f"the playground takes {RATE} requests a second"
            return json_refusal(429, error, None, {"Retry-After": "1"})
        return None


def _find_fault(topic: str) -> str | None:
    """Say why a topic is none of the playground's, or None."""
    try:
        check_topic(topic)
    except ValueError as error:
        return str(error)
    return None if topic.startswith(FIRST_SEGMENT) else f"here a topic begins with {FIRST_SEGMENT}"


# What a page may call what it does: plain polling, the three transports, or whichever of them.
WAYS = ("poll", "longpoll", "sse", "websocket", "any")


@dataclass
class Tally:
    """What one way to listen has cost, in bytes as HTTP and WebSocket have them."""

    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass(eq=False)
class Ledger:
    """One topic of the playground: the cost of each way, and who is connected now."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {way: Tally() for way in WAYS})
    #: The connections that are metered, to be cut.
    meters: WrappingFactory[Meter] = field(default_factory=lambda: WrappingFactory(None))
    #: Until when nobody gets through, in seconds of the daemon's clock.
    cut_until: float = 0.0


class MeteredTopicResource(Resource):
    """The door ``/topics/<topic>`` behind a meter."""

    isLeaf = True

    def __init__(self, topic: str, ledger: Ledger, tally: Tally, now: Callable[[], float]) -> None:
        super().__init__()
        self._topic = topic
        self._ledger = ledger
        self._tally = tally
        self._now = now

    def render(self, request: Any) -> int:
        """Count what came, let the topic's own door answer, and count what goes."""
        channel = request.channel
        if self._now() < self._ledger.cut_until:
            channel.transport.abortConnection()
            return NOT_DONE_YET
        request.path = f"/topics/{self._topic}".encode()
        request.uri = b"?".join([request.path, *request.uri.split(b"?", 1)[1:]])
        self._tally.requests += 1
        self._tally.received += _head_size(request)
        meter = Meter(self._ledger.meters, channel, self._tally)
        meter.insert()
        request.notifyFinish().addBoth(lambda _: meter.remove())
        request.render(channel.site.getResourceFor(request))
        return NOT_DONE_YET


class Meter(ProtocolWrapper):
    """Counts the bytes that a connection sends, from between its protocol and its transport.

    :param meters: the factory that keeps track of meters in place.
    :param channel: the HTTP connection, which a WebSocket may take over.
    """

    def __init__(self, meters: WrappingFactory[Meter], channel: Any, tally: Tally) -> None:
        super().__init__(meters, channel)
        self._channel = channel
        self._tally = tally

    def insert(self) -> None:
        """Take the place between the two."""
        self.transport: Any = self._channel.transport
        # Autobahn takes whatever provides ISSLTransport for Twisted's own class.
        directlyProvides(self, providedBy(self.transport) - ISSLTransport)
        self._connect(self)
        self._channel.transport = self
        self.factory.registerProtocol(self)

    def remove(self) -> None:
        """Give the place up, unless a WebSocket has it now or the connection is gone."""
        is_http = self.wrappedProtocol is self._channel
        if is_http and self in self.factory.protocols:
            self.factory.unregisterProtocol(self)
            self._connect(self._channel)
            self._channel.transport = self.transport

    def write(self, data: bytes) -> None:
        """Write and count."""
        self._tally.sent += len(data)
        super().write(data)

    def writeSequence(self, data: list[bytes]) -> None:
        """Write and count."""
        self._tally.sent += sum(map(len, data))
        super().writeSequence(data)

    def _connect(self, protocol: Any) -> None:
        """Have the transport deliver to a protocol."""
        if isinstance(self.transport, ProtocolWrapper):  # TLS
            self.transport.wrappedProtocol = protocol
        else:
            self.transport.protocol = protocol


def _head_size(request: Any) -> int:
    """How many bytes the head of a request has on the wire (RFC 9112 §3, §5)."""
    line = len(request.method) + len(request.uri) + len(request.clientproto) + 4
    headers = request.requestHeaders.getAllRawHeaders()
    return line + sum(len(name) + len(v) + 4 for name, values in headers for v in values) + 2
