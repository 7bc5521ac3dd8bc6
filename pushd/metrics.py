"""What is counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pushd.traffic import Ledger

# The codes that get a series of their own: those of RFC 6455 and of its registry.
_CODES = frozenset(range(1000, 1016))


class Metrics:
    """The daemon's counters, each named and labelled by Prometheus' conventions."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        #: Messages and bytes each way.
        self.traffic = Ledger()
        #: Requests and handshakes that were turned away, by why.
        self.refused = Counter(
            "pushd_refused",
            "Requests and handshakes refused before a view saw them.",
            ["reason"],
            registry=self._registry,
        )
        #: WebSockets that ended, by the code of the Close frame.
        self.closed = Closed()
        self._registry.register(self.closed)
        #: Views that raised.
        self.view_errors = Counter(
            "pushd_view_errors", "Views that failed with an exception.", registry=self._registry
        )

    def register(self, collector: Collector) -> None:
        """Add what is read at the time of asking."""
        self._registry.register(collector)

    def count_topics(self, listeners: Listeners, past: Past) -> None:
        """Tell of topics as well, with numbers that are kept elsewhere."""
        self._registry.register(_Topics(listeners, past))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


# Plain numbers, looked at when somebody asks: the label of a Counter and its lock would cost more
# than what is counted.


class Closed(Collector):
    """The ends of WebSockets, by the code of the Close frame."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def count(self, code: int) -> None:
        """Count an end; codes of the peers' own invention are one."""
        code = code if code in _CODES else 0
        self._numbers[code] = self._numbers.get(code, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Give the numbers of now."""
        closed = CounterMetricFamily(
            "pushd_closed", "WebSockets closed, by close code.", labels=["code"]
        )
        for code, number in self._numbers.items():
            closed.add_metric([str(code or "other")], number)
        yield closed


# Of topics none is named: there may be millions.


class Listeners(Protocol):
    """What is counted of those who listen; a Hub."""

    delivered: int
    cut: int

    @property
    def transports(self) -> Mapping[str, int]:
        """How many there are by transport."""


class Past(Protocol):
    """What is counted of publications; a Broker."""

    @property
    def published(self) -> int:
        """How many there were."""

    @property
    def history_bytes(self) -> int:
        """What those that are kept take."""


class _Topics(Collector):
    """The numbers of topics."""

    def __init__(self, listeners: Listeners, past: Past) -> None:
        self._listeners = listeners
        self._past = past

    def collect(self) -> Iterator[Metric]:
        """Give the numbers of now."""
        yield CounterMetricFamily(
            "pushd_publications", "Publications taken.", value=self._past.published
        )
        yield CounterMetricFamily(
            "pushd_deliveries",
            "Publications given to subscribers, each counted for each of them.",
            value=self._listeners.delivered,
        )
        subscribers = GaugeMetricFamily(
            "pushd_subscribers", "Subscriptions to topics, by transport.", labels=["transport"]
        )
        for transport, count in self._listeners.transports.items():
            subscribers.add_metric([transport], count)
        yield subscribers
        yield GaugeMetricFamily(
            "pushd_history_bytes",
            "Memory that the histories of all topics take in this process; none with a Redis.",
            value=self._past.history_bytes,
        )
        yield CounterMetricFamily(
            "pushd_slow_subscribers_cut",
            "Subscribers cut off because they read too slowly.",
            value=self._listeners.cut,
        )
