"""``makeService``: the daemon as the plugin of twistd makes it, on the global reactor."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.base import ReactorBase
from twisted.logger import globalLogBeginner

from pushd.access.admission import client_key
from pushd.options.code_files import CodeFiles
from pushd.options.command_line import Options
from pushd.options.settings import Applier, Settings
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.schedule.asyncio_task import call_on_loop
from pushd.schedule.histogram import Histogram
from pushd.service.build import Runtime, build, check_redis
from pushd.service.lifecycle.code_reload import CodeReload
from pushd.service.lifecycle.demo_url import DemoUrl
from pushd.service.lifecycle.reload import Reloader
from pushd.service.metrics import LagMeter
from pushd.service.process.event_loop import EventLoopService
from pushd.service.process.garbage import GarbageService
from pushd.service.process.logs import LogStyle, is_journal, style_log_of_twistd
from pushd.service.process.reactor import event_loop_of, poll_directly, run_on_monotonic_time
from pushd.service.process.resources import allow_connections, log_memory_limit, resident_bytes
from pushd.service.process.signals import Signals
from pushd.service.process.systemd import Notifier
from pushd.topics.state.activity_log import find_memory
from pushd.topics.state.writer import CallerThread, Disk, WriterThread
from pushd.views.threads import ViewThreads

_STDOUT = 1

# Seconds that systemd allows for a stop beyond the drain: for answers, Close frames, and a reserve.
_STOP_RESERVE = 75.0


def makeService(
    options: Options, reactor: Any = None, style: LogStyle | None = None
) -> MultiService:
    """Make the daemon, for twistd to start.

    :param options: parsed options.
    :param reactor: None for the global reactor. The log is then twistd's, which opens it after this
        call, and is formatted as the options say.
    :param style: with a reactor: the style of the log, whose level a reload changes.
    """
    settings = options.settings
    # Set before anything is built, because fast paths look at it once.
    FAST_PATHS.enabled = settings.fast_paths
    if reactor is None:
        from twisted.internet import reactor

        style = LogStyle(
            as_json=settings.log_format == "json",
            level=settings.log_level,
            priorities=_logs_to_journal(options.parent),
        )
        style_log_of_twistd(style, globalLogBeginner)
    if settings.broker is not None:
        check_redis(settings.broker)
    lag_meter = LagMeter(reactor)
    reloads = options.command is not None
    runtime = replace(_make_runtime(reactor, settings, lag_meter.lag), reloads=reloads)
    service = build(settings, runtime)
    log_memory_limit(settings)
    service.appliers.append(log_memory_limit)
    service.addService(lag_meter)
    if runtime.loop is not None:
        service.addService(EventLoopService(runtime.loop))
    service.addService(GarbageService(reactor))
    if style is not None:
        service.appliers.append(_level_applier(style))
    notifier = Notifier(
        reactor,
        environ=os.environ,
        count=lambda: len(service.connections),
        monotonic=time.monotonic,
    )
    service.addService(notifier)
    service.stopping.append(lambda: notifier.stopping(service.limits.drain + _STOP_RESERVE))
    ports = (*service.public, *service.control)
    reloader = Reloader(options, service.appliers, [port.read_certificate for port in ports])

    def reload() -> None:
        notifier.reloading()
        notifier.ready(refused=not reloader.reload())

    signals = Signals(reactor, interrupt=service.interrupt, cut=service.cut, reload=reload)
    service.addService(signals)
    if options.command is not None:
        code_reload = CodeReload(
            reactor,
            CodeFiles(),
            options.command,
            limits=service.limits,
            stop=signals.stop,
            cut=service.cut,
        )
        service.addService(code_reload)
    service.addService(DemoUrl(settings, service.public))
    # Tests with a fake reactor keep the handlers of their process.
    if isinstance(reactor, ReactorBase):
        signals.handle_early()
    return service


def _make_runtime(reactor: Any, settings: Settings, lag: Histogram) -> Runtime:
    wall, cork, loop = reactor.seconds, Cork(), event_loop_of(reactor)
    disk: Disk = CallerThread()
    # A fake reactor in a test keeps the time of that test.
    if isinstance(reactor, ReactorBase):
        run_on_monotonic_time(reactor, time.monotonic)
        poll_directly(reactor, cork)
        wall, disk = time.time, WriterThread(reactor)
    return Runtime(
        reactor=reactor,
        threads=ViewThreads(
            reactor,
            settings.threads,
            settings.straggler_limit,
            partial(client_key, settings.proxies),
            partial(call_on_loop, reactor, loop),
        ),
        wall=wall,
        cork=cork,
        lag=lag,
        allow_connections=allow_connections,
        loop=loop,
        disk=disk,
        log_folders=find_memory(os.environ),
        resident=resident_bytes,
    )


def _logs_to_journal(twistd: Any) -> bool:
    """Return whether twistd will write the log to the journal of systemd.

    :param twistd: the options of twistd itself; None if it was not twistd that read ours.
    """
    given = {} if twistd is None else twistd
    elsewhere = any(given.get(name) for name in ("syslog", "logger"))
    to_stdout = given.get("nodaemon") and given.get("logfile") in (None, "", "-")
    return bool(to_stdout) and not elsewhere and is_journal(_STDOUT, os.environ)


def _level_applier(style: LogStyle) -> Applier:
    return lambda settings: style.set_level(settings.log_level)
