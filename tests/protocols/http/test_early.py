"""Requests that are refused before they have arrived as a whole."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.http.early import EarlyRequest, read_early
from pushd.protocols.http.headers import RequestHeaders


class EarlyRequestTests(SynchronousTestCase):
    def test_path(self) -> None:
        """The path is read from whatever there is of a request line."""
        for line, path in (
            (b"GET /topics/t?token=x HTTP/1.1", b"/topics/t"),
            (b"GET http://a/topics/t HTTP/1.1", b"/topics/t"),
            (b"GET /topics/xxx", b"/topics/xxx"),
            (b"GET ", b""),
            (b"GET", b""),
            (b"", b""),
        ):
            self.assertEqual(EarlyRequest(line, RequestHeaders()).path, path, line)

    def test_arguments(self) -> None:
        """So is the query."""
        request = EarlyRequest(b"GET /topics?topic=a&topic=b/c", RequestHeaders())
        self.assertEqual((request.path, request.args), (b"/topics", {b"topic": [b"a", b"b/c"]}))
        self.assertEqual(EarlyRequest(b"", RequestHeaders()).args, {})

    def test_answer(self) -> None:
        """Headers of the answer are kept."""
        request = EarlyRequest(b"GET / HTTP/1.1", RequestHeaders())
        request.setHeader(b"vary", b"origin")
        self.assertEqual(request.answer_headers, {b"vary": b"origin"})
        self.assertFalse(request.wants_websocket)


class ReadEarlyTests(SynchronousTestCase):
    def test_headers(self) -> None:
        """Of a head with any mistake, well-formed headers that matter are read."""
        headers = read_early(
            [b"host: a", b"X: y", b"no colon", b"\x00", b"ORIGIN:\thttps://b ", b"", b"Host: c"]
        )
        self.assertEqual(headers.raw, {b"Host": [b"a"], b"Origin": [b"https://b"]})

    def test_control_bytes(self) -> None:
        """A header that holds control bytes, or bytes that are not ASCII, is ignored."""
        for value in (b"a\rb", b"a\nb", b"a\x85b", b"a\x00", b"\xc3\xa9", b"a\tb"):
            self.assertEqual(read_early([b"Origin: " + value]).raw, {})
