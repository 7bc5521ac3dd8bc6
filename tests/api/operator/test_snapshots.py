"""``/snapshots``: all metrics once a second, for those who look."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from pushd import __version__
from pushd.api.operator import snapshots as module
from pushd.errors import BadRequest
from pushd.testing import RawConnection
from pushd.topics.redis.address import parse_broker
from tests.support.topic_clients import RawWebSocketClient, TopicTestCase

REQUEST = b"GET /snapshots HTTP/1.1\r\nHost: localhost:8081\r\n\r\n"


def read_events(connection: RawConnection) -> list[tuple[str, Any]]:
    """Return the events of a stream, each with its kind and its value."""
    _, _, rest = connection.received.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    found = []
    for event in body.decode().split("\n\n")[:-1]:
        kind, data = event.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


class SnapshotTests(TopicTestCase):
    """A daemon, and viewers at its control port."""

    def look(self) -> RawConnection:
        """Open a stream."""
        connection = self.daemon.open_connection(control=True)
        connection.send(REQUEST)
        return connection

    def is_reading(self) -> bool:
        """Whether a timer of the snapshots runs."""
        owners = [
            getattr(getattr(call, "func", None), "__self__", None)
            for call in self.daemon.pending_calls
        ]
        return any(isinstance(owner, module.Snapshots) for owner in owners)

    def test_first(self) -> None:
        """A viewer gets what does not change, and all series at once, as /metrics has them."""
        self.daemon.advance(60)
        viewer = self.look()
        head = viewer.received.partition(b"\r\n\r\n")[0].decode().lower()
        self.assertIn("content-type: text/event-stream; charset=utf-8", head)
        (kind, about), (second, snapshot) = read_events(viewer)
        self.assertEqual((kind, second), ("about", "snapshot"))
        self.assertEqual(
            about,
            {
                "version": __version__,
                "started": 0,
                "broker": "memory",
                "state": False,
                "page": "on",
                "interval": 1,
            },
        )
        self.assertEqual(snapshot["time"], 60)
        series = snapshot["series"]
        self.assertEqual(series['pushd_connections{state="open",transport="websocket"}'], 0)
        self.assertEqual(series['pushd_publish_seconds_bucket{le="+Inf"}'], 0)
        text = self.control("GET", "/metrics").text
        for name in series:
            self.assertIn(f"\n{name} ", text)

    def test_about(self) -> None:
        """The first event says what the page may do, and where topics are, without a password."""
        self.start(control_page="view", broker=parse_broker("redis://me:secret@127.0.0.1:1/"))
        [(_, about), *_] = read_events(self.look())
        self.assertEqual(about["page"], "view")
        self.assertIn("***", about["broker"])
        self.assertNotIn("secret", about["broker"])

    def test_changes(self) -> None:
        """Each second brings those series that have changed, to all viewers alike."""
        first = self.look()
        RawWebSocketClient(self.daemon, "t")
        self.publish("t", "x")
        self.daemon.advance(0.5)
        second = self.look()
        self.daemon.advance(0.5)
        kind, snapshot = read_events(first)[-1]
        self.assertEqual((kind, snapshot["time"]), ("snapshot", 1))
        series = snapshot["series"]
        self.assertEqual(series["pushd_deliveries_total"], 1)
        self.assertEqual(series['pushd_connections{state="open",transport="websocket"}'], 1)
        self.assertNotIn("pushd_connections_limit", series)
        self.assertEqual(read_events(second)[-1], read_events(first)[-1])
        self.daemon.advance(1)
        self.assertEqual(read_events(first)[-1], ("snapshot", {"time": 2, "series": {}}))
        self.assertEqual((len(read_events(first)), len(read_events(second))), (4, 4))

    def test_nobody(self) -> None:
        """Nothing is read, and no timer runs, while nobody looks."""
        self.assertFalse(self.is_reading())
        viewers = [self.look(), self.look()]
        self.assertTrue(self.is_reading())
        viewers[0].leave()
        self.assertTrue(self.is_reading())
        viewers[1].leave()
        self.assertFalse(self.is_reading())
        self.assertEqual(len(read_events(self.look())), 2)

    def test_share(self) -> None:
        """Reading takes at most a fiftieth of the time: if it takes long, it is done less often."""
        clock, durations = Clock(), [0.0, 0.01, 0.1, 0.0]
        read: list[float] = []

        def read_series() -> dict[str, float]:
            clock.rightNow += durations[len(read)]
            read.append(round(clock.seconds(), 1))
            return {}

        request = SimpleNamespace(write=lambda data: None)
        snapshots = module.Snapshots(clock, read_series, clock.seconds, {})
        viewer = module.SnapshotStream(request, snapshots)
        snapshots.add(viewer)
        clock.pump([0.01] * 710)
        # The third took a tenth of a second, so the fourth comes five seconds later.
        self.assertEqual(read, [0, 1.0, 2.1, 7.1])
        snapshots.remove(viewer)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_slow(self) -> None:
        """A viewer that does not read is sent one snapshot at most, and all series afterwards."""
        self.patch(module, "to_json", lambda value: json.dumps(value) + " " * (1 << 17))
        slow, quick = self.look(), self.look()
        slow.stall()
        self.daemon.advance(1, 1, 1, 1)
        self.assertEqual(len(read_events(quick)), 6)
        slow.resume()
        before = len(read_events(slow))
        self.assertLess(before, 6)
        self.daemon.advance(1)
        after = read_events(slow)[before:]
        self.assertEqual([value["time"] for _, value in after], [5])
        self.assertIn("pushd_connections_limit", after[0][1]["series"])
        self.daemon.advance(1)
        self.assertEqual(read_events(slow)[-1], ("snapshot", {"time": 6, "series": {}}))

    def test_many(self) -> None:
        """There are at most 32 viewers; one more is told to come back."""
        viewers = [self.look() for _ in range(32)]
        answer = self.control("GET", "/snapshots")
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "5"))
        self.assertEqual(json.loads(answer.body)["error"], "at most 32 viewers at once")
        viewers[0].leave()
        self.assertEqual(len(read_events(self.look())), 2)

    def test_half_closed(self) -> None:
        """The stream of a client that has closed its side ends: it may be gone."""
        viewer = self.look()
        viewer._transport.loseWriteConnection()
        self.daemon.settle()
        self.assertTrue(viewer.received.endswith(b"0\r\n\r\n"))
        self.assertFalse(self.is_reading())

    def test_stop(self) -> None:
        """Streams go on while connections are drained, and end when the control port closes."""
        self.start(drain=4)
        RawWebSocketClient(self.daemon, "t").stall()
        viewer = self.look()
        stopped = self.daemon.begin_stop()
        self.daemon.advance(1)
        self.assertFalse(viewer.received.endswith(b"0\r\n\r\n"))
        self.daemon.advance(1, 1, 1, 1, 5, 5)
        self.assertTrue(viewer.received.endswith(b"0\r\n\r\n"))
        self.assertTrue(viewer.closed)
        self.assertTrue(stopped.called)
        self.assertFalse(self.is_reading())

    def test_refused_at_the_end(self) -> None:
        """No stream begins after that."""
        snapshots = module.Snapshots(self.daemon.clock, dict, self.daemon.clock.seconds, {})
        snapshots.require_room()
        snapshots.stop()
        with self.assertRaises(BadRequest) as refused:
            snapshots.require_room()
        self.assertEqual(refused.exception.status, 503)

    def test_methods(self) -> None:
        """HEAD gets the headers alone; other methods, and parameters, are refused."""
        answer = self.control("HEAD", "/snapshots")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/event-stream; charset=utf-8")
        answer = self.control("OPTIONS", "/snapshots")
        self.assertEqual((answer.status, answer.headers["Allow"]), (204, "GET, HEAD, OPTIONS"))
        self.assertEqual(self.control("POST", "/snapshots").status, 405)
        self.assertEqual(self.control("GET", "/snapshots?a=1").status, 400)
