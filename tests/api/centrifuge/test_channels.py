"""Channels of Centrifuge clients: subscribed to, resumed, ended, and those of the server."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.access.permissions import Permission
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import CentrifugeTestCase, Client
from tests.support.keyring import secret_keys, sign, token
from tests.support.topic_clients import split


class SubscribeTests(CentrifugeTestCase):
    """What a client asks for."""

    def test_subscribe(self) -> None:
        """A client learns the position, and gets what is published after it."""
        id = self.publish("a", "before")
        client = self.connect()
        result = client.ask("subscribe", channel="a", delta="fossil")
        self.assertEqual(
            result,
            {"recoverable": True, "positioned": True, "epoch": split(id)[0], "offset": 1},
        )
        self.publish("a", '{"x":\n1.0}', is_json=True)
        self.publish("a", b"\0")
        self.assertEqual(
            client.pushes,
            [
                {"channel": "a", "pub": {"data": {"x": 1.0}, "offset": 2}},
                {
                    "channel": "a",
                    "pub": {"data": "AA==", "tags": {"encoding": "base64"}, "offset": 3},
                },
            ],
        )

    def test_recover(self) -> None:
        """A client that resumes gets what it missed, in order, after the reply."""
        epoch = split(self.publish("a", "1"))[0]
        self.publish("a", "2")
        client = self.connect()
        request = {"channel": "a", "recover": True, "epoch": epoch, "offset": 1}
        result = client.ask("subscribe", **request)
        self.assertEqual((result["recovered"], result["was_recovering"]), (True, True))
        self.assertEqual(result["offset"], 1)
        self.assertEqual([one["pub"]["data"] for one in client.pushes], ["2"])

    def test_recover_without_epoch(self) -> None:
        """Without an epoch, the offset is one of the current epoch."""
        self.publish("a", "1")
        client = self.connect()
        result = client.ask("subscribe", channel="a", recover=True)
        self.assertTrue(result["recovered"])
        self.assertEqual([one["pub"]["offset"] for one in client.pushes], [1])

    def test_unrecovered(self) -> None:
        """A position that cannot be proven begins anew, or is refused if the client prefers it."""
        id = self.publish("a", "1")
        for epoch, offset in (("other", 1), ("no epoch!", 1), (split(id)[0], 7)):
            request = {"channel": "a", "recover": True, "epoch": epoch, "offset": offset}
            client = self.connect()
            self.assertEqual(client.error("subscribe", flag=2, **request), 112)
            self.assertEqual(self.describe("a")["subscribers"], {})
            result = client.ask("subscribe", **request)
            self.assertNotIn("recovered", result)
            self.assertTrue(result["was_recovering"])
            self.assertEqual(result["offset"], 1)
            client.browser.leave()

    def test_retained(self) -> None:
        """What a topic retains comes first."""
        self.start(rules=Rules([Rule(match="a", retain=True)]))
        self.publish("a", "1")
        client = self.connect()
        self.assertEqual(client.ask("subscribe", channel="a")["offset"], 0)
        self.assertEqual([one["pub"]["data"] for one in client.pushes], ["1"])

    def test_mistakes(self) -> None:
        """A mistake has the code of its kind, and what pushd does not have is not available."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        for code, request in (
            (102, {"channel": "a b"}),
            (102, {"channel": "#ann"}),
            (102, {}),
            (105, {"channel": "a"}),
            (108, {"channel": "b", "type": 1}),
            (108, {"channel": "b", "tf": {"op": "and"}}),
        ):
            self.assertEqual(client.error("subscribe", **request), code, request)

    def test_limit(self) -> None:
        """A connection has a maximum number of channels."""
        self.start(limits=Limits(max_topics=1))
        client = self.connect()
        client.ask("subscribe", channel="a")
        self.assertEqual(client.error("subscribe", channel="b"), 106)
        client.ask("unsubscribe", channel="a")
        client.ask("subscribe", channel="b")

    def test_unsubscribe(self) -> None:
        """A channel that was unsubscribed from sends nothing more; others do."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        client.ask("subscribe", channel="b")
        self.assertEqual(client.ask("unsubscribe", channel="a"), {})
        self.assertEqual(client.ask("unsubscribe", channel="a"), {})
        self.publish("a", "no")
        self.publish("b", "yes")
        self.assertEqual([one["channel"] for one in client.pushes], ["b"])
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_end(self) -> None:
        """A connection that ends leaves nothing behind."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        client.browser.leave()
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_latest(self) -> None:
        """A slow client of a latest topic gets the newest publication."""
        self.start(rules=Rules([Rule(match="a", latest=True)]), max_buffered=64 << 10)
        client = self.connect()
        client.ask("subscribe", channel="a")
        client.browser.stall()
        for number in range(20):
            self.publish("a", f"{number:04}" + "x" * 20_000)
        client.browser.resume()
        self.daemon.advance(0)
        got = [int(one["pub"]["data"][:4]) for one in client.pushes]
        self.assertEqual(got[-1], 19)
        self.assertLess(len(got), 20)


class OrderTests(CentrifugeTestCase):
    """Commands about one channel are carried out one after the other."""

    def setUp(self) -> None:
        """Let the test answer for the authorizer."""
        self.asked: list[Deferred[Any]] = []

        async def authorize(request: Any, action: str, topic: str) -> Any:
            self.asked.append(Deferred())
            return await self.asked[-1]

        self.start(authorize=authorize, token_keys=secret_keys())

    def answer(self, answer: Any = True) -> None:
        """Answer the oldest question."""
        self.asked.pop(0).callback(answer)
        self.daemon.advance(0)

    def test_unsubscribe_early(self) -> None:
        """A client may unsubscribe before its subscription has begun, and subscribe again."""
        client = self.connect()
        self.assertEqual(client.tell("subscribe", channel="a"), {})
        self.assertEqual(client.tell("unsubscribe", channel="a"), {})
        self.assertEqual(client.tell("subscribe", channel="a"), {})
        self.answer()
        replies = client.heard()
        self.assertEqual([one["id"] for one in replies], [2, 3])
        self.answer()
        [last] = client.heard()
        self.assertIn("subscribe", last)
        self.assertEqual(self.describe("a")["subscribers"], {"websocket": 1})

    def test_others_meanwhile(self) -> None:
        """Commands about other channels do not wait."""
        client = self.connect()
        client.tell("subscribe", channel="a")
        client.tell("subscribe", channel="b")
        for channel in ("a", "b"):
            self.answer()
            [reply] = client.heard()
            self.assertIn("subscribe", reply)
            self.assertEqual(self.describe(channel)["subscribers"], {"websocket": 1})

    def test_end_while_asked(self) -> None:
        """A connection that ends while the authorizer is asked gets no subscription."""
        client = self.connect()
        client.tell("subscribe", channel="a")
        client.tell("unsubscribe", channel="a")
        client.browser.leave()
        self.daemon.advance(0)
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_revoked_while_asked(self) -> None:
        """A subscription that is revoked before it has begun is an error, not a push."""
        client = self.connect()
        client.tell("subscribe", channel="a")
        self.control("DELETE", "/subscriptions?topic=a")
        self.answer(Permission(subject="ann"))
        [reply] = client.heard()
        self.assertEqual((reply["error"]["code"], reply["error"]["temporary"]), (100, True))

    def test_ended_while_asked(self) -> None:
        """So is one that an operator ends."""
        client = self.open()
        name = client.connect(token=sign({"sub": "ann"}))["client"]
        client.tell("subscribe", channel="a")
        body = json.dumps({"user": "ann", "channel": "a", "client": name}).encode()
        self.control("POST", "/api/unsubscribe", body)
        self.answer()
        [reply] = client.heard()
        self.assertEqual((reply["error"]["code"], reply["error"]["temporary"]), (100, True))

    def test_denied(self) -> None:
        """The authorizer's no is final, and its failure is not."""
        client = self.connect()
        client.tell("subscribe", channel="a")
        self.answer(False)
        self.assertEqual(client.heard()[0]["error"]["code"], 103)
        client.tell("subscribe", channel="a")
        self.answer(1)
        error = client.heard()[0]["error"]
        self.assertEqual((error["code"], error["temporary"]), (100, True))
        self.flushLoggedErrors(TypeError)

    def test_permission_ends(self) -> None:
        """When the authorizer's permission ends, the client is to ask again."""
        client = self.connect()
        client.tell("subscribe", channel="a")
        self.answer(Permission(subject="ann", until=20))
        self.assertEqual(len(client.heard()), 1)
        self.daemon.advance(21)
        [push] = client.pushes
        self.assertEqual(push["unsubscribe"]["code"], 2501)

    def test_fresh_token(self) -> None:
        """With a fresh token the authorizer is asked again."""
        client = self.connect(token=sign({"sub": "ann"}))
        client.tell("subscribe", channel="a")
        client.tell("refresh", token=sign({"sub": "ann"}))
        self.answer()
        self.answer(False)
        heard = client.heard()
        self.assertEqual(heard[-2]["push"]["unsubscribe"]["code"], 2000)
        self.assertIn("refresh", heard[-1])

    def test_token_and_authorizer(self) -> None:
        """A token for a channel does not stand for the authorizer's consent."""
        client = self.connect(token=sign({"sub": "ann"}))
        client.tell("subscribe", channel="a", token=sign({"sub": "ann", "channel": "a"}))
        self.answer(False)
        self.assertEqual(client.heard()[0]["error"]["code"], 103)


class TransportTests(CentrifugeTestCase):
    """One more way to topics, nothing beside them."""

    def test_same(self) -> None:
        """Clients of three transports get the same publications with the same ids."""
        client = self.connect()
        epoch = client.ask("subscribe", channel="a")["epoch"]
        v1 = self.daemon.connect("/topics/a", subprotocols=["pushd.v1"])
        ids = [self.publish("a", text) for text in ("1", "2")]
        pushed = [(f"{epoch}:{one['pub']['offset']}", one["pub"]["data"]) for one in client.pushes]
        heard = [json.loads(message) for message in v1.messages[1:]]
        self.assertEqual(pushed, [(one["id"], one["data"]) for one in heard])
        self.assertEqual([id for id, _ in pushed], ids)

    def test_token_of_pushd(self) -> None:
        """The patterns of a token permit channels as they permit topics."""
        self.start(token_keys=secret_keys())
        client: Client = self.connect(token=token("ann", subscribe=["chat/*"], publish=["chat/1"]))
        self.assertIn("epoch", client.ask("subscribe", channel="chat/1"))
        self.assertEqual(client.ask("publish", channel="chat/1", data=1), {})
        self.assertEqual(client.error("publish", channel="chat/2", data=1), 103)
