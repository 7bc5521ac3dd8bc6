"""Calling WSGI applications: their responses, and WebSocket handshakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import INTERNAL_ERROR, NORMAL, Closing
from pushd.gateways.application import call_application, check_head
from pushd.testing import Browser, Daemon
from pushd.views.exchange import HandshakeResponse
from tests.support.peer import said

Environ = dict[str, Any]


class HeadTests(SynchronousTestCase):
    """The arguments of start_response."""

    def test_good(self) -> None:
        """A status without a reason phrase gets the standard one."""
        for status, number, phrase in (
            ("200 OK", 200, "OK"),
            ("404", 404, "Not Found"),
            ("299", 299, "Unknown"),
            ("200 ", 200, "OK"),
        ):
            self.assertEqual(check_head(status, [])[:2], (number, phrase))

    def test_headers(self) -> None:
        """Headers that only the server may set are dropped (PEP 3333)."""
        headers = [("Connection", "close"), ("Server", "x"), ("X-Bytes", "\xff")]
        self.assertEqual(check_head("200 OK", headers).headers, [("X-Bytes", "\xff")])

    def test_upgrade_required(self) -> None:
        """A 426 gets the headers that only the server may set (RFC 9110 §15.5.22)."""
        headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        self.assertEqual(check_head("426 Upgrade Required", []).headers, headers)

    def test_bad(self) -> None:
        """A status or header that would corrupt the response is rejected."""
        for status in ("", "OK", "100 Continue", "200OK", "2000 OK", "200 OK\r\nX: y"):
            self.assertRaises(ValueError, check_head, status, [])
        for name, value in (("a b", ""), ("", ""), ("a", "b\r\nc"), ("a", "b\0"), ("a", "€")):
            self.assertRaises(ValueError, check_head, "200 OK", [(name, value)])
        self.assertRaises(TypeError, check_head, "200 OK", [("a", 1)])


class RecordingBody:
    """A body that records whether it was closed."""

    def __init__(self, *pieces: Any) -> None:
        self._pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pieces)

    def close(self) -> None:
        """Record the call."""
        self.closed += 1


class CallApplicationTests(SynchronousTestCase):
    def test_closed(self) -> None:
        """A body is closed at its end, when iteration stops early, and after an exception."""
        whole, cut, wrong = RecordingBody(b"a"), RecordingBody(b"a", b"b"), RecordingBody("text")
        self.assertEqual(list(call_application(lambda environ, start: whole, {}, print)), [b"a"])
        asking = call_application(lambda environ, start: cut, {}, print)
        self.assertEqual(next(asking), b"a")
        asking.close()
        self.assertRaises(
            TypeError, list, call_application(lambda environ, start: wrong, {}, print)
        )
        self.assertEqual([pieces.closed for pieces in (whole, cut, wrong)], [1, 1, 1])


class HandshakeTests(SynchronousTestCase):
    """Handshakes: ``environ["pushd.websocket"]``."""

    def open(
        self, application: Any, *, subprotocols: Sequence[str] = (), threads: int = 64
    ) -> Browser:
        """Serve an application, and connect a WebSocket to it."""
        self.daemon = Daemon({}, wsgi=application, threads=threads)
        self.addCleanup(self.daemon.stop)
        return self.daemon.connect("/chat/?a=b", subprotocols=subprotocols)

    def test_talk(self) -> None:
        """Using the WebSocket accepts the handshake; the response is then dropped silently."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            websocket = environ["pushd.websocket"]
            for message in websocket:
                websocket.send(message)
                if message == "enough":
                    break
            start("200 OK", [("Content-Type", "text/plain")])
            return [b"too late"]

        with capturedLogs() as events:
            browser = self.open(application)
            browser.send("hello")
            browser.send("enough")
        self.assertEqual(browser.messages, ["hello", "enough"])
        self.assertEqual(browser.closing, NORMAL)
        words = [line.partition(" /chat/ ")[2].partition(" by ")[0] for line in said(events)]
        self.assertEqual(list(filter(None, words)), ["opened", "closed 1000 after 0.000 s"])

    def test_generator(self) -> None:
        """An application may be a generator that uses the WebSocket while its body is iterated."""

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            environ["pushd.websocket"].send("hello")
            yield b""
            environ["pushd.websocket"].send("goodbye")

        browser = self.open(application)
        self.assertEqual(browser.messages, ["hello", "goodbye"])
        self.assertEqual(browser.closing, NORMAL)

    def test_subprotocol(self) -> None:
        """An application can choose a subprotocol when it accepts."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            environ["pushd.websocket"].accept("b")
            start("204 No Content", [])
            return []

        browser = self.open(application, subprotocols=["a", "b"])
        self.assertEqual((browser.opened, browser.subprotocol), (True, "b"))

    def test_refusal(self) -> None:
        """A response before the 101 is sent unchanged, with its headers."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            self.assertEqual(environ["PATH_INFO"], "/chat/")
            self.assertEqual(environ["HTTP_UPGRADE"].lower(), "websocket")
            headers = [("Location", "/login/"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
            start("302 Found", [*headers, ("Content-Length", "999"), ("X-Name", "caf\xc3\xa9")])(
                b"a"
            )
            return [b"b"]

        refused = self.open(application).refused
        assert refused is not None
        self.assertEqual((refused.status, refused.body), (302, b"ab"))
        self.assertEqual(refused.headers["Location"], "/login/")
        self.assertEqual(refused.headers.get_all("Set-Cookie"), ["a=1", "b=2"])
        self.assertEqual(refused.headers["Content-Length"], "2")

    def test_name(self) -> None:
        """The log names a function, or the class of an object."""

        class Site:
            def __call__(self, environ: Environ, start: Any) -> list[bytes]:
                raise ZeroDivisionError

        def application(environ: Environ, start: Any) -> list[bytes]:
            raise ZeroDivisionError

        for one, name in ((application, "application"), (Site(), "Site")):
            with capturedLogs() as events:
                self.open(one)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            [view] = [event["view"] for event in events if event.get("event") == "view_failed"]
            self.assertRegex(view, rf"^tests\.gateways\.test_application\..*\b{name}$")

    def test_answers_500(self) -> None:
        """An application that answers 500 itself is counted and logged once."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            if environ["QUERY_STRING"] == "a=b":
                environ["pushd.websocket"].accept()
            start("500 Internal Server Error", [])
            return [b"sorry"]

        with capturedLogs() as events:
            browser = self.open(application)
            self.assertEqual(browser.closing, INTERNAL_ERROR)
            refused = self.daemon.connect("/chat/").refused
        assert refused is not None
        self.assertEqual((refused.status, refused.body), (500, b"sorry"))
        failed = [event for event in events if event.get("event") == "application_failed"]
        self.assertEqual([event["connection"] for event in failed], [1, None])
        self.assertEqual(failed[0]["path"], "/chat/")
        metrics = self.daemon.request("GET", "/metrics", control=True)
        assert metrics is not None
        self.assertIn("\npushd_view_errors_total 2.0\n", metrics.text)

    def test_long_refusal(self) -> None:
        """An endless body that refuses a handshake is cut, as browsers show none of it."""

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            while True:
                yield bytes(1000)

        refused = self.open(application).refused
        assert refused is not None
        self.assertEqual(len(refused.body), 1 << 16)

    def test_status_closes(self) -> None:
        """After the 101 the status of the response determines the close code."""
        for status, closing in (
            ("302 Found", NORMAL),
            ("403 Forbidden", Closing(1008, "Forbidden")),
            ("500 Internal Server Error", INTERNAL_ERROR),
        ):

            def application(environ: Environ, start: Any, status: str = status) -> list[bytes]:
                environ["pushd.websocket"].accept()
                start(status, [])
                return []

            self.assertEqual(self.open(application).closing, closing)
        self.assertEqual(HandshakeResponse(200).closing, NORMAL)

    def test_raises(self) -> None:
        """An application that raises is a 500, or closes with 1011; the log has its name."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            if environ["QUERY_STRING"] != "a=b":
                environ["pushd.websocket"].accept()
            raise LookupError

        refused = self.open(application).refused
        assert refused is not None
        self.assertEqual(refused.status, 500)
        with capturedLogs() as events:
            self.assertEqual(self.daemon.connect("/?").closing, INTERNAL_ERROR)
        self.assertIn("test_raises.<locals>.application failed at / for", " ".join(said(events)))
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2)

    def test_no_start(self) -> None:
        """An application that does not call start_response is a 500."""
        refused = self.open(lambda environ, start: []).refused
        assert refused is not None
        self.assertEqual(refused.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_left(self) -> None:
        """When the browser leaves, the application ends at its next use of the WebSocket."""
        ended = []

        def application(environ: Environ, start: Any) -> list[bytes]:
            try:
                while True:
                    environ["pushd.websocket"].wait()
            finally:
                ended.append(True)

        browser = self.open(application, threads=1)
        late = self.daemon.connect("/").refused
        assert late is not None
        self.assertEqual(late.status, 503)
        browser.leave()
        self.assertEqual(ended, [True])

    def test_left_while_refused(self) -> None:
        """The body of a refusal is not continued for a browser that has left."""
        made = []

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            environ["pushd.websocket"].wait()
            while True:
                made.append(True)
                yield b"a"

        self.open(application).leave()
        self.assertEqual(made, [True])

    def test_guarded(self) -> None:
        """Cross-origin and invalid handshakes never reach the application."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            raise AssertionError

        daemon = Daemon({}, wsgi=application)
        self.addCleanup(daemon.stop)
        stranger = daemon.connect("/", origin="http://evil.example").refused
        assert stranger is not None
        self.assertEqual(stranger.status, 403)
        old = daemon.get("/", {"Upgrade": "websocket", "Connection": "Upgrade"})
        assert old is not None
        self.assertEqual(old.status, 426)
