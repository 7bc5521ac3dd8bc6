"""The kit for tests of views: each thing it shows is so, and each thing it does is done."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.messages import GOING_AWAY, NORMAL, Closing
from pushd.routes import Routes
from pushd.testing import Answer, Daemon
from pushd.views import Request, Response, accept_websocket
from tests.peer import CLOSE, TEXT, handshake, read_frames, serve
from tests.peer import frame as make_frame


@accept_websocket
async def echo(request: Request) -> str | None:
    """Answer a message with itself, and HTTP with what was asked."""
    if not request.is_websocket():
        return f"{request.method} {request.path} {request.body.decode()}"
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


class BrowserTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon, and connect a browser."""
        self.ends: list[str] = []
        self.requests: list[Request] = []

        @accept_websocket
        async def watched(request: Request) -> None:
            self.requests.append(request)
            request.websocket.accept((*request.subprotocols, None)[0])
            try:
                async for _ in request.websocket:
                    pass
                self.ends.append("told")
            except CancelledError:
                self.ends.append("cancelled")

        @accept_websocket
        async def refuse(request: Request) -> Response:
            return Response(403, {"X": "y"}, "no entry")

        @accept_websocket
        async def hesitate(request: Request) -> None:
            await Deferred()

        self.daemon = Daemon(
            {"/echo/": echo, "/watched/": watched, "/refuse/": refuse, "/hesitate/": hesitate}
        )

    def test_messages(self) -> None:
        """Messages come in order, text as text and binary as binary."""
        browser = self.daemon.connect("/echo/")
        self.assertTrue(browser.opened)
        self.assertEqual(browser.messages, [])
        browser.send("café")
        browser.send(b"\x00\xff")
        browser.send("")
        self.assertEqual(browser.messages, ["café", b"\x00\xff", ""])

    def test_open(self) -> None:
        """A browser whose socket is open is neither refused nor gone, and has heard no Close."""
        browser = self.daemon.connect("/echo/")
        self.assertEqual(
            (browser.opened, browser.refused, browser.closing, browser.gone),
            (True, None, None, False),
        )

    def test_refused(self) -> None:
        """A browser that was refused has the answer, and is not open."""
        browser = self.daemon.connect("/refuse/")
        assert browser.refused is not None
        self.assertEqual((browser.refused.status, browser.refused.text), (403, "no entry"))
        self.assertEqual(browser.refused.headers["X"], "y")
        self.assertEqual((browser.opened, browser.subprotocol), (False, None))

    def test_undecided(self) -> None:
        """As long as the view has not decided, a browser is neither open nor refused."""
        browser = self.daemon.connect("/hesitate/")
        self.assertEqual(
            (browser.opened, browser.refused, browser.closing, browser.gone),
            (False, None, None, False),
        )

    def test_what_is_asked(self) -> None:
        """A browser asks as browsers do: with an origin, its subprotocols, and what is wanted."""
        browser = self.daemon.connect("/watched/?q=1", subprotocols=["b", "a"], headers={"X": "y"})
        (asked,) = self.requests
        self.assertEqual(browser.subprotocol, "b")
        self.assertEqual(asked.subprotocols, ("b", "a"))
        self.assertEqual((asked.host, asked.query_string), ("localhost:8080", "q=1"))
        self.assertEqual(
            (asked.headers["x"], asked.headers["origin"]), ("y", "http://localhost:8080")
        )

    def test_origin(self) -> None:
        """It may come from elsewhere, or be no browser."""
        self.daemon.connect("/watched/", origin=None)
        self.assertNotIn("origin", self.requests[0].headers)
        refused = self.daemon.connect("/watched/", origin="https://elsewhere.example").refused
        assert refused is not None
        self.assertEqual(refused.status, 403)

    def test_server_closes(self) -> None:
        """The server's Close frame is seen, code and reason, and then the end."""
        browser = self.daemon.connect("/watched/")
        self.requests[0].websocket.close(4000, "genug für heute")
        self.daemon.settle()
        self.assertEqual(browser.closing, Closing(4000, "genug für heute"))
        self.assertTrue(browser.gone)

    def test_browser_closes(self) -> None:
        """A browser may close, with a code and a reason, and sees the answer."""
        for code, reason in ((1000, ""), (4321, "bis morgen")):
            browser = self.daemon.connect("/watched/")
            browser.close(code, reason)
            self.assertEqual(self.ends.pop(), "told")
            self.assertIsNotNone(browser.closing)
            self.assertTrue(browser.gone)

    def test_close_without_a_code(self) -> None:
        """A Close that says nothing says nothing."""
        browser = self.daemon.connect("/watched/")
        browser.send_bytes(make_frame(CLOSE))
        self.assertEqual((browser.closing, browser.gone), (None, True))
        self.assertEqual(self.ends, ["told"])

    def test_leave(self) -> None:
        """A browser may vanish without a word; the view is ended, and nothing is left."""
        browser = self.daemon.connect("/watched/")
        self.assertEqual(self.ends, [])
        browser.leave()
        self.assertEqual(len(self.ends), 1)
        self.assertEqual((browser.gone, browser.closing), (True, None))
        self.assertTrue(self.requests[0].websocket.is_closed())
        self.assertEqual(self.daemon.pending_calls, [])

    def test_leave_twice(self) -> None:
        """Who has left has left."""
        browser = self.daemon.connect("/watched/")
        browser.leave()
        browser.leave()
        self.assertTrue(browser.gone)

    def test_stall(self) -> None:
        """A browser may stop reading, which holds a view that awaits its sends; then read on."""
        browser = self.daemon.connect("/watched/")
        browser.stall()
        sent = self.requests[0].websocket.send("x" * 100_000)
        self.daemon.settle()
        self.assertNoResult(sent)
        self.assertEqual(browser.messages, [])
        browser.resume()
        self.successResultOf(sent)
        self.assertEqual(browser.messages, ["x" * 100_000])

    def test_bytes(self) -> None:
        """A browser may do what no browser would."""
        browser = self.daemon.connect("/echo/")
        browser.send_bytes(make_frame(TEXT, b"by hand"))
        self.assertEqual(browser.messages, ["by hand"])
        browser.send_bytes(make_frame(3))
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 1002)

    def test_many(self) -> None:
        """Browsers do not get into each other's way."""
        first, second = self.daemon.connect("/echo/"), self.daemon.connect("/echo/")
        first.send("1")
        second.send("2")
        first.leave()
        second.send("3")
        self.assertEqual((first.messages, second.messages), (["1"], ["2", "3"]))
        self.assertEqual((first.gone, second.gone), (True, False))


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/echo/": echo})

    def test_get(self) -> None:
        """A page has a status, headers and a body, as bytes and as text."""
        answer = self.daemon.get("/echo/")
        assert answer is not None
        self.assertEqual(
            (answer.status, answer.body, answer.text), (200, b"GET /echo/ ", "GET /echo/ ")
        )
        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")

    def test_request(self) -> None:
        """Any method will do, with headers and a body, whose length is told."""
        answer = self.daemon.request("PUT", "/echo/", {"X": "y"}, "für alle".encode())
        assert answer is not None
        self.assertEqual(answer.text, "PUT /echo/ für alle")
        answer = self.daemon.request("HEAD", "/echo/")
        assert answer is not None
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Length"], "12")

    def test_own_headers(self) -> None:
        """One's own headers count before those that are sent anyway."""
        seen: list[Request] = []

        async def see(request: Request) -> None:
            seen.append(request)

        daemon = Daemon({"/": see})
        daemon.get("/")
        daemon.get("/", {"Host": "elsewhere", "X": "y"})
        self.assertEqual([asked.host for asked in seen], ["localhost:8080", "elsewhere"])
        self.assertEqual(seen[1].headers["x"], "y")
        self.assertEqual(seen[0].headers["connection"], "close")

    def test_chunks(self) -> None:
        """An answer in pieces is put together."""

        class Pieces(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                request.write(b"one ")
                request.write(b"two")
                request.finish()
                return NOT_DONE_YET

        serve(self.daemon, Pieces())
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.text, "one two")

    def test_no_answer_yet(self) -> None:
        """An answer that is not here, or not whole, is none."""
        waiting: list[Any] = []

        class Slow(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                request.setHeader("Content-Length", "4")
                waiting.append(request)
                return NOT_DONE_YET

        serve(self.daemon, Slow())
        wire = self.daemon.open_connection()
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIsNone(wire.answer())
        waiting[0].write(b"ab")
        self.daemon.settle()
        self.assertIsNone(wire.answer())
        waiting[0].write(b"cd")
        waiting[0].finish()
        self.daemon.settle()
        answer = wire.answer()
        assert isinstance(answer, Answer)
        self.assertEqual(answer.text, "abcd")
        self.assertIsNone(self.daemon.get("/"))

    def test_wire(self) -> None:
        """A connection by hand shows each byte, and its end."""
        wire = self.daemon.open_connection()
        self.assertEqual((wire.received, wire.closed), (b"", False))
        wire.send(handshake("/echo/"))
        head = len(wire.received)
        self.assertTrue(wire.received.startswith(b"HTTP/1.1 101 "))
        wire.send(make_frame(TEXT, b"x"))
        self.assertEqual([frame.payload for frame in read_frames(wire.received[head:])], [b"x"])
        wire.leave()
        self.assertTrue(wire.closed)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_server_closes(self) -> None:
        """The end of a connection is seen when the server brings it about."""
        wire = self.daemon.open_connection()
        wire.send(b"GET /echo/ HTTP/1.0\r\n\r\n")
        self.assertTrue(wire.closed)

    def test_private_door(self) -> None:
        """The private door can be asked as well, by request and by hand."""
        public, private = (self.daemon.request("GET", "/healthz", control=c) for c in (False, True))
        assert public is not None and private is not None
        self.assertEqual((public.status, private.status), (404, 200))
        wire = self.daemon.open_connection(control=True)
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertIn(b"alive", wire.received)

    def test_private_door_behind_many(self) -> None:
        """The private door is the private one, however many public ones there are."""
        daemon = Daemon({"/echo/": echo}, listen=("tcp:1", "tcp:2"), control=("tcp:3",))
        answer = daemon.request("GET", "/healthz", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)


class DaemonTests(SynchronousTestCase):
    def test_demo(self) -> None:
        """Without views it is the demo that runs, in no time."""
        daemon = Daemon()
        browser = daemon.connect("/test/")
        browser.send('["1","2","3"]')
        self.assertEqual(browser.messages, ["service message: 0"])
        daemon.advance(*[0.5] * 9)
        self.assertEqual(browser.messages, [f"service message: {n}" for n in range(10)])
        self.assertIsNone(browser.closing)
        daemon.advance(0.5)
        self.assertEqual((browser.closing, browser.gone), (NORMAL, True))
        self.assertEqual(daemon.pending_calls, [])

    def test_map(self) -> None:
        """The views may be a map of any kind."""
        for views in ({"/echo/": echo}, Routes({"/echo/": echo})):
            daemon = Daemon(views)
            self.assertEqual(list(daemon.settings.routes), ["/echo/"])
            answer = daemon.get("/echo/")
            assert answer is not None
            self.assertEqual(answer.status, 200)

    def test_settings(self) -> None:
        """Every setting may be another, and none that does not exist."""
        self.assertEqual(Daemon(threads=3).settings.threads, 3)
        with self.assertRaises(TypeError):
            Daemon(colour="red")

    def test_nothing_pending(self) -> None:
        """A daemon that has nothing to do waits for nothing."""
        self.assertEqual(Daemon().pending_calls, [])

    def test_advance(self) -> None:
        """Time passes when it is told to, and each step's effects are there before the next."""
        ticks: list[float] = []

        @accept_websocket
        async def tick(request: Request) -> None:
            request.websocket.accept()
            while True:
                await deferLater(request.clock, 1)
                ticks.append(request.clock.seconds())

        daemon = Daemon({"/": tick})
        daemon.connect("/")
        self.assertEqual((len(daemon.pending_calls), daemon.clock.seconds()), (2, 0))
        daemon.advance(0.5)
        self.assertEqual(ticks, [])
        daemon.advance(0.5, 1, 1)
        self.assertEqual(ticks, [1, 2, 3])

    def test_settle(self) -> None:
        """What is due now happens, and what comes of it; nothing later does."""
        happened: list[str] = []
        daemon = Daemon()

        def first() -> None:
            happened.append("first")
            daemon.clock.callLater(0, happened.append, "second")
            daemon.clock.callLater(0.1, happened.append, "third")

        daemon.clock.callLater(0, first)
        daemon.settle()
        self.assertEqual(happened, ["first", "second"])
        self.assertEqual(len(daemon.pending_calls), 1)

    def test_threads(self) -> None:
        """Views that block take turns with the test."""

        @accept_websocket
        def blocking(request: Request) -> None:
            for message in request.websocket:
                request.websocket.send(message)

        daemon = Daemon({"/": blocking})
        browser = daemon.connect("/")
        browser.send("1")
        browser.send("2")
        self.assertEqual(browser.messages, ["1", "2"])
        browser.close()
        self.assertTrue(browser.gone)

    def test_begin_stop(self) -> None:
        """The daemon may be stopped, and its end be watched; stopping twice is stopping once."""
        daemon = Daemon({"/echo/": echo})
        browser = daemon.connect("/echo/")
        deaf = daemon.open_connection()
        deaf.send(handshake("/echo/"))
        ended = daemon.begin_stop()
        self.assertEqual(browser.closing, GOING_AWAY)
        self.assertTrue(browser.gone)
        self.assertNoResult(ended)
        self.assertIs(daemon.begin_stop(), ended)
        daemon.advance(5)
        self.successResultOf(ended)
        self.assertTrue(deaf.closed)

    def test_stop(self) -> None:
        """Stopping to the end takes the time that it takes, and leaves nothing."""
        daemon = Daemon({"/echo/": echo})
        deaf = daemon.open_connection()
        deaf.send(handshake("/echo/"))
        daemon.stop()
        self.assertTrue(deaf.closed)
        self.assertEqual(daemon.pending_calls, [])
        self.successResultOf(daemon.begin_stop())

    def test_context(self) -> None:
        """At the end of a with statement the daemon has been stopped, whatever happened in it."""
        with Daemon({"/echo/": echo}) as daemon:
            browser = daemon.connect("/echo/")
            self.assertFalse(browser.gone)
        self.assertEqual(browser.closing, GOING_AWAY)
        with Daemon({"/echo/": echo}) as daemon:
            browser = daemon.connect("/echo/")
            daemon.stop()
        self.assertTrue(browser.gone)

    def test_context_that_fails(self) -> None:
        """So it has at the end of one that fails, and the failure goes on."""
        browsers = []

        def fail() -> None:
            with Daemon({"/echo/": echo}) as daemon:
                browsers.append(daemon.connect("/echo/"))
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        self.assertTrue(browsers[0].gone)
