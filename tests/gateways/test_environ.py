"""The environ of a WSGI application."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.gateways.environ import ErrorStream, make_environ
from pushd.views.request import Request
from tests.support.peer import said

Environ = dict[str, Any]


def environ_of(headers: dict[str, list[str]] | None = None, **more: Any) -> Environ:
    """Return the environ of a request."""
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
    """The environ of PEP 3333 and RFC 3875 §4.1."""

    def test_request(self) -> None:
        """It describes the request and the server."""
        environ = environ_of(query_string="a=%20b", method="POST", body=b"abc")
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
        """The path is decoded; its bytes are passed as Latin-1."""
        self.assertEqual(
            environ_of(path="/café/")["PATH_INFO"].encode("latin-1").decode(), "/café/"
        )

    def test_addresses(self) -> None:
        """Client and server are found in every form that an address may have."""
        for peer, address, port in (
            ("192.0.2.1:5", "192.0.2.1", "5"),
            ("192.0.2.1", "192.0.2.1", ""),
            ("[2001:db8::1]:5", "2001:db8::1", "5"),
            ("2001:db8::1", "2001:db8::1", ""),
            ("unix", "", ""),
        ):
            environ = environ_of(peer=peer)
            self.assertEqual((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]), (address, port))
        for scheme, host, name, port in (
            ("http", "a", "a", "80"),
            ("https", "a", "a", "443"),
            ("https", "[::1]:8443", "::1", "8443"),
            ("http", "", "localhost", "80"),
        ):
            environ = environ_of(scheme=scheme, host=host)
            self.assertEqual(environ["wsgi.url_scheme"], scheme)
            self.assertEqual((environ["SERVER_NAME"], environ["SERVER_PORT"]), (name, port))

    def test_headers(self) -> None:
        """Repeated headers and cookies are joined; no header can pass for another one."""
        environ = environ_of(
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
        """What the application writes to wsgi.errors is logged, line by line."""
        stream = ErrorStream()
        with capturedLogs() as events:
            self.assertEqual(stream.write("100 {percent} %s\n\n  two\n"), 24)
            stream.writelines(["a", "b\n"])
            stream.flush()
        self.assertEqual(said(events), ["100 {percent} %s", "  two", "ab"])
