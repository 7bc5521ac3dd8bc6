"""The daemon, put together."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.admission import Admission
from pushd.broker import Broker, MemoryBroker
from pushd.channel import Door, Entrance, peer_name
from pushd.connections import Connections
from pushd.conversation import Stage, Threads
from pushd.descriptors import allow_connections
from pushd.guard import control_guard, public_guard
from pushd.history import History
from pushd.hub import Hub
from pushd.messages import GOING_AWAY
from pushd.metrics import Metrics
from pushd.options import Options, Settings
from pushd.protocol import PushFactory
from pushd.proxies import Proxies
from pushd.publish import PublishDoor, batch_body
from pushd.publisher import Publisher
from pushd.receipts import Receipts
from pushd.redis_broker import RedisBroker
from pushd.redis_url import RedisAddress
from pushd.site import control_door, public_door
from pushd.static import StaticFiles
from pushd.threads import ViewThreads
from pushd.timed import TimedPushes
from pushd.topics import TopicDoor
from pushd.upgrade import ViewDoor

_log = Logger()

# How many connections the private door takes: enough for all who should be there.
_OPERATORS = 1000

# How many connections may wait to be accepted.
_BACKLOG = 2048


def makeService(options: Options, reactor: Any = None) -> MultiService:
    """Make the whole daemon, to be started by twistd.

    :param options: what the operator wants.
    :param reactor: where sockets and time come from; None for the global one.
    """
    if reactor is None:
        from twisted.internet import reactor
    settings = options.settings
    if settings.broker is not None:
        _check_redis(settings.broker)
    allowed = allow_connections(settings.max_connections)
    if allowed == settings.max_connections:
        _log.info("{allowed} connections at most", allowed=allowed)
    else:
        _log.warn(
            "{allowed} connections at most, not {wanted}: the limit of open files allows no more",
            allowed=allowed,
            wanted=settings.max_connections,
        )
    settings = replace(settings, max_connections=allowed)
    return build(settings, reactor, ViewThreads(reactor, settings.threads))


def build(settings: Settings, reactor: Any, threads: Threads) -> PushService:
    """Build every object of the daemon once, from the top down."""
    connections = Connections()
    metrics = Metrics()
    broker = _make_broker(settings, reactor)
    hub = Hub(broker, reactor)
    broker.start(hub.deliver, hub.missed)
    metrics.count_topics(hub, broker)
    timed = TimedPushes(reactor, broker, _make_name)
    receipts = Receipts(reactor)
    views = ViewDoor(
        clock=reactor,
        stage=Stage(reactor, threads),
        factory=PushFactory(reactor, settings.limits),
        connections=connections,
        metrics=metrics,
        hub=hub,
        publisher=Publisher(broker, timed, settings.limits.max_message),
        max_buffered=settings.limits.max_buffered,
        files=StaticFiles([*([settings.web] if settings.web else []), shipped_client()]),
    )
    public = public_door(
        reactor,
        Entrance(
            guard=public_guard(settings.origins),
            admission=Admission(
                connections=settings.max_connections,
                per_address=settings.max_per_address,
                proxies=settings.proxies,
            ),
            proxies=settings.proxies,
            metrics=metrics,
            max_body=settings.limits.max_message,
        ),
        settings.routes,
        TopicDoor(reactor, views, settings.limits.max_buffered),
    )
    nobody = Proxies()
    control = control_door(
        reactor,
        Entrance(
            guard=control_guard,
            admission=Admission(connections=_OPERATORS, per_address=_OPERATORS, proxies=nobody),
            proxies=nobody,
            metrics=metrics,
            max_body=settings.limits.max_message,
            max_bodies={b"/publish": batch_body(settings.limits.max_message)},
        ),
        metrics,
        PublishDoor(
            clock=reactor,
            broker=broker,
            hub=hub,
            timed=timed,
            receipts=receipts,
            max_message=settings.limits.max_message,
        ),
    )
    service = PushService(connections, threads, timed, broker, receipts)
    for endpoint in settings.listen:
        service.addService(DoorService(reactor, endpoint, public, "listening on {url}"))
    for endpoint in settings.control:
        service.addService(DoorService(reactor, endpoint, control, "control door at {url}"))
    return service


def _check_redis(address: RedisAddress) -> None:
    """End the process if this Redis can't be used without somebody changing something."""
    try:
        from pushd.redis_probe import probe
    except ImportError as error:
        raise SystemExit(
            f"pushd: --broker {address}: pip install 'pushd[redis]' ({error})"
        ) from None
    if (reason := probe(address)) is not None:
        raise SystemExit(f"pushd: --broker {address}: {reason}")


def _make_broker(settings: Settings, reactor: Any) -> Broker:
    address = settings.broker
    if address is None:
        return MemoryBroker(reactor, History(reactor, settings.retention, _make_name))
    # Not above: its library is an extra, and imports the global reactor.
    from pushd.redis_session import open_session

    return RedisBroker(
        reactor,
        partial(open_session, reactor, address),
        name=str(address),
        db=address.db,
        retention=settings.retention,
        make_name=_make_name,
    )


class PushService(MultiService):
    """The daemon's doors, closed in order when it stops."""

    def __init__(
        self,
        connections: Connections,
        threads: Threads,
        timed: TimedPushes,
        broker: Broker,
        receipts: Receipts,
    ) -> None:
        super().__init__()
        self._connections = connections
        self._threads = threads
        self._timed = timed
        self._broker = broker
        self._receipts = receipts

    def stopService(self) -> Deferred[Any]:
        """Let nobody in any more, say goodbye to those who are here, and wait until they left."""
        stopped = maybeDeferred(super().stopService)
        self._timed.stop()
        self._receipts.stop()
        closed = self._connections.close_all(GOING_AWAY)
        closed.addCallback(lambda _: self._broker.stop())
        self._threads.stop()
        return gatherResults([stopped, closed], consumeErrors=True)


def _make_name() -> str:
    """A random name that nobody guesses and nobody had before."""
    return secrets.token_urlsafe(9)


class DoorService(Service):
    """One endpoint at which a door is open.

    :param message: what to log with the URL once it is.
    """

    _log = Logger()

    def __init__(self, reactor: Any, endpoint: str, door: Door, message: str) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._door = door
        self._message = message
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Listen, while ports below 1024 may still be had. Ends the process if that fails."""
        failures: list[Failure] = []
        endpoint = serverFromString(self._reactor, _with_backlog(self._endpoint))
        listening = endpoint.listen(self._door)
        listening.addCallback(self._listening).addErrback(failures.append)
        if failures:
            raise SystemExit(f"pushd: {self._endpoint}: {failures[0].getErrorMessage()}")

    def startService(self) -> None:
        """Listen now, where nobody asked for it while the process still had its privileges."""
        super().startService()
        if self._port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[Any] | None:
        """Stop listening."""
        super().stopService()
        self._door.drain()
        if self._port is None:
            return None
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening)

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        self._log.info(self._message, url=_url(self._endpoint, port))


def shipped_client() -> Path:
    """The folder of the client that comes with pushd: installed inside it, in a checkout beside."""
    package = Path(__file__).resolve().parent
    installed = package / "web"
    return installed if installed.is_dir() else package.parent / "web"


def _with_backlog(endpoint: str) -> str:
    """The endpoint with room for many who come at once: with Twisted's 50 most would wait."""
    queues = endpoint.startswith(("tcp:", "tcp6:", "ssl:", "unix:", "reuseport:"))
    return f"{endpoint}:backlog={_BACKLOG}" if queues and ":backlog=" not in endpoint else endpoint


def _url(endpoint: str, port: IListeningPort) -> str:
    """The URL that a browser on this machine can open."""
    address = port.getHost()
    place = peer_name(address)
    if place == "unix":
        return endpoint
    if place.startswith(("0.0.0.0:", "[::]:")):
        place = place.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    scheme = "https" if endpoint.startswith(("ssl:", "tls:")) else "http"
    return f"{scheme}://{place}/"
