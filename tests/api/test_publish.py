"""Publishing over HTTP at the control port: what is answered, and every mistake."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from twisted.internet.task import deferLater

from pushd.access.limits import Limits
from pushd.api import publish as module
from pushd.testing.daemon import Answer
from pushd.topics import broker, scheduled
from tests.listeners import Events, JsonSocket, RawSocket, TopicTestCase

BINARY = {"Content-Type": "application/octet-stream"}


class PublishTestCase(TopicTestCase):
    """A control port, and one who listens to ``t``."""

    def setUp(self) -> None:
        """Listen."""
        super().setUp()
        self.listener = JsonSocket(self.daemon, "t")

    def assert_wrong(self, answer: Answer, status: int, where: str) -> dict[str, Any]:
        """Check a refusal: its status, and a JSON body that says what and where."""
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        value = json.loads(answer.body)
        assert isinstance(value, dict)
        self.assertEqual((sorted(value), value["where"]), (["error", "where"], where))
        self.assertTrue(value["error"])
        return value

    def assert_refused(self, answer: Answer, where: str) -> dict[str, Any]:
        """Check a 413 that came before the whole request did."""
        self.assertEqual(answer.headers["Connection"], "close")
        return self.assert_wrong(answer, 413, where)

    def post(self, path: str, body: bytes = b"x", headers: dict[str, str] | None = None) -> Answer:
        """Post."""
        return self.control("POST", path, body, headers)

    def post_json(self, value: object) -> Answer:
        """Post to ``/publish``."""
        return self.post("/publish", json.dumps(value).encode())


class ControlTopicTests(PublishTestCase):
    """``/topics/<topic>``."""

    def test_answer(self) -> None:
        """The id and the number of subscribers come back."""
        RawSocket(self.daemon, "t")
        Events(self.daemon, "t")
        answer = self.post("/topics/t")
        self.assertEqual(answer.status, 200)
        id = self.listener.ids[0]
        self.assertEqual(json.loads(answer.body), {"id": id, "subscribers": 3})
        nobody = json.loads(self.post("/topics/u").body)
        self.assertEqual(nobody["subscribers"], 0)

    def test_empty(self) -> None:
        """A publication may be empty."""
        self.post("/topics/t", b"")
        self.assertEqual(self.listener.data, [""])

    def test_too_big(self) -> None:
        """More than --max-message is 413, and just as much is not."""
        self.start(limits=Limits(max_message=1000))
        self.assertEqual(self.post("/topics/t", b"x" * 1000).status, 200)
        value = self.assert_refused(self.post("/topics/t", b"x" * 1001), "body")
        self.assertIn("1000", value["error"])

    def test_method(self) -> None:
        """Another method is refused, with those that there are."""
        for method in ("PUT", "DELETE", "PATCH"):
            answer = self.control(method, "/topics/t")
            self.assert_wrong(answer, 405, "method")
            self.assertEqual(answer.headers["Allow"], "GET, POST")


class IdempotencyTests(PublishTestCase):
    """``Idempotency-Key``."""

    def test_again(self) -> None:
        """A request with a known key gets the same response, and nothing is published."""
        answers = [self.post("/topics/t", b"x", {"Idempotency-Key": "k"}) for _ in range(3)]
        self.assertEqual(len({answer.body for answer in answers}), 1)
        self.assertEqual(len(self.listener.data), 1)

    def test_five_minutes(self) -> None:
        """It is remembered for five minutes."""
        headers = {"Idempotency-Key": "k"}
        self.post("/topics/u", b"1", headers)
        self.daemon.advance(299)
        self.post("/topics/u", b"2", headers)
        self.assertEqual(self.describe("u")["id"].partition(":")[2], "1")
        self.daemon.advance(1)
        before = self.describe("u")["id"]
        self.post("/topics/u", b"3", headers)
        self.assertNotEqual(self.describe("u")["id"], before)

    def test_current_count(self) -> None:
        """A repeated request gets the first id and the current number of subscribers."""
        one = {"topic": "t", "data": "x", "idempotency_key": "k"}
        [first] = json.loads(self.post_json({"publications": [one]}).body)["published"]
        self.assertEqual(first["subscribers"], 1)
        RawSocket(self.daemon, "t")
        expected = {"id": first["id"], "subscribers": 2}
        [batched] = json.loads(self.post_json({"publications": [one]}).body)["published"]
        again = json.loads(self.post("/topics/t", b"y", {"Idempotency-Key": "k"}).body)
        self.assertEqual((batched, again), (expected, expected))
        self.assertEqual(self.listener.data, ["x"])

    def test_other_topic(self) -> None:
        """It counts for the topic that it came with."""
        for topic in ("u", "t"):
            self.post(f"/topics/{topic}", b"x", {"Idempotency-Key": "k"})
        self.assertEqual(self.listener.data, ["x"])

    def test_timed(self) -> None:
        """A timed push takes none, and says so."""
        answer = self.post("/topics/t?delay=1", b"x", {"Idempotency-Key": "k"})
        self.assert_wrong(answer, 400, "Idempotency-Key")
        self.assertEqual(self.daemon._service._scheduled.all(), [])


class ScheduleTests(PublishTestCase):
    """``?delay``, ``?every`` and ``count``."""

    def test_demo(self) -> None:
        """The demo's ten half-second pushes are one request."""
        answer = self.post("/topics/t?every=0.5&count=10", b"tick")
        self.assertEqual(answer.status, 202)
        value = json.loads(answer.body)
        self.assertEqual(answer.headers["Location"], f"/schedules/{value['schedule']}")
        self.assertEqual(
            {key: value[key] for key in ("topic", "count", "done", "every")},
            {"topic": "t", "count": 10, "done": 1, "every": 0.5},
        )
        for number in range(1, 10):
            self.assertEqual(len(self.listener.data), number)
            self.daemon.advance(0.5)
        self.assertEqual(self.listener.data, ["tick"] * 10)

    def test_delay(self) -> None:
        """A delay of bytes, to a fraction of a second."""
        self.assertEqual(self.post("/topics/t?delay=1.25", b"\xff", BINARY).status, 202)
        self.daemon.advance(1.2)
        self.assertEqual(self.listener.data, [])
        self.daemon.advance(0.05)
        self.assertEqual(self.listener.data, [b"\xff"])

    def test_both(self) -> None:
        """First a delay, then a pace; a count may be written with a point."""
        self.post("/topics/t?delay=2&every=1&count=3.0")
        self.daemon.advance(2)
        self.assertEqual(len(self.listener.data), 1)
        self.daemon.advance(1, 1, 1)
        self.assertEqual(len(self.listener.data), 3)

    def test_wrong(self) -> None:
        """Times that can't be are refused by name."""
        for query, where in (
            ("delay=x", "delay"),
            ("delay=-1", "delay"),
            ("delay=", "delay"),
            ("delay=nan", "delay"),
            ("delay=86401", "delay"),
            ("every=1", "every"),
            ("count=1", "every"),
            ("every=0&count=1", "every"),
            ("every=0.001&count=1", "every"),
            ("every=1&count=0", "count"),
            ("every=1&count=1.5", "count"),
            ("every=1&count=1000001", "count"),
            ("every=1&count=%ff", "count"),
        ):
            self.assert_wrong(self.post(f"/topics/t?{query}"), 400, where)
        self.assertEqual((self.listener.data, self.daemon._service._scheduled.all()), ([], []))

    def test_not_utf_8(self) -> None:
        """What is to be published later is checked now."""
        self.assert_wrong(self.post("/topics/t?delay=1", b"\xff"), 400, "body")

    def test_too_many(self) -> None:
        """When there are as many as there may be, the answer is 503."""
        self.patch(scheduled, "MAX_SCHEDULED", 1)
        self.assertEqual(self.post("/topics/t?delay=1").status, 202)
        answer = self.post("/topics/t?delay=1")
        self.assert_wrong(answer, 503, "schedules")
        self.assertEqual(answer.headers["Retry-After"], "60")

    def test_too_much(self) -> None:
        """Nor may they hold more than so many bytes."""
        self.patch(scheduled, "MAX_BYTES", 1000)
        self.assertEqual(self.post("/topics/t?delay=1").status, 202)
        answer = self.post("/topics/t?delay=1", b"x" * 1000)
        self.assertIn("1000 bytes", self.assert_wrong(answer, 503, "schedules")["error"])


class BatchTests(PublishTestCase):
    """``/publish``."""

    def test_many(self) -> None:
        """Many at once, each with its id and number of subscribers, in order."""
        other = RawSocket(self.daemon, "u")
        answer = self.post_json(
            {
                "publications": [
                    {"topic": "t", "data": "é"},
                    {"topic": "u", "data": ""},
                    {"topic": "t", "base64": b64encode(b"\xff").decode()},
                ]
            }
        )
        self.assertEqual(answer.status, 200)
        published = json.loads(answer.body)["published"]
        self.assertEqual([one["subscribers"] for one in published], [1, 1, 1])
        self.assertEqual(
            self.listener.got, [(published[0]["id"], "é"), (published[2]["id"], b"\xff")]
        )
        self.assertEqual(other.data, [""])

    def test_none(self) -> None:
        """None at all are all right."""
        self.assertEqual(self.post_json({"publications": []}).body, b'{"published":[]}\n')

    def test_key(self) -> None:
        """Each may have a key."""
        one = {"topic": "t", "data": "x", "idempotency_key": "k"}
        answers = [self.post_json({"publications": [one, one]}).body for _ in range(2)]
        self.assertEqual(answers[0], answers[1])
        self.post("/topics/t", b"x", {"Idempotency-Key": "k"})
        self.assertEqual(self.listener.data, ["x"])

    def test_body(self) -> None:
        """A batch may be larger than a publication, but no publication in it."""
        largest = b64encode(bytes(1 << 20)).decode()
        many = [{"topic": "t", "base64": largest}] * 3
        self.assertEqual(self.post_json({"publications": many}).status, 200)
        self.assertEqual(self.listener.data, [bytes(1 << 20)] * 3)
        for size, key in (((1 << 20) + 1, "data"), ((1 << 19) + 1, "é")):
            large = {"topic": "t", "data": ("x" if key == "data" else key) * size}
            answer = self.post_json({"publications": [many[0], large]})
            self.assert_wrong(answer, 413, "publications[1]")
        self.assertEqual(len(self.listener.data), 3)

    def test_turns(self) -> None:
        """A large batch does not overtake those who listen, however short the history is."""
        self.keep(size=2)
        # This clock has no turns: what is due now it does at once.
        self.patch(broker, "deferLater", lambda clock, _: deferLater(clock, 1))
        listeners = [transport(self.daemon, "t") for transport in (RawSocket, JsonSocket, Events)]
        data = [f"{number} {'x' * 50_000}" for number in range(100)]
        body = json.dumps({"publications": [{"topic": "t", "data": one} for one in data]}).encode()
        self.assertIsNone(self.daemon.request("POST", "/publish", body=body, control=True))
        self.assertLess(len(listeners[0].data), 10)
        self.daemon.advance(*[1] * 60)
        for listener in listeners:
            # No lists in the message: they are long.
            self.assertTrue(listener.data == data)

    def test_leaves(self) -> None:
        """All or none, also where the client leaves in the midst of it."""
        self.patch(broker, "_SLICE", 0)
        body = json.dumps({"publications": [{"topic": "t", "data": "x"}] * 3}).encode()
        head = f"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        settle = self.daemon.settle
        self.daemon.settle = self.daemon._loopback.run  # type: ignore[method-assign]
        wire = self.daemon.open_connection(control=True)
        wire.send(head.encode() + body)
        self.assertEqual(self.daemon._service._broker.published, 1)
        wire.leave()
        self.daemon.settle = settle  # type: ignore[method-assign]
        self.daemon.settle()
        self.assertEqual(self.listener.data, ["x"] * 3)
        self.assertEqual(wire.received, b"")

    def test_body_too_large(self) -> None:
        """It has a bound of its own, which grows with --max-message."""
        self.assertEqual(module.max_batch_body(1000), 16 << 20)
        self.assertEqual(module.max_batch_body(16 << 20), 32 << 20)
        length = {"Content-Length": str((16 << 20) + 1)}
        answer = self.control("POST", "/publish", b"", length)
        self.assert_refused(answer, "body")

    def test_too_many(self) -> None:
        """More than a thousand are 413."""
        good = {"topic": "t", "data": ""}
        self.assert_wrong(self.post_json({"publications": [good] * 1001}), 413, "publications")
        self.assertEqual(self.listener.data, [])
        self.assertEqual(self.post_json({"publications": [good] * 1000}).status, 200)
        self.assertEqual(len(self.listener.data), 1000)

    def test_method(self) -> None:
        """It is there to be posted to."""
        answer = self.control("GET", "/publish")
        self.assert_wrong(answer, 405, "method")
        self.assertEqual(answer.headers["Allow"], "POST")


class PublicationTests(PublishTestCase):
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


class BatchErrorTests(PublishTestCase):
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
