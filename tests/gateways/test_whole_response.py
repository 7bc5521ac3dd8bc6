"""Responses that leave in one write."""

from __future__ import annotations

from typing import Any

from tests.support.asgi_case import AsgiTestCase, Recorder, body, start
from tests.support.peer import request


class WholeTests(AsgiTestCase):
    """Responses in one part, of an ASGI application."""

    def answer(self, *lines: str, first: str = "GET / HTTP/1.1", **headers: str) -> Any:
        """Return the client, which has the answer."""
        self.serve(Recorder(start(200, **headers), body(b"hello")))
        return self.send_raw(request(first, "Host: a", *lines))

    def test_one_write(self) -> None:
        """Head and body leave in one write; names of headers are spelled as all others."""
        peer = self.answer(x_name="value")
        self.assertEqual(peer.body, b"hello")
        self.assertIn("\r\nX-Name: value\r\n", peer.head)
        self.assertIn("\r\nContent-Length: 5\r\n", peer.head)

    def test_shared(self) -> None:
        """What the connection needs in its head is there as well; Date comes once."""
        peer = self.answer("Connection: close", date="then")
        self.assertIn("\r\nConnection: close\r\n", peer.head)
        self.assertEqual(peer.head.count("Date: "), 1)
        self.assertIn("\r\nDate: then", peer.head)
        self.assertIsNotNone(peer.lost)

    def test_same(self) -> None:
        """A client of HTTP/1.0 gets the same, by the way that all other responses take."""
        heads = [self.answer(first=f"GET / HTTP/1.{minor}").head for minor in (0, 1)]
        old, new = [{*head.split("\r\n")[1:]} - {"Connection: close"} for head in heads]
        self.assertEqual(old, new)

    def test_long(self) -> None:
        """A long response is not joined with its head."""
        self.serve(Recorder(start(), body(bytes(300_000))))
        self.assertEqual(len(self.ask().body), 300_000)
