"""The metrics of a daemon; the dashboard and docs/monitoring.md show every one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__
from pushd.schedule.ticks import PushSchedule
from pushd.service.metrics import LagMeter
from pushd.testing import Daemon
from pushd.topics.redis.address import parse_broker
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import CLOSE, Peer, close_frame, handshake, request

ROOT = Path(__file__).parents[2]


@accept_websocket
async def echo(request: Request) -> str | None:
    """Echo every message; leave a plain request unanswered."""
    if not request.is_websocket():
        return await Deferred()
    async for message in request.websocket:
        request.websocket.send(message)
    return None


@accept_websocket
async def pace(request: Request) -> None:
    """Send five numbers."""
    async for number in PushSchedule(request.clock, count=5, interval=1):
        request.websocket.send(str(number))


@accept_websocket
def block(request: Request) -> None:
    """Wait for a message in a thread."""
    request.websocket.wait()


async def fail(request: Request) -> None:
    """Raise."""
    raise ValueError("on purpose")


def read(daemon: Daemon) -> dict[str, float]:
    """Return the value of each sample, by its name and the values of its labels."""
    answer = daemon.request("GET", "/metrics", control=True)
    assert answer is not None
    return {
        " ".join(
            [sample.name, *(sample.labels[name] for name in sorted(sample.labels))]
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


class MetricsCollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        views = {"/echo/": echo, "/pace/": pace, "/block/": block, "/fail/": fail}
        self.daemon = Daemon(views, threads=3, max_connections=50)

    def connections(self) -> dict[str, float]:
        """Return the numbers of connections by state and transport, without zeros."""
        return {
            name.removeprefix("pushd_connections "): count
            for name, count in read(self.daemon).items()
            if name.startswith("pushd_connections ") and count
        }

    def test_states(self) -> None:
        """Each connection is counted in exactly one state."""
        self.assertEqual(self.connections(), {})
        reading, idle, answering = (Peer(self.daemon) for _ in range(3))
        reading.send(b"GET")
        self.assertEqual(self.connections(), {"reading http": 3})
        idle.send(request("GET /nothing HTTP/1.1", "Host: a"))
        answering.send(request("GET /echo/ HTTP/1.1", "Host: a"))
        stream, poll, websocket = (Peer(self.daemon) for _ in range(3))
        stream.send(request("GET /topics/a HTTP/1.1", "Host: a", "Accept: text/event-stream"))
        poll.send(request("GET /topics/a HTTP/1.1", "Host: a"))
        websocket.send(handshake("/echo/"))
        expected = {
            f"{state}": 1.0
            for state in (
                "reading http",
                "idle http",
                "answering http",
                "open sse",
                "open longpoll",
                "open websocket",
            )
        }
        self.assertEqual(self.connections(), expected)
        bad = Peer(self.daemon)
        bad.stall()
        bad.send(b"\x00\r\n\r\n")
        self.assertEqual(self.connections(), {**expected, "closing http": 1})
        for peer in (reading, idle, answering, stream, poll, websocket, bad):
            peer.vanish()
        self.assertEqual(self.connections(), {})

    def test_closing(self) -> None:
        """A WebSocket that waits for the peer's Close frame is closing."""
        peer = Peer(self.daemon)
        peer.send(handshake("/echo/"))
        self.daemon.begin_stop()
        peer.settle()
        self.assertEqual(peer.frames[-1].opcode, CLOSE)
        self.assertEqual(self.connections(), {"closing websocket": 1})
        peer.send(close_frame(1001))
        self.assertEqual(self.connections(), {})

    def test_traffic(self) -> None:
        """Messages and bytes in each direction are counted, and kept after the connection ends.

        Publications count as well, although fan-out groups write them directly to sockets.
        """
        browser = self.daemon.connect("/echo/")
        browser.send("caf\u00e9")
        browser.send(b"x" * 1000)
        for leave in (False, True):
            if leave:
                browser.leave()
            now = read(self.daemon)
            self.assertEqual(now["pushd_received_messages_total"], 2)
            self.assertEqual(now["pushd_received_bytes_total"], 1005)
            self.assertEqual(now["pushd_sent_messages_total websocket"], 2)
            # Including the headers of two frames.
            self.assertEqual(now["pushd_sent_bytes_total websocket"], 1011)
        self.assertEqual(now["pushd_sent_messages_total sse"], 0)
        client = self.daemon.connect("/topics/a")
        for _ in range(3):
            self.daemon.request("POST", "/topics/a", body=b"12345", control=True)
        self.assertEqual(client.messages, ["12345"] * 3)
        now = read(self.daemon)
        self.assertEqual(now["pushd_sent_messages_total websocket"], 5)
        self.assertEqual(now["pushd_sent_bytes_total websocket"], 1032)

    def test_topics(self) -> None:
        """Event streams and long polls count what they send; publishing is timed."""
        stream, poll = Peer(self.daemon), Peer(self.daemon)
        stream.send(request("GET /topics/a HTTP/1.1", "Host: a", "Accept: text/event-stream"))
        head = len(stream.body)
        poll.send(request("GET /topics/a HTTP/1.1", "Host: a"))
        self.daemon.request("POST", "/topics/a", body="caf\u00e9".encode(), control=True)
        poll.settle()
        stream.settle()
        now = read(self.daemon)
        # The first event has the id after which publications follow.
        self.assertEqual(now["pushd_sent_messages_total sse"], 2)
        self.assertGreater(now["pushd_sent_bytes_total sse"], head // 2)
        self.assertEqual(now["pushd_sent_messages_total longpoll"], 1)
        # As written, with a comma.
        item = poll.body.partition(b"[")[2].removesuffix(b"]}\n")
        self.assertEqual(now["pushd_sent_bytes_total longpoll"], len(b"," + item))
        self.assertEqual(now["pushd_publish_seconds_count"], 1)

    def test_lateness(self) -> None:
        """The lateness of each push is measured, for each daemon separately."""
        other = Daemon({"/pace/": pace})
        other.connect("/pace/")
        self.daemon.connect("/pace/")
        self.daemon.advance(1, 2.2, 0.8)
        now = read(self.daemon)
        self.assertEqual(now["pushd_push_lateness_seconds_count"], 5)
        # The third was 1.2 s late, the fourth 0.2 s.
        self.assertAlmostEqual(now["pushd_push_lateness_seconds_sum"], 1.4)
        self.assertEqual(read(other)["pushd_push_lateness_seconds_count"], 1)

    def test_threads(self) -> None:
        """A thread is busy while its view runs."""
        browser = self.daemon.connect("/block/")
        now = read(self.daemon)
        self.assertEqual((now["pushd_threads_busy view"], now["pushd_threads_limit view"]), (1, 3))
        self.assertEqual(now["pushd_threads_waiting view"], 0)
        self.assertNotIn("pushd_threads_busy page", now)
        browser.send("go")
        self.assertEqual(read(self.daemon)["pushd_threads_busy view"], 0)

    def test_threads_of_pages(self) -> None:
        """Threads for an application's pages are counted apart, and busy until a page is sent.

        Without an application they are not exported.
        """

        def application(environ: dict[str, Any], start: Any) -> list[bytes]:
            start("200 OK", [])
            return [bytes(1 << 20)] * 5

        self.daemon = Daemon(wsgi=application, wsgi_threads=2)
        connection = self.daemon.open_connection()
        connection.stall()
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        now = read(self.daemon)
        self.assertEqual((now["pushd_threads_busy page"], now["pushd_threads_limit page"]), (1, 2))
        self.assertEqual(now["pushd_threads_busy view"], 0)
        self.assertEqual(now["pushd_threads_waiting page"], 0)
        connection.resume()
        self.assertEqual(read(self.daemon)["pushd_threads_busy page"], 0)

    def test_view_errors(self) -> None:
        """A view that raises is counted; one whose client disconnects is not."""
        self.daemon.connect("/echo/").leave()
        self.assertEqual(read(self.daemon)["pushd_view_errors_total"], 0)
        self.daemon.get("/fail/")
        self.assertEqual(read(self.daemon)["pushd_view_errors_total"], 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_broker(self) -> None:
        """The broker is up in memory, and down if Redis cannot be reached."""
        self.assertEqual(read(self.daemon)["pushd_broker_up"], 1)
        away = Daemon(broker=parse_broker("redis://127.0.0.1:1"))
        self.assertEqual(read(away)["pushd_broker_up"], 0)

    def test_limit(self) -> None:
        """The connection limit is exported."""
        self.assertEqual(read(self.daemon)["pushd_connections_limit"], 50)

    def test_timers(self) -> None:
        """Timers of the reactor and of the clock of views are counted until they are due."""
        before = read(self.daemon)["pushd_timers"]
        calls = [self.daemon.clock.callLater(delay, int) for delay in (1, 2)]
        self.assertEqual(read(self.daemon)["pushd_timers"], before + 2)
        calls[0].cancel()
        self.assertEqual(read(self.daemon)["pushd_timers"], before + 1)
        self.daemon.advance(2)
        self.assertEqual(read(self.daemon)["pushd_timers"], before)
        answer = self.daemon.request("POST", "/topics/a?delay=60", body=b"later", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 202)
        # That of the publication, and the one with which its clock waits for it.
        self.assertEqual(read(self.daemon)["pushd_timers"], before + 2)


class BuildTests(SynchronousTestCase):
    def test_labels(self) -> None:
        """One series has the versions and the event loop in its labels."""
        for loop in ("twisted", "asyncio"):
            with Daemon(loop=loop) as daemon:
                answer = daemon.request("GET", "/metrics", control=True)
            assert answer is not None
            (labels,) = re.findall(r"(?m)^pushd_build_info\{(.*)\} 1\.0$", answer.text)
            found = dict(re.findall(r'(\w+)="([^"]+)"', labels))
            self.assertEqual(found.keys(), {"version", "python", "twisted", "loop"})
            self.assertEqual((found["version"], found["loop"]), (__version__, loop))


class DocumentationTests(SynchronousTestCase):
    """deploy/grafana-pushd.json and docs/monitoring.md."""

    def exported(self) -> set[str]:
        """Return the names of all metrics, with the suffix of their kind."""
        daemon = Daemon()
        daemon.connect("/test/").leave()
        answer = daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        names = set(re.findall(r"(?m)^# TYPE (\S+) (?:counter|gauge|histogram)$", answer.text))
        return {name for name in names if not name.endswith("_created")}

    def used(self) -> set[str]:
        """Return the names of the metrics that the dashboard queries."""
        dashboard = (ROOT / "deploy/grafana-pushd.json").read_text()
        names = set(re.findall(r"\bpushd_\w+", " ".join(_values(json.loads(dashboard), "expr"))))
        return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}

    def test_dashboard(self) -> None:
        """The dashboard shows every metric, and no other."""
        self.assertEqual(self.used(), self.exported())

    def test_documented(self) -> None:
        """docs/monitoring.md has a row for every metric, and no other."""
        text = (ROOT / "docs/monitoring.md").read_text()
        self.assertEqual(set(re.findall(r"(?m)^\| `(pushd_\w+)", text)), self.exported())

    def test_names(self) -> None:
        """Times are in seconds, help texts are sentences, and labels have few values."""
        daemon = Daemon()
        answer = daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        for family in text_string_to_metric_families(answer.text):
            self.assertTrue(family.documentation.endswith("."), family.name)
            if family.type == "histogram":
                self.assertTrue(family.name.endswith("_seconds"), family.name)
            labels = {label for sample in family.samples for label in sample.labels}
            few = {"reason", "code", "transport", "state", "kind", "le"}
        # Of the one series about what runs.
        few |= {"version", "python", "twisted", "loop"}
        self.assertLessEqual(labels, few)


def _values(tree: Any, key: str) -> list[str]:
    """Return the values of a key at any depth."""
    if isinstance(tree, list):
        return [value for one in tree for value in _values(one, key)]
    if not isinstance(tree, dict):
        return []
    own = [tree[key]] if key in tree else []
    return own + [value for one in tree.values() for value in _values(one, key)]


class LagMeterTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a meter."""
        self.clock = Clock()
        self.meter = LagMeter(self.clock)
        self.meter.startService()

    def read(self) -> tuple[float, float]:
        """Return the number of measurements, and the sum of the delays."""
        return self.meter.lag.buckets[-1][1], round(self.meter.lag.sum, 6)

    def test_in_time(self) -> None:
        """An idle reactor has no lag."""
        self.clock.pump([0.25] * 4)
        self.assertEqual(self.read(), (4, 0))

    def test_late(self) -> None:
        """A blocked reactor shows in one measurement; the next is measured on its own."""
        self.clock.advance(2.25)
        self.assertEqual(self.read(), (1, 2))
        self.clock.advance(0.3)
        self.assertEqual(self.read(), (2, 2.05))

    def test_back_in_time(self) -> None:
        """A clock that was set back gives no negative lag."""
        self.clock.rightNow -= 100
        self.clock.advance(100.25)
        self.assertEqual(self.read(), (1, 0))

    def test_stop(self) -> None:
        """A stopped meter leaves no timer; it can be stopped again."""
        self.meter.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.meter.stopService()
