"""Followed topics: kept in sync with Redis, and kept from expiring."""

from __future__ import annotations

from twisted.logger import capturedLogs

from pushd.errors import RedisError
from pushd.topics.cursor import UNKNOWN, Cursor
from pushd.topics.publication import Id, Publication
from tests.support.broker_contract import RecordingSubscriber
from tests.support.fake_redis import GENERATION
from tests.topics.redis.test_broker import BrokerTestCase


class FollowingTests(BrokerTestCase):
    """Topics are followed, receive messages, and are unfollowed."""

    def test_one_subscription(self) -> None:
        """A node subscribes to a channel once, from the first subscriber of a topic to the last."""
        node = self.start()
        first, second = node.listen("t"), node.listen("t")
        self.assertEqual(self.redis.sessions[0].channels, [b"pushd:0:t"])
        for subscriber in (first, second):
            assert subscriber.subscription is not None
            subscriber.subscription.cancel()
        self.assertEqual(self.redis.sessions[0].channels, [])

    def test_broker_reads_first(self) -> None:
        """Subscribers read the history after the broker, or they could miss what is in between."""
        node = self.start()
        self.redis.late = True
        subscriber = node.listen("t", after="e0-0:0")
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(self.redis.asked, ["replay"])
        self.redis.publish("t", "a")
        self.redis.answer()
        self.assertEqual(subscriber.events, [("e0-0:0", True), ("e0-0:1", "a")])

    def test_unfollowed_in_each_step(self) -> None:
        """A topic that is unfollowed before Redis has answered is not subscribed to any more."""
        for steps in range(3):
            with self.subTest(steps):
                self.setUp()
                node = self.start()
                self.redis.late = True
                subscriber = node.listen("t")
                for _ in range(steps):
                    waiting, answer = self.redis.waiting.popleft()
                    waiting.callback(answer)
                assert subscriber.subscription is not None
                subscriber.subscription.cancel()
                self.redis.answer()
                self.assertEqual(subscriber.events, [("e0-0:0", False)] if steps > 1 else [])
                self.assertEqual(self.redis.sessions[0].channels, [])
                self.stop()

    def test_gap(self) -> None:
        """A publication whose message was lost is read when the next message comes."""
        subscriber = self.start().listen("t")
        self.redis.silent = True
        self.redis.publish("t", "a")
        self.redis.silent = False
        self.redis.publish("t", "b")
        self.assertEqual([data for _, data in subscriber.events[1:]], ["a", "b"])

    def test_unexpected_messages(self) -> None:
        """A malformed message is logged and ignored; other unexpected ones are ignored."""
        node = self.start()
        subscriber = node.listen("t")
        with capturedLogs() as events:
            self.redis.sessions[0].on_message(b"pushd:0:t", b"hello")
        self.assertEqual(len(events), 1)
        self.redis.sessions[0].on_message(b"pushd:0:another", b"e0-0:1 tx")
        self.redis.send(Publication("t", "again", Id("e0-0", 0)))
        self.assertEqual(len(subscriber.events), 1)

    def test_refused(self) -> None:
        """A topic that Redis returned an error for is retried every second, with few log lines."""
        node = self.start()
        self.redis.refusal = "OOM"
        with capturedLogs() as events:
            subscriber = node.listen("t", "e0-0:0")
            node.listen("u")
            self.clock.advance(1)
        self.assertEqual([event["error"] for event in events], ["OOM"])
        self.assertEqual(subscriber.events, [])
        with capturedLogs() as events:
            self.clock.pump([1] * 10)
        self.assertEqual([event["error"] for event in events], ["OOM"])
        self.redis.refusal = None
        self.clock.advance(1)
        self.assertEqual(subscriber.events, [("e0-0:0", True)])
        self.redis.refusal = "OOM"
        self.assertEqual(node.listen("t", "e0-0:9").events, ["lost"])

    def test_refused_and_unfollowed(self) -> None:
        """A topic that is unfollowed after an error is not retried."""
        node = self.start()
        self.redis.late = True
        subscriber = node.listen("t")
        waiting, answer = self.redis.waiting.popleft()
        self.redis.refusal = "OOM"
        waiting.callback(answer)
        assert subscriber.subscription is not None
        subscriber.subscription.cancel()
        self.redis.answer()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_many_topics(self) -> None:
        """At most 64 topics catch up at the same time, and all of them do in the end."""
        node = self.start()
        subscribers = [node.listen(f"t{number}") for number in range(200)]
        self.redis.lose()
        ids = [str(self.redis.publish(f"t{number}", "x")) for number in range(200)]
        self.redis.late = True
        self.reconnect()
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(len(self.redis.waiting), 64)
        self.redis.answer()
        self.assertEqual([one.events[-1] for one in subscribers], [(id, "x") for id in ids])


class TouchingTests(BrokerTestCase):
    """The expiry of followed topics is renewed."""

    def listen(self) -> RecordingSubscriber:
        """Subscribe, and clear the record of commands."""
        subscriber = self.start().listen("t")
        self.redis.asked.clear()
        return subscriber

    def test_touched(self) -> None:
        """It is renewed every 200 seconds, for up to 500 topics at a time."""
        node = self.start()
        for number in range(501):
            node.listen(f"t{number}")
        self.redis.asked.clear()
        self.clock.advance(199)
        self.assertEqual(self.redis.asked, [])
        self.clock.advance(1)
        self.assertEqual(self.redis.asked, ["touch"] * 2)
        self.clock.advance(200)
        self.assertEqual(self.redis.asked, ["touch"] * 4)

    def test_last_message_lost(self) -> None:
        """A lost message that no other follows is found when the expiry is renewed."""
        subscriber = self.listen()
        self.redis.silent = True
        id = str(self.redis.publish("t", "a"))
        self.clock.advance(200)
        self.assertEqual(subscriber.events[1:], [(id, "a")])

    def test_data_lost(self) -> None:
        """That Redis has lost all data is found when the expiry is renewed."""
        subscriber = self.listen()
        self.redis.history.stop()
        self.redis.ids.clear()
        self.redis.sessions.append(self.redis.sessions[0])
        self.redis.forget()
        self.clock.advance(200)
        self.assertEqual(subscriber.events[1:], ["lost"])

    def test_refused(self) -> None:
        """After an error or a lost session it is renewed at the next interval."""
        self.listen()
        self.redis.refusal = "OOM"
        self.clock.advance(200)
        self.redis.refusal = None
        self.redis.late = True
        self.clock.advance(200)
        self.redis.lose()
        self.reconnect()
        self.clock.advance(200)
        self.assertEqual(self.redis.asked.count("touch"), 3)

    def test_unfollowed_meanwhile(self) -> None:
        """A topic that is unfollowed while its expiry is renewed does not catch up."""
        subscriber = self.listen()
        self.redis.silent = self.redis.late = True
        self.redis.publish("t", "a")
        self.clock.advance(200)
        assert subscriber.subscription is not None
        subscriber.subscription.cancel()
        self.redis.answer()
        self.assertEqual(self.redis.asked, ["touch"])


class SettledTests(BrokerTestCase):
    """Up to which number everything was delivered."""

    def check(self, settled: int, newest: dict[str, int]) -> None:
        """Check what is settled, and what may have been read of some topics."""
        self.assertEqual(self.broker.settled, settled)
        self.assertEqual({topic: self.broker.newest(topic) for topic in newest}, newest)

    def test_messages(self) -> None:
        """It is the number of the last message, of whatever topic; others are not seen."""
        node = self.start()
        node.listen("t")
        node.listen("u")
        for topic in "tuvtv":
            self.redis.publish(topic, "x")
        self.check(4, {"t": 4, "u": 4, "v": 4})

    def test_read(self) -> None:
        """What was read before any message came is newer than what is settled."""
        self.redis.publish("t", "x")
        self.redis.publish("u", "x")
        node = self.start()
        node.listen("t")
        self.check(0, {"t": 1, "u": 0})
        node.listen("u")
        self.redis.publish("t", "x")
        self.check(3, {"t": 3, "u": 3})

    def test_lagging(self) -> None:
        """It does not move while a topic lacks something, and does so once all have caught up."""
        node = self.start()
        for topic in "tu":
            node.listen(topic)
            self.redis.publish(topic, "x")
        self.redis.silent = True
        self.redis.publish("t", "missed")
        self.redis.silent, self.redis.late = False, True
        self.redis.publish("t", "shows it")
        self.redis.publish("u", "x")
        self.check(2, {"t": 5})
        self.redis.answer()
        self.check(5, {"t": 5})

    def test_reconnected(self) -> None:
        """Nor does it while topics are read again after a lost connection."""
        node = self.start()
        for topic in "tu":
            node.listen(topic)
            self.redis.publish(topic, "x")
        self.redis.lose()
        self.redis.publish("t", "missed")
        self.redis.late = True
        self.reconnect()
        # The session, and the subscriptions to both channels.
        for _ in range(3):
            self.redis.waiting[0][0].callback(self.redis.waiting.popleft()[1])
        self.redis.publish("u", "x")
        self.check(2, {"t": 4})
        self.redis.answer()
        self.check(4, {"t": 4})

    def test_unfollowed(self) -> None:
        """A topic without subscribers does not matter, whatever it lacks."""
        node = self.start()
        subscribers = [node.listen(topic) for topic in "tu"]
        self.redis.silent = True
        self.redis.publish("t", "missed")
        self.redis.silent, self.redis.late = False, True
        self.redis.publish("t", "shows it")
        self.redis.publish("u", "x")
        self.check(0, {})
        assert subscribers[0].subscription is not None
        subscribers[0].subscription.cancel()
        self.check(3, {})
        self.redis.answer()

    def test_touched(self) -> None:
        """A topic whose last message was lost lags from the time that this is known."""
        node = self.start()
        node.listen("t")
        self.redis.silent = True
        self.redis.publish("t", "missed")
        self.redis.silent = False
        self.redis.late = True
        self.clock.advance(200)
        # The answer to the comparison; then the history is read.
        self.redis.waiting[0][0].callback(self.redis.waiting.popleft()[1])
        (followed,) = self.broker._sync
        self.assertTrue(followed.lags)
        self.redis.answer()
        self.assertFalse(followed.lags)

    def test_new_generation(self) -> None:
        """When the generation changes, numbers may begin anew."""
        node = self.start()
        node.listen("t")
        self.redis.publish("t", "x")
        self.check(1, {"t": 1})
        self.broker._commands.generation = "former"
        self.redis.lose()
        self.reconnect()
        self.check(0, {})
        self.assertEqual(self.broker.generation, GENERATION)

    def test_unknown_generation(self) -> None:
        """Until the generation is known, cursors have none, and are not recovered."""
        self.redis.settling = RedisError("ERR")
        self.start()
        self.assertEqual(self.broker.generation, UNKNOWN)
        self.publish("t")
        cursor = Cursor(self.broker.generation, 1)
        self.assertEqual(self.successResultOf(self.broker.locate(["t"], cursor)), [None])
