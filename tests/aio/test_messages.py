"""Reading the JSON of a subscription."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.aio.messages import Began, Message, read_message
from pushd.errors import Refused


class ReadTests(SynchronousTestCase):
    def test_began(self) -> None:
        """A subscription begins at an id."""
        value = {"subscribed": "t", "id": "e:1", "recovered": True}
        self.assertEqual(read_message(value), Began("t", "e:1", True))

    def test_message(self) -> None:
        """A publication has text, bytes or a value, and may have an event."""
        common = {"topic": "t", "id": "e:1"}
        cases: list[tuple[dict[str, Any], Message]] = [
            ({"data": "x"}, Message("t", "e:1", "x")),
            ({"data": {"n": 1}}, Message("t", "e:1", {"n": 1})),
            ({"base64": "/w=="}, Message("t", "e:1", b"\xff")),
            ({"data": "x", "event": "e"}, Message("t", "e:1", "x", "e")),
            ({"data": "x", "conflated": 3}, Message("t", "e:1", "x", None, 3)),
        ]
        for members, message in cases:
            self.assertEqual(read_message({**common, **members}), message)

    def test_others(self) -> None:
        """Heartbeats and messages about presence are neither."""
        for value in (25, None, {"heartbeat": 25}, {"joined": "t", "subject": "ann"}):
            self.assertIsNone(read_message(value))

    def test_refused(self) -> None:
        """A topic that is refused, or no longer permitted, raises Refused."""
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({"error": "no", "topic": "t", "where": "token"}, 403, "token: t: no (403)"),
            ({"error": "bad id", "topic": "t", "where": "after"}, 400, "after: t: bad id (400)"),
            ({"error": "not JSON"}, 400, "not JSON (400)"),
            ({"error": "late", "topic": "t", "code": 503}, 503, "t: late (503)"),
            ({"unsubscribed": "t", "reason": "gone"}, 403, "token: t: gone (403)"),
            ({"unsubscribed": "t"}, 403, "token: t: the subscription was ended (403)"),
            (
                {"unsubscribed": "t", "reason": ""},
                403,
                "token: t: the subscription was ended (403)",
            ),
        ]
        for value, status, text in cases:
            refused = self.assertRaises(Refused, read_message, value)
            self.assertEqual((refused.status, str(refused)), (status, text))

    def test_malformed(self) -> None:
        """What pushd does not send raises LookupError, TypeError or ValueError."""
        for value in ({"subscribed": "t"}, {"topic": "t", "id": "e:1"}):
            self.assertRaises(LookupError, read_message, value)
        self.assertRaises(ValueError, read_message, {"topic": "t", "id": "e:1", "base64": "/"})
        self.assertRaises(TypeError, read_message, {"topic": "t", "id": "e:1", "base64": 1})
