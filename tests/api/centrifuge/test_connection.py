"""Commands of Centrifuge clients, their replies, and how connections end."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from pushd.access.closing import GOING_AWAY, TRY_AGAIN_LATER
from pushd.access.limits import Limits
from pushd.errors import Unavailable
from pushd.topics.broker import MemoryBroker
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import CentrifugeTestCase, Client
from tests.support.keyring import secret_keys, sign, token

PUBLIC = Rules([Rule(match="**", publish="anyone", max_message=100)])


class ConnectTests(CentrifugeTestCase):
    """The first command."""

    def test_connect(self) -> None:
        """A client learns the name of its connection, and how often pings come."""
        client = self.open()
        result = client.connect()
        self.assertRegex(result["client"], "[0-9a-f]{18}")
        self.assertTrue(result["version"].startswith("pushd "))
        self.assertEqual((result["ping"], result["pong"]), (25, True))
        self.assertNotIn("expires", result)
        self.assertEqual(client.error("connect"), 107)

    def test_first(self) -> None:
        """Before it has connected, a client may send nothing else."""
        for frame in ('{"id":1,"subscribe":{"channel":"a"}}', '{"connect":{}}', '{"id":1}'):
            client = self.open()
            client.browser.send(frame)
            assert client.browser.closing is not None
            self.assertEqual(client.browser.closing.code, 3501, frame)

    def test_stale(self) -> None:
        """A client that does not connect within 15 seconds is closed for good."""
        client = self.open()
        self.daemon.advance(14.9)
        self.assertFalse(client.browser.gone)
        self.daemon.advance(0.2)
        assert client.browser.closing is not None
        self.assertEqual(client.browser.closing.code, 3502)

    def test_unknown(self) -> None:
        """An unknown command, two at once, and remote procedures get errors of their own."""
        client = self.connect()
        self.assertEqual(client.error("dance"), 104)
        client.send({"id": 9, "ping": {}, "history": {"channel": "a"}})
        self.assertEqual(client.reply(9)["error"]["code"], 104)
        self.assertEqual(client.error("rpc", method="x"), 108)
        self.assertFalse(client.browser.gone)

    def test_many(self) -> None:
        """A frame may hold several commands, each in a line; those after a mistake are dropped."""
        client = self.connect()
        client.browser.send('{"id":7,"ping":{}}\n\n{"id":8,"subscribe":{"channel":"a"}}\n')
        self.assertEqual([one["id"] for one in client.heard()], [7, 8])
        client.browser.send('{"ping":{}}\n{"id":9,"subscribe":{"channel":"b"}}')
        self.assertEqual(client.heard(), [])
        self.assertTrue(client.browser.gone)

    def test_send(self) -> None:
        """A message that needs no reply is taken, and ignored."""
        client = self.connect()
        client.send({"send": {"data": 1}})
        self.assertEqual(client.heard(), [])
        self.assertFalse(client.browser.gone)


class PingTests(CentrifugeTestCase):
    """Pings of the server."""

    def test_pong(self) -> None:
        """A client that answers gets a ping every 25 seconds."""
        client = self.connect()
        for _ in range(3):
            self.daemon.advance(25)
            self.assertEqual(client.heard(), [{}])
            client.send({})
        self.assertFalse(client.browser.gone)

    def test_silent(self) -> None:
        """A client that sends nothing until the next ping is closed, and may come back."""
        client = self.connect()
        self.daemon.advance(25, 25)
        assert client.browser.closing is not None
        self.assertEqual(client.browser.closing.code, 3012)

    def test_slow(self) -> None:
        """While data waits for a client there is no ping, and no answer is expected."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        self.daemon.advance(24)
        client.browser.stall()
        self.publish("a", "x" * 500_000)
        self.daemon.advance(2)
        pings = client.browser.messages[:]
        client.browser.resume()
        self.daemon.advance(0)
        self.assertEqual(pings, [])
        self.assertEqual(len(client.pushes), 1)


class TokenTests(CentrifugeTestCase):
    """Tokens of connections."""

    def setUp(self) -> None:
        """Start a daemon that knows a key."""
        self.start(token_keys=secret_keys(), rules=Rules([Rule(match="free", subscribe="anyone")]))

    def code(self, client: Client) -> int | None:
        """Return the code with which a client was closed."""
        return None if client.browser.closing is None else client.browser.closing.code

    def test_expiry(self) -> None:
        """A client is told when to bring a fresh token; it has the leeway of tokens for that."""
        client = self.open()
        result = client.connect(token=sign({"sub": "ann", "exp": 100}))
        self.assertEqual((result["expires"], result["ttl"]), (True, 100))
        for _ in range(5):
            self.daemon.advance(24.9)
            client.send({})
        self.assertFalse(client.browser.gone)
        self.daemon.advance(6)
        self.assertEqual(self.code(client), 3005)

    def test_endless(self) -> None:
        """A token without exp never expires."""
        client = self.open()
        self.assertNotIn("expires", client.connect(token=sign({"sub": "ann"})))

    def test_expired(self) -> None:
        """A token that has expired is refused as such, and the client may try another one."""
        self.daemon.advance(200)
        client = self.open()
        self.assertEqual(client.error("connect", token=sign({"sub": "ann", "exp": 100})), 109)
        self.assertIn("client", client.connect(token=sign({"sub": "ann", "exp": 300})))

    def test_invalid(self) -> None:
        """A token that is not valid, or with channels that are not, ends the connection."""
        for bad, why in (
            ("x", "token is malformed"),
            (sign({"sub": "ann", "channels": ["a b"]}), "token's channels: topic must be"),
            (sign({"sub": "ann", "channels": "a"}), "token's channels must be a list"),
        ):
            client = self.open()
            self.assertEqual(client.tell("connect", token=bad), {})
            self.assertEqual(self.code(client), 3500)
            assert client.browser.closing is not None
            # The log has it, too, in the line of the connection's end.
            self.assertTrue(client.browser.closing.reason.startswith(f"invalid token: {why}"))

    def test_anonymous(self) -> None:
        """Without a token, a client may subscribe where anyone may."""
        client = self.connect()
        self.assertIn("epoch", client.ask("subscribe", channel="free"))
        self.assertEqual(client.error("subscribe", channel="other"), 103)

    def test_header(self) -> None:
        """The token may be in the query of the handshake, as for all other clients."""
        client = self.open(f"?token={token('ann', subscribe=['news'])}")
        self.assertIn("expires", client.connect())
        self.assertIn("epoch", client.ask("subscribe", channel="news"))

    def test_without_keys(self) -> None:
        """Without keys, tokens are ignored."""
        self.start()
        client = self.open()
        client.connect(token="x")
        self.assertIn("epoch", client.ask("subscribe", channel="a", token="x"))

    def test_refresh(self) -> None:
        """A fresh token lets the connection go on, and ends what it does not permit."""
        client = self.open()
        client.connect(token=token("ann", exp=100, subscribe=["a", "b"]))
        client.ask("subscribe", channel="a")
        client.ask("subscribe", channel="b")
        fresh = token("ann", exp=1000, subscribe=["b"])
        self.assertEqual(client.ask("refresh", token=fresh)["ttl"], 1000)
        [ended] = client.pushes
        self.assertEqual((ended["channel"], ended["unsubscribe"]["code"]), ("a", 2000))
        for _ in range(8):
            self.daemon.advance(25)
            client.send({})
        self.assertFalse(client.browser.gone)

    def test_refresh_mistakes(self) -> None:
        """A fresh token must be valid and of the same user; an expired one is an error."""
        self.daemon.advance(200)
        for bad, code in (("x", 3500), (sign({"sub": "bob"}), 3500)):
            client = self.connect(token=sign({"sub": "ann"}))
            client.tell("refresh", token=bad)
            self.assertEqual(self.code(client), code)
        client = self.connect(token=sign({"sub": "ann"}))
        self.assertEqual(client.error("refresh", token=sign({"sub": "ann", "exp": 100})), 109)
        for _ in range(9):
            client.tell("refresh", token=sign({"sub": "ann"}))
        self.assertEqual(client.error("refresh", token=sign({"sub": "ann"})), 111)

    def test_too_slow(self) -> None:
        """A client that cannot take what a fresh token changes is closed."""
        self.start(token_keys=secret_keys(), max_buffered=64 << 10)
        client = self.open()
        client.connect(token=token("ann", subscribe=["a", "b"]))
        client.ask("subscribe", channel="a")
        client.ask("subscribe", channel="b")
        client.browser.stall()
        for _ in range(20):
            self.publish("a", "x" * 20_000)
        client.send({"id": 9, "refresh": {"token": token("ann")}})
        client.browser.resume()
        self.daemon.advance(0)
        self.assertEqual(client.browser.closing, TRY_AGAIN_LATER)

    def test_listed(self) -> None:
        """Operators see the user, and the number of channels."""
        client = self.connect(token=token("ann", subscribe=["a"]))
        client.ask("subscribe", channel="a")
        [listed] = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual((listed["subject"], listed["topics"]), ("ann", 1))


class PublishTests(CentrifugeTestCase):
    """Publications of clients."""

    def setUp(self) -> None:
        """Let anyone publish."""
        self.start(rules=PUBLIC)

    def test_publish(self) -> None:
        """What a client publishes reaches all others, over every transport, with the same id."""
        client = self.connect()
        began = client.ask("subscribe", channel="a")
        other = self.daemon.connect("/topics/a?format=json", subprotocols=["pushd.v1"])
        self.assertEqual(client.ask("publish", channel="a", data={"x": [1, "é"]}), {})
        client.ask("publish", channel="a", data="text")
        one, two = client.pushes
        for push in (one, two):
            info = push["pub"].pop("info")
            self.assertEqual((info["user"], len(info["client"])), ("", 18))
        self.assertEqual(one["pub"], {"data": {"x": [1, "é"]}, "offset": 1})
        self.assertEqual(two["pub"], {"data": "text", "offset": 2})
        heard = [json.loads(message) for message in other.messages[1:]]
        self.assertEqual([said["data"] for said in heard], [{"x": [1, "é"]}, "text"])
        self.assertEqual([said["id"] for said in heard], [f"{began['epoch']}:{n}" for n in (1, 2)])

    def test_info(self) -> None:
        """Who publishes is told, also later; what a channel's own token says of it is preferred."""
        self.start(rules=PUBLIC, token_keys=secret_keys())
        client = self.open()
        name = client.connect(token=sign({"sub": "ann", "info": {"n": 1}}))["client"]
        client.ask("publish", channel="a", data=1)
        client.ask("subscribe", channel="a", token=sign({"sub": "ann", "channel": "a", "info": 2}))
        client.ask("publish", channel="a", data=2)
        page = client.ask("history", channel="a", limit=-1)["publications"]
        infos = [one["info"] for one in page]
        known = {"user": "ann", "client": name}
        self.assertEqual(infos, [{**known, "conn_info": {"n": 1}}, {**known, "conn_info": 2}])

    def test_wrong_info(self) -> None:
        """What is known of the client must be JSON."""
        self.start(rules=PUBLIC, token_keys=secret_keys())
        client = self.open()
        client.connect(token=sign({"sub": "ann", "info": float("nan")}))
        self.assertEqual(client.error("publish", channel="a", data=1), 107)

    def test_null(self) -> None:
        """Null is data."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        client.ask("publish", channel="a", data=None)
        self.assertEqual(client.pushes[0]["pub"]["data"], None)

    def test_mistakes(self) -> None:
        """A mistake has the code of its kind."""
        client = self.connect()
        for code, request in (
            (102, {"channel": "a b", "data": 1}),
            (102, {"data": 1}),
            (106, {"channel": "a", "data": "é" * 51}),
            (107, {"channel": "a"}),
            (107, {"channel": "a", "data": "\ud800"}),
            (107, {"channel": "a", "data": ["\ud800"]}),
            (108, {"channel": "a", "data": 1, "type": 1}),
        ):
            self.assertEqual(client.error("publish", **request), code, request)
        client.browser.send('{"id":99,"publish":{"channel":"a","data":1e999}}')
        self.assertEqual(client.reply(99)["error"]["code"], 107)

    def test_denied(self) -> None:
        """Unless a rule, a token or the authorizer permits it, clients cannot publish."""
        self.start()
        self.assertEqual(self.connect().error("publish", channel="a", data=1), 103)

    def test_unavailable(self) -> None:
        """If the broker cannot be reached, the client may try again."""

        def fail(*args: Any, **more: Any) -> Deferred[Any]:
            raise Unavailable("gone")

        self.patch(MemoryBroker, "publish_all", fail)
        reply = self.connect().tell("publish", channel="a", data=1)
        self.assertEqual((reply["error"]["code"], reply["error"]["temporary"]), (100, True))

    def test_failure(self) -> None:
        """An error of our own is logged, and costs the client one command."""

        def fail(*args: Any, **more: Any) -> None:
            raise ZeroDivisionError

        self.patch(MemoryBroker, "publish_all", fail)
        client = self.connect()
        with capturedLogs() as logs:
            self.assertEqual(client.error("publish", channel="a", data=1), 100)
        [failed] = [one for one in logs if one.get("event") == "command_failed"]
        self.assertEqual(failed["connection"], 1)
        self.assertEqual(client.ask("ping"), {})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class LimitTests(CentrifugeTestCase):
    """Limits, and the end of the daemon."""

    def test_rate(self) -> None:
        """Commands count, not frames."""
        self.start(limits=Limits(max_rate=1))
        client = self.connect()
        client.send(*[{"id": number, "ping": {}} for number in range(1, 10)])
        self.assertEqual(len(client.heard()), 9)
        client.send(*[{"id": number, "ping": {}} for number in range(1, 10)])
        assert client.browser.closing is not None
        self.assertEqual(client.browser.closing.code, 3013)

    def test_waiting(self) -> None:
        """Commands that wait for the authorizer are limited; the end cancels them."""
        asked: list[Deferred[bool]] = []

        async def authorize(request: Any, action: str, topic: str) -> bool:
            asked.append(Deferred())
            return await asked[-1]

        self.start(authorize=authorize, limits=Limits(max_topics=1))
        client = self.connect()
        for _ in range(65):
            self.assertEqual(client.tell("history", channel="a"), {})
        self.assertEqual(client.error("history", channel="a"), 111)
        client.browser.leave()
        self.assertTrue(all(one.called for one in asked))
        self.assertEqual(len(asked), 65)

    def test_stop(self) -> None:
        """A daemon that stops tells clients to come back."""
        client = self.connect()
        self.daemon.begin_stop()
        assert client.browser.closing is not None
        self.assertEqual(client.browser.closing.code, 3001)
        self.assertNotEqual(client.browser.closing, GOING_AWAY)

    def test_connecting(self) -> None:
        """No other command is taken while the first one is being answered."""
        waiting: list[Deferred[Any]] = []

        def replay(*args: Any) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.start(token_keys=secret_keys())
        self.patch(MemoryBroker, "replay", replay)
        client = self.open()
        client.tell("connect", token=sign({"sub": "ann", "channels": ["a"]}))
        client.send({"id": 2, "ping": {}})
        assert client.browser.closing is not None
        self.assertEqual(client.browser.closing.code, 3501)

    def test_failed_connect(self) -> None:
        """A client whose first command failed can send it again."""
        calls = 0
        replay = MemoryBroker.replay

        def fail(*args: Any) -> Deferred[Any]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise Unavailable("gone")
            return replay(*args)

        self.start(token_keys=secret_keys())
        self.patch(MemoryBroker, "replay", fail)
        client = self.open()
        request = {"token": sign({"sub": "ann", "channels": ["a"]})}
        self.assertEqual(client.error("connect", **request), 100)
        self.assertIn("a", client.connect(**request)["subs"])


class NameTests(CentrifugeTestCase):
    """Names."""

    def test_names(self) -> None:
        """Each connection has a name of its own, under which its presence is known."""
        self.start(rules=Rules([Rule(match="**", presence=True)]))
        one, two = self.open(), self.open()
        names = {one.connect()["client"], two.connect()["client"]}
        one.ask("subscribe", channel="a")
        two.ask("subscribe", channel="a")
        self.assertEqual(set(one.ask("presence", channel="a")["presence"]), names)
