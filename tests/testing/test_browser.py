"""WebSocket clients of the testing kit."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import Closing
from pushd.protocols.http.response import Response
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import CLOSE, TEXT
from tests.support.peer import frame as make_frame
from tests.testing.test_daemon import echo


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
                self.ends.append("closed")
            except CancelledError:
                self.ends.append("cancelled")

        @accept_websocket
        async def refuse(request: Request) -> Response:
            return Response(403, {"X": "y"}, "no entry")

        @accept_websocket
        async def hesitate(request: Request) -> None:
            await Deferred()

        self.daemon = Daemon(
            {
                "/echo/": echo,
                "/watched/": watched,
                "/refuse/": refuse,
                "/hesitate/": hesitate,
                "/long/": accept_websocket(lambda _: "word " * 100),
            }
        )

    def test_messages(self) -> None:
        """Messages are recorded in order, text as str and binary as bytes."""
        browser = self.daemon.connect("/echo/")
        self.assertTrue(browser.opened)
        self.assertEqual(browser.messages, [])
        browser.send("café")
        browser.send(b"\x00\xff")
        browser.send("")
        self.assertEqual(browser.messages, ["café", b"\x00\xff", ""])

    def test_open(self) -> None:
        """An open browser is neither refused nor gone, and has received no Close."""
        browser = self.daemon.connect("/echo/")
        self.assertEqual(
            (browser.opened, browser.refused, browser.closing, browser.gone),
            (True, None, None, False),
        )

    def test_refused(self) -> None:
        """A refused browser has the response, and is not open."""
        browser = self.daemon.connect("/refuse/")
        assert browser.refused is not None
        self.assertEqual((browser.refused.status, browser.refused.text), (403, "no entry"))
        self.assertEqual(browser.refused.headers["X"], "y")
        self.assertEqual((browser.opened, browser.subprotocol), (False, None))

    def test_use_of_refused(self) -> None:
        """To use a refused browser is an error that says what was answered."""
        browser = self.daemon.connect("/refuse/")
        for use in (
            lambda: browser.messages,
            lambda: browser.send("hello"),
            browser.close,
        ):
            with self.assertRaises(AssertionError) as raised:
                use()
            self.assertEqual(
                str(raised.exception),
                "the WebSocket was not opened: <Browser /refuse/ refused: 403 Forbidden, no entry>",
            )

    def test_repr(self) -> None:
        """A browser's repr, which a failed assertion shows, says how it stands."""
        browser = self.daemon.connect("/echo/")
        self.assertEqual(repr(browser), "<Browser /echo/ open>")
        browser.close(4000, "bye")
        self.assertEqual(repr(browser), "<Browser /echo/ closed: 4000 bye>")
        left = self.daemon.connect("/echo/")
        left.leave()
        self.assertEqual(repr(left), "<Browser /echo/ gone>")
        undecided = self.daemon.connect("/hesitate/")
        self.assertEqual(repr(undecided), "<Browser /hesitate/ not answered yet>")
        undecided.leave()
        self.assertEqual(repr(undecided), "<Browser /hesitate/ gone without an answer>")
        self.assertEqual(
            repr(self.daemon.connect("/nothing/")),
            "<Browser /nothing/ refused: 404 Not Found, pushd 404 Not Found "
            "There is nothing at this address. Go to the start page>",
        )
        long = repr(self.daemon.connect("/long/"))
        self.assertEqual(long, f"<Browser /long/ refused: 200 OK, {'word ' * 40}…>")

    def test_undecided(self) -> None:
        """While the view has not decided, a browser is neither open nor refused."""
        browser = self.daemon.connect("/hesitate/")
        self.assertEqual(
            (browser.opened, browser.refused, browser.closing, browser.gone),
            (False, None, None, False),
        )

    def test_what_is_asked(self) -> None:
        """The handshake has the Origin, subprotocols and headers that were asked for."""
        browser = self.daemon.connect("/watched/?q=1", subprotocols=["b", "a"], headers={"X": "y"})
        (asked,) = self.requests
        self.assertEqual(browser.subprotocol, "b")
        self.assertEqual(asked.subprotocols, ("b", "a"))
        self.assertEqual((asked.host, asked.query_string), ("localhost:8080", "q=1"))
        self.assertEqual(
            (asked.headers["x"], asked.headers["origin"]), ("y", "http://localhost:8080")
        )

    def test_origin(self) -> None:
        """The Origin may be another, or absent."""
        self.daemon.connect("/watched/", origin=None)
        self.assertNotIn("origin", self.requests[0].headers)
        refused = self.daemon.connect("/watched/", origin="https://elsewhere.example").refused
        assert refused is not None
        self.assertEqual(refused.status, 403)

    def test_server_closes(self) -> None:
        """The server's Close frame is recorded, then the end of the connection."""
        browser = self.daemon.connect("/watched/")
        self.requests[0].websocket.close(4000, "genug für heute")
        self.daemon.settle()
        self.assertEqual(browser.closing, Closing(4000, "genug für heute"))
        self.assertTrue(browser.gone)

    def test_browser_closes(self) -> None:
        """close() sends a code and a reason, and the server's Close is recorded."""
        for code, reason in ((1000, ""), (4321, "bis morgen")):
            browser = self.daemon.connect("/watched/")
            browser.close(code, reason)
            self.assertEqual(self.ends.pop(), "closed")
            self.assertIsNotNone(browser.closing)
            self.assertTrue(browser.gone)

    def test_close_without_a_code(self) -> None:
        """After a Close without a code, ``closing`` is None."""
        browser = self.daemon.connect("/watched/")
        browser.send_bytes(make_frame(CLOSE))
        self.assertEqual((browser.closing, browser.gone), (None, True))
        self.assertEqual(self.ends, ["closed"])

    def test_leave(self) -> None:
        """leave() drops the connection; the view is cancelled, and nothing is left."""
        browser = self.daemon.connect("/watched/")
        self.assertEqual(self.ends, [])
        browser.leave()
        self.assertEqual(len(self.ends), 1)
        self.assertEqual((browser.gone, browser.closing), (True, None))
        self.assertTrue(self.requests[0].websocket.is_closed())
        self.assertEqual(self.daemon.pending_calls, [])

    def test_leave_twice(self) -> None:
        """leave() a second time does nothing."""
        browser = self.daemon.connect("/watched/")
        browser.leave()
        browser.leave()
        self.assertTrue(browser.gone)

    def test_stall(self) -> None:
        """stall() stops reading, so that a view that awaits its sends waits; resume() continues."""
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
        """send_bytes() sends what is no valid frame."""
        browser = self.daemon.connect("/echo/")
        browser.send_bytes(make_frame(TEXT, b"by hand"))
        self.assertEqual(browser.messages, ["by hand"])
        browser.send_bytes(make_frame(3))
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 1002)

    def test_many(self) -> None:
        """Browsers are independent of each other."""
        first, second = self.daemon.connect("/echo/"), self.daemon.connect("/echo/")
        first.send("1")
        second.send("2")
        first.leave()
        second.send("3")
        self.assertEqual((first.messages, second.messages), (["1"], ["2", "3"]))
        self.assertEqual((first.gone, second.gone), (True, False))
