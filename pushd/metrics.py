"""What is counted, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest
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
        self.closed = Counter(
            "pushd_closed", "WebSockets closed, by close code.", ["code"], registry=self._registry
        )

        #: Views that raised.
        self.view_errors = Counter(
            "pushd_view_errors", "Views that failed with an exception.", registry=self._registry
        )

    def register(self, collector: Collector) -> None:
        """Add what is read at the time of asking."""
        self._registry.register(collector)

    def count_closed(self, code: int) -> None:
        """Count the end of a WebSocket; codes of the peers' own invention are one."""
        label = str(code) if code in _CODES else "other"
        self.closed.labels(code=label).inc()

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
