"""One HTTP connection: failures, time-outs, pipelined requests, and heads in one piece."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import INTERNAL_SERVER_ERROR
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from pushd.protocols.http.response import Response
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from pushd.views.routes import Routes
from tests.support.channel_case import GET, ChannelTestCase
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.peer import TEXT, Peer, UnixTransport, frame, handshake, request, said, serve

FOREVER = 10_000_000


class FailureTests(ChannelTestCase):
    """Exceptions while a request is read or answered."""

    def test_page(self) -> None:
        """If a resource raises, the log has the reason, and the client gets a page without it."""

        class Broken(Routes):
            def match(self, path: str) -> None:
                raise ZeroDivisionError("our secret")

        daemon = Daemon(Broken({}))
        with capturedLogs() as events:
            answer = daemon.get("/path?token=secret")
        assert answer is not None
        self.assertEqual(answer.status, INTERNAL_SERVER_ERROR)
        self.assertIn("500 Internal Server Error", answer.text)
        self.assertIn("Something went wrong here.", answer.text)
        self.assertNotIn("secret", answer.text)
        self.assertNotIn("Traceback", answer.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(said(events)[0], "failed to answer GET /path for 127.0.0.1:50001")

    def test_fake_head(self) -> None:
        """A HEAD that twisted.web answers with a GET gets a status, and no body, if that fails."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                raise ZeroDivisionError

        for resource, status in ((Failing(), 500), (Data(b"data", "text/plain"), 200)):
            serve(self.daemon, resource)
            peer = self.send(request("HEAD / HTTP/1.1", "Host: localhost:8080"))
            self.assertEqual(peer.head.split(" ")[1], str(status))
            self.assertEqual(peer.body, b"")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_parsing(self) -> None:
        """If parsing raises, the client gets 400, and the log a traceback."""
        peer = self.send()

        def fail(line: bytes) -> None:
            raise ZeroDivisionError(line)

        peer.server.protocol.lineReceived = fail
        peer.send(request("OPTIONS / HTTP/1.1", "Host: a"))
        self.assertIn(" 400 ", peer.head)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_beginning(self) -> None:
        """A connection that fails when it begins is logged and dropped, and its slot is free."""
        self.patch(self.site.connections, "add", self.fail_once)
        with capturedLogs() as events:
            peer = self.send()
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([event["event"] for event in events], ["connection_failed"])
        self.assertEqual(len(self.site.policy.admission), 0)
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(self.send(GET).body, b"hello")

    def fail_once(self, channel: object) -> None:
        """Fail, the first time only."""
        del self.site.connections.add
        raise ZeroDivisionError

    @property
    def site(self) -> Any:
        """The site of the public port."""
        return self.daemon.clock.tcpServers[0][1]


class TimeoutTests(ChannelTestCase):
    """Time-outs for requests, idle connections, slow readers and refused clients."""

    def test_keep_alive(self) -> None:
        """A connection may be idle for 75 seconds after each answer, longer than a proxy's 60."""
        peer = self.send(GET)
        for _ in range(3):
            peer.advance(74.9)
            self.assertIsNone(peer.lost)
            peer.received.clear()
            peer.send(GET)
            self.assertEqual(peer.body, b"hello")
        peer.advance(74.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_keep_alive_of_the_control_port(self) -> None:
        """The control port keeps idle connections as long."""
        peer = Peer(self.daemon, control=True)
        peer.send(request("GET /healthz HTTP/1.1", "Host: localhost"))
        peer.advance(74.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIs(peer.lost, ConnectionDone)

    def test_no_request(self) -> None:
        """A connection on which nothing arrives is closed after 20 seconds without an answer."""
        peer = self.send()
        peer.advance(19.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIs(peer.lost, ConnectionDone)
        self.assertEqual(peer.received, b"")

    def test_slow_head(self) -> None:
        """A head that is not complete within 20 seconds gets 408, even if bytes keep arriving."""
        peer = self.send()
        for place in range(39):
            peer.send(GET[place : place + 1])
            peer.advance(0.5)
        self.assertIsNone(peer.lost)
        peer.advance(0.6)
        self.assert_refused(peer, 408)

    def test_slow_body(self) -> None:
        """A body of which little comes within 20 seconds gets 408."""
        peer = self.send(request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 100"))
        for _ in range(19):
            peer.send(b"x")
            peer.advance(1)
        self.assertIsNone(peer.lost)
        peer.advance(1.1)
        self.assert_refused(peer, 408)

    def test_steady_body(self) -> None:
        """A body that brings 500 bytes a second may take as long as it needs, and no less."""
        for kind, first in (
            ("Content-Length: 50000", b""),
            ("Transfer-Encoding: chunked", b"c350\r\n"),
        ):
            peer = self.send(request("POST /hello/ HTTP/1.1", "Host: a", kind), first)
            for _ in range(100):
                self.assertEqual(peer.received, b"")
                peer.send(b"x" * 500)
                peer.advance(1)
            if first:
                peer.advance(19.9)
                peer.send(b"\r\n0\r\n\r\n")
            self.assertEqual(peer.body, b"hello")
            self.assertEqual(len(self.requests.pop().body), 50_000)
            peer.finish()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_body_that_slows_down(self) -> None:
        """The pace is asked for in each 20 seconds: what came before them does not help."""
        peer = self.send(request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 200000"))
        peer.send(b"x" * 100_000)
        peer.advance(20)
        self.assertEqual(peer.received, b"")
        peer.send(b"x" * 9_999)
        peer.advance(19.9)
        self.assertEqual(peer.received, b"")
        peer.advance(0.1)
        self.assert_refused(peer, 408)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_body_of_a_publication(self) -> None:
        """A publisher whose body is too slow gets the reason as JSON."""
        peer = self.send(request("POST /topics/t HTTP/1.1", "Host: a", "Content-Length: 9"))
        peer.advance(20)
        self.assertIn(" 408 ", peer.head)
        expected = {
            "error": "the body came too slowly: it must bring 500 bytes a second",
            "where": "body",
        }
        self.assertEqual(json.loads(peer.body), expected)

    def test_body_behind_a_slow_head(self) -> None:
        """The time of a body begins with the end of the head."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 5")
        peer = self.send(head[:-2])
        peer.advance(19)
        peer.send(head[-2:])
        peer.advance(19)
        peer.send(b"abcde")
        self.assertEqual(peer.body, b"hello")

    def test_left_in_the_body(self) -> None:
        """A client that leaves within the body leaves no timer behind."""
        peer = self.send(request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 5"), b"ab")
        self.assertEqual(len(self.daemon.pending_calls), 1)
        peer.vanish()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_slow_second_request(self) -> None:
        """The 20 seconds of a later request begin with its first byte."""
        peer = self.send(GET)
        self.requests.clear()
        peer.received.clear()
        peer.advance(50)
        peer.send(GET[:9])
        peer.advance(19.9)
        self.assertIsNone(peer.lost)
        peer.send(GET[9:30])
        peer.advance(0.2)
        self.assert_refused(peer, 408)

    def test_slow_pipelined_request(self) -> None:
        """The 20 seconds of a pipelined request begin when the one before it is answered."""
        peer = self.send(GET + GET[:30])
        peer.advance(19.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIsNotNone(peer.lost)

    def test_slow_view(self) -> None:
        """There is no time-out while a view prepares the answer."""
        peer = self.send(request("GET /slow/ HTTP/1.1", "Host: a"))
        peer.advance(FOREVER)
        self.assertIsNone(peer.lost)
        self.answers[0].callback("at last")
        peer.settle()
        self.assertEqual(peer.body, b"at last")

    def test_slow_reader(self) -> None:
        """A client that reads nothing for 60 seconds is dropped; one that reads on is not."""
        serve(self.daemon, Data(b"x" * 1_000_000, "text/plain"))
        steady, stuck = Peer(self.daemon), Peer(self.daemon)
        for peer in (steady, stuck):
            peer.stall()
            peer.send(GET)
        stuck.advance(50)
        steady.resume()
        self.assertEqual(len(steady.body), 1_000_000)
        steady.send(GET)
        stuck.advance(9.9)
        self.assertTrue(stuck.server.connected)
        stuck.advance(0.2)
        steady.settle()
        self.assertFalse(stuck.server.connected)
        self.assertTrue(steady.server.connected)

    def test_steady_reader(self) -> None:
        """A client that reads 64 KiB a minute may take as long as it needs for a large answer."""
        for connection in ("close", "keep-alive"):
            answer = Response(body=b"x" * 1_000_000)
            self.answers.clear()
            peer = self.send(request("GET /slow/ HTTP/1.1", "Host: a", f"Connection: {connection}"))
            peer.stall()
            self.answers[0].callback(answer)  # type: ignore[arg-type]  # views return many types
            peer.settle()
            for _ in range(10):
                del peer.server._unsent[: 1 << 16]
                peer.advance(59.9)
                self.assertTrue(peer.server.connected)
            del peer.server._unsent[:60_000]
            peer.advance(61)
            self.assertFalse(peer.server.connected)

    def test_slow_reader_of_the_last_answer(self) -> None:
        """A client that does not read the last answer of a connection is dropped, too."""
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("GET /hello/ HTTP/1.1", "Host: a", "Connection: close"))
        peer.advance(59.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        self.assertFalse(peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_more_after_a_refusal(self) -> None:
        """Of what a client sends after a refusal, a bounded part is read and dropped."""
        large = request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 99999999")
        for sent, status, pieces in ((b"nonsense\r\n\r\n", 400, 4), (large, 413, 256)):
            transport = UnixTransport(self.daemon)
            self.assertIn(b" %d " % status, transport.receive(sent))
            for _ in range(pieces):
                transport.receive(bytes(1 << 16))
                self.assertEqual(transport.producerState, "producing")
            self.assertEqual(transport.receive(b"x"), b"")
            self.assertEqual(transport.producerState, "paused")
            self.daemon.advance(5.1)
            self.assertTrue(transport.aborted)

    def test_slow_reader_of_a_refusal(self) -> None:
        """A client that does not read a refusal is dropped after five seconds."""
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(b"nonsense\r\n\r\n")
        peer.advance(4.9)
        self.assertTrue(peer.server.connected)
        peer.advance(0.2)
        self.assertFalse(peer.server.connected)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_websocket(self) -> None:
        """A connection that has become a WebSocket has none of these time-outs."""
        peer = self.send(handshake("/hello/"))
        self.assertEqual(len(self.daemon.pending_calls), 1)
        peer.advance(24)
        peer.send(frame(TEXT, b"x"))
        self.assertEqual(peer.texts, ["x"])


class OtherTimeoutTests(ChannelTestCase):
    """``--keep-alive``, ``--request-timeout`` and ``--body-timeout``."""

    def settings(self) -> dict[str, Any]:
        """Return three other lengths."""
        return {"keep_alive": 620, "request_timeout": 5, "body_timeout": 60}

    def test_keep_alive(self) -> None:
        """A connection may be idle for the given time."""
        peer = self.send(GET)
        peer.advance(619.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIs(peer.lost, ConnectionDone)

    def test_head(self) -> None:
        """A head may take the given time, which the refusal says."""
        peer = self.send(GET[:30])
        peer.advance(4.9)
        self.assertEqual(peer.received, b"")
        peer.advance(0.2)
        self.assert_refused(peer, 408)
        self.assertEqual(peer.body, b"the head of the request took more than 5 seconds\n")

    def test_body(self) -> None:
        """The pace of a body is measured over the given time."""
        peer = self.send(request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 60000"))
        peer.advance(59)
        peer.send(b"x" * 30_000)
        peer.advance(1, 58)
        peer.send(b"x" * 29_999)
        self.assertEqual(peer.received, b"")
        peer.advance(2)
        self.assert_refused(peer, 408)

    def test_changed(self) -> None:
        """A reload changes the times of open connections."""
        idle, head = self.send(GET), self.send(GET[:30])
        self.requests.clear()
        body = self.send(request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 9"))
        limits = replace(
            self.daemon.settings.limits, keep_alive=3, request_timeout=1, body_timeout=2
        )
        for apply in self.daemon._service.appliers:
            apply(replace(self.daemon.settings, limits=limits))
        for peer in (head, body):
            peer.advance(1)
            self.assert_refused(peer, 408)
        idle.advance(1)
        self.assertIs(idle.lost, ConnectionDone)


class RequestTests(ChannelTestCase):
    """Requests that are read and answered one after the other."""

    def test_pipelined(self) -> None:
        """Pipelined requests are answered in their order."""
        first = request("GET /slow/ HTTP/1.1", "Host: a")
        peer = self.send(first + GET + first + GET)
        self.assertEqual(peer.received, b"")
        self.answers[0].callback("one")
        peer.settle()
        self.assertEqual(peer.received.count(b"HTTP/1.1 200 OK"), 2)
        self.answers[1].callback("three")
        peer.settle()
        self.assertEqual(peer.received.count(b"hello"), 2)
        self.assertLess(peer.received.index(b"one"), peer.received.index(b"hello"))
        self.assertLess(peer.received.index(b"hello"), peer.received.index(b"three"))

    def test_pipelined_to_a_slow_reader(self) -> None:
        """A pipelined request waits until the client has read the answer before it."""
        serve(self.daemon, Data(b"x" * 1_000_000, "text/plain"))
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(GET * 3)
        self.assertLess(peer.server.unsent, 1_100_000)
        for _ in range(3):
            peer.resume()
        self.assertEqual(peer.received.count(b"HTTP/1.1 200 OK"), 3)
        self.assertEqual(peer.received.count(b"x" * 1_000_000), 3)

    def test_pipelined_in_iterations(self) -> None:
        """Pipelined requests are answered one in each iteration of the reactor."""
        transport = UnixTransport(self.daemon)
        self.assertEqual(transport.receive(GET * 3).count(b"hello"), 1)
        self.daemon.settle()
        self.assertEqual(transport.value().count(b"hello"), 3)

    def test_pipelined_and_lost(self) -> None:
        """If the client leaves, its pipelined requests are dropped, and no timer is left."""
        transport = UnixTransport(self.daemon)
        self.assertEqual(transport.receive(GET + GET).count(b"hello"), 1)
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(len(self.requests), 1)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 gets an answer with a Content-Length, and its connection is closed."""
        for lines in ((), ("Host: localhost:8080",), ("Connection: keep-alive",)):
            peer = self.send(request("GET /hello/ HTTP/1.0", *lines))
            self.assertTrue(peer.head.startswith("HTTP/1.0 200 OK\r\n"))
            self.assertIn("\r\nContent-Length: 5\r\n", peer.head)
            self.assertEqual(peer.body, b"hello")
            self.assertIs(peer.lost, ConnectionDone)

    def test_close(self) -> None:
        """With ``Connection: close`` the connection is closed after the answer."""
        peer = self.send(request("GET /hello/ HTTP/1.1", "Host: a", "Connection: close"))
        self.assertIn("\r\nConnection: close", peer.head)
        self.assertEqual(peer.body, b"hello")
        self.assertIs(peer.lost, ConnectionDone)

    def test_http_1_2(self) -> None:
        """HTTP/1.2 is served as HTTP/1.1: it must have a Host, and the connection stays open."""
        for version in ("HTTP/1.2", "HTTP/1.9"):
            peer = self.send(request(f"GET /hello/ {version}", "Host: a"))
            self.assertTrue(peer.head.startswith("HTTP/1.1 200 OK\r\n"))
            self.assertIsNone(peer.lost)
            peer.received.clear()
            head = request(f"POST /hello/ {version}", "Host: a", "Transfer-Encoding: chunked")
            peer.send(head + b"3\r\nabc\r\n0\r\n\r\n")
            self.assertEqual(peer.body, b"hello")
            self.assertEqual(self.requests[-1].body, b"abc")
            self.assertIn(" 400 ", self.send(request(f"GET /hello/ {version}")).head)

    def test_other_versions(self) -> None:
        """Another major version, and what is no version, is refused."""
        for version in (
            "HTTP/2.0",
            "HTTP/0.9",
            "HTTP/3",
            "HTTP/1.10",
            "HTTP/1.",
            "http/1.2",
            "1.2",
        ):
            self.assert_refused(self.send(request(f"GET /hello/ {version}", "Host: a")), 400)

    def test_close_in_a_list(self) -> None:
        """``close`` may be anywhere in the list of Connection, and empty elements do not count."""
        for value in ("close, TE", "TE,close", "keep-alive,,Close", ", close ,", "TE\t, close"):
            for method in ("GET", "HEAD"):
                peer = self.send(
                    request(f"{method} /hello/ HTTP/1.1", "Host: a", f"Connection: {value}")
                )
                self.assertIs(peer.lost, ConnectionDone, value)
                self.assertIn("\r\nConnection: close", peer.head)
        for value in ("closed", "keep-alive, xclose", "TE", ","):
            peer = self.send(request("GET /hello/ HTTP/1.1", "Host: a", f"Connection: {value}"))
            self.assertIsNone(peer.lost, value)

    def test_form(self) -> None:
        """The body of a form is not parsed: the view reads it like any other."""
        kind = "Content-Type: application/x-www-form-urlencoded"
        peer = self.send(
            request("POST /hello/ HTTP/1.1", "Host: a", kind, "Content-Length: 7") + b"a=1&b=2"
        )
        self.assertEqual(peer.body, b"hello")
        self.assertEqual(self.requests[0].body, b"a=1&b=2")
        self.assertEqual(dict(self.requests[0].query), {})

    def test_chunked(self) -> None:
        """A body may be chunked."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        self.send(head + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
        self.assertEqual(self.requests[0].body, b"abcde")

    def test_tiny_chunks(self) -> None:
        """A body of more than 4096 chunks must have 16 bytes a chunk on average."""
        head = request("POST /hello/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        self.assertEqual(self.send(head + b"1\r\nx\r\n" * 4096 + b"0\r\n\r\n").body, b"hello")
        long = b"10\r\n0123456789abcdef\r\n" * 5000
        self.assertEqual(self.send(head + long + b"0\r\n\r\n").body, b"hello")
        self.assertEqual([len(asked.body) for asked in self.requests], [4096, 80_000])
        self.requests.clear()
        self.assert_refused(self.send(head + b"1\r\nx\r\n" * 4097), 400)

    def test_continue(self) -> None:
        """A client that expects 100 Continue gets it before its body."""
        peer = self.send(
            request("POST /hello/ HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue")
        )
        self.assertEqual(peer.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.received.clear()
        peer.send(b"ab")
        self.assertEqual(peer.body, b"hello")

    def test_tls(self) -> None:
        """Requests, refusals and handshakes work over TLS, and views see https."""
        peer = Peer(self.daemon, tls=True)
        peer.send(GET)
        self.assertEqual(peer.body, b"hello")
        self.assertEqual(self.requests.pop().scheme, "https")
        peer = Peer(self.daemon, tls=True)
        peer.send(b"nonsense\r\n\r\n")
        self.assert_refused(peer, 400)
        peer = Peer(self.daemon, tls=True)
        peer.send(handshake("/hello/") + frame(TEXT, b"x"))
        self.assertEqual(peer.texts, ["x"])


class WholeHeadTests(SynchronousTestCase):
    """A head that arrives in one piece is understood as one that arrives in several."""

    def answer(self, *pieces: bytes) -> tuple[bytes, bool]:
        """Return the answer without its date, and whether the connection stays open."""

        async def tell(request: Request) -> str:
            return f"{request.method} {request.path} {request.query_string} {[*request.headers]}"

        peer = Peer(Daemon({"/": tell}))
        for piece in pieces:
            peer.send(piece)
        return re.sub(rb"Date: .*\r\n", b"", peer.received), peer.lost is None

    @settings(NO_DEADLINE, derandomize=True, max_examples=300)
    @given(
        st.sampled_from(["GET", "HEAD", "get", "POST"]),
        st.sampled_from(["/", "/?a=b", "*", "//", "http://a/", "/\x7f", "/a b", "", "/é"]),
        st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 ", "HTTP/2"]),
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["Host", "host", "X", "X-é", "Content-Length", "Connection", "Expect", " X", ""]
                ),
                st.sampled_from([":", ": ", ":\t", "", " :"]),
                st.sampled_from(["a", "0", "2", "close", "x\x00", "x\ry", "é", "", "100-continue"]),
            ),
            max_size=4,
        ),
    )
    def test_same(
        self, method: str, target: str, version: str, fields: list[tuple[str, str, str]]
    ) -> None:
        """Whatever is in the head, the answer is the same."""
        lines = [f"{method} {target} {version}", *("".join(field) for field in fields), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        self.assertEqual(self.answer(head), self.answer(head[:1], head[1:]))


class ConnectionTests(ChannelTestCase):
    """What a channel does for what answers, and for what takes it over."""

    def make(self) -> tuple[Any, StringTransport]:
        """Make a channel of an unknown client."""
        sites: list[Any] = self.daemon._sites
        channel, transport = sites[0].buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        self.addCleanup(channel.connectionLost, Failure(ConnectionDone()))
        return channel, transport

    def test_unknown_client(self) -> None:
        """The address of a client that the port does not tell is asked of the transport."""
        channel, transport = self.make()
        self.assertEqual(channel.client, transport.getPeer())

    def test_whole_to_a_slow_reader(self) -> None:
        """A whole response behind a full buffer waits there, and counts as memory."""
        channel, transport = self.make()
        counted: list[int] = []
        self.patch(channel.connections.memory, "add", counted.append)
        channel.pauseProducing()
        counted.clear()
        channel.write_whole(b"response")
        self.assertEqual((counted, transport.value()), ([8], b"response"))

    def test_chunks_to_a_slow_reader(self) -> None:
        """So does a part of a response in chunks."""

        class Parts(Resource):
            isLeaf = True

            def render(self, request: Any) -> int:
                for _ in range(2):
                    request.write(bytes(100_000))
                request.finish()
                return NOT_DONE_YET

        serve(self.daemon, Parts())
        peer = Peer(self.daemon)
        peer.stall()
        counted: list[int] = []
        sites: list[Any] = self.daemon._sites
        self.patch(sites[0].connections.memory, "add", counted.append)
        peer.send(GET)
        self.assertIn(100_000 + len(b"186a0\r\n\r\n"), counted)
        peer.resume()
        peer.vanish()

    def test_half_closed_handshake(self) -> None:
        """A client that half-closes before its handshake is answered is closed after the 101."""
        peer = self.send(handshake("/late/"))
        peer.half_close()
        self.late.callback(None)
        peer.settle()
        self.assertIn(b" 101 ", peer.received)
        peer.advance(1)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.daemon.pending_calls, [])

    def setUp(self) -> None:
        """Add a view that accepts later."""
        self.late: Deferred[None] = Deferred()
        super().setUp()

    def views(self) -> dict[str, Any]:
        """Return a view that accepts later."""

        @accept_websocket
        async def late(request: Request) -> None:
            await self.late
            request.websocket.accept()
            await request.websocket.wait()

        return {"/late/": late}
