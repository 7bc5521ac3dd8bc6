"""Many topics over one WebSocket: messages that subscribe and unsubscribe, and their answers."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from pushd.access.closing import NORMAL, RATE_EXCEEDED, TOKEN_EXPIRED
from pushd.access.limits import Limits
from pushd.protocols.websocket.subscriptions import TopicSubscriber
from pushd.testing import Browser
from pushd.topics.rules import Rule, Rules
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import TopicTestCase, split


class MultiTopicTestCase(TopicTestCase):
    """A client that speaks JSON."""

    def connect(self, query: str = "") -> Browser:
        """Open a WebSocket to many topics."""
        self.browser = self.daemon.connect(f"/topics{query}", subprotocols=("pushd.v1",))
        self.assertIsNone(self.browser.refused)
        return self.browser

    def ask(self, **message: Any) -> list[Any]:
        """Send a message, and return what is said until now."""
        self.browser.send(json.dumps(message))
        return self.heard()

    def heard(self) -> list[Any]:
        """Return what was said since the last call."""
        heard = [json.loads(message) for message in self.browser.messages]
        self.browser.messages.clear()
        return heard


class MessageTests(MultiTopicTestCase):
    """What a client may ask for."""

    def test_subscribe(self) -> None:
        """Each topic is answered, and its publications name it."""
        self.connect()
        [began] = self.ask(subscribe="a")
        self.assertEqual((began["subscribed"], began["recovered"]), ("a", False))
        [began] = self.ask(subscribe="b/c")
        self.assertEqual(began["subscribed"], "b/c")
        id = self.publish("b/c", "x")
        other = self.publish("a", b"\0")
        self.publish("d", "no")
        self.assertEqual(
            self.heard(),
            [
                {"topic": "b/c", "id": id, "data": "x"},
                {"topic": "a", "id": other, "base64": "AA=="},
            ],
        )

    def test_after(self) -> None:
        """With an id, what was missed comes first; null is no id."""
        id = self.publish("a", "x")
        self.connect()
        epoch, _ = split(id)
        began, missed = self.ask(subscribe="a", after=f"{epoch}:0")
        self.assertEqual(began, {"subscribed": "a", "id": f"{epoch}:0", "recovered": True})
        self.assertEqual(missed, {"topic": "a", "id": id, "data": "x"})
        [began] = self.ask(subscribe="b", after=None)
        self.assertFalse(began["recovered"])

    def test_unsubscribe(self) -> None:
        """A topic that was unsubscribed from sends nothing more, and can come back."""
        self.connect("?topic=a&topic=b")
        self.heard()
        self.assertEqual(self.ask(unsubscribe="a"), [{"unsubscribed": "a"}])
        self.publish("a", "no")
        self.publish("b", "yes")
        self.assertEqual([one["data"] for one in self.heard()], ["yes"])
        self.assertEqual(self.describe("a")["subscribers"], {})
        self.assertEqual(self.ask(subscribe="a")[0]["subscribed"], "a")

    def test_query(self) -> None:
        """Topics in the query are subscribed to at once, each with its own id."""
        id = self.publish("a", "x")
        self.connect(f"?topic=b&topic=a@{split(id)[0]}:0&heartbeat=5")
        beat, b, a, missed = self.heard()
        self.assertEqual(beat, {"heartbeat": 5})
        self.assertEqual((b["subscribed"], b["recovered"]), ("b", False))
        self.assertEqual((a["subscribed"], a["recovered"]), ("a", True))
        self.assertEqual(missed["data"], "x")

    def test_mistakes(self) -> None:
        """A mistake is answered with the topic, if there is one, and closes nothing."""
        self.connect("?topic=a")
        self.heard()
        for message, topic, where in (
            ("x", None, "message"),
            ("[1]", None, "message"),
            (b"\xff", None, "message"),
            ("[" * 16000, None, "message"),
            ('{"subscribe":"' + "x" * 20_000 + '"}', None, "message"),
            ("{}", None, "message"),
            ('{"x":1}', None, "message"),
            ('{"subscribe":"b","unsubscribe":"a"}', None, "message"),
            ('{"subscribe":1}', None, "subscribe"),
            ('{"subscribe":"a b"}', "a b", "subscribe"),
            ('{"subscribe":"\\ud800"}', None, "subscribe"),
            (f'{{"subscribe":"{"x" * 256}"}}', None, "subscribe"),
            ('{"subscribe":"a"}', "a", "subscribe"),
            ('{"subscribe":"b","after":1}', "b", "after"),
            ('{"subscribe":"b","after":"x"}', "b", "after"),
            ('{"subscribe":"b","format":"text"}', "b", "format"),
            ('{"subscribe":"b","wait":1}', "b", "wait"),
            ('{"subscribe":"b","presence":1}', "b", "presence"),
            ('{"subscribe":"b","presence":true}', "b", "presence"),
            ('{"subscribe":"b","é":1}', "b", "\\xe9"),
            ('{"unsubscribe":"a","after":"e:1"}', "a", "after"),
            ('{"unsubscribe":"b"}', "b", "unsubscribe"),
            ('{"unsubscribe":null}', None, "unsubscribe"),
            ('{"token":1}', None, "token"),
        ):
            self.browser.send(message)
            [error] = self.heard()
            self.assertTrue(error["error"], message)
            self.assertEqual((error.get("topic"), error["where"]), (topic, where), message)
        self.assertEqual(self.describe("b")["subscribers"], {})
        self.assertFalse(self.browser.gone)

    def test_limit(self) -> None:
        """A connection has a maximum number of topics; a reload changes it for open ones."""
        self.start(limits=Limits(max_topics=2))
        self.connect("?topic=a")
        self.ask(subscribe="b")
        [error] = self.ask(subscribe="c")
        self.assertEqual((error["topic"], error["where"]), ("c", "subscribe"))
        self.assertEqual(error["error"], "a connection may have 2 topics at most (--max-topics)")
        self.ask(unsubscribe="a")
        self.assertEqual(self.ask(subscribe="c")[0]["subscribed"], "c")

    def test_end(self) -> None:
        """The client's Close is echoed, and no subscription is left."""
        self.connect("?topic=a&topic=b")
        self.browser.close()
        self.assertEqual(self.browser.closing, NORMAL)
        self.assertEqual(
            json.loads(self.control("GET", "/topics").body)["topics"][0]["subscribers"], {}
        )


class OperatorTests(MultiTopicTestCase):
    """What an operator sees."""

    def test_connections(self) -> None:
        """The connection is listed once, with the number of its topics."""
        self.connect("?topic=a&topic=b")
        self.daemon.connect("/topics/a")
        listed = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual([one["path"] for one in listed], ["/topics", "/topics/a"])
        self.assertEqual([one.get("topics") for one in listed], [2, None])
        self.assertEqual(self.describe("a")["subscribers"], {"websocket": 2})

    def test_metrics(self) -> None:
        """Each subscription counts."""
        self.connect("?topic=a&topic=b")
        text = self.control("GET", "/metrics").text
        self.assertIn('pushd_subscribers{transport="websocket"} 2.0', text)


class TokenTests(MultiTopicTestCase):
    """With tokens."""

    def setUp(self) -> None:
        """Start a daemon that asks for tokens."""
        self.start(token_keys=secret_keys())

    def test_permitted(self) -> None:
        """A topic that the token does not permit gets an error; others are subscribed to."""
        self.connect(f"?token={token('eve', subscribe=['news', 'chat/*'])}")
        [expiry] = self.heard()
        self.assertGreater(expiry["expires_in"], 0)
        self.assertEqual(self.ask(subscribe="news")[0]["subscribed"], "news")
        self.assertEqual(
            self.ask(subscribe="orders"),
            [
                {
                    "error": "token does not permit subscribing to orders",
                    "topic": "orders",
                    "where": "token",
                    "code": 403,
                }
            ],
        )

    def test_without(self) -> None:
        """Without a token, the connection opens, and no topic is permitted."""
        self.connect()
        [error] = self.ask(subscribe="news")
        self.assertEqual((error["error"], error["where"]), ("a token is required", "token"))
        [error] = self.ask(token=token("eve", subscribe=["news"]))
        self.assertIn("opened without a token", error["error"])

    def test_fresh(self) -> None:
        """A fresh token ends the topics that it does not permit any more, with the reason."""
        self.connect(f"?token={token('eve', subscribe=['a', 'b'])}&topic=a&topic=b")
        self.heard()
        expiry, ended = self.ask(token=f" {token('eve', subscribe=['b', 'c'])}\n")
        self.assertIn("expires_in", expiry)
        reason = "token does not permit subscribing to a"
        self.assertEqual(ended, {"unsubscribed": "a", "reason": reason, "code": 403})
        self.assertEqual(self.ask(subscribe="c")[0]["subscribed"], "c")
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_refused(self) -> None:
        """A token that is invalid, or another's, changes nothing."""
        self.connect(f"?token={token('eve', subscribe=['a'])}&topic=a")
        self.heard()
        for fresh in ("x", token("adam", subscribe=["a"])):
            [error] = self.ask(token=fresh)
            self.assertEqual(error["where"], "token")
        self.publish("a", "x")
        self.assertEqual([one["data"] for one in self.heard()], ["x"])

    def test_expired(self) -> None:
        """The connection ends when the token expires."""
        self.connect(f"?token={token('eve', subscribe=['a'])}&topic=a")
        self.daemon.advance(1e6)
        self.assertEqual(self.browser.closing, TOKEN_EXPIRED)

    def test_rate(self) -> None:
        """A client that sends many tokens is closed."""
        self.connect(f"?token={token('eve', subscribe=['a'])}")
        for _ in range(11):
            self.browser.send('{"token":"x"}')
        self.assertEqual(self.browser.closing, RATE_EXCEEDED)


class EndTests(MultiTopicTestCase):
    """What happens while something is under way."""

    def test_without_v1(self) -> None:
        """Without the subprotocol the handshake is refused."""
        refused = self.daemon.connect("/topics?topic=a").refused
        assert refused is not None
        self.assertEqual(refused.status, 400)
        self.assertIn("need the subprotocol pushd.v1", refused.text)

    def test_presence(self) -> None:
        """A subscription with presence needs the right to see it, and ends with the topic."""

        async def authorize(request: Any, action: str, topic: str) -> bool:
            return action == "subscribe" or topic == "room"

        rules = Rules([Rule(match="*", presence=True)])
        self.start(rules=rules, authorize=authorize)
        self.connect("?client=one")
        [error] = self.ask(subscribe="other", presence=True)
        self.assertEqual(error["topic"], "other")
        began, listed = self.ask(subscribe="room", presence=True)
        self.assertEqual((began["subscribed"], listed["presence"]), ("room", "room"))
        self.ask(unsubscribe="room")
        self.daemon.connect("/topics/room")
        self.daemon.advance(10)
        self.assertEqual(self.heard(), [])

    def test_fresh_token_meanwhile(self) -> None:
        """A topic that is being asked for is not asked again because of a fresh token."""
        answers: list[Deferred[bool]] = []

        async def authorize(request: Any, action: str, topic: str) -> bool:
            answers.append(Deferred())
            return await answers[-1]

        self.start(token_keys=secret_keys(), authorize=authorize)
        self.connect(f"?token={token('eve')}")
        self.heard()
        self.assertEqual(self.ask(subscribe="a"), [])
        self.ask(token=token("eve"))
        self.assertEqual(len(answers), 1)
        answers[0].callback(True)
        self.daemon.advance(0)
        self.assertEqual(self.heard()[-1]["subscribed"], "a")
        # The next one asks again; a topic that ends meanwhile has no answer.
        self.ask(token=token("eve"))
        self.assertEqual(self.ask(unsubscribe="a"), [{"unsubscribed": "a"}])
        answers[1].callback(False)
        self.daemon.advance(0)
        self.assertEqual(self.heard(), [])

    def test_codes(self) -> None:
        """Errors, and the ends of subscriptions, have a status: after 500 or more, ask again."""
        calls = 0

        def authorize(request: Any, action: str, topic: str) -> bool:
            nonlocal calls
            calls += 1
            if topic == "broken" or calls > 3:
                raise ZeroDivisionError
            return topic == "a"

        self.start(token_keys=secret_keys(), authorize=authorize)
        self.connect(f"?token={token('eve')}")
        self.heard()
        topics = ("a", "secret", "broken", "a b")
        codes = [self.ask(subscribe=topic)[0].get("code") for topic in topics]
        self.assertEqual(codes, [None, 403, 500, 400])
        heard = self.ask(token=token("eve"))
        end = {"unsubscribed": "a", "reason": "the authorizer failed", "code": 500}
        self.assertEqual(heard[-1], end)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_ends_in_between(self) -> None:
        """A connection that ends with its first publications begins nothing else."""
        id = self.publish("a", "x")
        self.publish("a", "y")
        deliver = TopicSubscriber.deliver

        def deliver_and_close(subscriber: TopicSubscriber, batch: Any) -> None:
            deliver(subscriber, batch)
            subscriber._socket.close_with(NORMAL)

        self.patch(TopicSubscriber, "deliver", deliver_and_close)
        epoch, offset = split(id)
        self.connect(f"?topic=a@{epoch}:{offset}&topic=b")
        self.assertEqual(self.browser.closing, NORMAL)
        self.assertEqual(self.describe("b")["subscribers"], {})

    def test_revoked_while_slow(self) -> None:
        """A client that cannot take the news that its topics are revoked is cut off."""
        self.start(limits=Limits(max_buffered=2000))
        self.connect()
        for number in range(90):
            self.ask(subscribe=f"t/{number}")
        self.browser.stall()
        self.publish("t/0", "x" * 1500)
        self.publish("t/0", "x" * 1500)
        answer = self.control("DELETE", "/subscriptions?topic=t/**")
        self.assertEqual(json.loads(answer.body), {"ended": 90})
        self.assertEqual(self.describe("t/0")["subscribers"], {})

    def test_slow(self) -> None:
        """A client that does not read catches up with each of its topics later."""
        self.start(limits=Limits(max_buffered=64 << 10))
        self.connect("?topic=a&topic=b")
        self.heard()
        self.browser.stall()
        for number in range(20):
            self.publish("ab"[number % 2], f"{number:04}" + "x" * 20_000)
        self.browser.resume()
        self.daemon.advance(0)
        got = [(one["topic"], int(one["data"][:4])) for one in self.heard()]
        self.assertCountEqual(got, [("ab"[number % 2], number) for number in range(20)])
        self.assertEqual([n for topic, n in got if topic == "b"], list(range(1, 20, 2)))
