"""HTTP and WebSocket exchanges: how a view's result ends them, and how their end ends a view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.static import Data

from pushd.access.closing import BROKER_UNAVAILABLE, INTERNAL_ERROR, NORMAL, Closing
from pushd.errors import Unavailable
from pushd.protocols.http.response import Response, page
from pushd.protocols.websocket.protocol import PushProtocol
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import TEXT, Peer, close_frame, frame, handshake, request, said
from tests.views.sample_views import WaitingView, echo


class OpeningTests(SynchronousTestCase):
    def test_when_needed(self) -> None:
        """The 101 is sent when the view first needs the connection, not before."""
        for use in ("accept", "wait", "read", "count_messages", "has_messages", "close"):
            go: Deferred[None] = Deferred()
            over: Deferred[None] = Deferred()

            @accept_websocket
            async def view(
                request: Request, go: Any = go, over: Any = over, use: str = use
            ) -> None:
                await go
                getattr(request.websocket, use)()
                await over

            daemon = Daemon({"/": view})
            browser = daemon.connect("/")
            self.assertEqual((browser.opened, browser.refused), (False, None))
            go.callback(None)
            daemon.settle()
            self.assertTrue(browser.opened, use)

    def test_not_opened_by_questions(self) -> None:
        """is_closed() and subprotocol do not accept the handshake."""
        seen = []

        @accept_websocket
        async def refuse(request: Request) -> str:
            seen.append(request.websocket.is_closed())
            seen.append(request.websocket.subprotocol)
            return "no"

        browser = Daemon({"/": refuse}).connect("/")
        self.assertFalse(browser.opened)
        self.assertEqual(seen, [False, None])

    def test_same_segment(self) -> None:
        """Frames that arrive in one segment with the handshake are delivered in order."""
        peer = Peer(Daemon({"/echo/": echo}))
        peer.send(handshake("/echo/") + frame(TEXT, b"1") + frame(TEXT, b"2") + frame(TEXT, b"3"))
        self.assertEqual(peer.texts, ["1", "2", "3"])
        peer.send(frame(TEXT, b"4"))
        self.assertEqual(peer.texts, ["1", "2", "3", "4"])

    def test_split_anywhere(self) -> None:
        """It does not matter where TCP splits the stream."""
        data = handshake("/echo/") + frame(TEXT, b"1") + frame(TEXT, b"22")
        for cut in (1, len(data) // 2, len(handshake("/echo/")), len(data) - 9, len(data) - 1):
            peer = Peer(Daemon({"/echo/": echo}))
            peer.send(data[:cut], data[cut:])
            self.assertEqual(peer.texts, ["1", "22"], cut)
        peer = Peer(Daemon({"/echo/": echo}))
        peer.send(*(data[n : n + 1] for n in range(len(data))))
        self.assertEqual(peer.texts, ["1", "22"])

    def test_accepted_later(self) -> None:
        """Frames that arrive before the view accepts are delivered in order once it does."""
        go: Deferred[None] = Deferred()

        @accept_websocket
        async def late(request: Request) -> None:
            await go
            async for message in request.websocket:
                request.websocket.send(message)

        peer = Peer(Daemon({"/": late}))
        first, *others = [frame(TEXT, str(number).encode() * 100) for number in range(300)]
        peer.send(handshake() + first, *others)
        self.assertEqual(peer.received, b"")
        go.callback(None)
        peer.settle()
        self.assertEqual(peer.texts, [str(number) * 100 for number in range(300)])
        peer.send(frame(TEXT, b"more"))
        self.assertEqual(peer.texts[-1], "more")

    def test_subprotocol(self) -> None:
        """A view can choose one of the subprotocols that the client offers."""

        @accept_websocket
        async def choose(request: Request) -> None:
            request.websocket.accept(request.subprotocols[-1])
            request.websocket.send(request.websocket.subprotocol)
            await request.websocket.wait()

        browser = Daemon({"/": choose}).connect("/", subprotocols=["a", "b"])
        self.assertEqual((browser.subprotocol, browser.messages), ("b", ["b"]))

    def test_no_subprotocol(self) -> None:
        """If the view chooses no subprotocol, none is used."""
        daemon = Daemon({"/echo/": echo})
        browser = daemon.connect("/echo/", subprotocols=["a"])
        self.assertEqual((browser.opened, browser.subprotocol), (True, None))
        peer = Peer(daemon)
        peer.send(handshake("/echo/", "Sec-WebSocket-Protocol: a"))
        self.assertNotRegex(peer.head, "(?i)Sec-WebSocket-Protocol")

    def test_failed_takeover(self) -> None:
        """A connection that fails to become a WebSocket is dropped, and no longer counts."""

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        for broken in ("_negotiate", "take_over"):
            daemon = Daemon({"/echo/": echo}, max_connections=1)
            failing = self.patch(PushProtocol, broken, fail)
            peer = Peer(daemon)
            peer.send(handshake("/echo/"))
            self.assertIsNotNone(peer.lost, broken)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1, broken)
            failing.restore()
            peer = Peer(daemon)
            peer.send(handshake("/echo/") + frame(TEXT, b"1"))
            self.assertEqual(peer.texts, ["1"])
            peer.vanish()
            self.assertEqual(daemon.pending_calls, [])


class RefusingTests(SynchronousTestCase):
    """A view that answers a handshake over HTTP, before it uses its WebSocket."""

    def refuse(self, answer: Any) -> Peer:
        """Send a handshake to a view that returns this answer."""

        @accept_websocket
        async def view(request: Request) -> Any:
            return answer

        peer = Peer(Daemon({"/": view}))
        peer.send(handshake())
        return peer

    def test_answers(self) -> None:
        """Whatever a view may answer over HTTP refuses the handshake."""
        for answer, status, body in (
            ("no", 200, b"no"),
            (b"no", 200, b"no"),
            (Response(403, body="members only"), 403, b"members only"),
            (Data(b"no", "text/plain"), 200, b"no"),
        ):
            peer = self.refuse(answer)
            self.assertEqual(peer.head.split(" ")[1], str(status))
            self.assertEqual(peer.body, body)
        self.assertIn(b"<!doctype html>", self.refuse(page("test.html")).body)

    def test_browser(self) -> None:
        """A browser in memory has the response that refused its handshake."""

        @accept_websocket
        async def view(request: Request) -> Response:
            return Response(401, {"X": "y"}, "who are you?")

        refused = Daemon({"/": view}).connect("/").refused
        assert refused is not None
        self.assertEqual((refused.status, refused.headers["X"]), (401, "y"))
        self.assertEqual(refused.text, "who are you?")

    def test_connection_goes_on(self) -> None:
        """A refused handshake leaves the connection open for further requests."""
        peer = self.refuse("no")
        self.assertIsNone(peer.lost)
        peer.send(request("GET /index.html HTTP/1.1", "Host: localhost:8080"))
        self.assertIn(b"HTTP/1.1 200 OK", peer.body)

    def test_websocket_is_closed(self) -> None:
        """A WebSocket whose handshake was refused is closed for every task that uses it."""
        sockets = []

        @accept_websocket
        async def view(request: Request) -> str:
            sockets.append(request.websocket)
            return "no"

        daemon = Daemon({"/": view})
        daemon.connect("/")
        self.assertTrue(sockets[0].is_closed())
        self.assertEqual(self.successResultOf(sockets[0].wait()), None)
        sockets[0].send("discarded")
        self.assertEqual(daemon.pending_calls, [])

    def test_none(self) -> None:
        """A view that returns None without using its WebSocket opens and closes it."""
        peer = self.refuse(None)
        self.assertIn("101", peer.head)
        self.assertEqual(peer.code, 1000)

    def test_not_an_answer(self) -> None:
        """A result that is no answer refuses the handshake with 500, and is logged once."""
        peer = self.refuse(5)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertIn(" 500 ", peer.head)
        self.assertNotIn(b"Traceback", peer.body)

    def test_page_that_is_not_there(self) -> None:
        """A page that does not exist refuses the handshake with 500."""
        peer = self.refuse(page("nothing.html"))
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertIn(" 500 ", peer.head)


class ErrorTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start without WebSockets."""
        self.sockets: list[Any] = []

    def fail_at(self, view: Any, data: bytes) -> tuple[Peer, list[str]]:
        """Send bytes to a view that raises; return the log lines about it."""
        peer = Peer(Daemon({"/view/": view}))
        with capturedLogs() as events:
            peer.send(data)
        failures = [event for event in events if "log_failure" in event]
        self.assertEqual(len(failures), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.traceback_of(failures[0]), True)
        return peer, said(failures)

    def traceback_of(self, event: LogEvent) -> bool:
        """Whether a log event has the traceback."""
        return "test_exchange.py" in event["log_failure"].getTraceback()

    def test_http(self) -> None:
        """A view that raises over HTTP is a 500; the log has the traceback, peer and path."""

        async def failing(request: Request) -> str:
            raise ZeroDivisionError("our secret")

        peer, log = self.fail_at(failing, request("GET /view/?q=1 HTTP/1.1", "Host: localhost"))
        self.assertIn(" 500 ", peer.head)
        self.assertIn("text/html", peer.head)
        for secret in ("secret", "Traceback", "ZeroDivision", "test_exchange"):
            self.assertNotIn(secret, peer.received.decode())
        (line,) = log
        self.assertIn("failing failed at /view/ for 127.0.0.1:50001", line)

    def test_before_101(self) -> None:
        """A view that raises before the 101 refuses the handshake with 500."""

        @accept_websocket
        async def failing(request: Request) -> None:
            self.sockets.append(request.websocket)
            raise ZeroDivisionError("our secret")

        peer, log = self.fail_at(failing, handshake("/view/"))
        self.assertTrue(self.sockets[0].is_closed())
        self.assertIn(" 500 ", peer.head)
        self.assertNotIn(b"secret", peer.received)
        self.assertIn("failing failed at /view/ for 127.0.0.1:50001", log[0])

    def test_after_101(self) -> None:
        """A view that raises after the 101 closes with 1011, and nothing else is sent."""

        @accept_websocket
        async def failing(request: Request) -> None:
            await request.websocket.wait()
            raise ZeroDivisionError("our secret")

        peer, log = self.fail_at(failing, handshake("/view/") + frame(TEXT, b"x"))
        self.assertEqual(peer.code, INTERNAL_ERROR.code)
        self.assertNotIn(b"secret", peer.received)
        self.assertIn("failing failed at /view/ for 127.0.0.1:50001", log[0])

    def test_unavailable(self) -> None:
        """If the broker is unavailable, the client gets 503 or 1013, and the log one line."""

        @accept_websocket
        async def publishing(request: Request) -> None:
            if request.is_websocket() and request.query_string == "open":
                await request.websocket.wait()
            raise Unavailable("Redis at 10.0.0.5 is away")

        daemon = Daemon({"/view/": publishing})
        for given, answer in (
            (request("GET /view/ HTTP/1.1", "Host: localhost"), b" 503 "),
            (handshake("/view/"), b" 503 "),
            (handshake("/view/?open") + frame(TEXT, b"x"), b"101"),
        ):
            peer = Peer(daemon)
            with capturedLogs() as events:
                peer.send(given)
            self.assertIn(answer, peer.received)
            if b"101" in answer:
                self.assertEqual(peer.code, BROKER_UNAVAILABLE.code)
            else:
                self.assertIn("Retry-After: 5", peer.head)
            self.assertNotIn(b"Redis", peer.received)
            [line] = said([event for event in events if event.get("event") == "not_published"])
            self.assertIn("publishing could not publish at /view/ for 127.0.0.1:5000", line)
            self.assertIn("Redis at 10.0.0.5 is away", line)

    def test_unavailable_after_client_left(self) -> None:
        """If the broker is unavailable and the client has left, that is logged only."""

        async def publishing(request: Request) -> None:
            try:
                await Deferred()
            except CancelledError:
                raise Unavailable from None

        peer = Peer(Daemon({"/view/": publishing}))
        peer.send(request("GET /view/ HTTP/1.1", "Host: localhost"))
        with capturedLogs() as events:
            peer.vanish()
        self.assertIn("not_published", [event.get("event") for event in events])
        self.assertEqual(peer.received, b"")

    def test_raises_after_client_left(self) -> None:
        """An exception that a view raises while it is being ended is logged."""

        @accept_websocket
        async def failing(request: Request) -> None:
            await request.websocket.wait()
            raise ZeroDivisionError

        peer = Peer(Daemon({"/view/": failing}))
        peer.send(handshake("/view/"))
        peer.vanish()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cancels_itself(self) -> None:
        """A view that raises CancelledError before the end of its conversation has failed."""

        @accept_websocket
        async def quitting(request: Request) -> None:
            if request.is_websocket():
                request.websocket.accept()
            raise CancelledError

        daemon = Daemon({"/": quitting})
        got = daemon.get("/")
        assert got is not None
        self.assertEqual(got.status, 500)
        self.assertEqual(daemon.connect("/").closing, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 2)

    def test_resource_fails_half_way(self) -> None:
        """A response that fails half-way is cut off, without an error page."""

        class Failing(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                request.write(b"half")
                raise ZeroDivisionError

        async def view(request: Request) -> Failing:
            return Failing()

        peer, _ = self.fail_at(view, request("GET /view/ HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(peer.body, b"4\r\nhalf\r\n")
        self.assertIsNotNone(peer.lost)

    def test_headers_of_failed_response(self) -> None:
        """The error page has none of the failed response's headers."""

        async def view(request: Request) -> Response:
            return Response(200, {"Content-Encoding": "gzip", "X": 5})  # type: ignore[dict-item]

        got = Daemon({"/": view}).get("/")
        assert got is not None
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertEqual((got.status, got.headers["Content-Encoding"]), (500, None))


class LeavingTests(SynchronousTestCase):
    def test_http_client(self) -> None:
        """A client that leaves before it is answered cancels the view where it waits."""
        view = WaitingView()
        peer = Peer(Daemon({"/": view}))
        peer.send(request("GET / HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(view.ends, [])
        with capturedLogs() as events:
            peer.vanish()
        self.assertEqual(view.ends, ["cancelled"])
        self.assertEqual([line for line in said(events) if "failed" in line], [])

    def test_http_client_of_a_timer(self) -> None:
        """A client that leaves cancels the timers that the view waits for."""

        async def slow(request: Request) -> str:
            await deferLater(request.clock, 60)
            return "late"

        daemon = Daemon({"/": slow})
        peer = Peer(daemon)
        peer.send(request("GET / HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(len(daemon.pending_calls), 1)
        peer.vanish()
        self.assertEqual(daemon.pending_calls, [])

    def test_result_discarded(self) -> None:
        """A result for a client that has left is discarded, and nothing is logged."""

        class Stubborn(WaitingView):
            async def __call__(self, request: Request) -> str:
                try:
                    return str(await super().__call__(request))
                except CancelledError:
                    return "an answer"

        for view, data in (
            (Stubborn(), request("GET / HTTP/1.1", "Host: localhost:8080")),
            (accept_websocket(Stubborn()), handshake()),
        ):
            peer = Peer(Daemon({"/": view}))
            peer.send(data)
            with capturedLogs() as events:
                peer.vanish()
                peer.advance(5)
            self.assertEqual(view.ends, ["cancelled"])
            self.assertEqual(peer.received, b"")
            self.assertNotIn("answer_lost", [event.get("event") for event in events])

    def test_handshake(self) -> None:
        """A view whose client leaves before the 101 is cancelled after its grace."""
        view = accept_websocket(WaitingView())
        daemon = Daemon({"/": view})
        peer = Peer(daemon)
        peer.send(handshake())
        with capturedLogs() as events:
            peer.vanish()
            peer.advance(5)
        self.assertEqual(view.ends, ["cancelled"])
        self.assertTrue(view.requests[0].websocket.is_closed())
        self.assertEqual([line for line in said(events) if "failed" in line], [])
        self.assertEqual(daemon.pending_calls, [])

    def test_conversation(self) -> None:
        """A client that leaves after the 101 cancels the view after its grace."""
        for leave in (Peer.vanish, Peer.finish, lambda peer: peer.send(close_frame(1001))):
            view = WaitingView()

            @accept_websocket
            async def open_and_wait(request: Request, view: WaitingView = view) -> Any:
                request.websocket.accept()
                return await view(request)

            daemon = Daemon({"/": open_and_wait})
            peer = Peer(daemon)
            peer.send(handshake())
            with capturedLogs() as events:
                leave(peer)
                peer.advance(5)
            self.assertEqual(view.ends, ["cancelled"])
            self.assertEqual([line for line in said(events) if "failed" in line], [])
            self.assertEqual(daemon.pending_calls, [])


class EndTests(SynchronousTestCase):
    def test_return(self) -> None:
        """A view that returns closes with 1000 and no reason."""

        @accept_websocket
        async def view(request: Request) -> None:
            request.websocket.send("bye")

        browser = Daemon({"/": view}).connect("/")
        self.assertEqual((browser.messages, browser.closing), (["bye"], NORMAL))
        self.assertTrue(browser.gone)

    def test_answer_after_101(self) -> None:
        """A response that the view returns after it accepted is discarded, with a warning."""
        for answer in ("text", Response(403), page("nothing.html"), 5):

            @accept_websocket
            async def view(request: Request, answer: Any = answer) -> Any:
                request.websocket.send("x")
                return answer

            with capturedLogs() as events:
                browser = Daemon({"/": view}).connect("/")
            self.assertEqual((browser.messages, browser.closing), (["x"], NORMAL))
            warnings = [line for line in said(events) if "it was discarded" in line]
            self.assertEqual(len(warnings), 1)
            self.assertIn("test_answer_after_101", warnings[0])

    def test_own_close(self) -> None:
        """After its close() a view may return anything."""

        @accept_websocket
        async def view(request: Request) -> None:
            await request.websocket.close(4000, "enough")

        self.assertEqual(Daemon({"/": view}).connect("/").closing, Closing(4000, "enough"))

    def test_log(self) -> None:
        """A conversation has one line when it opens and one when it ends, without the query."""
        daemon = Daemon({"/echo/": echo})
        with capturedLogs() as events:
            peer = Peer(daemon)
            peer.advance(7)
            peer.send(handshake("/echo/?token=secret"))
            peer.advance(1.5)
            peer.send(close_frame(1001))
        opened, closed = [line for line in said(events) if "/echo/" in line]
        self.assertEqual(opened, "#1 127.0.0.1:50001 /echo/ opened")
        self.assertEqual(
            closed,
            "#1 127.0.0.1:50001 /echo/ closed 1001 after 1.500 s by peer: the peer closed; "
            "0 messages, 0 bytes in; 0, 0 out",
        )

    def test_log_of_reasons(self) -> None:
        """The closing line says which side closed and why, or that the connection was lost."""

        @accept_websocket
        async def rude(request: Request) -> None:
            request.websocket.close(4000, "enough")

        @accept_websocket
        async def polite(request: Request) -> None:
            request.websocket.close(4000)

        def answer(peer: Peer) -> None:
            peer.send(close_frame(4000))

        for view, how, said_so in (
            (rude, answer, "4000 after 0.000 s by us: enough"),
            (rude, Peer.vanish, "4000 after 0.000 s by us: enough"),
            (polite, answer, "4000 after 0.000 s by us: the view closed"),
            (echo, answer, "4000 after 0.000 s by peer: the peer closed"),
            (
                echo,
                lambda peer: peer.send(close_frame(4000, "caf\u00e9\n".encode())),
                "4000 after 0.000 s by peer: caf\\xe9\\n",
            ),
            (
                echo,
                Peer.vanish,
                "1006 after 0.000 s by peer: connection lost without a Close frame",
            ),
            (
                echo,
                lambda peer: peer.send(frame(TEXT, b"x", masked=False)),
                "1002 after 0.000 s by us: unmasked client-to-server frame",
            ),
        ):
            peer = Peer(Daemon({"/": view}))
            peer.send(handshake())
            with capturedLogs() as events:
                how(peer)
                peer.vanish()
            (line,) = said(events)
            self.assertEqual(line.partition(";")[0], f"#1 127.0.0.1:50001 / closed {said_so}")

    def test_log_of_silence(self) -> None:
        """A connection that is cut because no pong came was closed by us; the line says why."""
        peer = Peer(Daemon({"/": echo}))
        peer.send(handshake())
        with capturedLogs() as events:
            peer.advance(25, 10)
        (line,) = said(events)
        self.assertIn("closed 1006 after 35.000 s by us: no answer to a ping in 10 s;", line)

    def test_log_of_traffic(self) -> None:
        """The closing line counts messages and bytes in each direction."""

        @accept_websocket
        async def twice(request: Request) -> None:
            async for message in request.websocket:
                request.websocket.send(message)
                request.websocket.send(b"12345")

        daemon = Daemon({"/": twice})
        browser = daemon.connect("/")
        with capturedLogs() as events:
            for message in ("caf\u00e9", b"x" * 1000, "y" * 70_000):
                browser.send(message)
            browser.close()
        line = said(events)[-1]
        self.assertTrue(line.endswith("3 messages, 71005 bytes in; 6, 71042 out"), line)
        fields = events[-1]
        self.assertEqual(
            [fields[name] for name in ("event", "connection", "transport", "by", "code")],
            ["closed", 1, "websocket", "peer", 1000],
        )

    def test_log_of_codes(self) -> None:
        """The closing line has the close code; 1005 means no code, 1006 no Close frame."""

        def violate(peer: Peer) -> None:
            peer.send(frame(TEXT, b"x", masked=False), close_frame(1002))

        def leave(how: Callable[[Peer], object]) -> str:
            daemon = Daemon({"/echo/": echo})
            peer = Peer(daemon)
            peer.send(handshake("/echo/"))
            with capturedLogs() as events:
                how(peer)
            return said(events)[-1].partition("closed ")[2][:4]

        self.assertEqual(leave(lambda peer: peer.send(close_frame(4321))), "4321")
        self.assertEqual(leave(lambda peer: peer.send(frame(8))), "1005")
        self.assertEqual(leave(Peer.vanish), "1006")
        self.assertEqual(leave(Peer.finish), "1006")
        self.assertEqual(leave(violate), "1002")


class ThreadTests(SynchronousTestCase):
    def test_full(self) -> None:
        """If no thread is free, HTTP requests and handshakes get 503 before the view is called."""

        @accept_websocket
        def blocking(request: Request) -> str:
            if request.is_websocket():
                request.websocket.wait()
            return "done"

        daemon = Daemon({"/": blocking}, threads=1)
        first = daemon.connect("/")
        self.assertTrue(first.opened)
        refused = daemon.connect("/").refused
        assert refused is not None
        self.assertEqual((refused.status, refused.headers["Retry-After"]), (503, "1"))
        self.assertEqual(refused.text.count("\n"), 1)
        got = daemon.get("/")
        assert got is not None
        self.assertEqual(got.status, 503)
        first.send("go")
        self.assertEqual(first.closing, NORMAL)
        got = daemon.get("/")
        assert got is not None
        self.assertEqual((got.status, got.text), (200, "done"))
