"""``/schedules`` at the control port: the timed pushes, listed and cancelled."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import capturedLogs

from pushd.testing.daemon import Daemon
from tests.listeners import JsonSocket, RawSocket, TopicTestCase


class ScheduleTests(TopicTestCase):
    """What is to come, and what can be done about it."""

    def add(self, query: str, topic: str = "t") -> str:
        """Make one; gives its name."""
        answer = self.control("POST", f"/topics/{topic}?{query}", b"x")
        self.assertEqual(answer.status, 202)
        name = json.loads(answer.body)["schedule"]
        assert isinstance(name, str)
        return name

    def list(self) -> list[dict[str, Any]]:
        """All there are."""
        schedules = json.loads(self.control("GET", "/schedules").body)["schedules"]
        assert isinstance(schedules, list)
        return schedules

    def test_list(self) -> None:
        """Those that have something to do, the oldest first, and how far they are."""
        self.assertEqual(self.list(), [])
        first, second = self.add("every=1&count=3"), self.add("delay=1.5", "u")
        self.daemon.advance(1)
        self.assertEqual(
            self.list(),
            [
                {"schedule": first, "topic": "t", "count": 3, "done": 2, "every": 1.0},
                {"schedule": second, "topic": "u", "count": 1, "done": 0, "every": 0},
            ],
        )
        self.daemon.advance(0.5)
        self.assertEqual([one["schedule"] for one in self.list()], [first])
        self.daemon.advance(0.5)
        self.assertEqual(self.list(), [])

    def test_too_late(self) -> None:
        """While the daemon stops none is taken: it would be lost at once."""
        stopping = Daemon(drain=30)
        self.addCleanup(stopping.stop)
        RawSocket(stopping, "t")
        stopping.begin_stop()
        query = "/topics/t?delay=1"
        answer = stopping.request("POST", query, body=b"x", control=True)
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (503, "schedules"))

    def test_one(self) -> None:
        """One of them by its name."""
        name = self.add("delay=1")
        answer = self.control("GET", f"/schedules/{name}")
        self.assertEqual(json.loads(answer.body), self.list()[0])

    def test_cancel(self) -> None:
        """DELETE cancels it; nothing of it comes any more, and it is not known any more."""
        listener = JsonSocket(self.daemon, "t")
        name = self.add("every=1&count=3")
        answer = self.control("DELETE", f"/schedules/{name}")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.daemon.advance(5)
        self.assertEqual(len(listener.data), 1)
        for method in ("GET", "DELETE"):
            answer = self.control(method, f"/schedules/{name}")
            self.assertEqual(answer.status, 404)
            self.assertEqual(json.loads(answer.body)["where"], "schedule")

    def test_method(self) -> None:
        """Another method is refused, with those that there are."""
        for path, allowed in (("/schedules", "GET"), ("/schedules/x", "GET, DELETE")):
            answer = self.control("POST", path)
            self.assertEqual(answer.status, 405)
            self.assertEqual(answer.headers["Allow"], allowed)
            self.assertEqual(json.loads(answer.body)["where"], "method")

    def test_stop(self) -> None:
        """A stop of the daemon cancels all, and the log says what is lost."""
        self.add("every=1&count=3")
        self.add("delay=7", "u")
        with capturedLogs() as logs:
            self.daemon.stop()
        lost = [event for event in logs if event.get("event") == "timed_push_lost"]
        self.assertEqual([(one["topic"], one["left"]) for one in lost], [("t", 2), ("u", 1)])
        self.assertEqual(self.daemon.pending_calls, [])
