"""The daemon, put together."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import random
from typing import Any, Protocol

from twisted.application.service import MultiService
from twisted.logger import Logger, globalLogBeginner

from pushd.access import Access
from pushd.admission import Admission
from pushd.beat import Beat
from pushd.broker import Broker, MemoryBroker
from pushd.channel import Entrance
from pushd.connections import Connections
from pushd.conversation import Stage, Threads
from pushd.daemon import PushService
from pushd.descriptors import allow_connections
from pushd.distributions import Distribution
from pushd.drain import Drain
from pushd.guard import control_guard, public_guard
from pushd.history import History
from pushd.hub import Hub
from pushd.inprocess import InProcess
from pushd.lag import LagMeter
from pushd.listening import DoorService
from pushd.logs import LogStyle
from pushd.metrics import Metrics
from pushd.options import Options
from pushd.protocol import PushFactory
from pushd.proxies import Proxies
from pushd.publish import PublishDoor, batch_body
from pushd.publisher import Publisher
from pushd.readiness import Readiness
from pushd.readings import Crew, Readings
from pushd.receipts import Receipts
from pushd.redis_broker import RedisBroker
from pushd.redis_url import RedisAddress
from pushd.reload import Reloader
from pushd.schedule import lateness_of
from pushd.settings import Settings
from pushd.signals import Signals
from pushd.site import control_door, public_door
from pushd.static import StaticFiles
from pushd.systemd import Notifier
from pushd.threads import BlockingPublisher, Bridge, ViewThreads
from pushd.timed import TimedPushes
from pushd.topics import TopicDoor
from pushd.upgrade import ViewDoor
from pushd.wsgi import ApplicationDoor, Pool

_log = Logger()

# How many connections the private door takes: enough for all who should be there.
_OPERATORS = 1000

# What a stop may take beside the drain, in seconds: time to answer, and some to spare.
_LAST_MINUTE = 30.0

# The histograms, and what they are about.
_LATENESS = ("pushd_push_lateness_seconds", "How much later than scheduled a push was made.")
_PUBLISHING = (
    "pushd_publish_seconds",
    "From this node's hub having a publication to all its subscribers' sockets having it.",
)
_LAG = ("pushd_reactor_lag_seconds", "How much later than asked for the reactor made a call.")


def makeService(options: Options, reactor: Any = None) -> MultiService:
    """Make the whole daemon, to be started by twistd.

    :param options: what the operator wants.
    :param reactor: where sockets and time come from; None for the global one.
    """
    settings = options.settings
    appliers: list[Callable[[Settings], None]] = []
    if reactor is None:
        from twisted.internet import reactor

        style = LogStyle(as_json=settings.log_format == "json", level=settings.log_level)
        style.begin_with(globalLogBeginner)
        appliers.append(lambda new: style.set_level(new.log_level))
    if settings.broker is not None:
        _check_redis(settings.broker)
    settings = _allow(settings)
    meter = LagMeter(reactor)
    threads = ViewThreads(reactor, settings.threads)
    service = build(settings, reactor, threads, lag=meter.lag)
    service.addService(meter)
    service.appliers += appliers
    notifier = Notifier(
        reactor,
        environ=os.environ,
        count=lambda: len(service.connections),
        monotonic=time.monotonic,
    )
    service.addService(notifier)
    service.stopping.append(lambda: notifier.stopping(service.drain + _LAST_MINUTE))
    reloader = Reloader(options, service.appliers)

    def reload() -> None:
        notifier.reloading()
        reloader.reload()
        notifier.ready()

    service.addService(Signals(reactor, cut=service.cut, reload=reload))
    return service


class Workers(Threads, Bridge, Protocol):
    """Where all runs that blocks: views, and an application's pages."""

    @property
    def crews(self) -> Mapping[str, Crew]:
        """All threads that there may be, by what they do."""

    def pool(self, limit: int) -> Pool:
        """Make a pool of so many more threads, for work that may wait until one has time."""


def build(
    settings: Settings,
    reactor: Any,
    threads: Workers,
    random: Callable[[], float] = random,
    lag: Distribution | None = None,
) -> PushService:
    """Build every object of the daemon once, from the top down.

    :param random: gives a number from 0 to 1, by which the end is spread.
    :param lag: how late the reactor is, where that is measured.
    """
    connections = Connections(reactor)
    metrics = Metrics()
    broker = _make_broker(settings, reactor)
    readiness = Readiness(broker.fault)
    hub = Hub(broker, reactor)
    broker.start(hub.deliver, hub.missed)
    metrics.count_topics(hub, broker)
    # What is due in the same millisecond costs one wake of the reactor, however much it is.
    beat = Beat(reactor)
    timed = TimedPushes(beat, broker, _make_name)
    factory = PushFactory(reactor, settings.limits)
    publisher = Publisher(broker, timed, settings.limits.max_message)
    receipts = Receipts(reactor)
    access = Access(settings.token_keys, reactor.seconds)
    views = ViewDoor(
        clock=beat,
        stage=Stage(reactor, threads),
        access=access,
        factory=factory,
        connections=connections,
        metrics=metrics,
        hub=hub,
        publisher=publisher,
        files=StaticFiles([*([settings.web] if settings.web else []), shipped_client()]),
    )
    publish = PublishDoor(
        clock=reactor,
        broker=broker,
        hub=hub,
        timed=timed,
        connections=connections,
        receipts=receipts,
        max_message=settings.limits.max_message,
    )
    topics = TopicDoor(reactor, views, publish, settings.limits.max_buffered)
    admission = Admission(
        connections=settings.max_connections,
        per_address=settings.max_per_address,
        proxies=settings.proxies,
    )
    public = public_door(
        reactor,
        Entrance(
            guard=public_guard(settings.origins),
            admission=admission,
            proxies=settings.proxies,
            metrics=metrics,
            max_body=settings.limits.max_message,
        ),
        settings.routes,
        topics,
        _application(settings, views, threads),
    )
    readings = Readings(
        door=public,
        factory=factory,
        ledger=metrics.traffic,
        threads=threads.crews,
        fault=broker.fault,
        times={
            _LATENESS: lateness_of(beat),
            _PUBLISHING: hub.delays,
            _LAG: lag or Distribution(),
        },
        max_connections=settings.max_connections,
    )
    metrics.register(readings)
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
        readiness,
        publish,
    )
    service = PushService(
        reactor,
        readiness=readiness,
        farewell=Drain(reactor, connections, random),
        timed=timed,
        broker=broker,
        receipts=receipts,
    )
    service.stopping.append(threads.stop)
    service.drain = settings.drain

    def apply_limits(new: Settings) -> None:
        limits = new.limits
        factory.limit(limits)
        topics.max_buffered = limits.max_buffered
        publisher.max_message = publish.max_message = limits.max_message
        public.entrance = replace(public.entrance, max_body=limits.max_message)
        control.entrance = replace(
            control.entrance,
            max_body=limits.max_message,
            max_bodies={b"/publish": batch_body(limits.max_message)},
        )
        service.drain = new.drain

    def apply_places(new: Settings) -> None:
        connections = _allow(new).max_connections
        admission.resize(connections=connections, per_address=new.max_per_address)
        readings.max_connections = connections

    def apply_origins(new: Settings) -> None:
        public.entrance = replace(public.entrance, guard=public_guard(new.origins))

    def apply_keys(new: Settings) -> None:
        access.keys.replace(new.token_keys)

    service.appliers += [apply_limits, apply_places, apply_origins, apply_keys]
    service.add_doors(
        [DoorService(reactor, one, public, "listening on {url}") for one in settings.listen],
        [DoorService(reactor, one, control, "control door at {url}") for one in settings.control],
    )
    service.addService(InProcess(BlockingPublisher(publisher, threads)))
    return service


def _allow(settings: Settings) -> Settings:
    """Give the settings with as many connections as there may be, and log how many."""
    allowed = allow_connections(settings.max_connections)
    if allowed == settings.max_connections:
        _log.info("{allowed} connections at most", event="allowed", allowed=allowed)
    else:
        _log.warn(
            "{allowed} connections at most, not {wanted}: the limit of open files allows no more",
            event="allowed",
            allowed=allowed,
            wanted=settings.max_connections,
        )
    return replace(settings, max_connections=allowed)


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


def _application(settings: Settings, views: ViewDoor, workers: Workers) -> ApplicationDoor | None:
    if settings.wsgi is None:
        return None
    return ApplicationDoor(
        settings.wsgi,
        views,
        workers=workers,
        pool=workers.pool(settings.wsgi_threads),
        files=StaticFiles([settings.web] if settings.web else []),
        shipped=StaticFiles([shipped_client()]),
        max_buffered=settings.limits.max_buffered,
    )


def _make_name() -> str:
    """A random name that nobody guesses and nobody had before."""
    return secrets.token_urlsafe(9)


def shipped_client() -> Path:
    """The folder of the client that comes with pushd: installed inside it, in a checkout beside."""
    package = Path(__file__).resolve().parent
    installed = package / "web"
    return installed if installed.is_dir() else package.parent / "web"
