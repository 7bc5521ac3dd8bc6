"""What is counted, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Metrics
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start counting."""
        self.metrics = Metrics()

    def read(self) -> dict[tuple[str, ...], float]:
        """Give the samples that have a label by name and label, without their times."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels
        }

    def test_nothing_yet(self) -> None:
        """What has not been counted has no sample, but says what it will be."""
        self.assertEqual(self.read(), {})
        text = self.metrics.render().decode()
        for name in ("pushd_refused_total", "pushd_closed_total"):
            self.assertRegex(text, rf"(?m)^# HELP {name} [A-Z].*\.$")
            self.assertRegex(text, rf"(?m)^# TYPE {name} counter$")

    def test_refused(self) -> None:
        """Refusals are counted by their reasons."""
        self.metrics.refused.labels(reason="busy").inc()
        self.metrics.refused.labels(reason="busy").inc()
        self.metrics.refused.labels(reason="forbidden").inc()
        self.assertEqual(
            self.read(),
            {("pushd_refused_total", "busy"): 2, ("pushd_refused_total", "forbidden"): 1},
        )

    def test_closed(self) -> None:
        """Ends are counted by their close codes."""
        for code in (1000, 1006, 1000, 4000, 3333):
            self.metrics.count_closed(code)
        self.assertEqual(
            self.read(),
            {
                ("pushd_closed_total", "1000"): 2,
                ("pushd_closed_total", "1006"): 1,
                ("pushd_closed_total", "other"): 2,
            },
        )

    def test_apart(self) -> None:
        """Two daemons in one process do not share their numbers."""
        Metrics().refused.labels(reason="busy").inc()
        self.assertEqual(self.read(), {})


class MetricsDoorTests(SynchronousTestCase):
    """The numbers at the control port."""

    def setUp(self) -> None:
        """Start a daemon with an echo."""

        @accept_websocket
        async def echo(request: Request) -> None:
            async for message in request.websocket:
                request.websocket.send(message)

        self.daemon = Daemon({"/echo/": echo})

    def test_content_type(self) -> None:
        """The numbers come in Prometheus' text format, fresh each time."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version="))
        self.assertEqual(answer.headers["Cache-Control"], "no-store")

    def test_closed(self) -> None:
        """A WebSocket counts once its connection is gone, by how it ended."""
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
        """The public port does not tell them."""
        answer = self.daemon.get("/metrics")
        assert answer is not None
        self.assertEqual(answer.status, 404)

    def closed(self) -> list[str]:
        """Ask for the lines about ends."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        lines = answer.text.splitlines()
        return [line for line in lines if line.startswith("pushd_closed_total{")]
