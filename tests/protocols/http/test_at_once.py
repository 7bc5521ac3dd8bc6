"""Requests that are answered at once: as by the long way, but with one write."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import BadRequest, Unavailable
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.http.at_once import AtOnce, keeps_open
from pushd.protocols.http.headers import RequestHeaders
from pushd.testing import Answer, Daemon
from pushd.testing.connection import read_answer
from pushd.topics.publication import Id
from tests.support.peer import request, said
from tests.support.recording_socket import SocketConnection


def post(body: bytes, *lines: str, path: str = "/topics/t", host: str = "localhost") -> bytes:
    """Make a POST."""
    length = f"Content-Length: {len(body)}"
    return request(f"POST {path} HTTP/1.1", f"Host: {host}", length, *lines) + body


class AtOnceTests(SynchronousTestCase):
    """The control port of a daemon whose connections record their system calls."""

    def setUp(self) -> None:
        """Start it, with fast paths."""
        self.patch(FAST_PATHS, "enabled", True)
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)
        servers: Any = self.daemon.clock.tcpServers
        self.site = servers[1][1]
        self.answered: list[bytes] = []
        answer = self.site.at_once.answer

        def note(request: Any) -> str | None:
            text: str | None = answer(request)
            if text is not None:
                self.answered.append(request.path)
            return text

        self.site.at_once.answer = note
        self.server = SocketConnection(self.daemon, control=True)

    def send(self, data: bytes) -> bytes:
        """Send a request, and return what is written by then."""
        self.server.forget()
        self.server.receive(data)
        self.daemon.settle()
        return self.server.sent

    def test_behind_another_answer(self) -> None:
        """An answer does not overtake one that waits in the transport's buffer."""
        self.send(post(b"x"))
        self.server.forget()
        self.server.receive(request("GET /healthz HTTP/1.1", "Host: localhost"))
        self.server.receive(post(b"x"))
        self.assertEqual(len(self.answered), 2)
        self.assertRegex(self.server.sent, rb'(?s)"alive".*"subscribers":0')
        self.send(post(b"x"))
        self.assertEqual(len(self.server.fake_socket.given), 1)

    def test_same(self) -> None:
        """The answer is that of the long way: the same headers, and the next id."""
        answers = []
        for fast in (True, False):
            self.site.connections.reads_whole = fast
            answer = read_answer(self.send(post(b"x")), "POST")
            assert answer is not None
            value = json.loads(answer.body)
            self.assertEqual(value["subscribers"], 0)
            answers.append((answer.status, sorted(answer.headers.items())))
            self.assertEqual(value["id"].partition(":")[2], f"{len(answers)}")
        self.assertEqual(*answers)
        self.assertEqual(self.answered, [b"/topics/t"])

    def test_one_write(self) -> None:
        """It is one system call, and the connection can be used again."""
        for _ in range(3):
            self.send(post(b"x", "Connection: Keep-Alive"))
            self.assertEqual(len(self.server.fake_socket.given), 1)
        self.assertEqual(len(self.answered), 3)
        self.assertIn(self.server.protocol, self.site.connections.idle)
        self.assertNotIn(self.server.protocol, self.site.connections.reading)

    def test_idle(self) -> None:
        """The time-out between two requests begins anew."""
        limit = self.daemon.settings.limits.keep_alive
        self.send(post(b"x"))
        for _ in range(3):
            self.daemon.advance(limit - 1)
            self.assertIn(b" 200 ", self.send(post(b"x")))
        self.daemon.advance(limit + 1)
        self.assertTrue(self.server.disconnecting)

    def test_log(self) -> None:
        """The access log has the same line."""
        lines = []
        for fast in (True, False):
            self.site.connections.reads_whole = fast
            with capturedLogs() as events:
                self.send(post(b"x"))
            lines.append([*said(events), *(sorted(event) for event in events)])
        self.assertEqual(*lines)
        self.assertIn("127.0.0.1:50000 POST /topics/t 200 ", lines[0][0])

    def test_date(self) -> None:
        """The Date is that of the second."""
        for seconds, date in ((0.1, b"00:00:00"), (0.1, b"00:00:00"), (1, b"00:00:01")):
            self.daemon.advance(seconds)
            line = b"\r\nDate: Thu, 01 Jan 1970 " + date + b" GMT\r\n"
            self.assertIn(line, self.send(post(b"x")))

    def test_left(self) -> None:
        """What is unusual or wrong is left to the long way, and is done once."""
        for status, data in (
            (200, post(b"x", "Connection: close")),
            (200, post(b"x", "Upgrade: h2c")),
            (200, post(b"x", path="/topics/%74")),
            (202, post(b"x", path="/topics/t?delay=5")),
            (400, post(b"\xff")),
            (400, post(b"x", path="/topics/a//b")),
            (400, post(b"x", path="/topics/\x7f")),
            (400, post(b"x", "Idempotency-Key: a b")),
            (400, post(b"x", "Host: localhost")),
            (403, post(b"x", host="example.com")),
            (403, post(b"x", "Origin: http://example.com")),
            (413, post(b"x" * 300, path="/topics/small")),
            (404, post(b"x", path="/other")),
            (200, post(b'{"publications": []}', path="/publish")),
        ):
            self.server = SocketConnection(self.daemon, control=True)
            before = self.daemon._service._broker.published
            self.site.policy.limits.max_message = 200
            answer = read_answer(self.send(data), "POST")
            assert answer is not None
            self.assertEqual(answer.status, status, data)
            made = self.daemon._service._broker.published - before
            self.assertEqual(made, int(status == 200 and b"/publish" not in data), data)
        self.assertEqual(self.answered, [])

    def test_order(self) -> None:
        """What is held by the cork goes out before what the long way writes, and before the end."""
        cork = self.site.at_once.cork
        for second in (post(b"b", "Connection: close"), b"GET /topics HTTP/1.1\r\n\r\n"):
            self.server = SocketConnection(self.daemon, control=True)
            with cork:
                self.server.receive(post(b"a"))
                self.assertEqual(self.server.fake_socket.given, [])
                self.server.receive(second)
            self.daemon.settle()
            sent = self.server.sent
            self.assertTrue(sent.startswith(b"HTTP/1.1 200 OK\r\nContent-Type"), sent)
            self.assertEqual(sent.count(b"HTTP/1.1 "), 2)

    def test_takeover(self) -> None:
        """What is held goes out before a WebSocket takes the connection over."""
        with self.site.at_once.cork:
            self.server.receive(post(b"a"))
            lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
            self.server.receive(request("GET /publish HTTP/1.1", "Host: localhost", *lines, key))
        self.daemon.settle()
        self.assertEqual(
            [data[:12] for data in self.server.fake_socket.given],
            [b"HTTP/1.1 200", b"HTTP/1.1 101"],
        )

    def test_slow_reader(self) -> None:
        """A client that does not take its answers is left to the long way, in order."""
        self.server.fake_socket.room = 0
        self.server.receive(post(b"x"))
        self.assertEqual(len(self.answered), 1)
        channel: Any = self.server.protocol
        channel.pauseProducing()
        self.server.receive(post(b"x"))
        self.assertEqual(len(self.answered), 1)
        self.server.fake_socket.room = 1 << 20
        self.daemon.settle()
        self.server.write_out()
        first, second = self.server.sent.split(b"HTTP/1.1 200")[1:]
        self.assertTrue(b':1"' in first and b':2"' in second)

    def test_draining(self) -> None:
        """During a shutdown the answer closes the connection, as others do."""
        self.site.connections.draining = True
        self.assertIn(b" 200 ", self.send(post(b"x")))
        self.assertEqual((self.answered, self.server.connected), ([], False))

    def test_failure(self) -> None:
        """An unexpected exception is 500, and logged; nothing is done a second time."""
        calls: list[object] = []

        def answer(request: object) -> str:
            calls.append(request)
            raise ZeroDivisionError

        self.site.at_once.answer = answer
        self.assertTrue(self.send(post(b"x")).startswith(b"HTTP/1.1 500 "))
        self.assertEqual((len(calls), len(self.flushLoggedErrors(ZeroDivisionError))), (1, 1))

    def test_off(self) -> None:
        """With fast paths off, nothing is answered at once."""
        FAST_PATHS.enabled = False
        daemon = Daemon({})
        self.addCleanup(daemon.stop)
        site: Any = daemon.clock.tcpServers[1][1]
        site.at_once.answer = self.fail
        server = SocketConnection(daemon, control=True)
        server.receive(post(b"x"))
        daemon.settle()
        self.assertIn(b" 200 ", server.sent)

    def test_overloaded(self) -> None:
        """While much waits to be delivered, a publisher waits the long way."""
        broker: Any = self.daemon._service._broker
        hub = broker._deliver.__self__
        self.patch(type(hub), "has_room", False)
        self.send(post(b"x"))
        self.assertEqual(self.answered, [])


class LaterTests(SynchronousTestCase):
    """A publication that takes time is answered like one that does not, once it has an id."""

    def setUp(self) -> None:
        """Start a daemon whose broker has to ask another program."""
        self.patch(FAST_PATHS, "enabled", True)
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)
        self.broker = self.daemon._service._broker
        self.asked: list[Deferred[Id]] = []
        self.patch(self.broker, "publish_at_once", lambda draft: None)
        self.patch(self.broker, "publish", self._ask)
        self.server = SocketConnection(self.daemon, control=True)

    def _ask(self, topic: str, *_: object) -> Deferred[Id]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def send(self, data: bytes) -> None:
        """Send a request."""
        self.server.forget()
        self.server.receive(data)
        self.daemon.settle()

    def answer(self) -> Answer:
        """Return the answer, which came with one system call."""
        self.assertEqual(len(self.server.fake_socket.given), 1)
        answer = read_answer(self.server.sent, "POST")
        assert answer is not None
        return answer

    def test_answer(self) -> None:
        """The answer is the same, and the connection stays open for the next request."""
        plain = SocketConnection(Daemon({}), control=True)
        plain.receive(post(b"x"))
        expected = read_answer(plain.sent, "POST")
        assert expected is not None
        for number in (1, 2):
            with capturedLogs() as events:
                self.send(post(b"x"))
                self.assertEqual(self.server.sent, b"")
                self.daemon.advance(0.25)
                self.asked.pop().callback(Id("e", number))
            answer = self.answer()
            self.assertEqual(json.loads(answer.body), {"id": f"e:{number}", "subscribers": 0})
            self.assertEqual(answer.headers.keys(), expected.headers.keys())
            [line] = said(events)
            self.assertRegex(line, r"POST /topics/t 200 \d+ after 0\.250 s$")

    def test_pipeline(self) -> None:
        """The next request waits for the answer."""
        self.send(post(b"x") + request("GET /healthz HTTP/1.1", "Host: localhost"))
        self.assertEqual(self.server.sent, b"")
        self.asked.pop().callback(Id("e", 1))
        self.daemon.settle()
        self.assertRegex(self.server.sent, rb'(?s)"e:1".*"alive"')

    def test_client_leaves(self) -> None:
        """A client that leaves does not take its publication back."""
        for outcome in (Id("e", 1), Failure(Unavailable("no Redis"))):
            self.server = SocketConnection(self.daemon, control=True)
            self.send(post(b"x"))
            with capturedLogs() as events:
                self.server.connectionLost(Failure(ConnectionDone()))
                asked = self.asked.pop()
                asked.callback(outcome)
            self.assertIsNone(self.successResultOf(asked))
            self.assertEqual(self.server.sent, b"")
            self.assertEqual([event["event"] for event in events], ["left"])

    def test_unavailable(self) -> None:
        """If the broker is unavailable, the answer is 503 with the reason and Retry-After."""
        self.send(post(b"x"))
        self.asked.pop().errback(Unavailable("no Redis"))
        answer = self.answer()
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "5"))
        self.assertEqual(json.loads(answer.body), {"error": "no Redis", "where": "broker"})

    def test_refused(self) -> None:
        """What the broker refuses is answered with its reason, also if it raises that at once."""
        error = BadRequest("no room", "topic", 409)

        def refuse(*_: object) -> Deferred[Id]:
            raise error

        self.send(post(b"x"))
        self.asked.pop().errback(error)
        first = self.answer()
        self.patch(self.broker, "publish", refuse)
        self.send(post(b"x"))
        for answer in (first, self.answer()):
            self.assertEqual(answer.status, 409)
            self.assertEqual(json.loads(answer.body), {"error": "no room", "where": "topic"})

    def test_failure(self) -> None:
        """Any other failure is 500, and logged."""
        self.send(post(b"x"))
        self.asked.pop().errback(ZeroDivisionError())
        self.assertEqual(self.answer().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_drain(self) -> None:
        """A daemon that shuts down sends the answer, and closes the connection."""
        self.send(post(b"x"))
        self.daemon._service.stopService()
        self.asked.pop().callback(Id("e", 1))
        self.assertEqual(self.answer().status, 200)
        self.daemon.settle()
        self.assertFalse(self.server.connected)


class HeaderTests(SynchronousTestCase):
    def test_keeps_open(self) -> None:
        """A request may ask for nothing but that its connection stays open."""
        for headers, open in (
            ({}, True),
            ({"Connection": ["keep-alive"]}, True),
            ({"Connection": ["Keep-Alive"]}, True),
            ({"Connection": ["close"]}, False),
            ({"Connection": ["keep-alive", "close"]}, False),
            ({"Connection": ["keep-alive, Upgrade"]}, False),
            ({"Upgrade": ["h2c"]}, False),
        ):
            self.assertIs(keeps_open(RequestHeaders(headers)), open, headers)

    def test_head(self) -> None:
        """The head ends with the date, which is the clock's, and the length."""
        made = AtOnce(lambda request: None, Cork(), lambda: 1.5)
        date = b"\r\nDate: Thu, 01 Jan 1970 00:00:01 GMT"
        self.assertTrue(made.write_head(12).endswith(date + b"\r\nContent-Length: 12\r\n\r\n"))
