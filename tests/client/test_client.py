"""The blocking client: its requests, its results, and its exceptions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

import pushd.client
from pushd.access.closing import PERMISSION_REVOKED
from pushd.api.keep_alives import KEEP_ALIVE_INTERVAL
from pushd.client import Began, Broken, Client, Message, PushdError, Refused, Unreachable
from tests.support.fake_network import FakeNetwork
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import RawWebSocketClient, TopicTestCase, V1WebSocketClient

CONTROL = "http://127.0.0.1:8081"
PUBLIC = "http://127.0.0.1:8080"

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class ClientTestCase(TopicTestCase):
    def setUp(self) -> None:
        """Start a daemon, and make a network to reach it."""
        super().setUp()
        self.network = FakeNetwork(self.daemon)

    def client(self, url: str = CONTROL, given: str | None = None) -> Client:
        """Make a client of the control port or of the public port."""
        network = self.network
        return Client(url, token=given, connect=network.connect, pause=network.pause)


class ImportTests(SynchronousTestCase):
    def test_standard_library(self) -> None:
        """Importing pushd.client imports only it, pushd.errors and the standard library."""
        script = (
            "import sys\n"
            "import pushd.client\n"
            "names = {name for name in sys.modules if name.partition('.')[0] == 'pushd'}\n"
            "print(*sorted(names))\n"
            "known = {*sys.stdlib_module_names, 'pushd', '__main__'}\n"
            "print(*{name.partition('.')[0] for name in sys.modules} - known)\n"
        )
        # Without site, no installed package can be imported, nor does one import itself.
        done = subprocess.run(
            [sys.executable, "-S", "-c", script],
            cwd=Path(pushd.__file__).parent.parent,
            env={"PYTHONPATH": str(Path(pushd.__file__).parent.parent)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        names, others = done.stdout.splitlines()
        self.assertEqual(
            names, "pushd pushd.client pushd.client.client pushd.client.http pushd.errors"
        )
        self.assertEqual(others, "")


class PublishTests(ClientTestCase):
    """``Client.publish`` and ``publish``."""

    def test_text_and_bytes(self) -> None:
        """Text is published as text, and bytes as bytes."""
        client = V1WebSocketClient(self.daemon, "a/b")
        said = self.client().publish("a/b", "tschüß\r\n")
        self.assertEqual((said["id"], said["subscribers"]), (client.ids[0], 1))
        self.client().publish("a/b", b"\xff\0")
        self.assertEqual(client.data, ["tschüß\r\n", b"\xff\0"])

    def test_function(self) -> None:
        """The function publishes without a client."""
        self.patch(Client.__init__, "__kwdefaults__", self.defaults())
        client = RawWebSocketClient(self.daemon, "t")
        said = pushd.client.publish(CONTROL, "t", "x", idempotency_key="k")
        self.assertEqual(pushd.client.publish(CONTROL, "t", "x", idempotency_key="k"), said)
        said = pushd.client.publish(CONTROL, "t", "y", delay=5)
        self.assertIn("schedule", said)
        self.daemon.advance(5)
        self.assertEqual(client.data, ["x", "y"])

    def defaults(self) -> dict[str, Any]:
        """Return the default arguments of Client, with the network."""
        return {**(Client.__init__.__kwdefaults__ or {}), "connect": self.network.connect}

    def test_json(self) -> None:
        """A dict or list is published as JSON, unless JSON cannot hold it."""
        browser = self.daemon.connect("/topics/t?format=json", subprotocols=("pushd.v1",))
        values: list[dict[str, Any] | list[Any]] = [{"é": [1, None]}, []]
        for value in values:
            self.client().publish("t", value)
            self.assertEqual(json.loads(browser.messages[-1])["data"], value)
        self.assertRaises(ValueError, self.client().publish, "t", [float("nan")])
        self.assertRaises(TypeError, self.client().publish, "t", [object()])

    def test_event(self) -> None:
        """A publication may have an event, at once and later; a bad name is refused."""
        browser = self.daemon.connect("/topics/t", subprotocols=("pushd.v1",))
        self.assertIn("id", self.client().publish("t", "x", event="paid"))
        self.assertIn("schedule", self.client().publish("t", "x", event="due", delay=1))
        self.daemon.advance(1)
        events = [json.loads(message).get("event") for message in browser.messages]
        self.assertEqual(events, [None, "paid", "due"])
        refused = self.assertRaises(Refused, self.client().publish, "t", "x", event="message")
        self.assertEqual((refused.status, refused.where), (400, "event"))

    def test_all(self) -> None:
        """Several are published with one request: all of them or none."""
        client = V1WebSocketClient(self.daemon, "t")
        publications: list[dict[str, Any]] = [
            {"topic": "t", "data": "x", "idempotency_key": "k", "event": "e"},
            {"topic": "t", "data": b"\xff"},
            {"topic": "t", "data": {"n": 1}},
        ]
        said = self.client().publish_all(publications)
        self.assertEqual([one["id"] for one in said], client.ids)
        self.assertEqual(client.data, ["x", b"\xff", '{"n":1}'])
        bad = [*publications, {"topic": "a b", "data": "x"}]
        self.assertRaises(Refused, self.client().publish_all, bad)
        self.assertRaises(TypeError, self.client().publish_all, [{"topic": "t", "data": 1}])
        self.assertRaises(TypeError, self.client().publish_all, [{"topic": "t", "dtaa": "x"}])
        self.assertEqual(len(client.ids), 3)

    def test_scheduled(self) -> None:
        """With ``every`` and ``count`` it publishes repeatedly."""
        client = RawWebSocketClient(self.daemon, "t")
        said = self.client().publish("t", "x", every=0.5, count=3)
        self.assertEqual(said["count"], 3)
        self.daemon.advance(0.5, 0.5, 0.5)
        self.assertEqual(client.data, ["x"] * 3)

    def test_at(self) -> None:
        """With ``at`` it publishes at a time, which has a zone; a schedule can be cancelled."""
        client = self.client()
        now = client.publish("t", "x", delay=60)["due"]
        at = datetime.fromisoformat(now).astimezone(timezone(timedelta(hours=5)))
        said = client.publish("t", "x", at=at)
        self.assertEqual(said["due"], now)
        self.assertEqual([one["schedule"] for one in client.schedules()][1:], [said["schedule"]])
        client.cancel(said["schedule"])
        self.assertEqual(len(client.schedules()), 1)
        refused = self.assertRaises(Refused, client.cancel, said["schedule"])
        self.assertEqual(refused.status, 404)
        self.assertRaises(ValueError, client.publish, "t", "x", at=datetime(2026, 12, 24))

    def test_token(self) -> None:
        """With a token it can publish on the public port."""
        self.start(token_keys=secret_keys())
        self.network.daemon = self.daemon
        client = self.client(PUBLIC, token(publish=["t"]))
        self.assertEqual(client.publish("t", "x")["subscribers"], 0)
        refused = self.assertRaises(Refused, client.publish, "other", "x")
        self.assertEqual((refused.status, refused.where), (403, "token"))

    def test_token_with_blanks(self) -> None:
        """Blanks and line ends around a token, as in a file, do not count."""
        self.start(token_keys=secret_keys())
        self.network.daemon = self.daemon
        for given in (f"{token(publish=['t'])}\n", f" {token(publish=['t'])}\r\n"):
            self.assertIn("id", self.client(PUBLIC, given).publish("t", "x"))

    def test_computed_times(self) -> None:
        """Seconds may be what a program computed, also a Decimal or a Fraction."""
        times: list[Any] = [1 / 3, 0.1 + 0.2, 1e-05, -2.4e-07, Decimal("0.25"), Fraction(1, 3), 2]
        for delay in times:
            said = self.client().publish("t", "x", delay=delay)
            self.assertIn("schedule", said, delay)
        self.assertEqual(self.client().publish("t", "x", every=1 / 3, count=2)["every"], 1 / 3)
        self.daemon.advance(3)

    def test_refused(self) -> None:
        """If pushd refuses, the exception has the status, the part and the text."""
        refused = self.assertRaises(Refused, self.client().publish, "a b", "x")
        self.assertEqual((refused.status, refused.where), (400, "topic"))
        self.assertIn("topic: topic must be 1 to 255 letters", str(refused))
        refused = self.assertRaises(Refused, self.client().publish, "t", "x", every=1.0)
        self.assertIn("every and count must be given together (400)", str(refused))

    def test_dot_segments(self) -> None:
        """A topic that a proxy would take for another is an error before anything is sent."""
        for topic in ("..", "../t", "a/./t"):
            with self.assertRaisesRegex(ValueError, "must not have . or .. as a segment"):
                self.client().publish(topic, "x")
            with self.assertRaisesRegex(ValueError, "must not have . or .. as a segment"):
                next(self.client(PUBLIC).follow(topic))

    def test_bad_key(self) -> None:
        """A key that cannot be in a header is an error before anything is sent."""
        for key in ("a\nb", "€"):
            call = self.client().publish
            self.assertRaises(PushdError, call, "t", "x", idempotency_key=key)
        self.assertEqual(self.describe("t")["history"], 0)

    def test_type(self) -> None:
        """Data of another type is an error before anything is sent."""
        with self.assertRaisesRegex(TypeError, "must be str, bytes, dict or list; got int"):
            Client("http://127.0.0.1:1").publish("news", cast(Any, 5))


class ConnectionTests(ClientTestCase):
    """Topics and connections."""

    def test_list(self) -> None:
        """All connections are listed, however many requests that takes."""
        self.start(max_per_address=3000)
        self.network.daemon = self.daemon
        for _ in range(1001):
            RawWebSocketClient(self.daemon, "t")
        listed = [one["id"] for one in self.client().connections()]
        self.assertEqual(listed, list(range(1, 1002)))

    def test_close(self) -> None:
        """A connection is closed with 1008, or with the given code and reason."""
        first, second = RawWebSocketClient(self.daemon, "t"), RawWebSocketClient(self.daemon, "t")
        self.client().close(1)
        self.client().close(2, code=4000, reason="so")
        for client, code in ((first, 1008), (second, 4000)):
            assert client.closing is not None
            self.assertEqual(client.closing.code, code)
        refused = self.assertRaises(Refused, self.client().close, 1)
        self.assertEqual(refused.status, 404)

    def test_revoke(self) -> None:
        """Subscriptions end, and it is returned how many."""
        client = RawWebSocketClient(self.daemon, "t")
        self.assertEqual(self.client().revoke(subject="ann"), 0)
        self.assertEqual(self.client().revoke(topic="t"), 1)
        self.assertEqual(client.closing, PERMISSION_REVOKED)

    def test_topics(self) -> None:
        """Topics are returned as in pushd's response."""
        self.publish("a", "x")
        said = self.client().topics()
        self.assertEqual(([one["topic"] for one in said["topics"]], said["more"]), (["a"], False))


class FollowTests(ClientTestCase):
    """``Client.follow``: a subscription that survives breaks."""

    def follow(self, after: str | None = None, topic: str = "t") -> Iterator[Any]:
        """Subscribe on the public port."""
        return self.client(PUBLIC).follow(topic, after)

    def later(self, *steps: Callable[[], object]) -> None:
        """Call functions one by one while the client waits."""
        self.network.steps += steps

    def test_data(self) -> None:
        """Text and bytes are received as they were published."""
        sent = ["x", "", "a\nb\n", "a\rb", "tschüß", "data: x", " y", b"\xff\0", b""]
        self.later(*(lambda one=one: self.publish("t", one) for one in sent))
        first, *rest = islice(self.follow(), 1 + len(sent))
        self.assertEqual(type(first), Began)
        self.assertEqual([one.data for one in rest], sent)
        self.assertEqual(rest[-1].id, self.describe("t")["id"])

    def test_events(self) -> None:
        """The name of an event is received, however the stream carries it."""
        sent = ["x", "a\rb", b"\xff", "[1]"]
        self.later(*(lambda one=one: self.publish("t", one, event="paid") for one in sent))
        _, *rest = islice(self.follow(), 1 + len(sent))
        self.assertEqual([(one.data, one.event) for one in rest], [(one, "paid") for one in sent])

    def test_comments(self) -> None:
        """Keep-alive comments are ignored."""
        self.later(lambda: self.daemon.advance(25, 25), lambda: self.publish("t", "x"))
        self.assertEqual(list(islice(self.follow(), 2))[1].data, "x")

    def test_silence(self) -> None:
        """A stream that is silent for clearly longer than the comments' interval is replaced."""
        events = self.follow()
        next(events)
        self.assertTrue(KEEP_ALIVE_INTERVAL + 10 < self.network.timeout < 60)
        # The fake network lets reading time out.
        broken = next(events)
        self.assertEqual(broken.reason, f"{PUBLIC} does not respond in time")
        self.publish("t", "meanwhile")
        self.assertEqual([type(next(events)), next(events).data], [Began, "meanwhile"])

    def test_resume(self) -> None:
        """After a break, the publications missed in the meantime are received."""
        self.later(
            lambda: self.publish("t", "1"),
            lambda: self.cut(),
            lambda: self.publish("t", "3"),
        )
        events = self.follow()
        self.assertEqual([type(next(events)) for _ in range(2)], [Began, Message])
        broken = next(events)
        self.assertIsInstance(broken, Broken)
        self.assertLessEqual(broken.seconds, 0.5)
        self.publish("t", "2")
        rest = list(islice(events, 3))
        self.assertEqual(self.network.pauses, [broken.seconds])
        self.assertEqual(rest[0].recovered, True)
        self.assertEqual([one.data for one in rest[1:]], ["2", "3"])

    def cut(self) -> None:
        """Cut the last connection."""
        self.network.connections[-1].leave()

    def test_after(self) -> None:
        """With ``after``, it starts after the publication with that id."""
        ids = [self.publish("t", str(number)) for number in range(3)]
        began, *rest = islice(self.follow(ids[0]), 3)
        self.assertEqual((began.id, began.recovered), (ids[0], True))
        self.assertEqual([one.id for one in rest], ids[1:])

    def test_first_fails(self) -> None:
        """If the first connection fails, it raises."""
        self.network.daemon = None
        self.assertRaises(Unreachable, next, self.follow())

    def test_reconnects(self) -> None:
        """It reconnects until the daemon is back, with pauses of 20 seconds at most."""
        events = self.follow()
        next(events)
        daemon, self.network.daemon = self.network.daemon, None
        self.later(self.cut)
        broken = [next(events) for _ in range(12)]
        self.assertEqual({type(one) for one in broken}, {Broken})
        self.assertTrue(all(one.seconds <= 20 for one in broken))
        self.network.daemon = daemon
        self.assertEqual(type(next(events)), Began)
        self.assertEqual(len(self.network.pauses), 12)

    def test_busy(self) -> None:
        """It waits at least as long as the Retry-After of a 503 says, but 300 s at most."""
        events = self.follow()
        next(events)
        self.later(self.cut)
        next(events)
        self.network.canned = b"HTTP/1.1 503 Busy\r\nRetry-After: 33\r\n\r\n"
        self.assertEqual(next(events).seconds, 33)
        for given in ("86400", "9" * 400):
            self.network.canned = b"HTTP/1.1 503 Busy\r\nRetry-After: %b\r\n\r\n" % given.encode()
            self.assertEqual(next(events).seconds, 300)

    def test_refused(self) -> None:
        """It raises if it is refused, at first or when it reconnects."""
        self.assertRaises(Refused, next, self.follow(topic="a b"))
        events = self.follow()
        next(events)
        self.later(self.cut)
        next(events)
        self.network.canned = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
        self.assertRaises(Refused, next, events)

    def test_busy_at_first(self) -> None:
        """A 503 for the first connection raises."""
        self.network.canned = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
        self.assertRaises(Refused, next, self.follow())

    def test_not_pushd(self) -> None:
        """A response that pushd does not send raises Unreachable."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        for response in (
            _OK + b"hi",
            head + b"data: \xff\n\n",
            head + b"event: subscribed\ndata: x\n\n",
            head + b"event: subscribed\ndata: {}\n\n",
            head + b"event: subscribed\ndata: 1\n\n",
            head + b"event: base64\ndata: a\n\n",
        ):
            self.network.canned = response
            unreachable = self.assertRaises(Unreachable, next, self.follow())
            self.assertIn("does not respond as pushd does", str(unreachable))

    def test_cut_in_an_event(self) -> None:
        """An event that is cut off in the middle is dropped."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        began = json.dumps({"id": "e:1", "recovered": True}).encode()
        self.network.canned = head + b"event: subscribed\ndata: " + began + b"\n\ndata: hal"
        events = self.follow()
        self.assertEqual(next(events), Began("e:1", True))
        self.assertEqual(next(events).reason, "the stream ended")
