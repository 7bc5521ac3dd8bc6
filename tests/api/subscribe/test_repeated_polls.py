"""Polls that follow each other on one connection are answered as any others, with less work."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY
from pushd.access.origins import Hosts, Origins
from pushd.access.proxies import Proxies
from pushd.api.subscribe import repeated_polls
from pushd.api.subscribe.repeated_polls import RepeatedPolls
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.http.request import ChannelRequest
from pushd.testing import RawConnection
from pushd.topics.hub import Hub
from pushd.topics.rules import Rule, Rules
from tests.support.keyring import secret_keys, token
from tests.support.peer import said
from tests.support.topic_clients import TopicTestCase

HOST = "localhost:8080"


class Failing(Exception):
    """The error that these tests raise."""


class RepeatedPollTestCase(TopicTestCase):
    """A client that polls over one connection, and the number of heads that are parsed."""

    def setUp(self) -> None:
        """Start a daemon with fast paths, and count heads."""
        self.patch(FAST_PATHS, "enabled", True)
        super().setUp()
        self.heads = 0
        received = ChannelRequest.requestReceived

        def count(request: ChannelRequest, command: bytes, path: bytes, version: bytes) -> None:
            self.heads += path.startswith(b"/topics/t?")
            received(request, command, path, version)

        self.patch(ChannelRequest, "requestReceived", count)

    def open(self) -> None:
        """Connect, and count from now on."""
        self.connection: RawConnection = self.daemon.open_connection()
        self.have_read = self.heads = 0

    def poll(self, id: str, query: str = "", *lines: str) -> None:
        """Send a poll."""
        head = [f"GET /topics/t?after={id}{query} HTTP/1.1", f"Host: {HOST}", *lines, "", ""]
        self.connection.send("\r\n".join(head).encode())

    def read(self) -> bytes:
        """Return what was received since the last call."""
        received = self.connection.received
        response, self.have_read = received[self.have_read :], len(received)
        return response

    def value(self, status: int = 200) -> dict[str, Any]:
        """Return the JSON of a response."""
        head, _, body = self.read().partition(b"\r\n\r\n")
        self.assertRegex(head, rf"^HTTP/1\.1 {status} ".encode())
        value: dict[str, Any] = json.loads(body)
        return value

    def wait_twice(self, query: str = "", *lines: str, heads: int = 1) -> str:
        """Let a poll wait that is the second of its kind; return its id."""
        first = self.publish("t", "1")
        self.open()
        self.poll(first, query, *lines)
        id = self.publish("t", "2")
        self.assertEqual(self.value()["id"], id)
        self.poll(id, query, *lines)
        self.assertEqual(self.heads, heads)
        self.assertEqual(self.read(), b"")
        return id

    def reload(self, **settings: Any) -> None:
        """Put settings in force, as a reload does."""
        for apply in self.daemon._service.appliers:
            apply(replace(self.daemon.settings, **settings))


class SameAnswerTests(RepeatedPollTestCase):
    """What a client, an operator and the log see does not differ from plain polls."""

    def run_polls(
        self, *lines: str, query: str = "", colon: str = ":", plain: bool
    ) -> tuple[list[bytes], list[str], bytes]:
        """Return the answers to five polls, the log, and the metrics of deliveries."""
        self.start(origins=Origins(["https://other.example"]))
        site: Any = self.daemon._sites[0]
        site.connections.reads_whole = not plain
        id = self.publish("t", "1")
        epoch = id.partition(":")[0]
        answers = []
        with capturedLogs() as events:
            self.open()
            for number in range(5):
                self.poll(id.replace(":", colon), query, *lines)
                self.assertEqual(self.read(), b"")
                if number % 2:
                    self.daemon.advance(30)
                else:
                    id = self.publish("t", '{"a": 1}', is_json=True)
                answers.append(self.read())
        self.assertEqual(self.heads, 5 if plain else 1)
        cleaned = [re.sub(rb"Date: [^\r]*", b"Date:", one) for one in answers]
        cleaned = [one.replace(epoch.encode(), b"e") for one in cleaned]
        lines_of_log = [one.replace(epoch, "e") for one in said(events)]
        metrics = self.control("GET", "/metrics").body
        counted = b"\n".join(one for one in metrics.split(b"\n") if b"longpoll" in one)
        return cleaned, [re.sub(r":5\d{4}", "", one) for one in lines_of_log], counted

    def test_same(self) -> None:
        """Heads, bodies, log lines and metrics are the same."""
        for lines, query, colon in [
            ([], "", ":"),
            (["User-Agent: x", "Origin: https://other.example"], "&format=json&wait=20", "%3A"),
        ]:
            repeated = self.run_polls(*lines, query=query, colon=colon, plain=False)
            plain = self.run_polls(*lines, query=query, colon=colon, plain=True)
            self.assertEqual(repeated, plain)
            self.assertEqual(len(repeated[0]), 5)

    def test_origin(self) -> None:
        """A page of another origin may read the answer to a repeated poll, too."""
        origin = "https://other.example"
        answers, _, _ = self.run_polls(f"Origin: {origin}", plain=False)
        for answer in answers:
            self.assertIn(f"Access-Control-Allow-Origin: {origin}\r\n".encode(), answer)

    def test_several(self) -> None:
        """Publications that come one by one before the answer are all in it, in their order."""
        id = self.wait_twice()
        hub: Hub = self.daemon._service._broker._deliver.__self__  # type: ignore[attr-defined]
        broker = self.daemon._service._broker
        with self.daemon._run():
            broker.publish("t", "3")
            hub.flush()
            broker.publish("t", "4")
            hub.flush()
        self.daemon.settle()
        value = self.value()
        self.assertEqual([one["data"] for one in value["publications"]], ["3", "4"])
        self.assertEqual((value["recovered"], id != value["id"]), (True, True))

    def test_long(self) -> None:
        """A long response is not kept for the next poll."""
        self.patch(repeated_polls, "_MAX_KEPT", 1000)
        self.wait_twice()
        for data in ("x" * 2000, "y" * 2000):
            id = self.publish("t", data)
            self.assertEqual(self.value()["publications"], [{"id": id, "data": data}])
            self.poll(id)
        self.assertEqual(self.heads, 1)

    def test_many_clients(self) -> None:
        """All polls that a publication answers get the same bytes."""
        id = self.publish("t", "1")
        connections = [self.daemon.open_connection() for _ in range(3)]
        for connection in connections:
            connection.send(f"GET /topics/t?after={id} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        self.publish("t", "2")
        self.assertEqual(len({connection.received for connection in connections}), 1)


class PlainTests(RepeatedPollTestCase):
    """Anything else is parsed."""

    def test_other_head(self) -> None:
        """Another head, an older id, or a part of the head is parsed as always."""
        for number, lines in enumerate([["Cookie: a=b"], []]):
            id = self.wait_twice()
            last = self.publish("t", "3")
            self.value()
            self.poll(id if number else last, "", *lines)
            self.assertEqual(self.heads, 2)
            self.publish("t", "4")
            self.value()
        self.connection.send(b"GET /topics/t?wait=0")
        self.connection.send(f" HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        self.value()

    def test_ids_elsewhere(self) -> None:
        """Polls that give their id in another way, or close, are parsed, each."""
        id = self.publish("t", "1")
        for query, lines in [
            ("", ["Connection: close"]),
            ("&after=", []),
            ("", [f"Last-Event-ID: {id}"]),
            ("&client=%61fter=", []),
        ]:
            self.open()
            self.poll(id, query, *lines)
            self.publish("t", "2")
            self.read()
        self.open()
        self.poll(id.replace(":", "%3a"))
        self.assertEqual(self.value()["recovered"], True)

    def test_reload(self) -> None:
        """After a reload, the next poll is parsed and checked again."""
        self.wait_twice()
        self.reload(hosts=Hosts(["other.example"]))
        id = self.publish("t", "3")
        self.value()
        self.poll(id)
        self.assertEqual(self.heads, 2)
        self.assertRegex(self.read(), rb"^HTTP/1.1 421 ")

    def test_presence(self) -> None:
        """A topic with presence, or a client that asks for it, is served as always."""
        self.start(rules=Rules([Rule(match="t", presence=True)]))
        self.wait_twice("&client=a", heads=2)

    def test_pipelined(self) -> None:
        """A request that comes during a poll is answered after it."""
        self.wait_twice()
        self.connection.send(f"GET /nothing HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        self.publish("t", "3")
        self.assertRegex(self.read(), rb"(?s)^HTTP/1.1 200 .*HTTP/1.1 404 ")

    def test_slots(self) -> None:
        """Polls behind a proxy take a slot for their client each, and are parsed."""
        self.start(proxies=Proxies(["127.0.0.1"]))
        self.wait_twice("", "X-Forwarded-For: 192.0.2.1", heads=2)


class EndTests(RepeatedPollTestCase):
    """The end of a repeated poll, and of its connection."""

    def test_left(self) -> None:
        """A client that leaves is logged, and leaves nothing behind; between two polls, too."""
        self.wait_twice()
        with capturedLogs() as events:
            self.connection.leave()
        self.assertIn("left unanswered", said(events)[0])
        self.assertEqual(self.describe("t")["subscribers"], {})
        self.wait_twice()
        self.publish("t", "3")
        with capturedLogs() as events:
            self.connection.leave()
        self.assertEqual(said(events), [])
        connections = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual(connections, [])

    def test_end_of_input(self) -> None:
        """A client that closes its side while it waits gets what there is, and the end."""
        id = self.wait_twice()
        self.connection._transport.loseWriteConnection()
        self.daemon.settle()
        self.assertEqual(self.value(), {"id": id, "recovered": True, "publications": []})
        self.assertTrue(self.connection.closed)

    def test_stop(self) -> None:
        """A stop of the daemon answers a repeated poll, and closes its connection."""
        id = self.wait_twice()
        self.daemon.begin_stop()
        self.assertEqual(self.value()["id"], id)
        self.assertTrue(self.connection.closed)

    def test_stop_between(self) -> None:
        """While the daemon stops, a poll is refused even if it is expected."""
        self.wait_twice()
        id = self.publish("t", "3")
        self.value()
        connections = self.daemon._service.connections
        connections.closing = GOING_AWAY
        self.poll(id)
        connections.closing = None
        self.assertEqual(self.heads, 2)
        self.assertRegex(self.read(), rb"^HTTP/1.1 503 ")

    def test_keep_alive(self) -> None:
        """A connection without a next poll is closed after ``--keep-alive``."""
        self.wait_twice()
        self.publish("t", "3")
        self.daemon.advance(3600)
        self.assertTrue(self.connection.closed)

    def test_token(self) -> None:
        """A repeated poll ends when its token does, and a later one is refused."""
        self.start(token_keys=secret_keys())
        query = f"&wait=50&token={token('reader', subscribe=['t'], exp=60)}"
        id = self.wait_twice(query)
        listed = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual([one["subject"] for one in listed], ["reader"])
        for seconds in (50, 10):
            self.daemon.advance(seconds)
            self.assertEqual(self.value()["publications"], [])
            self.poll(id, query)
        self.assertEqual(self.heads, 2)

    def test_failure(self) -> None:
        """If a repeated poll cannot be started, it is answered with 500, and the log says why."""
        id = self.wait_twice()
        id = self.publish("t", "3")
        self.value()

        def fail(*args: object) -> None:
            raise Failing

        self.patch(Hub, "subscribe", fail)
        self.poll(id)
        self.assertRegex(self.read(), rb"^HTTP/1.1 500 ")
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(json.loads(self.control("GET", "/connections").body)["connections"], [])


class WrappedTests(SynchronousTestCase):
    """A connection with something between it and its transport, as in the demo."""

    def test_wrapped(self) -> None:
        """What looks at each request gets each: the poll is answered the plain way."""
        head = b"GET /topics/t?after=e:1 HTTP/1.1\r\n"
        channel = SimpleNamespace(whole=head, persistent=True, transport=object())
        request = SimpleNamespace(channel=channel, slot=None, transport=object())
        polls: Any = SimpleNamespace()
        start: Any = SimpleNamespace(after="e:1")
        totals: Any = None
        self.assertFalse(RepeatedPolls.start(polls, request, start, None, totals))
