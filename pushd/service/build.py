"""Builds a daemon: creates every long-lived object once, and passes each what it needs."""

from __future__ import annotations

import secrets
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import random
from typing import Any, Protocol

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushd import __version__
from pushd.access.admission import Admission
from pushd.access.authorization import Authorizer
from pushd.access.connections import Connections
from pushd.access.counters import Counters
from pushd.access.limits import Limits
from pushd.access.memory import Memory
from pushd.access.permissions import PermissionCache, Revoker
from pushd.access.proxies import Proxies
from pushd.access.throttle import Throttle
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.emulation import Emulation, EmulationResource, max_emulation_body
from pushd.api.centrifuge.http_api import HttpApi
from pushd.api.centrifuge.http_transports import (
    HTTP_STREAM,
    SSE,
    UNI_HTTP_STREAM,
    UNI_SSE,
    StreamResource,
)
from pushd.api.centrifuge.procedures import Procedures
from pushd.api.centrifuge.websocket import CentrifugeResource
from pushd.api.operator.health import Readiness
from pushd.api.operator.operator_page import FOLDER, PAGE_HEADERS, OperatorPage
from pushd.api.operator.snapshots import INTERVAL, Snapshots
from pushd.api.publish import max_batch_body, max_line
from pushd.api.resource import DaemonState
from pushd.api.subscribe.topics import TopicDependencies
from pushd.api.urls import control_site, public_site
from pushd.gateways.application import find_authorizer
from pushd.gateways.asgi.gateway import AsgiGateway
from pushd.gateways.files import ApplicationFiles
from pushd.gateways.wsgi import Pool, WsgiGateway
from pushd.options.event_loop import name_loop
from pushd.options.settings import Settings
from pushd.protocols.cork import Cork
from pushd.protocols.http.cors import CrossOrigin
from pushd.protocols.http.guard import PAGE_OFF, control_guard, public_guard
from pushd.protocols.http.policy import SitePolicy
from pushd.protocols.http.site import PushdSite
from pushd.protocols.http.static import StaticFiles
from pushd.protocols.twisted_internals import write_at_once
from pushd.protocols.websocket.protocol import PushFactory
from pushd.schedule.coalescing import CoalescingClock
from pushd.schedule.histogram import Histogram
from pushd.schedule.ticks import lateness_of
from pushd.service.lifecycle.broker_wait import BrokerWait
from pushd.service.lifecycle.daemon import Drain, PushService
from pushd.service.lifecycle.lifespan import LifespanService
from pushd.service.lifecycle.reload import LiveSettings
from pushd.service.lifecycle.state import StateService
from pushd.service.listening import PortService
from pushd.service.metrics import (
    BuildCollector,
    MetricsCollector,
    PoolUsage,
    ScheduleCollector,
    StateCollector,
    TopicCollector,
)
from pushd.topics.attendance import Attendances
from pushd.topics.broker import Broker, MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.hub import Hub
from pushd.topics.local_schedules import LocalSchedules
from pushd.topics.presence import Presence
from pushd.topics.publisher import Publisher
from pushd.topics.redis.address import RedisAddress, find_missing_package
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.rules import Rule, Rules, default_access
from pushd.topics.scheduled import SCHEDULE_GRACE, ScheduledPublications, ScheduleStore
from pushd.topics.state.broker import StateDependencies, StoredBroker
from pushd.topics.state.database import Database
from pushd.topics.state.schedules import StoredSchedules
from pushd.topics.state.writer import CallerThread, Disk, Writer
from pushd.views.authorizer import AuthorizeFunction, TopicAuthorizer
from pushd.views.exchange import ViewDependencies
from pushd.views.inprocess import InProcess
from pushd.views.runner import Threads, ViewRunner
from pushd.views.threads import BlockingPublisher, Bridge

_log = Logger(namespace="pushd.service")

# Names and help texts of the histograms.
_LATENESS = (
    "pushd_push_lateness_seconds",
    "Delay between the scheduled and the actual time of a push.",
)
_PUBLISHING = (
    "pushd_publish_seconds",
    "Time from receiving a publication until it is written to the last subscriber's socket.",
)
_LAG = (
    "pushd_reactor_lag_seconds",
    "Delay between the requested and the actual time of a reactor timer.",
)

# Connections to the control port: more than operators and publishers need.
_CONTROL_CONNECTIONS = 1000

# Messages per second that no publisher reaches.
_NO_RATE = 1 << 30

# The demo's pages and scripts, by the path of the view that they need.
_DEMO_FILES = {
    "/test/": ("test.html", "demo/test.js", "demo/timeline.js"),
    "/play/publish/": ("topics.html", "demo/topics.js", "demo/costs.js"),
}

# Files of the client's npm package that no page loads. They are in a checkout only.
_NPM_FILES = ("LICENSE", "README.md", "package.json", "pushd.d.ts")

# What the public port does not serve.
_PRIVATE_FILES = (*_NPM_FILES, FOLDER)

# Where publications are posted at the public port.
_TOPICS = b"/topics/"

# Requests to the control port whose body may be larger than a message.
_LARGE_BODIES = {
    b"/publish": max_batch_body,
    b"/api/publish": max_batch_body,
    b"/api/broadcast": max_batch_body,
    b"/api/batch": max_batch_body,
}


class ThreadPools(Threads, Bridge, Protocol):
    """The threads of a daemon, for blocking views and for the pages of an application."""

    @property
    def pools(self) -> Mapping[str, PoolUsage]:
        """Every pool, by what its threads do."""

    def make_page_pool(self, limit: int) -> Pool:
        """Add a pool of at most ``limit`` threads, whose work waits until a thread is free."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a daemon takes from the process it runs in; tests pass fakes.

    :param wall: the time of day, in seconds since 1970. The reactor's own time may be monotonic.
    :param random: random numbers from 0 to 1, which spread the closing of connections.
    :param cork: groups what is written during one iteration of the reactor.
    :param lag: how late the reactor's timers are, in seconds.
    :param allow_connections: returns how many of the wanted connections the process can have.
    :param loop: asyncio's event loop, if the reactor runs on one.
    :param disk: runs what waits for the disk of ``--state``.
    :param log_folders: where the activity log of ``--state`` may be; see ``find_memory``.
    :param reloads: whether the daemon starts anew when its code changes.
    :param resident: returns how much memory the process takes, in bytes.
    """

    reactor: Any
    threads: ThreadPools
    wall: Callable[[], float]
    random: Callable[[], float] = random
    cork: Cork = field(default_factory=Cork)
    lag: Histogram = field(default_factory=Histogram)
    allow_connections: Callable[[int], int] = lambda wanted: wanted
    loop: AbstractEventLoop | None = None
    disk: Disk = field(default_factory=CallerThread)
    log_folders: Sequence[Path] = ()
    reloads: bool = False
    resident: Callable[[], int] = lambda: 0


@dataclass(frozen=True, kw_only=True)
class _BuildInputs:
    """What more than one part of a daemon is built from."""

    settings: Settings
    runtime: Runtime
    live: LiveSettings
    clock: CoalescingClock
    counters: Counters
    memory: Memory


def build(settings: Settings, runtime: Runtime) -> PushService:
    """Build a daemon, to be started by its ``startService``."""
    live = LiveSettings(runtime.allow_connections)
    live.apply(settings)
    inputs = _BuildInputs(
        settings=settings,
        runtime=runtime,
        live=live,
        clock=CoalescingClock(runtime.reactor, batch=runtime.cork),
        counters=Counters(),
        memory=Memory(runtime.reactor, live.limits),
    )
    state = _build_state(inputs)
    views = _build_views(inputs, state)
    readiness = Readiness(state.broker.fault)
    pool = _make_page_pool(inputs)
    application = _build_application(inputs, views, pool)
    topics = _build_topics(inputs, state, views, pool)
    centrifuge = _build_centrifuge(inputs, state, views, topics, pool)
    public = _build_public_site(inputs, topics, application)
    snapshots = Snapshots(
        runtime.reactor, inputs.counters.series, runtime.wall, _describe_daemon(inputs)
    )
    control = control_site(
        runtime.reactor,
        control_policy(
            runtime.reactor,
            runtime.wall,
            live,
            inputs.counters,
            inputs.memory,
            page=settings.control_page,
        ),
        inputs.counters,
        readiness,
        state,
        replace(views, factory=_make_publishers_factory(inputs)),
        OperatorPage(StaticFiles([shipped_client()]), snapshots, settings.control_page),
        None if centrifuge is None else HttpApi(centrifuge, settings.api_key),
    )
    inputs.counters.register(BuildCollector(name_loop(runtime.loop)))
    inputs.counters.register(_build_collector(inputs, state, views, public))
    service = PushService(
        state,
        readiness=readiness,
        drain=Drain(runtime.reactor, state.connections, runtime.random),
        views=views.runner,
        public=[_public_port(runtime.reactor, one, public) for one in settings.listen],
        control=[_control_port(runtime.reactor, one, control) for one in settings.control],
        application=application if isinstance(application, AsgiGateway) else None,
    )
    stored = state.broker if isinstance(state.broker, StoredBroker) else None
    inputs.counters.register(StateCollector(stored))
    if stored is not None:
        service.addService(StateService(stored))
    service.appliers.append(live.apply)
    service.stopping += [runtime.threads.stop, public.policy.throttle.stop]
    service.finishing.append(snapshots.stop)
    blocking = BlockingPublisher(views.publisher, runtime.threads)
    service.addService(InProcess(blocking, views.publisher, runtime.loop))
    if isinstance(application, AsgiGateway):
        # The last: an application that starts may publish.
        real = isinstance(runtime.reactor, ReactorBase)
        lifespan = LifespanService(
            application.lifespan,
            application.loop,
            public=service.public if real else (),
            threads=runtime.reactor.getThreadPool() if real else None,
            stays=runtime.reloads,
        )
        readiness.checks.append(lifespan.fault)
        service.interrupting.append(lifespan.interrupt)
        service.addService(lifespan)
    if isinstance(state.broker, RedisBroker) and isinstance(runtime.reactor, ReactorBase):
        # After the application's, which lets requests in.
        ports = (*service.public, *service.control)
        service.addService(BrokerWait(runtime.reactor, state.broker.tried, ports))
    return service


def shipped_client() -> Path:
    """Return the folder of the bundled client: in an installed pushd, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "web"
    return installed if installed.is_dir() else package.parent / "web"


def _scripts() -> list[str]:
    """Return the paths of the client's scripts: also those under which an application has them."""
    names = [script.name for script in shipped_client().glob("*.js")]
    return [f"{folder}{name}" for folder in ("/", "/pushd/") for name in names]


def _build_state(inputs: _BuildInputs) -> DaemonState:
    """Build what holds topics, scheduled publications and connections."""
    runtime, settings = inputs.runtime, inputs.settings
    rules = inputs.live.rules
    broker = _build_broker(inputs)
    inputs.memory.watch_history(broker)
    memory = inputs.memory
    hub = Hub(
        broker,
        runtime.reactor,
        runtime.cork.flush,
        lambda: memory.exceeded,
        rules,
        runtime.cork,
    )
    broker.start(hub.deliver, hub.end_at_gap, hub.room)
    inputs.counters.register(TopicCollector(hub.counters, broker))
    connections = Connections(runtime.reactor, runtime.wall)
    permissions = PermissionCache(runtime.reactor.seconds, runtime.wall)
    presence = Presence(runtime.reactor, inputs.live.limits, _make_name()[:6], broker.presence)
    return DaemonState(
        clock=runtime.reactor,
        broker=broker,
        hub=hub,
        scheduled=_build_scheduled(inputs, broker),
        connections=connections,
        limits=inputs.live.limits,
        rules=rules,
        attendances=Attendances(presence, rules, connections),
        default_rule=partial(_make_default_rule, settings, inputs.live),
        permissions=permissions,
        revoker=Revoker(connections, permissions, broker.revocations),
    )


def _build_scheduled(inputs: _BuildInputs, broker: Broker) -> ScheduledPublications:
    """Build what publishes later: its schedules are where the publications are."""
    grace, wall = inputs.settings.schedule_grace, inputs.runtime.wall
    store: ScheduleStore
    if isinstance(broker, RedisBroker):
        store = broker.schedules
    elif isinstance(broker, StoredBroker):
        store = StoredSchedules(inputs.clock, broker, wall=wall, grace=grace)
    else:
        store = LocalSchedules(inputs.clock, broker, wall=wall, grace=grace)
    scheduled = ScheduledPublications(store, _make_name, wall=wall, grace=grace)
    inputs.counters.register(ScheduleCollector(scheduled))
    return scheduled


def _build_broker(inputs: _BuildInputs) -> Broker:
    """Build the broker that the settings ask for."""
    runtime, settings, grown = inputs.runtime, inputs.settings, inputs.memory.add
    rules, retention = inputs.live.rules, settings.retention
    if settings.state is None or settings.broker is not None:
        if settings.state is not None:
            _log.info("--state is not used: topics are kept in Redis", event="state_unused")
        return make_broker(
            settings.broker,
            runtime.reactor,
            retention,
            _make_name,
            grown,
            rules,
            schedule_grace=settings.schedule_grace,
            lateness=lateness_of(inputs.clock),
        )
    database = Database(settings.state, settings.state_sync)
    return StoredBroker(
        runtime.reactor,
        History(runtime.reactor, retention, _make_name, grown, rules),
        StateDependencies(
            database=database,
            writer=Writer(database, runtime.reactor, runtime.disk),
            wall=runtime.wall,
            make_name=_make_name,
            log_folders=runtime.log_folders,
        ),
    )


def _make_default_rule(settings: Settings, live: LiveSettings) -> Rule:
    """Return what holds for topics without a rule at the moment."""
    access = partial(
        default_access,
        has_keys=bool(live.keys),
        has_authorizer=_find_authorizer(settings) is not None,
    )
    return Rule(
        history_size=settings.retention.size,
        history_ttl=settings.retention.ttl,
        subscribe=access(publish=False),
        publish=access(publish=True),
        max_message=live.limits.max_message,
    )


def _build_views(inputs: _BuildInputs, state: DaemonState) -> ViewDependencies:
    """Build what views are run with."""
    runtime, live, settings = inputs.runtime, inputs.live, inputs.settings
    return ViewDependencies(
        clock=inputs.clock,
        runner=ViewRunner(
            runtime.reactor, runtime.threads, grace=settings.view_grace, loop=runtime.loop
        ),
        authorizer=Authorizer(live.keys, runtime.wall),
        factory=PushFactory(runtime.reactor, live.limits, runtime.cork, inputs.memory),
        connections=state.connections,
        counters=inputs.counters,
        hub=state.hub,
        attendances=state.attendances,
        publisher=Publisher(
            state.broker,
            state.scheduled,
            live.limits,
            state.attendances,
            state.rules,
            state.revoker,
        ),
        files=StaticFiles([*_own_files(settings), shipped_client()]),
    )


def _make_publishers_factory(inputs: _BuildInputs) -> PushFactory:
    """Make the factory of publishers' WebSockets at the control port.

    A message holds a publication of ``--max-message`` with its topic, in base64 or with escapes.
    Its rate has no limit: all that can reach this port are trusted.
    """
    runtime, limits, own = inputs.runtime, inputs.live.limits, Limits()

    def follow() -> None:
        longest = max_line(limits.max_message)
        own.change_to(replace(limits, max_message=longest, max_rate=_NO_RATE))

    follow()
    limits.on_change(follow)
    return PushFactory(runtime.reactor, own, runtime.cork, inputs.memory)


def _make_page_pool(inputs: _BuildInputs) -> Pool | None:
    """Make the threads of an application, an authorizer and procedures; None without any."""
    settings = inputs.settings
    if settings.wsgi is None and settings.rpc is None and _find_authorizer(settings) is None:
        return None
    return inputs.runtime.threads.make_page_pool(settings.wsgi_threads)


def _build_topics(
    inputs: _BuildInputs, state: DaemonState, views: ViewDependencies, pool: Pool | None
) -> TopicDependencies:
    """Build what serves topics at the public port."""
    authorize, authorizer = _find_authorizer(inputs.settings), None
    if authorize is not None and pool is not None:
        authorizer = _build_authorizer(inputs, views, state, authorize, pool)
    return TopicDependencies(inputs.runtime.reactor, views, state, authorizer)


def _build_public_site(
    inputs: _BuildInputs,
    topics: TopicDependencies,
    application: WsgiGateway | AsgiGateway | None,
) -> PushdSite:
    """Build the site of the public port: views, topics, and an application or static files."""
    runtime, settings = inputs.runtime, inputs.settings
    return public_site(
        runtime.reactor,
        public_policy(
            runtime.reactor,
            runtime.wall,
            inputs.live,
            settings.proxies,
            inputs.counters,
            inputs.memory,
            streams=frozenset(path.encode() for path in topics.centrifuge),
            large_bodies={_emulation_path(settings).encode(): max_emulation_body},
        ),
        settings.routes,
        topics,
        StaticFiles([*_own_files(settings), shipped_client()], _hidden_files(settings)),
        application,
    )


def _build_centrifuge(
    inputs: _BuildInputs,
    state: DaemonState,
    views: ViewDependencies,
    topics: TopicDependencies,
    pool: Pool | None,
) -> CentrifugeDependencies | None:
    """Build what serves Centrifuge clients, and add it to the public port; None if that is off."""
    settings, runtime, procedures = inputs.settings, inputs.runtime, None
    if not settings.centrifuge:
        return None
    if settings.rpc is not None and pool is not None:
        procedures = Procedures(
            settings.rpc,
            runtime.reactor,
            publisher=views.publisher,
            threads=runtime.threads,
            pool=pool,
            limit=(settings.wsgi_threads + 1) // 2,  # As for the authorizer.
            failed=inputs.counters.view_errors.inc,
            loop=runtime.loop,
        )
    relay = state.broker.relay
    dependencies = CentrifugeDependencies(
        state,
        views.authorizer,
        topics.access,
        topics.keep_alives,
        topics.clock,
        personal=settings.centrifuge_personal,
        make_name=_make_name,
        node=_make_name() if relay is None else relay.node,
        procedures=procedures,
    )
    prefix = settings.centrifuge_path
    topics.centrifuge = {
        f"{prefix}/websocket": CentrifugeResource(views, dependencies),
        f"{prefix}/sse": StreamResource(views, dependencies, SSE),
        f"{prefix}/http_stream": StreamResource(views, dependencies, HTTP_STREAM),
        f"{prefix}/uni_websocket": CentrifugeResource(views, dependencies, is_unidirectional=True),
        f"{prefix}/uni_sse": StreamResource(views, dependencies, UNI_SSE),
        f"{prefix}/uni_http_stream": StreamResource(views, dependencies, UNI_HTTP_STREAM),
        _emulation_path(settings): EmulationResource(dependencies, Emulation(dependencies, relay)),
    }
    return dependencies


def _emulation_path(settings: Settings) -> str:
    """Return the path to which Centrifuge clients send commands: beside that of the protocol."""
    return f"{settings.centrifuge_path.rpartition('/')[0]}/emulation"


def _find_authorizer(settings: Settings) -> AuthorizeFunction | None:
    """Return the operator's authorizer, or that of the application; None without one."""
    if settings.authorize is not None or (settings.wsgi is None and settings.asgi is None):
        return settings.authorize
    return find_authorizer()


def _build_authorizer(
    inputs: _BuildInputs,
    views: ViewDependencies,
    state: DaemonState,
    function: AuthorizeFunction,
    pool: Pool,
) -> TopicAuthorizer:
    """Build what asks the authorizer."""
    runtime, settings = inputs.runtime, inputs.settings
    return TopicAuthorizer(
        function,
        runtime.reactor,
        now=runtime.wall,
        publisher=views.publisher,
        threads=runtime.threads,
        pool=pool,
        # An authorizer that hangs must leave threads for pages.
        limit=(settings.wsgi_threads + 1) // 2,
        failed=inputs.counters.view_errors.inc,
        cache=state.permissions,
        loop=runtime.loop,
    )


def _build_application(
    inputs: _BuildInputs, views: ViewDependencies, pool: Pool | None
) -> WsgiGateway | AsgiGateway | None:
    """Build what an application's pages are made with; None without an application."""
    runtime, settings = inputs.runtime, inputs.settings
    shipped = StaticFiles([shipped_client()], _PRIVATE_FILES)
    files = ApplicationFiles(StaticFiles(_own_files(settings)), shipped)
    if settings.asgi is not None:
        assert runtime.loop is not None  # --asgi implies --loop asyncio.
        return AsgiGateway(
            settings.asgi, views, root=settings.root_path, loop=runtime.loop, files=files
        )
    if settings.wsgi is None or pool is None:
        return None
    return WsgiGateway(
        settings.wsgi,
        views,
        threads=runtime.threads,
        pool=pool,
        files=files,
        limits=inputs.live.limits,
    )


def _describe_daemon(inputs: _BuildInputs) -> dict[str, object]:
    """Return what the operator's page shows of a daemon that does not change."""
    settings = inputs.settings
    return {
        "version": __version__,
        "started": inputs.runtime.wall(),
        "broker": "memory" if settings.broker is None else str(settings.broker),
        "state": settings.state is not None and settings.broker is None,
        "page": settings.control_page,
        "interval": INTERVAL,
    }


def _build_collector(
    inputs: _BuildInputs, state: DaemonState, views: ViewDependencies, public: PushdSite
) -> MetricsCollector:
    """Build what reads the metrics that are not counted as things happen."""
    return MetricsCollector(
        site=public,
        factory=views.factory,
        traffic=inputs.counters.traffic,
        flush_counters=state.hub.flush_counters,
        threads=inputs.runtime.threads.pools,
        fault=state.broker.fault,
        histograms={
            _LATENESS: lateness_of(inputs.clock),
            _PUBLISHING: state.hub.delays,
            _LAG: inputs.runtime.lag,
        },
        limits=inputs.live.limits,
        memory=inputs.memory,
        clocks=(inputs.runtime.reactor, inputs.clock),
        resident=inputs.runtime.resident,
    )


def public_policy(
    clock: IReactorTime,
    wall: Callable[[], float],
    live: LiveSettings,
    proxies: Proxies,
    counters: Counters,
    memory: Memory,
    *,
    streams: Collection[bytes] = frozenset(),
    large_bodies: Mapping[bytes, Callable[[int], int]] | None = None,
) -> SitePolicy:
    """Make the policy of the public port.

    :param streams: further paths at which pages ask for topics.
    :param large_bodies: see ``SitePolicy``.
    """
    return SitePolicy(
        guard=public_guard(live.origins, live.hosts, streams),
        share=CrossOrigin(live.origins, _scripts(), streams).share,
        admission=Admission(live.limits, proxies),
        throttle=Throttle(clock, live.limits, proxies, counters.slowed),
        proxies=proxies,
        counters=counters,
        memory=memory,
        limits=live.limits,
        wall=wall,
        is_publication=lambda path: path.startswith(_TOPICS),
        large_bodies=large_bodies or {},
        page_headers=live.page_headers,
    )


def control_policy(
    clock: IReactorTime,
    wall: Callable[[], float],
    live: LiveSettings,
    counters: Counters,
    memory: Memory,
    *,
    page: str = PAGE_OFF,
) -> SitePolicy:
    """Make the policy of the control port: its own connection limit, and no trusted proxies.

    No client is slowed: all that can reach this port are trusted.

    :param page: ``--control-page``.
    """
    untrusted, trusted = Proxies(), Proxies(["0.0.0.0/0", "::/0"])
    own = Limits(max_connections=_CONTROL_CONNECTIONS, max_per_address=_CONTROL_CONNECTIONS)
    return SitePolicy(
        guard=control_guard(live.control_hosts, page),
        admission=Admission(own, untrusted, fixed=True),
        throttle=Throttle(clock, own, trusted, counters.slowed),
        proxies=untrusted,
        counters=counters,
        memory=memory,
        limits=live.limits,
        wall=wall,
        is_publication=lambda path: True,
        large_bodies=_LARGE_BODIES,
        page_headers=PAGE_HEADERS,
        freed_last=True,
    )


def _public_port(reactor: Any, endpoint: str, site: PushdSite) -> PortService:
    return PortService(reactor, endpoint, site, message="listening on {url}", option="--listen")


def _control_port(reactor: Any, endpoint: str, site: PushdSite) -> PortService:
    message = "control port listening on {url}"
    return PortService(reactor, endpoint, site, message=message, option="--control", private=True)


def _hidden_files(settings: Settings) -> tuple[str, ...]:
    """Files of the bundled client that are not served.

    What only npm reads, and the operator's page; and with ``--demo off`` the demo's pages, except
    for those that views of the operator take the place of the demo's for, and the start page, which
    links to them.
    """
    if settings.demo:
        return _PRIVATE_FILES
    is_free = {path: settings.routes.match(path) is None for path in _DEMO_FILES}
    hidden = [name for path, names in _DEMO_FILES.items() if is_free[path] for name in names]
    return (*_PRIVATE_FILES, "index.html", *hidden)


def _own_files(settings: Settings) -> list[Path]:
    """The operator's folder of static files, if there is one."""
    return [] if settings.web is None else [settings.web]


def _make_name() -> str:
    """Make a random name that cannot be guessed.

    It never starts with a dash, because commands take it as an argument, as in ``tail --after``.
    """
    return secrets.token_hex(9)


def check_redis(address: RedisAddress) -> None:
    """End the process with one line if Redis, its address or the installation must be changed."""
    if (missing := find_missing_package()) is not None:
        raise SystemExit(f"pushd: --broker {address}: {missing}")
    from pushd.topics.redis.session import probe

    if (reason := probe(address)) is not None:
        raise SystemExit(f"pushd: --broker {address}: {reason}")


def make_broker(
    address: RedisAddress | None,
    reactor: Any,
    retention: Retention,
    make_name: Callable[[], str],
    grown: Callable[[int], object],
    rules: Rules,
    *,
    schedule_grace: float = SCHEDULE_GRACE,
    lateness: Histogram | None = None,
) -> Broker:
    """Make the broker: over Redis, or in memory without an address.

    :param retention: how many publications are kept, and for how long.
    :param make_name: returns a random name that is not in use.
    :param grown: called with the bytes that each publication adds to what is kept in memory.
    :param rules: of topics that are kept otherwise.
    :param schedule_grace: see ``RedisBroker``.
    :param lateness: see ``RedisBroker``.
    """
    if address is None:
        history = History(reactor, retention, make_name, grown, rules)
        return MemoryBroker(reactor, history, generation=make_name())
    # Imported here because its library is an extra.
    from pushd.topics.redis.session import open_session

    return RedisBroker(
        reactor,
        partial(open_session, reactor, address, write=write_at_once),
        name=str(address),
        names=RedisNames(address.prefix, address.db),
        retention=retention,
        make_name=make_name,
        rules=rules,
        schedule_grace=schedule_grace,
        lateness=lateness,
    )
