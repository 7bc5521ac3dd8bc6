"""The client that blocks: what it sends, what it makes of answers, and of none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, cast

from pushd.client import client as module
from pushd.client.client import Began, Broken, Client, Message, PushdError, Refused, Unreachable
from tests.keyring import secret_keys, token
from tests.listeners import JsonSocket, RawSocket, TopicTestCase
from tests.memory_network import Network

CONTROL = "http://127.0.0.1:8081"
PUBLIC = "http://127.0.0.1:8080"

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class ClientTestCase(TopicTestCase):
    def setUp(self) -> None:
        """Start a daemon, and a network to reach it."""
        super().setUp()
        self.network = Network(self.daemon)

    def client(self, url: str = CONTROL, given: str | None = None) -> Client:
        """A client of one of the doors."""
        network = self.network
        return Client(url, token=given, connect=network.connect, pause=network.pause)


class PublishTests(ClientTestCase):
    """One request, one publication."""

    def test_text_and_bytes(self) -> None:
        """Text arrives as text, and bytes as bytes."""
        listener = JsonSocket(self.daemon, "a/b")
        said = self.client().publish("a/b", "tschüß\r\n")
        self.assertEqual((said["id"], said["subscribers"]), (listener.ids[0], 1))
        self.client().publish("a/b", b"\xff\0")
        self.assertEqual(listener.data, ["tschüß\r\n", b"\xff\0"])

    def test_function(self) -> None:
        """The function does the same, with a connection of its own."""
        self.patch(module.Client.__init__, "__kwdefaults__", self.defaults())
        listener = RawSocket(self.daemon, "t")
        said = module.publish(CONTROL, "t", "x", idempotency_key="k")
        self.assertEqual(module.publish(CONTROL, "t", "x", idempotency_key="k"), said)
        said = module.publish(CONTROL, "t", "y", delay=5)
        self.assertIn("schedule", said)
        self.daemon.advance(5)
        self.assertEqual(listener.data, ["x", "y"])

    def defaults(self) -> dict[str, Any]:
        """The client's defaults, but for the network."""
        return {**(Client.__init__.__kwdefaults__ or {}), "connect": self.network.connect}

    def test_timed(self) -> None:
        """Again and again."""
        listener = RawSocket(self.daemon, "t")
        said = self.client().publish("t", "x", every=0.5, count=3)
        self.assertEqual(said["count"], 3)
        self.daemon.advance(0.5, 0.5, 0.5)
        self.assertEqual(listener.data, ["x"] * 3)

    def test_token(self) -> None:
        """With a token it publishes at the public port as well."""
        self.start(token_keys=secret_keys())
        self.network.daemon = self.daemon
        client = self.client(PUBLIC, token(publish=["t"]))
        self.assertEqual(client.publish("t", "x")["subscribers"], 0)
        refused = self.assertRaises(Refused, client.publish, "other", "x")
        self.assertEqual((refused.status, refused.where), (403, "token"))

    def test_refused(self) -> None:
        """What pushd does not take is told as pushd tells it."""
        refused = self.assertRaises(Refused, self.client().publish, "a b", "x")
        self.assertEqual((refused.status, refused.where), (400, "topic"))
        self.assertIn("topic: topic must be 1 to 255 letters", str(refused))
        refused = self.assertRaises(Refused, self.client().publish, "t", "x", every=1.0)
        self.assertIn("every and count must be given together (400)", str(refused))

    def test_bad_key(self) -> None:
        """What no header can hold is not sent."""
        for key in ("a\nb", "€"):
            call = self.client().publish
            self.assertRaises(PushdError, call, "t", "x", idempotency_key=key)
        self.assertEqual(self.describe("t")["history"], 0)

    def test_kind(self) -> None:
        """What is neither text nor bytes is refused before anything is asked."""
        with self.assertRaisesRegex(TypeError, "str or bytes, not int"):
            Client("http://127.0.0.1:1").publish("news", cast(Any, 5))


class ConnectionTests(ClientTestCase):
    """Who is here."""

    def test_list(self) -> None:
        """All are listed, over as many pages as it takes."""
        self.start(max_per_address=3000)
        self.network.daemon = self.daemon
        for _ in range(1001):
            RawSocket(self.daemon, "t")
        listed = [one["id"] for one in self.client().connections()]
        self.assertEqual(listed, list(range(1, 1002)))

    def test_close(self) -> None:
        """One is closed."""
        first, second = RawSocket(self.daemon, "t"), RawSocket(self.daemon, "t")
        self.client().close(1)
        self.client().close(2, code=4000, reason="so")
        for listener, code in ((first, 1008), (second, 4000)):
            assert listener.closing is not None
            self.assertEqual(listener.closing.code, code)
        refused = self.assertRaises(Refused, self.client().close, 1)
        self.assertEqual(refused.status, 404)

    def test_topics(self) -> None:
        """Topics are told as pushd tells them."""
        self.publish("a", "x")
        said = self.client().topics()
        self.assertEqual(([one["topic"] for one in said["topics"]], said["more"]), (["a"], False))


class FollowTests(ClientTestCase):
    """A stream that goes on, whatever happens to it."""

    def follow(self, after: str | None = None, topic: str = "t") -> Iterator[Any]:
        """Listen."""
        return self.client(PUBLIC).follow(topic, after)

    def will(self, *steps: Callable[[], object]) -> None:
        """Say what happens while the client waits."""
        self.network.script += steps

    def test_data(self) -> None:
        """Everything arrives as it was published."""
        sent = ["x", "", "a\nb\n", "a\rb", "tschüß", "data: x", " y", b"\xff\0", b""]
        self.will(*(lambda one=one: self.publish("t", one) for one in sent))
        first, *rest = islice(self.follow(), 1 + len(sent))
        self.assertEqual(type(first), Began)
        self.assertEqual([one.data for one in rest], sent)
        self.assertEqual(rest[-1].id, self.describe("t")["id"])

    def test_comments(self) -> None:
        """What keeps the connection alive is no publication."""
        self.will(lambda: self.daemon.advance(25, 25), lambda: self.publish("t", "x"))
        self.assertEqual(list(islice(self.follow(), 2))[1].data, "x")

    def test_resume(self) -> None:
        """After a cut it asks for what it has missed."""
        self.will(
            lambda: self.publish("t", "1"),
            lambda: self.cut(),
            lambda: self.publish("t", "3"),
        )
        heard = self.follow()
        self.assertEqual([type(next(heard)) for _ in range(2)], [Began, Message])
        broken = next(heard)
        self.assertIsInstance(broken, Broken)
        self.assertLessEqual(broken.seconds, 0.5)
        self.publish("t", "2")
        rest = list(islice(heard, 3))
        self.assertEqual(self.network.paused, [broken.seconds])
        self.assertEqual(rest[0].recovered, True)
        self.assertEqual([one.data for one in rest[1:]], ["2", "3"])

    def cut(self) -> None:
        """Cut the connection."""
        self.network.wires[-1].leave()

    def test_after(self) -> None:
        """It begins behind an id."""
        ids = [self.publish("t", str(number)) for number in range(3)]
        began, *rest = islice(self.follow(ids[0]), 3)
        self.assertEqual((began.id, began.recovered), (ids[0], True))
        self.assertEqual([one.id for one in rest], ids[1:])

    def test_never_there(self) -> None:
        """What was never there is not waited for."""
        self.network.daemon = None
        self.assertRaises(Unreachable, next, self.follow())

    def test_comes_back(self) -> None:
        """A daemon that went away is asked for again and again, ever more slowly."""
        heard = self.follow()
        next(heard)
        daemon, self.network.daemon = self.network.daemon, None
        self.will(self.cut)
        broken = [next(heard) for _ in range(12)]
        self.assertEqual({type(one) for one in broken}, {Broken})
        self.assertTrue(all(one.seconds <= 20 for one in broken))
        self.network.daemon = daemon
        self.assertEqual(type(next(heard)), Began)
        self.assertEqual(len(self.network.paused), 12)

    def test_busy(self) -> None:
        """A daemon that is too busy says when to come back."""
        heard = self.follow()
        next(heard)
        self.will(self.cut)
        next(heard)
        self.network.other_server = b"HTTP/1.1 503 Busy\r\nRetry-After: 33\r\n\r\n"
        self.assertEqual(next(heard).seconds, 33)

    def test_refused(self) -> None:
        """Who may not listen does not ask again, nor who may not any more."""
        self.assertRaises(Refused, next, self.follow(topic="a b"))
        heard = self.follow()
        next(heard)
        self.will(self.cut)
        next(heard)
        self.network.other_server = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
        self.assertRaises(Refused, next, heard)

    def test_busy_at_first(self) -> None:
        """One that is too busy at first is no stream."""
        self.network.other_server = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
        self.assertRaises(Refused, next, self.follow())

    def test_strangers(self) -> None:
        """Somebody who answers something else is no pushd."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        for said in (
            _OK + b"hi",
            head + b"data: \xff\n\n",
            head + b"event: subscribed\ndata: x\n\n",
            head + b"event: subscribed\ndata: {}\n\n",
            head + b"event: subscribed\ndata: 1\n\n",
            head + b"event: base64\ndata: a\n\n",
        ):
            self.network.other_server = said
            unreachable = self.assertRaises(Unreachable, next, self.follow())
            self.assertIn("is no pushd", str(unreachable))

    def test_cut_in_an_event(self) -> None:
        """Half an event is none."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        began = json.dumps({"id": "e:1", "recovered": True}).encode()
        self.network.other_server = head + b"event: subscribed\ndata: " + began + b"\n\ndata: hal"
        heard = self.follow()
        self.assertEqual(next(heard), Began("e:1", True))
        self.assertEqual(next(heard).reason, "the stream ended")
