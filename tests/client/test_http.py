"""HTTP requests: URLs, and responses that are not a success."""

from __future__ import annotations

import shutil
import ssl
import tempfile
from http.client import HTTPConnection, HTTPSConnection
from socket import AF_UNIX, SOCK_STREAM, socket

from pushd.client import Refused, Unreachable, connect
from tests.client.test_client import CONTROL, PUBLIC, ClientTestCase

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class UrlTests(ClientTestCase):
    """URLs of a port."""

    def test_good(self) -> None:
        """A URL has a host, and may have a port and a path."""
        for url, address in (
            ("http://127.0.0.1:8081/", "http://127.0.0.1:8081"),
            ("https://push.example.com", "https://push.example.com:None"),
            ("http://[::1]:1", "http://::1:1"),
        ):
            self.network.canned = _OK + b"{}"
            self.assertRaises(Unreachable, self.client(url).topics)
            self.assertEqual(self.network.addresses.pop(), address)

    def test_prefix(self) -> None:
        """The path of the URL is put before the paths of requests."""
        client = self.client(f"{CONTROL}/pushd/")
        refused = self.assertRaises(Refused, client.topics)
        self.assertEqual(refused.status, 404)
        self.assertIn(b"GET /pushd/topics HTTP/1.1", self.network.sent[-1])

    def test_bad(self) -> None:
        """The error for a bad URL shows the rule and the URL."""
        for url in ("", "127.0.0.1:8081", "ftp://x", "http://", "http://x:port", "http://[x"):
            with self.assertRaises(ValueError) as caught:
                self.client(url)
            line = f"the URL must be like http://127.0.0.1:8081; got {url!r}"
            self.assertTrue(str(caught.exception).startswith(line), caught.exception)

    def test_unix(self) -> None:
        """The URL of a Unix socket is unix: and its path, with or without slashes before it."""
        for url in ("unix:/run/control.sock", "unix:///run/control.sock"):
            self.assertEqual(self.client(url).topics()["topics"], [])
            self.assertEqual(self.network.addresses.pop(), "unix:///run/control.sock:None")
        for url in ("unix:", "unix:control.sock"):
            self.assertRaises(ValueError, self.client, url)

    def test_unix_socket(self) -> None:
        """Requests over a Unix socket are for the Host localhost, which the control port serves."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = f"{folder}/control.sock"
        connection = connect("unix", path, None, 60)
        self.assertRaises(FileNotFoundError, connection.request, "GET", "/readyz")
        connection.close()
        with socket(AF_UNIX, SOCK_STREAM) as listening:
            listening.bind(path)
            listening.listen()
            connection.request("GET", "/readyz")
            accepted, _ = listening.accept()
            with accepted:
                accepted.settimeout(60)
                received = accepted.recv(65536)
                accepted.sendall(_OK + b"{}")
            self.assertEqual(connection.getresponse().read(), b"{}")
            connection.close()
        self.assertTrue(received.startswith(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n"))

    def test_connections(self) -> None:
        """Connections are made with the standard library."""
        self.assertIs(type(connect("http", "x", 1, 5)), HTTPConnection)
        over_tls = connect("https", "x", None, 5)
        self.assertIs(type(over_tls), HTTPSConnection)
        self.assertEqual((over_tls.port, over_tls.timeout), (443, 5))
        # Certificates are verified.
        context: ssl.SSLContext = over_tls._context  # type: ignore[attr-defined] # no public name
        self.assertEqual(context.verify_mode, ssl.CERT_REQUIRED)


class ResponseTests(ClientTestCase):
    """Responses that are not a success, and missing responses."""

    def refusal(self, head: str, body: bytes) -> Refused:
        """Return the exception for a response."""
        length = f"Content-Length: {len(body)}\r\n"
        self.network.canned = f"HTTP/1.1 {head}\r\n{length}\r\n".encode() + body
        refused = self.assertRaises(Refused, self.client().topics)
        assert isinstance(refused, Refused)
        return refused

    def test_refused_connection(self) -> None:
        """A refused connection is Unreachable."""
        self.network.daemon = None
        unreachable = self.assertRaises(Unreachable, self.client().topics)
        self.assertEqual(str(unreachable), f"{CONTROL} does not respond: Connection refused")

    def test_timeout(self) -> None:
        """A response that does not come in time is Unreachable."""
        client = self.client(PUBLIC)
        unreachable = self.assertRaises(Unreachable, client.ask, "GET", "/topics/t")
        self.assertEqual(str(unreachable), f"{PUBLIC} does not respond in time")

    def test_not_pushd(self) -> None:
        """A response that pushd does not send is Unreachable."""
        for response in (
            b"",
            b"hello\r\n",
            _OK + b"hi",
            _OK + b"{}",
            _OK + b"[]",
            _OK + b"\xff\xfe",
        ):
            self.network.canned = response
            for call in (
                self.client().topics,
                lambda: list(self.client().connections()),
                lambda: self.client().publish("t", "x"),
            ):
                unreachable = self.assertRaises(Unreachable, call)
                self.assertIn(CONTROL, str(unreachable))

    def test_refusals(self) -> None:
        """A refusal may be JSON, text or a page; its text is one line."""
        for head, body, line in (
            ("403 Forbidden", b"not\n  today", "not today (403)"),
            ("502 Bad Gateway", b"<html>" + b"x" * 500, "Bad Gateway (502)"),
            ("500 Oops", b"", "Oops (500)"),
            ("500 ", b"", "the server gave no reason (500)"),
            ("400 Bad", b'{"error": ""}', "the server gave no reason (400)"),
            ("400 Bad", b'{"error": "no", "where": "x"}', "x: no (400)"),
            ("400 Bad", b'{"error": "no"}', "no (400)"),
            ("400 Bad", b"[1]", "[1] (400)"),
            ("404 Not Found", b'"x"', '"x" (404)'),
            ("404 Not Found", b'"status"', '"status" (404)'),
            ("503 X", b'{"status": "not ready", "reason": "gone"}', "not ready: gone (503)"),
            ("503 X", b'{"status": 1}', '{"status": 1} (503)'),
        ):
            self.assertEqual(str(self.refusal(head, body)), line)

    def test_retry_after(self) -> None:
        """Retry-After is used if it is a number of seconds."""
        for value, seconds in (("7", 7.0), ("", None), ("tomorrow", None), ("²", None)):
            head = f"503 Busy\r\nRetry-After: {value}"
            self.assertEqual(self.refusal(head, b"").retry_after, seconds)
