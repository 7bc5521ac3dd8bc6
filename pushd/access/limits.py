"""Limits: their values, which a reload can change, the token bucket, and quotas per key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields


@dataclass(kw_only=True, slots=True)
class Limits:
    """The limits that a reload can change.

    All parts of a daemon read the same object whenever they apply a limit, so a change is in force
    at once. A part that keeps something computed from it registers with ``on_change``.
    """

    #: Bytes of one message (its fragments together and decompressed), and of one publication.
    max_message: int = 1 << 20
    #: Bytes of the body of a request to a view or an application.
    max_body: int = 1 << 20
    #: Bytes that are buffered for one client.
    max_buffered: int = 1 << 20
    #: Bytes of all buffers together. (Without the option: half of the machine's memory.)
    max_memory: int = 1 << 30
    #: Topics that one connection to ``/topics`` may subscribe to.
    max_topics: int = 128
    #: Messages and control frames per second from one WebSocket in the long run.
    max_rate: int = 1000
    #: Whether permessage-deflate (RFC 7692) is negotiated on new WebSockets.
    compression: bool = True
    #: Connections to the public port.
    max_connections: int = 10_000
    #: Connections to the public port from one client address.
    max_per_address: int = 100
    #: Connections to the public port that one client address may open, resume or fail per second in
    #: the long run.
    max_rate_per_address: int = 20
    #: Subjects of a topic that are listed as present; more are counted only.
    max_present: int = 1000
    #: Seconds that a connection may be idle between two requests.
    keep_alive: int = 75
    #: Seconds for the head of a request, from the connection or its own first byte.
    request_timeout: int = 20
    #: Seconds over which the pace of a request's body is measured.
    body_timeout: int = 20
    #: Seconds over which a stop spreads the closing of connections; 0 closes all at once.
    drain: int = 5
    _listeners: list[Callable[[], object]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def change_to(self, limits: Limits) -> None:
        """Copy the values of other limits, then call the functions given to ``on_change``."""
        for one in fields(self):
            if one.init:
                setattr(self, one.name, getattr(limits, one.name))
        for listener in self._listeners:
            listener()

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call a function after each change."""
        self._listeners.append(listener)


class TokenBucket:
    """Limits a rate, but permits bursts after a pause.

    :param rate: tokens that are added per second.
    :param burst: maximum number of tokens; a new bucket has as many.
    :param now: the time in seconds; it may be set back.
    """

    __slots__ = ("_burst", "_last", "_now", "_rate", "_tokens")

    def __init__(self, *, rate: float, burst: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = burst
        self._last = now()

    def change(self, *, rate: float, burst: float) -> None:
        """Change rate and burst from now on; tokens in the bucket are kept, up to the new burst."""
        self.take(0)
        self._rate = rate
        self._burst = burst
        self._tokens = min(burst, self._tokens)

    def take(self, count: int = 1) -> bool:
        """Take tokens; return False, and take none, if there are too few."""
        now, tokens = self._now(), self._tokens
        if now > self._last:
            # Without max and min, as this is done for each message.
            tokens += (now - self._last) * self._rate
            if tokens > self._burst:
                tokens = self._burst
        self._last = now
        enough = tokens >= count
        self._tokens = tokens - count if enough else tokens
        return enough


class Quota:
    """Counts what each key has taken, against a limit per key."""

    def __init__(self) -> None:
        self._taken: Counter[Hashable] = Counter()

    def take(self, key: Hashable, limit: int) -> bool:
        """Take one for a key; return False if it has reached the limit."""
        if self._taken[key] >= limit:
            return False
        self._taken[key] += 1
        return True

    def release(self, key: Hashable) -> None:
        """Give one back; a key that has given all back takes no memory."""
        self._taken[key] -= 1
        if self._taken[key] <= 0:
            del self._taken[key]

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._taken)
