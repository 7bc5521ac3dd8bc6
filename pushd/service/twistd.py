"""The daemon as twistd runs it."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.base import ReactorBase
from twisted.logger import globalLogBeginner

from pushd.options.command_line import Options
from pushd.options.settings import Applier
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.service.build import build, check_redis
from pushd.service.garbage import GarbageService
from pushd.service.live import Reloader
from pushd.service.logs import LogStyle
from pushd.service.metrics import LagMeter
from pushd.service.process import Signals, allow_connections
from pushd.service.reactor import poll_directly, run_on_monotonic_time
from pushd.service.systemd import Notifier
from pushd.views.threads import ViewThreads

# What a stop may take beside the drain, in seconds: time to answer, and some to spare.
_LAST_MINUTE = 30.0


def makeService(
    options: Options, reactor: Any = None, style: LogStyle | None = None
) -> MultiService:
    """Make the whole daemon, to be started by twistd.

    :param options: what the operator wants.
    :param reactor: where sockets and time come from; None for the global one.
    :param style: how the log is written, where that is not for twistd to begin.
    """
    settings = options.settings
    # Before anything is built: what is built asks once whether it may take them.
    FAST_PATHS.enabled = settings.fast_paths
    if reactor is None:
        from twisted.internet import reactor

        style = LogStyle(as_json=settings.log_format == "json", level=settings.log_level)
        style.begin_with(globalLogBeginner)
    if settings.broker is not None:
        check_redis(settings.broker)
    wall, turn = reactor.seconds, Cork()
    # A real one, which is pushd's as long as the process lives; tests set the time of theirs.
    if isinstance(reactor, ReactorBase):
        run_on_monotonic_time(reactor, time.monotonic)
        poll_directly(reactor, turn)
        wall = time.time
    meter = LagMeter(reactor)
    threads = ViewThreads(reactor, settings.threads)
    service = build(
        settings,
        reactor,
        threads,
        lag=meter.lag,
        wall=wall,
        turn=turn,
        allow_connections=allow_connections,
    )
    service.addService(meter)
    service.addService(GarbageService(reactor))
    if style is not None:
        service.appliers.append(_set_level_of(style))
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


def _set_level_of(style: LogStyle) -> Applier:
    return lambda settings: style.set_level(settings.log_level)
