"""Counters: what Prometheus is told of, and the traffic of each connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.registry import Collector

# The codes that get a series of their own: those of RFC 6455 and of its registry.
_CODES = frozenset(range(1000, 1016))


class Metrics:
    """The daemon's counters, each named and labelled by Prometheus' conventions."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        #: Messages and bytes each way.
        self.traffic = TrafficTotals()
        #: Requests and handshakes that were turned away, by why.
        self.refused = Counter(
            "pushd_refused",
            "Requests and handshakes refused before a view saw them.",
            ["reason"],
            registry=self._registry,
        )
        self._closed = Counter(
            "pushd_closed",
            "WebSockets closed, by close code.",
            ["code"],
            registry=self._registry,
        )
        # ``labels`` costs three times as much as ``inc``.
        self._closed_by_code: dict[int | None, Counter] = {}
        #: Views that raised.
        self.view_errors = Counter(
            "pushd_view_errors", "Views that failed with an exception.", registry=self._registry
        )

    def count_closed(self, code: int) -> None:
        """Count a closed WebSocket; codes outside the registry share the label ``other``."""
        known = code if code in _CODES else None
        counter = self._closed_by_code.get(known)
        if counter is None:
            counter = self._closed.labels("other" if known is None else str(known))
            self._closed_by_code[known] = counter
        counter.inc()

    def register(self, collector: Collector) -> None:
        """Add what is read at the time of asking."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


@dataclass(eq=False, slots=True)
class SubscriberCounters:
    """Numbers about subscribers, to which a Hub and its subscriptions add."""

    #: Publications delivered, counted once per subscriber.
    delivered: int = 0
    #: Subscribers that were cut off because they were too slow.
    cut: int = 0
    #: Subscriptions by transport.
    transports: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Traffic:
    """Messages and their bytes each way.

    Whatever sends or receives adds to the numbers, which costs far less than a shared counter;
    ``TrafficTotals`` sums them up. What a fan-out group writes is added later, by
    ``Hub.flush_counters``.
    """

    __slots__ = ("bytes_in", "bytes_out", "messages_in", "messages_out")

    def __init__(self) -> None:
        self.messages_in = 0
        self.bytes_in = 0
        self.messages_out = 0
        self.bytes_out = 0

    def add(self, others: Iterable[Traffic]) -> None:
        """Add what others counted."""
        messages_in = bytes_in = messages_out = bytes_out = 0
        # There may be ten thousand of them: one loop over names of its own takes a millisecond.
        for other in others:
            messages_in += other.messages_in
            bytes_in += other.bytes_in
            messages_out += other.messages_out
            bytes_out += other.bytes_out
        self.messages_in += messages_in
        self.bytes_in += bytes_in
        self.messages_out += messages_out
        self.bytes_out += bytes_out


class TrafficTotals:
    """The traffic of all connections, those that have ended included, by transport."""

    def __init__(self) -> None:
        self._open: dict[str, dict[Traffic, None]] = {}
        self._ended: dict[str, Traffic] = {}

    def add(self, transport: str, traffic: Traffic) -> None:
        """Count what a connection counts, from now on."""
        self._open.setdefault(transport, {})[traffic] = None

    def remove(self, transport: str, traffic: Traffic) -> None:
        """Keep what a connection has counted, which will not count any more."""
        if self._open.get(transport, {}).pop(traffic, self) is None:
            self._ended.setdefault(transport, Traffic()).add([traffic])

    def count(self, transport: str) -> int:
        """How many connections of this transport are open."""
        return len(self._open.get(transport, ()))

    def total(self, transport: str) -> Traffic:
        """What all connections of this transport have counted until now."""
        total = Traffic()
        total.add(self._open.get(transport, ()))
        if transport in self._ended:
            total.add([self._ended[transport]])
        return total
