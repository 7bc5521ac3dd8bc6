"""The policy of a site: which connections and requests it refuses, and how large bodies may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pushd.access.admission import Admission
from pushd.access.counters import Counters
from pushd.access.limits import Limits
from pushd.access.memory import Memory
from pushd.access.proxies import Proxies
from pushd.access.throttle import Throttle
from pushd.protocols.http.guard import Guard

#: The Content-Security-Policy of pages, unless ``--csp`` or a view sets another. ``default-src``
#: covers neither ``<base>`` nor where forms are sent to (CSP Level 3, §6.3, §6.4).
DEFAULT_CSP = "default-src 'self'; base-uri 'self'; form-action 'self'"


def page_headers(csp: str) -> dict[bytes, bytes]:
    """Return the headers of every page, unless a view sets others.

    :param csp: the Content-Security-Policy; empty for none.
    """
    policy = {b"content-security-policy": csp.encode("ascii")} if csp else {}
    return {**policy, b"x-frame-options": b"SAMEORIGIN"}


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """The checks that a site makes of each connection and request.

    :param share: lets pages of other origins read the response to a request, where they may.
    :param memory: bounds what all connections buffer.
    :param wall: the time of day, in seconds since 1970, for dates and the log.
    :param limits: a request's body may have ``max_body`` bytes.
    :param is_publication: whether the body of a request to a path is a publication, which may have
        ``max_message`` bytes.
    :param large_bodies: for paths with a higher limit, a function that computes it from
        ``max_message``.
    :param page_headers: headers of every page, unless a view sets others.
    :param freed_last: whether connections of other sites are closed first if all buffers are full.
    """

    guard: Guard
    admission: Admission
    throttle: Throttle
    proxies: Proxies
    counters: Counters
    memory: Memory
    limits: Limits
    wall: Callable[[], float]
    share: Callable[[Any], object] = lambda request: None
    is_publication: Callable[[bytes], bool] = lambda path: False
    large_bodies: Mapping[bytes, Callable[[int], int]] = field(default_factory=dict)
    page_headers: Mapping[bytes, bytes] = field(default_factory=lambda: page_headers(DEFAULT_CSP))
    freed_last: bool = False

    def body_limit(self, path: bytes) -> int:
        """Return how many bytes the body of a request to a path may have.

        ``ChannelRequest`` refuses a longer one with 413.
        """
        limits, larger = self.limits, self.large_bodies.get(path)
        if larger is not None:
            return larger(limits.max_message)
        return limits.max_message if self.is_publication(path) else limits.max_body

    def body_option(self, path: bytes) -> str:
        """Return the option that limits the body of a request to a path."""
        is_message = path in self.large_bodies or self.is_publication(path)
        return "--max-message" if is_message else "--max-body"
