"""A browser of the kit: each thing it shows is so, and each thing it does is done."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import Closing
from pushd.protocols.http.response import Response
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket
from tests.peer import CLOSE, TEXT
from tests.peer import frame as make_frame
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
