"""What new settings change while the daemon runs, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pushd.access.limits import Bounds
from pushd.daemon import PushService
from pushd.descriptors import allow_connections
from pushd.entrances import bodies_at_control
from pushd.options.settings import Applier, Settings
from pushd.protocols.http.guard import public_guard
from pushd.protocols.http.site import Door
from pushd.readings import Readings
from pushd.views.resource import ViewDoor


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Puts new settings in force in what was built by others.

    :param public: the public door.
    :param control: the private door.
    """

    bounds: Bounds
    views: ViewDoor
    public: Door
    control: Door
    readings: Readings
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
        self.public.entrance = replace(self.public.entrance, max_body=limits.max_message)
        self.control.entrance = replace(
            self.control.entrance,
            max_body=limits.max_message,
            max_bodies=bodies_at_control(settings),
        )
        self.service.drain = settings.drain

    def _make_room(self, settings: Settings) -> None:
        connections = allow_connections(settings.max_connections)
        self.public.entrance.admission.resize(
            connections=connections, per_address=settings.max_per_address
        )
        self.readings.max_connections = connections

    def _allow_origins(self, settings: Settings) -> None:
        guard = public_guard(settings.origins)
        self.public.entrance = replace(self.public.entrance, guard=guard)

    def _exchange_keys(self, settings: Settings) -> None:
        self.views.access.keys.replace(settings.token_keys)
