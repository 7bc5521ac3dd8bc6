"""Tests of the metrics of topics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from pushd.topics.rules import Rule, Rules
from pushd.topics.subscription import LAG_TIMEOUT
from tests.support.topic_clients import MIB, TRANSPORTS, TopicTestCase


class TopicCollectorTests(TopicTestCase):
    """The metrics of topics, read from the control port."""

    def read(self) -> dict[tuple[str, ...], float]:
        """Return all samples by name, without ``pushd_``, and by the values of their labels."""
        return {
            (sample.name.removeprefix("pushd_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.control("GET", "/metrics").text)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def test_counts(self) -> None:
        """Publications, deliveries, subscribers and history are counted; no topic is named."""
        before = self.read()
        for name in ("publications_total", "deliveries_total", "history_bytes"):
            self.assertEqual(before[name,], 0)
        clients = [transport(self.daemon, "topic-name") for transport in TRANSPORTS]
        clients.append(TRANSPORTS[0](self.daemon, "another"))
        self.publish("topic-name", "x" * 1000)
        self.publish("without-subscribers", "x")
        after = self.read()
        self.assertEqual(after["publications_total",], 2)
        self.assertEqual(after["deliveries_total",], 4)
        self.assertEqual(after["subscribers", "websocket"], 3)
        self.assertEqual(after["subscribers", "sse"], 1)
        self.assertIn(after["history_bytes",], range(3000, 5000))
        self.assertEqual(after["slow_subscribers_cut_total",], 0)
        for client in clients:
            client.leave()
        left = self.read()
        for transport in ("websocket", "sse", "longpoll"):
            self.assertEqual(left["subscribers", transport], 0)
        self.assertNotIn("topic-name", self.control("GET", "/metrics").text)

    def test_slow(self) -> None:
        """A slow subscriber that is cut is counted, whether it reads nothing or too little."""
        clients = [transport(self.daemon, "t") for transport in TRANSPORTS[:3]]
        for client in clients:
            client.stall()
        for _ in range(4):
            self.publish("t", "x" * (MIB // 2))
        self.daemon.advance(LAG_TIMEOUT - 1)
        self.assertEqual(self.read()["slow_subscribers_cut_total",], 0)
        self.daemon.advance(1)
        self.assertEqual(self.read()["slow_subscribers_cut_total",], 3)
        self.keep(size=2)
        client = TRANSPORTS[0](self.daemon, "t")
        client.stall()
        for _ in range(9):
            self.publish("t", "x" * (MIB // 2))
        client.resume()
        self.assertEqual(self.read()["slow_subscribers_cut_total",], 1)

    def test_conflated(self) -> None:
        """What a subscriber does not get because a newer publication takes its place is counted."""
        self.start(rules=Rules([Rule(match="t", latest=True)]))
        ids = [self.publish("t", "x") for _ in range(5)]
        self.assertEqual(self.read()["conflated_total",], 0)
        for transport in TRANSPORTS:
            transport(self.daemon, "t", ids[1])
        self.assertEqual(self.read()["conflated_total",], 2 * len(TRANSPORTS))
