"""Builds every object of the daemon once, from the top down."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import random
from typing import Any, Protocol

from pushd.access.authorization import Access
from pushd.access.connections import Connections
from pushd.access.counters import Metrics
from pushd.access.limits import Limits
from pushd.api.health import Readiness
from pushd.api.resource import PublishContext
from pushd.api.topics import TopicContext
from pushd.api.urls import control_site, public_site
from pushd.gateways.wsgi import ApplicationContext, Pool
from pushd.options.settings import Settings
from pushd.protocols.cork import Cork
from pushd.protocols.http.static import StaticFiles
from pushd.protocols.websocket.protocol import PushFactory
from pushd.schedule.coalescing import CoalescingClock
from pushd.schedule.histogram import Histogram
from pushd.schedule.ticks import lateness_of
from pushd.service.daemon import Drain, PushService
from pushd.service.listening import PortService
from pushd.service.live import LiveSettings, control_policy, public_policy
from pushd.service.metrics import Crew, MetricsCollector
from pushd.topics.broker import Broker, MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.publisher import Publisher
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.scheduled import ScheduledPublications
from pushd.views.exchange import ViewContext
from pushd.views.inprocess import InProcess
from pushd.views.runner import Threads, ViewRunner
from pushd.views.threads import BlockingPublisher, Bridge

# The histograms, and what they are about.
_LATENESS = ("pushd_push_lateness_seconds", "How much later than scheduled a push was made.")
_PUBLISHING = (
    "pushd_publish_seconds",
    "From this node's hub having a publication to all its subscribers' sockets having it.",
)
_LAG = ("pushd_reactor_lag_seconds", "How much later than asked for the reactor made a call.")


class Workers(Threads, Bridge, Protocol):
    """Where all runs that blocks: views, and an application's pages."""

    @property
    def pools(self) -> Mapping[str, Crew]:
        """All threads that there may be, by what they do."""

    def make_page_pool(self, limit: int) -> Pool:
        """Make a pool of so many more threads, for work that may wait until one has time."""


def build(
    settings: Settings,
    reactor: Any,
    threads: Workers,
    random: Callable[[], float] = random,
    lag: Histogram | None = None,
    wall: Callable[[], float] | None = None,
    turn: Cork | None = None,
    allow_connections: Callable[[int], int] = lambda wanted: wanted,
) -> PushService:
    """Build the daemon.

    :param random: gives a number from 0 to 1, by which the end is spread.
    :param lag: how late the reactor is, where that is measured.
    :param wall: the time of day, in seconds since 1970, where the reactor's time is none.
    :param turn: by which WebSockets write, where the reactor knows of it.
    :param allow_connections: gives how many of the wanted connections the process can have.
    """
    wall = wall or reactor.seconds
    turn = turn or Cork()
    metrics = Metrics()
    live = LiveSettings(allow_connections)
    live.apply(settings)
    beat = CoalescingClock(reactor, together=turn)
    publish = _build_publishing(settings, reactor, beat, metrics, wall, turn, live.limits)
    views = _build_views(settings, live, reactor, beat, threads, publish, metrics, wall, turn)
    public = public_site(
        reactor,
        public_policy(live, settings.proxies, metrics),
        settings.routes,
        TopicContext(reactor, views, publish),
        _build_application(settings, views, threads, live.limits),
    )
    readiness = Readiness(publish.broker.fault)
    control = control_site(reactor, control_policy(live, metrics), metrics, readiness, publish)
    readings = MetricsCollector(
        door=public,
        factory=views.factory,
        ledger=metrics.traffic,
        settle=publish.hub.settle,
        threads=threads.pools,
        fault=publish.broker.fault,
        times={
            _LATENESS: lateness_of(beat),
            _PUBLISHING: publish.hub.delays,
            _LAG: lag or Histogram(),
        },
        limits=live.limits,
    )
    metrics.register(readings)
    service = PushService(
        reactor,
        readiness=readiness,
        farewell=Drain(reactor, publish.connections, random),
        timed=publish.timed,
        broker=publish.broker,
        limits=live.limits,
    )
    service.appliers.append(live.apply)
    service.stopping.append(threads.stop)
    service.add_doors(
        [
            PortService(reactor, one, public, message="listening on {url}", option="--listen")
            for one in settings.listen
        ],
        [
            PortService(reactor, one, control, message="control port at {url}", option="--control")
            for one in settings.control
        ],
    )
    service.addService(InProcess(BlockingPublisher(views.publisher, threads)))
    return service


def shipped_client() -> Path:
    """The folder of the client that comes with pushd: installed inside it, in a checkout beside."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "web"
    return installed if installed.is_dir() else package.parent / "web"


def _build_publishing(
    settings: Settings,
    reactor: Any,
    beat: CoalescingClock,
    metrics: Metrics,
    wall: Callable[[], float],
    turn: Cork,
    limits: Limits,
) -> PublishContext:
    """Build all that a publication passes, from the door to the hub."""
    broker = make_broker(settings.broker, reactor, settings.retention, _make_name)
    hub = Hub(broker, reactor, turn.flush)
    broker.start(hub.deliver, hub.missed)
    metrics.count_topics(hub, broker)
    return PublishContext(
        clock=reactor,
        broker=broker,
        hub=hub,
        timed=ScheduledPublications(beat, broker, _make_name),
        connections=Connections(reactor, wall),
        limits=limits,
    )


def _build_views(
    settings: Settings,
    live: LiveSettings,
    reactor: Any,
    beat: CoalescingClock,
    threads: Workers,
    publish: PublishContext,
    metrics: Metrics,
    wall: Callable[[], float],
    turn: Cork,
) -> ViewContext:
    """Build all that views need: where they run, and what they hold."""
    return ViewContext(
        clock=beat,
        runner=ViewRunner(reactor, threads),
        access=Access(live.keys, wall),
        factory=PushFactory(reactor, live.limits, turn),
        connections=publish.connections,
        metrics=metrics,
        hub=publish.hub,
        publisher=Publisher(publish.broker, publish.timed, live.limits),
        files=StaticFiles([*([settings.web] if settings.web else []), shipped_client()]),
    )


def _build_application(
    settings: Settings, views: ViewContext, threads: Workers, limits: Limits
) -> ApplicationContext | None:
    if settings.wsgi is None:
        return None
    return ApplicationContext(
        settings.wsgi,
        views,
        threads=threads,
        pool=threads.make_page_pool(settings.wsgi_threads),
        files=StaticFiles([settings.web] if settings.web else []),
        shipped=StaticFiles([shipped_client()]),
        limits=limits,
    )


def _make_name() -> str:
    """A random name that nobody guesses and nobody had before.

    It is not to begin with a dash: people give it to commands, as in ``tail --after``.
    """
    return secrets.token_hex(9)


def check_redis(address: RedisAddress) -> None:
    """End the process if this Redis can't be used without somebody changing something."""
    try:
        from pushd.topics.redis.session import probe
    except ImportError as error:
        raise SystemExit(
            f"pushd: --broker {address}: pip install 'pushd[redis]' ({error})"
        ) from None
    if (reason := probe(address)) is not None:
        raise SystemExit(f"pushd: --broker {address}: {reason}")


def make_broker(
    address: RedisAddress | None, reactor: Any, retention: Retention, make_name: Callable[[], str]
) -> Broker:
    """Make the broker over this Redis, or the one in memory where there is none.

    :param retention: how much of the past is kept.
    :param make_name: gives a random name that nobody had before.
    """
    if address is None:
        return MemoryBroker(reactor, History(reactor, retention, make_name))
    # Not above: its library is an extra, and imports the global reactor.
    from pushd.topics.redis.session import open_session

    return RedisBroker(
        reactor,
        partial(open_session, reactor, address),
        name=str(address),
        db=address.db,
        retention=retention,
        make_name=make_name,
    )
