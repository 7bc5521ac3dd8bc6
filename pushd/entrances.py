"""What each door asks of all who come, by what the operator wants."""

from __future__ import annotations

from pushd.access.admission import Admission
from pushd.access.counters import Metrics
from pushd.access.proxies import Proxies
from pushd.api.publish import batch_body
from pushd.options.settings import Settings
from pushd.protocols.http.guard import Entrance, control_guard, public_guard

# How many connections the private door takes: enough for all who should be there.
_OPERATORS = 1000


def public_entrance(settings: Settings, metrics: Metrics) -> Entrance:
    """The entrance for strangers."""
    return Entrance(
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


def control_entrance(settings: Settings, metrics: Metrics) -> Entrance:
    """The entrance for operators and publishers, who have no proxy before them."""
    nobody = Proxies()
    return Entrance(
        guard=control_guard,
        admission=Admission(connections=_OPERATORS, per_address=_OPERATORS, proxies=nobody),
        proxies=nobody,
        metrics=metrics,
        max_body=settings.limits.max_message,
        max_bodies=bodies_at_control(settings),
    )


def bodies_at_control(settings: Settings) -> dict[bytes, int]:
    """The paths of the private door that take larger bodies than others, and how large."""
    return {b"/publish": batch_body(settings.limits.max_message)}
