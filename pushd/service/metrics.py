"""Metrics that are read when Prometheus asks, and the reactor's lag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.counters import Ledger
from pushd.access.limits import Limits
from pushd.protocols.http.site import PushdSite
from pushd.protocols.websocket.protocol import PushFactory
from pushd.schedule.histogram import Histogram

# By what a peer is connected, beside plain HTTP.
_TRANSPORTS = ("websocket", "sse", "longpoll")


class Crew(Protocol):
    """Threads that do the same kind of work."""

    @property
    def busy(self) -> int:
        """How many are at work just now."""

    @property
    def limit(self) -> int:
        """How many may be."""

    @property
    def waiting(self) -> int:
        """How much work waits for one of them."""


@dataclass(kw_only=True, eq=False)
class MetricsCollector(Collector):
    """Reads everything that is not counted in Metrics, at the time of asking.

    :param door: the public port.
    :param settle: brings what the ledger sums up to the present.
    :param threads: those for what blocks, by what they do.
    :param fault: says why the broker can't be reached; None where it can.
    :param times: histograms by name, and what each is about.
    """

    door: PushdSite
    factory: PushFactory
    ledger: Ledger
    settle: Callable[[], None]
    threads: Mapping[str, Crew]
    fault: Callable[[], str | None]
    times: Mapping[tuple[str, str], Histogram]
    limits: Limits

    def collect(self) -> Iterator[Metric]:
        """Give all that is read; for ten thousand connections it takes some milliseconds."""
        yield self._connections()
        yield from self._traffic()
        for (name, about), times in self.times.items():
            yield HistogramMetricFamily(name, about, buckets=times.buckets, sum_value=times.sum)
        yield GaugeMetricFamily(
            "pushd_broker_up",
            "Whether what keeps the topics can be reached: 1 or 0; memory always can.",
            int(self.fault() is None),
        )
        yield GaugeMetricFamily(
            "pushd_connections_limit",
            "How many connections there may be at the public port.",
            self.limits.max_connections,
        )
        yield from self._threads()

    def _threads(self) -> Iterator[Metric]:
        """The threads for what blocks."""
        busy = GaugeMetricFamily(
            "pushd_threads_busy",
            "Threads that run a view that may block, or make a page of an application.",
            labels=["kind"],
        )
        limit = GaugeMetricFamily(
            "pushd_threads_limit", "How many such threads there may be.", labels=["kind"]
        )
        waiting = GaugeMetricFamily(
            "pushd_threads_waiting", "What waits until a thread has time for it.", labels=["kind"]
        )
        for kind, crew in self.threads.items():
            busy.add_metric([kind], crew.busy)
            limit.add_metric([kind], crew.limit)
            waiting.add_metric([kind], crew.waiting)
        yield from (busy, limit, waiting)

    def _connections(self) -> Metric:
        """The connections at the public port, each once."""
        family = GaugeMetricFamily(
            "pushd_connections",
            "Connections at the public port, by transport and state.",
            labels=["transport", "state"],
        )
        closing = len(self.factory.closings)
        states = {
            ("http", "reading"): len(self.door.requests),
            ("http", "idle"): len(self.door.idle),
            ("http", "closing"): len(self.door.lingering),
            ("websocket", "open"): self.ledger.count("websocket") - closing,
            ("websocket", "closing"): closing,
            ("sse", "open"): self.ledger.count("sse"),
            ("longpoll", "open"): self.ledger.count("longpoll"),
        }
        # A view is at work for the rest, or the answer is under way.
        rest = len(self.door.policy.admission) - sum(states.values())
        states["http", "answering"] = max(0, rest)
        for labels, count in states.items():
            family.add_metric(labels, count)
        return family

    def _traffic(self) -> Iterator[Metric]:
        """Messages and bytes each way."""
        self.settle()
        totals = {transport: self.ledger.total(transport) for transport in _TRANSPORTS}
        websockets = totals["websocket"]
        for name, about, value in (
            ("messages", "Messages that came over WebSockets.", websockets.messages_in),
            ("bytes", "Bytes of the messages that came over WebSockets.", websockets.bytes_in),
        ):
            yield CounterMetricFamily(f"pushd_received_{name}", about, value)
        sent_messages = CounterMetricFamily(
            "pushd_sent_messages", "Messages and publications that were sent.", labels=["transport"]
        )
        sent_bytes = CounterMetricFamily(
            "pushd_sent_bytes", "Bytes of those messages.", labels=["transport"]
        )
        for transport, total in totals.items():
            sent_messages.add_metric([transport], total.messages_out)
            sent_bytes.add_metric([transport], total.bytes_out)
        yield from (sent_messages, sent_bytes)


# How often to look, in seconds.
_INTERVAL = 0.25


class LagMeter(Service):
    """Asks for a call every quarter of a second, and notes how much later each comes.

    :param clock: the reactor.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None
        #: How late the calls came, in seconds.
        self.lag = Histogram()

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._wait()

    def stopService(self) -> Any:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return super().stopService()

    def _wait(self) -> None:
        self._due = self._clock.seconds() + _INTERVAL
        self._call = self._clock.callLater(_INTERVAL, self._look)

    def _look(self) -> None:
        self.lag.observe(max(0.0, self._clock.seconds() - self._due))
        self._wait()
