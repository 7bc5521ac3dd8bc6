"""``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.operator.health import Readiness
from pushd.testing import Answer, Daemon
from tests.support.peer import Peer, close_frame, handshake


class HealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon()

    def ask(self, path: str, method: str = "GET") -> Answer:
        """Send a request to the control port."""
        answer = self.daemon.request(method, path, control=True)
        assert answer is not None
        return answer

    def test_alive(self) -> None:
        """/healthz answers 200 and forbids caching."""
        answer = self.ask("/healthz")
        self.assertEqual((answer.status, json.loads(answer.text)), (200, {"status": "alive"}))
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")

    def test_head(self) -> None:
        """HEAD answers with the headers alone."""
        answer = self.ask("/healthz", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_options(self) -> None:
        """OPTIONS, the method of HAProxy's health checks, gets the status of a GET."""
        for path in ("/healthz", "/readyz"):
            answer = self.ask(path, "OPTIONS")
            self.assertEqual((answer.status, answer.headers["Allow"]), (200, "GET, HEAD, OPTIONS"))
        self.assertEqual(self.ask("/", "OPTIONS").status, 204)
        answer = self.ask("/healthz", "POST")
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD, OPTIONS"))

    def test_metrics(self) -> None:
        """/metrics shows current values in Prometheus' text format, and forbids caching."""
        for count in (1, 2):
            peer = Peer(self.daemon)
            peer.send(handshake("/test/"), close_frame(1001))
            answer = self.ask("/metrics")
            self.assertEqual(answer.status, 200)
            self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version="))
            self.assertEqual(answer.headers["Cache-Control"], "no-store")
            self.assertIn(f'pushd_closed_total{{code="1001"}} {count}.0\n', answer.text)

    def test_metrics_are_read_only(self) -> None:
        """/metrics refuses POST."""
        self.assertEqual(self.ask("/metrics", "POST").status, 405)


class ReadinessTests(SynchronousTestCase):
    def test_ready(self) -> None:
        """A daemon is ready while it listens and does not shut down."""
        readiness = Readiness()
        self.assertEqual(readiness.reason(), "not listening")
        readiness.listening = True
        self.assertIsNone(readiness.reason())
        readiness.draining = True
        self.assertEqual(readiness.reason(), "draining")

    def test_checks(self) -> None:
        """Further checks run each time; the first reason that one returns counts."""
        reasons: list[str | None] = [None, "the broker can't be reached", "nor that"]
        readiness = Readiness(*(lambda n=n: reasons[n] for n in range(3)))
        readiness.listening = True
        self.assertEqual(readiness.reason(), "the broker can't be reached")
        reasons[1:] = [None, None]
        self.assertIsNone(readiness.reason())
