"""What a WSGI application is asked, and what becomes of what it answers to a handshake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.closing import INTERNAL_ERROR, NORMAL, Closing
from pushd.gateways.environ import ErrorStream, call_application, check_head, make_environ
from pushd.testing.daemon import Browser, Daemon
from pushd.views.exchange import HandshakeResponse
from pushd.views.request import Request
from tests.peer import said

Environ = dict[str, Any]


def asked(headers: dict[str, list[str]] | None = None, **more: Any) -> Environ:
    """Give the environ of a request."""
    facts = {
        "method": "GET",
        "path": "/",
        "scheme": "http",
        "host": "a:8080",
        "peer": "192.0.2.1:5",
    }
    return make_environ(
        Request(**{"clock": Clock(), "raw_headers": Headers(headers or {}), **facts, **more})
    )


class EnvironTests(SynchronousTestCase):
    """PEP 3333 and RFC 3875 §4.1."""

    def test_request(self) -> None:
        """It tells what is asked, and how the server works."""
        environ = asked(query_string="a=%20b", method="POST", body=b"abc")
        self.assertEqual(environ["REQUEST_METHOD"], "POST")
        self.assertEqual((environ["SCRIPT_NAME"], environ["PATH_INFO"]), ("", "/"))
        self.assertEqual(environ["QUERY_STRING"], "a=%20b")
        self.assertEqual((environ["SERVER_NAME"], environ["SERVER_PORT"]), ("a", "8080"))
        self.assertEqual(environ["CONTENT_LENGTH"], "3")
        self.assertEqual(environ["wsgi.input"].read(), b"abc")
        self.assertEqual(environ["wsgi.version"], (1, 0))
        self.assertEqual(
            [environ[f"wsgi.{name}"] for name in ("multithread", "multiprocess", "run_once")],
            [True, False, False],
        )

    def test_path(self) -> None:
        """The path is decoded, and its bytes stand for themselves."""
        self.assertEqual(asked(path="/café/")["PATH_INFO"].encode("latin-1").decode(), "/café/")

    def test_addresses(self) -> None:
        """Who asks, and who is asked, in every form that an address has."""
        for peer, address, port in (
            ("192.0.2.1:5", "192.0.2.1", "5"),
            ("192.0.2.1", "192.0.2.1", ""),
            ("[2001:db8::1]:5", "2001:db8::1", "5"),
            ("2001:db8::1", "2001:db8::1", ""),
            ("unix", "", ""),
        ):
            environ = asked(peer=peer)
            self.assertEqual((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]), (address, port))
        for scheme, host, name, port in (
            ("http", "a", "a", "80"),
            ("https", "a", "a", "443"),
            ("https", "[::1]:8443", "::1", "8443"),
            ("http", "", "localhost", "80"),
        ):
            environ = asked(scheme=scheme, host=host)
            self.assertEqual(environ["wsgi.url_scheme"], scheme)
            self.assertEqual((environ["SERVER_NAME"], environ["SERVER_PORT"]), (name, port))

    def test_headers(self) -> None:
        """Repeated ones are joined, cookies as cookies are; none passes for one that it is not."""
        environ = asked(
            {
                "X-Two": ["a", "b"],
                "Cookie": ["a=1", "b=2"],
                "X_User": ["admin"],
                "Content-Type": ["text/plain"],
                "Content-Length": ["9"],
                "Transfer-Encoding": ["chunked"],
            }
        )
        self.assertEqual(environ["HTTP_X_TWO"], "a, b")
        self.assertEqual(environ["HTTP_COOKIE"], "a=1; b=2")
        self.assertEqual(environ["CONTENT_TYPE"], "text/plain")
        self.assertEqual(environ["CONTENT_LENGTH"], "")
        names = {name for name in environ if name.startswith("HTTP_")}
        self.assertEqual(names, {"HTTP_X_TWO", "HTTP_COOKIE"})

    def test_errors(self) -> None:
        """What it writes to wsgi.errors is in the log, line by line, whatever is in it."""
        stream = ErrorStream()
        with capturedLogs() as events:
            self.assertEqual(stream.write("100 {percent} %s\n\n  two\n"), 24)
            stream.writelines(["a", "b\n"])
            stream.flush()
        self.assertEqual(said(events), ["100 {percent} %s", "  two", "ab"])


class HeadTests(SynchronousTestCase):
    """What start_response takes."""

    def test_good(self) -> None:
        """The status and its words; a status that has none gets those that it should have."""
        for status, number, phrase in (
            ("200 OK", 200, "OK"),
            ("404", 404, "Not Found"),
            ("299", 299, "Unknown"),
            ("200 ", 200, "OK"),
        ):
            self.assertEqual(check_head(status, [])[:2], (number, phrase))

    def test_headers(self) -> None:
        """What only the server can say of the connection is left out (PEP 3333)."""
        headers = [("Connection", "close"), ("Server", "x"), ("X-Bytes", "\xff")]
        self.assertEqual(check_head("200 OK", headers).headers, [("X-Bytes", "\xff")])

    def test_upgrade_required(self) -> None:
        """What goes with a 426 is the server's to say, too (RFC 9110 §15.5.22)."""
        headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        self.assertEqual(check_head("426 Upgrade Required", []).headers, headers)

    def test_bad(self) -> None:
        """What would break the answer, or be another one, is refused."""
        for status in ("", "OK", "100 Continue", "200OK", "2000 OK", "200 OK\r\nX: y"):
            self.assertRaises(ValueError, check_head, status, [])
        for name, value in (("a b", ""), ("", ""), ("a", "b\r\nc"), ("a", "b\0"), ("a", "€")):
            self.assertRaises(ValueError, check_head, "200 OK", [(name, value)])
        self.assertRaises(TypeError, check_head, "200 OK", [("a", 1)])


class Pieces:
    """An answer that knows whether it was closed."""

    def __init__(self, *pieces: Any) -> None:
        self._pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pieces)

    def close(self) -> None:
        """Note it."""
        self.closed += 1


class AskTests(SynchronousTestCase):
    def test_closed(self) -> None:
        """An answer is closed when it has come, when nobody wants the rest, and when it fails."""
        whole, cut, wrong = Pieces(b"a"), Pieces(b"a", b"b"), Pieces("text")
        self.assertEqual(list(call_application(lambda environ, start: whole, {}, print)), [b"a"])
        asking = call_application(lambda environ, start: cut, {}, print)
        self.assertEqual(next(asking), b"a")
        asking.close()
        self.assertRaises(
            TypeError, list, call_application(lambda environ, start: wrong, {}, print)
        )
        self.assertEqual([pieces.closed for pieces in (whole, cut, wrong)], [1, 1, 1])


class HandshakeTests(SynchronousTestCase):
    """The seam: ``environ["pushd.websocket"]``."""

    def open(
        self, application: Any, *, subprotocols: Sequence[str] = (), threads: int = 64
    ) -> Browser:
        """Serve an application, and ask for a WebSocket."""
        self.daemon = Daemon({}, wsgi=application, threads=threads)
        self.addCleanup(self.daemon.stop)
        return self.daemon.connect("/chat/?a=b", subprotocols=subprotocols)

    def test_talk(self) -> None:
        """Using it opens the WebSocket; the answer that follows is dropped, without a word."""

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
        self.assertEqual(words, ["", "", "opened", "closed 1000 after 0.000 s"])

    def test_generator(self) -> None:
        """An application may be a generator, and talk while its answer is asked for."""

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            environ["pushd.websocket"].send("hello")
            yield b""
            environ["pushd.websocket"].send("goodbye")

        browser = self.open(application)
        self.assertEqual(browser.messages, ["hello", "goodbye"])
        self.assertEqual(browser.closing, NORMAL)

    def test_subprotocol(self) -> None:
        """The application may choose a subprotocol when it accepts."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            environ["pushd.websocket"].accept("b")
            start("204 No Content", [])
            return []

        browser = self.open(application, subprotocols=["a", "b"])
        self.assertEqual((browser.opened, browser.subprotocol), (True, "b"))

    def test_refusal(self) -> None:
        """An answer in place of a 101 goes out as it is, its headers included."""

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
        """The log calls a function, or the class of an object, by its own name."""

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
            self.assertRegex(view, rf"^tests\.gateways\.test_environ\..*\b{name}$")

    def test_answers_500(self) -> None:
        """One that reports its error itself, and answers 500, is counted and logged once."""

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
        """No page ever sees one, so an endless one is cut."""

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            while True:
                yield bytes(1000)

        refused = self.open(application).refused
        assert refused is not None
        self.assertEqual(len(refused.body), 1 << 16)

    def test_status_closes(self) -> None:
        """After a 101 the status of the late answer says how it went."""
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
        """One that gives no status is a 500."""
        refused = self.open(lambda environ, start: []).refused
        assert refused is not None
        self.assertEqual(refused.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_left(self) -> None:
        """When the browser leaves, the application ends where it uses its WebSocket next."""
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
        """Nor is a refusal made any further for one who has left."""
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
        """Handshakes of strangers' pages, and bad ones, never reach the application."""

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
