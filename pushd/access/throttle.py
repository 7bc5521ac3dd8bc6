"""The throttle: slows clients whose address opens, resumes or fails connections too fast."""

from __future__ import annotations

from collections.abc import Hashable

from prometheus_client import Counter
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushd.access.admission import client_key
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.schedule.timeouts import TimeoutQueue

_log = Logger(namespace="pushd.access")

# A burst may have as many events as the rate allows in this many seconds.
_BURST = 10.0

#: The longest delay, in seconds.
LONGEST_DELAY = 10.0

# The most addresses that are remembered. Further ones replace those without an event for longest.
_MAX_ADDRESSES = 10_000


class Throttle:
    """Counts events for each client address, and says how long an address has to wait.

    An event takes ``1 / max_rate_per_address`` seconds of its address's time, and an address may be
    10 seconds ahead. Beyond that it waits, so that its events come at the rate. Loopback addresses,
    Unix sockets and trusted proxies are exempt.

    :param limits: ``max_rate_per_address`` is applied.
    :param slowed: counts delays.
    """

    def __init__(
        self, clock: IReactorTime, limits: Limits, proxies: Proxies, slowed: Counter
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._proxies = proxies
        self._slowed = slowed
        self._stopped = False
        # Up to when each address has used up its time; and whether it was logged that it is slowed.
        self._used: dict[Hashable, float] = {}
        self._logged: set[Hashable] = set()
        # Addresses that had an event in this time. Others have nothing left to wait for.
        self._recent: TimeoutQueue[Hashable] = TimeoutQueue(
            clock, timeout=_BURST + LONGEST_DELAY, expired=self._forget
        )

    def count(self, peer: str) -> None:
        """Count an event.

        :param peer: the client as the log shows it.
        """
        key = client_key(self._proxies, peer)
        if key is None or self._stopped:
            return
        if key not in self._used and len(self._used) >= _MAX_ADDRESSES:
            oldest = next(iter(self._recent))
            self._recent.stop(oldest)
            self._forget(oldest)
        now = self._clock.seconds()
        used = max(now, self._used.get(key, now)) + 1 / self._limits.max_rate_per_address
        self._used[key] = min(used, now + _BURST + LONGEST_DELAY)
        self._recent.start(key)

    def delay(self, peer: str) -> float:
        """Return for how many seconds a client must wait, which is counted and logged; or 0."""
        if not self._used:
            return 0
        key = client_key(self._proxies, peer)
        now = self._clock.seconds()
        wait = self._used.get(key, now) - now - _BURST
        # A tiny remainder is an error of rounding.
        if wait < 1e-6:
            return 0
        self._slowed.inc()
        if key not in self._logged:
            self._logged.add(key)
            _log.info(
                "{peer} is slowed: its address opened, resumed or failed more than {rate} "
                "connections a second (--max-rate-per-address)",
                event="slowed",
                peer=peer,
                rate=self._limits.max_rate_per_address,
            )
        return wait

    def stop(self) -> None:
        """Forget all addresses, and count nothing any more, as the daemon stops."""
        self._stopped = True
        for key in list(self._recent):
            self._recent.stop(key)
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        del self._used[key]
        self._logged.discard(key)
