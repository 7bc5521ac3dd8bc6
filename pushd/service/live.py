"""Settings that change while the daemon runs, and reading the options again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from twisted.logger import Logger

from pushd.access.admission import Admission
from pushd.access.counters import Metrics
from pushd.access.limits import Bounds
from pushd.access.proxies import Proxies
from pushd.api.publish import batch_body
from pushd.errors import InvalidOptions
from pushd.options.command_line import Options
from pushd.options.settings import Applier, Settings
from pushd.options.table import OPTIONS
from pushd.protocols.http.guard import SitePolicy, control_guard, public_guard
from pushd.protocols.http.site import PushdSite
from pushd.service.daemon import PushService
from pushd.service.metrics import MetricsCollector
from pushd.service.process import allow_connections
from pushd.views.exchange import ViewContext


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Puts new settings in force in what was built by others.

    :param public: the public port.
    :param control: the control port.
    """

    bounds: Bounds
    views: ViewContext
    public: PushdSite
    control: PushdSite
    readings: MetricsCollector
    service: PushService

    @property
    def appliers(self) -> Sequence[Applier]:
        """What is called with them: one for each kind, so that what fails keeps no other out."""
        return (self._limit, self._make_room, self._allow_origins, self._exchange_keys)

    def _limit(self, settings: Settings) -> None:
        limits = settings.limits
        self.views.factory.limit(limits)
        self.bounds.max_message = limits.max_message
        self.bounds.max_buffered = limits.max_buffered
        self.public.policy = replace(self.public.policy, max_body=limits.max_message)
        self.control.policy = replace(
            self.control.policy,
            max_body=limits.max_message,
            max_bodies=bodies_at_control(settings),
        )
        self.service.drain = settings.drain

    def _make_room(self, settings: Settings) -> None:
        connections = allow_connections(settings.max_connections)
        self.public.policy.admission.resize(
            connections=connections, per_address=settings.max_per_address
        )
        self.readings.max_connections = connections

    def _allow_origins(self, settings: Settings) -> None:
        guard = public_guard(settings.origins)
        self.public.policy = replace(self.public.policy, guard=guard)

    def _exchange_keys(self, settings: Settings) -> None:
        self.views.access.keys.replace(settings.token_keys)


# How many connections the control port takes: enough for all who should be there.
_OPERATORS = 1000


def public_policy(settings: Settings, metrics: Metrics) -> SitePolicy:
    """The entrance for strangers."""
    return SitePolicy(
        guard=public_guard(settings.origins),
        admission=Admission(
            connections=settings.max_connections,
            per_address=settings.max_per_address,
            proxies=settings.proxies,
        ),
        proxies=settings.proxies,
        metrics=metrics,
        max_body=settings.limits.max_message,
    )


def control_policy(settings: Settings, metrics: Metrics) -> SitePolicy:
    """The entrance for operators and publishers, who have no proxy before them."""
    nobody = Proxies()
    return SitePolicy(
        guard=control_guard,
        admission=Admission(connections=_OPERATORS, per_address=_OPERATORS, proxies=nobody),
        proxies=nobody,
        metrics=metrics,
        max_body=settings.limits.max_message,
        max_bodies=bodies_at_control(settings),
    )


def bodies_at_control(settings: Settings) -> dict[bytes, int]:
    """The paths of the control port that take larger bodies than others, and how large."""
    return {b"/publish": batch_body(settings.limits.max_message)}


class Reloader:
    """Reads the file of options again, and puts in force what can be.

    :param options: what is in force.
    :param appliers: what is to be told of new settings.
    """

    _log = Logger(namespace="pushd.service")

    def __init__(self, options: Options, appliers: Sequence[Applier]) -> None:
        self._options = options
        self._appliers = appliers
        self._in_force = {name: given.text for name, given in options.given.items()}

    def reload(self) -> None:
        """Do it, and log what came of it. Where there is any mistake, nothing changes."""
        try:
            settings, given = self._options.resolve()
        except InvalidOptions as mistakes:
            for line in mistakes.lines:
                self._log.error("not reloaded: {mistake}", event="not_reloaded", mistake=line)
            return
        for option in OPTIONS:
            text, before = given[option.name].text, self._in_force.get(option.name, option.default)
            if text == before:
                continue
            if option.live:
                self._in_force[option.name] = text
                line = "reloaded: {option} is {value} now, not {before}"
                log = self._log.info
            else:
                line = "reloaded, but {option} needs a restart: it stays {before}, not {value}"
                log = self._log.warn
            log(
                line,
                event="reloaded",
                option=option.name,
                value=option.show(text) or "unset",
                before=option.show(before) or "unset",
            )
        for apply in self._appliers:
            try:
                apply(settings)
            except Exception:
                self._log.failure("failed to put new settings in force", event="reload_failed")
        self._log.info("reloaded", event="reloaded")
