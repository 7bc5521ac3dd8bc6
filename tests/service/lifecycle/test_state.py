"""``--state`` in a whole daemon: over HTTP, in metrics, and at its start and stop."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.options.settings import Settings
from pushd.service.build import build
from pushd.testing import Daemon
from pushd.topics.redis.address import RedisAddress
from pushd.topics.state.database import FILE, SYNCS
from tests.support.folder import make_folder
from tests.support.recording_reactor import RecordingReactor, make_runtime


class StateServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder."""
        self.folder = make_folder(self)

    def start(self, **settings: Any) -> Daemon:
        """Start a daemon."""
        return Daemon({}, state=self.folder, **settings)

    def publish(self, daemon: Daemon, data: bytes, **headers: str) -> Any:
        """Publish over HTTP, and return status and JSON."""
        answer = daemon.request("POST", "/topics/t", headers, data, control=True)
        assert answer is not None
        return answer.status, json.loads(answer.text)

    def poll(self, daemon: Daemon, after: str) -> Any:
        """Return what a long poll gets."""
        answer = daemon.get(f"/topics/t?after={after}&wait=0")
        assert answer is not None
        found = json.loads(answer.text)
        return found["recovered"], [one["data"] for one in found["publications"]]

    def test_restart(self) -> None:
        """Subscribers resume through a restart, over HTTP, with each --state-sync."""
        for sync in SYNCS:
            self.folder = make_folder(self)
            daemon = self.start(state_sync=sync)
            ids = [self.publish(daemon, data)[1]["id"] for data in (b"a", b"b")]
            daemon.stop()
            self.assertEqual(daemon.pending_calls, [])
            daemon = self.start(state_sync=sync)
            self.assertEqual(self.poll(daemon, ids[0]), (True, ["b"]))
            daemon.stop()

    def test_schedules(self) -> None:
        """Scheduled publications outlive the daemon, and may be made while it stops."""
        daemon = self.start(drain=10)
        daemon.connect("/topics/t", subprotocols=["pushd.v1"])
        id = self.publish(daemon, b"a")[1]["id"]
        daemon.begin_stop()
        answer = daemon.request("POST", "/topics/t?every=60&count=2", body=b"b", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 202)
        daemon.stop()
        self.assertEqual(daemon.pending_calls, [])
        daemon = self.start()
        answer = daemon.request("GET", "/schedules", control=True)
        assert answer is not None
        (schedule,) = json.loads(answer.text)["schedules"]
        self.assertEqual((schedule["done"], schedule["topic"]), (1, "t"))
        daemon.advance(60)
        self.assertEqual(self.poll(daemon, id), (True, ["b", "b"]))
        daemon.stop()

    def test_stop_writes(self) -> None:
        """What is published while the daemon stops is written as well."""
        daemon = self.start(drain=10)
        browser = daemon.connect("/topics/t", subprotocols=["pushd.v1"])
        daemon.begin_stop()
        id = self.publish(daemon, b"late")[1]["id"]
        daemon.stop()
        self.assertEqual(len(browser.messages), 2)
        daemon = self.start()
        self.assertEqual(self.poll(daemon, id.replace(":1", ":0")), (True, ["late"]))
        daemon.stop()

    def test_metrics(self) -> None:
        """Metrics say whether it can be written, what is not written yet, and its size."""
        daemon = self.start()
        self.publish(daemon, b"a")
        self.publish(daemon, b"b")
        answer = daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        lines = dict(line.split(" ") for line in answer.text.splitlines() if line[0] != "#")
        self.assertEqual(lines["pushd_state_up"], "1.0")
        self.assertIn(lines["pushd_state_unwritten"], ("0.0", "1.0"))
        self.assertGreater(float(lines["pushd_state_bytes"]), 4096)
        daemon.stop()

    def test_unusable(self) -> None:
        """If the directory cannot be used, the process ends with one line."""
        (self.folder / FILE).mkdir()
        with self.assertRaises(SystemExit) as raised:
            self.start()
        self.assertEqual(raised.exception.code, f"pushd: --state {self.folder}: Is a directory")

    def test_redis(self) -> None:
        """With a Redis, topics are there: that the directory is not used is logged."""
        settings = Settings(
            state=self.folder, broker=RedisAddress(hosts=(("localhost", 6379),)), control=()
        )
        with capturedLogs() as events:
            build(settings, make_runtime(RecordingReactor()))
        self.assertIn("state_unused", [event.get("event") for event in events])
        self.assertEqual(list(self.folder.iterdir()), [])
