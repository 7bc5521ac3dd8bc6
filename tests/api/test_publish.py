"""Publishing over HTTP at the control port."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import deferLater

from pushd.access.limits import Limits
from pushd.api import publish as module
from pushd.testing import Answer
from pushd.topics import broker, scheduled
from pushd.topics.rules import Rule, Rules
from pushd.topics.timestamp import format_timestamp, parse_timestamp
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import (
    RawWebSocketClient,
    SseClient,
    TopicTestCase,
    V1WebSocketClient,
)

BINARY = {"Content-Type": "application/octet-stream"}


class PublishTestCase(TopicTestCase):
    """A daemon with one subscriber of ``t``."""

    def setUp(self) -> None:
        """Start a daemon, and subscribe."""
        super().setUp()
        self.client = V1WebSocketClient(self.daemon, "t")

    def assert_wrong(self, answer: Answer, status: int, where: str) -> dict[str, Any]:
        """Check a refusal: its status, and a JSON body with the error and what is wrong."""
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        value = json.loads(answer.body)
        assert isinstance(value, dict)
        self.assertEqual((sorted(value), value["where"]), (["error", "where"], where))
        self.assertTrue(value["error"])
        return value

    def assert_refused(self, answer: Answer, where: str) -> dict[str, Any]:
        """Check a 413 that came before the whole request had arrived."""
        self.assertEqual(answer.headers["Connection"], "close")
        return self.assert_wrong(answer, 413, where)

    def post(self, path: str, body: bytes = b"x", headers: dict[str, str] | None = None) -> Answer:
        """Send a POST to the control port."""
        return self.control("POST", path, body, headers)

    def post_json(self, value: object) -> Answer:
        """Send a batch."""
        return self.post("/publish", json.dumps(value).encode())


class ControlTopicTests(PublishTestCase):
    """Publishing with ``POST /topics/<topic>``."""

    def test_answer(self) -> None:
        """The response has the id and the number of subscribers."""
        RawWebSocketClient(self.daemon, "t")
        SseClient(self.daemon, "t")
        answer = self.post("/topics/t")
        self.assertEqual(answer.status, 200)
        id = self.client.ids[0]
        self.assertEqual(json.loads(answer.body), {"id": id, "subscribers": 3})
        response = json.loads(self.post("/topics/u").body)
        self.assertEqual(response["subscribers"], 0)

    def test_empty(self) -> None:
        """A publication may be empty."""
        self.post("/topics/t", b"")
        self.assertEqual(self.client.data, [""])

    def test_too_big(self) -> None:
        """A publication of --max-message bytes is accepted, a larger one is 413."""
        self.start(limits=Limits(max_message=1000))
        self.assertEqual(self.post("/topics/t", b"x" * 1000).status, 200)
        value = self.assert_refused(self.post("/topics/t", b"x" * 1001), "body")
        self.assertIn("1000", value["error"])

    def test_too_big_for_rule(self) -> None:
        """The rule of a topic can lower the limit: for each way of publishing."""
        rules = Rules([Rule(match="t", max_message=3), Rule(match="**", history_size=9)])
        self.start(rules=rules, token_keys=secret_keys())
        reason = "a publication of 4 bytes: max-message of t is 3"
        writer = {"Authorization": f"Bearer {token(publish=['**'])}"}
        for path in ("/topics/t", "/topics/t?delay=1"):
            value = self.assert_wrong(self.post(path, "éé".encode()), 413, "body")
            self.assertEqual(value["error"], reason)
        public = self.daemon.request("POST", "/topics/t", writer, b"xxxx")
        assert public is not None
        self.assertEqual(self.assert_wrong(public, 413, "body")["error"], reason)
        good, bad = {"topic": "u", "data": "xxxx"}, {"topic": "t", "base64": "eHh4eA=="}
        answer = self.post_json({"publications": [good, bad]})
        value = self.assert_wrong(answer, 413, "publications[1]")
        self.assertEqual(value["error"], reason)
        self.assertEqual(self.describe("u")["history"], 0)
        self.assertEqual(self.post("/topics/t", b"xxx").status, 200)
        self.assertEqual(self.post("/topics/u", b"xxxx").status, 200)
        self.assertEqual(self.post_json({"publications": [good]}).status, 200)

    def test_method(self) -> None:
        """Another method is 405, with the allowed methods in Allow."""
        for method in ("PUT", "DELETE", "PATCH"):
            answer = self.control(method, "/topics/t")
            self.assert_wrong(answer, 405, "method")
            self.assertEqual(answer.headers["Allow"], "GET, HEAD, POST, OPTIONS")

    def test_head(self) -> None:
        """HEAD gets the headers of the answer to a GET."""
        answer = self.control("HEAD", "/topics/t")
        self.assertEqual((answer.status, answer.body), (200, b""))
        got = self.control("GET", "/topics/t")
        self.assertEqual(answer.headers["Content-Length"], got.headers["Content-Length"])

    def test_options(self) -> None:
        """OPTIONS gets the allowed methods."""
        for path, allowed in (
            ("/topics/t", "GET, HEAD, POST, OPTIONS"),
            ("/publish", "POST, OPTIONS"),
            ("/topics", "GET, HEAD, OPTIONS"),
            ("/connections/1", "GET, HEAD, DELETE, OPTIONS"),
        ):
            answer = self.control("OPTIONS", path)
            self.assertEqual((answer.status, answer.headers["Allow"]), (204, allowed))


class LastIdTests(PublishTestCase):
    """``/last-id``: where a subscriber that comes later begins."""

    def ask(self, query: str) -> Answer:
        """Ask for a topic's last id."""
        return self.control("GET", f"/last-id{query}")

    def test_newest(self) -> None:
        """It is the id of the newest publication."""
        ids = self.publish_many("a/b", ["1", "2"])
        self.assertEqual(json.loads(self.ask("?topic=a/b").body), {"topic": "a/b", "id": ids[-1]})

    def test_none_yet(self) -> None:
        """Before the first publication it is the id that this one follows."""
        last = json.loads(self.ask("?topic=new").body)["id"]
        self.assertEqual(self.publish("new", "x"), last.replace(":0", ":1"))
        client = V1WebSocketClient(self.daemon, "new", last)
        self.assertEqual((client.recovered, client.data), (True, ["x"]))

    def test_wrong(self) -> None:
        """A topic must be given, and be valid; nothing else may be."""
        self.assert_wrong(self.ask(""), 400, "topic")
        self.assert_wrong(self.ask("?topic=a%20b"), 400, "topic")
        self.assert_wrong(self.ask("?topic=%ff"), 400, "topic")
        self.assert_wrong(self.ask("?topic=t&after=1"), 400, "after")
        self.assert_wrong(self.control("POST", "/last-id?topic=t"), 405, "method")


class IdempotencyTests(PublishTestCase):
    """Publishing with ``Idempotency-Key``."""

    def test_again(self) -> None:
        """A request with a known key gets the same response, and nothing is published."""
        answers = [self.post("/topics/t", b"x", {"Idempotency-Key": "k"}) for _ in range(3)]
        self.assertEqual(len({answer.body for answer in answers}), 1)
        self.assertEqual(len(self.client.data), 1)

    def test_five_minutes(self) -> None:
        """A key is remembered for five minutes."""
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
        RawWebSocketClient(self.daemon, "t")
        expected = {"id": first["id"], "subscribers": 2}
        [batched] = json.loads(self.post_json({"publications": [one]}).body)["published"]
        again = json.loads(self.post("/topics/t", b"y", {"Idempotency-Key": "k"}).body)
        self.assertEqual((batched, again), (expected, expected))
        self.assertEqual(self.client.data, ["x"])

    def test_other_topic(self) -> None:
        """A key belongs to the topic it was used with."""
        for topic in ("u", "t"):
            self.post(f"/topics/{topic}", b"x", {"Idempotency-Key": "k"})
        self.assertEqual(self.client.data, ["x"])

    def test_timed(self) -> None:
        """A scheduled publication with a key is refused."""
        answer = self.post("/topics/t?delay=1", b"x", {"Idempotency-Key": "k"})
        self.assert_wrong(answer, 400, "Idempotency-Key")
        self.assertEqual(json.loads(self.control("GET", "/schedules").body)["schedules"], [])


class ScheduleTests(PublishTestCase):
    """Scheduling with ``?delay=``, ``?every=`` and ``?count=``."""

    def test_demo(self) -> None:
        """One request schedules the demo's ten publications, half a second apart."""
        answer = self.post("/topics/t?every=0.5&count=10", b"tick")
        self.assertEqual(answer.status, 202)
        value = json.loads(answer.body)
        self.assertEqual(answer.headers["Location"], f"/schedules/{value['schedule']}")
        self.assertEqual(
            {key: value[key] for key in ("topic", "count", "done", "every")},
            {"topic": "t", "count": 10, "done": 1, "every": 0.5},
        )
        for number in range(1, 10):
            self.assertEqual(len(self.client.data), number)
            self.daemon.advance(0.5)
        self.assertEqual(self.client.data, ["tick"] * 10)

    def test_delay(self) -> None:
        """A delay may be a fraction of a second, and the data may be binary."""
        self.assertEqual(self.post("/topics/t?delay=1.25", b"\xff", BINARY).status, 202)
        self.daemon.advance(1.2)
        self.assertEqual(self.client.data, [])
        self.daemon.advance(0.05)
        self.assertEqual(self.client.data, [b"\xff"])

    def test_computed(self) -> None:
        """Seconds may be printed as a program computed them; what has just passed is now."""
        delays = ["0.3333333333333333", "0.30000000000000004", "3.5999999871253967", "1e-05"]
        delays += ["-2.384185791015625e-07", "-0.5", "0.3333333333333333333333333333", "1E-2"]
        for delay in delays:
            self.assertEqual(self.post(f"/topics/t?delay={delay}").status, 202, delay)
        every = "0.3333333333333333"
        answer = self.post(f"/topics/t?every={every}&count=3")
        self.assertEqual((answer.status, json.loads(answer.body)["every"]), (202, 1 / 3))
        self.daemon.advance(4)
        self.assertEqual(len(self.client.data), len(delays) + 3)

    def test_both(self) -> None:
        """A delay may precede the interval; a count may be written with a decimal point."""
        self.post("/topics/t?delay=2&every=1&count=3.0")
        self.daemon.advance(2)
        self.assertEqual(len(self.client.data), 1)
        self.daemon.advance(1, 1, 1)
        self.assertEqual(len(self.client.data), 3)

    def wall(self) -> float:
        """Return the daemon's time of day."""
        return float(self.daemon.clock.seconds())

    def test_at(self) -> None:
        """A publication may be made at a time of day, of any zone, and then repeatedly."""
        begin = self.wall()
        zone = timezone(timedelta(hours=-3))
        at = quote(datetime.fromtimestamp(begin + 2, zone).isoformat())
        answer = self.post(f"/topics/t?at={at}&every=1&count=2")
        self.assertEqual(answer.status, 202)
        due = parse_timestamp(json.loads(answer.body)["due"])
        self.assertAlmostEqual(due, begin + 2, 2)
        self.daemon.advance(1.9)
        self.assertEqual(self.client.data, [])
        self.daemon.advance(0.2)
        self.assertEqual(len(self.client.data), 1)
        self.daemon.advance(1)
        self.assertEqual(len(self.client.data), 2)
        # One that has just passed is made at once.
        self.post(f"/topics/t?at={format_timestamp(self.wall() - 30)}")
        self.assertEqual(len(self.client.data), 3)

    def test_wrong(self) -> None:
        """Invalid times are refused with the name of the argument."""
        for query, where in (
            ("delay=x", "delay"),
            ("delay=-1", "delay"),
            ("delay=", "delay"),
            ("delay=nan", "delay"),
            ("delay=inf", "delay"),
            ("delay=1e999", "delay"),
            ("delay=1e300", "delay"),
            ("delay=" + "1" * 5000, "delay"),
            ("delay=1_0", "delay"),
            ("delay=-1.5", "delay"),
            ("every=-1&count=1", "every"),
            ("every=1&count=-1", "count"),
            ("delay=86401", "delay"),
            ("every=1", "every"),
            ("count=1", "every"),
            ("every=0&count=1", "every"),
            ("every=0.001&count=1", "every"),
            ("every=1&count=0", "count"),
            ("every=1&count=1.5", "count"),
            ("every=1&count=1000001", "count"),
            ("every=1&count=%ff", "count"),
            ("at=tomorrow", "at"),
            ("at=", "at"),
            ("at=1970-01-01T00:00:05%2B01:00", "at"),
            (f"at={format_timestamp(self.wall() + 86_410)}", "at"),
            (f"at={format_timestamp(self.wall() - 61)}", "at"),
            (f"at={format_timestamp(self.wall())}&delay=1", "at"),
        ):
            self.assert_wrong(self.post(f"/topics/t?{query}"), 400, where)
        self.assertEqual(self.client.data, [])
        self.assertEqual(json.loads(self.control("GET", "/schedules").body)["schedules"], [])

    def test_not_utf_8(self) -> None:
        """Data to be published later is checked at once."""
        self.assert_wrong(self.post("/topics/t?delay=1", b"\xff"), 400, "body")

    def test_too_many(self) -> None:
        """When the number of schedules has reached its limit, the answer is 503."""
        self.patch(scheduled, "MAX_SCHEDULED", 1)
        self.assertEqual(self.post("/topics/t?delay=1").status, 202)
        answer = self.post("/topics/t?delay=1")
        self.assert_wrong(answer, 503, "schedules")
        self.assertEqual(answer.headers["Retry-After"], "60")

    def test_too_much(self) -> None:
        """When their bytes have reached their limit, the answer is 503."""
        self.patch(scheduled, "MAX_BYTES", 1000)
        self.assertEqual(self.post("/topics/t?delay=1").status, 202)
        answer = self.post("/topics/t?delay=1", b"x" * 1000)
        self.assertIn("1000 bytes", self.assert_wrong(answer, 503, "schedules")["error"])


class BatchTests(PublishTestCase):
    """Publishing a batch with ``POST /publish``."""

    def test_many(self) -> None:
        """A batch is published in order; each publication gets its id and number of subscribers."""
        other = RawWebSocketClient(self.daemon, "u")
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
            self.client.got, [(published[0]["id"], "é"), (published[2]["id"], b"\xff")]
        )
        self.assertEqual(other.data, [""])

    def test_json(self) -> None:
        """A publication of a batch may be a JSON value, and have an event."""
        client = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        one = {"topic": "t", "json": {"a": [1, "é"]}, "event": "paid"}
        many = [one] + [{"topic": "t", "json": list(range(100))}] * 999
        self.assertEqual(self.post_json({"publications": many}).status, 200)
        self.assertEqual(self.client.data[0], '{"a":[1,"é"]}')
        value = json.loads(client.messages[1])
        self.assertEqual((value["event"], value["data"]), ("paid", {"a": [1, "é"]}))
        self.assertEqual(len(self.client.data), 1000)

    def test_none(self) -> None:
        """A batch may be empty."""
        self.assertEqual(self.post_json({"publications": []}).body, b'{"published":[]}\n')

    def test_key(self) -> None:
        """Each publication of a batch may have an idempotency key."""
        one = {"topic": "t", "data": "x", "idempotency_key": "k"}
        answers = [self.post_json({"publications": [one, one]}).body for _ in range(2)]
        self.assertEqual(answers[0], answers[1])
        self.post("/topics/t", b"x", {"Idempotency-Key": "k"})
        self.assertEqual(self.client.data, ["x"])

    def test_body(self) -> None:
        """A batch may be larger than --max-message, but no publication in it."""
        largest = b64encode(bytes(1 << 20)).decode()
        many = [{"topic": "t", "base64": largest}] * 3
        self.assertEqual(self.post_json({"publications": many}).status, 200)
        self.assertEqual(self.client.data, [bytes(1 << 20)] * 3)
        for size, key in (((1 << 20) + 1, "data"), ((1 << 19) + 1, "é")):
            large = {"topic": "t", "data": ("x" if key == "data" else key) * size}
            answer = self.post_json({"publications": [many[0], large]})
            self.assert_wrong(answer, 413, "publications[1]")
        self.assertEqual(len(self.client.data), 3)

    def test_turns(self) -> None:
        """Subscribers keep up with a large batch, however short the history is."""
        self.keep(size=2)
        # The test's clock runs due calls at once, so nothing else would run during the batch.
        self.patch(broker, "deferLater", lambda clock, _: deferLater(clock, 1))
        clients = [
            transport(self.daemon, "t")
            for transport in (RawWebSocketClient, V1WebSocketClient, SseClient)
        ]
        data = [f"{number} {'x' * 50_000}" for number in range(100)]
        body = json.dumps({"publications": [{"topic": "t", "data": one} for one in data]}).encode()
        self.assertIsNone(self.daemon.request("POST", "/publish", body=body, control=True))
        self.assertLess(len(clients[0].data), 10)
        self.daemon.advance(*[1] * 60)
        for client in clients:
            # No lists in the message: they are long.
            self.assertTrue(client.data == data)

    def test_leaves(self) -> None:
        """A batch is published whole even if the client disconnects meanwhile."""
        self.patch(broker, "SLICE", 0)
        body = json.dumps({"publications": [{"topic": "t", "data": "x"}] * 3}).encode()
        head = f"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        settle = self.daemon.settle
        self.daemon.settle = self.daemon._network.run  # type: ignore[method-assign]
        wire = self.daemon.open_connection(control=True)
        wire.send(head.encode() + body)
        self.assertEqual(self.daemon._service._broker.published, 1)
        wire.leave()
        self.daemon.settle = settle  # type: ignore[method-assign]
        self.daemon.settle()
        self.assertEqual(self.client.data, ["x"] * 3)
        self.assertEqual(wire.received, b"")

    def test_body_too_large(self) -> None:
        """The limit on the body of a batch grows with --max-message."""
        self.assertEqual(module.max_batch_body(1000), 16 << 20)
        self.assertEqual(module.max_batch_body(16 << 20), 32 << 20)
        length = {"Content-Length": str((16 << 20) + 1)}
        answer = self.control("POST", "/publish", b"", length)
        self.assert_refused(answer, "body")

    def test_too_many(self) -> None:
        """More than 1000 publications are 413."""
        good = {"topic": "t", "data": ""}
        self.assert_wrong(self.post_json({"publications": [good] * 1001}), 413, "publications")
        for part in ("{}", '""', "[]", "0", '{"a":[]}'):
            body = f'{{"publications":[{",".join([part] * 250_000)}]}}'.encode()
            value = self.assert_wrong(self.post("/publish", body), 413, "publications")
            self.assertIn("commas and colons", value["error"], part)
        # One string, which ends behind what looks like the end.
        body = b'{"publications":[],"data":"%b' % rb"\\\\\"" + b"{}," * 20_000 + b'"}'
        self.assert_wrong(self.post("/publish", body), 400, "data")
        self.assertEqual(self.client.data, [])
        self.assertEqual(self.post_json({"publications": [good] * 1000}).status, 200)
        self.assertEqual(len(self.client.data), 1000)

    @NO_DEADLINE
    @given(st.lists(st.text('"\\{[:,é', max_size=5), max_size=5), st.integers(0, 20))
    def test_count_of_parts(self, strings: list[str], limit: int) -> None:
        """Whatever strings hold, only marks outside of them count."""
        patched = self.patch(module, "_MAX_MARKS", limit)
        value = {"publications": [{"data": one, "x": []} for one in strings]}
        # The outer object, for each publication an object with three marks, and what is between.
        marks = 1 + len(strings) * 3 + max(0, len(strings) - 1)
        many = module._has_too_many_parts(json.dumps(value, ensure_ascii=False).encode())
        self.assertEqual(many, marks > limit)
        patched.restore()

    def test_what_single_publications_take(self) -> None:
        """What ``POST /topics/t`` takes and a batch does not is refused by name."""
        body = json.dumps({"publications": [{"topic": "t", "data": "x"}]}).encode()
        for query in ("delay=1", "every=1", "count=2", "delay="):
            answer = self.post(f"/publish?{query}", body)
            value = self.assert_wrong(answer, 400, query.partition("=")[0])
            self.assertIn("/topics/", value["error"])
        self.assert_wrong(self.post("/publish?delay", body), 400, "delay")
        answer = self.post("/publish", body, {"Idempotency-Key": "k"})
        value = self.assert_wrong(answer, 400, "Idempotency-Key")
        self.assertIn("idempotency_key", value["error"])
        for name in ("delay", "idempotency_key", "é\ud800"):
            value = {"publications": [], name: 1}
            self.assert_wrong(self.post_json(value), 400, ascii(name)[1:-1])
        self.assertEqual(self.client.data, [])

    def test_dot_segments(self) -> None:
        """A topic that no browser can ask for is refused."""
        good = {"topic": "t", "data": "x"}
        for topic in ("..", "a/../t", "./t"):
            answer = self.post_json({"publications": [good, {**good, "topic": topic}]})
            value = self.assert_wrong(answer, 400, "publications[1].topic")
            self.assertIn("must not have . or ..", value["error"])
        self.assertEqual(self.client.data, [])

    def test_method(self) -> None:
        """Another method than POST is 405."""
        answer = self.control("GET", "/publish")
        self.assert_wrong(answer, 405, "method")
        self.assertEqual(answer.headers["Allow"], "POST, OPTIONS")


class PublicationTests(PublishTestCase):
    """Reading one publication: topic, body and headers."""

    def test_content_type(self) -> None:
        """A body of application/octet-stream is bytes, any other is text."""
        for kind, data in (
            ("application/octet-stream", b"a"),
            ("Application/Octet-Stream ; x=y", b"a"),
            ("text/plain; charset=latin-1", "a"),
            ("application/xml", "a"),
            ("é", "a"),
            ("", "a"),
        ):
            self.assertEqual(self.post("/topics/t", b"a", {"Content-Type": kind}).status, 200)
            self.assertEqual(self.client.data[-1], data, kind)

    def test_json(self) -> None:
        """A body of application/json is published as it is if it is JSON, and refused if not."""
        headers = {"Content-Type": "Application/JSON; charset=utf-8"}
        client = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        body = ' {"é": [1.50, "\\n"]}\n'
        self.assertEqual(self.post("/topics/t", body.encode(), headers).status, 200)
        self.assertEqual(self.client.data, [body])
        value = json.loads(client.messages[-1])
        self.assertEqual(value["data"], {"é": [1.5, "\n"]})
        for wrong in (b"", b"{", b"NaN", b"\xff", b"[" * 100_000):
            error = self.assert_wrong(self.post("/topics/t", wrong, headers), 400, "body")["error"]
            self.assertIn("valid UTF-8" if wrong == b"\xff" else "JSON", error)
        self.assertEqual(len(self.client.data), 1)

    def test_event(self) -> None:
        """A publication has the event that the query names, at once and later."""
        for query in ("event=paid", "event=paid&delay=1"):
            self.assertLess(self.post(f"/topics/t?{query}").status, 300)
        self.daemon.advance(1)
        events = [json.loads(one).get("event") for one in self.client.browser.messages]
        self.assertEqual(events, [None, "paid", "paid"])

    def test_bad_event(self) -> None:
        """An invalid event is refused."""
        for name in ("", "a%20b", "message", "%C3%A9"):
            self.assert_wrong(self.post(f"/topics/t?event={name}"), 400, "event")

    def test_later_json(self) -> None:
        """JSON that is published later is JSON then, too."""
        headers = {"Content-Type": "application/json"}
        client = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        self.assertEqual(self.post("/topics/t?delay=1", b"[1]", headers).status, 202)
        self.daemon.advance(1)
        self.assertEqual(json.loads(client.messages[-1])["data"], [1])
        self.assert_wrong(self.post("/topics/t?delay=1", b"[1", headers), 400, "body")

    def test_not_utf_8(self) -> None:
        """Text that is not UTF-8 is refused; the same data is accepted as bytes."""
        answer = self.post("/topics/t", b"\xff")
        self.assertIn("octet-stream", self.assert_wrong(answer, 400, "body")["error"])
        self.assertEqual(self.post("/topics/t", b"\xff", BINARY).status, 200)
        self.assertEqual(self.client.data, [b"\xff"])

    def test_bad_topic(self) -> None:
        """An invalid topic is refused: to publish, to schedule and to describe."""
        for name in ("", "a//b", "a%20b", "caf%C3%A9", "x" * 256):
            self.assert_wrong(self.post(f"/topics/{name}"), 400, "topic")
            self.assert_wrong(self.control("GET", f"/topics/{name}"), 400, "topic")
            self.assert_wrong(self.post(f"/topics/{name}?delay=1"), 400, "topic")

    def test_bad_key(self) -> None:
        """An invalid idempotency key is refused."""
        for key in ("", "a b", "k" * 201, "é"):
            answer = self.post("/topics/t", b"x", {"Idempotency-Key": key})
            self.assert_wrong(answer, 400, "Idempotency-Key")
        self.assertEqual(self.post("/topics/t", b"x", {"Idempotency-Key": "k" * 200}).status, 200)
        self.assertEqual(len(self.client.data), 1)


class BatchErrorTests(PublishTestCase):
    """Batches that are refused."""

    def test_wrong(self) -> None:
        """The first invalid publication is named, and none is published."""
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
            ({"topic": "t", "data": "x", "json": 1}, ""),
            ({"topic": "t", "json": float("inf")}, ".json"),
            ({"topic": "t", "json": ["\ud800"]}, ".json"),
            ({"topic": "t", "data": "x", "event": 7}, ".event"),
            ({"topic": "t", "data": "x", "event": "message"}, ".event"),
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
        self.assertEqual(self.client.data, [])

    def test_wrong_body(self) -> None:
        """A body that is not a batch in JSON is refused."""
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
