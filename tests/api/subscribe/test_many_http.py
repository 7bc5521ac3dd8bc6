"""Many topics over one event stream or poll: what is sent, at whose pace, and from where."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushd.access.closing import GOING_AWAY
from pushd.access.limits import Limits
from pushd.api.subscribe import longpoll
from pushd.api.subscribe.many_http import ManyEventStream, ManyLongPoll, _item, _TopicItems
from pushd.schedule.turns import Turns
from pushd.topics import fanout
from pushd.topics.history import Retention
from pushd.topics.publication import Id
from pushd.topics.rules import Rule, Rules
from pushd.views import NotPermitted, Permission
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.keyring import secret_keys, token
from tests.support.many_clients import ManyPolls, ManySse, connect_many
from tests.support.topic_clients import TopicTestCase

_MIB = 1 << 20


class StreamTests(TopicTestCase):
    """One event stream with several topics."""

    def test_events(self) -> None:
        """Each topic begins; each publication names its topic, and its id is a cursor."""
        stream = ManySse(self.daemon, "topic=a&topic=b")
        self.assertEqual([one["subscribed"] for one in stream.take()], ["a", "b"])
        first = self.publish("a", "x\ny")
        second = self.publish("b", b"\0")
        self.publish("c", "other")
        third = self.publish("b", "[1]", event="paid", is_json=True)
        self.assertEqual(
            stream.take(),
            [
                {"topic": "a", "id": first, "data": "x\ny"},
                {"topic": "b", "id": second, "base64": "AA=="},
                {"topic": "b", "id": third, "event": "paid", "data": "[1]"},
            ],
        )
        self.assertEqual(stream.kinds[2:], ["message", "message", "paid"])
        cursor = stream.cursor
        assert cursor is not None
        self.assertLess(len(cursor), 48)
        stream.leave()
        self.publish("a", "later")
        again = ManySse(self.daemon, "topic=a&topic=b", {"Last-Event-ID": cursor})
        began = again.take()
        self.assertEqual([one.get("recovered") for one in began], [True, None, True])
        self.assertEqual(began[1]["data"], "later")

    def test_burst(self) -> None:
        """Publications that are delivered together have a cursor each."""
        stream = ManySse(self.daemon, "topic=a&topic=b&envelope=1&format=json")
        stream.take()
        ids = self.publish_many("a", ["1", "2", "3"])
        self.assertEqual([one["id"] for one in stream.take()], ids)

    def test_short_for_many(self) -> None:
        """A hundred topics have a cursor of the same length as one."""
        query = "&".join(f"topic=t{number}" for number in range(100))
        stream = ManySse(self.daemon, query)
        for number in range(0, 100, 7):
            self.publish(f"t{number}", "x")
        stream.take()
        assert stream.cursor is not None
        self.assertLess(len(stream.cursor), 48)

    def test_heartbeat(self) -> None:
        """A heartbeat precedes all, and replaces the comments."""
        stream = ManySse(self.daemon, "topic=a&heartbeat=5")
        self.assertEqual(stream.take()[0], 5)
        self.daemon.advance(5)
        self.assertEqual(stream.take(), [5])
        self.assertEqual(stream.kinds[0], "heartbeat")

    def test_slow(self) -> None:
        """A client that stops reading gets all topics from the history once it reads again."""
        self.start(limits=Limits(max_buffered=64 << 10))
        stream = ManySse(self.daemon, "topic=a&topic=b")
        stream.take()
        stream.stall()
        expected = []
        for number in range(40):
            topic = "ab"[number % 2]
            self.publish(topic, f"{number:04}" + "x" * 20_000)
            expected.append((topic, number))
        stream.resume()
        got = [(one["topic"], int(one["data"][:4])) for one in stream.take()]
        for topic in "ab":
            self.assertEqual(
                [one for one in got if one[0] == topic],
                [one for one in expected if one[0] == topic],
            )
        # Both were read in turns, not one after the other.
        halves = [topic for topic, _ in got[:30]]
        self.assertGreater(halves.count("a"), 4)
        self.assertGreater(halves.count("b"), 4)

    def test_too_slow(self) -> None:
        """A client that takes nothing is cut off."""
        self.start(limits=Limits(max_buffered=64 << 10))
        stream = ManySse(self.daemon, "topic=a&topic=b")
        stream.stall()
        for _ in range(10):
            self.publish("a", "x" * 60_000)
        self.daemon.advance(*[5] * 20)
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_revoked_while_slow(self) -> None:
        """A client that cannot take the news that its topics are revoked is cut off."""
        self.start(limits=Limits(max_buffered=5000))
        stream = ManySse(self.daemon, "&".join(f"topic=t/{number}" for number in range(30)))
        stream.take()
        stream.stall()
        self.publish("t/0", "x" * 4000)
        answer = self.control("DELETE", "/subscriptions?topic=t/**")
        self.assertEqual(json.loads(answer.body), {"ended": 30})
        self.assertEqual(self.describe("t/0")["subscribers"], {})

    def test_end(self) -> None:
        """When the client leaves, no subscription is left."""
        stream = ManySse(self.daemon, "topic=a&topic=b")
        self.assertEqual(self.describe("a")["subscribers"], {"sse": 1})
        stream.leave()
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_presence(self) -> None:
        """With presence, the stream tells who is present at those topics that have it."""
        self.start(rules=Rules([Rule(match="room", presence=True)]))
        stream = ManySse(self.daemon, "topic=room&topic=a&presence=1&client=one")
        stream.take()
        self.daemon.advance(1)
        other = ManySse(self.daemon, "topic=room&client=two")
        self.daemon.advance(1)
        stream.take()
        self.assertIn("joined", stream.kinds)
        other.leave()
        self.daemon.advance(10)
        stream.take()
        self.assertIn("left", stream.kinds)
        poll = self.daemon.get("/topics?topic=room&topic=a&presence=1&wait=0")
        assert poll is not None
        self.assertEqual(list(json.loads(poll.body)["presence"]["topics"]), ["room"])

    def test_token(self) -> None:
        """A stream ends when its token expires."""
        self.start(token_keys=secret_keys())
        stream = ManySse(self.daemon, f"topic=a&token={token(subscribe=['a'], exp=10)}")
        self.assertFalse(stream.ended)
        self.daemon.advance(10)
        self.assertTrue(stream.ended)


class AuthorizedTests(TopicTestCase):
    """An authorizer decides topic by topic."""

    def setUp(self) -> None:
        """Start a daemon whose authorizer can be slow."""
        self.asked: list[tuple[str, Deferred[Any]]] = []
        self.start(authorize=self.authorize)

    async def authorize(self, request: Any, action: str, topic: str) -> Any:
        """Permit as the topic's name says."""
        if topic == "no":
            return False
        if topic == "never":
            raise NotPermitted("never")
        if topic == "slow":
            slow: Deferred[Any] = Deferred()
            self.asked.append((topic, slow))
            return await slow
        if topic == "short":
            return Permission(subject="ann", until=self.daemon.clock.seconds() + 5)
        return Permission(subject="ann")

    def test_http(self) -> None:
        """One topic that is not permitted refuses the request."""
        answer = self.daemon.get("/topics?topic=a&topic=no&wait=0")
        assert answer is not None
        self.assertEqual(answer.status, 403)
        self.assertEqual(ManyPolls(self.daemon, "topic=a&topic=b").take(), [])
        stream = ManySse(self.daemon, "topic=a&topic=short")
        self.daemon.advance(5)
        self.assertTrue(stream.ended)

    def test_slow(self) -> None:
        """A request waits for the authorizer; a client that leaves meanwhile is forgotten."""
        stream = ManySse(self.daemon, "topic=a&topic=slow")
        self.assertEqual(stream.take(), [])
        self.asked.pop()[1].callback(True)
        self.daemon.advance(0)
        self.assertEqual([one["subscribed"] for one in stream.take()], ["a", "slow"])
        ManySse(self.daemon, "topic=a&topic=slow").leave()

    def test_websocket(self) -> None:
        """On a WebSocket each topic is decided apart, and ends with its permission."""
        browser = connect_many(self.daemon)
        for topic in ("no", "never", "slow", "short", "a"):
            browser.send(json.dumps({"subscribe": topic}))
        heard = [json.loads(message) for message in browser.messages]
        self.assertEqual([one.get("topic") for one in heard[:2]], ["no", "never"])
        self.assertEqual([one.get("subscribed") for one in heard[2:]], ["short", "a"])
        browser.messages.clear()
        browser.send(json.dumps({"subscribe": "slow"}))
        browser.send(json.dumps({"unsubscribe": "slow"}))
        heard = [json.loads(message) for message in browser.messages]
        self.assertEqual(heard[0]["where"], "subscribe")
        self.assertEqual(heard[1], {"unsubscribed": "slow"})
        browser.messages.clear()
        self.daemon.advance(5)
        reason = "permission expired"
        self.assertEqual(
            [json.loads(message) for message in browser.messages],
            [{"unsubscribed": "short", "reason": reason}],
        )
        [listed] = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual((listed["topics"], listed["subject"]), (1, "ann"))

    def test_revoke(self) -> None:
        """Revoking ends single topics, over every transport."""
        browser = connect_many(self.daemon, "?topic=a&topic=b")
        stream = ManySse(self.daemon, "topic=a&topic=b")
        alone = ManySse(self.daemon, "topic=a")
        stream.take()
        browser.messages.clear()
        self.assertIsNone(self.daemon.get("/topics?topic=a&topic=c&wait=9"))
        answer = self.control("DELETE", "/subscriptions?topic=a")
        self.assertEqual(json.loads(answer.body), {"ended": 4})
        told = {"unsubscribed": "a", "reason": "permission revoked"}
        self.assertEqual([json.loads(message) for message in browser.messages], [told])
        self.assertEqual(stream.take(), [told])
        self.assertTrue(alone.ended)
        self.assertFalse(stream.ended)
        id = self.publish("b", "on")
        self.assertEqual(stream.take(), [{"topic": "b", "id": id, "data": "on"}])


class InterleavingTests(TopicTestCase):
    """Whatever happens in between, each topic arrives whole, and once."""

    @NO_DEADLINE
    @given(st.data())
    def test_resume(self, data: st.DataObject) -> None:
        """Clients change their topics and transports, and lose nothing."""
        names = ("a", "b", "c")
        daemon = self.start(retention=Retention(size=1000))
        published: dict[str, list[str]] = {name: [] for name in names}
        got: dict[str, list[str]] = {name: [] for name in names}
        client: ManySse | ManyPolls | None = None
        cursor: str | None = None
        query = "&".join(f"topic={name}" for name in names)
        # From here on, nothing may be missing.
        client = ManyPolls(daemon, query)
        client.take()
        for _ in range(data.draw(st.integers(3, 25))):
            step = data.draw(st.sampled_from(("publish", "burst", "take", "sse", "poll", "stall")))
            if step == "publish":
                name = data.draw(st.sampled_from(names))
                published[name].append(self.publish(name, "x"))
            elif step == "burst":
                drafts = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=6))
                body = {"publications": [{"topic": name, "data": "y"} for name in drafts]}
                answer = self.control("POST", "/publish", json.dumps(body).encode())
                ids = [one["id"] for one in json.loads(answer.body)["published"]]
                for name, id in zip(drafts, ids, strict=True):
                    published[name].append(id)
            elif step == "stall" and isinstance(client, ManySse):
                client.stall()
                client.resume()
            else:
                for one in client.take():
                    if "topic" in one:
                        got[one["topic"]].append(one["id"])
                    else:
                        self.assertTrue(one["recovered"])
                cursor = client.cursor
                if step in ("sse", "poll") and isinstance(client, ManySse):
                    client.leave()
                if step == "sse":
                    client = ManySse(daemon, f"{query}&after={cursor}")
                elif step == "poll":
                    client = ManyPolls(daemon, query, cursor)
        for one in client.take():
            if "topic" in one:
                got[one["topic"]].append(one["id"])
        self.assertEqual(got, published)
        daemon.stop()


class DependencyTests(TopicTestCase):
    """What happens while a broker takes its time, and when history is lost."""

    def setUp(self) -> None:
        """Start a daemon whose broker can hold back what it reads."""
        super().setUp()
        self.held: list[tuple[Deferred[Any], Any]] = []
        self.holds = False
        self.hold("replay")
        self.hold("locate")

    def hold(self, name: str) -> None:
        """Let a method of the broker answer later, if that is wanted."""
        broker: Any = self.daemon._service._broker
        method = getattr(broker, name)

        def held(*args: Any) -> Deferred[Any]:
            if not self.holds:
                return cast(Deferred[Any], method(*args))
            waiting: Deferred[Any] = Deferred()
            self.held.append((waiting, lambda: method(*args)))
            return waiting

        self.patch(broker, name, held)

    def go_on(self) -> None:
        """Answer what was held back."""
        self.holds = False
        held, self.held = self.held, []
        for waiting, call in held:
            if not waiting.called:
                call().chainDeferred(waiting)
        self.daemon.advance(0)

    def test_poll_until_all_have_begun(self) -> None:
        """A poll is answered once it is known of each topic where it begins."""
        cursor = ManyPolls(self.daemon, "topic=a&topic=b")
        cursor.take()
        self.publish("a", "x")
        self.holds = True
        connection = self.daemon.open_connection()
        query = f"topic=a&topic=b&after={cursor.cursor}"
        connection.send(f"GET /topics?{query} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n".encode())
        self.holds = False
        waiting, call = self.held.pop()
        self.holds = True
        call().chainDeferred(waiting)  # The ids are known; now the history is read.
        (first, read_first), (second, read_second) = self.held
        self.holds = False
        read_first().chainDeferred(first)
        self.assertEqual(connection.received, b"")
        read_second().chainDeferred(second)
        self.daemon.advance(0)
        self.assertIn(b'"data":"x"', connection.received)

    def test_poll_unavailable(self) -> None:
        """A poll that cannot be begun in time is answered with 503."""
        self.holds = True
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics?topic=a&wait=1 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.daemon.advance(10)
        self.assertIn(b" 503 ", connection.received)

    def test_client_leaves(self) -> None:
        """A client that leaves while its cursor is looked up is forgotten."""
        cursor = ManyPolls(self.daemon, "topic=a")
        cursor.take()
        for query in (f"topic=a&after={cursor.cursor}",):
            self.holds = True
            ManySse(self.daemon, query).leave()
            self.go_on()
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_stop_meanwhile(self) -> None:
        """A daemon that stops while the authorizer is asked refuses the request."""
        asked: list[Deferred[Any]] = []

        async def authorize(request: Any, action: str, topic: str) -> Any:
            asked.append(Deferred())
            return await asked[-1]

        self.start(authorize=authorize, drain=5)
        stream = ManySse(self.daemon, "topic=a")
        connect_many(self.daemon)
        connections = self.daemon._service.connections
        connections.stop_accepting(GOING_AWAY)
        asked[0].callback(True)
        self.daemon.advance(0)
        self.assertIn(" 503 ", stream.head + stream.connection.received.decode())
        connections.closing = None

    def test_gap(self) -> None:
        """If the history no longer holds what a client needs, the connection ends."""
        self.keep(size=2, max_buffered=8 << 10)
        stream = ManySse(self.daemon, "topic=a&topic=b")
        stream.stall()
        for _ in range(60):
            self.publish("a", "x" * 7_000)
        stream.resume()
        stream.take()
        self.assertTrue(stream.gone)

    def test_lost_at_a_gap(self) -> None:
        """When publications were lost, streams and polls end, to begin again."""
        stream = ManySse(self.daemon, "topic=a&topic=b")
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics?topic=a&topic=b HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        broker: Any = self.daemon._service._broker
        broker._deliver.__self__.end_at_gap("a", Id("other", 7))
        self.daemon.advance(0)
        self.assertTrue(stream.ended)
        self.assertIn(b" 200 ", connection.received)

    def test_listed(self) -> None:
        """Operators see how many topics a stream and a poll have."""
        ManySse(self.daemon, "topic=a&topic=b")
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics?topic=a HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        listed = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual([one["topics"] for one in listed], [2, 1])

    def test_full_poll(self) -> None:
        """A poll takes no more than is enough; the next one gets the rest."""
        self.patch(longpoll, "_ENOUGH", 1000)
        self.patch(fanout, "_PIECE_SIZE", 0)
        polls = ManyPolls(self.daemon, "topic=a&topic=b")
        polls.take()
        for _ in range(3):
            for topic in ("a", "b"):
                self.publish(topic, "x" * 500)
        got = [one["topic"] for one in polls.take()]
        self.assertEqual(got, ["a", "a"])
        # What is behind comes first in the next one.
        self.publish("a", "more")
        got += (second := [one["topic"] for one in polls.take()])
        self.assertEqual(second[0], "b")
        while more := polls.take():
            got += [one["topic"] for one in more]
        self.assertEqual(sorted(got), ["a"] * 4 + ["b"] * 3)

    def test_websocket_closes_meanwhile(self) -> None:
        """A client that closes while a topic is looked up is forgotten."""
        cursor = ManyPolls(self.daemon, "topic=a")
        cursor.take()
        browser = connect_many(self.daemon)
        self.holds = True
        browser.send(json.dumps({"subscribe": "a", "after": cursor.cursor}))
        browser.close()
        self.go_on()
        self.assertEqual(self.describe("a")["subscribers"], {})

    def test_broken(self) -> None:
        """An error of our own ends one topic, with a log line."""
        browser = connect_many(self.daemon)
        self.patch(self.daemon._service._broker, "locate", lambda *args: 1 / 0)
        browser.send(json.dumps({"subscribe": "a", "after": "g.1"}))
        [heard] = [json.loads(message) for message in browser.messages]
        self.assertEqual(
            heard, {"error": "internal error", "where": "subscribe", "code": 500, "topic": "a"}
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_first_topic_ends_all(self) -> None:
        """If a stream ends as its first topic begins, the others are not subscribed to."""
        self.start(rules=Rules([Rule(match="*", presence=True)]))
        send = ManyEventStream.send_event

        def send_and_end(stream: ManyEventStream, data: bytes, count: int) -> None:
            send(stream, data, count)
            stream.close_with(GOING_AWAY)

        self.patch(ManyEventStream, "send_event", send_and_end)
        stream = ManySse(self.daemon, "topic=a&topic=b&presence=1")
        self.assertEqual([one["subscribed"] for one in stream.take()], ["a"])
        self.assertTrue(stream.ended)
        self.assertEqual(self.describe("b")["subscribers"], {})

    def test_first_topic_answers_poll(self) -> None:
        """If a poll is answered as its first topic begins, the others are not subscribed to."""
        begin = ManyLongPoll.begin_topic

        def begin_and_close(poll: ManyLongPoll, topic: str, id: Id, recovered: bool) -> None:
            begin(poll, topic, id, recovered)
            poll.close_with(GOING_AWAY)

        self.patch(ManyLongPoll, "begin_topic", begin_and_close)
        answer = self.daemon.get("/topics?topic=a&topic=b")
        assert answer is not None
        self.assertEqual(answer.status, 503)

    def test_stalled_from_the_start(self) -> None:
        """Topics begin as soon as the client reads, and presence is told then."""
        self.start(rules=Rules([Rule(match="b", presence=True)]), max_buffered=64 << 10)
        polls = ManyPolls(self.daemon, "topic=a&topic=b")
        polls.take()
        for _ in range(20):
            self.publish("a", "x" * 20_000)
            self.publish("b", "y" * 20_000)
        query = f"topic=a&topic=b&presence=1&client=one&after={polls.cursor}"
        stream = ManySse(self.daemon, query)
        stream.stall()
        other = ManySse(self.daemon, "topic=b&client=two")
        self.daemon.advance(1)
        for _ in range(20):
            self.publish("a", "x" * 20_000)
        stream.resume()
        self.daemon.advance(1)
        heard = [one.get("topic") for one in stream.take()]
        self.assertEqual((heard.count("a"), heard.count("b")), (40, 20))
        self.assertIn("presence", stream.kinds)
        other.leave()
        stream.leave()
        self.daemon.advance(10)

    def test_revoke_with_presence(self) -> None:
        """With a subscription, its presence ends, too, on every transport."""
        self.start(rules=Rules([Rule(match="*", presence=True)]))
        stream = ManySse(self.daemon, "topic=a&topic=b&presence=1&client=one")
        browser = connect_many(self.daemon, "?client=two")
        browser.send(json.dumps({"subscribe": "a", "presence": True}))
        self.daemon.advance(1)
        self.control("DELETE", "/subscriptions?topic=a")
        stream.take()
        browser.messages.clear()
        ManySse(self.daemon, "topic=a&client=three")
        self.daemon.advance(10)
        self.assertEqual(stream.take(), [])
        self.assertEqual(browser.messages, [])

    def test_full_at_once(self) -> None:
        """What is published while a poll is full waits for the next one."""
        self.patch(longpoll, "_ENOUGH", 10)
        polls = ManyPolls(self.daemon, "topic=a&topic=b")
        polls.take()
        connection = self.daemon.open_connection()
        query = f"topic=a&topic=b&after={polls.cursor}"
        connection.send(f"GET /topics?{query} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n".encode())
        for _ in range(2):
            self.publish_many("a", ["x", "x"])
        self.publish_many("b", ["y"] * 3)
        self.daemon.advance(0)
        [body] = connection.received.split(b"\r\n\r\n")[1:]
        answer = json.loads(body)
        polls.cursor = answer["id"]
        got = answer["publications"]
        while more := polls.take():
            got += more
        self.assertEqual(sorted(one["topic"] for one in got), ["a"] * 4 + ["b"] * 3)

    def test_no_more_room(self) -> None:
        """A full poll cannot take what comes; its client takes the answer as a whole."""
        request: Any = None
        poll = ManyLongPoll(request, Clock(), Turns(Clock()), 1, None, format_json=False)
        self.patch(longpoll, "_ENOUGH", 0)
        tracker: Any = None
        items = _TopicItems(poll, tracker, partial(_item, format_json=False))
        self.assertTrue(items.keeps_up())  # Until it has begun.
        items.stop()
        self.assertFalse(items.keeps_up())
        self.assertEqual(items.taken, 0)
        self.assertEqual(poll.end_subscriptions(lambda topic: True, GOING_AWAY), 0)
