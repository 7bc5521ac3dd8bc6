"""How much is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass
class Bounds:
    """How large things may be, for all who ask at the time; a reload changes it, here alone."""

    #: Bytes that a message or a publication may have.
    max_message: int
    #: Bytes that may wait for a reader who does not read.
    max_buffered: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one connection may take."""

    #: Bytes of one message, its fragments together and decompressed.
    max_message: int = 1 << 20
    #: Bytes that may wait for a peer that does not read.
    max_buffered: int = 1 << 20
    #: Messages and control frames a second in the long run; ten times as many at once.
    max_rate: int = 1000
    #: Whether permessage-deflate (RFC 7692) is spoken.
    compression: bool = True


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
    """How many of each key are here, up to a limit."""

    def __init__(self, limit: int) -> None:
        #: How many each may have; those who have more keep theirs.
        self.limit = limit
        self._taken: Counter[Hashable] = Counter()

    def take(self, key: Hashable) -> bool:
        """Take one of the key's places; False when all are taken."""
        if self._taken[key] >= self.limit:
            return False
        self._taken[key] += 1
        return True

    def leave(self, key: Hashable) -> None:
        """Give one of the key's places back; a key without any takes no memory."""
        self._taken[key] -= 1
        if self._taken[key] <= 0:
            del self._taken[key]

    def __len__(self) -> int:
        return len(self._taken)
