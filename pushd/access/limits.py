"""Limits that an operator sets, and what enforces them: a token bucket and a quota per key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields


@dataclass(kw_only=True, slots=True)
class Limits:
    """The limits that a reload can change.

    Every part of a daemon reads one and the same object whenever it applies a limit, so a change
    is in force at once. What keeps something computed from it is called after each change.
    """

    #: Bytes of one message (its fragments together and decompressed), of one publication, and of
    #: the body of a request.
    max_message: int = 1 << 20
    #: Bytes that may wait to be sent to a peer.
    max_buffered: int = 1 << 20
    #: Messages and control frames per second from one WebSocket in the long run.
    max_rate: int = 1000
    #: Whether permessage-deflate (RFC 7692) is negotiated on new WebSockets.
    compression: bool = True
    #: Connections to the public port.
    max_connections: int = 10_000
    #: Connections to the public port from one client address.
    max_per_address: int = 100
    #: Seconds over which a stop spreads the closing of connections; 0 closes all at once.
    drain: int = 5
    _listeners: list[Callable[[], object]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def change_to(self, limits: Limits) -> None:
        """Take the values of other limits, and call what asked for it with ``on_change``."""
        for one in fields(self):
            if one.init:
                setattr(self, one.name, getattr(limits, one.name))
        for listener in self._listeners:
            listener()

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call a function after each change."""
        self._listeners.append(listener)


class TokenBucket:
    """Lets so many things a second pass, and a burst of some more after a pause.

    :param rate: how many a second in the long run.
    :param burst: how many at once after a pause.
    :param now: the time in seconds.
    """

    __slots__ = ("_burst", "_last", "_now", "_rate", "_tokens")

    def __init__(self, *, rate: float, burst: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = burst
        self._last = now()

    def change(self, *, rate: float, burst: float) -> None:
        """Go by other numbers from now on; what was saved up is kept as far as it fits."""
        self.take(0)
        self._rate = rate
        self._burst = burst
        self._tokens = min(burst, self._tokens)

    def take(self, count: int = 1) -> bool:
        """Take one, or more for what costs more; False when there are not so many left."""
        now = self._now()
        # Whose clock it is, is not known here, and many can be set back.
        passed = max(0.0, now - self._last)
        self._tokens = min(self._burst, self._tokens + passed * self._rate)
        self._last = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class Quota:
    """Counts the places that each key has taken."""

    def __init__(self) -> None:
        self._taken: Counter[Hashable] = Counter()

    def take(self, key: Hashable, limit: int) -> bool:
        """Take one place for a key; False if it has as many as the limit, or more, already."""
        if self._taken[key] >= limit:
            return False
        self._taken[key] += 1
        return True

    def release(self, key: Hashable) -> None:
        """Give one of the key's places back; a key without any takes no memory."""
        self._taken[key] -= 1
        if self._taken[key] <= 0:
            del self._taken[key]

    def __len__(self) -> int:
        return len(self._taken)
