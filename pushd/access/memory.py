"""Memory: one bound for all that the daemon buffers, and closing what holds most beyond it.

What connections hold is not counted as it comes and goes. Whatever makes a buffer grow adds that to
``Memory``; what a buffer shrinks by is not subtracted. Only when the sum could have reached the
limit are all connections measured. So nothing can be counted twice or forgotten, and what is
delivered without being buffered costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pushd.access.limits import Limits

_log = Logger(namespace="pushd.access")

# Parts of the limit, as powers of two. Near the limit, everything is measured again after this part
# of it has been added.
_STEP = 6
# Beyond the limit, this part of it is freed as well, so that not every message measures it all.
_SPARE = 4

# Seconds from one log line to the next: a publication to thousands that do not read exceeds the
# limit many times.
_LOG_INTERVAL = 1.0

#: What is measured, by its label in the metrics.
KINDS = ("inbox", "message", "compression", "request", "send", "history")


@dataclass(slots=True)
class Usage:
    """What is buffered at a moment, in bytes by kind."""

    #: Messages that views have not read.
    inbox: int = 0
    #: What has arrived of WebSocket messages that are not complete.
    message: int = 0
    #: The ends of compressed messages, which the next ones may refer to.
    compression: int = 0
    #: Requests: what has arrived of them, and bodies while they are answered.
    request: int = 0
    #: What clients have not read.
    send: int = 0
    #: Publications that are kept for clients that reconnect.
    history: int = 0
    _shared: set[int] = field(default_factory=set)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Iterate over the kinds, and the bytes of each."""
        return ((kind, getattr(self, kind)) for kind in KINDS)

    @property
    def total(self) -> int:
        """The bytes of all kinds."""
        sockets = self.inbox + self.message + self.compression
        return sockets + self.request + self.send + self.history

    def count_once(self, shared: object, size: int) -> int:
        """Return a size, or 0 if it was counted before: of an object that many connections hold."""
        if id(shared) in self._shared:
            return 0
        self._shared.add(id(shared))
        return size


class Holder(Protocol):
    """A connection that buffers something."""

    def count_memory(self, usage: Usage) -> int:
        """Add what it holds to the usage, and return the bytes that were added."""

    def free_memory(self) -> None:
        """Close the connection, and drop what it holds."""


class KeptHistory(Protocol):
    """The histories of all topics."""

    @property
    def history_bytes(self) -> int:
        """The memory that they use, in bytes."""

    def trim_history(self, size: int) -> None:
        """Drop the oldest publications, until a number of bytes is freed or none is left."""


class Memory:
    """What the daemon buffers, and its limit: ``max_memory``.

    If the limit is exceeded, history is dropped first if it takes more than any other kind; then
    the connections that hold most are closed.

    :param limits: read whenever the memory is measured, and after each change.
    """

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._sources: list[Iterable[Holder]] = []
        # Those that are closed only if closing all others is not enough.
        self._last_sources: list[Iterable[Holder]] = []
        self._history: KeptHistory | None = None
        # What may still be added before all is measured again.
        self._left = limits.max_memory
        self._call: IDelayedCall | None = None
        #: True if the limit is exceeded, or may be, until ``enforce`` is called: in the next
        #: iteration of the reactor, if not before.
        self.exceeded = False
        #: The number of connections closed because the limit was exceeded.
        self.closed = 0
        # Since the last log line: connections that were closed, and bytes of history dropped; and
        # when the next line may be written.
        self._unlogged = [0, 0]
        self._log_after = 0.0
        limits.on_change(self._measure)

    def watch(self, holders: Iterable[Holder], *, freed_last: bool = False) -> None:
        """Measure all that a collection contains, whenever memory is measured.

        :param freed_last: close these only if closing all others is not enough.
        """
        (self._last_sources if freed_last else self._sources).append(holders)

    def watch_history(self, history: KeptHistory) -> None:
        """Measure the histories as well, and trim them."""
        self._history = history

    def add(self, size: int) -> None:
        """Note that a buffer grows by a number of bytes. Nothing is closed before it returns.

        It may be called before or after that, and for more than what is buffered in the end.
        """
        self._left -= size
        if self._left < 0:
            self._measure(size)

    def measure(self) -> Usage:
        """Return what is buffered now."""
        usage = Usage(history=self._history.history_bytes if self._history else 0)
        for holders in (*self._sources, *self._last_sources):
            for holder in holders:
                holder.count_memory(usage)
        return usage

    def enforce(self) -> None:
        """Close what holds most, if the limit is exceeded.

        To be called where the end of any connection does no harm.
        """
        if not self.exceeded:
            return
        self.exceeded = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        usage = Usage(history=self._history.history_bytes if self._history else 0)
        sizes = _sizes_of(self._sources, usage) + _sizes_of(self._last_sources, usage)
        limit = self._limits.max_memory
        if usage.total > limit:
            self._free(usage, sizes, limit)
        else:
            self._left = max(limit - usage.total, limit >> _STEP)

    def _measure(self, more: int = 0) -> None:
        """Measure what is buffered, and let ``enforce`` be called if it may be too much.

        :param more: bytes that may not be in the buffer yet.
        """
        if self.exceeded:
            return
        limit, total = self._limits.max_memory, self.measure().total + more
        self._left = max(limit - total, limit >> _STEP)
        if total > limit:
            self.exceeded = True
            self._call = self._clock.callLater(0, self.enforce)

    def _free(self, usage: Usage, sizes: list[tuple[int, Holder]], limit: int) -> None:
        """Free what is too much, and log it."""
        total, closed = usage.total, 0
        excess = total - limit + (limit >> _SPARE)
        others = max(size for kind, size in usage if kind != "history")
        trimmed = self._trim(min(excess, max(0, usage.history - others)))
        freed = trimmed
        for size, holder in sizes:
            if freed >= excess:
                break
            if not size:
                continue
            self._close(holder)
            closed += 1
            freed += size
        if freed < excess:
            more = self._trim(excess - freed)
            trimmed, freed = trimmed + more, freed + more
        self.closed += closed
        self._left = max(limit - total + freed, limit >> _STEP)
        self._unlogged[0] += closed
        self._unlogged[1] += trimmed
        self._log(usage, limit)

    def _log(self, usage: Usage, limit: int) -> None:
        """Log what was done since the last line, at most once a second."""
        now = self._clock.seconds()
        if now < self._log_after:
            return
        self._log_after = now + _LOG_INTERVAL
        (closed, trimmed), self._unlogged = self._unlogged, [0, 0]
        _log.warn(
            "buffers took {total} bytes, more than the {limit} of --max-memory: closed the "
            "{closed} connections that held most, dropped {trimmed} bytes of history",
            event="memory_exceeded",
            total=usage.total,
            limit=limit,
            closed=closed,
            trimmed=trimmed,
            **{f"{kind}_bytes": size for kind, size in usage},
        )

    def _trim(self, size: int) -> int:
        """Trim the history by a number of bytes; return how many were freed."""
        if self._history is None or not size:
            return 0
        before = self._history.history_bytes
        self._history.trim_history(size)
        return before - self._history.history_bytes

    def _close(self, holder: Holder) -> None:
        try:
            holder.free_memory()
        except Exception:  # The other connections must be closed nevertheless.
            _log.failure("closing a connection raised an exception", event="connection_failed")


def _sizes_of(sources: list[Iterable[Holder]], usage: Usage) -> list[tuple[int, Holder]]:
    """Count what holders have, and return them with that, the largest first."""
    sizes = [(holder.count_memory(usage), holder) for source in sources for holder in source]
    sizes.sort(key=itemgetter(0), reverse=True)
    return sizes
