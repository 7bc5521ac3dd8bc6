"""What is counted, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Metrics
from pushd.testing.daemon import Daemon
from pushd.topics.subscription import LAG_TIMEOUT
from pushd.views.request import Request, accept_websocket
from tests.listeners import MIB, TRANSPORTS, TopicTestCase


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


class TopicMetricsTests(TopicTestCase):
    """What is told of topics."""

    def read(self) -> dict[tuple[str, ...], float]:
        """Ask the control port."""
        return {
            (sample.name.removeprefix("pushd_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.control("GET", "/metrics").text)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def test_counts(self) -> None:
        """Publications, deliveries, those who listen and what is kept; and no topic's name."""
        before = self.read()
        for name in ("publications_total", "deliveries_total", "history_bytes"):
            self.assertEqual(before[name,], 0)
        listeners = [transport(self.daemon, "topic-name") for transport in TRANSPORTS]
        listeners.append(TRANSPORTS[0](self.daemon, "another"))
        self.publish("topic-name", "x" * 1000)
        self.publish("nobody", "x")
        after = self.read()
        self.assertEqual(after["publications_total",], 2)
        self.assertEqual(after["deliveries_total",], 4)
        self.assertEqual(after["subscribers", "websocket"], 3)
        self.assertEqual(after["subscribers", "sse"], 1)
        self.assertIn(after["history_bytes",], range(3000, 5000))
        self.assertEqual(after["slow_subscribers_cut_total",], 0)
        for listener in listeners:
            listener.leave()
        left = self.read()
        for transport in ("websocket", "sse", "longpoll"):
            self.assertEqual(left["subscribers", transport], 0)
        self.assertNotIn("topic-name", self.control("GET", "/metrics").text)

    def test_slow(self) -> None:
        """Who is cut off for slowness is counted, whether it reads nothing or too little."""
        listeners = [transport(self.daemon, "t") for transport in TRANSPORTS[:3]]
        for listener in listeners:
            listener.stall()
        for _ in range(4):
            self.publish("t", "x" * (MIB // 2))
        self.daemon.advance(LAG_TIMEOUT - 1)
        self.assertEqual(self.read()["slow_subscribers_cut_total",], 0)
        self.daemon.advance(1)
        self.assertEqual(self.read()["slow_subscribers_cut_total",], 3)
        self.keep(size=2)
        listener = TRANSPORTS[0](self.daemon, "t")
        listener.stall()
        for _ in range(9):
            self.publish("t", "x" * (MIB // 2))
        listener.resume()
        self.assertEqual(self.read()["slow_subscribers_cut_total",], 1)


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
