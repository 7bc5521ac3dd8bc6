"""Channels to which clients are subscribed without asking, those of users among them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from pushd.access.limits import Limits
from pushd.topics.broker import MemoryBroker
from pushd.topics.publication import Id, Replay
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import CentrifugeTestCase
from tests.support.keyring import secret_keys, sign
from tests.support.topic_clients import split


class ServerChannelTests(CentrifugeTestCase):
    """Channels that a client is subscribed to without asking."""

    def setUp(self) -> None:
        """Start a daemon with topics of users."""
        rules = Rules([Rule(match="**", presence=True)])
        self.start(token_keys=secret_keys(), rules=rules, centrifuge_personal="users/*")

    def open_with(self, positions: dict[str, Any] | None = None, **claims: Any) -> dict[str, Any]:
        """Connect with a token, and return the subscriptions."""
        self.client = self.open()
        result = self.client.connect(token=sign(claims), subs=positions or {})
        subscribed: dict[str, Any] = result.get("subs", {})
        return subscribed

    def test_channels(self) -> None:
        """They are named by the token; the reply says where each begins."""
        id = self.publish("a", "1")
        subscribed = self.open_with(channels=["a"], subs={"b": {}})
        self.assertEqual(set(subscribed), {"a", "b"})
        self.assertEqual(
            subscribed["a"],
            {"recoverable": True, "positioned": True, "epoch": split(id)[0], "offset": 1},
        )
        self.publish("a", "2")
        [push] = [one for one in self.client.pushes if "pub" in one]
        self.assertEqual((push["channel"], push["pub"]["data"]), ("a", "2"))
        self.client.ask("history", channel="a")
        self.assertEqual(self.client.error("subscribe", channel="a"), 105)

    def test_recover(self) -> None:
        """They are resumed, too."""
        epoch = split(self.publish("a", "1"))[0]
        self.publish("a", "2")
        position = {"a": {"recover": True, "epoch": epoch, "offset": 1}}
        subscribed = self.open_with(position, sub="", channels=["a"])
        self.assertTrue(subscribed["a"]["recovered"])
        self.assertEqual([one["pub"]["data"] for one in self.client.pushes if "pub" in one], ["2"])
        position["a"]["epoch"] = "other"
        subscribed = self.open_with(position, channels=["a"])
        self.assertTrue(subscribed["a"]["was_recovering"])
        self.assertNotIn("recovered", subscribed["a"])

    def test_personal(self) -> None:
        """The channel of a user has a name of its own, and is that user's only."""
        subscribed = self.open_with(sub="ann")
        self.assertEqual(set(subscribed), {"#ann"})
        self.daemon.advance(0)
        [join] = self.client.pushes
        self.assertEqual((join["channel"], join["join"]["info"]["user"]), ("#ann", "ann"))
        self.publish("users/ann", "x")
        [push] = self.client.pushes
        self.assertEqual((push["channel"], push["pub"]["data"]), ("#ann", "x"))
        self.assertEqual(self.client.error("history", channel="#bob"), 102)
        given = sign({"sub": "ann", "channel": "users/ann"})
        self.assertEqual(self.client.error("subscribe", channel="users/ann", token=given), 105)

    def test_no_personal(self) -> None:
        """A user whose name no topic can have has no such channel."""
        self.assertEqual(self.open_with(sub="ann@example.com"), {})
        self.assertEqual(self.client.error("subscribe", channel="#ann@example.com"), 102)

    def test_limit(self) -> None:
        """They count towards the limit."""
        self.start(token_keys=secret_keys(), limits=Limits(max_topics=1))
        client = self.open()
        given = sign({"channels": ["a", "b"]})
        self.assertEqual(client.error("connect", token=given), 106)

    def test_end(self) -> None:
        """A connection that ends meanwhile begins none, and one that lacks something comes back."""
        answers: list[Deferred[Replay]] = []

        def replay(broker: MemoryBroker, topic: str, after: Id | None, limit: int) -> Any:
            if limit:
                return succeed(Replay(Id("e", 5), False, (), Id("e", 5)))
            answers.append(Deferred())
            return answers[-1]

        self.patch(MemoryBroker, "replay", replay)
        found = Replay(Id("e", 1), False, (), Id("e", 1))
        for leaves in (True, False):
            client = self.open()
            client.tell("connect", token=sign({"channels": ["a", "b"]}))
            answers.pop().callback(found)
            if leaves:
                client.browser.close()
                self.assertEqual(self.describe("a")["subscribers"], {})
                answers.clear()
                continue
            answers.pop().callback(found)
            self.daemon.advance(0)
            assert client.browser.closing is not None
            self.assertEqual(client.browser.closing.code, 3010)
