"""A door somewhere else: where it is, and what is no answer of pushd's."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPSConnection

from pushd.client.client import Refused, Unreachable, connect
from tests.client.test_client import CONTROL, PUBLIC, ClientTestCase

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class UrlTests(ClientTestCase):
    """Where a door is."""

    def test_good(self) -> None:
        """A host, perhaps a port, perhaps a path in front of all others."""
        for url, asked in (
            ("http://127.0.0.1:8081/", "http://127.0.0.1:8081"),
            ("https://push.example.com", "https://push.example.com:None"),
            ("http://[::1]:1", "http://::1:1"),
        ):
            self.network.other_server = _OK + b"{}"
            self.assertRaises(Unreachable, self.client(url).topics)
            self.assertEqual(self.network.asked.pop(), asked)

    def test_prefix(self) -> None:
        """A path in front of all others is kept."""
        client = self.client(f"{CONTROL}/pushd/")
        refused = self.assertRaises(Refused, client.topics)
        self.assertEqual(refused.status, 404)
        self.assertIn(b"GET /pushd/topics HTTP/1.1", self.network.sent[-1])

    def test_bad(self) -> None:
        """What is no such URL is told so."""
        for url in ("", "127.0.0.1:8081", "ftp://x", "http://", "http://x:port", "http://[x"):
            with self.assertRaises(ValueError) as caught:
                self.client(url)
            self.assertIn(repr(url), str(caught.exception))

    def test_connections(self) -> None:
        """Connections are those of Python's library."""
        self.assertIs(type(connect("http", "x", 1, 5)), HTTPConnection)
        over_tls = connect("https", "x", None, 5)
        self.assertIs(type(over_tls), HTTPSConnection)
        self.assertEqual((over_tls.port, over_tls.timeout), (443, 5))
        # Certificates are checked.
        context: ssl.SSLContext = over_tls._context  # type: ignore[attr-defined] # no public name
        self.assertEqual(context.verify_mode, ssl.CERT_REQUIRED)


class AnswerTests(ClientTestCase):
    """What is no answer of pushd's."""

    def refusal(self, head: str, body: bytes) -> Refused:
        """How an answer is understood that is no good one."""
        length = f"Content-Length: {len(body)}\r\n"
        self.network.other_server = f"HTTP/1.1 {head}\r\n{length}\r\n".encode() + body
        refused = self.assertRaises(Refused, self.client().topics)
        assert isinstance(refused, Refused)
        return refused

    def test_nobody(self) -> None:
        """Nobody at the address."""
        self.network.daemon = None
        unreachable = self.assertRaises(Unreachable, self.client().topics)
        self.assertEqual(str(unreachable), f"{CONTROL} does not answer: Connection refused")

    def test_silence(self) -> None:
        """Nobody answers in time."""
        client = self.client(PUBLIC)
        unreachable = self.assertRaises(Unreachable, client.ask, "GET", "/topics/t")
        self.assertEqual(str(unreachable), f"{PUBLIC} does not answer in time")

    def test_strangers(self) -> None:
        """Somebody else answers."""
        for said in (b"", b"hello\r\n", _OK + b"hi", _OK + b"{}", _OK + b"[]", _OK + b"\xff\xfe"):
            self.network.other_server = said
            for call in (
                self.client().topics,
                lambda: list(self.client().connections()),
                lambda: self.client().publish("t", "x"),
            ):
                unreachable = self.assertRaises(Unreachable, call)
                self.assertIn(CONTROL, str(unreachable))

    def test_refusals(self) -> None:
        """A refusal is understood in whatever form it comes."""
        for head, body, line in (
            ("403 Forbidden", b"not\n  today", "not today (403)"),
            ("502 Bad Gateway", b"<html>" + b"x" * 500, "Bad Gateway (502)"),
            ("500 Oops", b"", "Oops (500)"),
            ("400 Bad", b'{"error": "no", "where": "x"}', "x: no (400)"),
            ("400 Bad", b'{"error": "no"}', "no (400)"),
            ("400 Bad", b"[1]", "[1] (400)"),
            ("404 Not Found", b'"x"', '"x" (404)'),
        ):
            self.assertEqual(str(self.refusal(head, body)), line)

    def test_retry_after(self) -> None:
        """When it may be worth another try is told, if it is a number of seconds."""
        for value, seconds in (("7", 7.0), ("", None), ("tomorrow", None), ("²", None)):
            head = f"503 Busy\r\nRetry-After: {value}"
            self.assertEqual(self.refusal(head, b"").retry_after, seconds)
