"""What is to be published, as it stands in a request, and each way in which it can't."""

from __future__ import annotations

from tests.api.test_publish import BINARY, PublishTestCase


class RequestTests(PublishTestCase):
    """One publication: a topic, a body and two headers."""

    def test_content_type(self) -> None:
        """application/octet-stream is bytes, everything else is text."""
        for kind, data in (
            ("application/octet-stream", b"a"),
            ("Application/Octet-Stream ; x=y", b"a"),
            ("text/plain; charset=latin-1", "a"),
            ("application/json", "a"),
            ("é", "a"),
            ("", "a"),
        ):
            self.assertEqual(self.post("/topics/t", b"a", {"Content-Type": kind}).status, 200)
            self.assertEqual(self.listener.data[-1], data, kind)

    def test_not_utf_8(self) -> None:
        """Text that is no UTF-8 is refused, the same as bytes is not."""
        answer = self.post("/topics/t", b"\xff")
        self.assertIn("octet-stream", self.assert_wrong(answer, 400, "body")["error"])
        self.assertEqual(self.post("/topics/t", b"\xff", BINARY).status, 200)
        self.assertEqual(self.listener.data, [b"\xff"])

    def test_bad_topic(self) -> None:
        """What is no topic is refused, and so are a GET and a timed push for it."""
        for name in ("", "a//b", "a%20b", "caf%C3%A9", "x" * 256):
            self.assert_wrong(self.post(f"/topics/{name}"), 400, "topic")
            self.assert_wrong(self.control("GET", f"/topics/{name}"), 400, "topic")
            self.assert_wrong(self.post(f"/topics/{name}?delay=1"), 400, "topic")

    def test_bad_key(self) -> None:
        """A key is what fits into a header."""
        for key in ("", "a b", "k" * 201, "é"):
            answer = self.post("/topics/t", b"x", {"Idempotency-Key": key})
            self.assert_wrong(answer, 400, "Idempotency-Key")
        self.assertEqual(self.post("/topics/t", b"x", {"Idempotency-Key": "k" * 200}).status, 200)
        self.assertEqual(len(self.listener.data), 1)


class BatchTests(PublishTestCase):
    """Many in JSON."""

    def test_wrong(self) -> None:
        """One that is wrong is named, and none is published."""
        good = {"topic": "t", "data": "x"}
        for bad, where in (
            (7, ""),
            ([], ""),
            ({}, ".topic"),
            ({"topic": 7, "data": "x"}, ".topic"),
            ({"topic": "a b", "data": "x"}, ".topic"),
            ({"topic": "\ud800", "data": "x"}, ".topic"),
            ({"topic": "t"}, ""),
            ({"topic": "t", "data": "x", "base64": "eA=="}, ""),
            ({"topic": "t", "data": 7}, ".data"),
            ({"topic": "t", "data": None}, ".data"),
            ({"topic": "t", "data": "\ud800"}, ".data"),
            ({"topic": "t", "base64": 7}, ".base64"),
            ({"topic": "t", "base64": "eA"}, ".base64"),
            ({"topic": "t", "base64": "e A="}, ".base64"),
            ({"topic": "t", "base64": "é"}, ".base64"),
            ({"topic": "t", "data": "x", "idempotency_key": 7}, ".idempotency_key"),
            ({"topic": "t", "data": "x", "idempotency_key": "a b"}, ".idempotency_key"),
            ({"topic": "t", "data": "x", "delay": 7}, ".delay"),
            ({"topic": "t", "data": "x", "\ud800": 7}, ".\\ud800"),
            ({"topic": "t", "data": "x", "k" * 500: 7}, "." + "k" * 100),
        ):
            answer = self.post_json({"publications": [good, bad]})
            self.assert_wrong(answer, 400, f"publications[1]{where}")
        self.assertEqual(self.listener.data, [])

    def test_wrong_body(self) -> None:
        """What is no such JSON is refused as a whole."""
        for body in (
            b"",
            b"{",
            b"\xff",
            b"[" * 100_000,
            b"[]",
            b"7",
            b"{}",
            b'{"publications": {}}',
            b"9" * 5000,
        ):
            self.assert_wrong(self.post("/publish", body), 400, "body")
