"""Tests of the daemon's counters, and of the traffic of connections."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Counters, Traffic, TrafficTotals
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request


class MetricsTests(SynchronousTestCase):
    """Counters are rendered in Prometheus' text format."""

    def setUp(self) -> None:
        """Create the counters of a daemon."""
        self.counters = Counters()

    def read(self) -> dict[tuple[str, ...], float]:
        """Return the samples that have labels, by name and label values."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.counters.render().decode())
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels
        }

    def test_empty(self) -> None:
        """A counter without samples is rendered with its help and type."""
        self.assertEqual(self.read(), {})
        text = self.counters.render().decode()
        for name in ("pushd_refused_total", "pushd_closed_total"):
            self.assertRegex(text, rf"(?m)^# HELP {name} [A-Z].*\.$")
            self.assertRegex(text, rf"(?m)^# TYPE {name} counter$")

    def test_refused(self) -> None:
        """Refusals are counted by reason."""
        self.counters.refused.labels(reason="busy").inc()
        self.counters.refused.labels(reason="busy").inc()
        self.counters.refused.labels(reason="forbidden").inc()
        self.assertEqual(
            self.read(),
            {("pushd_refused_total", "busy"): 2, ("pushd_refused_total", "forbidden"): 1},
        )

    def test_series(self) -> None:
        """The same numbers are to be had by the names that they have in the text."""
        self.assertNotIn("pushd_slowed_created", self.counters.series())
        self.counters.refused.labels(reason="busy").inc()
        self.counters.count_closed(1000)
        series = self.counters.series()
        self.assertEqual(series['pushd_refused_total{reason="busy"}'], 1)
        self.assertEqual(series['pushd_closed_total{code="1000"}'], 1)
        self.assertEqual(series["pushd_slowed_total"], 0)
        text = self.counters.render().decode()
        for name, value in series.items():
            self.assertIn(f"\n{name} {value}\n", text)

    def test_closed(self) -> None:
        """Closed WebSockets are counted by close code; unregistered codes share a label."""
        for code in (1000, 1006, 1000, 4000, 3333):
            self.counters.count_closed(code)
        self.assertEqual(
            self.read(),
            {
                ("pushd_closed_total", "1000"): 2,
                ("pushd_closed_total", "1006"): 1,
                ("pushd_closed_total", "other"): 2,
            },
        )

    def test_separate(self) -> None:
        """Two daemons in one process do not share their counters."""
        Counters().refused.labels(reason="busy").inc()
        self.assertEqual(self.read(), {})


class MetricsPageTests(SynchronousTestCase):
    """The control port serves /metrics."""

    def setUp(self) -> None:
        """Start a daemon with a view that echoes messages."""

        @accept_websocket
        async def echo(request: Request) -> None:
            async for message in request.websocket:
                request.websocket.send(message)

        self.daemon = Daemon({"/echo/": echo})

    def test_content_type(self) -> None:
        """The response is in Prometheus' text format, and must not be cached."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version="))
        self.assertEqual(answer.headers["Cache-Control"], "no-store")

    def test_closed(self) -> None:
        """A WebSocket is counted by its close code once its connection is gone."""
        one, other = self.daemon.connect("/echo/"), self.daemon.connect("/echo/")
        self.assertEqual(self.closed(), [])
        one.close(1000)
        self.assertEqual(self.closed(), ['pushd_closed_total{code="1000"} 1.0'])
        other.leave()
        self.assertEqual(
            self.closed(),
            ['pushd_closed_total{code="1000"} 1.0', 'pushd_closed_total{code="1006"} 1.0'],
        )

    def test_private(self) -> None:
        """The public port does not serve /metrics."""
        answer = self.daemon.get("/metrics")
        assert answer is not None
        self.assertEqual(answer.status, 404)

    def closed(self) -> list[str]:
        """Return the lines about closed WebSockets."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        lines = answer.text.splitlines()
        return [line for line in lines if line.startswith("pushd_closed_total{")]


class TrafficTotalsTests(SynchronousTestCase):
    """TrafficTotals sums up the traffic of connections."""

    def setUp(self) -> None:
        """Add two connections with some traffic."""
        self.totals = TrafficTotals()
        self.first, self.second = Traffic(), Traffic()
        self.first.messages_in, self.first.bytes_in = 1, 10
        self.second.messages_out, self.second.bytes_out = 2, 20
        for traffic in (self.first, self.second):
            self.totals.add("websocket", traffic)

    def test_unused(self) -> None:
        """A transport without connections has no traffic."""
        self.assertEqual(
            (self.totals.count("sse"), _numbers(self.totals.total("sse"))), (0, (0,) * 4)
        )

    def test_total(self) -> None:
        """The total is the sum over all connections at the time."""
        self.assertEqual(_numbers(self.totals.total("websocket")), (1, 10, 2, 20))
        self.first.messages_in += 1
        self.first.bytes_in += 5
        self.assertEqual(_numbers(self.totals.total("websocket")), (2, 15, 2, 20))

    def test_removed(self) -> None:
        """The traffic of a removed connection stays in the total, and counts once."""
        for _ in range(2):
            self.totals.remove("websocket", self.first)
            self.assertEqual(_numbers(self.totals.total("websocket")), (1, 10, 2, 20))
            self.assertEqual(self.totals.count("websocket"), 1)
        self.totals.remove("websocket", self.second)
        self.assertEqual(_numbers(self.totals.total("websocket")), (1, 10, 2, 20))
        self.assertEqual(self.totals.count("websocket"), 0)

    def test_remove_unknown(self) -> None:
        """Removing a connection that was not added does nothing."""
        self.totals.remove("sse", self.first)
        self.assertEqual(_numbers(self.totals.total("sse")), (0, 0, 0, 0))


def _numbers(traffic: Traffic) -> tuple[int, int, int, int]:
    """Return messages and bytes in, then those out."""
    return traffic.messages_in, traffic.bytes_in, traffic.messages_out, traffic.bytes_out
