"""Tokens of channels, and what they permit."""

from __future__ import annotations

from typing import Any

from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import CentrifugeTestCase
from tests.support.keyring import secret_keys, sign


class ChannelTokenTests(CentrifugeTestCase):
    """Tokens of channels."""

    def setUp(self) -> None:
        """Start a daemon that asks for tokens."""
        rules = Rules([Rule(match="closed", subscribe="nobody"), Rule(match="**", presence=True)])
        self.start(token_keys=secret_keys(), rules=rules)
        self.client = self.connect(token=sign({"sub": "ann", "info": {"name": "Ann"}}))

    def subscribe(self, channel: str = "a", **claims: Any) -> dict[str, Any]:
        """Subscribe with a token."""
        given = sign({"sub": "ann", "channel": channel, **claims})
        return self.client.tell("subscribe", channel=channel, token=given)

    def test_permitted(self) -> None:
        """A token for the channel permits a subscription, and all but publishing."""
        self.assertIn("subscribe", self.subscribe())
        self.client.ask("history", channel="a")
        self.client.ask("presence_stats", channel="a")
        self.assertEqual(self.client.error("publish", channel="a", data=1), 103)
        self.assertEqual(self.client.error("history", channel="b"), 103)

    def test_line_end(self) -> None:
        """A line end behind a token does not count, of a connection or of a subscription."""
        client = self.connect(token=sign({"sub": "bob", "subscribe": ["b"]}) + "\r\n")
        client.ask("subscribe", channel="b")
        given = sign({"sub": "bob", "channel": "a"}) + "\n"
        client.ask("subscribe", channel="a", token=given)

    def test_refused(self) -> None:
        """It must be valid, for this channel and this user; a closed topic stays closed."""
        for claims in ({"channel": "b"}, {"sub": "bob"}, {"expire_at": "x"}, {"expire_at": 1e13}):
            given = sign({"sub": "ann", "channel": "a", **claims})
            self.assertEqual(self.client.error("subscribe", channel="a", token=given), 103)
        self.assertEqual(self.client.error("subscribe", channel="a", token="x"), 103)
        self.assertEqual(self.subscribe("closed")["error"]["code"], 103)
        anonymous = self.connect()
        given = sign({"channel": "a"})
        self.assertIn("epoch", anonymous.ask("subscribe", channel="a", token=given))

    def test_expired(self) -> None:
        """An expired one is refused as such."""
        self.daemon.advance(200)
        self.client = self.connect(token=sign({"sub": "ann"}))
        self.assertEqual(self.subscribe(exp=100)["error"]["code"], 109)
        self.assertEqual(self.subscribe(expire_at=100)["error"]["code"], 109)

    def test_expiry(self) -> None:
        """A client is told when to bring a fresh one; without it, the subscription ends."""
        result = self.subscribe(exp=60)["subscribe"]
        self.assertEqual((result["expires"], result["ttl"]), (True, 60))
        self.daemon.advance(20)
        self.client.send({})
        given = sign({"sub": "ann", "channel": "a", "exp": 40})
        self.assertEqual(self.client.ask("sub_refresh", channel="a", token=given)["ttl"], 20)
        self.daemon.advance(24, 24)
        self.client.send({})
        self.assertFalse(self.client.pushes[1:])  # Its own join, and no more.
        self.daemon.advance(4)
        [push] = self.client.pushes
        self.assertEqual((push["channel"], push["unsubscribe"]["code"]), ("a", 2501))

    def test_expire_at(self) -> None:
        """The subscription may last longer than its token, or for ever."""
        self.assertEqual(self.subscribe(exp=60, expire_at=90)["subscribe"]["ttl"], 90)
        self.assertNotIn("ttl", self.subscribe("b", exp=60, expire_at=0)["subscribe"])

    def test_distant(self) -> None:
        """A time to live is at most what fits its field in Protobuf."""
        self.assertEqual(self.subscribe(exp=1e12)["subscribe"]["ttl"], (1 << 32) - 1)

    def test_refresh_mistakes(self) -> None:
        """A fresh token is for a channel that is subscribed to."""
        self.assertEqual(self.client.error("sub_refresh", channel="a", token="x"), 107)
        self.subscribe()
        self.assertEqual(self.client.error("sub_refresh", channel="a", token="x"), 103)
        self.assertEqual(self.client.error("sub_refresh", channel="a"), 103)
        self.assertEqual(self.client.error("sub_refresh", channel="a", type=1), 108)
        self.assertIn("history", self.client.tell("history", channel="a"))

    def test_fresh_connection_token(self) -> None:
        """A channel with a token of its own does not depend on that of the connection."""
        self.subscribe()
        self.client.ask("refresh", token=sign({"sub": "ann"}))
        self.publish("a", "x")
        self.assertEqual([one["pub"]["data"] for one in self.client.pushes if "pub" in one], ["x"])

    def test_info(self) -> None:
        """What others may know of a client is in the token of the channel, or the connection."""
        self.subscribe(info={"name": "A."})
        self.subscribe("b")
        for channel, name in (("a", "A."), ("b", "Ann")):
            [info] = self.client.ask("presence", channel=channel)["presence"].values()
            self.assertEqual((info["user"], info["conn_info"]), ("ann", {"name": name}))
