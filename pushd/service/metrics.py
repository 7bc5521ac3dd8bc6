"""Metrics that are computed when Prometheus asks, and a meter of the reactor's lag.

What is counted as it happens is in ``pushd.access.counters``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import twisted
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

import pushd
from pushd.access.counters import SubscriberCounters, Traffic, TrafficTotals
from pushd.access.limits import Limits
from pushd.access.memory import Memory
from pushd.protocols.http.site import PushdSite
from pushd.protocols.websocket.protocol import PushFactory
from pushd.schedule.histogram import Histogram
from pushd.topics.broker import Broker
from pushd.topics.scheduled import ScheduledPublications
from pushd.topics.state.broker import StoredBroker

# Transports of messages: all but plain HTTP.
_TRANSPORTS = ("websocket", "sse", "longpoll", "http_stream")


class PoolUsage(Protocol):
    """The numbers of a thread pool."""

    @property
    def busy(self) -> int:
        """Threads that are running something."""

    @property
    def limit(self) -> int:
        """Maximum number of threads."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a free thread."""


class ViewPoolUsage(PoolUsage, Protocol):
    """The numbers of the thread pool of views."""

    @property
    def stragglers(self) -> int:
        """Views that go on after their conversation and its grace, without a place."""

    @property
    def max_stragglers(self) -> int:
        """Maximum number of these."""


class BuildCollector(Collector):
    """Says what runs: the versions of pushd, Python and Twisted, and the event loop.

    :param loop: ``twisted``, ``asyncio`` or ``uvloop``.
    """

    def __init__(self, loop: str) -> None:
        self._labels = {
            "version": pushd.__version__,
            "python": platform.python_version(),
            "twisted": twisted.__version__,
            "loop": loop,
        }

    def collect(self) -> Iterator[Metric]:
        """Yield a metric that is always 1, and has what it says in its labels."""
        yield InfoMetricFamily("pushd_build", "What runs; always 1.", value=self._labels)


class TopicCollector(Collector):
    """Reads the metrics of topics; none has a topic's name, of which there may be millions."""

    def __init__(self, counters: SubscriberCounters, broker: Broker) -> None:
        self._counters = counters
        self._broker = broker

    def collect(self) -> Iterator[Metric]:
        """Yield what has been counted until now."""
        yield CounterMetricFamily(
            "pushd_publications", "Publications accepted.", value=self._broker.published
        )
        yield CounterMetricFamily(
            "pushd_deliveries",
            "Deliveries of publications, one for each subscriber.",
            value=self._counters.delivered,
        )
        yield CounterMetricFamily(
            "pushd_conflated",
            "Publications left out for subscribers that got a newer one (rules with latest).",
            value=self._counters.conflated,
        )
        subscribers = GaugeMetricFamily(
            "pushd_subscribers", "Subscriptions to topics, by transport.", labels=["transport"]
        )
        for transport, count in self._counters.transports.items():
            subscribers.add_metric([transport], count)
        yield subscribers
        yield GaugeMetricFamily(
            "pushd_history_bytes",
            "Bytes that the histories of all topics take in this process (0 with Redis).",
            value=self._broker.history_bytes,
        )
        yield CounterMetricFamily(
            "pushd_slow_subscribers_cut",
            "Subscribers disconnected because they read too slowly.",
            value=self._counters.cut,
        )


class ScheduleCollector(Collector):
    """Reads what has become of scheduled publications."""

    def __init__(self, scheduled: ScheduledPublications) -> None:
        self._scheduled = scheduled

    def collect(self) -> Iterator[Metric]:
        """Yield how many were dropped at this node."""
        yield CounterMetricFamily(
            "pushd_scheduled_dropped",
            "Scheduled publications dropped because they were due more than --schedule-grace ago.",
            value=self._scheduled.dropped,
        )


class StateCollector(Collector):
    """Reads the metrics of ``--state``.

    :param broker: None without ``--state``.
    """

    def __init__(self, broker: StoredBroker | None) -> None:
        self._broker = broker

    def collect(self) -> Iterator[Metric]:
        """Yield how much is on disk, and how much is not yet."""
        broker = self._broker
        yield GaugeMetricFamily(
            "pushd_state_up",
            "1 if the directory of --state can be written, else 0 (always 1 without it).",
            int(broker is None or broker.writer.reason is None),
        )
        yield GaugeMetricFamily(
            "pushd_state_unwritten",
            "Publications that are not written to the directory of --state yet.",
            0 if broker is None else broker.unwritten,
        )
        yield GaugeMetricFamily(
            "pushd_state_bytes",
            "Bytes that the database of --state takes on disk.",
            0 if broker is None else broker.writer.size,
        )


@dataclass(kw_only=True, eq=False)
class MetricsCollector(Collector):
    """Reads, when ``/metrics`` is requested, every metric that is not counted as things happen.

    :param site: the site of the public port.
    :param flush_counters: adds what fan-out groups have counted to the connections' traffic.
    :param threads: thread pools by what their threads do.
    :param fault: returns why the broker cannot be reached, or None if it can.
    :param histograms: by name and help text.
    :param clocks: the reactor, and each clock that has timers of its own.
    :param resident: returns how much memory the process takes, in bytes.
    """

    site: PushdSite
    factory: PushFactory
    traffic: TrafficTotals
    flush_counters: Callable[[], None]
    threads: Mapping[str, PoolUsage]
    fault: Callable[[], str | None]
    histograms: Mapping[tuple[str, str], Histogram]
    limits: Limits
    memory: Memory
    clocks: Sequence[IReactorTime]
    resident: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        """Read the metrics: a few milliseconds for ten thousand connections."""
        yield self._connections()
        yield from self._traffic()
        for (name, about), one in self.histograms.items():
            yield HistogramMetricFamily(name, about, buckets=one.buckets, sum_value=one.sum)
        yield GaugeMetricFamily(
            "pushd_broker_up",
            "1 if it is possible to publish, else 0: Redis or the disk of --state cannot be used.",
            int(self.fault() is None),
        )
        yield GaugeMetricFamily(
            "pushd_connections_limit",
            "Maximum number of connections to the public port.",
            self.limits.max_connections,
        )
        yield from self._threads()
        yield GaugeMetricFamily(
            "pushd_timers",
            "Calls that are scheduled for later: by timeouts, views and scheduled publications.",
            sum(len(clock.getDelayedCalls()) for clock in self.clocks),
        )
        yield from self._memory()

    def _memory(self) -> Iterator[Metric]:
        """Yield the metrics of the process' memory, and of what is buffered in it."""
        yield GaugeMetricFamily(
            "pushd_resident_bytes",
            "Memory that the process takes, as the kernel counts it (0 where that is not known).",
            self.resident(),
        )
        family = GaugeMetricFamily(
            "pushd_buffered_bytes", "Bytes that are buffered, by kind.", labels=["kind"]
        )
        for kind, size in self.memory.measure():
            family.add_metric([kind], size)
        yield family
        yield GaugeMetricFamily(
            "pushd_buffered_bytes_limit",
            "Maximum number of bytes that may be buffered.",
            self.limits.max_memory,
        )
        yield CounterMetricFamily(
            "pushd_buffered_closed",
            "Connections closed because too many bytes were buffered.",
            value=self.memory.closed,
        )

    def _threads(self) -> Iterator[Metric]:
        """Yield the metrics of the thread pools."""
        busy = GaugeMetricFamily(
            "pushd_threads_busy",
            "Threads that are running a blocking view, or making a page of an application.",
            labels=["kind"],
        )
        limit = GaugeMetricFamily(
            "pushd_threads_limit", "Maximum number of such threads.", labels=["kind"]
        )
        waiting = GaugeMetricFamily(
            "pushd_threads_waiting",
            "Pages waiting for a free thread (always 0 for views).",
            labels=["kind"],
        )
        for kind, pool in self.threads.items():
            busy.add_metric([kind], pool.busy)
            limit.add_metric([kind], pool.limit)
            waiting.add_metric([kind], pool.waiting)
        yield from (busy, limit, waiting)
        views = cast(ViewPoolUsage, self.threads["view"])
        yield GaugeMetricFamily(
            "pushd_threads_stragglers",
            "Threads of views that go on after their conversation and its grace.",
            views.stragglers,
        )
        yield GaugeMetricFamily(
            "pushd_threads_stragglers_limit",
            "Maximum number of such threads; the others keep their place among the views.",
            views.max_stragglers,
        )

    def _connections(self) -> Metric:
        """Return the connections to the public port, each counted in one state."""
        family = GaugeMetricFamily(
            "pushd_connections",
            "Connections to the public port, by transport and state.",
            labels=["transport", "state"],
        )
        closing = len(self.factory.closings)
        states = {
            ("http", "reading"): (
                len(self.site.connections.reading) + len(self.site.connections.reading_bodies)
            ),
            ("http", "idle"): len(self.site.connections.idle),
            ("http", "closing"): len(self.site.connections.closing),
            ("websocket", "open"): self.traffic.count("websocket") - closing,
            ("websocket", "closing"): closing,
            ("sse", "open"): self.traffic.count("sse"),
            ("longpoll", "open"): self.traffic.count("longpoll"),
            ("http_stream", "open"): self.traffic.count("http_stream"),
        }
        # The rest have a request in progress: a view is running, or the response is being sent. So
        # are WebSockets that are closed, and whose views still have messages to read.
        rest = len(self.site.policy.admission) - sum(states.values())
        states["http", "answering"] = max(0, rest)
        for labels, count in states.items():
            family.add_metric(labels, count)
        return family

    def _traffic(self) -> Iterator[Metric]:
        """Yield the numbers of messages and bytes in each direction."""
        self.flush_counters()
        totals = {transport: self.traffic.total(transport) for transport in _TRANSPORTS}
        received = Traffic()
        received.add(totals.values())
        for name, about, value in (
            ("messages", "Messages received from clients.", received.messages_in),
            ("bytes", "Bytes of messages received from clients.", received.bytes_in),
        ):
            yield CounterMetricFamily(f"pushd_received_{name}", about, value)
        sent_messages = CounterMetricFamily(
            "pushd_sent_messages",
            "Messages and publications sent, by transport.",
            labels=["transport"],
        )
        sent_bytes = CounterMetricFamily(
            "pushd_sent_bytes",
            "Bytes of messages and publications sent, by transport.",
            labels=["transport"],
        )
        for transport, total in totals.items():
            sent_messages.add_metric([transport], total.messages_out)
            sent_bytes.add_metric([transport], total.bytes_out)
        yield from (sent_messages, sent_bytes)


# Seconds between two measurements.
_INTERVAL = 0.25


class LagMeter(Service):
    """Measures how late the reactor runs its timers, with a timer of its own.

    :param clock: the reactor.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None
        #: Delays of the timer, in seconds.
        self.lag = Histogram()

    def startService(self) -> None:
        """Start to measure."""
        super().startService()
        self._start_timer()

    def stopService(self) -> Any:
        """Stop the timer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return super().stopService()

    def _start_timer(self) -> None:
        self._due = self._clock.seconds() + _INTERVAL
        self._call = self._clock.callLater(_INTERVAL, self._measure)

    def _measure(self) -> None:
        self.lag.observe(max(0.0, self._clock.seconds() - self._due))
        self._start_timer()
