"""What an operator is told of the daemon."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from pushd.api.health import Readiness
from pushd.testing.daemon import Answer, Daemon
from tests.peer import Peer, close_frame, handshake


class HealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon()

    def ask(self, path: str, method: str = "GET") -> Answer:
        """Ask at the control port."""
        answer = self.daemon.request(method, path, control=True)
        assert answer is not None
        return answer

    def test_alive(self) -> None:
        """A daemon that runs says so, in a word that no cache keeps."""
        answer = self.ask("/healthz")
        self.assertEqual((answer.status, json.loads(answer.text)), (200, {"status": "alive"}))
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")

    def test_head(self) -> None:
        """A probe may ask for the head alone."""
        answer = self.ask("/healthz", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_metrics(self) -> None:
        """What was counted is told in Prometheus' text, fresh each time."""
        for count in (1, 2):
            peer = Peer(self.daemon)
            peer.send(handshake("/test/"), close_frame(1001))
            answer = self.ask("/metrics")
            self.assertEqual(answer.status, 200)
            self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version="))
            self.assertEqual(answer.headers["Cache-Control"], "no-store")
            self.assertIn(f'pushd_closed_total{{code="1001"}} {count}.0\n', answer.text)

    def test_metrics_are_read_only(self) -> None:
        """There is nothing to be posted to the numbers."""
        self.assertEqual(self.ask("/metrics", "POST").status, 405)


class ReadinessTests(SynchronousTestCase):
    def test_ready(self) -> None:
        """A daemon that listens and does not stop is ready."""
        readiness = Readiness()
        self.assertEqual(readiness.reason(), "not listening")
        readiness.listening = True
        self.assertIsNone(readiness.reason())
        readiness.draining = True
        self.assertEqual(readiness.reason(), "draining")

    def test_checks(self) -> None:
        """Others are asked as well, each time; the first that has a reason gives it."""
        reasons: list[str | None] = [None, "the broker can't be reached", "nor that"]
        readiness = Readiness(*(lambda n=n: reasons[n] for n in range(3)))
        readiness.listening = True
        self.assertEqual(readiness.reason(), "the broker can't be reached")
        reasons[1:] = [None, None]
        self.assertIsNone(readiness.reason())
