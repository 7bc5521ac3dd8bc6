"""Counters: what is counted as it happens, and the traffic of each connection and in total."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.registry import Collector

# Close codes with a label of their own: those of RFC 6455 §7.4.1 and the IANA registry.
_LABELS = {code: str(code) for code in range(1000, 1016)}


class Counters:
    """The counters of a daemon, in a Prometheus registry of its own.

    Metrics that are read when ``/metrics`` is requested come from collectors, which are registered.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        #: Messages and bytes in both directions, by transport.
        self.traffic = TrafficTotals()
        #: Refused requests and handshakes, by reason.
        self.refused = Counter(
            "pushd_refused",
            "Requests and handshakes refused before a view was called, by reason.",
            ["reason"],
            registry=self._registry,
        )
        #: Connections and requests that had to wait.
        self.slowed = Counter(
            "pushd_slowed",
            "Connections and requests delayed because of --max-rate-per-address.",
            registry=self._registry,
        )
        #: Views that raised.
        self.view_errors = Counter(
            "pushd_view_errors", "Views that raised an exception.", registry=self._registry
        )
        self._closed = Counter(
            "pushd_closed",
            "WebSockets closed, by close code.",
            ["code"],
            registry=self._registry,
        )
        # What was counted since the last rendering, by label: each ``inc`` takes seven calls.
        self._closed_lately: defaultdict[str, int] = defaultdict(int)

    def count_closed(self, code: int) -> None:
        """Count a closed WebSocket; codes outside the registry share the label ``other``."""
        self._closed_lately[_LABELS.get(code, "other")] += 1

    def register(self, collector: Collector) -> None:
        """Add a collector, which computes metrics whenever they are rendered."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Return the counters, and the metrics of all collectors, in Prometheus' text format."""
        self._count_closed_lately()
        return generate_latest(self._registry)

    def series(self) -> dict[str, float]:
        """Return the same as numbers, by the names that Prometheus' text format has for them.

        When each counter was created is left out.
        """
        self._count_closed_lately()
        return {
            _series_name(sample.name, sample.labels): sample.value
            for metric in self._registry.collect()
            for sample in metric.samples
            if not sample.name.endswith("created")
        }

    def _count_closed_lately(self) -> None:
        for label, number in self._closed_lately.items():
            self._closed.labels(label).inc(number)
        self._closed_lately.clear()


def _series_name(name: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series. No label of ours has a value that would need an escape."""
    if not labels:
        return name
    listed = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{listed}}}"


@dataclass(eq=False, slots=True)
class SubscriberCounters:
    """Numbers about subscribers, to which a Hub and its subscriptions add."""

    #: Publications delivered, counted once per subscriber.
    delivered: int = 0
    #: Publications that subscribers did not get, as only the newest of their topic matters.
    conflated: int = 0
    #: Subscribers that were disconnected because they read too slowly.
    cut: int = 0
    #: Subscriptions by transport.
    transports: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Traffic:
    """Messages and bytes of one connection, in both directions.

    Whatever sends or receives adds to these numbers, which costs far less than a shared counter;
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
        """Add the numbers of others."""
        messages_in = bytes_in = messages_out = bytes_out = 0
        # With local variables, ten thousand connections take a millisecond.
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
    """The traffic of all connections since the start of the daemon, by transport."""

    def __init__(self) -> None:
        self._open: dict[str, dict[Traffic, None]] = {}
        self._closed: defaultdict[str, Traffic] = defaultdict(Traffic)

    def add(self, transport: str, traffic: Traffic) -> None:
        """Include the traffic of a connection that opened."""
        self._open.setdefault(transport, {})[traffic] = None

    def remove(self, transport: str, traffic: Traffic) -> None:
        """Keep the final numbers of a connection that closed; does nothing when called again."""
        if self._open.get(transport, {}).pop(traffic, self) is None:
            self._closed[transport].add([traffic])

    def count(self, transport: str) -> int:
        """Return the number of open connections of a transport."""
        return len(self._open.get(transport, ()))

    def total(self, transport: str) -> Traffic:
        """Return the traffic of all connections of a transport, open and closed."""
        total = Traffic()
        total.add(self._open.get(transport, ()))
        if transport in self._closed:
            total.add([self._closed[transport]])
        return total
